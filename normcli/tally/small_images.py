"""Small 8-bit images, counted many at once: one by one, a call costs more than the pixels do.

A 32 x 32 image takes 4 us in a block where its own histogram and sums take 11, and 27 when the caches are cold.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 96 * 96 * 3  # samples; above it one image is enough for a call
_FULL = 1 << 18  # bytes: what fits the second cache with its working copies
_MODES = {1: "L", 3: "RGB"}

Pixels = NDArray[np.uint8]
Counts = NDArray[np.int64]


class SmallImageBuffer:
    """Images of one number of channels that wait to be counted together.

    >>> buffer = SmallImageBuffer(1)
    >>> buffer.add(np.array([[[1], [2]]], np.uint8))
    >>> histogram, sums = buffer.flush()
    >>> histogram[0, :4].tolist(), [(n, s.tolist()) for n, s in sums]
    ([0, 1, 1, 0], [(2, [[[3, 5]]])])
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._images: dict[int, list[bytes]] = {}  # by number of pixels
        self._size = 0

    def __len__(self) -> int:
        return sum(map(len, self._images.values()))

    @staticmethod
    def accepts(pixels: NDArray[np.generic]) -> bool:
        """Return True if an image (H,W,C) is small enough to be buffered."""
        return pixels.size <= LARGEST and pixels.dtype.char == "B" and pixels.shape[2] in _MODES

    @property
    def is_full(self) -> bool:
        """Return True if it is time to flush the buffer."""
        return self._size >= _FULL

    def add(self, pixels: Pixels) -> None:
        """Store a copy of an image (H,W,C)."""
        data = pixels.tobytes()
        self._size += len(data)
        self._images.setdefault(len(data) // self._channels, []).append(data)

    def flush(self) -> tuple[Counts, Iterator[tuple[int, Counts]]]:
        """Count the images and empty the buffer.

        Returns:
            Their histogram (C,256); and for images of one size their number of pixels, and each one's sums of values
            and of squares (B,C,2).
        """
        images, self._images, self._size = self._images, {}, 0
        blocks = {pixels: b"".join(data) for pixels, data in images.items()}
        histogram = histogram_of(b"".join(blocks.values()), self._channels)
        return histogram, ((pixels, _sums(block, pixels, self._channels)) for pixels, block in blocks.items())


def histogram_of(samples: bytes | Pixels, channels: int) -> Counts:
    """Compute the histogram (C,256) of interleaved samples of one or three channels, by Pillow.

    >>> histogram_of(bytes([0, 255, 255]), 3)[:, 255].tolist()
    [0, 1, 1]
    """
    mode = _MODES[channels]
    image = Image.frombuffer(mode, (len(samples) // channels, 1), samples, "raw", mode, 0, 1)
    return np.array(image.histogram(), np.int64).reshape(channels, 256)


def _sums(block: bytes, pixels: int, channels: int) -> Counts:
    """Compute sums of values and of squares (B,C,2); the squares of `LARGEST` samples stay below 2^32."""
    planes = np.frombuffer(block, np.uint8).reshape(-1, pixels, channels).transpose(0, 2, 1)
    values = np.ascontiguousarray(planes).astype(np.uint32)
    squares = np.einsum("bcp,bcp->bc", values, values)
    return np.stack([values.sum(axis=2, dtype=np.uint32), squares], axis=2).astype(np.int64)
