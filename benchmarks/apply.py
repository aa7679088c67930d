"""`normcli apply` against a bare two-thread loop, a PIL + NumPy + np.save loop, and memcpy."""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import ROOT, ratios, seconds

SHARED = ROOT.parent / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main(arguments: list[str]) -> None:
    """Print the ratios for a folder of JPEGs, and the kernels' bandwidth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks apply", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED / "imagenet-300", help="folder of JPEGs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["processes", "kernels"], action="append")
    parser.add_argument(
        "--loop", nargs=2, metavar=("NAME", "OUT"), help="run one of the loops, as a process of its own"
    )
    chosen = parser.parse_args(arguments)
    if chosen.loop:
        LOOPS[chosen.loop[0]](sorted(p for p in chosen.folder.rglob("*") if p.is_file()), Path(chosen.loop[1]))
        return
    only = chosen.only or ["processes", "kernels"]
    if "processes" in only and chosen.folder.is_dir():
        processes(chosen.folder, chosen.rounds)
    if "kernels" in only:
        kernels()


def bare(files: list[Path], out: Path) -> None:
    """Decode, astype, tofile, in two threads: nothing is mapped, nothing is safe."""
    import simplejpeg

    def one(path: Path) -> None:
        simplejpeg.decode_jpeg(path.read_bytes()).astype(np.float32).tofile(out / f"{path.name}.raw")

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(one, files))


def usual(files: list[Path], out: Path) -> None:
    """What people paste: PIL, NumPy, np.save."""
    from PIL import Image

    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    for path in files:
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        np.save(out / f"{path.name}.npy", ((pixels - mean) / std).transpose(2, 0, 1))


LOOPS = {"bare": bare, "usual": usual}


def processes(folder: Path, rounds: int) -> None:
    """Whole processes in turn, each into a fresh folder; one unmeasured round first."""
    python = [sys.executable, "-m"]
    loop = [*python, "benchmarks", "apply", str(folder), "--loop"]
    commands = {
        "normcli apply": [*python, "normcli", "apply", str(folder), "-q", "-j", "2", "--preset", "imagenet", "-o"],
        "two threads: decode, astype, tofile": [*loop, "bare"],
        "PIL + NumPy + np.save": [*loop, "usual"],
    }
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
    ratios(
        f"{folder.name}, {sum(1 for p in folder.rglob('*') if p.is_file())} files, npy float32", times, "normcli apply"
    )


def kernels() -> None:
    """Bytes read and written per second, against memcpy of as many bytes as the result has."""
    from normcli.kernels import mapping

    print("\nkernels: bytes read and written per second")
    scale, shift, source = np.array(STD), np.array(MEAN), np.arange(3)
    for title, pixels in (("a photograph, 500 x 375", 187_500), ("24 megapixels", 24_000_000)):
        rng = np.random.default_rng(0)
        into = np.empty(3 * pixels, np.float32)
        other = np.zeros_like(into)
        floor = 2 * into.nbytes / median(lambda: np.copyto(into, other))  # noqa: B023
        print(f"  {title:44}{floor / 1e9:9.1f} GB/s  memcpy")
        for depth in (np.uint8, np.uint16):
            levels = rng.integers(0, np.iinfo(depth).max, 3 * pixels).astype(depth)
            tables = rng.random((3, np.iinfo(depth).max + 1)).astype(np.float32)
            ways: dict[str, Any] = {
                "arithmetic": lambda: mapping.affine(levels, 3, source, scale, shift, into, True),  # noqa: B023
                "table": lambda: mapping.look_up(levels, 3, source, tables, into, True),  # noqa: B023
            }
            for name, way in ways.items():
                speed = (levels.nbytes + into.nbytes) / median(way)
                print(f"    {depth.__name__:8}{name:34}{speed / 1e9:9.1f} GB/s  {speed / floor:.2f} of memcpy")


def median(way: Any, rounds: int = 15) -> float:
    """Median seconds of a call, after one that is not counted."""
    way()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        way()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[rounds // 2]
