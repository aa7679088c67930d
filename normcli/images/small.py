"""Small plain JPEG and PNG in few steps: of a 32x32 image `decode` takes 3 us of Python and checks, this 1.

The rows of PNG are unfiltered many images at once, by a kernel. To decode 32x32 RGB then takes 13 us, or 18 with zlib
where libdeflate is absent; libspng takes 24, and Pillow 50.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from normcli.images import jpeg, png
from normcli.images.convert import NEUTRAL
from normcli.kernels.png_rows import unfilter
from normcli.options.shared import DecodeOptions


class Kind(NamedTuple):
    """Properties of small images that are counted together.

    Attributes:
        shape: height, width and channels.
        format: "JPEG" or "PNG".
        notes: as those of `Decoded`.
        is_filtered: they come as the rows of PNG, which `samples` makes pixels of.
    """

    shape: tuple[int, int, int]
    format: str
    notes: tuple[str, ...]
    is_filtered: bool = False


def takes(reading: DecodeOptions, most: int) -> bool:
    """Return True if options change no plain image of at most so many samples, and reject none for its size."""
    return reading.changed <= NEUTRAL and reading.max_pixels >= most


_SAVED = 3e-9  # seconds that the kernel saves for a sample, against libspng
# a sample that Pillow decodes counts as so many: it costs 7 times as much, and only 1 image of 30 counts
_BY_PILLOW = 200
_by_codec = 0  # samples of PNG decoded without the kernel; a count that threads lose only delays it


def can_unfilter() -> bool:
    """Return True once the kernel of rows is loaded: in a run in which that pays."""
    empty = np.empty((0, 1, 1), np.uint8)
    return unfilter.is_worth_loading(_by_codec * _SAVED) and unfilter.try_call(empty, empty, 1)


def decode(data: bytes, most: int, *, unfilters: bool) -> tuple[Kind, bytes] | None:
    """Decode a plain gray or RGB image of 8 bits.

    Args:
        data: an encoded image.
        most: largest number of samples.
        unfilters: the result of `can_unfilter`: True where PNG is decoded to its rows.

    Returns:
        Its kind and samples, channels interleaved, or rows; None for images that `images.decode` should see.

    Raises:
        Exception: damaged; `images.decode` should see it too.
    """
    if data[:3] == jpeg.SIGNATURE:
        return _decode_jpeg(data, most)
    if data[:8] == png.SIGNATURE:
        return _decode_png(data, most, unfilters)
    return None


def _decode_jpeg(data: bytes, most: int) -> tuple[Kind, bytes] | None:
    markers = jpeg.header(data)
    kind = None if markers is None else _kind_of(markers)
    if kind is None:
        return None
    height, width, channels = kind.shape
    if height * width * channels > most:
        return None
    return kind, jpeg.decode_strictly(data, kind.shape).tobytes()


@lru_cache(maxsize=256)
def _kind_of(markers: jpeg.Header) -> Kind | None:
    if not jpeg.is_plain(markers):
        return None
    return Kind((markers.height, markers.width, markers.components), "JPEG", markers.notes)


_FILTERS = bytes(range(5))


def _decode_png(data: bytes, most: int, unfilters: bool) -> tuple[Kind, bytes] | None:
    global _by_codec
    if unfilters and (usual := _decode_usual_png(data, most)) is not None:
        return usual
    layout = png.plain(data)
    if layout is None:
        return None
    height, width, channels = layout.shape
    size = height * width * channels
    if channels == 4 or size > most:
        return None
    if not unfilters or layout.rows is None:
        pixels = png.samples(data, size)
        _by_codec += size if pixels is not None else _BY_PILLOW * size
        return None if pixels is None else (_kind_of_png(layout.shape, layout.notes), pixels.tobytes())
    rows = png.inflate(data[layout.rows], height + size)
    if rows is None or rows[:: 1 + width * channels].translate(None, _FILTERS):
        return None
    return _kind_of_png(layout.shape, layout.notes, is_filtered=True), rows


def _decode_usual_png(data: bytes, most: int) -> tuple[Kind, bytes] | None:
    """Decode a plain PNG of three chunks to its rows, in a third of the steps; None for others and any damage."""
    opening = _opened_png(data[: png.HEADER_BYTES], most)
    if opening is None or not png.is_one_chunk(data):
        return None
    kind, size, stride = opening
    rows = png.inflate(data[png.HEADER_BYTES + 8 : -16], size)
    return None if rows is None or rows[::stride].translate(None, _FILTERS) else (kind, rows)


@lru_cache(maxsize=256)
def _opened_png(opening: bytes, most: int) -> tuple[Kind, int, int] | None:
    """Return kind, bytes of all rows and of one, from the signature and header of a plain PNG of at most 3 channels."""
    shape = png.opened(opening)
    if shape is None or shape[2] == 4 or shape[0] * shape[1] * shape[2] > most:
        return None
    height, width, channels = shape
    stride = 1 + width * channels
    return _kind_of_png(shape, (), is_filtered=True), height * stride, stride


@lru_cache(maxsize=256)
def _kind_of_png(shape: tuple[int, int, int], notes: tuple[str, ...], *, is_filtered: bool = False) -> Kind:
    return Kind(shape, "PNG", notes, is_filtered)


def samples(kind: Kind, images: list[bytes]) -> list[Any]:
    """Return the samples of each image of one kind, from the results of `decode`.

    Where they were filtered, the kernel of `can_unfilter` has to be there.
    """
    if not kind.is_filtered:
        return images
    height, width, channels = kind.shape
    rows = np.frombuffer(b"".join(images), np.uint8).reshape(len(images), height, -1)
    pixels = np.empty((len(images), height, width * channels), np.uint8)
    unfilter(rows, pixels, channels)
    return list(pixels.reshape(len(images), -1))
