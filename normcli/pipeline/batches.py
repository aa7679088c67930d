"""Items in batches that take about as long as each other, whatever the images' size."""

from collections.abc import Iterator

from normcli.formats import Item, Skip

_SECONDS = 0.05  # long enough that handing a batch over costs nothing, short enough to stop soon
_LARGEST = 512
_LARGEST_HELD = 16 << 20  # bytes that came by in a stream: three batches a worker are under way


class Batches:
    """An iterator of lists of items; `learn` tells it how long a batch took."""

    def __init__(self, items: Iterator[Item | Skip]) -> None:
        self._items = items
        self._size = 4

    def __iter__(self) -> Iterator[list[Item | Skip]]:
        return self

    def __next__(self) -> list[Item | Skip]:
        batch: list[Item | Skip] = []
        held = 0
        for item in self._items:
            batch.append(item)
            if isinstance(item, Item):
                held += getattr(item.load, "held_bytes", 0)
            if len(batch) >= self._size or held >= _LARGEST_HELD:
                break
        if not batch:
            raise StopIteration
        return batch

    def learn(self, inputs: int, seconds: float) -> None:
        """Fit the size of the next batches to what one took."""
        if seconds > 0:
            self._size = max(1, min(int(inputs * _SECONDS / seconds), 2 * self._size, _LARGEST))
