"""Regions and images of arrays in chunks, for containers whose chunks are decoded one by one."""

import threading
from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Numbers = tuple[int, ...]

LARGEST_BLOCK = 32 << 20  # bytes of chunks that stay decoded for the next image


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


class ChunkBlocks(NamedTuple):
    """The blocks that the images of an array are decoded in: neighbors in the same chunks, within a bound.

    Attributes:
        shape: of the array.
        chunks: their lengths.
        itemsize: bytes of a sample.
    """

    shape: Numbers
    chunks: Numbers
    itemsize: int

    def of(self, place: tuple[Any, ...]) -> tuple[Numbers, Numbers]:
        """Return the block of an image: its first place on each axis, and the place after its last one.

        Args:
            place: a number for each axis that numbers images, a slice for the others.

        >>> ChunkBlocks((10, 4, 6), (4, 2, 3), 1).of((5, slice(None), slice(None)))
        ((4, 0, 0), (8, 4, 6))
        """
        lengths = [1 if isinstance(at, int) else n for at, n in zip(place, self.shape, strict=True)]
        room = LARGEST_BLOCK // (prod(lengths) * self.itemsize)
        for i in range(len(place) - 1, -1, -1):  # the last axis is the first to be read on
            if isinstance(place[i], int) and room > 1:
                lengths[i] = min(self.chunks[i], room)
                room //= lengths[i]
        start, stop = list[int](), list[int]()
        for at, n, chunk, length in zip(place, lengths, self.chunks, self.shape, strict=True):
            corner = at // chunk * chunk if isinstance(at, int) else 0
            start.append(corner + (at - corner) // n * n if isinstance(at, int) else 0)
            stop.append(min(start[-1] + n, corner + chunk if isinstance(at, int) else length, length))
        return tuple(start), tuple(stop)


class _Block(threading.local):
    """The block that this thread read last, decoded, until all its images were returned."""

    def __init__(self) -> None:
        self.key: Any = None
        self.values: Any = None


_last = _Block()


def image(key: Any, place: tuple[Any, ...], blocks: ChunkBlocks, read: Callable[[Numbers, Numbers], Any]) -> Any:
    """Return one image; the others of its block are decoded with it, and kept for the next calls.

    Args:
        key: of the array in its present state.
        place: as `ChunkBlocks.of` takes it.
        blocks: of the array.
        read: returns a region.
    """
    start, stop = blocks.of(place)
    if _last.key != (key, start):
        _last.key = _last.values = None  # before the next one takes its memory
        _last.values = read(start, stop)
        _last.key = key, start
    values = _last.values
    if all(at == end - 1 for at, end in zip(place, stop, strict=True) if isinstance(at, int)):
        _last.key = _last.values = None  # its last image: the thread may never read another one
    return values[tuple(at - first if isinstance(at, int) else at for at, first in zip(place, start, strict=True))]
