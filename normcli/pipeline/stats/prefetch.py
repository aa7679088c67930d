"""Reads from servers overlap with decoding: a server takes 20-100 ms to answer, an image 2 ms to decode."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from normcli.errors import InputError
from normcli.formats import Item, Load, Refused
from normcli.storage import is_remote

T = TypeVar("T")

_READERS = 16
_AHEAD = 32  # reads under way or done and not yet counted


class Fetched(NamedTuple):
    """What a recipe gave, held until it is counted."""

    recipe: Any
    data: Any

    def __call__(self) -> Any:
        return self.data

    @property
    def held_bytes(self) -> int:
        """How much memory the recipe itself takes."""
        return int(getattr(self.data, "nbytes", 0)) or len(self.data)

    def fingerprint(self) -> str:
        """That of the recipe: what the server says of the version, not what was read."""
        return str(self.recipe.fingerprint())


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Pass items on in order, those of servers with their bytes already read; local ones untouched."""
    waiting: deque[tuple[T, Future[Load] | None]] = deque()
    pool: ThreadPoolExecutor | None = None

    def first() -> T:
        item, future = waiting.popleft()
        return item if future is None else item._replace(load=future.result())  # type: ignore[attr-defined]

    try:
        for item in items:
            future = None
            if isinstance(item, Item) and is_remote(getattr(item.load, "path", "")):
                pool = pool or ThreadPoolExecutor(_READERS, "normcli reader")
                future = pool.submit(_fetch, item.load)
            waiting.append((item, future))
            while waiting and (waiting[0][1] is None or len(waiting) > _AHEAD):
                yield first()
        while waiting:
            yield first()
    finally:
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _fetch(load: Load) -> Load:
    try:
        return Fetched(load, load())
    except InputError as error:
        return Refused(error.reason, error.message)
