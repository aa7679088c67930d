"""Regions and images of arrays in chunks, for containers whose chunks are decoded one by one."""

import threading
from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Numbers = tuple[int, ...]

LARGEST_BLOCK = 48 << 20  # bytes of chunks that stay decoded for the next image


def region(
    start: Numbers, stop: Numbers, chunks: Numbers, dtype: "np.dtype[Any]", load: Callable[[Numbers], Any]
) -> Array:
    """Return a region of an array.

    Args:
        start: its first place on each axis.
        stop: the place after its last one.
        chunks: their lengths.
        dtype: of the result.
        load: returns the samples of a chunk by its number on each axis, or the one value of all of them.
    """
    out = np.empty([b - a for a, b in zip(start, stop, strict=True)], dtype)
    numbers = (range(a // n, -(-b // n)) for a, b, n in zip(start, stop, chunks, strict=True))
    for chunk in product(*numbers):
        firsts = [i * n for i, n in zip(chunk, chunks, strict=True)]
        within = list(zip(start, stop, firsts, chunks, strict=True))
        into = tuple(slice(max(first - a, 0), min(first + n, b) - a) for a, b, first, n in within)
        values = load(chunk)
        if isinstance(values, np.ndarray) and values.ndim:
            values = values[tuple(slice(max(a - first, 0), min(b - first, n)) for a, b, first, n in within)]
        out[into] = values
    return out


class _Block(threading.local):
    """Images in the same chunks as the one that this thread read last, decoded."""

    def __init__(self) -> None:
        self.key: Any = None
        self.start: Numbers = ()
        self.values: Any = None


_last = _Block()


def image(
    key: Any,
    place: tuple[Any, ...],
    shape: Numbers,
    chunks: Numbers,
    itemsize: int,
    read: Callable[[Numbers, Numbers], Any],
) -> Any:
    """Return one image; its neighbors in the same chunks are decoded with it, within a bound.

    Args:
        key: of the array in its present state.
        place: a number for each axis that numbers images, a slice for the others.
        shape: of the array.
        chunks: their lengths.
        itemsize: bytes of a sample.
        read: returns a region.
    """
    lengths = [1 if isinstance(at, int) else n for at, n in zip(place, shape, strict=True)]
    room = LARGEST_BLOCK // (prod(lengths) * itemsize)
    for i in range(len(place) - 1, -1, -1):  # the last axis is the first to be read on
        if isinstance(place[i], int) and room > 1:
            lengths[i] = min(chunks[i], room)
            room //= lengths[i]
    start, stop = list[int](), list[int]()
    for at, n, chunk, length in zip(place, lengths, chunks, shape, strict=True):
        corner = at // chunk * chunk if isinstance(at, int) else 0
        start.append(corner + (at - corner) // n * n if isinstance(at, int) else 0)
        stop.append(min(start[-1] + n, corner + chunk if isinstance(at, int) else length, length))
    if (_last.key, _last.start) != (key, tuple(start)):
        _last.key = _last.values = None  # before the next one takes its memory
        _last.values = read(tuple(start), tuple(stop))
        _last.key, _last.start = key, tuple(start)
    return _last.values[
        tuple(at - first if isinstance(at, int) else at for at, first in zip(place, start, strict=True))
    ]
