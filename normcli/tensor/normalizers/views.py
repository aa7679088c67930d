"""Layouts: a tensor of any layout seen as rows of one statistic each, and results put back.

Every view is three-dimensional, (samples, rows of a sample, length of a row), C-contiguous, float32 or
float64: channels are rows of N x C, tokens are rows of N x T. A channel-last tensor is transposed block by
block on the way, so it gives the same bits as its channel-first twin.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from normcli.errors import TensorError, UsageError, unknown
from normcli.storage.safetensors_format import bfloat16
from normcli.tensor.normalizers.blocks import WORKING_COPIES, Array, Tensor, current, parallel_blocks, read_all

Layout = Literal["NC", "NCL", "NCHW", "NCDHW", "NLC", "NHWC", "NDHWC", "NTC"]
Dtype = Literal["float16", "bfloat16", "float32", "float64"]

LAYOUTS: tuple[str, ...] = get_args(Layout)


def channel_axis(name: str, x: Tensor, layout: str | None) -> int:
    """Find the channel axis of a tensor from its layout.

    Raises:
        UsageError: no layout given where rank alone cannot tell, or an unknown one.
        TensorError: the rank is not the layout's.
    """
    rank = len(x.shape)
    if layout is None:
        if rank == 2:
            return 1
        fitting = [known for known in LAYOUTS if len(known) == rank]
        if not fitting:
            raise TensorError(f"{name}: shape {tuple(x.shape)} has rank {rank}; layouts have rank 2 to 5")
        raise UsageError(f"{name}: shape {tuple(x.shape)} can be {' or '.join(fitting)}: say which with --layout")
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if len(layout) != rank:
        raise TensorError(f"{name}: layout {layout} needs rank {len(layout)}, but the shape is {tuple(x.shape)}")
    return layout.index("C")


def result_dtype(x: Tensor, dtype: str | None = None) -> np.dtype[Any]:
    """Give the type of a result: the input's, float32 for integers, or the one asked for.

    Raises:
        TensorError: elements that are not real numbers.
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
    raise TensorError(f"dtype {kind} cannot be normalized: give float16/32/64, bfloat16 or integers")


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


class View:
    """A tensor as (samples, rows, length): the last axis holds what is neighbours in one statistic."""

    def __init__(self, name: str, x: Tensor, order: Sequence[int], rows: int, *, spans_batch: bool = False) -> None:
        """Look at a tensor.

        Args:
            name: the normalizer, for errors.
            x: what is looked at.
            order: its axes in the order of the view.
            rows: how many rows a sample has.
            spans_batch: a statistic spans samples, so all of them are one.
        """
        self.name, self.shape, self.order, self.rows = name, tuple(x.shape), tuple(order), rows
        self.dtype = result_dtype(x)
        self.spans_batch = spans_batch
        self.x = read_all(x, name) if spans_batch else x
        self.samples = 1 if spans_batch else self.shape[0]
        per_sample = math.prod(self.shape if spans_batch else self.shape[1:])
        self.length = per_sample // rows if rows else 0
        self.plain = self.order == tuple(range(len(self.order)))
        self.work_dtype = np.dtype(np.float64 if x.dtype.name in ("float64", "f8") else np.float32)
        self.sample_bytes = per_sample * self.work_dtype.itemsize
        whole_rows = isinstance(x, np.ndarray) and x.flags.c_contiguous and x.dtype == self.work_dtype
        self.in_place_ok = whole_rows and self.plain and not spans_batch  # blocks are views, nothing is copied

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def block(self, start: int, stop: int) -> Array:
        """Read samples as a contiguous (stop - start, rows, length) of float32 or float64."""
        part = np.asarray(self.x if self.spans_batch else self.x[start:stop])
        if not self.plain:
            part = part.transpose(self.order)
        return np.ascontiguousarray(part, dtype=self.work_dtype).reshape(stop - start, self.rows, self.length)

    def put(self, out: Any, start: int, stop: int, y: Array) -> None:
        """Write the result of a block, in the layout and type of the output."""
        part = self.shape if self.spans_batch else (stop - start, *self.shape[1:])
        if not self.plain:
            y = y.reshape([part[a] for a in self.order]).transpose(np.argsort(self.order))
        if self.spans_batch:
            start, stop = 0, part[0]
        out[start:stop] = cast(y.reshape(part), out.dtype)

    def result(self, dtype: str | None) -> Any:
        """Make the array, or the file, that takes the result."""
        wanted = self.dtype if dtype is None else result_dtype(self.x, dtype)
        return current().allocate(self.shape, wanted)

    def map_kernel(self, dtype: str | None, work: Callable[[Array, Array, int], None]) -> Any:
        """Make a result by work(x, y, start), which fills y (n, rows, length) for samples from start on."""
        out = self.result(dtype)
        direct = isinstance(out, np.ndarray) and out.dtype in (np.float32, np.float64)
        direct = direct and self.plain and not self.spans_batch and out.flags.carray  # gapless, aligned and writeable
        buffer = np.dtype(np.float32 if out.dtype == np.float32 else np.float64)

        def run(start: int, stop: int) -> None:
            x = self.block(start, stop)
            y = out[start:stop].reshape(x.shape) if direct else np.empty(x.shape, buffer)
            work(x, y, start)
            if not direct:
                self.put(out, start, stop, y)

        if self.size:
            parallel_blocks(self.samples, self.sample_bytes, run, in_place_ok=direct and self.in_place_ok)
        return out

    def map_numpy(self, dtype: str | None, compute: Callable[[Array, int], Array]) -> Any:
        """Make a result by a formula in NumPy: compute(x, start) on float64 blocks (n, rows, length)."""
        out = self.result(dtype)

        def run(start: int, stop: int) -> None:
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                self.put(out, start, stop, compute(self.block(start, stop).astype(np.float64), start))

        if self.size:
            parallel_blocks(self.samples, self.sample_bytes, run, copies=WORKING_COPIES)
        return out


def channels(name: str, x: Tensor, layout: str | None) -> View:
    """See a tensor as (N, C, S): the rows of a sample are its channels."""
    axis = channel_axis(name, x, layout)
    rank = len(x.shape)
    spatial = [a for a in range(1, rank) if a != axis]
    return View(name, x, (0, axis, *spatial), x.shape[axis])


def tokens(name: str, x: Tensor, axes: Sequence[int]) -> View:
    """See a tensor as (N, …, rest): the rows run over `axes`, in their order."""
    if not x.shape:
        raise TensorError(f"{name}: a single number has rank 0; a tensor has axes")
    kept = [a for a in range(len(x.shape)) if a not in axes]
    spans_batch = 0 not in kept
    rows = math.prod(x.shape[a] for a in (kept if spans_batch else kept[1:]))
    return View(name, x, (*kept, *axes), rows, spans_batch=spans_batch)
