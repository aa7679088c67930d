"""Time and memory of `normcli stats` as a dataset grows, and of its second run over files that it knows."""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import datasets, peers
from benchmarks.timing import PYTHON, Row, alternating, faster, peak_megabytes, seconds, show, stats_command, takes

PARTS = ("time", "memory", "incremental")
TINY = "images of 32x32"


def main(arguments: list[str]) -> list[Row]:
    """Print the rows of the parts that were chosen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS, action="append")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        return show(rows(Path(scratch), chosen.only or PARTS, chosen.rounds))


def rows(scratch: Path, only: tuple[str, ...], rounds: int) -> Iterator[Row]:
    """Measure the parts that were chosen."""
    picture = scratch / "tiny" / "tiny.jpg"
    picture.parent.mkdir()
    picture.write_bytes(datasets.encoded_picture())
    if "time" in only:
        yield from growth(scratch, picture, rounds)
    if "memory" in only:
        yield from memory(scratch, picture)
    if "incremental" in only:
        yield from incremental(scratch, picture, rounds)


def growth(scratch: Path, picture: Path, rounds: int) -> Iterator[Row]:
    """Compare the time for an image more: from 1,000 to 10,000, to 100,000 and to 1,000,000.

    The same of a program that only reads and decodes shows what the file system adds.
    """
    counts = (1_000, 10_000, 100_000, 1_000_000)
    folders = {n: datasets.many_links(scratch / f"growth{n}", picture, n) for n in counts}
    commands = {f"stats {n}": stats_command(folder) for n, folder in folders.items()}
    commands |= {f"floor {n}": [PYTHON, "-m", "benchmarks.peers", "floor", str(folders[n])] for n in counts}
    times = alternating(commands, rounds, seldom=("stats 1000000", "floor 1000000"))
    for name, work in (("stats", "stats"), ("floor", peers.title("floor"))):
        slopes = [(times[f"{name} {b}"] - times[f"{name} {a}"]) / (b - a) for a, b in itertools.pairwise(counts)]
        for (a, b), slope in zip(itertools.pairwise(counts), slopes, strict=True):
            bounded = name == "stats" and a != counts[0]
            bound = ("<= 1.2x", slope <= 1.2 * slopes[0]) if bounded else ("", None)
            against = f"an image more, from {a:,} to {b:,}"
            yield Row(f"{work}, up to {counts[-1]:,} {TINY}", against, f"{1e6 * slope:.0f} us", *bound)


def memory(scratch: Path, picture: Path) -> Iterator[Row]:
    """Compare resident memory at its peak with that of a run with one image."""
    one = peak_megabytes(stats_command(datasets.many_links(scratch / "one", picture, 1)))
    for count in (100_000, 1_000_000):
        folder = scratch / f"growth{count}"
        folder = folder if folder.is_dir() else datasets.many_links(folder, picture, count)
        yield over_the_start(f"{count:,} {TINY}", peak_megabytes(stats_command(folder)) - one)
    names = datasets.million_names(scratch, picture)
    listed = peak_megabytes([PYTHON, "-m", "normcli", "stats", "-q", "-j", "2", "--files-from", str(names)])
    yield over_the_start("1,000,000 names", listed - one)
    side = 8000
    bound = 2 * 3 * side * side / 2**20 + 100
    large = peak_megabytes(stats_command(datasets.large_jpegs(scratch / "large", side, 3)))
    work, against = "memory, JPEGs of 64 megapixels", "2 x image + 100 MB"
    yield Row(work, against, f"{large:.0f} MB", f"<= {bound:.0f} MB", large <= bound)


def over_the_start(work: str, megabytes: float) -> Row:
    """Return the row of memory that a run needs over a run with one image."""
    return Row(f"memory, {work}", "over the start", f"{megabytes:.0f} MB", "<= 250 MB", megabytes <= 250)


def incremental(scratch: Path, picture: Path, rounds: int) -> Iterator[Row]:
    """Compare runs with a file cache with runs without: the first one, and later ones."""
    known = datasets.copied(picture.parent, scratch / "known", 100_000)
    yield unchanged(f"100,000 {TINY}", known, scratch)
    small = datasets.small_jpegs(scratch / "incremental", 10_000)
    yield from changed("10,000 JPEGs of 32x32", small, scratch, rounds)
    if datasets.SHARED.is_dir():
        folder = datasets.copied(datasets.PHOTOGRAPHS, scratch / "incremental-photographs", 1000)
        yield unchanged("1,000 photographs", folder, scratch)
        yield from changed("1,000 photographs", folder, scratch, rounds, 3)
        many = datasets.repeated(folder, scratch / "incremental-many-photographs", 100_000)
        yield unchanged("100,000 photographs", many, scratch, 20)


def unchanged(images: str, folder: Path, scratch: Path, at_least: float | None = None) -> Row:
    """Compare a run over files that it knows with one that decodes them."""
    cached = stats_command(folder, "-o", str(scratch / "known.json"), "--incremental")
    time.sleep(2.1)  # a file younger than 2 s has no version yet
    seconds([*cached, "--force"])
    commands = {"full": stats_command(folder), "known": cached}
    full, known = alternating(commands, 3, is_warm=True).values()
    return faster(f"--incremental, {images}", "none changed, with stats", known, full, at_least)


def changed(images: str, folder: Path, scratch: Path, rounds: int, at_least: float | None = None) -> Iterator[Row]:
    """Compare a first run with a file cache, and a later one with one file in a hundred changed, with plain runs."""
    files = sorted(folder.iterdir())
    cached = stats_command(folder, "-o", str(scratch / "cached.json"), "--incremental")
    time.sleep(2.1)
    everything, first, later = [], [], []
    for turn in range(rounds + 1):
        everything.append(seconds(stats_command(folder)))
        first.append(seconds([*cached, "--force"]))
        for path in files[turn::100]:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
        time.sleep(2.1)
        later.append(seconds(cached))
    plain, stored, updated = (statistics.median(times[1:]) for times in (everything, first, later))
    yield takes(f"--incremental, {images}", "first run, with stats", stored, plain)
    yield faster(f"--incremental, {images}", "1% changed, with stats", updated, plain, at_least)
