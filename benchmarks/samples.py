"""`normcli.count` over a torch Dataset of the size of CIFAR-10 against the loop of tutorials."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

import normcli
from benchmarks.timing import Row, faster, show

COUNT, SIDE = 50_000, 32


def main(arguments: list[str]) -> list[Row]:
    """Print every row that the libraries at hand allow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks samples", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=COUNT, help="images")
    chosen = parser.parse_args(arguments)
    return show(against_torch(chosen.count, chosen.rounds))


def against_torch(count: int, rounds: int) -> Iterator[Row]:
    """Time one pass over the same pixels in memory, as torchvision's CIFAR10 has them."""
    try:
        import torch
    except ImportError:
        print("absent peer: torch")
        return
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)

    class Pictures:
        """Pillow images and labels."""

        transform: Callable[[Any], Any] | None = None

        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image = Image.fromarray(pixels[index])
            return (image if self.transform is None else self.transform(image)), 0

    class Tensors(Pictures):
        """Tensors and labels, by the steps of torchvision's ToTensor."""

        def transform(self, image: Image.Image) -> Any:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)

    def tutorial() -> Any:
        total, squares, batches = torch.zeros(3), torch.zeros(3), 0
        for images, _ in torch.utils.data.DataLoader(Tensors(), batch_size=64):
            total += images.mean(dim=[0, 2, 3])
            squares += (images**2).mean(dim=[0, 2, 3])
            batches += 1
        mean = total / batches
        return mean, (squares / batches - mean**2).sqrt()

    jobs = {
        "loop": tutorial,
        "images": lambda: normcli.count(Pictures()),
        "tensors": lambda: normcli.count(Tensors()),
    }
    times = timed(jobs, rounds)
    work, against = f"count, {count:,} images of 32x32", "the DataLoader loop"
    yield faster(work, f"Pillow images, with {against}", times["images"], times["loop"], 3)
    yield faster(work, f"float tensors, with {against}", times["tensors"], times["loop"])


def timed(jobs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return median seconds of each job over rounds in which all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}
