"""Exact percentiles of the floats of one volume, by passes over its blocks in bounded memory."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Passes = Callable[[], Iterable[tuple[int, Array]]]
_SIGN = np.uint64(1 << 63)
_DIGIT = 16  # bits that a pass decides


def columns_of_percentiles(
    passes: Passes, counts: Sequence[int], percents: Sequence[float]
) -> list[tuple[Array, Array]]:
    """Return values and counts of each channel with the percentiles of all its samples, linear between neighbors.

    Args:
        passes: returns the finite samples once more, (channel, values) piece by piece.
        counts: number of samples of each channel.
        percents: the percentages.
    """
    ranks = [sorted({r for p in percents for r in _neighbors(p, count)}) for count in counts]
    found = _values_at(passes, ranks)
    columns = []
    for row, values, count in zip(ranks, found, counts, strict=True):
        steps = np.diff([-1, *row])  # every rank that is asked for is the last of its value
        steps[-1] += count - 1 - row[-1]
        columns.append((np.array(values), steps.astype(np.int64)))
    return columns


def _neighbors(percent: float, count: int) -> tuple[int, int]:
    below = max(0, min(int(percent / 100 * (count - 1)), count - 1))
    return below, min(below + 1, count - 1)


def _values_at(passes: Passes, ranks: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the samples of each channel at some ranks, from 0."""
    prefixes = [[0] * len(row) for row in ranks]
    rests = [list(row) for row in ranks]
    for shift in range(64 - _DIGIT, -1, -_DIGIT):
        tables = [{prefix: np.zeros(1 << _DIGIT, np.int64) for prefix in row} for row in prefixes]
        for channel, values in passes():
            keys = _keys(values)
            for prefix, table in tables[channel].items():
                same = keys if shift == 64 - _DIGIT else keys[keys >> np.uint64(shift + _DIGIT) == np.uint64(prefix)]
                digits = (same >> np.uint64(shift)) & np.uint64((1 << _DIGIT) - 1)
                table += np.bincount(digits.astype(np.int64), minlength=1 << _DIGIT)
        for row, rest, table_of in zip(prefixes, rests, tables, strict=True):
            for i, prefix in enumerate(row):
                until = np.cumsum(table_of[prefix])
                digit = min(int(np.searchsorted(until, rest[i], side="right")), (1 << _DIGIT) - 1)
                rest[i] -= int(until[digit - 1]) if digit else 0
                row[i] = prefix << _DIGIT | digit
    return [_floats(np.array(row, np.uint64)).tolist() for row in prefixes]


def _keys(values: Array) -> Array:
    """Return integers in the order of floats."""
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # one 0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _floats(keys: Array) -> Array:
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)
