"""`normcli.count` over a torch Dataset of the size of CIFAR-10 against the usual loops; video against PyAV."""

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import normcli
from benchmarks.timing import Row, faster, show, takes

COUNT, SIDE = 50_000, 32


def main(arguments: list[str]) -> list[Row]:
    """Print every row that the libraries at hand allow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks samples", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=COUNT, help="images")
    parser.add_argument("--frames", type=int, default=1000, help="frames of the video")
    parser.add_argument("--only", choices=("torch", "video"))
    chosen = parser.parse_args(arguments)
    rows: list[Row] = []
    if chosen.only != "video":
        rows += show(against_torch(chosen.count, chosen.rounds))
    if chosen.only != "torch":
        with tempfile.TemporaryDirectory() as scratch:
            rows += show(against_decoding(Path(scratch), chosen.frames, chosen.rounds))
    return rows


def against_torch(count: int, rounds: int) -> Iterator[Row]:
    """Time `count` and four loops that repositories and forums repeat, over the same images.

    All in one thread, by processor time: two workers of a DataLoader take 2.5 times as much of it, since a batch costs
    more to send than to make, and torch's second thread waits for work in a loop.
    """
    try:
        import torch
    except ImportError:
        print("absent peer: torch")
        return
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)

    def to_tensor(image: Image.Image) -> Any:
        """Convert an image by the steps of torchvision's ToTensor."""
        array = torch.from_numpy(np.array(image, np.uint8, copy=True))
        array = array.view(image.height, image.width, len(image.getbands()))
        return array.permute((2, 0, 1)).contiguous().to(dtype=torch.float32).div(255)

    tensors = Images(pixels, to_tensor)
    jobs: dict[str, Callable[[], Any]] = {name: partial(loop, tensors) for name, loop in LOOPS.items()}
    jobs["Pillow images"] = lambda: normcli.count(Images(pixels))
    jobs["float tensors"] = lambda: normcli.count(tensors)
    jobs["samples, nothing counted"] = lambda: [
        image.tobytes() for image, _ in map(Images(pixels).__getitem__, range(count))
    ]
    if (stored := cifar10(torch, pixels)) is not None:
        jobs["torchvision's CIFAR10"] = lambda: normcli.count(stored)
    torch.set_num_threads(1)
    times = timed(jobs, rounds, time.process_time)
    for kind in [name for name in jobs if name not in LOOPS]:
        for name in LOOPS:
            target = 3 if kind in ("torchvision's CIFAR10", "Pillow images") else None
            yield faster(f"{kind}, {count:,}", name, times[kind], times[name], target)


class Images:
    """Samples as torchvision's CIFAR10 makes them: a Pillow image, converted if wanted, and a label."""

    def __init__(self, pixels: Any, transform: Callable[[Image.Image], Any] | None = None) -> None:
        self.data, self.transform = pixels, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[index])
        return (image if self.transform is None else self.transform(image)), 0


def loop_of_batch_means(data: Any) -> Any:
    """Average the means of values and of squares of batches of 64."""
    import torch

    total, squares, batches = torch.zeros(3), torch.zeros(3), 0
    for images, _ in torch.utils.data.DataLoader(data, batch_size=64):
        total += images.mean(dim=[0, 2, 3])
        squares += (images**2).mean(dim=[0, 2, 3])
        batches += 1
    mean = total / batches
    return mean, (squares / batches - mean**2).sqrt()


def loop_of_image_stds(data: Any) -> Any:
    """Average the means and stds of images, in batches of 64."""
    import torch

    mean, std, count = torch.zeros(3), torch.zeros(3), 0
    for images, _ in torch.utils.data.DataLoader(data, batch_size=64):
        rows = images.view(images.size(0), images.size(1), -1)
        mean += rows.mean(2).sum(0)
        std += rows.std(2).sum(0)
        count += len(rows)
    return mean / count, std / count


def loop_of_two_passes(data: Any) -> Any:
    """Compute the mean in one pass and the variance around it in a second one."""
    import torch

    loader = torch.utils.data.DataLoader(data, batch_size=64)
    mean, variance = torch.zeros(3), torch.zeros(3)
    for images, _ in loader:
        mean += images.view(images.size(0), images.size(1), -1).mean(2).sum(0)
    mean /= len(data)
    for images, _ in loader:
        rows = images.view(images.size(0), images.size(1), -1)
        variance += ((rows - mean.unsqueeze(1)) ** 2).sum([0, 2])
    return mean, (variance / (len(data) * SIDE * SIDE)).sqrt()


def loop_of_single_images(data: Any) -> Any:
    """Average the mean and std of every channel of every image, as `get_mean_and_std` in many CIFAR-10 repositories."""
    import torch

    mean, std = torch.zeros(3), torch.zeros(3)
    for images, _ in torch.utils.data.DataLoader(data, batch_size=1, shuffle=True):
        for i in range(3):
            mean[i] += images[:, i, :, :].mean()
            std[i] += images[:, i, :, :].std()
    return mean / len(data), std / len(data)


LOOPS: dict[str, Callable[[Any], Any]] = {
    "loop, means of batches": loop_of_batch_means,
    "loop, stds of images": loop_of_image_stds,
    "loop, two passes": loop_of_two_passes,
    "loop, get_mean_and_std": loop_of_single_images,
}


def cifar10(torch: Any, pixels: Any) -> Any:
    """Return torchvision's CIFAR10 with other pixels than its files have; None if it is not usable here."""
    try:
        kind = _import_datasets(torch).CIFAR10
    except (ImportError, RuntimeError):
        print("absent peer: torchvision")
        return None
    dataset = kind.__new__(kind)
    dataset.__dict__.update(data=pixels, targets=[0] * len(pixels), transform=None, target_transform=None)
    return dataset


def _import_datasets(torch: Any) -> Any:
    """Import torchvision.datasets; beside a torch for the CPU, the wheel for CUDA lacks two operators."""
    try:
        return importlib.import_module("torchvision.datasets")
    except RuntimeError:
        for name in ("nms", "qnms"):
            _operators.append(torch.library.Library("torchvision", "FRAGMENT"))
            _operators[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision.datasets")


_operators: list[Any] = []  # torch forgets them with their library


def timed(
    jobs: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return median seconds of each job over rounds in which all take turns."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            started = clock()
            job()
            taken[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def against_decoding(scratch: Path, frames: int, rounds: int) -> Iterator[Row]:
    """Time `normcli.stats` of a video against PyAV decoding it to RGB and dropping the frames."""
    try:
        import av
    except ImportError:
        print("absent peer: av")
        return
    path = str(scratch / "clip.mp4")
    write_clip(av, path, frames)

    def decode() -> None:
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")

    jobs = {"decode": decode, "stats": lambda: normcli.stats(path)}
    times, processor = timed(jobs, rounds), timed(jobs, rounds, time.process_time)
    work = f"stats, {frames:,} frames of 640x480"
    yield takes(work, "PyAV, decoded to RGB", times["stats"], times["decode"], 1.2)
    yield takes(work, "the same, processor time", processor["stats"], processor["decode"], 1.2)


def write_clip(av: Any, path: str, frames: int) -> None:
    """Write H.264 of a camera that moves over a texture with the spectrum of photographs, at 4 Mbit/s."""
    rng = np.random.default_rng(0)
    texture = sum(
        np.kron(rng.normal(0, 12, (1024 // size, 1024 // size, 3)), np.ones((size, size, 1))) for size in (1, 4, 16, 64)
    )
    picture = np.clip(128 + texture, 30, 225).astype(np.uint8)
    grain = rng.integers(0, 13, (600, 800, 3), np.uint8)  # of the sensor: another part of it in every frame
    with av.open(path, "w") as container:
        stream = container.add_stream("h264", rate=30, options={"preset": "veryfast"})
        stream.bit_rate = 4_000_000
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for i in range(frames):
            top, left = int(200 + 150 * np.sin(i / 40)), int(180 + 150 * np.cos(i / 55))
            down, right = rng.integers(0, 120), rng.integers(0, 160)
            view = picture[top : top + 480, left : left + 640] + grain[down : down + 480, right : right + 640]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))
