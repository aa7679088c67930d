"""Exact counts of vectors: each row of numbers is one image of one pixel, with a channel for every component.

Everything but the sums follows from that: a row's std is 0 and its mean is its value. So a block of rows is counted at
once, and the state is that of its rows one by one, however they are split into blocks.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from normcli.tally.exact import FLOAT_BITS, to_fixed_point
from normcli.tally.extremes import KEPT_EXTREMES, ExtremeValues
from normcli.tally.floats import LARGEST, Floats, sum_floats
from normcli.tally.groups import Group
from normcli.tally.integers import PerImage
from normcli.tally.tally import DIGEST_MODULUS, Tally

Array = np.ndarray[Any, Any]

_TINY = 2.0**-484  # below it a square is no multiple of 2^-1074
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))  # odd: each step is a permutation


class RowGroups(NamedTuple):
    """The group of every row.

    Attributes:
        names: of the groups.
        codes: (N) position of each row's group among the names.
    """

    names: Sequence[str]
    codes: Array


class BadRow(NamedTuple):
    """A row that is not counted: its position in the block, the first component at fault, and the reason."""

    row: int
    component: int
    reason: str


def count_rows(
    tally: Tally, rows: Array, *, nan: str, notes: tuple[str, ...], groups: RowGroups | None = None
) -> list[BadRow]:
    """Add the rows of a block (N,C) of float32 or float64; return those that are not counted.

    Args:
        tally: to add to.
        rows: the values, in raw units.
        nan: treatment of a NaN or infinity: "error" fails its row, "skip" leaves out the component.
        notes: properties that the composition counts for every row.
        groups: the group of every row, if any.
    """
    finite = np.isfinite(rows)
    bad, good = _bad_rows(rows, finite, nan)
    if not good.all():
        rows, finite = rows[good], finite[good]
        groups = None if groups is None else groups._replace(codes=groups.codes[good])
    if not len(rows):
        return bad
    key = (rows.shape[1], "float", 1)
    bucket = tally.buckets.setdefault(key, Floats(key[0]))
    assert isinstance(bucket, Floats)
    for name, part in _parts(groups, len(rows)):
        group = None if name is None else tally.groups.setdefault(name, Group())
        _count_part(bucket, rows[part], finite[part], group)
        tally.select((rows[part][None], None, finite[part][None]), name)
    for c in range(bucket.channels):
        column = rows[finite[:, c], c].astype(np.float64)
        bucket.lowest[c].add(_smallest(column + 0.0, bucket.lowest[c].bound))
        bucket.highest[c].add(_smallest(0.0 - column, bucket.highest[c].bound))
    tally.digest = (tally.digest + _digest(rows)) % DIGEST_MODULUS
    tally.composition.update(dict.fromkeys(notes, len(rows)))
    return bad


def _bad_rows(rows: Array, finite: Array, nan: str) -> tuple[list[BadRow], Array]:
    """Return the rows that fail, and which rows (N) are good."""
    large: Array
    lost: Array = np.asarray(~finite.any(axis=1) if nan == "skip" else ~finite.all(axis=1))
    with np.errstate(invalid="ignore"):
        large = finite & (np.abs(rows) > LARGEST) if rows.dtype == np.float64 else np.zeros_like(finite)
    wrong: Array = np.where(lost[:, None], ~finite, large)
    faults = np.flatnonzero(wrong.any(axis=1))
    bad = [BadRow(i, int(wrong[i].argmax()), "not-finite" if lost[i] else "unsupported") for i in faults.tolist()]
    return bad, np.asarray(~wrong.any(axis=1))


def _parts(groups: RowGroups | None, count: int) -> Iterator[tuple[str | None, Any]]:
    """Yield each group's name with the index of its rows; None with all rows where there are no groups."""
    if groups is None:
        yield None, slice(None)
        return
    order = np.argsort(groups.codes, kind="stable")
    codes = groups.codes[order]
    starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), count]
    in_order = bool((np.diff(groups.codes) >= 0).all())
    for start, end in pairwise(starts):
        yield groups.names[int(codes[start])], slice(start, end) if in_order else order[start:end]


def _count_part(own: Floats, rows: Array, finite: Array, group: Group | None) -> None:
    channels = own.channels
    if finite.all():
        weight, total, squares, _ = sum_floats(rows[None], own.histogram)
        weights = [weight] * channels
    else:
        weights, total, squares = [], [], []
        for c in range(channels):
            column = rows[finite[:, c], c][None, :, None]
            weight, sums, of_squares, _ = sum_floats(column, own.histogram[c : c + 1])
            weights.append(weight)
            total += sums
            squares += of_squares
    own.weights = [a + b for a, b in zip(own.weights, weights, strict=True)]
    own.not_finite = [a + len(rows) - b for a, b in zip(own.not_finite, weights, strict=True)]
    own.total = [a + b for a, b in zip(own.total, total, strict=True)]
    own.squares = [a + b for a, b in zip(own.squares, squares, strict=True)]
    values = PerImage(channels, FLOAT_BITS, len(rows), list(weights), mean=list(total))
    values.square = [_rounded(squares[c], rows[finite[:, c], c]) for c in range(channels)]
    own.per_image.add(values)
    if group is not None:
        columns = [rows[finite[:, c], c] for c in range(channels)]
        group.count_columns((channels, "float", 1), columns, (weights, total, squares), values)


def _rounded(squares: int, column: Array) -> int:
    """Return the sum of squares in units of 2^-1074, with every square rounded by itself.

    Args:
        squares: the exact sum, in units of 2^-2148.
        column: the values.
    """
    tiny = column[(np.abs(column) < _TINY) & (column != 0)] if column.dtype == np.float64 else column[:0]
    own = [to_fixed_point(float(value)) ** 2 for value in tiny]
    half = 1 << FLOAT_BITS - 1
    return ((squares - sum(own)) >> FLOAT_BITS) + sum((value + half) >> FLOAT_BITS for value in own)


def _smallest(column: Array, bound: float | None) -> ExtremeValues:
    """Return the smallest values of a column, as `ExtremeValues` keeps them of values one by one.

    Args:
        column: the values.
        bound: that of the values to which they are added: greater ones are of no use.
    """
    known = column if bound is None else column[column <= bound]
    if len(known) <= KEPT_EXTREMES:
        return ExtremeValues(known.tolist())
    values = np.sort(np.partition(known, KEPT_EXTREMES - 1)[:KEPT_EXTREMES]).tolist()
    return ExtremeValues(values, values[-1])


def _digest(rows: Array) -> int:
    """Return the sum of a 128-bit hash of every row's values, equal for equal values of any float type."""
    with np.errstate(over="ignore"):
        hashes = [np.full(len(rows), seed, np.uint64) for seed in _MIX]
        for c in range(rows.shape[1]):
            column = rows[:, c].astype(np.float64)
            column[np.isnan(column)] = math.nan  # of one bit pattern
            words = column.view(np.uint64)
            for one, factor in zip(hashes, _MIX, strict=True):
                one ^= words
                one *= factor
                one ^= one >> np.uint64(29)
        total = 0
        for one, factor in zip(hashes, _MIX[::-1], strict=True):
            one *= factor
            one ^= one >> np.uint64(32)
            low, high = int((one & np.uint64(0xFFFFFFFF)).sum()), int((one >> np.uint64(32)).sum())
            total = (total << 64) + (high << 32) + low
    return total % DIGEST_MODULUS
