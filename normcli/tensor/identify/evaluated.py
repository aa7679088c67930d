"""Fits of normalizers that are no set, mean and divisor: each is computed, with the settings that it may have."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.identify.known import is_near, measure_expected
from normcli.tensor.identify.laws import Epsilon
from normcli.tensor.identify.partition import channel_axes, layout_name
from normcli.tensor.identify.precision import round_to, ulps
from normcli.tensor.identify.readings import Pair, Reading
from normcli.tensor.identify.results import Fit
from normcli.tensor.identify.trials import Trial, group_numbers, registry_trial, spectral_trial, trials
from normcli.tensor.normalizers.views import Array

_EPSILONS = (1e-5, 1e-6, 1e-3, 1e-4, 1e-8, 1e-12, 1e-2, 1e-1, 1.0, 0.0)


def evaluated_fits(pair: Pair, readings: Iterable[Reading], units: float) -> Iterator[Fit]:
    """Yield the normalizers of this kind that map X to Y."""
    for reading in readings:
        if reading.rounding != "once" or reading.label == "1 + weight":
            continue
        for trial in trials(pair, reading):
            yield from _try(pair, reading, trial, units)


def _try(pair: Pair, reading: Reading, trial: Trial, units: float) -> Iterator[Fit]:
    cache: dict[float, tuple[float, Array]] = {}

    def error(eps: float) -> float:
        """Return the largest difference, in tolerances."""
        if eps not in cache:
            cache[eps] = _error(pair, reading, trial, eps, units)
        return cache[eps][0]

    try:
        grid = _EPSILONS if trial.has_eps else (0.0,)
        if not is_near(pair.y, _error(pair, reading, trial, trial.usual_eps, 1.0)[1]):
            return
        errors = [error(eps) for eps in grid]
    except (TensorError, UsageError):
        return
    if np.isnan(errors).all():
        return
    best = grid[int(np.nanargmin(errors))]
    if error(best) > 1.0:
        if not trial.has_eps or best == 0.0 or error(best) > 1e9:
            return
        best = _search(error, best)
        if error(best) > 1.0:
            return
    eps = _range(error, best) if trial.has_eps else None
    yield Fit(
        names=(trial.title,),
        eps=eps,
        weight=reading.label,
        clipped=reading.clipped and trial.affine,
        agreement=measure_expected(pair, cache[best][1]),
    )


def _error(pair: Pair, reading: Reading, trial: Trial, eps: float, units: float) -> tuple[float, Array]:
    with np.errstate(all="ignore"):
        normal = trial.compute(eps)
        if trial.affine:
            y = normal if reading.weight is None else normal * reading.weight
            y = y if reading.bias is None else y + reading.bias
            y = np.maximum(y, 0.0) if reading.clipped else y
        else:
            y = normal
        level = 0.0 if np.isnan(y).all() else math.sqrt(float(np.nanmean(np.square(y))))
        bias = 0.0 if reading.bias is None else np.abs(reading.bias)
        tolerance = 0.5 * ulps(pair.y, pair.dtype) + 4.0 * units * pair.unit * (np.abs(y) + level + bias)
        gaps = np.abs(y - pair.y) / tolerance
    usable = np.isfinite(pair.y)
    worst = float(np.max(gaps, where=usable, initial=0.0)) if usable.any() else math.nan
    return worst if not np.isnan(gaps[usable]).any() else math.nan, round_to(y, pair.dtype)


def _search(error: Callable[[float], float], near: float) -> float:
    """Return the epsilon of the least error around a round one, by golden section of the logarithm."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    a, b = math.log(near) - 5.0, math.log(near) + 5.0
    for _ in range(60):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        a, b = (a, d) if error(math.exp(c)) < error(math.exp(d)) else (c, b)
    return math.exp((a + b) / 2.0)


def _range(error: Callable[[float], float], best: float) -> Epsilon:
    """Return the range of epsilon around a fit."""

    def edge(inside: float, outside: float) -> float:
        for _ in range(30):
            middle = math.sqrt(inside * outside)
            inside, outside = (middle, outside) if error(middle) <= 1.0 else (inside, middle)
        return inside

    unseen = error(0.0) <= 1.0
    start = best or 1e-20
    high = edge(start, max(1e3, 1e3 * start))
    return Epsilon(0.0 if unseen else edge(best, best * 1e-3), high, None if unseen else "inside")


def composed_fits(pair: Pair, readings: Iterable[Reading], units: float) -> Iterator[Fit]:
    """Yield the fits that a solved weight would hide: power_norm, and spectral_norm of a weight."""
    for reading in readings:
        if reading.rounding == "once" and reading.label != "1 + weight" and 2 <= pair.x.ndim <= 5:
            for channel in channel_axes(pair.x.ndim, pair.layout):
                layout = layout_name(pair.x.ndim, channel)
                for groups in group_numbers(pair.x.shape[channel]):
                    trial = registry_trial("power_norm", pair.x, layout, groups=groups)
                    yield from _try(pair, reading, trial, units)
    for dim in {2: (0,)}.get(pair.x.ndim, (0, pair.x.ndim - 1)) if pair.x.ndim > 1 else ():
        yield from _try(pair, Reading("none", None, None), spectral_trial(pair.x, dim), units)
