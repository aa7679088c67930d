"""The core that the families share: moments of channels, their merging, and one affine map.

Batch, instance, group, image-layer and all mixed statistics are the same table of per-sample, per-channel
moments (N, C), merged over other axes; most normalizers are then `(x - mean) * scale + shift` per entry.
"""

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from normcli.kernels.kernel import contiguous
from normcli.kernels.rows import CACHE_BYTES, affine_rows, batch_rows, row_moments
from normcli.platforms import usable_cpus
from normcli.tensor.normalizers.views import Array, View, current_resources, parallel_blocks, share_turns


@dataclass(frozen=True)
class Moments:
    """Counts of elements, means and sums of squared deviations from them, in float64.

    `low` is the part of the mean that rounding cut off: at 1e4 std it is worth a float32 step of small results.

    >>> import numpy as np
    >>> two = Moments(2, np.array([1.0, 5.0]), np.array([2.0, 2.0]))
    >>> both = two.over(0)
    >>> both.count, float(both.mean), float(both.var)
    (4, 3.0, 5.0)
    """

    count: int
    mean: Array
    m2: Array
    low: Array | float = 0.0

    @property
    def var(self) -> Array:
        """Return the biased variance, divided by the count."""
        return self.m2 / self.count

    @property
    def unbiased(self) -> Array:
        """Return the variance divided by count - 1."""
        return self.m2 / (self.count - 1)

    @property
    def square(self) -> Array:
        """Return the mean square, not centered."""
        return np.asarray(self.m2 / self.count + self.mean * self.mean)

    def over(self, axis: int | tuple[int, ...]) -> "Moments":
        """Merge along axes of the table; infinities become NaN."""
        count = self.count * math.prod(self.mean.shape[a] for a in np.atleast_1d(axis))
        with np.errstate(invalid="ignore"):
            mean = self.mean.mean(axis=axis)
            distance = self.mean - np.expand_dims(mean, axis) + self.low
            m2 = self.m2.sum(axis=axis) + self.count * (distance * distance).sum(axis=axis)
            return Moments(count, mean, m2, distance.mean(axis=axis))

    def groups(self, groups: int) -> "Moments":
        """Merge neighboring channels of a table (N, C) into (N, groups)."""
        shape = (len(self.mean), groups, self.mean.shape[1] // groups)
        return self.rearrange(lambda table: table.reshape(shape)).over(2)

    def rearrange(self, change: Callable[[Array], Array]) -> "Moments":
        """Return the moments with every table changed alike."""
        low = np.broadcast_to(self.low, self.mean.shape)
        return Moments(self.count, change(self.mean), change(self.m2), change(low))

    def __add__(self, other: "Moments") -> "Moments":
        """Merge with the moments of other elements of the same channels (Chan's formula)."""
        count = self.count + other.count
        distance = other.mean - self.mean + (other.low - self.low)
        step = distance * (other.count / count)
        mean = self.mean + step
        m2 = self.m2 + other.m2 + distance * distance * (self.count * (other.count / count))
        return Moments(count, mean, m2, self.low + (self.mean - mean + step))


def channel_moments(view: View) -> Moments:
    """Return the moments of every channel of every sample: a table (N, C) of view.length elements each."""
    mean, low, m2 = np.empty((3, view.samples, view.rows))

    def compute_block(start: int, stop: int) -> None:
        rows = contiguous(view.block(start, stop)).reshape(-1, view.length)
        row_moments(rows, *(table[start:stop].reshape(-1) for table in (mean, low, m2)), np.zeros(1, np.int64))

    if view.size and view.in_place_ok:
        rows, tables = view.as_rows(), [table.reshape(-1) for table in (mean, low, m2)]
        share_turns(view.samples * view.sample_bytes, lambda turns: row_moments(rows, *tables, turns))
    elif view.size:
        parallel_blocks(view.samples, view.sample_bytes, compute_block)
    return Moments(view.length, mean, m2, low)


def tensor_moments(view: View) -> Moments:
    """Return the moments of all elements together, each number as an array of one."""
    parts: dict[int, Moments] = {}

    def compute_block(start: int, stop: int) -> None:
        row = contiguous(view.block(start, stop)).reshape(1, -1)
        mean, low, m2 = np.empty((3, 1))
        row_moments(row, mean, low, m2, np.zeros(1, np.int64))
        parts[start] = Moments(row.size, mean, m2, low)

    parallel_blocks(view.samples, view.sample_bytes, compute_block)
    return functools.reduce(operator.add, (parts[start] for start in sorted(parts)))


def affine(
    view: View,
    mean: Moments | Array | float,
    scale: Array | float,
    shift: Array | float,
    dtype: str | None,
    out: Any = None,
) -> Any:
    """Return (x - mean) * scale + shift, rounded once, in `out` if it is given; the three broadcast to (N, C)."""
    if isinstance(mean, Moments):
        with np.errstate(invalid="ignore"):
            shift = np.asarray(shift - mean.low * np.asarray(scale))
        mean = mean.mean
    shape = (view.samples, view.rows)
    tables = [contiguous(np.broadcast_to(np.asarray(t, np.float64), shape).reshape(-1)) for t in (mean, scale, shift)]
    return view.map_kernel(lambda x, y, turns, line: affine_rows(x, y, turns, *tables, line), dtype=dtype, out=out)


# bytes of a channel in all samples up to which it is still in the L2 cache at its second reading (400 KB take 0.7 of
# the time of two passes over the tensor, 800 KB take 1.5), and of its row in one sample that is worth reading alone;
# a result beyond CACHE_BYTES would take the place of a channel
CHANNEL_BYTES, ROW_BYTES = 512 << 10, 4096


def normalize_batch(view: View, scale: Array, shift: Array, eps: float, dtype: str | None) -> tuple[Any, Moments]:
    """Return scale * (x - mean) / sqrt(var + eps) + shift by the statistics over the batch, and their moments (C).

    A tensor is read once where a channel stays in the cache, otherwise twice, with the same bits.
    """
    row_bytes = view.length * view.work_dtype.itemsize
    split = view.rows >= 4 * (current_resources().threads or usable_cpus()) and scale.ndim == shift.ndim == 1
    one_reading = split and view.in_place_ok and ROW_BYTES <= row_bytes <= CHANNEL_BYTES // view.samples
    out = view.allocate(dtype)
    if not (one_reading and view.takes_results(out) and out.nbytes <= CACHE_BYTES):
        moments = channel_moments(view).over(0)
        return affine(view, moments, scale / np.sqrt(moments.var + eps), shift, dtype, out=out), moments
    tables = np.empty((3, view.samples, view.rows))
    mean, low, m2 = tables
    x, y = (np.asarray(t).reshape(view.samples, view.rows, view.length) for t in (view.x, out))

    def compute(turns: Array) -> None:
        line = np.empty(view.line_length(out), out.dtype)
        batch_rows(x, y, turns, scale, shift, float(eps), mean, low, m2, line)

    share_turns(view.samples * view.sample_bytes, compute)
    return out, Moments(view.length, mean, m2, low).over(0)
