"""Blocks of samples computed in parallel, within limits on threads and memory.

The size of a block follows from the shape alone, never from the threads or the memory, and every block is
computed by one thread: so results are the same bits on any machine that runs the same kernels.
"""

import itertools
import math
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from normcli import platforms
from normcli.cpus import usable_cpus
from normcli.errors import TensorError

Array = NDArray[Any]

# 1 MB stays in the L2 cache between two readings; with 25 MB in 25 blocks, two threads end together
BLOCK_BYTES = 1 << 20

_LINE_BYTES = 64  # of a cache line

# the most that one block costs while a formula in NumPy works on it, as a multiple of its bytes: the block,
# its float64 copy (twice as large) and about five temporaries of that size
WORKING_COPIES = 14


class Tensor(Protocol):
    """A tensor to read: a NumPy array, or a file whose samples are read when a slice asks for them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""

    def __getitem__(self, samples: slice, /) -> Array:
        """Return the samples of a slice of the first axis."""


@dataclass(frozen=True)
class Resources:
    """Limits of a call: threads (None: one for each processor), bytes, and the function that makes room for results."""

    threads: int | None
    memory: int | None
    allocate: Callable[[tuple[int, ...], np.dtype[Any]], Any]


def allocate_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an uninitialized array at the start of a cache line: vectors stored across two lines cost 4%."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _LINE_BYTES * 1024:
        return np.empty(shape, dtype)
    buffer = np.empty(size + _LINE_BYTES, np.uint8)
    start = -buffer.ctypes.data % _LINE_BYTES
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
    memory: int | None = None,
    allocate: Callable[[tuple[int, ...], np.dtype[Any]], Any] = allocate_aligned,
) -> Iterator[None]:
    """Bound what the normalizers called inside may use; results are identical for all settings.

    Args:
        threads: number of threads; by default one for each usable processor.
        memory: the most bytes of tensors in memory at a time; a call that needs more raises TensorError.
        allocate: makes the array for a result from its shape and dtype, as `np.empty` does; a file that
            takes slices of samples serves for results larger than memory.

    >>> import numpy as np
    >>> from normcli.tensor.normalizers import rms_norm
    >>> with resources(threads=1):
    ...     rms_norm(np.array([[3.0, 4.0]]), eps=0.0)
    array([[0.84852814, 1.13137085]])
    """
    token = _resources.set(Resources(threads or usable_cpus(), memory, allocate))
    try:
        yield
    finally:
        _resources.reset(token)


class WorkerThreads:
    """Threads that stay: starting one takes 80-270 us, waking one 15-90; a batch of 25 MB takes 2,000."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], threading.Semaphore]] = queue.SimpleQueue()
        self._count = 0
        self._starting = threading.Lock()

    def submit(self, count: int, function: Callable[[], None]) -> list[threading.Semaphore]:
        """Call a function on `count` threads; each semaphore returned is released when one call has ended."""
        with self._starting:
            for _ in range(self._count, count):
                self._count += 1
                threading.Thread(target=self._serve, name="normcli-worker", daemon=True).start()
        done = [threading.Semaphore(0) for _ in range(count)]
        for semaphore in done:
            self._calls.put((function, semaphore))
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
    in_place_ok: bool = False,
) -> None:
    """Call compute(start, stop) for blocks that cover `samples`, on as many threads as memory allows.

    Args:
        samples: number of samples.
        sample_bytes: size of one.
        compute: computes the samples from start to stop.
        copies: number of copies of a block in memory while it is computed.
        in_place_ok: blocks need no copy, and results do not depend on the block size.

    Raises:
        TensorError: one sample does not fit into the memory allowed.
    """
    limits = current_resources()
    step = block_samples(sample_bytes)
    threads = 1 if step >= samples else limits.threads or usable_cpus()  # reading the quota takes 5 us
    if in_place_ok:  # few blocks: after each, threads meet at the interpreter's lock, 50-100 us when they collide
        step, copies = max(step, -(-samples // (4 * threads))), 0
    starts = range(0, samples, step)
    threads = min(threads, len(starts))
    if limits.memory is not None and threads:
        need = min(step, samples) * sample_bytes * copies
        if need > limits.memory:
            raise TensorError(
                f"one block of samples needs {_format_size(need)} to compute, the memory limit is "
                f"{_format_size(limits.memory)}: raise --memory-limit"
            )
        threads = max(1, min(threads, limits.memory // max(need, 1)))
    turns, failures = itertools.count(), list[BaseException]()

    def compute_blocks() -> None:
        try:
            while not failures and (turn := next(turns)) < len(starts):
                with np.errstate(all="ignore"):  # a thread does not have the caller's
                    compute(starts[turn], min(starts[turn] + step, samples))
        except BaseException as error:
            failures.append(error)

    pending = _workers.submit(threads - 1, compute_blocks)
    compute_blocks()
    for semaphore in pending:
        semaphore.acquire()
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
            f"{_format_size(limit)}: raise --memory-limit"
        )
    return np.asarray(x[0 : x.shape[0]] if x.shape else x)


def _format_size(count: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
