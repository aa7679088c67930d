"""Peak memory over large images: decoded images in flight, and what a decoder and a sink hold besides.

Budgets are multiples of one image: decoded, or as the array that is written. `docs/reliability.md` has the figures.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import needs
from tests.support.memory import peak

SLACK = 100  # MB


def picture(side: int, channels: int) -> np.ndarray[Any, Any]:
    """A smooth picture: it compresses well, and fast."""
    ramp = np.arange(side, dtype=np.uint16)
    planes = [((ramp[:, None] * (c + 1) + ramp[None, :]) >> 4).astype(np.uint8) for c in range(channels)]
    return np.stack(planes, axis=2) if channels > 1 else planes[0]


def saved(path: Path, side: int, kind: str) -> None:
    if kind == "tif16":
        tifffile = needs.module("tifffile")
        tifffile.imwrite(path, picture(side, 3).astype(np.uint16) * 257, photometric="rgb")
    elif kind == "float":
        Image.fromarray(picture(side, 1).astype(np.float32)).save(path, "TIFF")
    elif kind == "png":
        Image.fromarray(picture(side, 4)).save(path, "PNG", compress_level=1)
    else:
        options: dict[str, Any] = {"progressive": True} if kind == "progressive" else {}
        Image.fromarray(picture(side, 3)).save(path, "WEBP" if kind == "webp" else "JPEG", **options)


# kind of file, options -> megabytes for each megapixel, beyond a small run: the image, and what decodes it
STATS: dict[str, tuple[str, list[str], float]] = {
    "gray": ("jpeg", ["--color", "gray"], 4.2),  # RGB and gray
    "composite": ("png", ["--alpha", "composite:white"], 10.5),  # Pillow's RGBA, colors, alpha, the blend
    "rgba": ("png", [], 9.0),
    "jpeg": ("jpeg", [], 3.2),
    "progressive": ("progressive", [], 6.5),  # libjpeg holds the coefficients
    "webp": ("webp", [], 16.5),  # libwebp's frames, Pillow's copy
    "16-bit TIFF": ("tif16", [], 12.5),  # file and image
    "16-bit TIFF to gray": ("tif16", ["--color", "gray"], 16.5),
    "float TIFF": ("float", [], 13.0),
}


def used(folder: Path, kind: str, side: int, *options: str) -> float:
    """Megabytes beyond a run over a small image of the same kind."""
    saved(folder / "small", 64, kind)
    saved(folder / "large", side, kind)
    small, done = peak(folder, "stats", "small", "-j", 1, "-q", "--json", *options)
    assert done.returncode == 0, done.stderr
    large, done = peak(folder, "stats", "large", "-j", 1, "-q", "--json", *options)
    assert done.returncode == 0, done.stderr
    return large - small


def test_gray_of_a_large_image(tmp_path: Path) -> None:
    kind, options, share = STATS["gray"]
    assert used(tmp_path, kind, 4000, *options) <= 16 * share + SLACK


@pytest.mark.campaign
@pytest.mark.parametrize("name", STATS)
def test_one_image_of_64_megapixels(name: str, tmp_path: Path) -> None:
    kind, options, share = STATS[name]
    megabytes = used(tmp_path, kind, 8000, *options)
    print(f"{name}: {megabytes:.0f} MB")
    assert megabytes <= 64 * share + SLACK


# output -> arrays of the size that is written which a run of one worker holds at once; parquet's encoder takes four
SINKS = {"npy": 2, "npz": 2, "safetensors": 2, "stack": 2, "tar": 4, "tiff": 4, "png": 2, "parquet": 9}


def apply_peak(folder: Path, to: str, side: int, count: int, workers: int) -> float:
    for number in range(count):
        saved(folder / f"in/{number}.jpg", side, "jpeg")
    saved(folder / "few/0.jpg", 64, "jpeg")
    small, done = peak(folder, "apply", "few", "-o", "small", "-s", "unit", "--to", to, "-j", workers, "-q")
    assert done.returncode == 0, done.stderr
    large, done = peak(folder, "apply", "in", "-o", "large", "-s", "unit", "--to", to, "-j", workers, "-q")
    assert done.returncode == 0, done.stderr
    return large - small


def test_shards_hold_no_six_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "few").mkdir()
    array = 2000 * 2000 * 12 / 1e6
    assert (
        apply_peak(tmp_path, "tar", 2000, 6, 1) <= (SINKS["tar"] + 0.5) * array + SLACK
    )  # 296 MB in a run beside others


@pytest.mark.campaign
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("to", SINKS)
def test_every_sink_over_images_of_16_megapixels(to: str, workers: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "few").mkdir()
    array = 4000 * 4000 * (3 if to == "png" else 12) / 1e6
    decoded = 4000 * 4000 * 3 / 1e6
    megabytes = apply_peak(tmp_path, to, 4000, 6, workers)
    print(f"{to}, {workers} workers: {megabytes:.0f} MB, {megabytes / array:.1f} arrays")
    assert megabytes <= workers * (SINKS[to] * array + decoded) + SLACK
