"""A ledger and its statistics stay together: damage, lies, kills, wrong use; and how an image is packed in it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import NormcliError, StatisticsFileError, UsageError
from normcli.runs.file_cache import Changes
from normcli.runs.file_cache_format import CacheEntry, beside
from normcli.storage.temp_files import PARTIAL
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
    tally.composition["ignored-pixels"] += 7
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


def test_the_pair_is_held_together(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    with pytest.raises(StatisticsFileError, match="--ledger` makes it"):
        normcli.stats(folder).save(place)
        normcli.stats(folder, update=place)
    first(folder, place)
    normcli.stats(folder / "cat").save(place)
    with pytest.raises(StatisticsFileError, match="is not the ledger of"):
        normcli.stats(folder, update=place)
    first(folder, place)
    with pytest.raises(UsageError, match="other settings: color was 'auto', now 'gray'"):
        normcli.stats(folder, update=place, color="gray")
    with pytest.raises(UsageError, match="max_pixels was"):
        normcli.stats(folder, update=place, max_pixels=10)


REFUSED: dict[str, dict[str, Any]] = {
    "--sample": {"sample": "3"},
    "--tolerance": {"tolerance": 0.1},
    "--shard": {"shard": "1/2"},
    "--resume": {"resume": "j"},
    "--per-image": {"on_image": print},
    "--report": {"on_gallery": print},
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_go_together_is_refused(option: str, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    with pytest.raises(UsageError, match=option):
        normcli.stats(folder, update=place, **REFUSED[option])
    if option not in ("--per-image", "--report"):  # a first run does go with them
        with pytest.raises(UsageError, match=option):
            normcli.stats(folder, ledger=beside(place), **REFUSED[option])


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    lines = whole.splitlines(keepends=True)
    for place in (0, 1, len(lines[0]), len(whole) // 2, len(whole) - len(lines[-1]), len(whole) - 20, len(whole) - 2):
        yield f"cut at {place}", whole[:place]
    rng = random.Random(7)
    for _ in range(60):
        at = rng.randrange(len(whole) - 1)
        yield f"flipped at {at}", whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
    yield "a line twice", b"".join([*lines[:3], *lines[2:]])
    yield "a line less", b"".join([*lines[:3], *lines[4:]])
    yield "no line at all", b"\n" * 5
    yield "deep", b"[" * 100_000
    yield "a pickle", b"\x80\x04\x95\x05\x00."
    yield "zeros", bytes(len(whole))


def test_a_damaged_ledger_is_one_error(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    whole = beside(place).read_bytes()
    tried = 0
    for what, damaged in damages(whole):
        beside(place).write_bytes(damaged)
        with pytest.raises((StatisticsFileError, UsageError)) as raised:
            normcli.stats(folder, update=place)
        assert "\n" not in str(raised.value), what
        tried += 1
    assert tried > 70


def test_a_ledger_that_is_no_file_is_one_error(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    beside(place).unlink()
    for make in (os.mkfifo, os.mkdir):
        make(beside(place))
        with pytest.raises(StatisticsFileError, match="not a regular file"):
            normcli.stats(folder, update=place)
        beside(place).unlink() if make is os.mkfifo else beside(place).rmdir()


def resealed(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every record and put the digest right: what a liar can do."""
    import hashlib
    import json

    lines = beside(place).read_bytes().splitlines(keepends=True)
    digest = hashlib.sha256(lines[0])
    out = [lines[0]]
    for line in lines[1:-1]:
        record = json.loads(line)
        change(record)
        out.append(json.dumps(record).encode() + b"\n")
        digest.update(out[-1])
    end = {**json.loads(lines[-1]), "digest": digest.hexdigest()}
    beside(place).write_bytes(b"".join([*out, json.dumps(end).encode() + b"\n"]))


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "counts of another": lambda r: r.update(
        counts=CacheEntry("", None, to_bytes(_one())).line().split(b'"')[7].decode()
    ),
    "no counts": lambda r: r.pop("counts"),
    "not base64": lambda r: r.update(counts="§"),
    "a bomb": lambda r: r.update(counts=_bomb()),
    "a bomb as container": lambda r: r.update(counts=_bomb(), inputs=3),
    "a number as counts": lambda r: r.update(counts=7),
    "a list as record": lambda r: r.update(failures=[1]),
    "no key": lambda r: r.pop("key"),
    "kinds": lambda r: r.update(kinds=[3]),
}


def _one() -> Tally:
    tally = Tally()
    tally.count(photograph(200, 200, 3, seed=99), data=b"other")
    return tally


@cache
def _bomb() -> str:
    import base64
    import zlib

    return base64.b64encode(zlib.compress(bytes(50_000_000))).decode()


@pytest.mark.parametrize("lie", LIES)
def test_a_ledger_that_lies_is_one_error(lie: str, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    resealed(place, LIES[lie])
    (folder / "cat" / "0.jpg").unlink()
    with pytest.raises((StatisticsFileError, NormcliError)) as raised:
        normcli.stats(folder, update=place, engine="serial")
    assert "\n" not in str(raised.value)


# the command, which kills itself before or after its N-th step that is to last
COMMAND = """
import os, sys
from pathlib import Path
from normcli.storage import versions
versions.RECENT = 0
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
from normcli.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


def command(steps: int, *arguments: Any) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    called = [sys.executable, "-c", COMMAND, str(steps), *map(str, arguments)]
    return subprocess.run(called, capture_output=True, env=environment, timeout=120, check=False)


def test_killed_at_any_step_the_old_pair_or_the_new_one_is_left(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    done = command(0, "stats", folder, "-o", place, "--ledger", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    seen = set()
    for steps in range(1, 100):
        (folder / "cat" / f"new{steps}.png").write_bytes(encoded(photograph(seed=steps)))
        done = command(steps, "stats", folder, "--update", place, "-o", place, "--ledger", "-q")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        told: list[Changes] = []
        again = normcli.stats(folder, update=place, on_update=told.append)
        assert again.to_json() == normcli.stats(folder).to_json()
        assert told[0].kept >= 12, "the pair that is left spares the reading"
        seen.add(told[0].new > 0)
    assert steps > 8 and seen == {False, True}, "some kills left the old pair, some the new one"
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith(PARTIAL)}
    assert left == {"images", "s.json", "s.json.ledger"}


@pytest.mark.campaign
def test_killed_at_random_moments(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    place = tmp_path / "s.json"
    command(0, "stats", folder, "-o", place, "--ledger", "-q")
    called = [sys.executable, "-c", COMMAND, "0", "stats", folder, "--update", place, "-o", place, "--ledger", "-q"]
    started = time.perf_counter()
    command(0, *called[4:])
    takes = time.perf_counter() - started
    killed = 0
    for number in range(100):
        (folder / "dog" / f"new{number % 7}.png").write_bytes(encoded(photograph(seed=number)))
        with subprocess.Popen(list(map(str, called)), env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            try:
                process.wait(rng.uniform(0.3, 1.1) * takes)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        assert normcli.stats(folder, update=place).to_json() == normcli.stats(folder).to_json()
    print(f"100 updates, {killed} killed, the pair usable after each")
    assert killed > 10


def test_the_command_tells_what_it_found(folder: Path, tmp_path: Path, run: Run) -> None:
    place = tmp_path / "s.json"
    assert command(0, "stats", folder, "-o", place, "--ledger", "-q").returncode == 0
    (folder / "cat" / "0.jpg").unlink()
    done = command(0, "stats", folder, "--update", place, "-o", place, "--ledger")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == b"11 kept, 0 new, 0 changed, 1 gone"
    fresh = run("stats", folder, "--json", "-q")
    assert place.read_bytes() == fresh.stdout
    shown = run("stats", folder, "--update", place, "--json", "-q")
    assert shown.stdout == fresh.stdout
    assert shown.stderr == b""


USAGE = {
    "in place without a ledger": (["--update", "s.json", "-o", "s.json"], b"add --ledger"),
    "a ledger of stdout": (["--ledger", "--json"], b"give -o FILE"),
    "a ledger of -": (["--ledger", "-o", "-"], b"give -o FILE"),
    "an update of stdin": (["--update", "-"], b"needs the path"),
    "an update of nothing": (["--update", "nothing.json"], b"no such file"),
    "over somebody's ledger": (["--ledger", "-o", "t.json"], b"t.json.ledger exists"),
    "an update with a shard": (["--update", "s.json", "--shard", "1/2"], b"--shard"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_use_is_one_line_and_exit_2(case: str, folder: Path, tmp_path: Path, run: Run) -> None:
    first(folder, tmp_path / "s.json")
    (tmp_path / "t.json.ledger").write_text("mine")
    arguments, words = USAGE[case]
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = run("stats", folder, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr and done.stderr.count(b"\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_two_runs_never_write_one_ledger(folder: Path, tmp_path: Path) -> None:
    from normcli.runs.file_cache_format import CacheWriter

    writer = CacheWriter(tmp_path / "a.ledger", {})
    with pytest.raises(NormcliError, match="another run"):
        normcli.stats(folder, ledger=tmp_path / "a.ledger")
    writer.abandon()
    normcli.stats(folder, ledger=tmp_path / "a.ledger")


def test_a_run_that_fails_leaves_no_ledger(folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"x")
    with pytest.raises(NormcliError):
        normcli.stats(folder, ledger=tmp_path / "a.ledger", max_failures=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_photographs_take_little(shared_data: Path, tmp_path: Path) -> None:
    photographs = shared_data / "imagenet-300"
    images = normcli.stats(photographs, ledger=tmp_path / "l").images
    size = (tmp_path / "l").stat().st_size / images
    print(f"{size:.0f} bytes an image")
    assert size < 2000
