"""`normcli apply` against a bare two-thread loop, a PIL + NumPy + np.save loop, and memcpy."""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import ROOT, Row, faster, seconds, show, takes

Array = np.ndarray[Any, Any]
SHARED = ROOT.parent / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(arguments: list[str]) -> list[Row]:
    """Print the ratios for a folder of JPEGs, and the kernels' bandwidth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks apply", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED / "imagenet-300", help="folder of JPEGs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["processes", "kernels"], action="append")
    parser.add_argument(
        "--loop", nargs=2, metavar=("NAME", "OUT"), help="run one of the loops, as a process of its own"
    )
    chosen = parser.parse_args(arguments)
    if chosen.loop:
        LOOPS[chosen.loop[0]](sorted(p for p in chosen.folder.rglob("*") if p.is_file()), Path(chosen.loop[1]))
        return []
    only = chosen.only or ["processes", "kernels"]
    rows: list[Row] = []
    if "processes" in only and chosen.folder.is_dir():
        rows += show(processes(chosen.folder, chosen.rounds))
    if "kernels" in only:
        rows += show(kernels())
    return rows


def bare(files: list[Path], out: Path) -> None:
    """Decode, astype, tofile, in two threads: nothing is mapped, nothing is safe."""
    import simplejpeg

    def one(path: Path) -> None:
        simplejpeg.decode_jpeg(path.read_bytes()).astype(np.float32).tofile(out / f"{path.name}.raw")

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(one, files))


def durable(files: list[Path], out: Path) -> None:
    """Decode, astype and write in two threads with the durability of `apply`: temporary file, fsync, rename."""
    import simplejpeg

    def one(path: Path) -> None:
        pixels = simplejpeg.decode_jpeg(path.read_bytes()).astype(np.float32)
        temporary = out / f".{path.name}"
        with temporary.open("wb") as file:
            pixels.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out / f"{path.name}.raw")

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(one, files))
    folder = os.open(out, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def usual(files: list[Path], out: Path) -> None:
    """Run the loop that people paste: PIL, NumPy, np.save."""
    from PIL import Image

    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    for path in files:
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        np.save(out / f"{path.name}.npy", ((pixels - mean) / std).transpose(2, 0, 1))


def albumentations(files: list[Path], out: Path) -> None:
    """Run the loop of albumentations.Normalize in its documentation: OpenCV reads."""
    import albumentations
    import cv2

    normalize = albumentations.Normalize(MEAN, STD)
    for path in files:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        np.save(out / f"{path.name}.npy", normalize(image=image)["image"].transpose(2, 0, 1))


# from, to, way: apply takes arithmetic for float32 and tables for float16 and quantized files
KERNELS = (
    ("uint8", "float32", "arithmetic"),
    ("uint8", "float32", "look-up"),
    ("uint8", "float16", "look-up"),
    ("uint16", "float32", "arithmetic"),
    ("uint16", "float16", "look-up"),
)
LOOPS = {"bare": bare, "durable": durable, "usual": usual, "albumentations": albumentations}


def processes(folder: Path, rounds: int) -> Iterator[Row]:
    """Time complete processes in turn, each into a fresh folder; one unmeasured round first."""
    python = [sys.executable, "-m"]
    loop = [*python, "benchmarks", "apply", str(folder), "--loop"]
    commands = {
        "normcli": [*python, "normcli", "apply", str(folder), "-q", "-j", "2", "--preset", "imagenet", "-o"],
        "no-sync": [
            *python,
            "normcli",
            "apply",
            str(folder),
            "-q",
            "-j",
            "2",
            "--preset",
            "imagenet",
            "--no-sync",
            "-o",
        ],
        **{name: [*loop, name] for name in LOOPS},
    }
    if find_spec("albumentations") is None:
        print("absent peers: albumentations")
        del commands["albumentations"]
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        for turn in range(rounds + 1):
            for name, command in commands.items():
                out.mkdir()
                elapsed = seconds([*command, str(out)])
                shutil.rmtree(out)
                os.sync()  # what one leaves to be written would slow the next
                if turn:
                    taken[name].append(elapsed)
    times = {name: statistics.median(each) for name, each in taken.items()}
    work = f"apply, {len(list(folder.iterdir()))} photographs to npy float32"
    yield takes(work, "decode, astype, write, fsync, 2 threads", times["normcli"], times["durable"], 1.05)
    yield takes(f"{work}, --no-sync", "decode, astype, write, 2 threads", times["no-sync"], times["bare"], 1.15)
    yield faster(work, "Pillow + NumPy + np.save loop", times["normcli"], times["usual"], 3)
    if "albumentations" in times:
        yield faster(work, "albumentations + np.save loop", times["normcli"], times["albumentations"])


def kernels() -> Iterator[Row]:
    """Measure bytes read and written per second, against memcpy of as many bytes as the result has.

    Photographs come in turn, as in a dataset: each from memory of its own into memory of its own.
    """
    from normcli.kernels import mapping
    from normcli.kernels.kernel import as_words

    scale, shift, source = np.array(STD), np.array(MEAN), np.arange(3)
    rng = np.random.default_rng(0)
    for title, size, count in (("300 photographs of 500x375", 3 * 187_500, 300), ("24 megapixels", 3 * 24_000_000, 1)):
        for depth, dtype, name in KERNELS:
            levels = rng.integers(0, np.iinfo(depth).max, (count, size), depth)
            into = np.empty((count, size), dtype)
            other = np.zeros_like(into)
            copied = 2 * into.nbytes / median(lambda: each(np.copyto, into, other))  # noqa: B023
            bits = np.dtype(f"u{into.itemsize}")  # Numba has no float16, and a look-up moves bits
            tables = rng.integers(0, 1 << 15, (3, np.iinfo(depth).max + 1)).astype(bits)
            if name == "look-up":
                one = lambda x, y: mapping.look_up(x, as_words(x), 3, source, tables, y.view(bits), True)  # noqa: B023, E731
            else:
                one = lambda x, y: mapping.affine(x, 3, source, scale, shift, y, True)  # noqa: E731
            spent = median(lambda: each(one, levels, into))  # noqa: B023
            share = (levels.nbytes + into.nbytes) / spent / copied
            work = f"kernel, {depth} to {dtype}, {name}"
            target = (">= 50%", share >= 0.5) if dtype == "float32" else ("", None)
            yield Row(work, f"bandwidth of memcpy, {title}", f"{share:.0%}", *target)


def each(way: Callable[[Array, Array], None], first: Array, second: Array) -> None:
    for a, b in zip(first, second, strict=True):
        way(a, b)


def median(way: Callable[[], Any], rounds: int = 9) -> float:
    """Return the median seconds of a call, after one that is not counted."""
    way()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        way()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[rounds // 2]
