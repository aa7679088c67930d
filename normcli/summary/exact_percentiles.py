"""Exact percentiles of values that a histogram has to 8 significant bits, searched by further passes over them.

search = Search(summary, "0.5,99.5", "linear")
while (division := search.next_division()) is not None:
    search.refine(selected)  # what one more pass found: `tally.selection.Selected`
summary = search.summary()
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from normcli.errors import UsageError
from normcli.options.printing import IQR
from normcli.summary.cases import intervals_of_cases, with_pixels
from normcli.summary.conventions import PERCENTILES, Part
from normcli.summary.percentiles import (
    BoundedValues,
    Finer,
    PartEnds,
    bin_ends,
    columns_of_summary,
    names_of,
    with_columns,
)
from normcli.summary.summary import Summary
from normcli.tally.selection import Cells, Division, Selected, cells_of_bins, union

Array = np.ndarray[Any, Any]


@dataclass
class _Target:
    """The values of an address that the next pass divides.

    Attributes:
        part: the counts of its bucket.
        bins: positions in the histogram.
        finer: mask of the cells that earlier passes found.
    """

    part: Part
    bins: Array
    finer: Array


class Search:
    """A search for the exact percentiles of a summary: those of every file, and others.

    Groups have theirs in the same passes. Percentiles that the histogram knows exactly need no pass.

    Args:
        summary: the statistics, with their counts.
        percentiles: as `Summary.with_percentiles` takes them, or None.
        method: one of `PERCENTILE_METHODS`.

    Raises:
        UsageError, StatisticsFileError: see `Summary.with_percentiles`.
    """

    def __init__(self, summary: Summary, percentiles: Any, method: str) -> None:
        self._summary, self._method = summary, method
        self._names = names_of(summary, percentiles, method)
        self._tally = summary.tally
        self._finer: dict[Any, Finer] = {}
        self._targets: dict[Any, _Target] = {}

    def next_division(self) -> Division | None:
        """Return the cells that the next pass divides, by (group or None, key of bucket, channel); None at the end."""
        self._targets = {}
        of_cases = self._summary.settings.get("weight") == "case"
        by_group = dict(columns_of_summary(self._summary, self._tally, self._finer))
        for group, columns in by_group.items():
            for column in columns if group is not None or not of_cases else ():
                self._mark(column)
        if of_cases:
            for parts in zip(*(columns for group, columns in by_group.items() if group is not None), strict=True):
                self._mark_cases(parts)
        cells = {address: self._cells(address, target) for address, target in self._targets.items()}
        return Division(cells) if cells else None

    def _mark(self, column: BoundedValues) -> None:
        """Mark the cells of a channel that may contain a value of a percentile."""
        if column.is_exact or not len(column.printed.until):
            return
        intervals = set()
        for name in (*map(str, PERCENTILES), *self._names):
            for percent in (25, 75) if name == IQR else (Fraction(name),):
                parts, _ = column.low.position(Fraction(percent), self._method)
                intervals |= {tuple(sorted((column.low.stored(part), column.high.stored(part)))) for part in parts}
        self._mark_intervals(column, intervals, 1)

    def _mark_cases(self, parts: Sequence[BoundedValues]) -> None:
        """Mark the cells of a channel in all groups that may contain a percentile, with equal weights of groups."""
        if channel := with_pixels(parts):
            intervals = intervals_of_cases(channel, (*map(str, PERCENTILES), *self._names))
            for column in channel:
                self._mark_intervals(column, intervals, column.printed.scale)

    def _mark_intervals(self, column: BoundedValues, intervals: Iterable[tuple[Any, Any]], scale: int) -> None:
        for ends in column.parts:
            mask = np.zeros(len(ends.low), bool)
            for low, high in intervals:
                mask |= (ends.low / scale <= high) & (ends.high / scale >= low)
            mask &= ends.low < ends.high
            if mask.any():
                self._add_target(ends, mask)

    def _add_target(self, ends: PartEnds, mask: Array) -> None:
        count = len(ends.bins)
        bins, finer = ends.bins[mask[:count]], mask[count:]
        if (known := self._targets.get(ends.address)) is not None:  # gray, in another channel
            bins, finer = np.union1d(known.bins, bins), known.finer | finer
        self._targets[ends.address] = _Target(ends.part, bins, finer)

    def _cells(self, address: Any, target: _Target) -> Cells:
        """Return the cells to divide, in the order of their keys."""
        of_bins = cells_of_bins(target.part.bucket.histogram[address[2]], target.bins, bin_ends(target.part))
        known = self._finer.get(address)
        return of_bins if known is None else union(of_bins, known.cells.part(target.finer))

    def refine(self, selected: Selected) -> None:
        """Use the values of a pass over the last `next_division`.

        Raises:
            UsageError: it was of other values.
        """
        for address, target in self._targets.items():
            cells = selected.cells(address)
            if int(cells.counts.sum()) != int(self._cells(address, target).counts.sum()):
                raise UsageError("the values of this pass are not those of the statistics")
            known = self._finer.get(address, Finer(np.zeros(0, np.int64), union()))
            bins = np.append(known.bins, target.bins)
            self._finer[address] = Finer(bins, union(known.cells.part(~target.finer), cells))

    def summary(self) -> Summary:
        """Return the summary with the percentiles; they are exact once `next_division` returns None."""
        columns = columns_of_summary(self._summary, self._tally, self._finer)
        return with_columns(self._summary, columns, self._names, self._method)
