"""Intervals of samples over images of unequal size: they hold as often as they say."""

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.runs.image_sizes import SizeClasses, measure
from normcli.runs.intervals import Intervals
from normcli.runs.sample import checkpoints
from normcli.sources import Item, read
from tests.support.images import encoded, photograph

Rows = np.ndarray[Any, Any]  # pixels, E[x], E[x^2] of every image
COUNT = 600


def rows(pixels: Rows, mean: Rows, std: Rows) -> Rows:
    mean = mean.clip(0, 1)
    return np.stack([np.maximum(pixels, 1).astype(int), mean, std**2 + mean**2], axis=1)


def rare(rng: np.random.Generator, number: int, times: int) -> Rows:
    """Dark images, some of them so many times larger and bright."""
    pixels, mean = np.full(COUNT, 10_000.0), rng.normal(0.3, 0.1, COUNT)
    chosen = rng.permutation(COUNT)[:number]
    pixels[chosen] *= times**2
    mean[chosen] = 0.95
    return rows(pixels, mean, np.full(COUNT, 0.1))


def white(share: float) -> Rows:
    mean = np.zeros(COUNT)
    mean[: max(1, round(share * COUNT))] = 1
    return rows(np.full(COUNT, 10_000.0), mean, np.zeros(COUNT))


def populations(rng: np.random.Generator) -> Iterator[tuple[str, Rows]]:
    equal = np.full(COUNT, 10_000.0)
    sizes, wild = rng.lognormal(10, 1.2, COUNT), rng.lognormal(10, 2, COUNT)
    yield "lognormal sizes, brightness by size", rows(sizes, 0.1 * np.log(sizes) - 0.7, np.full(COUNT, 0.15))
    yield "wilder sizes, brightness by size", rows(wild, 0.06 * np.log(wild) - 0.3, np.full(COUNT, 0.15))
    yield "wilder sizes, any brightness", rows(wild, rng.normal(0.45, 0.15, COUNT), np.full(COUNT, 0.15))
    yield "0.5% are 20 times larger", rare(rng, 3, 20)
    yield "2% are 8 times larger", rare(rng, 12, 8)
    yield "one image holds most pixels", rare(rng, 1, 30)
    yield "one is white", white(0)
    yield "0.5% are white", white(0.005)
    yield "5% are white", white(0.05)
    deep = np.where(rng.random(COUNT) < 0.5, 0.8, 0.1)
    yield "mixed depths", rows(equal, deep + rng.normal(0, 0.02, COUNT), np.full(COUNT, 0.05))
    yield "even", rows(equal, rng.normal(0.45, 0.15, COUNT), np.full(COUNT, 0.2))


def moments(images: Rows) -> tuple[float, float]:
    weight = images[:, 0] / images[:, 0].sum()
    mean = float(weight @ images[:, 1])
    return mean, float(np.sqrt(max(0.0, weight @ images[:, 2] - mean**2)))


def holds(images: Rows, confidence: float, plan: dict[str, float], rng: np.random.Generator) -> bool:
    """Read so many images, or until both intervals are within a margin; return True if they contain the true values."""
    sizes = SizeClasses()
    for pixels in images[:, 0].tolist():
        sizes.add(int(pixels))
    order, intervals, done = rng.permutation(COUNT), Intervals(confidence), 0
    widths = None
    for look in [int(plan["number"])] if "number" in plan else checkpoints():
        end = min(look, COUNT)
        for pixels, mean, second in images[order[done:end]].tolist():
            intervals.add(pixels, [mean], [second], 0.0, 1.0, int(pixels))
        done = end
        widths = intervals.widths(done, COUNT, 1, sizes)
        assert widths is not None
        if done == COUNT or max(widths[0] + widths[1]) <= plan.get("margin", 0):
            break
    assert widths is not None
    (mean_, std), (of_sample, std_of_sample) = moments(images), moments(images[order[:done]])
    return abs(mean_ - of_sample) <= widths[0][0] + 1e-9 and abs(std - std_of_sample) <= widths[1][0] + 1e-9


def coverage(runs: int, confidence: float, plan: dict[str, float], seed: int) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    counts: dict[str, int] = {}
    for _ in range(runs):
        for name, images in populations(rng):
            counts[name] = counts.get(name, 0) + holds(images, confidence, plan, rng)
    return counts


PLANS: list[dict[str, float]] = [{"number": 60}, {"number": 200}, {"margin": 0.02}, {"margin": 0.05}]


@pytest.mark.parametrize("plan", [{"number": 60}, {"margin": 0.05}], ids=str)
def test_intervals_hold_on_every_kind_of_set(plan: dict[str, float]) -> None:
    for name, count in coverage(10, 0.9, plan, 1).items():
        assert count >= 9, name


@pytest.mark.campaign
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_200_runs_of_every_kind(plan: dict[str, float], confidence: float) -> None:
    counts = coverage(200, confidence, plan, 2)
    print(plan, confidence, counts)
    for name, count in counts.items():
        assert count >= 200 * confidence, name


def test_without_sizes_rare_large_images_are_missed() -> None:
    """The check sees its own failure: with the sizes of the sample alone the intervals are too short."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(20):
        images = rare(rng, 3, 20)
        order, intervals = rng.permutation(COUNT)[:60], Intervals(0.99)
        for pixels, mean, second in images[order].tolist():
            intervals.add(pixels, [mean], [second], 0.0, 1.0)
        widths = intervals.widths(60, COUNT, 1)
        assert widths is not None
        held += abs(moments(images)[0] - moments(images[order])[0]) <= widths[0][0]
    assert held < 15


# --- the sizes of all images, by their headers --------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    kinds = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]
    for number, kind in enumerate(kinds):
        (folder / f"{number}.{kind.lower()}").write_bytes(encoded(photograph(20 + number, 30, seed=number), kind))
    return folder


def sizes_of(source: Path, **reading: Any) -> tuple[int, int, int]:
    """Images, pixels and unknown sizes."""
    sizes = SizeClasses()
    items = (item for item in read([str(source)], InputOptions()) if isinstance(item, Item))
    assert len(list(measure(items, sizes, DecodeOptions(**reading)))) == 7
    classes = sizes.classes.values()
    return sum(one.images for one in classes), sum(one.pixels for one in classes), sizes.unknown


@pytest.mark.parametrize("packing", ["folder", "tar", "tar.gz", "zip"])
def test_headers_tell_the_pixels_that_are_counted(packing: str, mixed: Path, tmp_path: Path) -> None:
    source = mixed
    if packing.startswith("tar"):
        source = tmp_path / f"x.{packing}"
        with tarfile.open(source, "w:gz" if packing == "tar.gz" else "w") as archive:
            archive.add(mixed, "x")
    elif packing == "zip":
        source = tmp_path / "x.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in sorted(mixed.iterdir()):
                packed.write(path, path.name)
    for options in ({}, {"resize": 16}, {"center_crop": 12}, {"resize": 16, "center_crop": 12}):
        summary = normcli.stats(source, **options)  # type: ignore[arg-type]
        assert sizes_of(source, **options) == (7, summary.pixels, 0), options


def test_an_image_without_a_size_counts_as_the_largest(mixed: Path) -> None:
    (mixed / "2.bmp").write_bytes(b"BM not an image")
    assert sizes_of(mixed)[2] == 1
    summary = normcli.stats(mixed, sample="5", seed=1)
    assert summary.sample is not None and summary.sample["of"] == 7
