"""The histograms of a summary as values and weights, without NumPy: a file is shown, compared and drawn fast."""

import struct
from collections.abc import Iterator
from typing import Any

from normcli.errors import StatisticsFileError
from normcli.summary import Summary
from normcli.tally.exact import run_length_decode

Level = tuple[float, float]


def distribution(summary: Summary) -> list[list[Level]]:
    """Per channel, every value that occurs and how many pixels hold it, in rising order.

    Values are scaled as `summary.mean` is: 0-1 for integer images, raw units for float images, whose values
    are held to 8 significant bits.

    Raises:
        StatisticsFileError: the state is damaged.
    """
    channels: list[dict[float, float]] = [{} for _ in summary.channels]
    try:
        for bucket in summary.state["buckets"]:
            scale, unit = _scale(bucket, summary), bucket.get("unit", 1)
            for channel, row in zip(channels, _rows(bucket, summary), strict=True):
                for key, count in row:
                    value = (key if bucket["dtype"] != "float" else _float(key)) / scale
                    channel[value] = channel.get(value, 0) + (count if unit == 1 else count / unit)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StatisticsFileError(f"the state of these statistics is damaged: {error}") from None
    return [sorted(channel.items()) for channel in channels]


def columns(summary: Summary, count: int, low: float = 0.0, high: float | None = None) -> list[list[float]]:
    """Pixels per channel in equal columns between two values; what lies outside falls into the outer ones.

    Args:
        summary: the statistics.
        count: number of columns. 8-bit values spread evenly where it divides 256.
        low: left edge.
        high: right edge; None ends just above white, so that each of 256 columns is one 8-bit level.
    """
    width = (high - low if high is not None else 256 / 255) / count
    out = [[0.0] * count for _ in summary.channels]
    for column, levels in zip(out, distribution(summary), strict=True):
        for value, weight in levels:
            at = int((value - low) / width + 1e-9)  # 1e-9: a value on an edge belongs to the right
            column[max(0, min(at, count - 1))] += weight
    return out


def ceiling(rows: list[list[float]]) -> float:
    """Height to draw histograms in: the highest column, unless a few would flatten all the rest.

    White paper and black borders put half of all pixels into one column; it is then cut, and said to be.

    >>> ceiling([[5, 6, 7, 6, 5]]), ceiling([[900, 6, 7, 6, 5]])
    (7, 7.5)
    """
    ranked = sorted((height for row in rows for height in row), reverse=True)
    ordinary = ranked[min(3 * len(rows), len(ranked) - 1)]
    return ranked[0] if ranked[0] <= 2.5 * ordinary or ordinary == 0 else 1.25 * ordinary


def _scale(bucket: dict[str, Any], summary: Summary) -> int:
    if bucket["dtype"] == "uint8":
        return 255
    return summary.settings.get("range") or (65535 if bucket["dtype"] == "uint16" else 1)


def _rows(bucket: dict[str, Any], summary: Summary) -> list[list[tuple[int, int]]]:
    """Non-empty bins of each channel of the summary; gray stands for R, G and B."""
    size = 256 if bucket["dtype"] == "uint8" else 65536
    packings = bucket["histogram"]
    wanted = len(summary.channels)
    if len(packings) < wanted:
        alpha = packings[1:2] if summary.channels[-1] == "A" else []
        packings = [packings[0]] * (wanted - len(alpha)) + alpha
    return [list(_occupied(packing, size)) for packing in packings]


def _occupied(packing: list[int], size: int) -> Iterator[tuple[int, int]]:
    return ((value, count) for value, count in enumerate(run_length_decode(packing, size)) if count)


def _float(key: int) -> float:
    """Value of a bin of float pixels: the upper 16 bits of a float32, in the order of values."""
    bits = key & 0x7FFF if key >> 15 else ~key & 0xFFFF
    value: float = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    return value
