"""A file cache is right or rejected: damage, lies, kills, wrong use; and the packing of an image in it."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import NormcliError, StatisticsFileError, UsageError
from normcli.runs.cache_database import CacheDatabase, _checksum
from normcli.runs.cache_entry import CacheEntry
from normcli.runs.count import Failure
from normcli.runs.file_cache import Changes
from normcli.runs.stats import cache_path
from normcli.storage.atomic import PARTIAL
from normcli.tally import Tally
from normcli.tally.serialize import from_bytes, to_bytes
from tests.support.command import ROOT, Run
from tests.support.images import encoded, photograph
from tests.support.incremental import first

pytestmark = pytest.mark.usefixtures("files_of_long_ago")


DEPTHS = [(dtype, False) for dtype in (np.uint8, np.uint16, np.float32, np.float64)]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("dtype", "weighted"), [*DEPTHS, (np.uint8, True), (np.uint16, True)])
def test_one_image_packs_to_the_last_bit(dtype: Any, channels: int, weighted: bool) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.normal(0, 300, (30, 40, channels))
    pixels = pixels.astype(dtype) if np.dtype(dtype).kind == "f" else (np.abs(pixels) * 50).astype(dtype)
    weights = rng.integers(0, np.iinfo(dtype).max, (30, 40)).astype(dtype) if weighted else None
    tally = Tally()
    tally.count(pixels, weights, notes=("format:PNG", "depth:8"), data=b"bytes", group="a\udcff")
    data = to_bytes(tally)
    assert from_bytes(data).state() == tally.state()
    for damaged in (data[:20], data[:-9], b"", b"x" * 30, to_bytes(tally)[:-1] + b"\0"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            from_bytes(damaged)
    with pytest.raises(ValueError, match="2 images"):
        to_bytes(tally + tally)


def test_zero_has_one_sign_in_the_state() -> None:
    """0.0 and -0.0 are one key: which of them came first must not show."""
    one, other = Tally(), Tally()
    one.count(np.array([[[0.0], [-1.0]]]))
    other.count(np.array([[[-0.0], [-1.0]]]))
    assert repr((one + other).state()) == repr((other + one).state())


def test_a_cache_of_other_settings_is_rejected(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    with pytest.raises(UsageError, match="other settings: color was auto, now gray"):
        normcli.stats(folder, output=place, incremental=True, color="gray")
    with pytest.raises(UsageError, match="max_pixels was"):
        normcli.stats(folder, output=place, incremental=True, max_pixels=10)


def test_the_cache_needs_no_other_file(folder: Path, tmp_path: Path) -> None:
    """A statistics file that was lost or damaged is written anew, without reading an image."""
    place = tmp_path / "s.json"
    expected = first(folder, place).to_json()
    for change in (place.unlink, lambda: place.write_text("edited"), lambda: normcli.stats(folder / "cat").save(place)):
        change()
        changes: list[Changes] = []
        again = normcli.stats(folder, output=place, incremental=True, on_update=changes.append)
        assert again.to_json() == expected == place.read_text()
        assert changes == [Changes(12, 0, 0, 0, 0)]


REFUSED: dict[str, dict[str, Any]] = {
    "sample": {"sample": "3"},
    "margin": {"margin": 0.1},
    "shard": {"shard": "1/2"},
    "per_image": {"on_image": print},
    "report": {"on_gallery": print},
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_combined_is_rejected(option: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=option):
        normcli.stats(folder, output=tmp_path / "s.json", incremental=True, **REFUSED[option])


def test_resume_adds_nothing_to_a_cache(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    expected = normcli.stats(folder).to_json()
    for _ in range(2):
        assert normcli.stats(folder, output=place, incremental=True, resume=True).to_json() == expected
        assert {path.name for path in tmp_path.iterdir()} == {"images", "s.json", "s.json.cache"}


def damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    for place in (0, 1, 50, 100, 4096, 4100, len(data) // 2, len(data) - 4096, len(data) - 20, len(data) - 1):
        yield f"cut at {place}", data[:place]
    rng = random.Random(7)
    for _ in range(120):
        at = rng.randrange(len(data) - 1)
        yield f"flipped at {at}", data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    for at in range(0, len(data), 4096):
        yield f"page at {at} of zeros", data[:at] + bytes(4096) + data[at + 4096 :]
        yield f"page at {at} is another's", data[:at] + data[4096:8192] + data[at + 4096 :]
    yield "no line at all", b"\n" * 5
    yield "deep", b"[" * 100_000
    yield "a pickle", b"\x80\x04\x95\x05\x00."
    yield "zeros", bytes(len(data))


def test_a_damaged_cache_is_one_error_or_costs_nothing(folder: Path, tmp_path: Path) -> None:
    """A part that is not used may be damaged: then the result is that of a run over everything."""
    place = tmp_path / "s.json"
    first(folder, place)
    data = cache_path(place).read_bytes()
    (folder / "cat" / "0.jpg").unlink()
    (folder / "cat" / "1.jpg").write_bytes(encoded(photograph(seed=9), "JPEG"))
    expected = normcli.stats(folder).to_json()
    rejected = 0
    for name, damaged in damages(data):
        for path in tmp_path.glob("s.json.cache*"):
            path.unlink()
        cache_path(place).write_bytes(damaged)
        try:
            assert normcli.stats(folder, output=place, incremental=True, engine="serial").to_json() == expected, name
        except (StatisticsFileError, UsageError) as error:
            assert "\n" not in str(error), name
            rejected += 1
    assert rejected > 40


def test_a_cache_that_is_no_file_is_one_error(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    cache_path(place).unlink()
    for make in (os.mkfifo, os.mkdir):
        make(cache_path(place))
        with pytest.raises(StatisticsFileError, match="not a regular file"):
            normcli.stats(folder, output=place, incremental=True)
        cache_path(place).unlink() if make is os.mkfifo else cache_path(place).rmdir()


def test_somebody_elses_database_is_left_alone(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    with closing(sqlite3.connect(cache_path(place))) as connection:
        connection.execute("CREATE TABLE entries (id INTEGER)")
    before = cache_path(place).read_bytes()
    with pytest.raises(StatisticsFileError, match="not a file cache of normcli"):
        normcli.stats(folder, output=place, incremental=True)
    assert cache_path(place).read_bytes() == before


def rewrite(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every entry and correct the checksums, as a forger can."""
    with closing(sqlite3.connect(cache_path(place), isolation_level=None)) as connection:
        rows = connection.execute(
            "SELECT e.id, key, version, facts, run, counts FROM entries e LEFT JOIN counts c ON e.id = c.id"
        ).fetchall()
        for number, key, version, facts, run, counts in rows:
            row = {"key": key.decode(), "facts": json.loads(facts), "counts": counts}
            change(row)
            text = row["facts"] if isinstance(row["facts"], str) else json.dumps(row["facts"])
            checksum = _checksum(number, row["key"], version, text, run)
            connection.execute("UPDATE entries SET facts = ?, checksum = ? WHERE id = ?", (text, checksum, number))
            checksum = zlib.crc32(row["counts"])
            connection.execute(
                "UPDATE counts SET counts = ?, checksum = ? WHERE id = ?", (row["counts"], checksum, number)
            )


def _one() -> Tally:
    tally = Tally()
    tally.count(photograph(200, 200, 3, seed=99), data=b"other")
    return tally


@cache
def _bomb() -> bytes:
    return zlib.compress(bytes(50_000_000))


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "counts of another": lambda row: row.update(counts=to_bytes(_one())),
    "no counts": lambda row: row["facts"].update(counted=False),
    "not deflated": lambda row: row.update(counts=b"\xa7"),
    "a bomb": lambda row: row.update(counts=_bomb()),
    "a bomb as container": lambda row: [row.update(counts=_bomb()), row["facts"].update(inputs=3)],
    "a list as facts": lambda row: row.update(facts="[1]"),
    "a number as failure": lambda row: row["facts"].update(failures=[1]),
    "kinds": lambda row: row["facts"].update(kinds=[3]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_cache_that_lies_is_one_error(lie: str, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    rewrite(place, LIES[lie])
    (folder / "cat" / "0.jpg").unlink()
    with pytest.raises((StatisticsFileError, NormcliError)) as raised:
        normcli.stats(folder, output=place, incremental=True, engine="serial")
    assert "\n" not in str(raised.value)


def test_an_entry_that_is_lost_is_found_out(folder: Path, tmp_path: Path) -> None:
    """It would be counted twice: in the sum, and as a file that is new."""
    place = tmp_path / "s.json"
    first(folder, place)
    with closing(sqlite3.connect(cache_path(place), isolation_level=None)) as connection:
        connection.execute("DELETE FROM entries WHERE id = 3")
    with pytest.raises(StatisticsFileError, match="damaged"):
        normcli.stats(folder, output=place, incremental=True)


# a run that kills itself before or after its N-th step that is to last
PREPARED = """
import os, sys
from pathlib import Path
from normcli.runs import cache_database
from normcli.storage import files
files.RECENT = 0
cache_database._SECONDS = 0
left = int(sys.argv[1])
def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
def lasting(function):
    def call(*arguments, **options):
        step()
        result = function(*arguments, **options)
        step()
        return result
    return call
Path.replace, os.fsync = lasting(Path.replace), lasting(os.fsync)
cache_database.CacheDatabase.commit = lasting(cache_database.CacheDatabase.commit)
"""
COMMAND = f"""{PREPARED}
from normcli.cli.main import run
sys.exit(run(["stats", sys.argv[2], "-o", sys.argv[3], "--incremental", *sys.argv[4:]]))
"""
PYTHON = f"""{PREPARED}
import normcli
normcli.stats(sys.argv[2], output=sys.argv[3], incremental=True)
"""
PROGRAMS = pytest.mark.parametrize("program", [COMMAND, PYTHON], ids=["command", "Python"])


def start(program: str, steps: int, *arguments: Any) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    called = [sys.executable, "-c", program, str(steps), *map(str, arguments)]
    return subprocess.run(called, capture_output=True, env=environment, timeout=120, check=False)


@PROGRAMS
def test_killed_at_any_step_the_next_run_is_right(program: str, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    done = start(program, 0, folder, place)
    assert (done.returncode, done.stderr[:3]) == (0, b"" if program is PYTHON else done.stderr[:3])
    kept = set()
    for steps in range(1, 200):
        for number in range(4):
            (folder / "cat" / f"new{number}.png").write_bytes(encoded(photograph(seed=steps + number)))
        before = place.read_text()
        done = start(program, steps, folder, place)
        expected = normcli.stats(folder).to_json()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert place.read_text() in (before, expected), "the old statistics or the new ones"
        changes: list[Changes] = []
        again = normcli.stats(folder, output=place, incremental=True, on_update=changes.append)
        assert again.to_json() == expected == place.read_text()
        kept.add(changes[0].reused)
    assert steps > 8
    assert min(kept) >= 12, "what was counted before is never read again"
    assert max(kept) == 16, "nor what the killed run has counted"
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith(PARTIAL)}
    assert left == {"images", "s.json", "s.json.cache"}


@pytest.mark.campaign
@PROGRAMS
def test_killed_at_random_moments(program: str, folder: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    place = tmp_path / "s.json"
    start(program, 0, folder, place)
    started = time.perf_counter()
    start(program, 0, folder, place)
    takes = time.perf_counter() - started
    called = [sys.executable, "-c", program, "0", str(folder), str(place)]
    killed = 0
    for number in range(100):
        (folder / "dog" / f"new{number % 7}.png").write_bytes(encoded(photograph(seed=number)))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(called, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                process.wait(rng.uniform(0.3, 1.1) * takes)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        if number % 3 == 0:
            expected = normcli.stats(folder).to_json()
            assert normcli.stats(folder, output=place, incremental=True).to_json() == expected == place.read_text()
    print(f"100 runs, {killed} killed, the next one right after each")
    assert killed > 10


def test_the_command_prints_what_it_found(folder: Path, tmp_path: Path, run: Run) -> None:
    place = tmp_path / "s.json"
    assert start(COMMAND, 0, folder, place, "-q").returncode == 0
    (folder / "cat" / "0.jpg").unlink()
    done = start(COMMAND, 0, folder, place)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == b"files: 11 reused, 0 new, 0 changed, 1 removed"
    fresh = run("stats", folder, "--json", "-q")
    assert place.read_bytes() == fresh.stdout


USAGE = {
    "a cache of stdout": (["--incremental", "--json"], b"requires"),
    "a cache of -": (["--incremental", "-o", "-"], b"requires"),
    "over somebody's statistics": (["--incremental", "-o", "t.json"], b"t.json: exists"),
    "with a shard": (["--incremental", "-o", "s.json", "--shard", "1/2"], b"shard"),
    "with a sample": (["--incremental", "-o", "s.json", "--sample", "2"], b"sample"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_use_is_one_line_and_exit_2(case: str, folder: Path, tmp_path: Path, run: Run) -> None:
    first(folder, tmp_path / "s.json")
    (tmp_path / "t.json").write_text("mine")
    arguments, words = USAGE[case]
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = run("stats", folder, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr and done.stderr.count(b"\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_two_runs_never_write_one_cache(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    database = CacheDatabase(str(cache_path(place)), {})
    with pytest.raises(NormcliError, match="another run"):
        normcli.stats(folder, output=place, incremental=True)
    database.close()
    normcli.stats(folder, output=place, incremental=True)


def test_a_run_that_fails_keeps_what_it_counted(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    (folder / "bad.png").write_bytes(b"x")
    options: dict[str, Any] = {"output": place, "incremental": True, "engine": "serial"}
    with pytest.raises(NormcliError):
        normcli.stats(folder, max_failures=0, **options)
    assert not place.exists()
    (folder / "bad.png").unlink()
    changes: list[Changes] = []
    summary = normcli.stats(folder, on_update=changes.append, **options)
    assert summary.to_json() == normcli.stats(folder).to_json()
    assert changes[0].reused > 0


def test_a_run_that_counts_nothing_leaves_no_cache(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NormcliError):
        normcli.stats(tmp_path / "nothing", output=tmp_path / "a.json", incremental=True, max_failures=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_photographs_take_little(shared_data: Path, tmp_path: Path) -> None:
    photographs = shared_data / "imagenet-300"
    images = normcli.stats(photographs, output=tmp_path / "l", incremental=True).images
    size = (tmp_path / "l.cache").stat().st_size / images
    print(f"{size:.0f} bytes an image")
    assert size < 2000


@pytest.mark.parametrize("order", ["sorted", "reversed", "random", "repeated"])
def test_rows_are_found_in_any_order(order: str, tmp_path: Path) -> None:
    """Rows that are read ahead are those of a query for each key."""
    rng = random.Random(0)
    path = str(tmp_path / "s.json.cache")
    names = [f"d/{i:04}é.png" for i in range(0, 3000, 3)]
    stored: dict[str, list[str | None]] = {}
    choices: list[list[str | None]] = [["1"], ["2"], [None], ["3", "4"], ["5", "6", "7"]]
    database = CacheDatabase(path, {})
    for name in rng.sample(names, len(names)):
        for version in rng.choice(choices):
            database.add(CacheEntry(name, version, failures=[Failure(name, "load", "empty", "")]))
            stored.setdefault(name, []).append(version)
    database.close()
    keys = [f"d/{i:04}é.png" for i in range(-1, 3002)]
    if order == "reversed":
        keys.reverse()
    elif order == "random":
        rng.shuffle(keys)
    elif order == "repeated":
        keys = [key for key in keys for _ in range(1 + rng.randrange(2))] + keys[:50]
    database = CacheDatabase(path, {})
    database.add(CacheEntry(names[0], "of this run", failures=[Failure("", "load", "empty", "")]))
    for key in keys:
        assert [entry.entry.version for entry in database.find(key)] == stored.get(key, [])
    database.close()
