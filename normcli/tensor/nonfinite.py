"""Values that a result cannot be right for: NaN, infinity, and numbers that float64 does not represent or square."""

import threading
from typing import Any, NamedTuple

import numpy as np

from normcli.tensor.normalizers.blocks import Array, Tensor

_PART_BYTES = 1 << 24
_LARGEST_INTEGER = 1 << 53  # up to it float64 has every integer
_LARGEST_ROOT = 2.0**511  # its square is below float64's largest number, 2^1024


class ValueCounts(NamedTuple):
    """Counts of values that a result cannot be right for.

    Attributes:
        nonfinite: NaN or infinity.
        rounded: integers beyond 2^53.
        overflowing: finite numbers whose squares are not.
    """

    nonfinite: int = 0
    rounded: int = 0
    overflowing: int = 0

    def plus(self, other: "ValueCounts") -> "ValueCounts":
        """Return the sums."""
        return ValueCounts(*(a + b for a, b in zip(self, other, strict=True)))


NO_COUNTS = ValueCounts()


def count_values(x: Array) -> ValueCounts:
    """Count the values that a result cannot be right for.

    >>> count_values(np.array([1.0, np.nan, -np.inf, 1e200]))
    ValueCounts(nonfinite=2, rounded=0, overflowing=1)
    >>> count_values(np.array([0, 2**53, 2**53 + 1])).rounded, count_values(np.array(2**60)).rounded
    (1, 1)
    """
    x = np.atleast_1d(x)
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8 and x.size:
        large = max(int(x.max()), -int(x.min())) > _LARGEST_INTEGER  # comparing every value costs twice as much
        outside = (x > _LARGEST_INTEGER) | (x < -_LARGEST_INTEGER if x.dtype.kind == "i" else False) if large else x[:0]
        return ValueCounts(rounded=int(np.count_nonzero(outside)))
    if x.dtype.kind in "iub" or not x.size:
        return NO_COUNTS
    total = NO_COUNTS
    step = max(1, _PART_BYTES * len(x) // max(x.nbytes, 1))
    for start in range(0, len(x), step):
        total = total.plus(_count_part(x[start : start + step]))
    return total


def _count_part(x: Array) -> ValueCounts:
    with np.errstate(all="ignore"):
        # one number for all takes a third of the time of looking at every value
        if x.dtype == np.float64:
            flat = x.ravel(order="K")
            if np.isfinite(np.dot(flat, flat)):
                return NO_COUNTS
        elif x.dtype.kind == "f" and np.isfinite(x.sum()):
            return NO_COUNTS
        finite = np.isfinite(x)
        large = finite & (np.abs(x) > _LARGEST_ROOT) if x.dtype.kind == "f" and x.dtype.itemsize == 8 else finite[:0]
    return ValueCounts(int(x.size - np.count_nonzero(finite)), 0, int(np.count_nonzero(large)))


def describe_values(name: str, counts: ValueCounts, size: int) -> list[str]:
    """Return a line for each kind of such values in a tensor.

    >>> describe_values("x.npy", ValueCounts(nonfinite=1), 4800)
    ['x.npy: 1 of 4,800 values is not finite (NaN or infinity)']
    """
    texts = []
    for count, noun, problem in zip(
        counts,
        ("value", "integer", "value"),
        (
            "not finite (NaN or infinity)",
            "beyond 2^53 and rounded to float64",
            "beyond 6.7e153: a statistic of squares overflows",
        ),
        strict=True,
    ):
        if count:
            texts.append(f"{name}: {count:,} of {size:,} {noun}s {'is' if count == 1 else 'are'} {problem}")
    return texts


class CountedTensor:
    """A tensor in a file whose values are counted when they are read for the first time.

    Attributes:
        counts: of the values read so far.
    """

    def __init__(self, x: Tensor) -> None:
        self.shape, self.dtype, self.counts = x.shape, x.dtype, NO_COUNTS
        self._x, self._seen, self._lock = x, set[tuple[int, int]](), threading.Lock()

    def __getitem__(self, samples: slice, /) -> Array:
        block = self._x[samples]
        span = (samples.start, samples.stop)  # every pass reads the same: the size of a block follows from the shape
        with self._lock:
            new = span not in self._seen
            self._seen.add(span)
        if new:
            counts = count_values(block)
            with self._lock:
                self.counts = self.counts.plus(counts)
        return block


def counted(x: Any) -> Any:
    """Return a tensor whose values are counted when it is read: an array is counted at the end."""
    return x if isinstance(x, np.ndarray) else CountedTensor(x)


def counts_of(x: Any) -> ValueCounts:
    """Return the counts of a tensor, of the values that were read."""
    return x.counts if isinstance(x, CountedTensor) else count_values(np.asarray(x))
