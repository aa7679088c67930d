"""Exact order statistics of any number of values, by passes of bounded memory: radix selection.

A histogram shows between which values an order statistic is. Each pass over the same values divides the cells that
contain a wanted one by further bits of their keys, until every such cell has one value. Cells with few values are
divided into single values at once, so one pass is usual. Counts of cells add, so no result depends on the order of
values, or on workers.

    cells = {"x": cells_of_bins(histogram, bins)}         # by any address; `bins` are those that contain a wanted rank
    while cells:
        division = Division(cells)
        found = Selected(division)
        for values in one_more_pass():
            found.add_values("x", values)                 # or found.add(found_by_a_worker)
        cells = {...}                                     # those of found.cells("x") that are wanted and not exact

`summary.exact_percentiles.Search` does this for the percentiles of a summary.
"""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np

from normcli.tally.float_bins import bin_bounds

Array = np.ndarray[Any, Any]
Address = Hashable  # whose values they are, such as (group, bucket, channel)

_MOST_CELLS = 1 << 20  # of one pass, over all addresses: 24 bytes each
_FEW = 4096  # cells that are not worth a compaction
_MAGNITUDE = np.int64(2**63 - 1)


def keys_of(values: Array) -> Array:
    """Return values as int64 in their order: integers as they are, floats by the bits of float64.

    >>> keys_of(np.array([-1.0, -0.0, 0.0, 5e-324])).tolist()
    [-4607182418800017409, -1, 0, 1]
    """
    if values.dtype.kind != "f":
        return np.asarray(values, np.int64)
    bits = np.asarray(values, np.float64).view(np.int64)
    return np.asarray(bits ^ ((bits >> 63) & _MAGNITUDE))


def floats_of(keys: Array) -> Array:
    """Return the float64 values of keys.

    >>> floats_of(keys_of(np.array([-1.5, 0.0, 1e300]))).tolist()
    [-1.5, 0.0, 1e+300]
    """
    return np.asarray(keys ^ ((keys >> 63) & _MAGNITUDE)).view(np.float64)


class Cells(NamedTuple):
    """Intervals of keys in rising order, which do not overlap.

    Attributes:
        low, high: (N,) int64, the smallest and largest key that the values of each can have.
        counts: (N,) int64, number of values, or the sum of their weights.
    """

    low: Array
    high: Array
    counts: Array

    def part(self, mask: Array) -> "Cells":
        """Return the cells of a mask (N,)."""
        return Cells(*(row[mask] for row in self))


def union(*parts: Cells) -> Cells:
    """Return cells in the order of their values."""
    rows = [np.concatenate(row) for row in zip(*parts, strict=True)] if parts else [np.zeros(0, np.int64)] * 3
    order = np.argsort(rows[0], kind="stable")
    return Cells(*(row[order] for row in rows))


def cells_of_bins(histogram: Array, bins: Array, ends: tuple[Array, Array] | None = None) -> Cells:
    """Return some bins of one channel's histogram as cells.

    Args:
        histogram: (65536,) of floats, as `Floats.histogram` has it.
        bins: (N,) their positions, rising.
        ends: smallest and largest value of every bin; by default those of floats.
    """
    low, high = (keys_of(each[bins]) for each in ends or bin_bounds())
    return Cells(low, high, histogram[bins])


class Division:
    """Cells to divide in one pass; picklable, the same in every worker.

    Args:
        cells: by address; at least one.

    Attributes:
        cells: as given.
    """

    def __init__(self, cells: Mapping[Address, Cells]) -> None:
        self.cells = dict(cells)
        counts = np.concatenate([part.counts for part in cells.values()])
        bits = next((n for n in range(62, 0, -1) if np.minimum(counts, 1 << n).sum(dtype=float) <= _MOST_CELLS), 1)
        self._shifts = {address: _shifts(part, bits) for address, part in cells.items()}

    def divide(self, address: Address, keys: Array, weights: Array | None) -> Cells:
        """Return the keys (N,) that are in the cells of an address, in finer cells."""
        cells = self.cells[address]
        inside = np.searchsorted(cells.low, keys, side="right") - 1
        members = (inside >= 0) & (keys <= cells.high[inside])
        keys = keys[members]
        ones = np.ones(len(keys), np.int64) if weights is None else weights[members].astype(np.int64)
        order = np.argsort(keys, kind="stable")
        return self.compact(address, [Cells(keys[order], keys[order], ones[order])])

    def compact(self, address: Address, parts: list[Cells]) -> Cells:
        """Return the sum of finer cells of an address; values without weight are dropped."""
        low, high, counts = (np.concatenate(rows) for rows in zip(*parts, strict=True))
        order = np.argsort(low, kind="stable")
        order = order[counts[order] > 0]
        low, high, counts = low[order], high[order], counts[order]
        if not len(low):
            return Cells(low, high, counts)
        starts = self.cells[address].low
        inside = np.searchsorted(starts, low, side="right") - 1
        finer = (low - starts[inside]) >> self._shifts[address][inside]
        first = np.flatnonzero(np.append(True, (np.diff(inside) > 0) | (np.diff(finer) > 0)))
        return Cells(low[first], np.maximum.reduceat(high, first), np.add.reduceat(counts, first))


def _shifts(cells: Cells, bits: int) -> Array:
    """Return the bits of keys to ignore in each cell, so that it has at most 2^bits finer ones."""
    widths = [int(high) - int(low) for low, high in zip(cells.low, cells.high, strict=True)]
    return np.array([max(0, width.bit_length() - bits) for width in widths], np.int64)


class Selected:
    """Finer cells of one pass; those of several workers add.

    Args:
        division: the cells to divide.
    """

    def __init__(self, division: Division) -> None:
        self._division = division
        self._parts: dict[Address, list[Cells]] = {address: [] for address in division.cells}

    def add_values(self, address: Address, values: Array, weights: Array | None = None) -> None:
        """Add values (N,) of an address, of any integer or float dtype and without NaN; `weights` are (N,) integers."""
        self._append(address, self._division.divide(address, keys_of(values), weights))

    def add(self, other: "Selected") -> None:
        """Add the cells of other values, by the same division."""
        for address in self._parts:
            self._append(address, other.cells(address))

    def _append(self, address: Address, cells: Cells) -> None:
        parts = self._parts[address]
        if len(cells.low):
            parts.append(cells)
        if sum(len(part.low) for part in parts[1:]) > max(_FEW, len(parts[0].low) if parts else 0):
            parts[:] = [self._division.compact(address, parts)]

    def cells(self, address: Address) -> Cells:
        """Return the finer cells of an address."""
        parts = self._parts[address]
        if len(parts) != 1:
            parts[:] = [self._division.compact(address, parts or [union()])]
        return parts[0]

    def __getstate__(self) -> dict[str, Any]:
        for address in self._parts:
            self.cells(address)
        return vars(self)
