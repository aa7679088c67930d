"""Reads from servers overlap with decoding: a server takes 20-100 ms to answer, an image 2 ms to decode."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from normcli.errors import InputError, NormcliError
from normcli.sources import FailingSource, Load
from normcli.storage import is_remote

_READERS = 16
_MOST_READS = 32  # under way, or done and not yet used


class Prefetched(NamedTuple):
    """A loader that has been called: its bytes are in memory until they are used."""

    loader: Any
    data: Any

    def __call__(self) -> Any:
        return self.data

    @property
    def memory_bytes(self) -> int:
        """Number of bytes that the loader holds."""
        return int(getattr(self.data, "nbytes", 0)) or len(self.data)

    def fingerprint(self) -> str:
        """Return the fingerprint of the loader: the version on the server, not a digest of the bytes."""
        return str(self.loader.fingerprint())


def prefetch(steps: Iterator[Any]) -> Iterator[Any]:
    """Yield steps in order; those whose loader is remote with their bytes already read, others unchanged.

    Args:
        steps: items, named tuples with a loader as `load`; anything else is passed on.
    """
    waiting: deque[tuple[Any, Future[Load] | None]] = deque()
    pool: ThreadPoolExecutor | None = None

    def first() -> Any:
        step, future = waiting.popleft()
        return step if future is None else step._replace(load=future.result())

    try:
        for step in steps:
            future = None
            load = getattr(step, "load", None)
            if load is not None and is_remote(getattr(load, "path", "")):
                pool = pool or ThreadPoolExecutor(_READERS, "normcli reader")
                future = pool.submit(_fetch, load)
            elif not waiting:
                yield step
                continue
            waiting.append((step, future))
            while waiting and (waiting[0][1] is None or len(waiting) > _MOST_READS):
                yield first()
        while waiting:
            yield first()
    finally:
        if pool is not None:
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
