"""JPEG: the header's markers, and simplejpeg into a buffer that each thread keeps.

Reusing the buffer saves a quarter of the time of decoding a photograph (1.38 against 1.80 ms): a fresh
600 kB array has to be faulted in page by page.
"""

import struct
import threading
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from normcli.images.convert import Decoded, check_size
from normcli.options.shared import DecodeOptions

try:
    import simplejpeg
except ImportError:  # no wheel for this machine: Pillow returns the same bits
    simplejpeg = None

SIGNATURE = b"\xff\xd8\xff"
_SHORT = 1024  # bytes up to the first scan of a JPEG without EXIF or profile
_LARGEST_KEPT = 16 << 20  # per thread; faulting in a larger one is 2% of its decoding
_thread = threading.local()


class Header(NamedTuple):
    """The contents of the markers before the first scan."""

    width: int
    height: int
    components: int
    precision: int
    orientation: int
    notes: tuple[str, ...]  # "exif", "rotated", "icc", and of an MPO "multi-frame": further pictures follow
    lossless: bool


def version() -> str:
    """Return the version of simplejpeg, or "absent"."""
    return "absent" if simplejpeg is None else str(simplejpeg.__version__)


def header(data: bytes) -> Header | None:
    """Parse the markers up to the frame header; None if that is not possible.

    Markers after the frame header are not looked at: APPn segments precede it in practice.
    """
    scan = data.find(b"\xff\xda", 2, _SHORT)
    known = _short_header(data[:scan]) if scan > 0 else None
    return _parse(data) if known is None else known


@lru_cache(maxsize=256)
def _short_header(start: bytes) -> Header | None:
    """Parse the markers before a scan: images of one encoder and one size open with the same bytes."""
    return _parse(start)


_SEGMENT, _FRAME = struct.Struct(">BBH"), struct.Struct(">BHHB")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NOT_BEFORE_FRAME = frozenset((0x01, *range(0xD0, 0xDB)))  # markers without a length, and the start of a scan


def _parse(data: bytes) -> Header | None:
    at, end = 2, len(data)
    exif = icc = pictures = False
    orientation = 1
    while at + 9 < end:
        fill, marker, length = _SEGMENT.unpack_from(data, at)
        if fill != 0xFF or marker in _NOT_BEFORE_FRAME:
            return None
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if length < 2:
            return None
        if marker in _FRAMES:
            precision, height, width, components = _FRAME.unpack_from(data, at + 4)
            notes = {"exif": exif, "rotated": orientation != 1, "icc": icc, "multi-frame": pictures}
            noted = tuple(note for note, is_true in notes.items() if is_true)
            return Header(width, height, components, precision, orientation, noted, lossless=marker == 0xC3)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            exif = True
            orientation = parse_orientation(data[at + 10 : at + 2 + length])
        elif marker == 0xE2:
            icc |= data[at + 4 : at + 16] == b"ICC_PROFILE\0"
            pictures |= data[at + 4 : at + 8] == b"MPF\0"
        at += 2 + length
    return None


def parse_orientation(tiff: bytes) -> int:
    """Return tag 274 of the first directory of an EXIF block; 1 if it is absent or damaged."""
    order: Any = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None or len(tiff) < 14:
        return 1
    start = int.from_bytes(tiff[4:8], order)
    entries = int.from_bytes(tiff[start : start + 2], order)
    for entry in range(start + 2, min(start + 2 + 12 * entries, len(tiff) - 11), 12):
        if int.from_bytes(tiff[entry : entry + 2], order) == 274:
            value = int.from_bytes(tiff[entry + 8 : entry + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1


def decode(data: bytes, reading: DecodeOptions) -> Decoded | None:
    """Decode a gray or three-component 8-bit JPEG strictly, or leniently where that fails.

    Returns:
        None for files that Pillow should open: CMYK, 12-bit, no readable header, no simplejpeg here.

    Raises:
        InputError: too large.
        Exception: damage that Pillow does not decode either.
    """
    markers = header(data)
    if markers is None:
        return None
    width, height, components, _, orientation, notes, _ = markers
    if not is_plain(markers):
        return None
    check_size(width, height, reading)
    try:
        pixels = decode_strictly(data, (height, width, components))
    except ValueError:  # libjpeg warned: Pillow rejects a file that ends early and decodes other damage
        from normcli.images import pillow  # 9 ms, which intact photographs do without

        decoded = pillow.decode(data, reading)
        decoded.notes.append("damaged")
        return decoded
    image = Decoded(
        pixels, "JPEG", "L" if components == 1 else "RGB", 8, is_owned=True, notes=[*notes], orientation=orientation
    )
    image.is_plain = True
    return image


def is_plain(markers: Header) -> bool:
    """Return True for a gray or three-component 8-bit JPEG, where simplejpeg is installed."""
    return simplejpeg is not None and markers.components in (1, 3) and markers.precision == 8


def decode_strictly(data: bytes, shape: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """Decode a plain JPEG of that shape into this thread's buffer.

    Raises:
        ValueError: libjpeg warned or failed.
    """
    height, width, channels = shape
    pixels: np.ndarray[Any, Any] = simplejpeg.decode_jpeg(
        data, "GRAY" if channels == 1 else "RGB", buffer=_buffer(height * width * channels)
    )
    return pixels


def _buffer(size: int) -> np.ndarray[Any, Any]:
    if size > _LARGEST_KEPT:
        return np.empty(size, np.uint8)
    buffer: np.ndarray[Any, Any] | None = getattr(_thread, "buffer", None)
    if buffer is None or buffer.size < size:
        buffer = _thread.buffer = np.empty(max(size, 1 << 20), np.uint8)
    return buffer
