"""Float images whose values cancel: every convention against fractions, to the last bit."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import InputError
from normcli.tally import Tally
from tests.support.reference_statistics import root


def reference(images: list[Any]) -> dict[str, tuple[float, float | None]]:
    """Compute mean and std in every convention of one channel by fractions; only averaged stds are rounded."""
    columns = [[Fraction(float(v)) for v in image.ravel()] for image in images]
    pooled = [v for column in columns for v in column]
    mean = sum(pooled, Fraction()) / len(pooled)
    spread = sum(((v - mean) ** 2 for v in pooled), Fraction())
    means = [sum(column, Fraction()) / len(column) for column in columns]
    spreads = [sum(((v - m) ** 2 for v in column), Fraction()) for column, m in zip(columns, means, strict=True)]
    sizes = [len(column) for column in columns]
    of_images = float(sum(means, Fraction()) / len(means))
    variances = [s / n for s, n in zip(spreads, sizes, strict=True)]
    stds = [Fraction(root(v)) for v in variances]
    samples = [Fraction(root(s / (n - 1))) for s, n in zip(spreads, sizes, strict=True)]
    count = len(images)
    return {
        "pooled_population": (float(mean), root(spread / len(pooled))),
        "pooled_sample": (float(mean), root(spread / (len(pooled) - 1))),
        "mean_of_image_stds": (of_images, float(sum(stds, Fraction()) / count)),
        "mean_of_image_sample_stds": (of_images, float(sum(samples, Fraction()) / count)),
        "root_mean_image_variance": (of_images, root(sum(variances, Fraction()) / count)),
        "pooled_within_images": (float(mean), root(sum(spreads, Fraction()) / (len(pooled) - count))),
    }


def cancelling(seed: int, scale: float, dtype: str) -> list[Any]:
    rng = np.random.default_rng(seed)
    images = [rng.normal(0, scale, (5 + i % 3, 7)).astype(dtype) for i in range(8)]
    return [*images, *(-image[::-1, ::-1] for image in images), rng.normal(0, 1, (3, 5)).astype(dtype)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e32, "float32"), (1e32, "float64"), (1e-3, "float64"), (1e37, "float64")]
)
def test_values_that_cancel(scale: float, dtype: str, seed: int, tmp_path: Path) -> None:
    images = cancelling(seed, scale, dtype)
    assert len(images) == 17
    for number, image in enumerate(images):
        np.save(tmp_path / f"{number}.npy", image)
    summary = normcli.stats([tmp_path / f"{i}.npy" for i in range(17)])
    expected = reference(images)
    for name, (mean, std) in expected.items():
        values = summary.conventions[name]
        assert values["mean"] == [mean] and values["std"] == [std], name
    equal = normcli.stats([tmp_path / f"{i}.npy" for i in range(17)], weight="image")
    means = [sum(map(Fraction, map(float, image.ravel())), Fraction()) / image.size for image in images]
    seconds = [sum((Fraction(float(v)) ** 2 for v in image.ravel()), Fraction()) / image.size for image in images]
    mean_ = sum(means, Fraction()) / 17
    assert equal.mean == [float(mean_)] and equal.std == [root(sum(seconds, Fraction()) / 17 - mean_**2)]


def test_thousands_of_extremes_are_the_same_for_every_split() -> None:
    images = list(np.random.default_rng(3).normal(size=(5000, 1, 2, 1)).astype(np.float32))
    states = []
    for parts in (1, 3, 40):
        tallies = [Tally() for _ in range(parts)]
        for i, image in enumerate(images):
            tallies[i * 7 % parts].count(image)
        states.append(sum(tallies, Tally()).state())
    assert states[0] == states[1] == states[2]
    lowest = states[0]["buckets"][0]["lowest"][0]
    ascending = sorted(float(image.min()) for image in images)[:1024]
    assert (lowest["values"], lowest["bound"]) == (ascending, ascending[-1])


def test_an_image_that_fails_leaves_no_count() -> None:
    tally = Tally()
    tally.count(np.full((4, 4, 1), 0.5))
    before = tally.state()
    for bad in (math.nan, math.inf, 1e200):
        image = np.full((4, 4, 1), 0.25)
        image[1, 1] = bad
        with pytest.raises(InputError):
            tally.count(image)
        assert tally.state() == before
    tally.count(np.full((4, 4, 1), 0.75))
    assert (tally - tally_of(0.5)).state() == tally_of(0.75).state()


def tally_of(value: float) -> Tally:
    tally = Tally()
    tally.count(np.full((4, 4, 1), value))
    return tally


@pytest.mark.parametrize("layout", ["hwc", "nc"])
def test_values_beyond_float32_are_refused_by_name(layout: Any) -> None:
    """Percentiles and histograms are counted by float32: those of 1e100 were the maximum, or infinite in groups."""
    largest = float(np.finfo(np.float32).max)
    values = np.array([[[largest], [-largest], [1.0]]])
    counter = normcli.Counter(layout=layout)
    counter.add(values if layout == "hwc" else values[0], group="a")
    found = normcli.Summary.from_json(counter.summary().to_json())
    assert found.max == [largest] and abs(found.percentiles["99"][0] / (0.98 * largest) - 1) < 1 / 128
    assert found.histogram(bins=3)[0].tolist() == [1, 1, 1]
    with pytest.raises(InputError, match=r"over 3\.4e38, the largest float32"):
        counter.add((values if layout == "hwc" else values[0]) * 1.001)
