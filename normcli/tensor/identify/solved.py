"""Fits whose weight and bias are unknown: solved for by least squares, then checked against the rounding of Y."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from normcli.tensor.identify.known import center_terms, centers, divide_by, divisor_bounds, measure, measure_expected
from normcli.tensor.identify.laws import STATISTICS, Epsilon, Statistic, epsilons
from normcli.tensor.identify.names import titles
from normcli.tensor.identify.partition import Partition, Shape, channel_axes, layout_name
from normcli.tensor.identify.precision import round_to, ulps
from normcli.tensor.identify.readings import Pair, Reading
from normcli.tensor.identify.results import Fit
from normcli.tensor.normalizers.views import Array

_ROOM = 1.5, 0.8  # largest and root mean square residual of a fit, in tolerances; of rounding alone 1 and 0.58
_ROOM_OF_EDGE = 1e-9  # relative: bisection ends next to the edge
_SCREEN = (0.0, 1e-6, 1e-4, 1e-2)  # epsilons
_SAME = 1e-4  # relative difference of weights that are one number
_UNEXPLAINED = 0.2  # of the variance, by a normalizer whose epsilon is a factor of 10 off
_GRID = np.concatenate([[0.0], 10.0 ** np.arange(-16.0, 1.0, 0.5)])


class Solution(NamedTuple):
    """Weight and bias of each cell by least squares.

    Attributes:
        weight: of each cell.
        bias: of each cell.
        expected: their result for x, in the rows of the cells.
        largest: residual, in tolerances.
        rms: residual, in tolerances.
    """

    weight: Array
    bias: Array
    expected: Array
    largest: float
    rms: float

    @property
    def fits(self) -> bool:
        """Return True if the residual is that of rounding."""
        return self.largest <= _ROOM[0] and self.rms <= _ROOM[1]


def solve(pair: Pair, normal: Array, y: Array, units: float, blur: Array | float = 0.0) -> Solution:
    """Compute weight and bias of y = weight * normal + bias for each row: precise elements count more.

    Args:
        pair: the tensors, for their precision.
        normal: normalized elements, rows of the elements that share a weight.
        y: the same of Y.
        units: unit roundoffs that the arithmetic may be off.
        blur: magnitude of the terms whose difference an element is.
    """
    usable = np.isfinite(normal) & np.isfinite(y)
    n, t = np.where(usable, normal, 0.0), np.where(usable, y, 0.0)
    share = usable.astype(np.float64)
    with np.errstate(all="ignore"):
        for _ in range(2):
            total = np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
            n_mean, t_mean = ((share * v).sum(axis=1, keepdims=True) / total for v in (n, t))
            dn, dt = n - n_mean, t - t_mean
            square = (share * dn * dn).sum(axis=1, keepdims=True)
            weight = np.where(square > 0, (share * dn * dt).sum(axis=1, keepdims=True) / square, 0.0)
            bias = t_mean - weight * n_mean
            terms = np.abs(weight) * (np.abs(n) + blur) + np.abs(bias) + np.abs(t)
            tolerance = 0.5 * ulps(t, pair.dtype) + units * pair.unit * terms
            share = np.where(usable, np.square(tolerance.min(axis=1, keepdims=True) / tolerance), 0.0)
        residual = np.where(usable, np.abs(dt - weight * dn) / tolerance, 0.0)
    rms = math.sqrt(float(np.mean(np.square(residual)))) if residual.size else math.nan
    expected = np.where(usable, weight * n + bias, np.nan)
    return Solution(weight, bias, expected, float(residual.max(initial=0.0)), rms)


def _unexplained(normal: Array, y: Array) -> float:
    """Return the share of the variance of rows of Y that a weight and bias for each row leave."""
    usable = np.isfinite(normal) & np.isfinite(y)
    n, t = (np.where(usable, v, 0.0) for v in (normal, y))
    count = np.maximum(usable.sum(axis=1, keepdims=True), 1)
    n, t = (np.where(usable, v - v.sum(axis=1, keepdims=True) / count, 0.0) for v in (n, t))
    along, square, total = (np.einsum("ij,ij->i", *pair) for pair in ((n, t), (n, n), (t, t)))
    explained = float((along**2 / np.where(square > 0, square, 1.0)).sum())
    return 1.0 - explained / max(float(total.sum()), 1e-300)


def affine_axes(partition: Partition, shape: Shape) -> list[tuple[int, ...]]:
    """Return the axes that an affine of a partition may span: the channel's, or those reduced."""
    if partition.channel is not None:
        return [(partition.channel,)]
    spans: list[tuple[int, ...]] = [(a,) for a in sorted({1, len(shape) - 1}) if a in partition.axes]
    if len(partition.axes) > 1 and 0 not in partition.axes:
        spans.append(partition.axes)
    return spans


def solved_fits(pair: Pair, partitions: Iterator[Partition], units: float) -> Iterator[Fit]:
    """Yield every normalizer of these partitions that maps X to Y with some weight and bias."""
    shape = pair.x.shape
    statistics = [s for s in STATISTICS if s.name in ("std", "rms") and s.variance != "unbiased"]
    statistics = [s for s in statistics if s.centered or s.name == "rms"]
    for partition in partitions:
        for axes in affine_axes(partition, shape):
            cells = Partition(tuple(a for a in range(len(shape)) if a not in axes))
            y = cells.rows(pair.y)
            per_cell = math.prod(shape[a] for a in cells.axes if a not in partition.axes)
            per_cell = per_cell if partition.split in (None, *axes) else per_cell * partition.groups
            if per_cell < 3 or y.shape[1] < 4 or partition.rows(pair.x).shape[1] < 2:
                continue  # every set has a weight of its own, or nothing is left to check with
            for statistic in statistics:
                yield from _solved_with(pair, partition, statistic, cells, units)


def _solved_with(
    pair: Pair, partition: Partition, statistic: Statistic, cells: Partition, units: float
) -> Iterator[Fit]:
    rows, shape = partition.rows(pair.x), pair.x.shape
    mean = centers(rows) if statistic.centered else np.zeros((len(rows), 1))
    z, s = pair.x - partition.spread(mean, shape), statistic.of(rows - mean, rows)
    y = cells.rows(pair.y)

    def unexplained(eps: float) -> float:
        with np.errstate(all="ignore"):
            divisor = partition.spread(divide_by(s, eps, "inside"), shape)
            return _unexplained(cells.rows(np.broadcast_to(z / divisor, shape)), y)

    if min(map(unexplained, _SCREEN)) > _UNEXPLAINED:
        return
    terms = np.abs(pair.x) + partition.spread(center_terms(rows, centered=statistic.centered), shape)

    def solution(eps: float, place: str) -> Solution:
        with np.errstate(all="ignore"):
            divisor = np.broadcast_to(partition.spread(divide_by(s, eps, place), shape), shape)
            return solve(pair, cells.rows(z / divisor), y, units, cells.rows(terms / divisor))

    ranges: dict[str, tuple[float, float]] = {}
    for place in ("inside", "outside"):
        bounds = _eps_range(lambda eps, place=place: solution(eps, place))  # type: ignore[misc]
        if bounds is not None:
            ranges[place] = bounds
    if "inside" in ranges and ranges["inside"][0] == 0.0:
        ranges = {"": ranges["inside"]}
    for place, (low, high) in ranges.items():
        eps = Epsilon(low, high, place or None)
        best = solution(eps.value, place or "inside")
        yield _fit(pair, partition, statistic, cells, eps, best)


def _eps_range(solution: Callable[[float], Solution]) -> tuple[float, float] | None:
    """Return the range of epsilon whose solutions fit; None if none does."""
    grid = [float(e) for e in _GRID]
    errors = [solution(e).rms for e in grid]
    best = int(np.nanargmin(errors)) if not np.isnan(errors).all() else 0
    left, right = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    minima = [grid[best]] if best <= 1 else [grid[best], _minimum(lambda e: solution(e).rms, left, right)]
    center = min(minima, key=lambda e: solution(e).largest)
    if not solution(center).fits:
        return None
    low = 0.0 if solution(0.0).fits else _edge(lambda e: solution(e).fits, center, 0.01 * center)
    high = _edge(lambda e: solution(e).fits, max(center, 1e-20), 1e4 * max(center, 1e-16))
    return low * (1.0 - _ROOM_OF_EDGE), high * (1.0 + _ROOM_OF_EDGE)


def _minimum(error: Callable[[float], float], low: float, high: float) -> float:
    """Return the place of the least error between two positive numbers, by golden section of the logarithm."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    a, b = math.log(low), math.log(high)
    c, d = b - ratio * (b - a), a + ratio * (b - a)
    at_c, at_d = error(math.exp(c)), error(math.exp(d))
    for _ in range(75):  # to 1e-16 of the logarithm
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - ratio * (b - a)
            at_c = error(math.exp(c))
        else:
            a, c, at_c = c, d, at_d
            d = a + ratio * (b - a)
            at_d = error(math.exp(d))
    return math.exp((a + b) / 2.0)


def _edge(fits: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return the end of the range of a fit between two positive numbers, by bisection of the logarithm."""
    a, b = math.log(inside), math.log(outside)
    for _ in range(30):
        middle = (a + b) / 2.0
        a, b = (middle, b) if fits(math.exp(middle)) else (a, middle)
    return math.exp(a)


def _fit(pair: Pair, partition: Partition, statistic: Statistic, cells: Partition, eps: Epsilon, best: Solution) -> Fit:
    shape = pair.x.shape
    rows = pair._replace(y=cells.rows(pair.y))
    absorbed = ["weight or 1 + weight"]
    count = partition.rows(pair.x).shape[1]
    if statistic.name == "std":
        factor = count / (count - 1)
        absorbed.append(
            f"variance biased or unbiased: unbiased, the weight is {math.sqrt(factor):.9g} times as large and eps "
            f"{eps.value * (factor if eps.place != 'outside' else math.sqrt(factor)):.6g}"
        )
    else:
        absorbed.append(f"root mean square or L2 norm: of the L2 norm, the weight is {math.sqrt(count):.9g} times it")
    names = titles(partition, shape, statistic, eps)
    scale, spread = float(np.abs(best.weight).max()), float(np.ptp(best.weight))
    if statistic.name == "rms" and max(spread, float(np.abs(best.bias).max())) <= _SAME * scale:
        names.append(("scale_norm", {"scale": f"{float(best.weight.mean()) * math.sqrt(count):.6g}"}))
    return Fit(
        names=tuple(names),
        eps=eps,
        variance=None,
        weight="solved",
        agreement=measure_expected(rows, round_to(best.expected, pair.dtype)),
        solved=_solved_arrays(cells, shape, best),
        absorbed=tuple(absorbed),
        signature=partition.signature(shape),
    )


def _solved_arrays(cells: Partition, shape: Shape, best: Solution) -> dict[str, Array]:
    rest = [n for a, n in enumerate(shape) if a not in cells.axes]
    return {"weight": best.weight.reshape(rest), "bias": best.bias.reshape(rest)}


def fixed_fits(pair: Pair, known: Reading | None, units: float) -> Iterator[Fit]:
    """Yield the fits of a fixed scale and shift per channel: eval mode, or training with an unknown weight.

    Args:
        pair: the tensors.
        known: the weight and bias where they are known; training with them did not fit.
        units: unit roundoffs that the arithmetic may be off.
    """
    shape = pair.x.shape
    for channel in channel_axes(len(shape), pair.layout) if len(shape) > 1 else []:
        cells = Partition(tuple(a for a in range(len(shape)) if a != channel), channel=channel)
        rows = cells.rows(pair.x)
        if rows.shape[1] < 4:
            continue
        best = solve(pair, rows, cells.rows(pair.y), units)
        if not best.fits or not np.count_nonzero(best.weight):
            continue
        layout = {"layout": layout_name(len(shape), channel)}
        measured = measure_expected(pair._replace(y=cells.rows(pair.y)), round_to(best.expected, pair.dtype))
        signature = cells.signature(shape)
        solved = _running(best, known, rows, shape, channel)
        names = (("batch_norm", {**layout, "mode": "eval"}), ("batch_renorm", {**layout, "mode": "eval"}))
        label = "none" if known is None else known.label
        yield Fit(names=names, weight=label, solved=solved, signature=signature, agreement=measured)
        if known is None:
            mean, std = centers(rows), rows.std(axis=1, keepdims=True)
            trained = {
                "weight, for eps 0": (best.weight * std).ravel(),
                "bias": (best.bias + best.weight * mean).ravel(),
            }
            train = (("batch_norm", {**layout, "mode": "train"}),)
            yield Fit(names=train, weight="solved", solved=trained, signature=signature, agreement=measured)


def modulated_fits(pair: Pair, units: float) -> Iterator[Fit]:
    """Yield the fits of a scale and shift per sample and channel, which no statistic of X explains."""
    shape = pair.x.shape
    for channel in channel_axes(len(shape), pair.layout) if len(shape) > 2 else []:
        cells = Partition(tuple(a for a in range(1, len(shape)) if a != channel), channel=channel)
        if cells.rows(pair.x).shape[1] < 4:
            continue
        best = solve(pair, cells.rows(pair.x), cells.rows(pair.y), units)
        if best.fits and np.count_nonzero(best.weight):
            layout = {"layout": layout_name(len(shape), channel)}
            measured = measure_expected(pair._replace(y=cells.rows(pair.y)), round_to(best.expected, pair.dtype))
            for name in ("adaptive_instance_norm", "instance_norm", "switchable_norm"):
                yield Fit(names=((name, layout),), weight="solved", absorbed=("scale and shift",), agreement=measured)


def _running(best: Solution, known: Reading | None, rows: Array, shape: Shape, channel: int) -> dict[str, Array]:
    """Return the running statistics that explain a fixed scale and shift."""
    along = [n if a == channel else 1 for a, n in enumerate(shape)]
    weight, bias = np.ones((len(rows), 1)), np.zeros((len(rows), 1))
    if (
        known is not None
        and known.weight is not None
        and np.broadcast_shapes(known.weight.shape, along) == tuple(along)
    ):
        weight = np.broadcast_to(known.weight, along).reshape(-1, 1)
    if known is not None and known.bias is not None and np.broadcast_shapes(known.bias.shape, along) == tuple(along):
        bias = np.broadcast_to(known.bias, along).reshape(-1, 1)
    with np.errstate(all="ignore"):
        scale = best.weight / weight
        return {"running_mean": ((bias - best.bias) / best.weight).ravel(), "running_var + eps": (scale**-2).ravel()}


def state_fits(pair: Pair, state: Mapping[str, Array], readings: Iterator[Reading], units: float) -> Iterator[Fit]:
    """Yield the fits of eval mode with running statistics that are known."""
    shape = pair.x.shape
    mean, spread = state.get("running_mean"), state.get("running_var", state.get("running_std"))
    if mean is None or spread is None:
        return
    name = "batch_norm" if "running_var" in state else "batch_renorm"
    s = np.asarray(spread, np.float64).ravel()
    s = np.sqrt(s) if name == "batch_norm" else s
    channels = [a for a in channel_axes(len(shape), pair.layout) if shape[a] == s.size == np.size(mean)]
    for reading in readings:
        low, high = reading.bounds(pair, units)
        for channel in channels:
            cells = Partition(tuple(a for a in range(len(shape)) if a != channel), channel=channel)
            center = np.asarray(mean, np.float64).reshape(-1, 1)
            rows, ends, error = cells.rows(pair.x), (cells.rows(low), cells.rows(high)), units * pair.unit
            bounds = divisor_bounds(rows, center, np.abs(center), ends, error)
            settings = {"layout": layout_name(len(shape), channel), "mode": "eval"}
            for eps in [] if bounds is None else epsilons(s, *bounds, error):
                divisor = cells.spread(divide_by(s, eps.value, eps.place or "inside"), shape)
                yield Fit(
                    names=((name, settings),),
                    eps=eps if name == "batch_norm" else None,
                    weight=reading.label,
                    agreement=measure(pair, reading, (pair.x - cells.spread(center, shape)) / divisor),
                )
