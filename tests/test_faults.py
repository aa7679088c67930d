"""Every fault, for `stats`, `apply` and `tensor` alike: documented exit code, one line, nothing partial, nothing lost.

What has a file of its own is there: kill -9 at random moments and resuming in test_stats_checkpoint.py and
test_apply_faults.py, the disk that refuses the k-th call of one function in test_apply_faults.py, six kinds of
damage to Numba's cache in test_kernels.py, servers in test_remote.py, a cluster's workers in test_cluster.py.
"""

import ctypes
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import NoInputError, TensorError
from tests.support import injected, needs
from tests.support.faults import COMMANDS, Case, filled
from tests.support.images import encoded, photograph
from tests.support.kills import NO_BYTECODE

# where each command is in the middle of its reading and of its writing: a function of os, and what its path holds
READING = {"stats": ("open", "in/3.png"), "apply": ("open", "in/3.png"), "tensor": ("preadv", "x.npy")}
WRITING = {"stats": ("fsync", "made"), "apply": ("fsync", "made"), "tensor": ("pwrite", "made")}


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(name: str, tmp_path: Path) -> Case:
    return Case(filled(tmp_path), COMMANDS[name])


@pytest.fixture
def expected(name: str, undisturbed: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    """The manifest of apply names its sources, which lie elsewhere in every test."""
    return undisturbed[name]


def one_line(done: "subprocess.CompletedProcess[bytes]", *words: bytes) -> None:
    assert done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr, done.stderr
    assert any(word in done.stderr for word in words), done.stderr


def later(*values: Any) -> Any:
    """A row of the table that only campaigns run: the default run has two of every kind."""
    return pytest.param(*values, marks=pytest.mark.campaign)


SIGNALS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130, "SIGINT+SIGINT": 130, "SIGINT+SIGTERM": 143}


@pytest.mark.parametrize(
    ("fault", "moment"),
    [
        ("SIGKILL", "writing"),
        ("SIGTERM", "writing"),
        ("SIGINT", "reading"),
        ("SIGINT+SIGINT", "writing"),
        *(later(fault, "reading") for fault in ("SIGKILL", "SIGTERM", "SIGINT+SIGINT", "SIGINT+SIGTERM")),
        *(later(fault, "writing") for fault in ("SIGINT", "SIGINT+SIGTERM")),
    ],
)
def test_a_signal(fault: str, moment: str, case: Case, name: str, expected: dict[str, bytes]) -> None:
    function, word = (READING if moment == "reading" else WRITING)[name]
    done = case.run(fault, function, "1", word)
    assert done.returncode == SIGNALS[fault] and b"Traceback" not in done.stderr, done.stderr
    assert done.stderr.count(b"\n") <= 1
    case.whole(expected)
    if "+" not in fault and fault != "SIGKILL":
        assert case.leftovers() == []
    case.completes(expected)


def test_a_closed_pipe_is_quiet(case: Case, name: str) -> None:
    to_stdout = {
        "stats": ["stats", "in", "--json", "-q"],
        "apply": ["apply", "in/0.png", "-o", "-", "-s", "unit", "-q"],
        "tensor": [*COMMANDS["tensor"][:5], "-o", "-", "-q"],
    }
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = case._replace(command=to_stdout[name]).run(stdout=closed)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("step", [0, 15, *map(later, range(1, 20))])
def test_a_full_disk(step: int, case: Case, name: str, expected: dict[str, bytes]) -> None:
    """No file can grow beyond a limit, from nothing to almost the largest that is written."""
    limit = max(map(len, expected.values())) * step // 20
    done = case.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), env=NO_BYTECODE)
    assert done.returncode == 5, done.stderr
    one_line(done, b"cannot write made")
    case.whole(expected)
    assert case.leftovers() == []
    case.completes(expected)


def without_override() -> None:
    """Let permissions hold for root too: no CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH after exec."""
    library = ctypes.CDLL(None)
    for capability in (1, 2):
        library.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_an_output_folder_that_takes_no_files(case: Case, name: str, expected: dict[str, bytes]) -> None:
    (case.folder / "made").chmod(0o555)
    probe = [sys.executable, "-c", "open('made/probe', 'w')"]
    drop = without_override if os.geteuid() == 0 else None
    if not subprocess.run(probe, cwd=case.folder, preexec_fn=drop, stderr=subprocess.DEVNULL).returncode:
        needs.skip(needs.USER)
    done = case.run(preexec_fn=drop)
    (case.folder / "made").chmod(0o755)
    assert done.returncode == 5 and case.results() == {}
    one_line(done, b"permission denied")
    case.completes(expected)


def test_no_home_and_no_cache(case: Case, expected: dict[str, bytes]) -> None:
    nowhere = {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/dev/null/x", "NUMBA_CACHE_DIR": "/dev/null/x"}
    done = case.run(env=nowhere)
    assert (done.returncode, done.stderr) == (0, b"") and case.results() == expected


@pytest.mark.parametrize("kilobytes", [150_000, *map(later, range(50_000, 700_000, 50_000))])
def test_little_address_space(kilobytes: int, case: Case, name: str, expected: dict[str, bytes]) -> None:
    """A run that does not fit ends in one line, of normcli or of OpenBLAS if it ends first; one that fits is right."""
    most = kilobytes * 1024
    done = case.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)))
    # a tensor is one input; of images some may fit, or none
    assert done.returncode in ((0,) if kilobytes >= 600_000 else (0, 1) if name == "tensor" else (0, 1, 3, 4))
    if done.returncode == 3:  # some images fitted: told in the data
        assert any(b'"complete": false' in data for data in case.results().values())
        return
    if done.returncode:
        one_line(done, b"not enough memory", b"no room for another thread", b"Memory allocation still failed")
    case.whole(expected)
    case.completes(expected)


@pytest.mark.parametrize("free", [0, 2, *map(later, (1, 3, 4, 5, 6, 8, 12))])
def test_few_file_descriptors(free: int, case: Case, name: str, expected: dict[str, bytes]) -> None:
    """0: nothing can be opened at all."""
    done = case.run("files", "", str(free), "")
    # in between it depends on what is opened last: images (3, 4), an output (5), kernels or a module (1)
    assert done.returncode in ((1,) if free == 0 else (0,) if free >= 6 else (0, 1, 3, 4, 5)), done.stderr
    if done.returncode not in (0, 3):
        one_line(done, b"too many open files")
        case.whole({**expected, **{key: value for key, value in case.results().items() if key == "s.json"}})
    assert free or not case.results()


@pytest.mark.parametrize("name", ["stats", "apply"])
def test_a_worker_process_that_is_killed_loses_nothing(case: Case, expected: dict[str, bytes]) -> None:
    more = ["--engine", "processes", "-j", "2"]
    done = case.run("died", "open", "1", "in/3.png", more=more)
    assert done.returncode == 0 and (case.folder / "marker").exists(), done.stderr
    assert case.results() == expected


# a source that changes: what is done to one file of six at the moment of its opening, and in the middle of its reading


def grows(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(1000))


def shrinks(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def is_replaced(path: Path) -> None:
    other = path.with_name(f".{path.name}")
    other.write_bytes(path.read_bytes()[:-50] + bytes(90))
    other.replace(path)


def is_written_in_place(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(bytes(40))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def vanishes(path: Path) -> None:
    path.unlink()


CHANGES = [grows, shrinks, is_replaced, is_written_in_place, vanishes]


class Changing:
    """Does something to a file at the first call of a function of `os` on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, path: Path, change: Any, after: bool) -> None:
        self.done = False
        true = getattr(os, name)

        def call(first: Any, *arguments: Any, **options: Any) -> Any:
            mine = injected.place((first,)) == str(path) and not self.done
            if mine and not after:
                self.done = True
                change(path)
            result = true(first, *arguments, **options)
            if mine and after:
                self.done = True
                change(path)
            return result

        monkeypatch.setattr(os, name, call)


# moments: before it is opened, when it is open, when some of it was read
MOMENTS = {"listed": ("open", False), "opened": ("open", True), "read": ("read", True)}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_an_image_that_changes(change: Any, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is used, complete and as it was, or fails with a reason; the other five are used in any case."""
    folder = filled(tmp_path) / "in"
    whole = normcli.stats(folder, engine="serial")
    path = folder / "3.png"
    function, after = MOMENTS[moment]
    changing = Changing(monkeypatch, function, path, change, after)
    failures: list[Any] = []
    summary = normcli.stats(folder, engine="serial", on_failure=failures.append)
    assert changing.done and summary.images + summary.failed == 6 and summary.images >= 5
    if moment == "read" and change not in (is_replaced, vanishes):  # those leave the open file as it is
        assert [f.reason for f in failures] == ["changed"]
    elif moment != "listed" and change in (is_replaced, vanishes):
        assert summary.to_json() == whole.to_json()
    for failure in failures:
        assert failure.key == str(path) and failure.reason in ("changed", "missing", "truncated", "damaged")

    changing.done = False
    path.write_bytes(encoded(photograph(24, 32, seed=3)))
    record = normcli.apply(folder, tmp_path / "made/out", scheme="unit", engine="serial")
    assert record.images + sum(record.failed.values()) == 6 and record.images >= 5
    written = {p.name for p in (tmp_path / "made/out").glob("*.npy")}
    assert len(written) == record.images


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_an_archive_that_changes(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path)
    path = folder / "a.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(6):
            archive.add(folder / f"in/{i}.png", f"{i}.png")
    whole = normcli.stats(path, engine="serial")
    changing = Changing(monkeypatch, "pread", path, change, True)
    failures: list[Any] = []
    try:
        found = normcli.stats(path, engine="serial", on_failure=failures.append)
    except NoInputError:
        found = None
    assert changing.done
    if found is not None and found.images == 6:
        assert found.to_json() == whole.to_json()
    else:  # never a part of it as if it were all
        assert failures and {f.reason for f in failures} <= {"changed", "missing", "truncated", "damaged"}


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_tensor_that_changes(change: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and variance are taken in one pass and used in another: both see the same tensor, or none is written."""
    from normcli.tensor import safetensors
    from normcli.tensor.job import Job, run_job

    path, out = tmp_path / f"x{suffix}", tmp_path / "y.npy"
    tensor = np.random.default_rng(0).normal(size=(6, 4, 5, 3)).astype(np.float32)
    if suffix == ".npy":
        np.save(path, tensor)
    else:
        safetensors.write(path, {"x": tensor})
    job = Job(normalizer="batch_norm", inputs=[str(path)], output=str(out), settings={"layout": "NCHW"}, force=True)
    run_job(job)
    expected = out.read_bytes()
    out.unlink()
    changing = Changing(monkeypatch, "preadv", path, change, True)
    try:
        run_job(job)
    except TensorError as error:
        assert "changed" in str(error) or "shorter" in str(error)
        assert not out.exists() and list(tmp_path.iterdir()) in ([path], [])
    else:
        assert change in (is_replaced, vanishes) and out.read_bytes() == expected
    assert changing.done


def test_images_that_change_between_the_two_passes_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path) / "in"
    from normcli.runs import stats

    true = stats.stats

    def then_changed(*arguments: Any, **options: Any) -> Any:
        summary = true(*arguments, **options)
        (folder / "3.png").write_bytes(encoded(photograph(24, 32, seed=77)))
        return summary

    monkeypatch.setattr(stats, "stats", then_changed)
    assert normcli.apply(folder, tmp_path / "made/a", engine="serial").changed
    assert not normcli.apply(folder, tmp_path / "made/b", scheme="unit", engine="serial").changed
