"""Tensors of any layout as rows of one statistic each, read and computed in blocks of samples by threads.

Every view is three-dimensional, (samples, rows of a sample, length of a row), C-contiguous, float32 or float64:
channels are rows of N x C, tokens are rows of N x T. A channel-last tensor is transposed block by block on the way, so
its bits are those of its channel-first twin. The size of a block follows from the shape alone, never from the
threads or the memory, and every block is computed by one thread: so results are the same bits on any machine that
runs the same kernels.
"""

import copy
import itertools
import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from normcli import platforms
from normcli.errors import TensorError, UnsupportedTensorError, UsageError, unknown
from normcli.kernels.kernel import contiguous
from normcli.kernels.lines import LINE_BYTES
from normcli.kernels.rows import CACHE_BYTES, normalize_rows
from normcli.platforms import usable_cpus
from normcli.storage.safetensors_format import bfloat16

Array = NDArray[Any]

# 1 MB stays in the L2 cache between two readings; with 25 MB in 25 blocks, two threads end together
BLOCK_BYTES = 1 << 20

# results from this size to CACHE_BYTES bypass the cache, which their input stays in: 25 MB take 0.74 to 0.95 of the
# time. 4 MB would take 1.1 times as long, 1.2 with a reading of the result after it, and 100 MB up to 1.4 times
BYPASS_BYTES = 16 << 20
# elements that are computed before they are written, 256 of one row or 512 of each of two with weights, and a line to
# align them by; of twice and four times as many, readings and writings mix less: 3 and 10%
PIECE, PAIR = 256 + 16, 1024 + 16
# read before the first of them is written: every change from reading to writing costs 200 ns
BATCH_BYTES, BATCH_ROWS = 128 << 10, 64

# the most that one block costs while a formula in NumPy works on it, as a multiple of its bytes: the block,
# its float64 copy (twice as large) and about five temporaries of that size
WORKING_COPIES = 14


class Tensor(Protocol):
    """A tensor to read: a NumPy array, or a file whose samples are read when a slice asks for them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of the elements."""

    def __getitem__(self, samples: slice, /) -> Array:
        """Return the samples of a slice of the first axis."""


RowKernel = Callable[[Array, Array, Array, Array], None]


@dataclass(frozen=True)
class Resources:
    """Limits of a call: threads (None: one for each processor), bytes, and the function that makes room for results."""

    threads: int | None
    memory: int | None
    allocate: Callable[[tuple[int, ...], np.dtype[Any]], Any]


def allocate_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an uninitialized array at the start of a cache line: vectors stored across two lines cost 4%."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LINE_BYTES * 1024:
        return np.empty(shape, dtype)
    buffer = np.empty(size + LINE_BYTES, np.uint8)
    start = -buffer.ctypes.data % LINE_BYTES
    return buffer[start : start + size].view(dtype).reshape(shape)


_DEFAULT = Resources(None, None, allocate_aligned)
_resources: ContextVar[Resources | None] = ContextVar("resources", default=None)


def current_resources() -> Resources:
    """Return the limits of this call."""
    return _resources.get() or _DEFAULT


@contextmanager
def resources(
    *,
    threads: int | None = None,
    memory_limit: int | None = None,
    allocate: Callable[[tuple[int, ...], np.dtype[Any]], Any] = allocate_aligned,
) -> Iterator[None]:
    """Limit the resources of the normalizers called inside; results are identical for all settings.

    Args:
        threads: number of threads; by default one for each usable processor.
        memory_limit: the most bytes of tensors in memory at a time; a call that needs more raises TensorError.
        allocate: makes the array for a result from its shape and dtype, as `np.empty` does; a file that
            takes slices of samples serves for results larger than memory.

    >>> import numpy as np
    >>> from normcli.tensor.normalizers import rms_norm
    >>> with resources(threads=1):
    ...     rms_norm(np.array([[3.0, 4.0]]), eps=0.0)
    array([[0.84852814, 1.13137085]])
    """
    token = _resources.set(Resources(threads or usable_cpus(), memory_limit, allocate))
    try:
        yield
    finally:
        _resources.reset(token)


class WorkerThreads:
    """Threads that stay: starting one takes 80-270 us, waking one 15-90; a batch of 25 MB takes 2,000."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], threading.Lock]] = queue.SimpleQueue()
        self._count = 0
        self._starting = threading.Lock()

    def submit(self, count: int, function: Callable[[], None]) -> list[threading.Lock]:
        """Call a function on `count` threads; each lock returned is released when one call has ended.

        Semaphores are made and released in Python: 10 us a call.
        """
        with self._starting:
            for _ in range(self._count, count):
                self._count += 1
                threading.Thread(target=self._serve, name="normcli-worker", daemon=True).start()
        done = [threading.Lock() for _ in range(count)]
        for lock in done:
            lock.acquire()
            self._calls.put((function, lock))
        return done

    def _serve(self) -> None:
        while True:
            function, done = self._calls.get()
            function()
            done.release()
            del function, done  # or the arrays of the last call live until the next


_workers = WorkerThreads()


def _replace_workers() -> None:
    global _workers
    _workers = WorkerThreads()  # the parent's threads do not exist in the child


platforms.run_at_fork(after_in_child=_replace_workers)


def block_samples(sample_bytes: int) -> int:
    """Return the number of samples of a block."""
    return max(1, BLOCK_BYTES // max(sample_bytes, 1))


def parallel_blocks(
    samples: int,
    sample_bytes: int,
    compute: Callable[[int, int], None],
    *,
    copies: int = 4,
    step: int | None = None,
) -> None:
    """Call compute(start, stop) for blocks that cover `samples`, on as many threads as memory allows.

    Args:
        samples: number of samples.
        sample_bytes: size of one.
        compute: computes the samples from start to stop.
        copies: number of copies of a block in memory while it is computed.
        step: number of samples of a block, where results do not depend on it.

    Raises:
        TensorError: one sample does not fit into the memory allowed.
    """
    limits = current_resources()
    step = block_samples(sample_bytes) if step is None else step
    threads = 1 if step >= samples else limits.threads or usable_cpus()  # reading the quota takes 5 us
    starts = range(0, samples, step)
    threads = min(threads, len(starts))
    if limits.memory is not None and threads:
        need = min(step, samples) * sample_bytes * copies
        if need > limits.memory:
            raise TensorError(
                f"one block of samples needs {_format_size(need)} to compute, the memory limit is "
                f"{_format_size(limits.memory)}: raise `memory_limit`"
            )
        threads = max(1, min(threads, limits.memory // max(need, 1)))
    turns = itertools.count()

    def compute_blocks(failures: Sequence[BaseException]) -> None:
        while not failures and (turn := next(turns)) < len(starts):
            compute(starts[turn], min(starts[turn] + step, samples))

    _call_on_threads(threads, compute_blocks)


def share_turns(size: int, compute: Callable[[Array], None]) -> None:
    """Call compute(turns) on each thread, for a kernel that shares rows by turns, where blocks need no copy.

    After each block of its own a thread would wait for the interpreter's lock, 50-100 us where two collide.

    Args:
        size: number of bytes that are read: one thread at most for each block of them.
        compute: runs the kernel.
    """
    turns = np.zeros(2, np.int64)
    threads = 1 if size < 2 * BLOCK_BYTES else current_resources().threads or usable_cpus()
    _call_on_threads(min(threads, size // BLOCK_BYTES + 1), lambda _: compute(turns))


def _call_on_threads(threads: int, compute: Callable[[Sequence[BaseException]], None]) -> None:
    """Call compute(failures) on each thread, and raise the first of the failures."""
    failures = list[BaseException]()

    def call() -> None:
        try:
            with np.errstate(all="ignore"):  # a thread does not have the caller's
                compute(failures)
        except BaseException as error:
            failures.append(error)

    pending = _workers.submit(threads - 1, call)
    call()
    for lock in pending:
        lock.acquire()
    if failures:
        raise failures[0]


def read_all(x: Tensor, *, copies: int = WORKING_COPIES) -> Array:
    """Read all samples at once, for a formula that needs them together.

    Args:
        x: the tensor.
        copies: number of copies of it in memory while they are computed with.

    Raises:
        TensorError: they do not fit into the memory allowed.
    """
    limit = current_resources().memory
    need = int(np.prod(x.shape, dtype=object)) * x.dtype.itemsize * copies
    if limit is not None and need > limit:
        raise TensorError(
            f"all samples are needed at once, {_format_size(need)} for shape {tuple(x.shape)}, the memory limit is "
            f"{_format_size(limit)}: raise `memory_limit`"
        )
    return np.asarray(x[0 : x.shape[0]] if x.shape else x)


def _format_size(count: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


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
            raise TensorError(f"shape {tuple(x.shape)} has rank {rank}; layouts have rank 2 to 5 (reshape it)")
        raise UsageError(f"shape {tuple(x.shape)} can be {' or '.join(candidates)}: choose one with `layout`")
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if len(layout) != rank:
        raise TensorError(f"layout {layout} requires rank {len(layout)}, but the shape is {tuple(x.shape)}")
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
    raise UnsupportedTensorError(f"dtype {kind} cannot be normalized (use float16/32/64, bfloat16 or integers)")


def check_dtype(what: str, x: Tensor) -> None:
    """Check the elements of a parameter or a second tensor.

    Raises:
        UnsupportedTensorError: elements that are not real numbers.
    """
    try:
        result_dtype(x)
    except UnsupportedTensorError as error:
        raise UnsupportedTensorError(f"{what}: {error}") from None


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
        gapless = isinstance(x, np.ndarray) and x.flags.c_contiguous and x.flags.aligned
        as_stored = gapless and x.dtype == self.work_dtype
        self.in_place_ok = as_stored and self.plain and not spans_batch  # blocks are views, nothing is copied

    @property
    def size(self) -> int:
        """Return the number of elements."""
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

    def as_rows(self) -> Array:
        """Return an array that is `in_place_ok` as (rows of all samples, length)."""
        return np.asarray(self.x).reshape(-1, self.length)

    def put(self, out: Any, start: int, stop: int, y: Array) -> None:
        """Write the result of a block, in the layout and type of the output."""
        part = self.shape if self.spans_batch else (stop - start, *self.shape[1:])
        if not self.plain:
            y = y.reshape([part[a] for a in self.order]).transpose(np.argsort(self.order))
        if self.spans_batch:
            start, stop = 0, part[0]
        out[start:stop] = cast(y.reshape(part), out.dtype)

    def takes_results(self, out: Any) -> bool:
        """Return True if kernels can write into the output: float32 or float64, gapless, aligned and writeable."""
        possible = isinstance(out, np.ndarray) and out.dtype in (np.float32, np.float64) and out.flags.carray
        return bool(possible and self.plain and not self.spans_batch)

    def line_length(self, out: Array) -> int:
        """Return the number of elements of a kernel's `line`; 0 if results do not bypass the cache."""
        return PIECE if BYPASS_BYTES <= out.nbytes <= CACHE_BYTES and self.length >= PIECE else 0

    def map_kernel(self, kernel: RowKernel, *, dtype: str | None, one_row: bool = False, out: Any = None) -> Any:
        """Compute a result by kernel(x, y, turns, line), which fills y (R, length), as `affine_rows` does.

        With `one_row`, each block is a part of one row, which is row 0.
        """
        out = self.allocate(dtype) if out is None else out
        direct = self.takes_results(out)
        buffer = np.dtype(np.float32 if out.dtype == np.float32 else np.float64)
        line = self.line_length(out) if direct else 0

        def compute_block(start: int, stop: int) -> None:
            x = contiguous(self.block(start, stop)).reshape(1 if one_row else -1, -1 if one_row else self.length)
            y = out[start:stop].reshape(x.shape) if direct else np.empty(x.shape, buffer)
            kernel(x, y, np.array([0, 0 if one_row else start * self.rows], np.int64), np.empty(line, buffer))
            if not direct:
                self.put(out, start, stop, y)

        in_place = direct and self.in_place_ok
        if self.size and in_place and not one_row:
            x, y = self.as_rows(), out.reshape(-1, self.length)
            share_turns(self.samples * self.sample_bytes, lambda turns: kernel(x, y, turns, np.empty(line, buffer)))
        elif self.size:
            parallel_blocks(self.samples, self.sample_bytes, compute_block, copies=0 if in_place else 4)
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


def channels(x: Tensor, layout: str | None, what: str | None = None) -> View:
    """View a tensor as (N, C, S): the rows of a sample are its channels.

    Args:
        x: the tensor.
        layout: the order of its axes.
        what: its name in errors, where it is not the first one.

    Raises:
        TensorError: no channels.
    """
    try:
        axis = channel_axis(x, layout)
        if not x.shape[axis]:
            raise TensorError(f"C must be 1 or more, and axis {axis} of shape {tuple(x.shape)} is 0")
        spatial = [a for a in range(1, len(x.shape)) if a != axis]
        return View(x, (0, axis, *spatial), x.shape[axis])
    except (TensorError, UsageError) as error:
        if what is not None:
            error.args = (f"{what}: {error}",)
        raise


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
    if groups < 1:
        raise TensorError(f"groups must be 1 or more, got groups = {groups}")
    if channels % groups:
        raise TensorError(f"C must be a multiple of groups, got C = {channels}, groups = {groups}")


def check_parameter(what: str, value: Any, *shapes: tuple[int, ...]) -> Array | None:
    """Return a parameter as float64, or None.

    Raises:
        TensorError: it has none of the shapes that fit.
        UnsupportedTensorError: its elements are not real numbers.
    """
    if value is None:
        return None
    array = np.asarray(value)
    check_dtype(what, array)
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
    centered: bool = True,
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
        centered: subtract the mean; else the variance is the mean square.
        eps_outside: add eps to the root in place of the variance.
        head: take the statistic from so many first elements of a row.
    """
    if not view.size:
        return view.allocate(dtype)
    a = np.ones((1, 1)) if weight is None else np.ascontiguousarray(weight, np.float64)
    b = np.zeros((1, 1)) if bias is None else np.ascontiguousarray(bias, np.float64)
    period, parts = max(len(a), len(b)), max(a.shape[1], b.shape[1])
    a, b = (_expand(t, period, parts) for t in (a, b))
    if parts == view.length:
        a, b = _narrow(a, b)
    parameters = (a, b, float(eps), centered, eps_outside, view.length if head is None else head)

    def compute(x: Array, y: Array, turns: Array, line: Array) -> None:
        together = min(max(BATCH_BYTES // x[:1].nbytes, 1), BATCH_ROWS) if line.size else 1
        room = np.empty(PAIR, line.dtype) if line.size and parts == view.length else line
        normalize_rows(x, y, turns, *parameters, room, np.empty((3, together)))

    return view.map_kernel(compute, dtype=dtype)


def _expand(table: Array, period: int, parts: int) -> Array:
    """Return a table repeated to the shape (period, parts)."""
    rows, columns = table.shape
    if (rows, columns) == (period, parts):
        return table
    return np.tile(np.repeat(table, parts // columns, axis=1), (period // rows, 1))


def _narrow(*tables: Array) -> list[Array]:
    """Return the same numbers in float32 where that represents them all.

    Two rows of 1,024 in float64, one read and one written fill the L1 cache: a layer_norm takes 3.4 ms, not 2.6.
    """
    with np.errstate(over="ignore"):
        narrow = [table.astype(np.float32) for table in tables]
    exact = all((n == t).all() for n, t in zip(narrow, tables, strict=True))
    return narrow if exact else list(tables)
