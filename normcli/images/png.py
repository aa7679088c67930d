"""PNG: plain 8-bit gray, RGB and RGBA by libspng (imagecodecs) where it is installed and pays; Pillow for all others.

A photograph takes libspng 3.5 ms and Pillow 5.7, an MNIST digit 8 us and 29: Pillow walks the chunks
in Python. Both return the same bits or both reject a file, so only files of which that is certain are taken: every
chunk complete and of a kind that does not change the pixels, every checksum right up to the end marker. Of 50,000
images of 32 x 32, 24% with an ICC profile, this took 2.9 s of two processors where it took 3.6 with those by Pillow.
"""

import logging
import struct
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from normcli import platforms
from normcli.images.convert import Decoded, check_size
from normcli.options.shared import DecodeOptions

log = logging.getLogger("normcli.images")

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# signature and name of IHDR; width, height, depth, color, three methods; checksum
_OPENING = struct.Struct(">16sIIBBBBBI")
HEADER_BYTES = _OPENING.size  # signature and IHDR; the other chunks follow
_END = b"\0\0\0\0IEND\xaeB`\x82"
_CHUNK, _CHECKSUM = struct.Struct(">I4s"), struct.Struct(">I")
_CHANNELS = {0: 1, 2: 3, 6: 4}  # by color type; libspng has no gray with alpha
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels
# chunks that change neither pixels nor notes, with the lengths at which decoders agree on them
_HARMLESS = {
    b"gAMA": (4,),
    b"cHRM": (32,),
    b"sRGB": (1,),
    b"pHYs": (9,),
    b"tIME": (7,),
    b"bKGD": (2, 6),
    b"sBIT": (1, 3, 4),
}
_WORDS = (b"Software\0", b"date:create\0", b"date:modify\0", b"date:timestamp\0", b"Creation Time\0", b"Comment\0")
_LARGEST_PROFILE = 1 << 20  # bytes; Pillow rejects more
_SHORT = 1024  # bytes; libdeflate takes 9.2 us for the rows of a 32x32 RGB image and zlib 14.3, for a digit 3.7 and 3.2
_PAYS = 2 << 20  # decoded bytes from which the import (20 ms) pays; a small image counts as 10 kB

_decode: Callable[[bytes], Any] | None = None
_inflate: Callable[..., Any] | None = None
_tried = False
_waiting = 0
_lock = threading.Lock()


def decode(data: bytes, reading: DecodeOptions) -> Decoded | None:
    """Decode a plain 8-bit gray, RGB or RGBA PNG.

    Returns:
        None for files that Pillow should open: other kinds, damage of any sort, too little work to load a decoder for.

    Raises:
        InputError: too large.
    """
    if _tried and _decode is None:
        return None
    layout = plain(data)
    if layout is None:
        return None
    height, width, channels = layout.shape
    check_size(width, height, reading)
    pixels = samples(data, height * width * channels)
    if pixels is None:
        return None
    pixels, mode = pixels.reshape(layout.shape), _MODES[channels]
    if channels == 4:
        return Decoded(pixels, "PNG", mode, 8, notes=[*layout.notes], has_alpha=True, is_owned=True)
    image = Decoded(pixels, "PNG", mode, 8, notes=[*layout.notes], is_owned=True)
    image.is_plain = True
    return image


def samples(data: bytes, size: int) -> np.ndarray[Any, Any] | None:
    """Return the samples, by their number, of a PNG of which `plain` has the layout; None if Pillow should try."""
    codec = _decode or _load(size)
    if codec is None:
        return None
    try:
        pixels: np.ndarray[Any, Any] = codec(data)
    except Exception:  # Pillow names what is wrong, or decodes it nevertheless
        return None
    return pixels if pixels.dtype == np.uint8 and pixels.size == size else None


Shape = tuple[int, int, int]  # height, width, channels


class Layout(NamedTuple):
    """Contents of a plain PNG.

    Attributes:
        shape: height, width and channels.
        notes: "icc" for a profile.
        rows: place of the compressed rows, where they are one chunk; else None.
    """

    shape: Shape
    notes: tuple[str, ...]
    rows: slice | None


def plain(data: bytes) -> Layout | None:
    """Return the layout of a PNG that every decoder reads alike; None for all others."""
    shape = opened(data[:HEADER_BYTES])
    if shape is None:
        return None
    notes: tuple[str, ...] = ()
    view = memoryview(data)
    at, end, place = HEADER_BYTES, len(data), 0  # place: 0 before the image data, 1 in it, 2 behind
    while at + 12 <= end:
        length, kind = _CHUNK.unpack_from(data, at)
        stop = at + 8 + length  # of the chunk before its checksum
        if stop + 4 > end or zlib.crc32(view[at + 4 : stop]) != _CHECKSUM.unpack_from(data, stop)[0]:
            return None
        if kind == b"IDAT":
            if place == 2:
                return None
            if end - stop == 16 and data.endswith(_END):  # most files end so
                return Layout(shape, notes, None if place else slice(at + 8, stop))
            place = 1
        elif kind == b"IEND":
            return Layout(shape, notes, None) if place and not length else None
        elif kind == b"iCCP":
            if place or notes or not _is_profile(data[at + 8 : stop]):
                return None
            notes = ("icc",)
        else:
            place = 2 if place else 0
            is_harmless = data.startswith(_WORDS, at + 8) if kind == b"tEXt" else length in _HARMLESS.get(kind, ())
            if not is_harmless:
                return None
        at = stop + 4
    return None


def is_one_chunk(data: bytes) -> bool:
    """Return True if nothing but one intact chunk of image data and the end marker follow the header of a PNG."""
    if len(data) < HEADER_BYTES + 24 or not data.endswith(_END):
        return False
    length, kind = _CHUNK.unpack_from(data, HEADER_BYTES)
    checksum = _CHECKSUM.unpack_from(data, len(data) - 16)[0]
    return (
        kind == b"IDAT"
        and length == len(data) - HEADER_BYTES - 24
        and bool(zlib.crc32(data[HEADER_BYTES + 4 : -16]) == checksum)
    )


@lru_cache(maxsize=16)  # images of one camera or program have the same profile, of 3 kB
def _is_profile(chunk: bytes) -> bool:
    """Return True for an ICC profile that every decoder reads: a name, method 0, and an intact zlib stream."""
    name, _, packed = chunk.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(packed[1:], _LARGEST_PROFILE)
    except zlib.error:
        return False
    return 0 < len(name) < 80 and packed[:1] == b"\0" and bool(profile) and inflate.eof


def inflate(packed: bytes, size: int) -> bytes | None:
    """Return the content of a complete zlib stream that has exactly so many bytes; None for all others."""
    try:
        if _inflate is not None and size > _SHORT:
            data: bytes = _inflate(packed, out=size)
            return data if len(data) == size else None
        stream = zlib.decompressobj()
        data = stream.decompress(packed, size + 1)
    except Exception:
        return None
    return data if len(data) == size and stream.eof else None


def completed(data: bytes) -> bytes | None:
    """Return a plain PNG whose zlib stream is damaged behind its rows with a right end; None for all others.

    libspng decodes it. So does Pillow, unless the last intact bytes of the stream are more than one row.
    """
    layout = plain(data)
    if layout is None:
        return None
    height, width, channels = layout.shape
    size = height * (1 + width * channels)
    at, first, rows, stream = HEADER_BYTES, 0, b"", zlib.decompressobj()
    try:
        while at + 12 <= len(data) and len(rows) < size:
            length, kind = _CHUNK.unpack_from(data, at)
            if kind == b"IDAT":  # one after the other, as libspng: it does not read what follows the rows
                first, rows = first or at, rows + stream.decompress(data[at + 8 : at + 8 + length], size - len(rows))
            at += 12 + length
    except zlib.error:
        return None
    if len(rows) != size:
        return None
    content = b"IDAT" + zlib.compress(rows, 1)
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return data[:first] + chunk + _END


def is_intact(data: bytes) -> bool:
    """Return True if every chunk up to the end marker is complete and has the right checksum: 1-3 GB/s.

    Pillow decodes image data with a wrong checksum, and a file that ends inside a chunk, without a word.
    """
    at, end = len(SIGNATURE), len(data)
    view = memoryview(data)
    while at + 12 <= end:
        length, kind = _CHUNK.unpack_from(data, at)
        after = at + 12 + length
        if after > end or zlib.crc32(view[at + 4 : after - 4]) != _CHECKSUM.unpack_from(data, after - 4)[0]:
            return False
        if kind == b"IEND":
            return True
        at = after
    return False


@lru_cache(maxsize=256)  # images of one size open with the same bytes
def opened(opening: bytes) -> Shape | None:
    """Return height, width and channels from a valid header of a plain kind, else None."""
    if len(opening) < HEADER_BYTES:
        return None
    start, width, height, depth, color, *rest, checksum = _OPENING.unpack(opening)
    channels = _CHANNELS.get(color)
    if start != SIGNATURE + b"\0\0\0\rIHDR" or depth != 8 or any(rest) or not (channels and width and height):
        return None
    return (height, width, channels) if zlib.crc32(opening[12:29]) == checksum else None


def _load(size: int) -> Callable[[bytes], Any] | None:
    """Import imagecodecs once the number of images is worth the import."""
    global _decode, _inflate, _tried, _waiting
    with _lock:
        _waiting += max(size, 10_000)
        if _tried or _waiting < _PAYS:
            return _decode
        try:
            import imagecodecs

            _decode, _inflate = imagecodecs.spng_decode, imagecodecs.deflate_decode
        except Exception as error:
            log.debug("PNG by Pillow: %s", error)
        _tried = True
        return _decode


def _before_fork() -> None:
    """Import imagecodecs once here, not once in every worker that is started."""
    if _waiting and not _tried:
        _load(_PAYS)


platforms.run_at_fork(before=_before_fork)
