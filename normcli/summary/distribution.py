"""Histograms of a summary as values and weights, without NumPy: a file is shown, compared and drawn fast."""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from normcli.errors import StatisticsFileError, UsageError
from normcli.summary.summary import source_channels
from normcli.tally.exact import run_length_decode

if TYPE_CHECKING:
    from normcli.summary.summary import Summary

Level = tuple[float, float]  # a value, and the number of pixels that have it

_UNIT_END = 256 / 255  # just above 1: each of 256 columns from 0 is one 8-bit level


def distribution(summary: "Summary") -> list[list[Level]]:
    """Return per channel every value that occurs and the number of pixels that have it, in rising order.

    Values are scaled as `summary.mean` is: 0-1 for integer images, raw units for float images, whose values are
    known to 8 significant bits.

    Raises:
        StatisticsFileError: the state is damaged.
    """
    channels: list[dict[float, float]] = [{} for _ in summary.channels]
    for levels, channel in zip(_levels(summary), channels, strict=True):
        for value, weight in levels:
            channel[value] = channel.get(value, 0) + weight
    return [sorted(channel.items()) for channel in channels]


def columns(summary: "Summary", count: int, low: float = 0.0, high: float | None = None) -> list[list[float]]:
    """Return the number of pixels per channel in equal columns; values outside count in the outer columns.

    Args:
        summary: the statistics.
        count: number of columns. 8-bit values spread evenly where it divides 256.
        low: left edge.
        high: right edge; None ends just above 1, so that each of 256 columns is one 8-bit level.

    Raises:
        StatisticsFileError: the state is damaged.
    """
    return [bin_levels(levels, count, low, _UNIT_END if high is None else high) for levels in _levels(summary)]


def bin_levels(levels: Iterable[Level], count: int, low: float, high: float) -> list[float]:
    """Return the weights of levels in equal columns from low to high; levels outside count in the outer ones.

    >>> bin_levels([(0.0, 1), (0.5, 2), (9.0, 4)], 2, 0.0, 1.0)
    [1.0, 6.0]
    """
    out = [0.0] * count
    width = (high - low) / count
    for value, weight in levels:
        at = int((value - low) / width + 1e-9)  # 1e-9: a value on an edge belongs to the right
        out[max(0, min(at, count - 1))] += weight
    return out


def value_range(summary: "Summary") -> tuple[float, float]:
    """Return both ends of an axis for `columns`: 0 and just above 1, or the extremes of raw values."""
    lowest = min((v for v in summary.min if v is not None), default=0.0)
    if summary.max_value is not None and lowest >= 0:
        return 0.0, _UNIT_END
    known = [v for v in (*summary.min, *summary.max) if v is not None]
    if not known:
        known = [value for levels in distribution(summary) for value, _ in (levels[0], levels[-1])]
    low, high = min(known), max(known)
    return low, high if high > low else low + 1


def ceiling(rows: list[list[float]]) -> float:
    """Return the height to draw histograms in: the highest column, unless a few would flatten all the others.

    White paper and black borders put half of all pixels into one column; it is then cut off, and marked as such.

    >>> ceiling([[5, 6, 7, 6, 5]]), ceiling([[900, 6, 7, 6, 5]])
    (7, 7.5)
    """
    ranked = sorted((height for row in rows for height in row), reverse=True)
    ordinary = ranked[min(3 * len(rows), len(ranked) - 1)]
    return ranked[0] if ranked[0] <= 2.5 * ordinary or ordinary == 0 else 1.25 * ordinary


def _levels(summary: "Summary") -> list[Iterator[Level]]:
    """Return the levels of each channel, in the order of buckets; a value may come once per bucket."""
    if "mixture" in summary.settings:
        raise UsageError("these statistics are a mixture, which has no histogram: use the statistics that it is of")
    count = len(summary.channels)
    channels: list[list[Level]] = [[] for _ in summary.channels]
    try:
        for bucket in summary.state["buckets"]:
            unit = bucket.get("unit", 1)
            rows = [list(_occupied_bins(row, bucket["dtype"])) for row in bucket["histogram"]]
            is_float = bucket["dtype"] == "float"
            for channel, source in zip(channels, source_channels(len(rows), count), strict=True):
                value = _values(bucket, summary, source)
                channel += [
                    (value(_float_value(key) if is_float else key), weight if unit == 1 else weight / unit)
                    for key, weight in rows[source]
                ]
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise StatisticsFileError(f"the state of these statistics is damaged: {error}") from None
    return [iter(channel) for channel in channels]


def _values(bucket: dict[str, Any], summary: "Summary", channel: int) -> Callable[[float], float]:
    """Return the function from stored levels to values of the summary."""
    setting = summary.settings.get("max_value")
    if "scale" in summary.composition:
        from normcli.summary.bands import scales_of

        scale = scales_of(summary.composition)[channel]
        return lambda level: float(scale(level) / (setting or 1))
    white = 255 if bucket["dtype"] == "uint8" else setting or (65535 if bucket["dtype"] == "uint16" else 1)
    return lambda level: level / white


def _occupied_bins(runs: list[int], dtype: str) -> Iterator[tuple[int, int]]:
    bins = run_length_decode(runs, 256 if dtype == "uint8" else 65536)
    return ((value, count) for value, count in enumerate(bins) if count)


def _float_value(key: int) -> float:
    """Return the value of a bin of float pixels: the upper 16 bits of a float32, in the order of values."""
    bits = key & 0x7FFF if key >> 15 else ~key & 0xFFFF
    value: float = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    return value
