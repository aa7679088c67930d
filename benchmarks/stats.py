"""`normcli stats` against the floor and the peers; start-up; memory; growth."""

import argparse
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import peers
from benchmarks.timing import ROOT, Row, alternating, faster, peak_megabytes, seconds, show, takes

SHARED = ROOT.parent / "shared" / "data"
PYTHON = sys.executable
PARTS = ("photographs", "png", "small", "incremental", "start", "memory", "growth")


def main(arguments: list[str]) -> list[Row]:
    """Print every row that the folders at hand allow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stats", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of images to time on, instead of our own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(peers.PEERS), help="which peers, by comma")
    parser.add_argument("--only", choices=PARTS, action="append")
    chosen = parser.parse_args(arguments)
    here = set(peers.installed())
    if absent := sorted(set(peers.PEERS) - here):
        print(f"absent peers: {', '.join(absent)}")
    names = [name for name in chosen.peers.split(",") if name in here]
    only = chosen.only or PARTS
    with tempfile.TemporaryDirectory() as scratch:
        return show(rows(Path(scratch), chosen.folders, only, names, chosen.rounds))


def rows(scratch: Path, folders: list[Path], only: tuple[str, ...], names: list[str], rounds: int) -> Iterator[Row]:
    """Measure what is asked for."""
    for folder in folders:
        yield from compare(f"stats, {folder.name}", folder, names, rounds, {})
    real = SHARED.is_dir() and not folders
    if real and "photographs" in only:
        photos = repeated(SHARED / "imagenet-300", scratch / "photos", 1000)
        targets = {"floor": 1.15, "dataloader": 9, "opencv": 2}
        yield from compare("stats, 1,000 photographs", photos, names, rounds, targets)
        yield one_worker_to_two(photos, rounds)
    if real and "png" in only:
        folder = as_png(SHARED / "imagenet-300", scratch / "png", 200)
        some = [name for name in names if name in ("floor", "pil_numpy", "opencv")]
        yield from compare("stats, 200 PNG photographs", folder, some, rounds, {"floor": 1.15})
    if not folders and "small" in only:
        targets = {"floor": 1.5, "dataloader": 20, "opencv": 1}
        some = [name for name in names if name in ("floor", "dataloader", "pil_numpy", "opencv")]
        small = small_jpegs(scratch / "small", 10_000)
        yield from compare("stats, 10,000 JPEGs of 32x32", small, some, rounds, targets)
        if real:
            with tarfile.open(SHARED / "mnist-test.tar") as tar:
                tar.extractall(scratch / "mnist", filter="data")
            yield from compare("stats, 10,000 MNIST PNGs", scratch / "mnist", some, rounds, targets)
    if not folders and "incremental" in only:
        folder = small_jpegs(scratch / "incremental", 10_000)
        yield from incremental("10,000 JPEGs of 32x32", folder, scratch, rounds)
        if real:
            folder = copied(SHARED / "imagenet-300", scratch / "incremental-photos", 1000)
            yield from incremental("1,000 photographs", folder, scratch, rounds, 3)
    if not folders and "start" in only:
        yield from start_up(scratch, rounds)
    if not folders and "growth" in only:
        yield from growth(scratch, rounds)
    if not folders and "memory" in only:
        yield from memory(scratch)


def stats_command(folder: Path, *options: str) -> list[str]:
    return [PYTHON, "-m", "normcli", "stats", "-q", "-j", "2", str(folder), *options]


def compare(work: str, folder: Path, names: list[str], rounds: int, targets: dict[str, float]) -> Iterator[Row]:
    """One row for each peer: how ours compares."""
    commands = {name: [PYTHON, "-m", "benchmarks.peers", name, str(folder)] for name in names}
    times = alternating({"normcli": stats_command(folder), **commands}, rounds, peers.SLOW)
    ours = times.pop("normcli")
    for name, theirs in times.items():
        compared = takes if name == "floor" else faster
        yield compared(work, peers.title(name), ours, theirs, targets.get(name))


def one_worker_to_two(folder: Path, rounds: int) -> Row:
    one, two = alternating({"1": stats_command(folder, "-j", "1"), "2": stats_command(folder)}, rounds).values()
    return faster("stats, 1,000 photographs", "1 worker, with 2", two, one, 1.8)


def incremental(images: str, folder: Path, scratch: Path, rounds: int, at_least: float | None = None) -> Iterator[Row]:
    """What a first run with a file cache costs more, and what a later one spares with one file in a hundred changed."""
    files = sorted(folder.iterdir())
    cached = stats_command(folder, "-o", str(scratch / "cached.json"), "--incremental")
    time.sleep(2.1)  # a file younger than 2 s has no version yet
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


def copied(source: Path, target: Path, count: int) -> Path:
    """A folder of copies of the same files, over and over."""
    target.mkdir()
    names = sorted(source.iterdir())
    for i in range(count):
        shutil.copy(names[i % len(names)], target / f"{i:06}{names[i % len(names)].suffix}")
    return target


def repeated(source: Path, target: Path, count: int) -> Path:
    """A folder of links to the same files, over and over."""
    target.mkdir()
    names = sorted(source.iterdir())
    for i in range(count):
        (target / f"{i:06}{names[i % len(names)].suffix}").symlink_to(names[i % len(names)])
    return target


def as_png(source: Path, target: Path, count: int) -> Path:
    """Photographs stored as PNG."""
    target.mkdir()
    for path in sorted(source.iterdir())[:count]:
        with Image.open(path) as image:
            image.convert("RGB").save(target / f"{path.stem}.png")
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


def start_up(scratch: Path, rounds: int) -> Iterator[Row]:
    """What a command costs that has next to nothing to do."""
    Image.new("RGB", (64, 64), (1, 2, 3)).save(scratch / "one.png")
    file = scratch / "one.json"
    normcli = [PYTHON, "-m", "normcli"]
    seconds([*normcli, "stats", str(scratch / "one.png"), "-q", "-o", str(file), "--force"])
    commands = {
        "pass": [PYTHON, "-c", "pass"],
        "--version": [*normcli, "--version"],
        "show FILE": [*normcli, "show", str(file)],
        "--help": [*normcli, "--help"],
        "stats ONE": [*normcli, "stats", str(scratch / "one.png")],
    }
    times = alternating(commands, max(rounds, 11))
    for name, bound in (("--version", 4), ("show FILE", 8), ("--help", 15)):
        yield takes(f"normcli {name}", "python -c pass", times[name], times["pass"], bound)
    spent = times["stats ONE"]
    yield Row("normcli stats ONE", "the clock", f"{spent:.3f} s", "<= 0.8 s", spent <= 0.8)


def growth(scratch: Path, rounds: int) -> Iterator[Row]:
    """Time for ten and a hundred times as many images: what each further one costs."""
    picture = encoded_picture(scratch)
    counts = (1_000, 10_000, 100_000)
    commands = {str(n): stats_command(linked(scratch / f"growth{n}", picture, n)) for n in counts}
    times = {int(n): median for n, median in alternating(commands, rounds).items()}
    slope, further = (times[10_000] - times[1_000]) / 9_000, (times[100_000] - times[10_000]) / 90_000
    work = "stats, 1k, 10k, 100k images of 32x32"
    yield Row(work, "an image more, from 1k to 10k", f"{1e6 * slope:.0f} us")
    yield Row(work, "an image more, from 10k to 100k", f"{1e6 * further:.0f} us", "<= 1.2x", further <= 1.2 * slope)


def memory(scratch: Path) -> Iterator[Row]:
    """Resident memory at its peak, over that of a run with one image."""
    picture = encoded_picture(scratch)
    one = peak_megabytes(stats_command(linked(scratch / "one", picture, 1)))
    many = peak_megabytes(stats_command(linked(scratch / "many", picture, 100_000)))
    yield Row(
        "memory, 100,000 images of 32x32", "over the start", f"{many - one:.0f} MB", "<= 250 MB", many - one <= 250
    )
    names = a_million_names(scratch)
    listed = peak_megabytes([PYTHON, "-m", "normcli", "stats", "-q", "-j", "2", "--files-from", str(names)])
    yield Row("memory, 1,000,000 names", "over the start", f"{listed - one:.0f} MB", "<= 250 MB", listed - one <= 250)
    side = 8000
    ramp = np.arange(side, dtype=np.uint32)
    pixels = np.stack([ramp[None] + ramp[:, None] * c for c in range(3)], axis=2).astype(np.uint8)
    folder = scratch / "large"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "0.jpg")
    (folder / "1.jpg").symlink_to("0.jpg")
    (folder / "2.jpg").symlink_to("0.jpg")
    bound = 2 * pixels.nbytes / 2**20 + 100
    large = peak_megabytes(stats_command(folder))
    yield Row(
        "memory, JPEGs of 64 megapixels", "2 x image + 100 MB", f"{large:.0f} MB", f"<= {bound:.0f} MB", large <= bound
    )


def encoded_picture(scratch: Path) -> Path:
    path = scratch / "tiny.jpg"
    Image.effect_noise((32, 32), 60).convert("RGB").save(path, "JPEG")
    return path


def linked(folder: Path, picture: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:06}.jpg").symlink_to(picture)
    return folder


def a_million_names(scratch: Path) -> Path:
    """A list of a million different names of empty files, and one image: a thousand files by a thousand links."""
    real = scratch / "names"
    real.mkdir()
    for i in range(1000):
        (real / f"f{i:03}.png").touch()
        (scratch / f"link{i:03}").symlink_to(real)
    path = scratch / "names.txt"
    with path.open("w") as file:
        for i in range(1000):
            file.writelines(f"{scratch}/link{i:03}/f{j:03}.png\n" for j in range(1000))
        file.write(f"{scratch / 'tiny.jpg'}\n")
    return path
