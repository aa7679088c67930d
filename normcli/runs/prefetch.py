"""Reads from servers overlap with decoding: a server takes 20-100 ms to answer, an image 2 ms to decode."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from normcli.errors import InputError
from normcli.sources import FailingSource, Item, Load
from normcli.storage import is_remote

T = TypeVar("T")

_READERS = 16
_AHEAD = 32  # reads under way or done and not yet used


class Prefetched(NamedTuple):
    """What a recipe gave, held until it is used."""

    recipe: Any
    data: Any

    def __call__(self) -> Any:
        return self.data

    @property
    def memory_bytes(self) -> int:
        """How much memory the recipe itself takes."""
        return int(getattr(self.data, "nbytes", 0)) or len(self.data)

    def fingerprint(self) -> str:
        """That of the recipe: what the server says of the version, not what was read."""
        return str(self.recipe.fingerprint())


def _load_of(thing: Any) -> Load | None:
    return thing.load if isinstance(thing, Item) else None


def _with_load(thing: Any, load: Load) -> Any:
    return thing._replace(load=load)


def prefetch(
    things: Iterator[T],
    load_of: Callable[[T], Load | None] = _load_of,
    with_load: Callable[[T, Load], T] = _with_load,
) -> Iterator[T]:
    """Pass things on in order, those of servers with their bytes already read; local ones untouched.

    Args:
        things: items, or what holds them.
        load_of: the recipe that would have to be run; None where there is none.
        with_load: the same thing with another recipe.
    """
    waiting: deque[tuple[T, Future[Load] | None]] = deque()
    pool: ThreadPoolExecutor | None = None

    def first() -> T:
        thing, future = waiting.popleft()
        return thing if future is None else with_load(thing, future.result())

    try:
        for thing in things:
            future = None
            load = load_of(thing)
            if load is not None and is_remote(getattr(load, "path", "")):
                pool = pool or ThreadPoolExecutor(_READERS, "normcli reader")
                future = pool.submit(_fetch, load)
            elif not waiting:
                yield thing
                continue
            waiting.append((thing, future))
            while waiting and (waiting[0][1] is None or len(waiting) > _AHEAD):
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
