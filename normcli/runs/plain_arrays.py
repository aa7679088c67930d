"""Arrays of 8 bits that need no conversion: counted without an object for each, which costs more than 32x32 pixels."""

from typing import Any

import numpy as np

from normcli.options.shared import DecodeOptions
from normcli.runs.count import PartialResult, WorkerOptions
from normcli.tally.integers import is_small

_TOGETHER = 1 << 17  # bytes
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
        by_image = (options.per_image, options.extremes, options.rows, options.file_results, options.group_by)
        no_others = options.mask is None and options.division is None and not any(by_image)
        self._is_on = is_neutral and reading["color"] != "gray" and no_others
        self._most = options.reading.max_pixels
        self._result = result
        self._images: list[bytes] = []
        self._shape: tuple[int, ...] = ()  # of them, and their channels
        self._channels = 0

    def add(self, key: str, array: "np.ndarray[Any, Any]") -> bool:
        """Count an array; return False for one that has to be decoded, which is then not counted.

        Args:
            key: of its item.
            array: exactly of NumPy's class: those of containers may have tags.
        """
        shape = array.shape
        if shape != self._shape or array.dtype.char != "B":
            if not self._accepts(array):
                return False
            self.flush()
            channels = shape[2] if len(shape) == 3 else 1
            self._shape, self._channels = shape, channels
            self._result.kinds.setdefault(channels, key)
            self._result.bands.setdefault("", key)
        self._images.append(array.tobytes())
        if len(self._images) * array.size > _TOGETHER:
            self.flush()
        return True

    def _accepts(self, array: "np.ndarray[Any, Any]") -> bool:
        if not (self._is_on and 2 <= array.ndim <= 3 and 0 < array.size <= self._most):
            return False
        return is_small(array if array.ndim == 3 else array[:, :, None])

    def flush(self) -> None:
        """Add the arrays since the last time to the tally."""
        if self._images:
            notes = "format:array", f"mode:{self._channels}xuint8", "depth:8"
            self._result.tally.count_small(self._images, self._channels, notes)
            self._images = []
