"""The sizes of all images of a listing, from their headers: a sample has to know how many pixels it did not read.

A header takes 30-60 us, a photograph 1.5-6 ms. Only numbers by class of size are kept.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from normcli.errors import NormcliError, UsageError
from normcli.images.header import header_size
from normcli.options.shared import DecodeOptions
from normcli.sources import Item, Vectors
from normcli.storage import is_remote
from normcli.storage.files import ByteRange, FileBytes, read_start

_HEAD = 1 << 16  # bytes in which nearly every header ends
_READERS = 16  # of servers
_AHEAD = 64


class SizeClass(NamedTuple):
    """The images whose number of pixels has the same power of two."""

    images: int
    pixels: int
    largest: int


class SizeClasses:
    """Numbers of images by class of size.

    Attributes:
        classes: by number.
        unknown: number of images whose header states no size.
    """

    def __init__(self) -> None:
        self.classes: dict[int, SizeClass] = {}
        self.unknown = 0

    def add(self, pixels: int | None) -> None:
        """Add one image; None for an unknown size."""
        if not pixels:
            self.unknown += 1
            return
        number = class_of(pixels)
        images, total, largest = self.classes.get(number, (0, 0, 0))
        self.classes[number] = SizeClass(images + 1, total + pixels, max(largest, pixels))


def class_of(pixels: int) -> int:
    """Return the class of a number of pixels.

    >>> class_of(1), class_of(1023), class_of(1024)
    (0, 9, 10)
    """
    return max(pixels, 1).bit_length() - 1


def measure(items: Iterator[Item], sizes: SizeClasses, reading: DecodeOptions) -> Iterator[Item]:
    """Yield items, and take in their sizes; those on servers are asked for several at a time."""
    waiting: deque[Future[int | None]] = deque()
    with ThreadPoolExecutor(_READERS, "normcli header") as pool:
        for item in items:
            if is_remote(getattr(item.load, "path", "")):
                waiting.append(pool.submit(_pixels, item, reading))
                if len(waiting) >= _AHEAD:
                    sizes.add(waiting.popleft().result())
            else:
                sizes.add(_pixels(item, reading))
            yield item
        for future in waiting:
            sizes.add(future.result())


def _pixels(item: Item, reading: DecodeOptions) -> int | None:
    """Return the number of pixels of an image after resizing and cropping; None if it cannot be told."""
    try:
        size = _size(item.load)
    except (NormcliError, OSError, MemoryError):
        return None
    if size is None:
        return None
    width, height = size
    if not reading.has_geometry or not min(size):
        return width * height
    from normcli.images import geometry

    try:
        width, height = geometry.place(width, height, reading).size
    except NormcliError:  # smaller than the crop: it will fail
        return None
    return width * height


def _size(load: Any) -> tuple[int, int] | None:
    if isinstance(load, FileBytes | ByteRange):
        size = header_size(read_start(load, _HEAD))
        if size is not None:
            return size
    data = load()
    if isinstance(data, bytes):
        return header_size(data)
    if isinstance(data, Vectors):
        raise UsageError("`sample` cannot be combined with vectors: it is for images")
    shape = data.shape
    return (shape[1], shape[0]) if len(shape) >= 2 else None
