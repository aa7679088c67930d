"""A killed run resumes: after any moment, with any remains of the checkpoint, the same bytes come out."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import normcli
from normcli.errors import NormcliError, UsageError
from normcli.runs import stats_checkpoint
from normcli.runs.loop import Batching
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.storage import files
from tests.support import packing
from tests.support.command import ROOT, Run
from tests.support.images import encoded, photograph

# a run with a line in the checkpoint every 20 ms of work in place of every second, each told on stderr
PREPARED = """
import sys
from normcli.runs import stats_checkpoint
from normcli.runs.loop import Batching
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.runs.checkpoint import CheckpointLog
stats_checkpoint._SECONDS = 0.02
append = CheckpointLog.append
def append_and_tell(self, line):
    append(self, line)
    sys.stderr.write("line\\n")
    sys.stderr.flush()
CheckpointLog.append = append_and_tell
"""
COMMAND = f"""{PREPARED}
from normcli.cli.main import run
sys.exit(run(["stats", sys.argv[1], "-o", sys.argv[2], "--resume", "-q", "--engine", "threads", "-j", "1"]))
"""
PYTHON = f"""{PREPARED}
import normcli
summary = normcli.stats(sys.argv[1], output=sys.argv[2], resume=True, engine="threads", workers=1)
sys.exit(3 if summary.failed else 0)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for every batch of two images; and the checkpoint stays when the run is complete."""
    monkeypatch.setattr(stats_checkpoint, "_SECONDS", 0.0)
    monkeypatch.setattr("normcli.runs.stats.BATCHING", Batching(seconds=0.02, most_items=2))
    monkeypatch.setattr(StatsCheckpoint, "remove", StatsCheckpoint.close)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    root = tmp_path / "photographs"
    root.mkdir()
    for i in range(60):
        (root / f"{i:03d}.png").write_bytes(encoded(photograph(300, 400, seed=i), compress_level=1))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (root / "note.txt").write_text("not an image")
    return root


def counted(source: Path, **options: Any) -> tuple[str, list[Any]]:
    failures: list[Any] = []
    summary = normcli.stats(source, on_failure=failures.append, **options)
    return summary.to_json(), failures


def resumed(source: Path, checkpoint: Path) -> tuple[str, list[Any]]:
    """A run that takes up a checkpoint."""
    output = checkpoint.with_suffix("")
    result = counted(source, output=output, resume=True, force=True, engine="serial")
    assert output.read_text() == result[0]
    return result


class Reads:
    """Counts the images that are read while it is open."""

    def __init__(self, folder: Path) -> None:
        self.files = 0
        self._folder = str(folder)

    def __enter__(self) -> "Reads":
        self._read = files.read

        def read(path: Any, **options: Any) -> Any:
            self.files += str(path).startswith(self._folder)
            return self._read(path, **options)

        files.read = read
        return self

    def __exit__(self, *_: object) -> None:
        files.read = self._read


def covered(data: bytes) -> int:
    """Return the number of inputs in the complete lines of a checkpoint."""
    lines = [line for line in data.splitlines(keepends=True)[1:] if line.endswith(b"\n")]
    return sum(json.loads(line.partition(b" ")[2])["inputs"] for line in lines)


def kill_and_resume(program: str, source: Path, out: Path, kills: int, rng: random.Random, expected: str) -> int:
    """Start again and again, kill -9 some time after a line was written; then finish. Gives the lines written."""
    command = [sys.executable, "-c", program, str(source), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    written = 0
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stderr is not None
            for _ in range(rng.randint(1, 5)):
                written += process.stderr.readline() == b"line\n"
            try:
                process.communicate(timeout=rng.uniform(0, 0.05))
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.returncode in (-9, 3), process.returncode
        if out.exists():  # it was killed after its last step, or not at all
            assert out.read_text() == expected
            out.unlink()
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    assert not out.with_name(out.name + ".checkpoint").exists()
    assert out.read_text() == expected
    return written


PROGRAMS = pytest.mark.parametrize("program", [COMMAND, PYTHON], ids=["command", "Python"])


@PROGRAMS
def test_killed_runs_end_with_the_undisturbed_result(program: str, photographs: Path, tmp_path: Path) -> None:
    expected, _ = counted(photographs)
    assert kill_and_resume(program, photographs, tmp_path / "a.json", 3, random.Random(1), expected) >= 3


@pytest.mark.campaign
@PROGRAMS
def test_a_hundred_kills(program: str, photographs: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    expected, _ = counted(photographs)
    lines = sum(kill_and_resume(program, photographs, tmp_path / f"{n}.json", 2, rng, expected) for n in range(50))
    print(f"100 kills, {lines} lines written before them, 50 of 50 results identical")
    assert lines >= 100


def cut_everywhere(folder: Path, tmp_path: Path, step: int) -> int:
    kept = tmp_path / "a.checkpoint"
    expected = resumed(folder, kept)
    whole = kept.read_bytes()
    assert whole.count(b"\n") > 3
    cut = tmp_path / "cut.checkpoint"
    places = range(max(0, len(whole) - 4096), len(whole) + 1, step)
    images = len(packing.files_of(folder))
    assert covered(whole) == images
    for place in places:
        cut.write_bytes(whole[:place])
        with Reads(folder) as reads:
            assert resumed(folder, cut) == expected, place
        assert reads.files == images - covered(whole[:place]), "every whole line spares its images"
    return len(places)


def test_a_checkpoint_cut_anywhere_is_used_as_far_as_it_goes(quick: None, folder: Path, tmp_path: Path) -> None:
    cut_everywhere(folder, tmp_path, 97)


@pytest.mark.campaign
def test_a_checkpoint_cut_at_every_byte_of_its_last_4_kib(quick: None, folder: Path, tmp_path: Path) -> None:
    print(f"{cut_everywhere(folder, tmp_path, 1)} cuts, all identical")


def test_damage_in_the_middle_costs_that_line_only(quick: None, folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "a.checkpoint"
    expected = resumed(folder, kept)
    whole = kept.read_bytes()
    rng = random.Random(3)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[rng.randrange(whole.index(b"\n") + 1, len(whole))] ^= 1 << rng.randrange(8)
        kept.write_bytes(damaged)
        with Reads(folder) as reads:
            assert resumed(folder, kept) == expected
        assert 1 <= reads.files <= 4, "a line has two images; without its end it takes the next with it"


def test_a_complete_checkpoint_spares_all_reading(
    quick: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "a.checkpoint"
    expected = resumed(folder, kept)

    def unread(*_: Any, **__: Any) -> bytes:
        raise AssertionError("a file was read again")

    monkeypatch.setattr("normcli.storage.files.read", unread)
    assert resumed(folder, kept) == expected


def test_files_that_came_changed_or_went_are_seen(quick: None, folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "a.checkpoint"
    before = resumed(folder, kept)
    (folder / "cat" / "0.jpg").unlink()
    (folder / "cat" / "00.png").write_bytes(encoded(photograph(seed=9)))
    (folder / "dog" / "3.jpg").write_bytes(encoded(photograph(seed=11), "JPEG"))
    with Reads(folder) as reads:
        after = resumed(folder, kept)
    assert after == counted(folder)
    assert after != before
    assert 2 <= reads.files < 12, "the lines of what did not change are used"


def test_a_checkpoint_of_other_settings_is_rejected(
    folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a.json"
    with monkeypatch.context() as patched:
        patched.setattr(StatsCheckpoint, "remove", StatsCheckpoint.close)
        normcli.stats(folder, output=output, resume=True)
    with pytest.raises(UsageError, match="other settings: color was auto, now gray"):
        normcli.stats(folder, output=output, resume=True, color="gray")
    done = run("stats", folder, "-o", "a.json", "--resume", "--color", "gray")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    (tmp_path / "b.json.checkpoint").write_bytes(b"something else\n")
    assert run("stats", folder, "-o", "b.json", "--resume").returncode == 2  # somebody's file: not overwritten
    assert (tmp_path / "b.json.checkpoint").read_bytes() == b"something else\n"


def test_two_runs_never_write_one_checkpoint(folder: Path, tmp_path: Path) -> None:
    checkpoint = StatsCheckpoint(tmp_path / "a.checkpoint", {})
    with pytest.raises(NormcliError, match="another run"):
        StatsCheckpoint(tmp_path / "a.checkpoint", {})
    checkpoint.close()
    StatsCheckpoint(tmp_path / "a.checkpoint", {}).close()


def test_an_existing_output_is_not_overwritten_from_python(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.json"
    output.write_text("somebody's")
    cases: list[dict[str, Any]] = [{}, {"resume": True}, {"incremental": True}]
    for options in cases:
        with pytest.raises(UsageError, match="exists"):
            normcli.stats(folder, output=output, **options)
        assert output.read_text() == "somebody's"
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.json"]
    summary = normcli.stats(folder, output=output, force=True)
    assert output.read_text() == summary.to_json()


def test_an_interrupted_run_says_how_to_resume_and_a_resumed_one_that_it_did(
    quick: None, photographs: Path, run: Run, tmp_path: Path
) -> None:
    def stop(batch: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        normcli.stats(photographs, output=tmp_path / "s.json", resume=True, engine="serial", on_progress=stop)
    counts: list[int] = []
    normcli.stats(photographs, output=tmp_path / "s.json", resume=True, on_resume=counts.append)
    assert len(counts) == 1 and 0 < counts[0] < 62
    (tmp_path / "s.json").unlink()
    done = run("stats", photographs, "-o", "s.json", "--resume")
    assert f"resumed: {62} inputs from s.json.checkpoint" in done.stderr.decode()


def test_resume_needs_an_output(folder: Path, run: Run) -> None:
    done = run("stats", folder, "--resume")
    assert done.returncode == 2
    assert b"requires" in done.stderr
    with pytest.raises(UsageError, match="requires"):
        normcli.stats(folder, resume=True)


def test_a_signal_within_an_addition_leaves_nothing_half_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the run writes pending counts: never those of a batch that is not named, or a part of them."""
    from normcli.runs.count import PartialResult

    def interrupted(self: PartialResult, other: PartialResult) -> None:
        self.inputs += other.inputs
        raise KeyboardInterrupt

    opened = StatsCheckpoint(tmp_path / "a.checkpoint", {})
    size = (tmp_path / "a.checkpoint").stat().st_size
    opened.record([b"first"], PartialResult(inputs=1))
    monkeypatch.setattr(PartialResult, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.record([b"second"], PartialResult(inputs=1))
    opened.flush()
    opened.close()
    assert (tmp_path / "a.checkpoint").stat().st_size == size
