"""`normcli stats` against the floor and the peers; start-up; memory."""

import argparse
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import peers
from benchmarks.timing import ROOT, alternating, peak_megabytes, ratios

SHARED = ROOT.parent / "shared" / "data"
PYTHON = sys.executable


def main(arguments: list[str]) -> None:
    """Print every row that the folders at hand allow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stats", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of images to time on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(peers.PEERS), help="which peers, by comma")
    parser.add_argument("--only", choices=["folders", "small", "start", "memory"], action="append")
    chosen = parser.parse_args(arguments)
    only = chosen.only or ["folders", "small", "start", "memory"]
    absent = sorted(set(peers.PEERS) - set(peers.installed()))
    if absent:
        print(f"absent peers: {', '.join(absent)}")
    names = [n for n in chosen.peers.split(",") if n in set(peers.installed())]
    with tempfile.TemporaryDirectory() as scratch:
        folders = list(chosen.folders)
        if not folders and "folders" in only and SHARED.is_dir():
            folders = [SHARED / "imagenet-300", repeated(SHARED / "imagenet-300", Path(scratch) / "photos", 1000)]
        for folder in folders:
            compare(folder, names, chosen.rounds)
        if "small" in only:
            compare(small_jpegs(Path(scratch) / "small", 10_000), names, chosen.rounds)
            if SHARED.is_dir():
                with tarfile.open(SHARED / "mnist-test.tar") as tar:
                    tar.extractall(Path(scratch) / "mnist", filter="data")
                compare(Path(scratch) / "mnist", names, chosen.rounds)
        if "start" in only:
            start_up(Path(scratch), chosen.rounds)
        if "memory" in only:
            memory(Path(scratch))


def stats_command(folder: Path, *options: str) -> list[str]:
    return [PYTHON, "-m", "normcli", "stats", "-q", "-j", "2", str(folder), *options]


def compare(folder: Path, names: list[str], rounds: int) -> None:
    commands = {name: [PYTHON, "-m", "benchmarks.peers", name, str(folder)] for name in names}
    times = alternating({"normcli stats": stats_command(folder), **commands}, rounds)
    ratios(f"{folder.name}, {len(peers.files(str(folder)))} files", times, "normcli stats")
    one = alternating({"1 worker": stats_command(folder, "-j", "1"), "2 workers": stats_command(folder)}, rounds)
    print(f"  1 to 2 workers: {one['1 worker'] / one['2 workers']:.2f}x")


def repeated(source: Path, target: Path, count: int) -> Path:
    """A folder of links to the same files, over and over."""
    target.mkdir()
    names = sorted(source.iterdir())
    for i in range(count):
        (target / f"{i:05}{names[i % len(names)].suffix}").symlink_to(names[i % len(names)])
    return target


def small_jpegs(target: Path, count: int) -> Path:
    """JPEGs of 32x32, smooth with grain, as CIFAR's."""
    target.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for i in range(count):
        waves = np.stack([128 + 80 * np.sin(x / (3 + c) + y / (2 + i % 9)) for c in range(3)], axis=2)
        picture = np.clip(waves + rng.normal(0, 15, waves.shape), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(target / f"{i:06}.jpg", quality=90)
    return target


def start_up(scratch: Path, rounds: int) -> None:
    Image.new("RGB", (64, 64), (1, 2, 3)).save(scratch / "one.png")
    file = scratch / "one.json"
    normcli = [PYTHON, "-m", "normcli"]
    alternating({"make": [*normcli, "stats", str(scratch / "one.png"), "-q", "-o", str(file), "--force"]}, 1)
    times = alternating(
        {
            "python -c pass": [PYTHON, "-c", "pass"],
            "normcli --version": [*normcli, "--version"],
            "normcli show FILE": [*normcli, "show", str(file)],
            "normcli --help": [*normcli, "--help"],
            "normcli stats ONE": [*normcli, "stats", str(scratch / "one.png")],
        },
        max(rounds, 11),
    )
    print("\nstart")
    for name, elapsed in times.items():
        print(f"  {name:44}{elapsed:9.3f} s  {elapsed / times['python -c pass']:.1f}x python -c pass")


def memory(scratch: Path) -> None:
    picture = scratch / "tiny.png"
    Image.new("RGB", (8, 8), (9, 8, 7)).save(picture)
    print("\nmemory")
    first = 0.0
    for count in (100, 100_000):
        folder = scratch / f"tiny{count}"
        folder.mkdir()
        for i in range(count):
            (folder / f"{i:06}.png").symlink_to(picture)
        peak = peak_megabytes(stats_command(folder))
        first = first or peak
        print(f"  {count:7} files: {peak:7.1f} MB  (+{peak - first:.1f} MB)")
