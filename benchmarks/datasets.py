"""Folders of images to time on: real photographs of ../shared/data, if present, and pictures made here."""

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.timing import ROOT

SHARED = ROOT.parent / "shared" / "data"
PHOTOGRAPHS = SHARED / "imagenet-300"
_SIDE = 32


def _names(source: Path, count: int) -> Iterator[tuple[int, Path]]:
    return enumerate(islice(cycle(sorted(source.iterdir())), count))


def copied(source: Path, target: Path, count: int) -> Path:
    """Fill a folder with copies of the files of another, as often as it takes."""
    target.mkdir()
    for i, path in _names(source, count):
        shutil.copy(path, target / f"{i:06}{path.suffix}")
    return target


def repeated(source: Path, target: Path, count: int) -> Path:
    """Fill a folder with links to the files of another, as often as it takes."""
    target.mkdir()
    for i, path in _names(source, count):
        os.link(path.resolve(), target / f"{i:06}{path.suffix}")
    return target


def as_png(source: Path, target: Path, count: int) -> Path:
    """Store photographs as PNG."""
    target.mkdir()
    for path in sorted(source.iterdir())[:count]:
        with Image.open(path) as image:
            image.convert("RGB").save(target / f"{path.stem}.png")
    return target


def mnist(target: Path, count: int) -> Path:
    """Unpack the 10,000 test digits, and repeat them up to `count`."""
    with tarfile.open(SHARED / "mnist-test.tar") as tar:
        tar.extractall(target / "digits", filter="data")
    digits = sorted(path for path in (target / "digits").rglob("*") if path.is_file())
    if count == len(digits):
        return target / "digits"
    (target / "repeated").mkdir()
    for i, path in enumerate(islice(cycle(digits), count)):
        os.link(path, target / "repeated" / f"{i:06}.png")
    return target / "repeated"


def small_jpegs(target: Path, count: int) -> Path:
    """Make JPEGs of 32x32, smooth with grain, as CIFAR's."""
    target.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    for i in range(count):
        waves = np.stack([128 + 80 * np.sin(x / (3 + c) + y / (2 + i % 9)) for c in range(3)], axis=2)
        picture = np.clip(waves + rng.normal(0, 15, waves.shape), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(target / f"{i:06}.jpg", quality=90)
    return target


def small_pngs(source: Path, target: Path, count: int) -> Path:
    """Make PNGs of 32x32, parts of photographs scaled to the size of CIFAR's; without a profile, as those are."""
    target.mkdir()
    thumbnails = []
    for path in sorted(source.iterdir()):
        with Image.open(path) as image:
            thumbnails.append(image.convert("RGB").resize((96, 72), Image.Resampling.BOX))
    rng = np.random.default_rng(0)
    for i, (left, top) in enumerate(zip(rng.integers(0, 64, count), rng.integers(0, 40, count), strict=True)):
        part = thumbnails[i % len(thumbnails)].crop((left, top, left + _SIDE, top + _SIDE))
        part.save(target / f"{i:06}.png", icc_profile=None)
    return target


def encoded_picture() -> bytes:
    """Return a JPEG of 32x32, of noise."""
    buffer = io.BytesIO()
    Image.effect_noise((_SIDE, _SIDE), 60).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def many_links(folder: Path, picture: Path, count: int) -> Path:
    """Fill a folder with links to one file."""
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:07}.jpg").symlink_to(picture)
    return folder


def million_names(scratch: Path, picture: Path) -> Path:
    """Write a list of a million names of empty files, and of one picture: a thousand files by a thousand links."""
    real = scratch / "names"
    real.mkdir()
    for i in range(1000):
        (real / f"f{i:03}.png").touch()
        (scratch / f"link{i:03}").symlink_to(real)
    path = scratch / "names.txt"
    with path.open("w") as file:
        for i in range(1000):
            file.writelines(f"{scratch}/link{i:03}/f{j:03}.png\n" for j in range(1000))
        file.write(f"{picture}\n")
    return path


def large_jpegs(folder: Path, side: int, count: int) -> Path:
    """Fill a folder with links to one JPEG of side x side pixels."""
    ramp = np.arange(side, dtype=np.uint32)
    pixels = np.stack([ramp[None] + ramp[:, None] * c for c in range(3)], axis=2).astype(np.uint8)
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "0.jpg")
    for i in range(1, count):
        (folder / f"{i}.jpg").symlink_to("0.jpg")
    return folder
