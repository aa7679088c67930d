"""Large images of integers of 16 bits with a sign, stored as int16 or as floats: counted by a histogram.

Their sums follow from the histogram, with the bits of `sum_floats`: 0.5 ns a sample of int16, 1 of floats, where the
sums of floats take 14.
"""

import threading
from functools import cache
from typing import Any

import numpy as np

from normcli.kernels.histograms import TABLES, count_signed, count_whole
from normcli.kernels.kernel import contiguous
from normcli.tally.exact import FLOAT_BITS
from normcli.tally.floats import bins_of

Array = np.ndarray[Any, Any]

_BINS = 65536
_AT_ONCE = 1 << 18  # pixels that are counted together without a kernel


@cache
def _bins_of_integers() -> Array:
    """Return the bins (65536) of the integers from -32768 up."""
    return bins_of(np.arange(-_BINS // 2, _BINS // 2))


class _Tables(threading.local):
    """Zeros of this thread, which `sum_integers` leaves as zeros; taken out while it adds to them."""

    def __init__(self) -> None:
        self.of_channels: dict[int, Array] = {}


_tables = _Tables()


def sum_integers(pixels: Array, histogram: Array) -> tuple[int, list[int], list[int], Array] | None:
    """Return the result of `sum_floats` for an image of integers of 16 bits with a sign; None for any other image.

    Args:
        pixels: (H,W,C) of float32, float64 or int16; fewer than 2^32 pixels.
        histogram: (C,65536), added to as in `Floats`.
    """
    channels, flat = pixels.shape[2], contiguous(pixels).reshape(-1)
    tables = _tables.of_channels.pop(channels, None)
    if tables is None:
        tables = np.zeros((channels, TABLES, _BINS), np.uint32)
    added = _fill_tables(flat, tables)
    if added < flat.size:
        if added:
            tables[:] = 0
        _tables.of_channels[channels] = tables
        return None
    totals, squares, extremes = [0] * channels, [0] * channels, np.empty((channels, 2))
    lowest, highest = int(flat.min()), int(flat.max())  # their bins alone: to look at all takes 100 us
    bottom = lowest + _BINS // 2
    within = tables[:, :, bottom : highest + _BINS // 2 + 1]
    counts = within.sum(axis=1, dtype=np.int64)
    for c in range(channels):
        (levels,) = np.nonzero(counts[c])
        values, times = levels + lowest, counts[c, levels]
        np.add.at(histogram[c], _bins_of_integers()[levels + bottom], times)
        totals[c] = int(values @ times) << FLOAT_BITS
        squares[c] = int(values * values @ times) << 2 * FLOAT_BITS
        extremes[c] = values[0], values[-1]
    within[:] = 0
    _tables.of_channels[channels] = tables
    return flat.size // channels, totals, squares, extremes


def _fill_tables(flat: Array, tables: Array) -> int:
    """Add samples (H*W*C) to tables (C,4,65536) as `count_signed` does; return how many are added.

    Floats are added up to the first one that is no integer of 16 bits, and only by a kernel.
    """
    if flat.dtype.kind == "i":
        count_signed.call_or(lambda: _fill_without_kernel(flat, tables), lambda: (flat, tables))
        return flat.size
    used = np.zeros(1, np.int64)
    count_whole.try_call(flat, tables, used)
    return int(used[0])


def _fill_without_kernel(flat: Array, tables: Array) -> None:
    at_once = _AT_ONCE * len(tables)  # `bincount` converts samples to 8 bytes
    for start in range(0, flat.size, at_once):
        block = flat[start : start + at_once].astype(np.int32) + _BINS // 2
        for c, table in enumerate(tables):
            table[0] += np.bincount(block[c :: len(tables)], minlength=_BINS).astype(np.uint32)
