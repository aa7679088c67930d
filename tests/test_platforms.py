"""The commands do the same on Linux, macOS and Windows: run here without the system calls that those lack."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from normcli import platforms, storage
from normcli.errors import OutputError
from normcli.storage import atomic
from tests.support import needs, other_platform, packing
from tests.support.command import ENVIRONMENT, ROOT
from tests.support.images import encoded, photograph

COMMANDS = """
stats photos -o threads.json -j 2 --engine threads -q
stats photos -o processes.json -j 2 --engine processes -q
stats photos -o resumed.json --resume -q
stats photos -o resumed.json --resume -f -q
stats photos -o cached.json --incremental -q
stats photos -o cached.json --incremental -f -q
stats a.tar -o tar.json -q
stats a.zip -o zip.json -q
stats images.npy -o npy.json -q
stats nowhere -o nowhere.json -q
apply photos -o arrays --stats threads.json -j 2 --engine threads -q
apply photos -o arrays --stats threads.json --resume -q
verify arrays -q
restore arrays -o restored -q
apply photos -o stack --scheme signed --to stack --resize 32 --center-crop 32 -q
apply photos -o shards --stats threads.json --to tar --shard-size 5 -j 2 --engine processes -q
apply a.tar -o mapped --scheme unit --dtype float16 -q
restore shards -o unpacked -q
apply photos -o pictures --scheme unit --to png16 -q
apply photos -o zipped --scheme unit --to npz -q
apply photos -o tensors --scheme zscore --to safetensors -q
tensor layer-norm x.npy --layout NCHW --axes token -o layer.npy -j 2 -q
tensor group-norm x.npy --layout NCHW --groups 2 -o group.safetensors -j 2 -q
show threads.json
show threads.json --plot
list schemes
show threads.json --format torchvision
check threads.json --preset imagenet
diff threads.json tar.json
merge threads.json zip.json -o merged.json --force -q
merge merged.json nowhere.json -o no.json -q
"""


class Outcome(NamedTuple):
    codes: list[int]
    broken: list[str]
    stdout: bytes
    files: dict[str, bytes]


def outcome(platform: str, source: Path, folder: Path) -> Outcome:
    """Return results, output and files of the commands on a platform, in a folder of its own."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    commands = [line.split() for line in COMMANDS.strip().splitlines()]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/support/other_platform.py"), platform],
        input=json.dumps(commands).encode(),
        capture_output=True,
        cwd=folder,
        env=ENVIRONMENT,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    report = json.loads(done.stderr.decode().splitlines()[-1])
    own = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    files = {str(path.relative_to(folder)): path.read_bytes() for path in own}
    return Outcome(report["codes"], report["broken"], done.stdout, files)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photographs as a folder, a tar, a zip and an array; and a tensor."""
    root = tmp_path_factory.mktemp("source")
    pictures = [photograph(seed=seed) for seed in range(12)]
    for i, picture in enumerate(pictures):
        path = root / f"photos/{i % 2}/{i}.{('png', 'jpg')[i % 3 == 0]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture, "JPEG" if path.suffix == ".jpg" else "PNG"))
    for path in root.rglob("*"):
        os.utime(path, (10**9, 10**9))
    packing.tar(root / "photos", root)
    packing.zipped(root / "photos", root)
    np.save(root / "images.npy", np.stack(pictures))
    np.save(root / "x.npy", np.random.default_rng(0).normal(size=(4, 6, 5, 5)).astype(np.float32))
    return root


@pytest.fixture(scope="module")
def here(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return outcome("linux", source, tmp_path_factory.mktemp("linux") / "out")


@pytest.mark.parametrize("platform", ["macos", "windows"])
def test_every_command_does_the_same(platform: str, source: Path, here: Outcome, tmp_path: Path) -> None:
    there = outcome(platform, source, tmp_path / "out")
    assert there.broken == []
    assert there.codes == here.codes
    assert there.stdout == here.stdout
    assert there.files.keys() == here.files.keys()
    differ = [name for name, data in here.files.items() if there.files[name] != data]
    assert set(differ) <= {"cached.json.cache"}  # it has the versions of files, and what is too young has none yet


def test_everything_runs_but_what_has_to_fail(here: Outcome) -> None:
    """Else equal failures would pass for equal results."""
    failed = [line for line, code in zip(COMMANDS.strip().splitlines(), here.codes, strict=True) if code]
    assert [line.split()[0] for line in failed] == ["stats", "check", "merge", "merge"]
    assert len(here.files) > 60


HOLD = """
import sys
sys.path[:0] = {paths}
import other_platform
other_platform.become("windows")
from normcli import platforms
file = open("log", "ab")
print(platforms.lock_file(file), flush=True)
sys.stdin.read()
"""


def test_locks_of_windows_keep_a_second_process_out(tmp_path: Path) -> None:
    code = HOLD.format(paths=[str(ROOT), str(ROOT / "tests/support")])
    call: dict[str, Any] = {"cwd": tmp_path, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **call) as first:
        assert first.stdout is not None and first.stdout.readline() == "True\n"
        second = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, input="", capture_output=True, text=True)
        assert second.stdout == "False\n", second.stderr
        first.communicate("")
    third = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, input="", capture_output=True, text=True)
    assert third.stdout == "True\n", third.stderr


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"HOME": "/h"}, "/h/.cache"),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches"),
        ("windows", {"HOME": "/h", "LOCALAPPDATA": "/h/local"}, "/h/local"),
        ("windows", {"HOME": "/h"}, "/h/AppData/Local"),
        ("linux", {"HOME": ""}, None),
    ],
)
def test_caches_are_where_each_platform_has_them(
    system: str, variables: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platforms, "IS_WINDOWS", system == "windows")
    assert platforms.cache_folder() == (None if expected is None else Path(expected))


@pytest.mark.parametrize("system", ["linux", "windows"])
def test_a_file_that_a_program_has_open_is_named_as_the_reason(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "IS_WINDOWS", system == "windows")
    with pytest.raises(OutputError) as raised:
        storage.raise_output_error("a.json", PermissionError(13, "Access is denied"))
    hint = " (Windows replaces no file that a program has open)" if system == "windows" else ""
    assert str(raised.value) == f"cannot write a.json: access is denied{hint}"


def test_stale_files_are_removed_by_age_where_processes_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platforms, "process_exists", lambda _: None)
    old, young = (atomic.temporary_name(tmp_path / "a.json") for _ in range(2))
    for path in (old, young):
        path.touch()
    os.utime(old, (10**9, 10**9))
    with monkeypatch.context() as other:
        other.setattr(os, "getpid", lambda: 1)
        atomic.remove_stale(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {young.name}


@pytest.mark.parametrize("system", ["linux", "windows"])
def test_wildcards_are_expanded_where_the_shell_does_not(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platforms, "IS_WINDOWS", system == "windows")
    for name in ("b.json", "a.json", "[x].json"):
        (tmp_path / name).touch()
    paths = ["?.json", "[x].json", "none-*.json", "a.json"]
    expanded = ["a.json", "b.json", "[x].json", "none-*.json", "a.json"]
    assert platforms.expand_globs(paths) == (expanded if system == "windows" else paths)


PATHS = sorted((ROOT / "normcli").rglob("*.py"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_platform_lacks_is_used_by_one_module(path: Path) -> None:
    """`platforms`; and `cpus`, for processors."""
    if path.name in ("platforms.py", "cpus.py"):
        return
    lacks = {name for names in (*other_platform.LACKS.values(), other_platform.LACKS_SIGNALS) for name in names.split()}
    modules = {"fcntl", "msvcrt", *other_platform.LACKS_MODULES["windows"]}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "signal"):
            assert node.attr not in lacks, f"line {node.lineno}"
        if isinstance(node, ast.Import):
            assert not modules & {alias.name for alias in node.names}, f"line {node.lineno}"


def test_the_workflow_tries_every_platform() -> None:
    yaml = needs.module("yaml")
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    job = workflow["jobs"]["test"]
    systems = {name.partition("-")[0] for name in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13", "3.14"]
    assert job["runs-on"] == "${{ matrix.os }}" and not job["strategy"]["fail-fast"]
    assert workflow["permissions"] == {"contents": "read"} and workflow["concurrency"]["cancel-in-progress"]
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert len(uses) == 2 and all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in uses)
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[0].endswith('install -e ".[test]"') and commands[-1].startswith("python -m pytest")
    versions = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    for version in job["strategy"]["matrix"]["python"]:
        assert f"Programming Language :: Python :: {version}" in versions
