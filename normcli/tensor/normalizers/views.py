"""Layouts: a tensor of any layout seen as rows of one statistic each, and results put back.

Every view is three-dimensional, (samples, rows of a sample, length of a row), C-contiguous, float32 or
float64: channels are rows of N x C, tokens are rows of N x T. A channel-last tensor is transposed block by
block on the way, so it gives the same bits as its channel-first twin.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from normcli.errors import TensorError, UnsupportedTensorError, UsageError, unknown
from normcli.kernels.kernel import Kernel, contiguous
from normcli.kernels.rows import normalize_rows
from normcli.storage.safetensors_format import bfloat16
from normcli.tensor.normalizers.blocks import (
    WORKING_COPIES,
    Array,
    Tensor,
    current_resources,
    parallel_blocks,
    read_all,
)

Layout = Literal["NC", "NCL", "NCHW", "NCDHW", "NLC", "NHWC", "NDHWC", "NTC"]
Dtype = Literal["float16", "bfloat16", "float32", "float64"]

LAYOUTS: tuple[str, ...] = get_args(Layout)


def channel_axis(x: Tensor, layout: str | None) -> int:
    """Return the channel axis of a tensor.

    Raises:
        UsageError: no layout given where the rank is ambiguous, or an unknown one.
        TensorError: the rank is not the layout's.
    """
    rank = len(x.shape)
    if layout is None:
        if rank == 2:
            return 1
        candidates = [known for known in LAYOUTS if len(known) == rank]
        if not candidates:
            raise TensorError(f"shape {tuple(x.shape)} has rank {rank}; layouts have rank 2 to 5")
        raise UsageError(f"shape {tuple(x.shape)} can be {' or '.join(candidates)}: choose one with --layout")
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if len(layout) != rank:
        raise TensorError(f"layout {layout} needs rank {len(layout)}, but the shape is {tuple(x.shape)}")
    return layout.index("C")


def result_dtype(x: Tensor, dtype: str | None = None) -> np.dtype[Any]:
    """Return the type of a result: the input's, float32 for integers, or the requested one.

    Raises:
        UnsupportedTensorError: elements that are not real numbers.
        UsageError: an unknown dtype.
    """
    if dtype is not None:
        if dtype not in get_args(Dtype):
            raise unknown("dtype", dtype, get_args(Dtype))
        return bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    kind = x.dtype
    if kind.kind == "f" and kind.itemsize <= 8:
        native: np.dtype[Any] = np.dtype(f"f{kind.itemsize}")
        return native
    if kind.kind in "iu":
        return np.dtype(np.float32)
    if kind.name == "bfloat16":
        return kind
    if kind.kind == "V":
        origin = ", as NumPy writes bfloat16: save it as .safetensors or .pt" * (kind.itemsize == 2)
        raise UnsupportedTensorError(f"elements of {kind.itemsize} bytes without a type{origin}")
    raise UnsupportedTensorError(f"dtype {kind} cannot be normalized: give float16/32/64, bfloat16 or integers")


def cast(y: Array, dtype: np.dtype[Any]) -> Array:
    """Round a float32 or float64 result to its final type, once."""
    if dtype.name == "bfloat16" and y.dtype == np.float64:
        # the library goes through float32, which rounds twice; a float32 rounded to odd cannot mislead the
        # second rounding
        near = y.astype(np.float32)
        bits = near.view(np.uint32).copy()
        bits[np.abs(near.astype(np.float64)) > np.abs(y)] -= 1
        inexact = np.isfinite(y) & (near.astype(np.float64) != y)
        bits[inexact] |= 1
        y = bits.view(np.float32)
    with np.errstate(over="ignore"):
        return y.astype(dtype, copy=False)


def read_float64(x: Tensor) -> Array:
    """Read a complete tensor as float64 in C order, whose sums have the same bits for every order in memory."""
    result_dtype(x)
    return read_all(x).astype(np.float64, order="C")


def round_to_dtype(x: Tensor, y: Array, dtype: str | None = None) -> Array:
    """Round a float64 result to the result type of x, or to the requested one."""
    return cast(np.asarray(y, np.float64), result_dtype(x, dtype))


class View:
    """A tensor as (samples, rows, length): the last axis holds the neighbors of one statistic."""

    def __init__(self, x: Tensor, order: Sequence[int], rows: int, *, spans_batch: bool = False) -> None:
        """View a tensor.

        Args:
            x: the tensor.
            order: its axes in the order of the view.
            rows: number of rows of a sample.
            spans_batch: a statistic spans samples, so all of them are one.
        """
        self.shape, self.order, self.rows = tuple(x.shape), tuple(order), rows
        self.dtype = result_dtype(x)
        self.spans_batch = spans_batch
        self.x = read_all(x, copies=1) if spans_batch else x
        self.samples = 1 if spans_batch else self.shape[0]
        per_sample = math.prod(self.shape if spans_batch else self.shape[1:])
        self.length = per_sample // rows if rows else 0
        self.plain = self.order == tuple(range(len(self.order)))
        wide = x.dtype.name == "float64" or (x.dtype.kind in "iu" and x.dtype.itemsize > 2)  # float32 ends at 2^24
        self.work_dtype = np.dtype(np.float64 if wide else np.float32)
        self.sample_bytes = per_sample * self.work_dtype.itemsize
        as_stored = isinstance(x, np.ndarray) and x.flags.c_contiguous and x.dtype == self.work_dtype
        self.in_place_ok = as_stored and self.plain and not spans_batch  # blocks are views, nothing is copied

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def regroup(self, groups: int) -> "View":
        """Return the view whose rows are `groups` runs of neighboring rows.

        Raises:
            TensorError: the rows cannot be divided so.
        """
        check_groups(self.rows, groups)
        grouped = copy.copy(self)
        grouped.rows, grouped.length = groups, self.rows // groups * self.length
        return grouped

    def block(self, start: int, stop: int) -> Array:
        """Read samples as a contiguous (stop - start, rows, length) of float32 or float64."""
        part = np.asarray(self.x if self.spans_batch else self.x[start:stop])
        if not self.plain:
            part = part.transpose(self.order)
        return np.ascontiguousarray(part, dtype=self.work_dtype).reshape(stop - start, self.rows, self.length)

    def allocate(self, dtype: str | None) -> Any:
        """Make the array, or the file, that takes the result."""
        return current_resources().allocate(self.shape, self.dtype if dtype is None else result_dtype(self.x, dtype))

    def put(self, out: Any, start: int, stop: int, y: Array) -> None:
        """Write the result of a block, in the layout and type of the output."""
        part = self.shape if self.spans_batch else (stop - start, *self.shape[1:])
        if not self.plain:
            y = y.reshape([part[a] for a in self.order]).transpose(np.argsort(self.order))
        if self.spans_batch:
            start, stop = 0, part[0]
        out[start:stop] = cast(y.reshape(part), out.dtype)

    def map_kernel(self, kernel: Kernel, *arguments: Any, dtype: str | None, one_row: bool = False) -> Any:
        """Compute a result by kernel(x, y, first, *arguments), which fills y (R, length) from row `first` on.

        With `one_row`, each block is a part of one row, which is row 0.
        """
        out = self.allocate(dtype)
        direct = isinstance(out, np.ndarray) and out.dtype in (np.float32, np.float64)
        direct = direct and self.plain and not self.spans_batch and out.flags.carray  # gapless, aligned and writeable
        buffer = np.dtype(np.float32 if out.dtype == np.float32 else np.float64)

        def compute_block(start: int, stop: int) -> None:
            x = contiguous(self.block(start, stop)).reshape(1 if one_row else -1, -1 if one_row else self.length)
            y = out[start:stop].reshape(x.shape) if direct else np.empty(x.shape, buffer)
            kernel(x, y, 0 if one_row else start * self.rows, *arguments)
            if not direct:
                self.put(out, start, stop, y)

        if self.size:
            parallel_blocks(
                self.samples, self.sample_bytes, compute_block, in_place_ok=bool(direct and self.in_place_ok)
            )
        return out

    def map_numpy(self, formula: Callable[..., Array], *parameters: Array, dtype: str | None) -> Any:
        """Compute a result by formula(x, *parameters) on float64 blocks (n, rows, length).

        Each parameter (rows) or (samples, rows) comes as its part (1 or n, rows, 1) for the block.
        """
        out = self.allocate(dtype)

        def compute_block(start: int, stop: int) -> None:
            parts = (p[start:stop, :, None] if p.ndim == 2 else p[None, :, None] for p in parameters)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                self.put(out, start, stop, formula(self.block(start, stop).astype(np.float64), *parts))

        if self.size:
            parallel_blocks(self.samples, self.sample_bytes, compute_block, copies=WORKING_COPIES)
        return out


def channels(x: Tensor, layout: str | None) -> View:
    """View a tensor as (N, C, S): the rows of a sample are its channels.

    Raises:
        TensorError: no channels.
    """
    axis = channel_axis(x, layout)
    if not x.shape[axis]:
        raise TensorError(f"C must be 1 or more, and axis {axis} of shape {tuple(x.shape)} is 0")
    spatial = [a for a in range(1, len(x.shape)) if a != axis]
    return View(x, (0, axis, *spatial), x.shape[axis])


def tokens(x: Tensor, axes: Sequence[int]) -> View:
    """View a tensor as (N, …, rest): the rows run over `axes`, in their order."""
    if not x.shape:
        raise TensorError("a single number has rank 0; a tensor has axes")
    others = [a for a in range(len(x.shape)) if a not in axes]
    spans_batch = 0 not in others
    rows = math.prod(x.shape[a] for a in (others if spans_batch else others[1:]))
    return View(x, (*others, *axes), rows, spans_batch=spans_batch)


def check_groups(channels: int, groups: int) -> None:
    """Reject a number of groups that does not divide the channels.

    Raises:
        TensorError: there is a remainder, or no group.
    """
    if groups < 1 or channels % groups:
        raise TensorError(f"C must be a multiple of groups, got C = {channels}, groups = {groups}")


def check_parameter(what: str, value: Any, *shapes: tuple[int, ...]) -> Array | None:
    """Return a parameter as float64, or None.

    Raises:
        TensorError: it has none of the shapes that fit.
    """
    if value is None:
        return None
    array = np.asarray(value)
    result_dtype(array)
    if not array.ndim:  # one number for all
        return np.full(shapes[0], array, np.float64)
    if array.shape not in shapes:
        expected = " or ".join(str(s) for s in dict.fromkeys(shapes))
        raise TensorError(f"{what} must have shape {expected}, got {array.shape}")
    return array.astype(np.float64)


def per_channel(view: View, what: str, value: Any, default: float) -> Array:
    """Return a parameter of shape (C) or (N, C) as a table that broadcasts to (N, C)."""
    table = check_parameter(what, value, (view.rows,), (view.samples, view.rows))
    return np.full(view.rows, default) if table is None else table


def normalize(
    view: View,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    dtype: str | None,
    *,
    centred: bool = True,
    eps_outside: bool = False,
    head: int | None = None,
) -> Any:
    """Return weight * (x - mean) / sqrt(var + eps) + bias for each row of a view, in one reading.

    Args:
        view: rows of one statistic each.
        weight: a table (P, M): row r uses row r % P, each number for an M-th of the row.
        bias: as weight.
        eps: added to the variance.
        dtype: type of the result.
        centred: subtract the mean; else the variance is the mean square.
        eps_outside: add eps to the root in place of the variance.
        head: take the statistic from so many first elements of a row.
    """
    if not view.size:
        return view.allocate(dtype)
    a = np.ones((1, 1)) if weight is None else np.ascontiguousarray(weight, np.float64)
    b = np.zeros((1, 1)) if bias is None else np.ascontiguousarray(bias, np.float64)
    period, parts = max(len(a), len(b)), max(a.shape[1], b.shape[1])
    a, b = (np.tile(np.repeat(t, parts // t.shape[1], axis=1), (period // len(t), 1)) for t in (a, b))
    shape = (period, parts)
    if shape[1] == view.length:
        a, b = _narrow(a, b)
    head = view.length if head is None else head
    return view.map_kernel(normalize_rows, a, b, float(eps), centred, eps_outside, head, dtype=dtype)


def _narrow(*tables: Array) -> list[Array]:
    """Return the same numbers in float32 where that represents them all.

    Two rows of 1,024 in float64, one read and one written fill the L1 cache: a layer_norm takes 3.4 ms, not 2.6.
    """
    with np.errstate(over="ignore"):
        narrow = [table.astype(np.float32) for table in tables]
    exact = all(np.array_equal(n, t) for n, t in zip(narrow, tables, strict=True))
    return narrow if exact else list(tables)
