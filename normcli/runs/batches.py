"""Items in batches that take about as long as each other, whatever the images' size."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from normcli.sources import Item
from normcli.storage.byte_sources import FileBytes

T = TypeVar("T")
R = TypeVar("R")

_FIRST_SIZE = 2
_LARGEST_HELD = 16 << 20  # bytes that came by in a stream: three batches a worker are under way


@dataclass(frozen=True)
class Replay(Generic[R]):
    """A batch whose result is known from an earlier run; it never enters the engine.

    Attributes:
        load: returns the result.
    """

    load: Callable[[], R]


class Items(list[T]):
    """A batch. Whole files, the usual case, go to a process by column: 0.4 us each instead of 1.5."""

    def __reduce__(self) -> tuple[Any, ...]:
        files = [item for item in self if isinstance(item, Item) and type(item.load) is FileBytes]
        if not self or len(files) < len(self):
            return Items, (list(self),)
        keys, loads, labels = zip(*files, strict=True)
        return _of_files, (keys, labels, *zip(*loads, strict=True))


def _of_files(keys: Sequence[str], labels: Sequence[str | None], *columns: Sequence[Any]) -> Items[Item]:
    return Items(map(Item, keys, map(FileBytes, *columns), labels))


def memory_of(batch: list[Any]) -> int:
    """Return the number of bytes that the loaders of a batch hold."""
    return sum(map(_memory_of_item, batch))


def _memory_of_item(item: Any) -> int:
    return getattr(getattr(item, "load", None), "memory_bytes", 0)


@dataclass(frozen=True, kw_only=True)
class Batching:
    """Limits of the size of batches.

    Attributes:
        seconds: time that a batch should take.
        most_items: upper bound of its size.
        most_result_bytes: upper bound of what the result of a batch holds; None where results are small.
        ends: numbers of items after which a batch ends, whatever its size.
        group_of: called with every item, once and in order; a batch holds items of one group only.
        complete_groups: a group is one batch, whatever its size; items of the group None are in batches as usual.
    """

    seconds: float
    most_items: int
    most_result_bytes: int | None = None
    ends: Callable[[], Iterator[int]] = lambda: iter(())
    group_of: Callable[[Any], object] = lambda _: None
    complete_groups: bool = False


class Batcher(Generic[T, R]):
    """An iterator of batches and replays; `learn` adapts the size of the next batches.

    Args:
        steps: items, and replays in their places among them.
        batching: limits of the batches.
    """

    def __init__(self, steps: Iterable[T | Replay[R]], batching: Batching) -> None:
        self._steps = iter(steps)
        self._batching = batching
        self._ends = batching.ends()
        self._end = next(self._ends, None)
        self._count = 0
        self._size = _FIRST_SIZE
        self._next: tuple[T, object] | Replay[R] | None = None

    def __iter__(self) -> Iterator[Items[T] | Replay[R]]:
        return self

    def __next__(self) -> Items[T] | Replay[R]:
        batch: Items[T] = Items()
        held, group_of_batch = 0, None
        while (step := self._take()) is not None:
            if isinstance(step, Replay):
                if not batch:
                    return step
                self._next = step
                break
            item, group = step
            if batch and group != group_of_batch:
                self._next = step
                break
            batch.append(item)
            self._count += 1
            held, group_of_batch = held + _memory_of_item(item), group
            if self._count == self._end:
                self._end = next(self._ends, None)
                break
            if self._is_full(batch, held, group):
                break
        if not batch:
            raise StopIteration
        return batch

    def _take(self) -> tuple[T, object] | Replay[R] | None:
        if self._next is not None:
            step, self._next = self._next, None
            return step
        item = next(self._steps, None)
        if item is None or isinstance(item, Replay):
            return item
        return item, self._batching.group_of(item)

    def _is_full(self, batch: Items[T], held: int, group: object) -> bool:
        if group is not None and self._batching.complete_groups:
            return False
        return len(batch) >= self._size or held >= _LARGEST_HELD

    def learn(self, inputs: int, seconds: float, result_bytes: int = 0) -> None:
        """Adapt the size of the next batches to the time that one took.

        Args:
            inputs: its number of items.
            seconds: time it took.
            result_bytes: bytes that its result holds.
        """
        most = self._batching.most_result_bytes
        if seconds > 0 and inputs:
            fitting = int(inputs * self._batching.seconds / seconds)
            self._size = max(1, min(fitting, 2 * self._size, self._batching.most_items))
        if most is not None and result_bytes:
            self._size = max(1, min(self._size, most * inputs // result_bytes))
