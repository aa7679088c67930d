"""`normcli.count` over a torch Dataset of the size of CIFAR-10 against the loop of tutorials; video against PyAV."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
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
