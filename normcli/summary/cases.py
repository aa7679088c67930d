"""Percentiles of several sets of pixels that weigh the same, or by shares: the inverse of the mean of their CDFs.

This is the limit of drawing the same number of pixels from every set, as nnU-Net draws them from every case.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from normcli.options.printing import IQR

if TYPE_CHECKING:
    from normcli.summary.percentiles import BoundedValues, Rows

Array = np.ndarray[Any, Any]
_RELATIVE = 1e-12  # of a sum of weights: below it two shares are the same


def stored_percentiles(
    parts: "Sequence[BoundedValues]", shares: Sequence[float], end: str, percents: Sequence[float]
) -> list[float]:
    """Return percentiles of weighted sets of values, divided by their scale and before the scale of a band.

    Args:
        parts: one channel of each set; none is empty.
        shares: positive, one for each part.
        end: values of the bins: "printed", "low" or "high".
        percents: from 0 to 100.
    """
    values, weights = [], []
    for part, share in zip(parts, shares, strict=True):
        one = getattr(part, end)
        values.append(one.values / one.scale)
        weights.append(np.diff(one.until, prepend=0) * (share / float(one.until[-1])))
    together, weight = np.concatenate(values), np.concatenate(weights)
    band = parts[0].printed.band
    order = np.argsort(together if band is None or band.factor > 0 else -together, kind="stable")
    until = np.cumsum(weight[order])
    places = np.searchsorted(until, [percent / 100 * until[-1] * (1 - _RELATIVE) for percent in percents])
    return [float(value) for value in together[order][np.minimum(places, len(order) - 1)]]


def compute_cases(groups: "Mapping[str, Sequence[BoundedValues]]", names: Sequence[str]) -> "Rows":
    """Return, by name, the percentile over all groups, each of the same weight, and the bound of its error.

    Args:
        groups: the columns of every group.
        names: percentages, or the range between the quartiles.
    """
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for every in zip(*groups.values(), strict=True):
        channel = with_pixels(every)
        for name in rows:
            rows[name].append(_bounded(channel, name))
    return rows


def with_pixels(parts: "Sequence[BoundedValues]") -> "list[BoundedValues]":
    """Return the parts of a channel that have a pixel."""
    return [part for part in parts if len(part.printed.until)]


def intervals_of_cases(channel: "Sequence[BoundedValues]", names: Sequence[str]) -> set[tuple[float, float]]:
    """Return the ends between which each percentile over all groups is, in values divided by their scale."""
    percents = [percent for name in names for percent in _percents(name)]
    ends = (stored_percentiles(channel, [1.0] * len(channel), end, percents) for end in ("low", "high"))
    return {(min(pair), max(pair)) for pair in zip(*ends, strict=True)}


def _percents(name: str) -> tuple[float, ...]:
    return (25.0, 75.0) if name == IQR else (float(name),)


def _bounded(channel: "Sequence[BoundedValues]", name: str) -> tuple[float, float]:
    """Return a percentile over all parts, and the bound of its error."""
    if not channel:
        return float("nan"), 0.0
    band, shares = channel[0].printed.band, [1.0] * len(channel)
    printed, low, high = (
        [
            Fraction(value) if band is None else band(value)
            for value in stored_percentiles(channel, shares, end, _percents(name))
        ]
        for end in ("printed", "low", "high")
    )
    if len(printed) == 2:
        value, least, most = printed[1] - printed[0], low[1] - high[0], high[1] - low[0]
    else:
        (value,), (least,), (most,) = printed, low, high
    error = max(value - least, most - value)
    return float(value), 0.0 if least == most else float(np.nextafter(float(error), np.inf))
