"""NaN and infinity in tensors, counted as the tensors are read."""

import threading
from typing import Any

import numpy as np

from normcli.tensor.normalizers.blocks import Array, Tensor

_PART_BYTES = 1 << 24


def count_nonfinite(x: Array) -> int:
    """Count the values that are NaN or infinite.

    >>> count_nonfinite(np.array([1.0, np.nan, -np.inf])), count_nonfinite(np.arange(3))
    (2, 0)
    """
    if x.dtype.kind in "iub" or not x.size:
        return 0
    if x.ndim == 0:
        return int(not np.isfinite(x))
    step = max(1, _PART_BYTES * len(x) // max(x.nbytes, 1))
    return sum(_count_part(x[start : start + step]) for start in range(0, len(x), step))


def _count_part(x: Array) -> int:
    with np.errstate(all="ignore"):
        if x.dtype.kind == "f" and np.isfinite(x.sum()):  # a third of the time of looking at every value
            return 0
    return int(x.size - np.count_nonzero(np.isfinite(x)))


def describe_nonfinite(name: str, count: int, size: int) -> str:
    """Return the line for a tensor with such values.

    >>> describe_nonfinite("x.npy", 1, 4800)
    'note: x.npy: 1 of 4,800 values is not finite (NaN or infinity)'
    """
    return f"note: {name}: {count:,} of {size:,} values {'is' if count == 1 else 'are'} not finite (NaN or infinity)"


class CountedTensor:
    """A tensor in a file whose values are counted when they are read for the first time.

    Attributes:
        nonfinite: how many values read so far are NaN or infinite.
    """

    def __init__(self, x: Tensor) -> None:
        self.shape, self.dtype, self.nonfinite = x.shape, x.dtype, 0
        self._x, self._seen, self._lock = x, np.zeros(x.shape[0], bool), threading.Lock()

    def __getitem__(self, samples: slice, /) -> Array:
        block = self._x[samples]
        with self._lock:
            new = ~self._seen[samples]
            self._seen[samples] = True
        if new.any():
            count = count_nonfinite(block if new.all() else block[new])
            with self._lock:
                self.nonfinite += count
        return block


def counted(x: Any) -> Any:
    """Return a tensor that knows how many of its values are not finite after it was read: an array knows at once."""
    return x if isinstance(x, np.ndarray) else CountedTensor(x)


def nonfinite_of(x: Any) -> int:
    """Return how many values of a tensor are not finite, of those that were read."""
    return x.nonfinite if isinstance(x, CountedTensor) else count_nonfinite(np.asarray(x))
