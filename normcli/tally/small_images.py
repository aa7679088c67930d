"""Small 8-bit images, counted many at once: one by one, a call costs more than the pixels do.

A 32 x 32 image takes 2 us in a block where its own histogram and sums take 11, and 27 when the caches are cold.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from normcli.kernels.kernel import as_pairs
from normcli.tally.integers import histogram_of, tables

_FULL = 1 << 18  # bytes: what fits the second cache with its working copies
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Counts = np.ndarray[Any, np.dtype[np.int64]]


class SmallImageBuffer:
    """Images of one number of channels that wait to be counted together.

    >>> buffer = SmallImageBuffer(1)
    >>> buffer.add([bytes([1, 2])])
    False
    >>> histogram, sums = buffer.flush()
    >>> histogram[0, :4].tolist(), [(weights.tolist(), s.tolist()) for weights, s in sums]
    ([0, 1, 1, 0], [([[2]], [[[3, 5]]])])
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._images: defaultdict[int, list[bytes]] = defaultdict(list)  # by their size
        self._size = 0

    def __len__(self) -> int:
        return sum(map(len, self._images.values()))

    def add(self, images: list[bytes]) -> bool:
        """Store images of one size by their samples, channels interleaved; return True if it is time to flush them."""
        size = len(images[0])
        self._size += size * len(images)
        self._images[size] += images
        return self._size >= _FULL

    def take_back(self, images: list[bytes]) -> None:
        """Remove the images that were added last."""
        size = len(images[0])
        self._size -= size * len(images)
        del self._images[size][-len(images) :]

    def flush(self) -> tuple[Counts, list[tuple[Counts, Counts]]]:
        """Count the images and empty the buffer; where that raises an error, they stay in it.

        Returns:
            Their histogram (C,256); and for images of one size each one's pixels (B,1), and sums of values and of
            squares (B,C,2).
        """
        blocks = [
            np.frombuffer(b"".join(data), np.uint8).reshape(-1, size // self._channels, self._channels)
            for size, data in self._images.items()
        ]
        histogram: Counts = np.zeros((self._channels, 256), np.int64)
        for block in blocks:
            _add_histogram(block, histogram)
        rows = [(np.full((len(block), 1), block.shape[1]), _sums(block)) for block in blocks]
        self._images, self._size = defaultdict(list), 0
        return histogram, rows


def _add_histogram(block: Pixels, histogram: Counts) -> None:
    """Add images (B,P,C) to a histogram (C,256)."""
    from normcli.kernels import histograms as loops

    flat, channels = block.reshape(-1), block.shape[2]

    def fallback() -> None:
        histogram[:] += histogram_of(flat, channels)

    sums = np.empty((channels, 2), np.int64)
    loops.count_bytes.call_or(fallback, lambda: (flat, as_pairs(flat), histogram, sums, *tables()))


def _sums(block: Pixels) -> Counts:
    """Compute sums of values and of squares (B,C,2) of images (B,P,C)."""
    from normcli.kernels import histograms as loops

    sums: Counts = np.empty((len(block), block.shape[2], 2), np.int64)

    def fallback() -> None:
        values = np.ascontiguousarray(block.transpose(0, 2, 1)).astype(np.uint32)
        sums[:, :, 0] = values.sum(axis=2, dtype=np.uint32)
        sums[:, :, 1] = np.einsum("bcp,bcp->bc", values, values)  # those of a small image stay below 2^32

    loops.sum_images.call_or(fallback, lambda: (block, sums))
    return sums
