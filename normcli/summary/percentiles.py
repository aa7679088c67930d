"""Percentiles on demand: any of them, by every method of NumPy, with a bound if values are binned.

A percentile is a position among the sorted pixels, and a value at or between two of them. Positions and values are
computed in fractions and rounded once, so the result is the exact percentile of every pixel where the histogram knows
its values: those of 8 and 16 bits. Values of float images are known to 8 significant bits, as are those of groups of
16-bit images; every method is monotone in the values, so the percentiles of the lower and upper ends of the bins bound
the exact one.

Reference: Hyndman and Fan, Sample quantiles in statistical packages, The American Statistician 50 (1996).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
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
from normcli.tally.selection import Cells, floats_of

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

    def stored(self, part: int) -> Any:
        """Return the value, in units of 1/scale, of a part of the pixels, from 0; the first or last one outside."""
        index = np.searchsorted(self.until, max(0, min(part, int(self.until[-1]) - 1)), side="right")
        return self.values[index].item()

    def at(self, part: int) -> Fraction:
        """Return the value that a part of the pixels has."""
        value = Fraction(self.stored(part)) / self.scale
        return value if self.band is None else self.band(value)

    def position(self, percent: Fraction, method: str) -> tuple[list[int], Fraction]:
        """Return the one or two parts that a percentile is between, and its share of the way."""
        unit = self.unit if method != "inverted_cdf" else 1  # whose definition by weights is that of single parts
        low, share = position_of(percent / 100, Fraction(int(self.until[-1]), unit), method)
        return [low * unit] if share == 0 else [low * unit, (low + 1) * unit], share

    def percentile(self, percent: Fraction, method: str) -> Fraction:
        """Return a percentile by one of `PERCENTILE_METHODS`."""
        parts, share = self.position(percent, method)
        below = self.at(parts[0])
        return below if share == 0 else below + (self.at(parts[1]) - below) * share


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


class Finer(NamedTuple):
    """The bins of a histogram that further passes divided.

    Attributes:
        bins: those that were divided.
        cells: the divisions of the range.
    """

    bins: Array
    cells: Cells


class PartEnds(NamedTuple):
    """The bins and cells of one bucket that a column consists of.

    Attributes:
        address: (group or None, key of the bucket, channel).
        part: of the histogram.
        bins: (B,) those in use and not divided.
        printed: (B + number of finer cells,) the value of each, in the units of `SortedValues.values`.
        low, high: both ends of each.
        counts: number of pixels of each, in parts of the bucket's unit.
        is_exact: every value is known.
    """

    address: Any
    part: Part
    bins: Array
    printed: Array
    low: Array
    high: Array
    counts: Array
    is_exact: bool


class BoundedValues(NamedTuple):
    """One channel with its values as bins print them, and with the lower and upper ends of the bins.

    Attributes:
        printed: the value that is printed for each bin.
        low, high: the ends; the same object as `printed` where the values are known.
        parts: of which buckets it is.
    """

    printed: SortedValues
    low: SortedValues
    high: SortedValues
    parts: tuple[PartEnds, ...] = ()

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
    names = names_of(summary, percentiles, method)
    columns = columns_of_summary(summary, summary.tally, {})
    return with_columns(summary, columns, names, method)


def names_of(summary: Summary, percentiles: Any, method: str) -> tuple[str, ...]:
    """Return the names of percentiles of a summary that are asked for.

    Raises:
        UsageError: see `Summary.with_percentiles`.
    """
    if method not in PERCENTILE_METHODS:
        raise unknown("percentile method", method, PERCENTILE_METHODS)
    names = () if percentiles is None else parse_percentiles(percentiles)
    by_alpha = any(bucket.get("unit", 1) != 1 for bucket in summary.state["buckets"])
    check_weights(summary.settings.get("weight", "pixel"), by_alpha, method)
    return names


Columns = Iterable[tuple[str | None, list[BoundedValues]]]  # by group; None is the complete dataset


def columns_of_summary(summary: Summary, tally: Tally, finer: Mapping[Any, Finer]) -> Columns:
    """Yield the sorted values of every channel, of all images and of each group.

    Args:
        summary: the statistics.
        tally: their counts.
        finer: by address, the results of further passes.

    Raises:
        StatisticsFileError: the counts are damaged.
    """
    try:
        settings, bands = _bands(summary, tally)
        yield None, _columns(parts_of_tally(tally, settings, summary.channels), bands, None, finer)
        for name, group in tally.groups.items():
            yield name, _columns(parts_of_group(group, settings, summary.channels), bands, name, finer)
    except (ArithmeticError, LookupError) as error:
        raise StatisticsFileError(f"the state of these statistics is damaged: {error}") from None


def with_columns(summary: Summary, columns: Columns, names: Sequence[str], method: str) -> Summary:
    """Return a summary with the percentiles of its columns: the names and those of every file."""
    every = [*map(str, PERCENTILES), *names]
    by_group = dict(columns)
    rows = {name: compute(of, every, method) for name, of in by_group.items()}
    if summary.settings.get("weight") == "case":
        from normcli.summary.cases import compute_cases

        if len(by_group) < 2:
            raise StatisticsFileError("the state of these statistics is damaged: no counts of groups")
        rows[None] = compute_cases({name: of for name, of in by_group.items() if name is not None}, every)
    groups = {
        name: extended(group, rows[name], names, method) if name in rows else group
        for name, group in summary.groups.items()
    }
    return extended(summary, rows[None], names, method).replace(groups=groups)


def of_cases(summary: Summary, tally: Tally) -> dict[str, list[float]]:
    """Return the percentiles of every file, of groups that weigh the same."""
    from normcli.summary.cases import compute_cases

    groups = {name: columns for name, columns in columns_of_summary(summary, tally, {}) if name is not None}
    rows = compute_cases(groups, [str(percent) for percent in PERCENTILES])
    return {name: [value for value, _ in row] for name, row in rows.items()}


def _bands(summary: Summary, tally: Tally) -> tuple[Mapping[str, Any], list[Scale | None]]:
    """Return settings of the values to count, and the scale of each channel where rasters have one."""
    if not any(note.startswith("scale:") for note in tally.composition):
        return summary.settings, [None] * len(summary.channels)
    max_value = summary.settings["max_value"]
    bands = channel_scales(tally.composition, tally.images, len(summary.channels), max_value)
    return {**summary.settings, "stored": True}, list(bands)


def _columns(
    parts: Sequence[Part], bands: Sequence[Scale | None], group: str | None, finer: Mapping[Any, Finer]
) -> list[BoundedValues]:
    """Return the sorted values of every channel of some buckets, each with the scale of its band."""
    scales = {part.scale for part in parts}
    integers = all(part.bucket.dtype != "float" for part in parts)
    # a float that is divided is rounded: only where buckets have several divisors
    scale = math.lcm(*scales) if integers or len(scales) == 1 else None
    unit = math.lcm(*(part.bucket.unit for part in parts))
    out = []
    for c, band in enumerate(bands):
        ends = [_part_ends(part, c, scale, group, finer) for part in parts]
        total = np.concatenate([one.counts * (unit // one.part.bucket.unit) for one in ends])
        printed, low, high = (
            SortedValues.of(np.concatenate([getattr(one, name) for one in ends]), total, unit, scale or 1, band)
            for name in ("printed", "low", "high")
        )
        if band is not None and band.factor < 0:
            low, high = high, low
        if all(one.is_exact for one in ends):
            low = high = printed
        out.append(BoundedValues(printed, low, high, tuple(ends)))
    return out


def _part_ends(part: Part, c: int, scale: int | None, group: str | None, finer: Mapping[Any, Finer]) -> PartEnds:
    """Return the bins and finer cells of one channel of a bucket."""
    bucket, source = part.bucket, part.source[c]
    address = group, (bucket.channels, bucket.dtype, bucket.unit), source
    row, divided = bucket.histogram[source], finer.get(address)
    if divided is not None:
        row = row.copy()
        row[divided.bins] = 0
    bins = np.flatnonzero(row)
    low, high = _bounds(part, bins, c)
    printed, counts = part.values(bins, c, scale), row[bins]
    if divided is not None:
        ends = [floats_of(keys) if bucket.dtype == "float" else keys for keys in divided.cells[:2]]
        printed = np.append(printed, _scaled(ends[0], part, scale))
        low, high = np.append(low, ends[0]), np.append(high, ends[1])
        counts = np.append(counts, divided.cells.counts)
    known = low == high
    low, high = _scaled(low, part, scale), _scaled(high, part, scale)
    if scale is None and part.scale != 1:  # a rounded division is taken one float64 further out
        low, high = (np.where(known, v, np.nextafter(v, end)) for v, end in ((low, -math.inf), (high, math.inf)))
    return PartEnds(address, part, bins, printed, low, high, counts, bool(known.all()))


def _scaled(values: Array, part: Part, scale: int | None) -> Array:
    """Return stored values in units of 1/scale; without a scale divided, and rounded."""
    scaled: Array = values / part.scale if scale is None else values * (scale // part.scale)
    return scaled


def _bounds(part: Part, bins: Array, channel: int) -> tuple[Array, Array]:
    """Return the smallest and largest value that each bin can contain, in stored values."""
    if part.bucket.dtype != "float" and not part.is_short:
        return bins, bins
    low, high = (ends[bins] for ends in bin_ends(part))
    known = part.bucket.range(part.source[channel])
    return (low, high) if known is None else (np.clip(low, *known), np.clip(high, *known))


def bin_ends(part: Part) -> tuple[Array, Array]:
    """Return the ends of all bins of a part that knows 8 significant bits, in stored values."""
    dtype = part.bucket.dtype
    if dtype == "float":
        return bin_bounds()
    levels = levels_of(dtype)
    return levels, np.append(levels[1:], 1 << (8 if dtype == "uint8" else 16)) - 1


Rows = Mapping[str, list[tuple[float, float]]]


def compute(columns: Sequence[BoundedValues], names: Sequence[str], method: str) -> Rows:
    """Return, by name, the percentile and the bound of its error for each channel."""
    return {name: [column.percentile(name, method) for column in columns] for name in names}


def extended(one: S, rows: Rows, requested: Sequence[str], method: str) -> S:
    """Return a summary, or that of a group, with percentiles and their details.

    Args:
        one: a `Summary` or a `GroupSummary`.
        rows: by name, percentile and bound of each channel.
        requested: names that were asked for, in order; the others are those of every file.
        method: one of `PERCENTILE_METHODS`.
    """
    stored = _known_exactly(one, method)
    rows = {name: stored.get(name, row) for name, row in rows.items()}
    order = sorted(rows, key=lambda name: (name == IQR, 0 if name == IQR else Fraction(name)))
    errors = {name: [error for _, error in rows[name]] for name in order}
    details: dict[str, Any] = {"method": method, "requested": list(requested)}
    details["exact"] = not any(any(row) for row in errors.values())
    if not details["exact"]:
        details["error"] = errors
    values = {name: [value for value, _ in rows[name]] for name in order}
    return one.replace(percentiles=values, percentile_details=details)


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
