"""Shards through kills, full disks, silent servers and changed sources: whole, or made again to the same bytes."""

import errno
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import OutputError, RemoteError
from normcli.runs.checkpoint import CheckpointLog
from tests.support import needs
from tests.support.command import APPLY, ENVIRONMENT, Run
from tests.support.images import encoded, photograph
from tests.support.kills import NO_BYTECODE, killed_at_random, limited
from tests.support.outputs import finals, tree


@pytest.fixture
def photos(four_classes: Path) -> Path:
    return four_classes


def test_killed_and_resumed_is_byte_identical(sink: str, photos: Path, tmp_path: Path) -> None:
    for copy in range(4):
        shutil.copytree(photos, tmp_path / f"many/{copy}")
    options = ["--to", sink, "--shard-size", "9", "-s", "zscore"]
    plain = [*APPLY, str(tmp_path / "many"), "-o", str(tmp_path / "plain"), *options]
    assert subprocess.run(plain, env=ENVIRONMENT, capture_output=True, check=False).returncode == 3
    out = tmp_path / "out"
    killed_at_random([str(tmp_path / "many"), "-o", str(out), *options], tree(tmp_path / "plain"), out, 4, 3)


@pytest.mark.campaign
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_hundred_kills(sink: str, engine: str, tmp_path: Path, shared_data: Path) -> None:
    arguments = [str(shared_data / "imagenet-300"), "--to", sink, "--shard-size", "4MB", "--resize", "128"]
    arguments += ["--max-file-size", "400000", "--engine", engine]  # a few are refused: exit 3
    plain = [*APPLY, *arguments, "-o", str(tmp_path / "plain")]
    assert subprocess.run(plain, env=ENVIRONMENT, capture_output=True, check=False).returncode == 3
    out = tmp_path / "out"
    assert killed_at_random([*arguments, "-o", str(out)], tree(tmp_path / "plain"), out, 100, 7) > 50


class Killed(BaseException):
    pass


def stopped_after(records: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run die once so many lines are in its checkpoint; in this process, so that the moment is exact."""
    written = CheckpointLog.append
    count = 0

    def write(self: CheckpointLog, record: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count > records:
            raise Killed
        written(self, record)

    monkeypatch.setattr(CheckpointLog, "append", write)


def test_stopped_after_every_line_of_the_checkpoint(sink: str, photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"scheme": "unit", "to": sink, "shard_size": "6", "engine": "serial"}
    normcli.apply(photos, tmp_path / "plain", **settings)
    undisturbed = tree(tmp_path / "plain")
    for records in range(1, 27):
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            stopped_after(records, patch)
            normcli.apply(photos, out, **settings)
        assert all(data == undisturbed[name] for name, data in finals(out).items())
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):  # a second time, in what is resumed
            stopped_after(12, patch)
            normcli.apply(photos, out, resume=True, **settings)
        assert all(data == undisturbed[name] for name, data in finals(out).items())
        normcli.apply(photos, out, resume=True, **settings)
        assert tree(out) == undisturbed, records


def test_finished_shards_are_not_made_again(sink: str, photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"scheme": "unit", "to": sink, "shard_size": "6", "engine": "serial"}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        stopped_after(20, patch)
        normcli.apply(photos, tmp_path / "out", **settings)
    stand = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*")}
    assert len(stand) == 2
    head = normcli.apply(photos, tmp_path / "out", resume=True, **settings)
    assert head.reused == 12 and {p: p.stat().st_mtime_ns for p in stand} == stand


def later(path: Path, than: Path) -> None:
    time = than.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(time, time))


CHANGES = ["more at the end", "more in the middle", "changed", "gone", "mended", "nothing"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("interrupted", [False, True])
def test_resume_takes_up_what_has_changed(
    change: str, interrupted: bool, sink: str, photos: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"scheme": "unit", "to": sink, "shard_size": "6", "engine": "serial"}
    out = tmp_path / "out"
    if interrupted:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            stopped_after(20, patch)
            normcli.apply(photos, out, **settings)
    else:
        normcli.apply(photos, out, **settings)
    shard = out / f"shard-000000.{sink}"
    if change == "more at the end":
        (photos / "dog/99.png").write_bytes(encoded(photograph(9, 9)))
    elif change == "more in the middle":
        (photos / "bee/00.png").write_bytes(encoded(photograph(9, 9)))
    elif change == "changed":
        (photos / "bee/01.v1.png").write_bytes(encoded(photograph(9, 9)))
        later(photos / "bee/01.v1.png", shard)
    elif change == "gone":
        (photos / "ant/00.v1.png").unlink()
        for name in ("08", "12"):
            (photos / f"dog/{int(name) + 3:02d}.v1.png").unlink()
    elif change == "mended":
        (photos / "bee/05b.png").write_bytes(encoded(photograph(9, 9)))
        later(photos / "bee/05b.png", shard)
    head = normcli.apply(photos, out, resume=True, **settings)
    normcli.apply(photos, tmp_path / "fresh", **settings)
    assert tree(out) == tree(tmp_path / "fresh")
    kept = {"more at the end": 18, "nothing": 20}.get(change)
    if kept is not None and not interrupted:
        assert head.reused == kept


def test_a_second_kill_after_a_change_believes_nothing_stale(photos: Path, tmp_path: Path) -> None:
    """All arrays of one size: shards of another run look alike by their size."""
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        path.write_bytes(encoded(photograph(8, 9, seed=number)))
    settings: dict[str, Any] = {"scheme": "unit", "to": "tar", "shard_size": "6", "engine": "serial"}
    out = tmp_path / "out"
    for change in range(1, 4):
        normcli.apply(photos, out, resume=change > 1, **settings)
        (photos / f"ant/00.v1{change}.png").write_bytes(encoded(photograph(8, 9, seed=77 + change)))
        for lines in (3, 11, 17, 23):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                stopped_after(lines, patch)
                normcli.apply(photos, out, resume=True, **settings)
        normcli.apply(photos, out, resume=True, **settings)
        shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
        normcli.apply(photos, tmp_path / "fresh", **settings)
        assert tree(out) == tree(tmp_path / "fresh")


def test_fewer_shards_leave_none_of_the_old(sink: Any, run: Run, photos: Path, tmp_path: Path) -> None:
    assert run("apply", photos, "-o", "out", "-s", "unit", "--to", sink, "--shard-size", "2").returncode == 3
    (tmp_path / "out/shard-of-mine.tar").write_bytes(b"mine")
    done = run("apply", photos, "-o", "out", "-s", "unit", "--to", sink, "--shard-size", "8", "--force")
    assert done.returncode == 3
    normcli.apply(photos, tmp_path / "fresh", scheme="unit", to=sink, shard_size="8")
    assert tree(tmp_path / "out") == {**tree(tmp_path / "fresh"), "shard-of-mine.tar": b"mine"}


def test_other_settings_and_classes_are_not_resumed(run: Run, photos: Path, tmp_path: Path) -> None:
    arguments = ["apply", photos, "-o", "out", "-s", "unit", "--to", "tar", "--shard-size", "6"]
    assert run(*arguments).returncode == 3
    before = tree(tmp_path / "out")
    other = run(*arguments[:-1], "7", "--resume")
    assert other.returncode == 2 and b"shard_size was 6, now 7" in other.stderr
    (photos / "aardvark").mkdir()
    (photos / "aardvark/1.png").write_bytes(encoded(photograph(9, 9)))
    other = run(*arguments, "--resume")
    assert other.returncode == 2 and b"other classes" in other.stderr
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_full_disk_ends_with_code_5_and_one_line(engine: str, sink: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1)).astype(np.uint8)
    (tmp_path / "in/a.png").write_bytes(encoded(noise))
    done = run(
        "apply", "in", "-o", "out", "-s", "unit", "--to", sink, "--engine", engine, preexec_fn=limited, env=NO_BYTECODE
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith(b"normcli: cannot write out/") and done.stderr.count(b"\n") == 1
    assert finals(tmp_path / "out") == {}


def test_a_table_whose_disk_is_full_says_so(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pyarrow writes through a file object of ours: its errors come back as they were."""
    needs.module("pyarrow")
    true = open

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def opened(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        file = true(path, mode, *rest, **options)
        return Full(file) if str(path).endswith("file-shard") else file

    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(OutputError, match="no space left"):
        normcli.apply(photos, tmp_path / "out", scheme="unit", to="parquet")
    assert finals(tmp_path / "out") == {}


def test_a_server_that_falls_silent_keeps_whole_shards(
    sink: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normcli.errors import InputError
    from normcli.storage import files

    settings: dict[str, Any] = {"scheme": "unit", "to": sink, "shard_size": "6", "engine": "serial"}
    normcli.apply(photos, tmp_path / "plain", **settings)
    out = tmp_path / "out"
    true = files.FileBytes.__call__

    def silent(self: Any) -> bytes:
        if "/cat/" in self.path:
            raise InputError("remote", "http://x does not answer")
        return true(self)

    with monkeypatch.context() as patch:
        patch.setattr(files.FileBytes, "__call__", silent)
        with pytest.raises(RemoteError, match="`resume` continues") as raised:
            normcli.apply(photos, out, **settings)
        assert raised.value.exit_code == 6
    undisturbed = tree(tmp_path / "plain")
    assert finals(out) and all(data == undisturbed[name] for name, data in finals(out).items())
    assert normcli.apply(photos, out, resume=True, **settings).reused == 6
    assert tree(out) == undisturbed


def test_interrupted_says_how_to_continue(photos: Path, tmp_path: Path) -> None:
    for copy in range(30):
        shutil.copytree(photos, tmp_path / f"many/{copy}")
    arguments = [str(tmp_path / "many"), "-o", str(tmp_path / "out"), "-s", "unit", "--to", "tar", "--shard-size", "5"]
    process = subprocess.Popen([*APPLY, *arguments], env=ENVIRONMENT, stderr=subprocess.PIPE)
    while not list((tmp_path / "out").glob("shard-*")):  # under way
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and b"with --resume to continue in" in said
    assert subprocess.run([*APPLY, *arguments, "--resume"], env=ENVIRONMENT, check=False).returncode == 3
    normcli.apply(tmp_path / "many", tmp_path / "plain", scheme="unit", to="tar", shard_size="5")
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
