"""Fits with a weight and bias that are known: bounds of every element, met by every set."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from normcli.tensor.identify.laws import Epsilon, Statistic, epsilons, statistics_of
from normcli.tensor.identify.names import titles
from normcli.tensor.identify.partition import Partition
from normcli.tensor.identify.precision import distance_in_ulps, is_half, ulps
from normcli.tensor.identify.readings import Pair, Reading
from normcli.tensor.identify.results import Agreement, Fit
from normcli.tensor.normalizers.views import Array

_NEAR = 0.3  # relative error of the nearest quarter of the elements


def known_fits(
    pair: Pair, partitions: Iterable[Partition], readings: Iterable[Reading], units: float, *, usual: bool = True
) -> Iterator[Fit]:
    """Yield every normalizer of these partitions that maps X to Y with one of these readings.

    Args:
        pair: the tensors.
        partitions: to try.
        readings: to try.
        units: unit roundoffs that the arithmetic may be off.
        usual: a weight spans the channels, or axes that are reduced, as in the named normalizers.
    """
    partitions = list(partitions)
    for reading in readings:
        low, high = reading.bounds(pair, units)
        for partition in partitions:
            rows = partition.rows(pair.x)
            if rows.shape[1] < 2 or (usual and not _is_usual(partition, reading.axes, pair.x.ndim)):
                continue
            bounds = partition.rows(low), partition.rows(high)
            for center in (centers(rows), np.zeros((len(rows), 1))):
                yield from _fits_of(pair, reading, partition, center, bounds, units * pair.unit)


def _is_usual(partition: Partition, axes: tuple[int, ...] | None, rank: int) -> bool:
    """Return True if a weight of these axes belongs to a normalizer of this partition."""
    if not axes:
        return True
    if partition.channel is not None:
        return axes in ((partition.channel,), (0, partition.channel))
    rest = tuple(a for a in range(rank) if a not in partition.axes)
    return set(axes) <= set(partition.axes) or axes == rest == (0,)


def centers(rows: Array) -> Array:
    """Return the mean of each row, exact enough to center numbers far from 0."""
    with np.errstate(all="ignore"):
        mean = rows.mean(axis=1, keepdims=True)
        return np.asarray(mean + (rows - mean).mean(axis=1, keepdims=True))


def center_terms(rows: Array, *, centered: bool) -> Array:
    """Return the magnitude of the terms behind the center of each row: a sum loses digits of its largest terms."""
    return np.asarray(np.abs(rows).mean(axis=1, keepdims=True)) if centered else np.zeros((len(rows), 1))


def divisor_bounds(
    rows: Array, center: Array, terms: Array, bounds: tuple[Array, Array], error: float
) -> tuple[Array, Array] | None:
    """Return the least and the largest reciprocal divisor r of each set; None if a set has none, or none is bounded.

    Args:
        rows: elements of each set.
        center: the number that is subtracted.
        terms: magnitude of the terms behind the center.
        bounds: of (x - center) * r, for each element.
        error: relative error of the arithmetic.
    """
    with np.errstate(all="ignore"):
        z = rows - center
        blur = error * (np.abs(rows) + terms)
        size, negative = np.abs(z), z < 0
        low, high = np.where(negative, -bounds[1], bounds[0]), np.where(negative, -bounds[0], bounds[1])
        near, far = size - blur, size + blur
        visible = near > 0.5 * size
        least = np.where(visible, low / np.where(low > 0, far, near), -np.inf).max(axis=1, initial=0.0)
        most = np.where(visible, high / np.where(high > 0, near, far), np.inf).min(axis=1, initial=np.inf)
    least, most = least * (1.0 - error), most * (1.0 + error)
    possible = (least <= most).all() and (most < np.inf).any() and (least > 0).any()
    return (least, most) if possible else None


def _fits_of(
    pair: Pair, reading: Reading, partition: Partition, center: Array, bounds: tuple[Array, Array], error: float
) -> Iterator[Fit]:
    rows = partition.rows(pair.x)
    divisors = divisor_bounds(rows, center, center_terms(rows, centered=bool(center.any())), bounds, error)
    if divisors is None:
        return
    for statistic in statistics_of(partition):
        if statistic.centered != bool(center.any()):
            continue
        with np.errstate(all="ignore"):
            s = statistic.of(rows - center, rows)
        if not np.isfinite(s).any():
            continue
        for eps in epsilons(np.where(divisors[1] < np.inf, s, np.nan), *divisors, error):
            yield describe_fit(pair, reading, partition, statistic, eps)


def normalized(pair: Pair, partition: Partition, statistic: Statistic, eps: Epsilon) -> Array:
    """Return x normalized in float64, before weight and bias."""
    rows = partition.rows(pair.x)
    mean = centers(rows) if statistic.centered else np.zeros((len(rows), 1))
    s = statistic.of(rows - mean, rows)
    with np.errstate(all="ignore"):
        divisor = divide_by(s, eps.value, eps.place or "inside")
        return np.asarray((pair.x - partition.spread(mean, pair.x.shape)) / partition.spread(divisor, pair.x.shape))


def divide_by(s: Array, eps: float, place: str) -> Array:
    """Return the divisor of sets with statistic s."""
    if place == "inside":
        return np.sqrt(s * s + eps)
    if place == "outside":
        return s + eps
    return np.maximum(s, eps if place == "floor" else math.sqrt(eps))


def describe_fit(pair: Pair, reading: Reading, partition: Partition, statistic: Statistic, eps: Epsilon) -> Fit:
    """Return a fit with its distance from Y."""
    plain = reading.weight is None and reading.bias is None
    return Fit(
        names=tuple(titles(partition, pair.x.shape, statistic, eps)),
        eps=eps,
        variance=statistic.variance,
        weight=reading.label,
        rounding=None if plain or not is_half(pair.dtype) else reading.rounding,
        clipped=reading.clipped,
        agreement=measure(pair, reading, normalized(pair, partition, statistic, eps)),
        signature=partition.signature(pair.x.shape),
    )


def is_near(y: Array, expected: Array) -> bool:
    """Return True if most of Y is not far from a result: another epsilon moves small sets only."""
    with np.errstate(all="ignore"):
        apart = np.abs(expected - y) / np.maximum(np.abs(expected), np.abs(y))
    return bool(np.nanquantile(apart, 0.25) < _NEAR) if np.isfinite(apart).any() else False


def measure(pair: Pair, reading: Reading, normal: Array) -> Agreement:
    """Return the largest distance of Y from a normalized tensor, in ulps, and the share of equal elements."""
    return measure_expected(pair, reading.apply(normal, pair.dtype))


def measure_expected(pair: Pair, expected: Array) -> Agreement:
    """Return the largest distance of Y from the result expected, in ulps, and the share of equal elements."""
    gaps = distance_in_ulps(pair.y, expected, pair.dtype)
    usable = np.isfinite(gaps)
    if not usable.any():
        return Agreement()
    y = pair.y[usable]
    with np.errstate(all="ignore"):
        level = np.sqrt(np.mean(np.square(y)))
        far = np.abs(y - expected[usable]) / ulps(np.maximum(np.abs(y), level), pair.dtype)
    gaps = gaps[usable]
    return Agreement(float(gaps.max()), float(far.max()), float(np.mean(gaps == 0)))
