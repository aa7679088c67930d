"""The same numbers as other programs: Pillow's own histogram, libvips, ImageMagick.

What differs by definition is compared with the matching definition, never with a wider tolerance: libvips and
ImageMagick give the sample deviation (N-1). Alpha is one more band to libvips, as with `alpha="keep"`; ImageMagick
gives it apart (`-alpha extract`) and leaves it out when it separates the channels. Its figures of a whole image
would weigh colour by alpha, and its gray would be Rec. 709 luma of what its gamma says: neither is asked for.
"""

import csv
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.tally import Integers
from tests.support import needs
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

imagecodecs = needs.module("imagecodecs")

CONVERT = needs.imagemagick()
needs_vips = pytest.mark.skipif(shutil.which("vips") is None, reason=needs.PROGRAMS)
needs_magick = pytest.mark.skipif(CONVERT is None, reason=needs.PROGRAMS)


def drawn() -> dict[str, bytes]:
    """8 and 16 bit, gray and colour, alpha, palette."""
    rgb, gray = photograph(), photograph(channels=1)
    deep = rgb.astype(np.uint16) * 257 + np.arange(64, dtype=np.uint16)[None, :, None]
    alpha = photograph(channels=1, seed=4)
    return {
        "gray": encoded(gray),
        "rgb": encoded(rgb),
        "rgba": encoded(np.dstack([rgb, alpha])),
        "gray-alpha": imagecodecs.png_encode(np.dstack([gray, alpha])),
        "palette": _palette(rgb),
        "gray16": encoded(gray[:, :, 0].astype(np.uint16) * 250),
        "rgb16": imagecodecs.png_encode(deep),
        "rgba16": imagecodecs.png_encode(np.dstack([deep, alpha.astype(np.uint16) * 255])),
        "jpeg": encoded(rgb, "JPEG"),
    }


WITH_ALPHA = ("rgba", "gray-alpha", "rgba16")


def _palette(rgb: Any) -> bytes:
    import io

    out = io.BytesIO()
    Image.fromarray(rgb).quantize(64).save(out, "PNG")
    return out.getvalue()


def ours(path: Path, **options: Any) -> tuple[normcli.Summary, Integers]:
    """Return the summary of one image, and its exact integers."""
    summary = normcli.stats(path, engine="serial", **options)
    (bucket,) = summary.tally.buckets.values()
    assert isinstance(bucket, Integers)
    return summary, bucket


def of_vips(path: Path) -> list[tuple[int, int, int, int, float]]:
    """Return for each band: least, largest, sum, sum of squares, sample deviation."""
    out = path.with_suffix(".csv")
    subprocess.run(["vips", "stats", str(path), str(out)], check=True, capture_output=True)
    with out.open() as file:
        rows = [[float(cell) for cell in row] for row in csv.reader(file, delimiter="\t")]
    return [(int(r[0]), int(r[1]), int(r[2]), int(r[3]), r[5]) for r in rows[1:]]  # the first is of all bands


def same_as_vips(path: Path, alpha: str = "drop") -> None:
    summary, bucket = ours(path, alpha=alpha)
    theirs = of_vips(path)
    assert len(theirs) == bucket.histogram.shape[0]
    sample = summary.conventions["pooled_sample"]["std"]
    for c, (low, high, total, squares, std) in enumerate(theirs):
        assert bucket.sums(c) == (total, squares)
        used = np.flatnonzero(bucket.histogram[c])
        assert (used[0], used[-1]) == (low, high)
        assert sample is not None and summary.max_value is not None
        assert sample[c] * summary.max_value == pytest.approx(std, rel=1e-12)


@needs_vips
@pytest.mark.parametrize("name", drawn())
def test_sums_and_squares_are_those_of_libvips(name: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if name == "jpeg" else "a.png")
    path.write_bytes(drawn()[name])
    same_as_vips(path, "keep" if name in WITH_ALPHA else "drop")


@needs_vips
@pytest.mark.campaign
def test_every_photograph_is_counted_as_by_libvips(shared_data: Path, tmp_path: Path) -> None:
    """libvips decodes JPEG with another release of libjpeg-turbo: the decoders are compared too."""
    different = []
    paths = sorted((shared_data / "imagenet-300").rglob("*.[jJ]*"))
    for number, path in enumerate(paths):
        copy = tmp_path / f"{number}.jpg"
        copy.write_bytes(path.read_bytes())
        try:
            same_as_vips(copy)
        except AssertionError:
            different.append(path.name)
    print(f"{len(paths)} photographs, {len(different)} differ: {different[:5]}")
    assert not different


@needs_magick
@pytest.mark.parametrize("name", drawn())
def test_mean_and_deviation_are_those_of_imagemagick(name: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if name == "jpeg" else "a.png")
    path.write_bytes(drawn()[name])
    rows = of_magick(path, "-separate")
    if name in WITH_ALPHA:
        rows += of_magick(path, "-alpha", "extract")
    summary, _ = ours(path, alpha="keep" if name in WITH_ALPHA else "drop")
    if summary.channels[0] == "L":  # version 6 separates gray into three equal channels, version 7 into one
        repeated = len(rows) - len(summary.channels)
        assert rows[: repeated + 1] == [rows[0]] * (repeated + 1)
        rows = rows[repeated:]
    assert len(rows) == len(summary.channels)
    sample = summary.conventions["pooled_sample"]["std"]
    for c, (mean, std, low, high) in enumerate(rows):
        assert summary.mean[c] == pytest.approx(mean, rel=1e-12)
        assert sample is not None and sample[c] == pytest.approx(std, rel=1e-12)
        assert [summary.min[c], summary.max[c]] == pytest.approx([low, high], abs=1e-12)


def of_magick(path: Path, *operators: str) -> list[list[float]]:
    """Return for each channel in 0-1: mean, sample deviation, least, largest."""
    words = "%[fx:mean] %[fx:standard_deviation] %[fx:minima] %[fx:maxima]\n"
    command = [str(CONVERT), str(path), "-precision", "17", *operators, "-format", words, "info:"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [[float(word) for word in line.split()] for line in text.splitlines() if line.strip()]


def pillows(path: Path) -> Any:
    """Return Pillow's histogram (C,256) of an 8-bit image in gray or RGB; None for deeper ones."""
    with Image.open(path) as image:
        if image.mode not in ("L", "RGB", "RGBA", "LA", "P", "CMYK"):
            return None
        if image.mode in ("RGBA", "LA"):
            image.load()
            bands = image.split()[:-1]
            return np.array([band.histogram() for band in bands])
        plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
        return np.array(plain.histogram()).reshape(-1, 256)


def compare_with_pillow(paths: list[Path]) -> int:
    compared = 0
    for path in paths:
        theirs = pillows(path)
        if theirs is None:
            continue
        _, bucket = ours(path)
        mine = np.asarray(bucket.histogram)
        if len(mine) != len(theirs):  # a palette of grays counts as gray
            assert len(mine) == 1 and all((row == theirs[0]).all() for row in theirs), path
        assert (mine == theirs[: len(mine)]).all(), path
        compared += 1
    return compared


def test_histograms_of_the_sample_data_are_pillows() -> None:
    paths = [p for p in sorted((ROOT / "sample_data").rglob("*")) if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
    assert compare_with_pillow(paths) >= 70


@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.campaign)])
def test_histograms_of_photographs_are_pillows(step: int, shared_data: Path) -> None:
    paths = sorted((shared_data / "imagenet-300").rglob("*.[jJ]*"))[::step]
    assert compare_with_pillow(paths) == len(paths) >= 20


@pytest.mark.campaign
def test_histograms_of_mnist_are_pillows(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "mnist-test.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    paths = sorted(p for p in tmp_path.rglob("*.png"))
    assert compare_with_pillow(paths) == len(paths) == 10_000


def test_the_comparison_sees_one_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photograph()
    (tmp_path / "a.png").write_bytes(encoded(picture))
    theirs = pillows(tmp_path / "a.png")
    theirs[0, picture[0, 0, 0]] -= 1
    monkeypatch.setattr(f"{__name__}.pillows", lambda path: theirs)
    with pytest.raises(AssertionError):
        compare_with_pillow([tmp_path / "a.png"])
