"""Peak memory of a process over large images: workers x largest image + 100 MB, and the memory of libraries.

The image is what is decoded, with its alpha, in the type in which it is counted, and for `apply` the array that is
written. `docs/reliability.md` names what a library holds in addition, in bytes a pixel or in arrays: `Case.library`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from tests.support import needs
from tests.support.memory import peak

BASE = 40  # MB: a run over small images takes 25; of the promised 100, libraries have about 60 (see `peak`)
MEGABYTE = 2**20 / 1e6  # of the unit of the system's figures


def picture(side: int, channels: int) -> np.ndarray[Any, Any]:
    """A smooth picture: it compresses well, and fast."""
    ramp = np.arange(side, dtype=np.uint16)
    planes = [((ramp[:, None] * (c + 1) + ramp[None, :]) >> 4).astype(np.uint8) for c in range(channels)]
    return np.stack(planes, axis=2) if channels > 1 else planes[0]


def deep(side: int, channels: int) -> np.ndarray[Any, Any]:
    return picture(side, channels).astype(np.uint16) * 257


def by_pillow(kind: str, channels: int = 3, mode: str | None = None, **options: Any) -> Callable[[Path, int], None]:
    def save(path: Path, side: int) -> None:
        image = Image.fromarray(picture(side, channels))
        (image if mode is None else image.convert(mode)).save(path, kind, **options)

    return save


def by_tifffile(channels: int, **options: Any) -> Callable[[Path, int], None]:
    def save(path: Path, side: int) -> None:
        needs.module("tifffile").imwrite(path, deep(side, channels), photometric="rgb", **options)

    return save


def deep_png(channels: int) -> Callable[[Path, int], None]:
    def save(path: Path, side: int) -> None:
        path.write_bytes(needs.module("imagecodecs").png_encode(deep(side, channels), level=1))

    return save


def float_tiff(path: Path, side: int) -> None:
    needs.module("tifffile").imwrite(path, picture(side, 3).astype(np.float32), photometric="rgb")


class Case(NamedTuple):
    """A file, and the bytes a pixel of its image, and of memory that a library or the file itself takes in addition."""

    save: Callable[[Path, int], None]
    image: float
    library: float = 0
    options: tuple[str, ...] = ()


COMPOSITE, WEIGHT, GRAY = ("--alpha", "composite:white"), ("--alpha", "weight"), ("--color", "gray")
RESIZED = ("--resize", "224")
rgb_png = by_pillow("PNG", compress_level=1)
rgba_png = by_pillow("PNG", 4, compress_level=1)
STATS = {
    "JPEG": Case(by_pillow("JPEG"), 3),
    "JPEG to gray": Case(by_pillow("JPEG"), 3, 0, GRAY),
    "JPEG resized": Case(by_pillow("JPEG"), 3, 0.6, RESIZED),  # the narrow rows
    "progressive JPEG": Case(by_pillow("JPEG", progressive=True), 3, 3),  # libjpeg has coefficients of 16 bits
    "CMYK JPEG": Case(by_pillow("JPEG", mode="CMYK"), 4, 0.3),
    "PNG": Case(rgb_png, 3),
    "PNG to gray": Case(rgb_png, 3, 0, GRAY),
    "RGBA PNG": Case(rgba_png, 4),
    "RGBA PNG composited": Case(rgba_png, 4, 0, COMPOSITE),
    "RGBA PNG weighted": Case(rgba_png, 4, 1.3, WEIGHT),  # the weights are an image of their own
    "gray PNG with alpha": Case(by_pillow("PNG", 4, "LA", compress_level=1), 2, 1),  # alpha is taken out
    "palette PNG": Case(by_pillow("PNG", mode="P", compress_level=1), 3, 1),  # and the indices
    "16-bit PNG": Case(deep_png(3), 6),
    "16-bit RGBA PNG composited": Case(deep_png(4), 8, 0, COMPOSITE),
    "WebP": Case(by_pillow("WEBP", method=0), 3),
    "lossless WebP": Case(by_pillow("WEBP", lossless=True, quality=0, method=0), 3, 4),  # libwebp: 4 bytes a pixel
    "TIFF": Case(by_pillow("TIFF"), 3),
    "LZW TIFF": Case(by_pillow("TIFF", compression="tiff_lzw"), 3),  # in blocks, as all large TIFFs
    "BMP": Case(by_pillow("BMP"), 3, 3),  # the file
    "TGA": Case(by_pillow("TGA"), 3, 3),
    "16-bit TIFF": Case(by_tifffile(3), 6),
    "16-bit TIFF to gray": Case(by_tifffile(3), 6, 0, GRAY),
    "16-bit TIFF, other byte order": Case(by_tifffile(3, byteorder=">"), 6),
    "16-bit TIFF, other byte order, resized": Case(
        by_tifffile(3, byteorder=">"), 6, 6.4, RESIZED
    ),  # the file, and one pass
    "16-bit TIFF of tiles, resized": Case(by_tifffile(3, tile=(256, 256)), 6, 6.7, RESIZED),  # likewise
    "16-bit LZW TIFF, resized": Case(by_tifffile(3, compression="lzw"), 6, 3, RESIZED),
    "float TIFF": Case(float_tiff, 12),
    "float TIFF to gray": Case(float_tiff, 12, 0, GRAY),
}


def largest(folder: Path, *arguments: Any) -> float:
    """Return the peak of a command, in megabytes of 10^6 bytes."""
    used, done = peak(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return used * MEGABYTE


def check(name: str, folder: Path, side: int) -> None:
    case = STATS[name]
    case.save(folder / "small", 64)
    case.save(folder / "large", side)
    largest(folder, "stats", "small", "-j", 1, "-q", "--json", *case.options)  # compiles kernels, once for a machine
    used = largest(folder, "stats", "large", "-j", 1, "-q", "--json", *case.options)
    pixels = side * side / 1e6
    print(f"{name}: {used:.0f} MB, of which {case.image * pixels:.0f} are the image")
    encoded = (folder / "large").stat().st_size / 1e6
    waiting = encoded if encoded < case.image * pixels / 4 else 0  # a file is in memory while it is decoded
    assert used <= pixels * (case.image + case.library) + waiting + BASE


@pytest.mark.parametrize("name", ["JPEG to gray", "RGBA PNG composited", "16-bit TIFF", "WebP", "BMP"])
def test_one_image_of_16_megapixels(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, 4000)


@pytest.mark.campaign
@pytest.mark.parametrize("name", STATS)
def test_one_image_of_64_megapixels(name: str, tmp_path: Path) -> None:
    check(name, tmp_path, 8000)


@pytest.mark.campaign
def test_two_workers_have_two_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        by_pillow("JPEG")(tmp_path / f"in/{number}.jpg", 8000)
    used = largest(tmp_path, "stats", "in", "-j", 2, "--engine", "threads", "-q", "--json")
    waiting = sum(path.stat().st_size for path in (tmp_path / "in").iterdir()) / 1e6  # read ahead: up to 64 MiB
    print(f"{used:.0f} MB; the four files have {waiting:.1f}")
    assert used <= 2 * 192 + BASE + waiting


# output -> bytes a value, and megabytes held besides for an image of 16 megapixels: Pillow copies images into 4 bytes a
# pixel, a table has a row group
SINKS: dict[str, tuple[int, float]] = {
    **dict.fromkeys(("npy", "npz", "safetensors", "stack", "tiff", "tar"), (4, 0)),
    "png": (1, 64),
    "png16": (2, 64),
    "parquet": (4, 192),
}
APPLY_BASE = BASE + 20  # tables, the log, three threads a worker


def apply_peak(folder: Path, to: str, side: int, workers: int) -> tuple[float, float]:
    """Return the peak of a run over six images, and the size of an image with its array."""
    (folder / "in").mkdir()
    (folder / "few").mkdir()
    for number in range(6):
        by_pillow("JPEG")(folder / f"in/{number}.jpg", side)
    by_pillow("JPEG")(folder / "few/0.jpg", 64)
    settings = ("-s", "unit", "--to", to, "-j", workers, "-q")
    largest(folder, "apply", "few", "-o", "small", *settings)
    return largest(folder, "apply", "in", "-o", "out", *settings), side * side * 3 * (1 + SINKS[to][0]) / 1e6


@pytest.mark.parametrize("to", ["npy"])
def test_sinks_hold_one_image_of_six(to: str, tmp_path: Path) -> None:
    used, image = apply_peak(tmp_path, to, 3400, 1)  # six arrays: 832 MB; of less than 32 MB malloc keeps some
    assert used <= image + APPLY_BASE


@pytest.mark.campaign
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("to", SINKS)
def test_every_sink_over_images_of_16_megapixels(to: str, workers: int, tmp_path: Path) -> None:
    used, image = apply_peak(tmp_path, to, 4000, workers)
    library = SINKS[to][1] * (1 if to == "parquet" else workers)
    print(f"{to}, {workers} workers: {used:.0f} MB, of which {workers * image:.0f} are images and arrays")
    assert used <= workers * image + library + APPLY_BASE
