"""`normcli stats` against the programs that people use, at every size of images."""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import datasets, peers
from benchmarks.timing import PYTHON, Row, alternating, faster, show, stats_command, takes

PARTS = ("photographs", "many", "png", "jpeg32", "mnist", "cifar")
# of the decoder and the programs in two threads or processes, the share of their time that normcli may take
PHOTOGRAPHS = {"floor": 1.30, "opencv_threads": 0.92, "opencv_processes": 0.92}
MANY_PHOTOGRAPHS = {"floor": 1.22, "opencv_threads": 0.92, "opencv_processes": 0.92}
SMALL = {"opencv_threads": 0.9, "opencv_processes": 0.9}


def main(arguments: list[str]) -> list[Row]:
    """Print every row that the folders at hand allow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stats", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of images to time on, instead of our own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(peers.PEERS), help="which peers, by comma")
    parser.add_argument("--only", choices=PARTS, action="append")
    chosen = parser.parse_args(arguments)
    here = peers.installed()
    if absent := sorted(set(peers.PEERS) - set(here)):
        print(f"absent peers: {', '.join(absent)}")
    names = [name for name in here if name in chosen.peers.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        return show(rows(Path(scratch), chosen.folders, chosen.only or PARTS, names, chosen.rounds))


def rows(scratch: Path, folders: list[Path], only: tuple[str, ...], names: list[str], rounds: int) -> Iterator[Row]:
    """Measure the parts that were chosen, or the folders in their place."""
    for folder in folders:
        yield from compare(f"stats, {folder.name}", folder, names, rounds, {})
    real = datasets.SHARED.is_dir() and not folders
    quick = [name for name in names if name not in peers.SLOW]
    some = [*quick, *(name for name in names if name in ("dataloader_batches", "pil_numpy"))]
    if real and "photographs" in only:
        folder = datasets.repeated(datasets.PHOTOGRAPHS, scratch / "photographs", 1000)
        each = [name for name in names if name != "dataloader_batches"]  # no two have the same size
        yield from compare("stats, 1,000 photographs", folder, each, rounds, PHOTOGRAPHS)
        yield one_worker_to_two(folder, rounds)
    if real and "many" in only:
        folder = datasets.repeated(datasets.PHOTOGRAPHS, scratch / "many", 5000)
        few = [name for name in names if name in MANY_PHOTOGRAPHS]
        yield from compare("stats, 5,000 photographs", folder, few, min(rounds, 3), MANY_PHOTOGRAPHS)
    if real and "png" in only:
        folder = datasets.as_png(datasets.PHOTOGRAPHS, scratch / "png", 200)
        yield from compare("stats, 200 PNG photographs", folder, _reading_png(some, batches=False), rounds, {})
    if not folders and "jpeg32" in only:
        folder = datasets.small_jpegs(scratch / "jpeg32", 10_000)
        yield from compare("stats, 10,000 JPEGs of 32x32", folder, some, rounds, SMALL)
    if real and "mnist" in only:
        folder = datasets.mnist(scratch / "mnist", 60_000)
        yield from compare("stats, 60,000 MNIST PNGs", folder, _reading_png(some), rounds, SMALL)
    if real and "cifar" in only:
        folder = datasets.small_pngs(datasets.PHOTOGRAPHS, scratch / "cifar", 50_000)
        yield from compare("stats, 50,000 PNGs of 32x32", folder, _reading_png(some), rounds, SMALL)


def _reading_png(names: list[str], *, batches: bool = True) -> list[str]:
    left_out = {"turbojpeg", "torchvision"} if batches else {"turbojpeg", "torchvision", "dataloader_batches"}
    return [name for name in names if name not in left_out]


def compare(work: str, folder: Path, names: list[str], rounds: int, at_most: Mapping[str, float]) -> Iterator[Row]:
    """Yield one row for each peer."""
    commands = {name: [PYTHON, "-m", "benchmarks.peers", name, str(folder)] for name in names}
    times = alternating({"normcli": stats_command(folder), **commands}, rounds, peers.SLOW)
    ours = times.pop("normcli")
    for name, theirs in times.items():
        if name == "floor" or name in at_most:
            yield takes(work, peers.title(name), ours, theirs, at_most.get(name))
        else:
            yield faster(work, peers.title(name), ours, theirs)


def one_worker_to_two(folder: Path, rounds: int) -> Row:
    """Compare one worker with two."""
    one, two = alternating({"1": stats_command(folder, "-j", "1"), "2": stats_command(folder)}, rounds).values()
    return faster("stats, 1,000 photographs", "1 worker, with 2", two, one, 1.8)
