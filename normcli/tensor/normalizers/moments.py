"""The core that the families share: moments of channels, their merging, and one affine map.

Batch, instance, group, image-layer and all mixed statistics are the same table of per-sample, per-channel
moments (N, C), merged over other axes; most normalizers are then `(x - mean) * scale + shift` per entry.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from normcli.errors import NormcliError, TensorError, UsageError
from normcli.kernels.kernel import contiguous
from normcli.tensor.normalizers.blocks import Array, Tensor, parallel_blocks
from normcli.tensor.normalizers.views import View, cast, result_dtype


@dataclass(frozen=True)
class Moments:
    """Counts of elements, means and sums of squared deviations from them, in float64.

    `low` is what rounding cut off from the mean: at 1e4 std it is worth a float32 step of small results.

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
        """The biased variance, divided by the count."""
        return self.m2 / self.count

    @property
    def unbiased(self) -> Array:
        """The variance divided by count - 1."""
        return self.m2 / (self.count - 1)

    @property
    def square(self) -> Array:
        """The mean square, not centred."""
        return np.asarray(self.m2 / self.count + self.mean * self.mean)

    def over(self, axis: int | tuple[int, ...]) -> "Moments":
        """Merge along axes of the table; infinities become NaN."""
        merged = self.count * math.prod(self.mean.shape[a] for a in np.atleast_1d(axis))
        with np.errstate(invalid="ignore"):
            mean = self.mean.mean(axis=axis)
            apart = self.mean - np.expand_dims(mean, axis) + self.low
            m2 = self.m2.sum(axis=axis) + self.count * (apart * apart).sum(axis=axis)
            return Moments(merged, mean, m2, apart.mean(axis=axis))

    def groups(self, groups: int) -> "Moments":
        """Merge neighbouring channels of a table (N, C) into (N, groups)."""
        shape = (len(self.mean), groups, self.mean.shape[1] // groups)
        return self.each(lambda table: table.reshape(shape)).over(2)

    def each(self, change: Callable[[Array], Array]) -> "Moments":
        """Rearrange the tables."""
        low = np.broadcast_to(self.low, self.mean.shape)
        return Moments(self.count, change(self.mean), change(self.m2), change(low))

    def __add__(self, other: "Moments") -> "Moments":
        """Merge with the moments of other elements of the same channels (Chan's formula)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        m2 = self.m2 + other.m2 + apart * apart * (self.count * (other.count / count))
        return Moments(count, mean, m2)


def _kernel(name: str) -> Callable[..., None]:
    """A compiled loop over arrays.

    Raises:
        NormcliError: when it is called, and Numba does not work here.
    """
    from normcli.kernels import kernel as jit
    from normcli.kernels import rows as tensors

    kernel = getattr(tensors, name)

    def run(*arguments: Any) -> None:
        try:
            kernel(*arguments)
        except jit.KernelUnavailable as error:
            raise NormcliError(f"normalizers need Numba, which does not work here: {error}") from error.__cause__

    return run


def channel_moments(view: View) -> Moments:
    """Take the moments of every channel of every sample: a table (N, C) of view.length elements each."""
    row_moments = _kernel("row_moments")
    mean, low, m2 = np.empty((3, view.samples, view.rows))

    def run(start: int, stop: int) -> None:
        rows = contiguous(view.block(start, stop)).reshape(-1, view.length)
        row_moments(rows, *(table[start:stop].reshape(-1) for table in (mean, low, m2)))

    if view.size:
        parallel_blocks(view.samples, view.sample_bytes, run, in_place_ok=view.in_place_ok)
    return Moments(view.length, mean, m2, low)


def affine(
    view: View, mean: Moments | Array | float, scale: Array | float, shift: Array | float, dtype: str | None
) -> Any:
    """Map a view by (x - mean) * scale + shift; the three broadcast to (N, C). One rounding, at the end."""
    affine_rows = _kernel("affine_rows")
    if isinstance(mean, Moments):
        with np.errstate(invalid="ignore"):
            shift = np.asarray(shift - mean.low * np.asarray(scale))
        mean = mean.mean
    table = [
        np.ascontiguousarray(np.broadcast_to(np.asarray(t, np.float64), (view.samples, view.rows)))
        for t in (mean, scale, shift)
    ]

    def run(x: Array, y: Array, start: int) -> None:
        stop = start + len(x)
        affine_rows(
            contiguous(x).reshape(-1, view.length),
            y.reshape(-1, view.length),
            *(t[start:stop].reshape(-1) for t in table),
        )

    return view.map_kernel(dtype, run)


def _narrow(*tables: Array) -> list[Array]:
    """The same numbers in float32 where that holds them all.

    Two rows of 1,024 in float64, one read and one written fill the L1 cache: a layer_norm takes 3.4 ms, not 2.6.
    """
    with np.errstate(over="ignore"):
        narrow = [table.astype(np.float32) for table in tables]
    exact = all(np.array_equal(n, t) for n, t in zip(narrow, tables, strict=True))
    return narrow if exact else list(tables)


def normalize(
    view: View,
    *,
    groups: int,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    dtype: str | None,
    centred: bool = True,
    outside: bool = False,
    head: int | None = None,
) -> Any:
    """Normalize each of the `groups` equal parts of every sample by its own statistics, in one reading.

    Weight and bias are tables (P, M): row r uses row r % P, each number for an M-th of the row.
    """
    normalize_rows = _kernel("normalize_rows")
    length = view.rows * view.length // groups if groups else 0
    a = np.ones((1, 1)) if weight is None else np.ascontiguousarray(weight, np.float64)
    b = np.zeros((1, 1)) if bias is None else np.ascontiguousarray(bias, np.float64)
    shape = max(a.shape, b.shape)
    a, b = (np.ascontiguousarray(np.broadcast_to(t, shape)) for t in (a, b))
    if shape[1] == length:
        a, b = _narrow(a, b)
    statistic = length if head is None else head

    def run(x: Array, y: Array, start: int) -> None:
        x, y = contiguous(x).reshape(-1, length), y.reshape(-1, length)
        normalize_rows(x, y, start * groups, a, b, float(eps), centred, outside, statistic)

    return view.map_kernel(dtype, run)


def numbers(name: str, what: str, given: Any, *shapes: tuple[int, ...]) -> Array | None:
    """Check a parameter and give it as float64, or None.

    Raises:
        TensorError: it has none of the shapes that fit.
    """
    if given is None:
        return None
    array = np.asarray(given)
    result_dtype(array)
    if array.shape not in shapes:
        right = " or ".join(str(s) for s in dict.fromkeys(shapes))
        raise TensorError(f"{name}: {what} must have shape {right}, got {array.shape}")
    return array.astype(np.float64)


def per_channel(name: str, what: str, given: Any, view: View, default: float) -> Array:
    """Give a parameter of shape (C) or (N, C) as a table that broadcasts to (N, C)."""
    found = numbers(name, what, given, (view.rows,), (view.samples, view.rows))
    return np.full(view.rows, default) if found is None else found


def check_eps(name: str, eps: float) -> None:
    """Refuse a negative or absent epsilon.

    Raises:
        UsageError: eps < 0 or not a number.
    """
    if not eps >= 0:
        raise UsageError(f"{name}: eps must be 0 or more, got {eps}")


def float64(x: Tensor, name: str) -> Array:
    """Give a whole tensor as float64, for the formulas of gradients and weights."""
    from normcli.tensor.normalizers.blocks import read_all

    result_dtype(x)
    return read_all(x, name).astype(np.float64)


def round_to_dtype(x: Tensor, y: Array, dtype: str | None = None) -> Array:
    """Round a float64 result to the result type of x, or to the one asked for."""
    return cast(np.asarray(y, np.float64), result_dtype(x, dtype))
