"""Items that Ctrl-C ends while the run continues: earlier items count, and one more item fails."""

import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from normcli.sources.item import Item, Items, Skipped, failed_item


class StoppableItems(Iterator[Item | Skipped]):
    """An iterator that the first Ctrl-C ends; use as a context manager. A second one raises KeyboardInterrupt.

    The signal interrupts the reading of the next item, which may never end, but not the counting of others.

    Args:
        items: whose iteration may be endless.
    """

    def __init__(self, items: Items) -> None:
        self._items = items
        self._count = 0
        self._is_waiting = self._is_stopped = self._is_finished = False
        self._handler: Any = None

    def __enter__(self) -> "StoppableItems":
        if threading.current_thread() is threading.main_thread():  # no other thread receives signals
            self._handler = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        is_second, self._is_stopped = self._is_stopped, True
        if is_second or self._is_waiting:
            raise KeyboardInterrupt

    def __next__(self) -> Item | Skipped:
        if self._is_finished:
            raise StopIteration
        item = None if self._is_stopped else self._take()
        if item is None:
            self._is_finished = True
            return failed_item(str(self._count), "interrupted", "stopped by Ctrl-C: what came after it is not counted")
        self._count += 1
        return item

    def _take(self) -> Item | Skipped | None:
        """Return the next item; None if Ctrl-C stopped the wait for it."""
        try:
            self._is_waiting = True
            try:
                return next(self._items)
            finally:
                self._is_waiting = False
        except KeyboardInterrupt:
            self._is_waiting, self._is_stopped = False, True
            return None
