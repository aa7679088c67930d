"""Fits whose statistics were computed in float16 or bfloat16 itself, each step rounded."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from normcli.tensor.identify.known import centers, is_near, measure_expected
from normcli.tensor.identify.laws import STATISTICS, Epsilon, Statistic
from normcli.tensor.identify.names import titles
from normcli.tensor.identify.partition import Partition
from normcli.tensor.identify.precision import distance_in_ulps, round_to
from normcli.tensor.identify.readings import ONCE, Pair, Reading
from normcli.tensor.identify.results import Agreement, Fit
from normcli.tensor.normalizers.views import Array

EPSILONS = sorted({0.0, 2.0**-23, 2.0**-10, 2.0**-7, *(float(f"1e-{e}") for e in range(1, 13)), 1.0})
_EQUAL = 0.9  # share that is equal in a fit: another order of a sum moves some statistics by a step
_ALIKE = 0.01


class Steps(NamedTuple):
    """An order of rounded steps.

    Attributes:
        label: as printed.
        later: the steps after the squares are rounded too, not only the squares.
        reciprocal: multiply by the reciprocal root, not divide by the root.
    """

    label: str
    later: bool
    reciprocal: bool = False


ORDERS = (
    Steps("squares rounded before the sum", False),
    Steps("every step rounded, divided by the root", True),
    Steps("every step rounded, times the reciprocal root", True, True),
)


def half_fits(pair: Pair, partitions: Iterable[Partition], readings: Iterable[Reading]) -> Iterator[Fit]:
    """Yield the best fits of statistics in the half type of Y."""
    readings = list(readings)
    statistics = [s for s in STATISTICS if s.name in ("std", "rms") and s.centered == (s.name == "std")]
    fits: list[Fit] = []
    for partition in partitions:
        rows = partition.rows(pair.x)
        if rows.shape[1] < 2:
            continue
        for statistic in statistics:
            for steps in ORDERS:
                fits += _of_order(pair, readings, partition, statistic, steps)
    best = max((fit.agreement.equal for fit in fits), default=0.0)
    yield from (fit for fit in fits if fit.agreement.equal >= max(_EQUAL, best - _ALIKE))


def _of_order(
    pair: Pair, readings: list[Reading], partition: Partition, statistic: Statistic, steps: Steps
) -> Iterator[Fit]:
    for place in ("inside", "outside"):
        usual = _normalize(pair, partition, statistic, steps, 1e-5, place)
        if not any(is_near(pair.y, reading.apply(usual, pair.dtype)) for reading in readings):
            continue
        normals = [_normalize(pair, partition, statistic, steps, eps, place) for eps in EPSILONS]
        for reading in readings:
            if (reading.rounding == ONCE) == steps.later and reading.weight is not None:
                continue  # every step rounded is also the affine
            measured = [_measure(pair, reading, normal) for normal in normals]
            best = max(m.equal for m in measured)
            alike = [e for e, m in zip(EPSILONS, measured, strict=True) if m.equal >= best - _ALIKE / 10]
            if best < _EQUAL or (place == "outside" and alike[0] == 0.0):
                continue
            eps = Epsilon(alike[0], alike[-1], place if alike[0] else None)
            yield Fit(
                names=tuple(titles(partition, pair.x.shape, statistic, eps)),
                eps=eps,
                variance=statistic.variance,
                weight=reading.label,
                rounding=None if reading.weight is None and reading.bias is None else reading.rounding,
                arithmetic=f"{pair.dtype.name}: {steps.label}",
                clipped=reading.clipped,
                signature=partition.signature(pair.x.shape),
                agreement=measured[EPSILONS.index(alike[0])],
            )


def _measure(pair: Pair, reading: Reading, normal: Array) -> Agreement:
    """Return the distances of Y, where values that overflowed in both are equal."""
    expected = reading.apply(normal, pair.dtype)
    nonfinite = ~np.isfinite(expected) & ~np.isfinite(pair.y)
    measured = measure_expected(pair, np.where(nonfinite, pair.y, expected))
    gaps = distance_in_ulps(pair.y, expected, pair.dtype)
    share = float(np.mean((gaps == 0) | nonfinite))
    return measured._replace(equal=share)


def _normalize(pair: Pair, partition: Partition, statistic: Statistic, steps: Steps, eps: float, place: str) -> Array:
    """Return x normalized, with the steps rounded to the type of Y."""

    def rounded(values: Array) -> Array:
        return round_to(values, pair.dtype)

    rows, shape = partition.rows(pair.x), pair.x.shape
    with np.errstate(all="ignore"):
        mean = centers(rows) if statistic.centered else np.zeros((len(rows), 1))
        mean = rounded(mean) if steps.later else mean
        z = rounded(rows - mean)
        total = rounded(z * z).sum(axis=1)
        count = rows.shape[1] - (statistic.variance == "unbiased")
        square = total / count
        square = rounded(square) if steps.later else square
        step = rounded if steps.later else np.asarray
        small = float(rounded(np.asarray(eps))) if steps.later else eps
        root = step(np.sqrt(step(square + small))) if place == "inside" else step(step(np.sqrt(square)) + small)
        deviation = pair.x - partition.spread(mean, shape)
        deviation = rounded(deviation) if steps.later else deviation
        if steps.reciprocal:
            return np.asarray(step(deviation * partition.spread(step(1.0 / root), shape)))
        return np.asarray(step(deviation / partition.spread(root, shape)))
