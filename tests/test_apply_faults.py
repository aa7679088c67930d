"""Killed at any moment, refused by the disk at any write: no partial file under a final name, and resume."""

import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import NormcliError, OutputError, UsageError
from normcli.runs.names import WORK
from tests.support import needs
from tests.support.command import APPLY, ENVIRONMENT, Run
from tests.support.images import encoded, photograph
from tests.support.kills import NO_BYTECODE, killed_at_random, limited
from tests.support.outputs import finals, tree


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(40):
        path = folder / f"{number % 4}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photograph(32, 32, seed=number)))
    (folder / "0/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


SHAPES = [["--scheme", "zscore"], ["--to", "stack"], ["--to", "png", "--scheme", "minmax"]]


@pytest.mark.parametrize("options", SHAPES, ids=" ".join)
def test_killed_and_resumed_is_byte_identical(options: list[str], photos: Path, tmp_path: Path) -> None:
    plain = [*APPLY, str(photos), "-o", str(tmp_path / "plain"), *options]
    assert subprocess.run(plain, env=ENVIRONMENT, capture_output=True, check=False).returncode == 3
    out = tmp_path / "out"
    killed_at_random([str(photos), "-o", str(out), *options], tree(tmp_path / "plain"), out, 4, 1)


@pytest.mark.campaign
@pytest.mark.parametrize("options", SHAPES, ids=" ".join)
def test_a_hundred_kills(options: list[str], tmp_path: Path, shared_data: Path) -> None:
    arguments = [str(shared_data / "imagenet-300"), *options, "--resize", "128", "--center-crop", "128"]
    arguments += ["--color", "rgb", "--max-file-size", "400000"]  # a few are refused: exit 3
    plain = [*APPLY, *arguments, "-o", str(tmp_path / "plain")]
    assert subprocess.run(plain, env=ENVIRONMENT, capture_output=True, check=False).returncode == 3
    out = tmp_path / "out"
    met = killed_at_random([*arguments, "-o", str(out)], tree(tmp_path / "plain"), out, 100, 7)
    assert met > 50


CALLS = ["write", "pwrite", "fsync", "replace", "open", "posix_fallocate"]


class Disk:
    """Lets the k-th call of one function of `os` fail, and from then on every one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, fails_from: int) -> None:
        self.calls, self.fails_from = 0, fails_from
        true = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not (arguments[1] & os.O_CREAT):
                return true(*arguments, **options)
            self.calls += 1
            if self.calls >= self.fails_from:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return true(*arguments, **options)

        monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("to", ["npy", "stack", "png", "tar", "parquet"])
def test_an_error_at_every_kth_write(name: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if to == "parquet":
        needs.module("pyarrow")
    for number in range(5):
        path = tmp_path / f"in/{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(photograph(16, 16, seed=number)))
    (tmp_path / "in/2x.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")  # a gap in the stack
    settings: dict[str, Any] = {
        "to": to,
        "engine": "serial",
        **({"shard_size": "2"} if to in ("tar", "parquet") else {}),
    }
    normcli.apply(tmp_path / "in", tmp_path / "plain", **settings)
    undisturbed = tree(tmp_path / "plain")
    out = tmp_path / "out"
    for k in range(1, 200):
        with monkeypatch.context() as patch:
            disk = Disk(patch, name, k)
            try:
                normcli.apply(tmp_path / "in", out, resume=True, **settings)
            except OutputError as error:
                assert error.exit_code == 5 and "no space left" in str(error)
            except NormcliError as error:
                raise AssertionError(f"call {k}: {error!r}") from error
        for found, data in finals(out).items():
            assert data == undisturbed[found], f"call {k}: {found} is partial"
        if disk.calls < k:
            assert tree(out) == undisturbed
            return
        if k % 2:  # now and then from the beginning
            subprocess.run(["rm", "-rf", str(out)], check=True)
    raise AssertionError("never without an error")


@pytest.mark.parametrize("to", ["npy", "png", "stack", "tar"])
@pytest.mark.parametrize("engine", ["serial", "threads"])
def test_a_run_with_too_many_failures_leaves_nothing_or_can_be_resumed(to: Any, engine: str, tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / f"in/{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(photograph(16, 16, seed=number)) if number else b"nothing")
    settings: dict[str, Any] = {"to": to, "scheme": "unit", "engine": engine}
    out = tmp_path / "out"
    with pytest.raises(NormcliError, match=r"0\.png"):
        normcli.apply(tmp_path / "in", out, max_failures=0, **settings)
    # workers were ahead, and had written 1 to 5: these stayed without a record of them
    assert not out.exists() or (out / ".normcli-partial").exists()
    normcli.apply(tmp_path / "in", out, resume=True, **settings)
    normcli.apply(tmp_path / "in", tmp_path / "plain", **settings)
    assert finals(out) == finals(tmp_path / "plain")


@pytest.mark.parametrize("to", ["npy", "stack", "png16", "tiff"])
def test_a_full_disk_ends_with_code_5_and_one_line(to: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1)).astype(np.uint8)
    (tmp_path / "in/a.png").write_bytes(encoded(noise))
    done = run("apply", "in", "-o", "out", "-s", "unit", "--to", to, preexec_fn=limited, env=NO_BYTECODE)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith(b"normcli: cannot write out/") and done.stderr.count(b"\n") == 1
    assert finals(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("to", "module", "final"),
    [("stack", "numpy", "stack.npy"), ("hdf5", "h5py", "images.h5"), ("zarr", "zarr", "images.zarr")],
)
def test_a_disk_without_room_for_all_images_names_the_output(
    to: str, module: str, final: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs.module(module)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(encoded(photograph(16, 16)))
    Disk(monkeypatch, "posix_fallocate", 1)
    with pytest.raises(OutputError, match=rf"{final}: no space left on device: 1 images? needs? 3,200 bytes"):
        normcli.apply(tmp_path / "in", tmp_path / "out", to=to, scheme="unit")  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(encoded(photograph(8, 8)))
    done = run("apply", "in", "-o", "/proc/nowhere/out", "-s", "unit")
    assert done.returncode == 5 and done.stderr.count(b"\n") == 1, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_run_that_resumes(number: signal.Signals, tmp_path: Path, photos: Path) -> None:
    import shutil

    for copy in range(30):
        shutil.copytree(photos, tmp_path / f"many/{copy}")
    arguments = [str(tmp_path / "many"), "-o", str(tmp_path / "out"), "-s", "unit", "--progress", "always"]
    process = subprocess.Popen([*APPLY, *arguments], env=ENVIRONMENT, stderr=subprocess.PIPE)
    while not list((tmp_path / "out").glob("*/*/*.npy")):  # under way
        assert process.poll() is None
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert b"with --resume to continue in" in said
    assert process.returncode == 128 + number
    assert "normcli.json" not in finals(tmp_path / "out")
    told = subprocess.run([*APPLY, *arguments], env=ENVIRONMENT, capture_output=True, check=False)
    assert told.returncode == 2 and b"contains an unfinished run (--resume completes it" in told.stderr
    assert subprocess.run([*APPLY, *arguments, "--resume"], env=ENVIRONMENT, check=False).returncode == 3
    normcli.apply(tmp_path / "many", tmp_path / "plain", scheme="unit")
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path, photos: Path) -> None:
    fcntl = needs.module("fcntl")
    work = tmp_path / "out" / WORK
    work.mkdir(parents=True)
    with (work / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(NormcliError, match="another normcli is writing"):
            normcli.apply(photos, tmp_path / "out", scheme="unit", resume=True)
    assert normcli.apply(photos, tmp_path / "out", scheme="unit", resume=True).images == 40


def test_a_torn_checkpoint_is_believed_up_to_the_tear(tmp_path: Path, photos: Path) -> None:
    normcli.apply(photos, tmp_path / "plain", scheme="unit")
    undisturbed = tree(tmp_path / "plain")
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        from normcli.runs.apply_checkpoint import ApplyCheckpoint

        def die(*arguments: Any, **settings: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(ApplyCheckpoint, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            normcli.apply(photos, out, scheme="unit")
    log = out / WORK / "checkpoint-0"
    whole = log.read_bytes()
    for cut in range(0, len(whole), 997):
        for damaged in (whole[:cut], whole[:cut] + b"#" + whole[cut + 1 :]):
            for old in (out / WORK).glob("checkpoint-*"):
                old.unlink()
            log.parent.mkdir(exist_ok=True)
            log.write_bytes(damaged)
            normcli.apply(photos, out, scheme="unit", resume=True)
            assert tree(out) == undisturbed
            (out / "normcli.json").unlink()
            log.parent.mkdir(exist_ok=True)


def test_killed_while_the_statistics_are_written(tmp_path: Path, photos: Path) -> None:
    """Their temporary file lies with the others, so that a resumed run removes it."""
    true = os.replace
    seen: list[str] = []

    def die(source: Any, target: Any) -> None:
        if str(target).endswith("stats.json"):
            seen.append(str(source))
            raise KeyboardInterrupt  # as good as a kill: nothing is tidied up after it
        true(source, target)

    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", die)
        patch.setattr(os, "unlink", lambda *_: None)
        normcli.apply(photos, out)
    assert [Path(path).parent.name for path in seen] == [WORK]
    assert Path(seen[0]).exists() and finals(out) == {}
    normcli.apply(photos, out, resume=True)
    normcli.apply(photos, tmp_path / "plain")
    assert tree(out) == tree(tmp_path / "plain")


def test_no_sync_waits_for_no_file_and_writes_the_same(tmp_path: Path, photos: Path) -> None:
    true, calls = os.fsync, 0

    def count(handle: int) -> None:
        nonlocal calls
        calls += 1
        true(handle)

    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", count)
        for no_sync in (False, True):
            calls, out = 0, tmp_path / f"{no_sync}"
            normcli.apply(photos, out, scheme="unit", no_sync=no_sync, workers=2, engine="threads")
            seen[no_sync] = calls
    assert seen[False] > 40 > 5 > seen[True]
    assert tree(tmp_path / "True") == tree(tmp_path / "False")


@pytest.mark.parametrize("to", ["stack", "tar", "parquet", "zarr", "nifti", "hdf5"])
def test_no_sync_is_rejected_where_an_output_holds_many_images(to: Any, tmp_path: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match=f"`no_sync` requires one file per image, not `to` {to}"):
        normcli.apply(photos, tmp_path / "out", scheme="unit", to=to, no_sync=True)
    assert not (tmp_path / "out").exists()
