"""Walking a tensor in blocks of samples, on threads, within a memory limit.

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

_LINES = 64  # bytes of a cache line

# what one block costs at most while a formula in NumPy works on it, as a multiple of its bytes: the block,
# its float64 copy (twice as large) and about five temporaries of that size
WORKING_COPIES = 14


class Tensor(Protocol):
    """What is read: a NumPy array, or a file whose samples are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""

    def __getitem__(self, samples: slice, /) -> Array:
        """Give the samples of a slice of the first axis."""


@dataclass(frozen=True)
class Resources:
    """What a call may use: threads, bytes, and the place where results are put."""

    threads: int
    memory: int | None
    allocate: Callable[[tuple[int, ...], np.dtype[Any]], Any]


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """As `np.empty`, at the start of a cache line: vectors that are stored across two lines cost 4%."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _LINES * 1024:
        return np.empty(shape, dtype)
    held = np.empty(size + _LINES, np.uint8)
    start = -held.ctypes.data % _LINES
    return held[start : start + size].view(dtype).reshape(shape)


_resources: ContextVar[Resources | None] = ContextVar("resources", default=None)


def current() -> Resources:
    """Give the resources of this call."""
    return _resources.get() or Resources(usable_cpus(), None, aligned)


@contextmanager
def resources(
    *,
    threads: int | None = None,
    memory: int | None = None,
    allocate: Callable[[tuple[int, ...], np.dtype[Any]], Any] = aligned,
) -> Iterator[None]:
    """Bound what the normalizers called inside may use; no setting changes a bit of any result.

    Args:
        threads: how many threads compute; by default one for each processor.
        memory: the most bytes to hold at a time; a call that cannot do with them is refused.
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
        self._asked: queue.SimpleQueue[tuple[Callable[[], None], threading.Semaphore]] = queue.SimpleQueue()
        self._count = 0
        self._hiring = threading.Lock()

    def ask(self, count: int, run: Callable[[], None]) -> list[threading.Semaphore]:
        """Have `count` helpers call run; each semaphore given is released when one has."""
        with self._hiring:
            for _ in range(self._count, count):
                self._count += 1
                threading.Thread(target=self._serve, name="normcli-helper", daemon=True).start()
        asked = [threading.Semaphore(0) for _ in range(count)]
        for done in asked:
            self._asked.put((run, done))
        return asked

    def _serve(self) -> None:
        while True:
            run, done = self._asked.get()
            run()
            done.release()
            del run, done  # or the arrays of the last call live until the next


_helpers = WorkerThreads()


def _after_fork() -> None:
    global _helpers
    _helpers = WorkerThreads()  # the parent's threads do not exist in the child


platforms.run_at_fork(after_in_child=_after_fork)


def parallel_blocks(
    samples: int, sample_bytes: int, work: Callable[[int, int], None], *, copies: int = 4, in_place_ok: bool = False
) -> None:
    """Call work(start, stop) for blocks that cover `samples`, on as many threads as memory allows.

    Args:
        samples: how many there are.
        sample_bytes: how large one is.
        work: computes the samples from start to stop.
        copies: how many times a block is in memory while it is worked on.
        in_place_ok: a kernel works on rows alone, in place: the cut cannot change a bit and costs no memory.

    Raises:
        TensorError: one sample does not fit into the memory allowed.
    """
    limits = current()
    step = max(1, BLOCK_BYTES // max(sample_bytes, 1))
    if in_place_ok:  # few blocks: after each, threads meet at the interpreter's lock, 50-100 us when they collide
        step, copies = max(step, -(-samples // (4 * limits.threads))), 0
    starts = range(0, samples, step)
    threads = min(limits.threads, len(starts))
    if limits.memory is not None and threads:
        need = min(step, samples) * sample_bytes * copies
        if need > limits.memory:
            raise TensorError(
                f"one block of samples needs {_size(need)} at work, the memory limit is "
                f"{_size(limits.memory)}: raise --memory-limit"
            )
        threads = max(1, min(threads, limits.memory // max(need, 1)))
    turns, failures = itertools.count(), list[BaseException]()

    def run() -> None:
        try:
            while not failures and (turn := next(turns)) < len(starts):
                work(starts[turn], min(starts[turn] + step, samples))
        except BaseException as error:
            failures.append(error)

    waiting = _helpers.ask(threads - 1, run)
    run()
    for helper in waiting:
        helper.acquire()
    if failures:
        raise failures[0]


def read_all(x: Tensor, name: str) -> Array:
    """Read all samples at once, for a formula that needs them together.

    Raises:
        TensorError: they do not fit into the memory allowed.
    """
    limit = current().memory
    need = int(np.prod(x.shape, dtype=object)) * x.dtype.itemsize * WORKING_COPIES
    if limit is not None and need > limit:
        raise TensorError(
            f"{name} works on the whole tensor at once and needs {_size(need)} for shape {tuple(x.shape)}, "
            f"the memory limit is {_size(limit)}: raise --memory-limit"
        )
    return np.asarray(x[0 : x.shape[0]] if x.shape else x)


def _size(count: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
