"""Percentiles on demand: any of them, by every method that NumPy names, with a bound where bins hide the values.

A percentile is a position among the sorted pixels, and a value at or between two of them. Positions and values are
computed in fractions and rounded once, so the result is the exact percentile of every pixel where the histogram knows
its values: those of 8 and 16 bits. Values of float images are known to 8 significant bits, as are those of groups of
16-bit images; every method is monotone in the values, so the percentiles of the lower and upper ends of the bins bound
the exact one.

Reference: Hyndman and Fan, Sample quantiles in statistical packages, The American Statistician 50 (1996).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import numpy as np

from normcli.errors import StatisticsFileError, unknown
from normcli.options.printing import IQR, PERCENTILE_METHODS, check_weights, parse_percentiles
from normcli.summary.bands import Scale, channel_scales
from normcli.summary.conventions import PERCENTILES, Part, parts_of_group, parts_of_tally
from normcli.summary.summary import GroupSummary, Summary
from normcli.tally import Tally
from normcli.tally.float_bins import bin_bounds
from normcli.tally.groups import levels_of

Array = np.ndarray[Any, Any]
S = TypeVar("S", Summary, GroupSummary)

# method -> (alpha, beta) of a position n*q + alpha + q*(1 - alpha - beta) - 1 between values
_CONTINUOUS = {
    "interpolated_inverted_cdf": (Fraction(0), Fraction(1)),
    "hazen": (Fraction(1, 2), Fraction(1, 2)),
    "weibull": (Fraction(0), Fraction(0)),
    "linear": (Fraction(1), Fraction(1)),
    "median_unbiased": (Fraction(1, 3), Fraction(1, 3)),
    "normal_unbiased": (Fraction(3, 8), Fraction(3, 8)),
}


class SortedValues(NamedTuple):
    """The sorted values of one channel.

    Attributes:
        values: rising, in units of 1/scale.
        until: number of pixels up to each value, in parts of 1/unit.
        unit: weight of a pixel that counts fully.
        scale: divisor of the values.
        band: the scale of a raster's band, which turns the order of values where it is negative; or None.
    """

    values: Array
    until: Array
    unit: int
    scale: int
    band: Scale | None = None

    @classmethod
    def of(cls, values: Array, counts: Array, unit: int, scale: int, band: Scale | None) -> "SortedValues":
        """Return the column of values in any order, with the number of pixels of each."""
        order = np.argsort(values, kind="stable")
        order = order if band is None or band.factor > 0 else order[::-1]
        return cls(values[order], np.cumsum(counts[order]), unit, scale, band)

    def at(self, position: int, unit: int) -> Fraction:
        """Return the value at a position from 0, in steps of `unit`; the first or last one outside."""
        index = np.searchsorted(self.until, max(0, min(position * unit, int(self.until[-1]) - 1)), side="right")
        value = Fraction(self.values[index].item()) / self.scale
        return value if self.band is None else self.band(value)

    def percentile(self, percent: Fraction, method: str) -> Fraction:
        """Return a percentile by one of `PERCENTILE_METHODS`."""
        unit = self.unit if method != "inverted_cdf" else 1  # whose definition by weights is that of single parts
        low, share = position_of(percent / 100, Fraction(int(self.until[-1]), unit), method)
        below = self.at(low, unit)
        return below if share == 0 else below + (self.at(low + 1, unit) - below) * share


def position_of(q: Fraction, n: Fraction, method: str) -> tuple[int, Fraction]:
    """Return the position of a quantile among n sorted values, from 0, and its share of the way to the next one.

    >>> position_of(Fraction(1, 2), Fraction(4), "linear"), position_of(Fraction(1, 2), Fraction(4), "inverted_cdf")
    ((1, Fraction(1, 2)), (1, Fraction(0, 1)))
    """
    if method in _CONTINUOUS:
        alpha, beta = _CONTINUOUS[method]
        position = n * q + alpha + q * (1 - alpha - beta) - 1
        low = math.floor(position)
        return low, position - low
    if method in ("lower", "higher", "midpoint", "nearest"):
        position = (n - 1) * q
        ends = math.floor(position), math.ceil(position)
        at = {"lower": ends[0], "higher": ends[1], "midpoint": ends[0], "nearest": round(position)}[method]
        return at, Fraction(1, 2) if method == "midpoint" and ends[0] < ends[1] else Fraction(0)
    position = n * q - (Fraction(3, 2) if method == "closest_observation" else 1)
    low = math.floor(position)
    if position > low:
        return low + 1, Fraction(0)
    if method == "averaged_inverted_cdf":
        return low, Fraction(1, 2)
    even = method == "closest_observation" and low % 2 == 0  # from 1, as the paper counts, the even one is taken
    return low + even, Fraction(0)


class BoundedValues(NamedTuple):
    """One channel with its values as bins print them, and with the lower and upper ends of the bins.

    Attributes:
        printed: the value that is printed for each bin.
        low, high: the ends; the same object as `printed` where the values are known.
    """

    printed: SortedValues
    low: SortedValues
    high: SortedValues

    @property
    def is_exact(self) -> bool:
        """Return True if every value is known."""
        return self.low is self.printed

    def percentile(self, name: str, method: str) -> tuple[float, float]:
        """Return a percentile, or the range between the quartiles, and the bound of its error."""
        if not len(self.printed.until):  # a channel without a valid pixel
            return math.nan, 0.0
        if name == IQR:
            lower, upper = (self._ends(Fraction(p), method) for p in (25, 75))
            ends = upper[0] - lower[0], upper[1] - lower[2], upper[2] - lower[1]
        else:
            ends = self._ends(Fraction(name), method)
        value, low, high = ends
        printed = float(value)
        if low == high:
            return printed, 0.0
        # the bound of the printed number; 1e308 where nothing is known
        error = max(Fraction(printed) - low, high - Fraction(printed))
        return printed, math.nextafter(float(min(error, Fraction(1e308))), math.inf)

    def _ends(self, percent: Fraction, method: str) -> tuple[Fraction, Fraction, Fraction]:
        value = self.printed.percentile(percent, method)
        if self.is_exact:
            return value, value, value
        return value, self.low.percentile(percent, method), self.high.percentile(percent, method)


def with_percentiles(summary: Summary, percentiles: Any, method: str = "linear") -> Summary:
    """Return a summary that contains more percentiles; see `Summary.with_percentiles`."""
    if method not in PERCENTILE_METHODS:
        raise unknown("percentile method", method, PERCENTILE_METHODS)
    names = () if percentiles is None else parse_percentiles(percentiles)
    by_alpha = any(bucket.get("unit", 1) != 1 for bucket in summary.state["buckets"])
    check_weights(summary.settings.get("weight", "pixel"), by_alpha, method)
    tally = summary.tally
    every = [*map(str, PERCENTILES), *names]
    try:
        settings, bands = _bands(summary, tally)
        rows = compute(columns_of(parts_of_tally(tally, settings, summary.channels), bands), every, method)
        grouped = {
            name: compute(columns_of(parts_of_group(group, settings, summary.channels), bands), every, method)
            for name, group in tally.groups.items()
        }
    except (ArithmeticError, LookupError) as error:
        raise StatisticsFileError(f"the state of these statistics is damaged: {error}") from None
    groups = {
        name: extended(group, grouped[name], names, method) if name in grouped else group
        for name, group in summary.groups.items()
    }
    return replace(extended(summary, rows, names, method), groups=groups)


def _bands(summary: Summary, tally: Tally) -> tuple[Mapping[str, Any], list[Scale | None]]:
    """Return settings of the values to count, and the scale of each channel where rasters have one."""
    if not any(note.startswith("scale:") for note in tally.composition):
        return summary.settings, [None] * len(summary.channels)
    max_value = summary.settings["max_value"]
    bands = channel_scales(tally.composition, tally.images, len(summary.channels), max_value)
    return {**summary.settings, "stored": True}, list(bands)


def columns_of(parts: Sequence[Part], bands: Sequence[Scale | None]) -> list[BoundedValues]:
    """Return the sorted values of every channel of some buckets, each with the scale of its band."""
    integers = all(part.bucket.dtype != "float" for part in parts)
    scale = math.lcm(*(part.scale for part in parts)) if integers else 1
    unit = math.lcm(*(part.bucket.unit for part in parts))
    out = []
    for c, band in enumerate(bands):
        values, lows, highs, counts = [], [], [], []
        exact = True
        for part in parts:
            row = part.bucket.histogram[part.source[c]]
            bins = np.flatnonzero(row)
            counts.append(row[bins] * (unit // part.bucket.unit))
            values.append(part.values(bins, c, scale if integers else None))
            low, high = _bounds(part, bins, c)
            exact = exact and bool((low == high).all())
            lows.append(_scaled(low, part, scale, integers, -math.inf))
            highs.append(_scaled(high, part, scale, integers, math.inf))
        total = np.concatenate(counts)
        printed, low_, high_ = (
            SortedValues.of(np.concatenate(v), total, unit, scale, band) for v in (values, lows, highs)
        )
        if band is not None and band.factor < 0:
            low_, high_ = high_, low_
        out.append(BoundedValues(printed, printed, printed) if exact else BoundedValues(printed, low_, high_))
    return out


def _scaled(ends: Array, part: Part, scale: int, integers: bool, outward: float) -> Array:
    """Return ends of bins in units of 1/scale; a rounded division is taken one float64 further out."""
    if integers:
        return ends * (scale // part.scale)
    return ends if part.scale == 1 else np.nextafter(ends / part.scale, outward)


def _bounds(part: Part, bins: Array, channel: int) -> tuple[Array, Array]:
    """Return the smallest and largest value that each bin can contain, in stored values."""
    dtype = part.bucket.dtype
    if dtype == "float":
        low, high = (ends[bins] for ends in bin_bounds())
        known = part.bucket.range(part.source[channel])
        return (low, high) if known is None else (np.clip(low, *known), np.clip(high, *known))
    if not part.is_short:
        return bins, bins
    levels = levels_of(dtype)
    ends = np.append(levels[1:], 1 << (8 if dtype == "uint8" else 16)) - 1
    return levels[bins], ends[bins]


Rows = Mapping[str, list[tuple[float, float]]]


def compute(columns: Sequence[BoundedValues], names: Sequence[str], method: str) -> Rows:
    """Return, by name, the percentile and the bound of its error for each channel."""
    return {name: [column.percentile(name, method) for column in columns] for name in names}


def extended(one: S, rows: Rows, requested: Sequence[str], method: str, exact: bool = False) -> S:
    """Return a summary, or that of a group, with percentiles and their details.

    Args:
        one: a `Summary` or a `GroupSummary`.
        rows: by name, percentile and bound of each channel.
        requested: names that were asked for, in order; the others are those of every file.
        method: one of `PERCENTILE_METHODS`.
        exact: the rows are those of a second pass.
    """
    stored = _known_exactly(one, method)
    rows = {name: stored.get(name, row) for name, row in rows.items()}
    order = sorted(rows, key=lambda name: (name == IQR, 0 if name == IQR else Fraction(name)))
    errors = {name: [error for _, error in rows[name]] for name in order}
    details: dict[str, Any] = {"method": method, "requested": list(requested)}
    details["exact"] = exact or not any(any(row) for row in errors.values())
    if not details["exact"]:
        details["error"] = errors
    values = {name: [value for value, _ in rows[name]] for name in order}
    return replace(one, percentiles=values, percentile_details=details)


def _known_exactly(one: Summary | GroupSummary, method: str) -> dict[str, list[tuple[float, float]]]:
    """Return the percentiles of a file that a second pass made exact, by the same method."""
    details = one.percentile_details
    if details is None or details["method"] != method:
        return {}
    errors = details.get("error", {})
    return {
        name: [(value, 0.0) for value in values]
        for name, values in one.percentiles.items()
        if not any(errors.get(name, ()))
    }
