"""Names of a list or a table that come again: their images count again, which is reported."""

import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from typing import TypeVar

from normcli.storage.files import FileBytes

T = TypeVar("T")

log = logging.getLogger("normcli.sources")
_MASK = (1 << 64) - 1


class Repeats:
    """The names of a run's lists, by their hashes: 8 bytes each."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._is_over = False

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Yield paths, or items of which those that are files count; remember their names in the first pass."""
        for item in items:
            path = item if isinstance(item, str) else getattr(item, "key", "")
            is_file = isinstance(item, str) or isinstance(getattr(item, "load", None), FileBytes)
            if is_file and not self._is_over:
                self._hashes.append(hash(os.path.normpath(path)) & _MASK)
            yield item

    def report(self) -> None:
        """Log how many names came before, once."""
        if self._is_over:
            return
        import numpy as np

        self._is_over = True
        hashes = np.sort(np.frombuffer(self._hashes, np.uint64))
        again = np.count_nonzero(hashes[1:] == hashes[:-1])  # np.unique imports numpy.ma, 10 ms
        if again == 1:
            log.warning("1 of %d lines names a file that was named before: its images count again", len(hashes))
        elif again:
            log.warning(
                "%d of %d lines name files that were named before: their images count again", again, len(hashes)
            )
