"""Small arrays that need no conversion: counted without an object for each, which costs more than 32x32 pixels."""

from typing import Any

import numpy as np

from normcli.options.shared import DecodeOptions
from normcli.runs.count import PartialResult, WorkerOptions, count_batch
from normcli.sources import Item, Skipped
from normcli.sources.samples import ArrayInMemory
from normcli.tally.integers import MOST_SMALL, is_small

_TOGETHER = {"B": 1 << 17, "f": 1 << 20, "d": 1 << 20}  # bytes by dtype.char
_FEWEST = 8  # images of floats
_NEUTRAL = ("color", "strict", "max_pixels")  # options that do not change an array of one or three channels


class PlainArrays:
    """Small arrays of a batch as `images.decode` would return them, with the counts that it leads to.

    Args:
        options: of the worker.
        result: to add to.
    """

    def __init__(self, options: WorkerOptions, result: PartialResult) -> None:
        reading = options.reading.as_dict()
        default = DecodeOptions().as_dict()
        is_neutral = all(value == default[name] for name, value in reading.items() if name not in _NEUTRAL)
        self._is_on = options.gather and is_neutral and reading["color"] == "auto" and options.adds_only
        self._options, self._result = options, result
        self._images: list[bytes] = []
        self._keys: list[str] = []
        self._shape: tuple[int, ...] = ()  # of them, and their dtype
        self._dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._left: list[Item | Skipped] = []

    def add(self, key: str, array: "np.ndarray[Any, Any]") -> bool:
        """Count an array, now or later; return False for one that has to be decoded, which is then not counted.

        Args:
            key: of its item.
            array: exactly of NumPy's class: those of containers may have tags.
        """
        if array.shape != self._shape or array.dtype is not self._dtype:
            if not self._accepts(array):
                return False
            self._flush()
            self._shape, self._dtype = array.shape, array.dtype
        self._images.append(array.tobytes())
        self._keys.append(key)
        if len(self._images) * array.nbytes > _TOGETHER[array.dtype.char]:
            self._flush()
        return True

    def _accepts(self, array: "np.ndarray[Any, Any]") -> bool:
        if not (self._is_on and 2 <= array.ndim <= 3 and 0 < array.size <= self._options.reading.max_pixels):
            return False
        if array.dtype.kind == "f" and array.dtype.char in _TOGETHER:
            return array.dtype.isnative and array.size <= MOST_SMALL and (array.ndim == 2 or array.shape[2] <= 4)
        return is_small(array if array.ndim == 3 else array[:, :, None])

    def _flush(self) -> None:
        images, keys, self._images, self._keys = self._images, self._keys, [], []
        if not images:
            return
        height, width, channels = (*self._shape, 1)[:3]
        dtype, left = self._dtype, list(range(len(images)))
        if dtype.kind == "u" or len(images) >= _FEWEST:
            notes = "format:array", f"mode:{channels}x{dtype.name}", f"depth:{8 * dtype.itemsize}"
            left = self._result.tally.count_small(images, (height * width, channels), dtype, notes)
        if len(left) < len(images):
            first = next(i for i in range(len(left) + 1) if left[i : i + 1] != [i])
            self._result.kinds.setdefault(channels, keys[first])
            self._result.bands.setdefault("", keys[first])
        self._left += [Item(keys[i], ArrayInMemory(np.frombuffer(images[i], dtype).reshape(self._shape))) for i in left]

    def finish(self, batch: list[Item | Skipped]) -> None:
        """Count the arrays that wait, one by one if they must be; failures keep the order of the batch."""
        self._flush()
        if not self._left:
            return
        part = count_batch(self._options._replace(gather=False), self._left)
        part.inputs = part.bytes = 0  # the batch has them
        self._result.add(part)
        position = {item.key: i for i, item in enumerate(batch)}
        if part.failures and all(failure.key in position for failure in self._result.failures):
            self._result.failures.sort(key=lambda failure: position[failure.key])
