"""Files on servers, read ahead: a server takes 20-100 ms to answer, an image 2 ms to decode."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from normcli.errors import InputError, NormcliError
from normcli.runs.loop import Prefetched
from normcli.sources import FailingSource, Load
from normcli.storage import is_remote

_READERS = 16
_MOST_READS = 32  # in flight, or done and not yet used
_MOST_BYTES = 64 << 20  # of them


def read_ahead(steps: Iterator[Any]) -> Iterator[Any]:
    """Yield steps in order; files on servers are read ahead, other steps stay as they are.

    Bytes that wait, with those expected of the reads in flight, are at most 64 MiB, or one file; until the first
    one has arrived, four or five files.

    Args:
        steps: items, named tuples with a loader as `load`; anything else is passed on.
    """
    waiting: deque[tuple[Any, Future[Load] | None]] = deque()
    pool = ThreadPoolExecutor(_READERS, "normcli reader")
    expected: float | None = None  # bytes of the next files: as the largest of late. Four are read at first

    def first() -> Any:
        nonlocal expected
        step, future = waiting.popleft()
        if future is None:
            return step
        load = future.result()
        size = getattr(load, "memory_bytes", 0)
        expected = max(size, 0.75 * (expected or 0))
        return step._replace(load=load)

    def is_full() -> bool:
        reads = [future for _, future in waiting if future is not None]
        guess = _MOST_BYTES / 4 if expected is None else expected
        sizes = (getattr(read.result(), "memory_bytes", 0) if read.done() else guess for read in reads)
        return len(waiting) > _MOST_READS or sum(sizes) > _MOST_BYTES

    try:
        for step in steps:
            future = None
            load: Any = getattr(step, "load", None)
            if "://" in getattr(load, "path", "") and is_remote(load.path):
                future = pool.submit(_fetch, load)
            elif not waiting:
                yield step
                step = load = None  # or its bytes stay until the next one is there
                continue
            waiting.append((step, future))
            while waiting and (waiting[0][1] is None or is_full()):
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch(load: Load) -> Load:
    try:
        return Prefetched(load, load())
    except InputError as error:
        return FailingSource(error.reason, error.message)
    except NormcliError as error:  # a library that its scheme needs
        return FailingSource("unsupported", str(error))
    except Exception as error:  # of a library, for an address that it does not expect
        return FailingSource("unexpected", f"{type(error).__name__}: {error}")
