"""A file system that fails where a run ends: unlink, the error's own line, the loading of modules."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import normcli
from normcli.errors import NormcliError, OutputError
from normcli.runs.names import WORK
from tests.support import needs
from tests.support.command import ENVIRONMENT, Run
from tests.support.images import encoded, photograph
from tests.support.outputs import tree


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.png").write_bytes(encoded(photograph(8, 8, seed=number)))
    return tmp_path / "in"


def failing(monkeypatch: pytest.MonkeyPatch, name: str, word: str) -> None:
    """Let a function of `os` fail for paths that hold a word."""
    true = getattr(os, name)

    def call(path: Any, *arguments: Any, **options: Any) -> Any:
        if word in os.fsdecode(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return true(path, *arguments, **options)

    monkeypatch.setattr(os, name, call)


def test_what_cannot_be_removed_is_no_success(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    normcli.apply(images, tmp_path / "plain", scheme="unit")
    with monkeypatch.context() as patch:
        failing(patch, "unlink", "checkpoint-0")
        with pytest.raises(OutputError, match=f"cannot remove .*{WORK}, all else is written"):
            normcli.apply(images, tmp_path / "out", scheme="unit", engine="serial")
    assert (tmp_path / "out" / WORK).exists() and (tmp_path / "out/normcli.json").exists()
    assert normcli.apply(images, tmp_path / "out", scheme="unit", resume=True).reused == 3
    assert tree(tmp_path / "out") == tree(tmp_path / "plain"), "tidied by the next run"


def test_restore_that_cannot_tidy(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    normcli.apply(images, tmp_path / "out", scheme="unit")
    with monkeypatch.context() as patch:
        failing(patch, "rmdir", WORK)
        with pytest.raises(OutputError, match=f"cannot remove .*{WORK}"):
            normcli.restore(tmp_path / "out", tmp_path / "back")
    normcli.restore(tmp_path / "out", tmp_path / "back", force=True)
    assert sorted(tree(tmp_path / "back")) == ["0.png", "1.png", "2.png"] and not (tmp_path / "back" / WORK).exists()


def test_the_probe_of_an_output_is_removed_by_the_next_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    script = (
        "import os, sys, normcli\n"
        "true = os.unlink\n"
        "def fails(path, *a, **k):\n"
        "    raise OSError(5, 'Input/output error')\n"
        "os.unlink = fails\n"
        "try:\n    normcli.stats('in', output='made/s.json')\n"
        "except normcli.errors.OutputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "cannot write made/s.json: input/output error\n", done.stderr
    assert len(list((tmp_path / "made").iterdir())) == 1
    normcli.stats(images, output=tmp_path / "made/s.json")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("arguments", "code"), [(("stats", "nothing"), 4), (("stats",), 2), (("stats", "--nosuch"), 2)]
)
def test_an_error_line_that_cannot_be_written(arguments: tuple[str, ...], code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "normcli", *arguments]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, stderr=full, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (code, b"")


IMPORT = """
import builtins, sys
true = builtins.__import__
def fails(name, globals=None, locals=None, fromlist=(), level=0):
    if name == sys.argv[1] or (name == sys.argv[1].rpartition(".")[0] and sys.argv[1].rpartition(".")[2] in fromlist):
        raise ImportError(f"cannot import name {name}", name=name)
    return true(name, globals, locals, fromlist, level)
builtins.__import__ = fails
from normcli.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("normcli.kernels.histograms", 4, b"3 unreadable"),
        ("normcli.cli.tables", 1, b"normcli: cannot load normcli.cli"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_no_internal_error(
    module: str, code: int, words: bytes, images: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", IMPORT, module, "stats", "in", "--engine", "serial", "--group-by", "folder"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert b"internal" not in done.stderr and done.stderr.count(b"\n") == 1


def test_a_file_that_is_no_checkpoint_is_left(run: Run, images: Path, tmp_path: Path) -> None:
    """A file of this name without any newline was cut to nothing, as a checkpoint's torn first line."""
    for text in (b"my notes", b"0123456 x", b"1234567890"):
        (tmp_path / "s.json.checkpoint").write_bytes(text)
        done = run("stats", "in", "-o", "s.json", "--resume")
        assert done.returncode == 2 and b"not a checkpoint" in done.stderr, done.stderr
        assert (tmp_path / "s.json.checkpoint").read_bytes() == text
    for torn in (b"", b"12ab", b'12345678 {"settings": {"al', bytes(40)):
        (tmp_path / "s.json").unlink(missing_ok=True)
        (tmp_path / "s.json.checkpoint").write_bytes(torn)
        assert run("stats", "in", "-o", "s.json", "--resume").returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["stats", "--help"], ["tensor", "--help"]], ids=" ".join)
def test_help_that_nobody_reads(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        command = [sys.executable, "-m", "normcli", *arguments]
        done = subprocess.run(
            command, env=ENVIRONMENT, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_dask_worker_that_dies_while_it_starts(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = needs.module("distributed")

    def fails(**_: Any) -> None:
        raise RuntimeError("Nanny failed to start")

    monkeypatch.setattr(distributed, "LocalCluster", fails)
    with pytest.raises(NormcliError, match="the local Dask cluster cannot be started: Nanny failed to start"):
        normcli.stats(images, engine="dask")
