"""JPEG 2000: up to four bands of 8 bits, and gray of 16 bits, by Pillow; all others by imagecodecs.

Pillow shifts 9 to 15 bits to 16 (or 9 to 8), adds half the range to signed samples, drops equal palette entries, and
opens no more than four bands.
"""

import struct
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.images.convert import Decoded, check_size, from_levels
from normcli.images.tiff import split_alpha
from normcli.options.shared import DecodeOptions

_CODESTREAM = b"\xff\x4f\xff\x51"
_LARGEST_HEADER = 1 << 20  # the boxes before the codestream: profiles, metadata
_COLOR_SPACES = {12: "CMYK", 14: "CIELAB", 18: "YCbCr", 24: "e-sYCC"}
_GRAY, _SRGB = 17, 16
_MOST_BITS = 31  # of a sample, which OpenJPEG reads


class _Header(NamedTuple):
    """The size segment of the codestream, and the boxes around it that change the meaning of samples."""

    width: int
    height: int
    bits: tuple[int, ...]  # of each component; negative where signed
    subsampled: bool
    palette: bool
    alpha: bool
    color_space: int | None


def is_jpeg2000(data: bytes) -> bool:
    """Return True if a file opens as a codestream or a JP2 file."""
    return data[:4] == _CODESTREAM or data[4:8] == b"jP  "


def needs_imagecodecs(data: bytes) -> bool:
    """Return True if Pillow would not return the samples as they are stored."""
    header = _header(data)
    if header is None or (header.bits == (16,) and not header.palette):
        return False
    return header.palette or len(header.bits) > 4 or any(bits != 8 for bits in header.bits)


def _header(data: bytes) -> _Header | None:
    at = data.find(_CODESTREAM, 0, _LARGEST_HEADER)
    if at < 0 or len(data) < at + 44:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    (count,) = struct.unpack_from(">H", data, at + 40)
    components = data[at + 42 : at + 42 + 3 * count]
    if not count or len(components) < 3 * count:
        return None
    bits = tuple(-((b & 0x7F) + 1) if b & 0x80 else b + 1 for b in components[::3])
    subsampled = any(step != 1 for i, step in enumerate(components) if i % 3)
    boxes = data[:at]
    colr, cdef = boxes.find(b"colr"), boxes.find(b"cdef")
    color_space = None
    if colr > 0 and boxes[colr + 4 : colr + 5] == b"\1" and len(boxes) >= colr + 11:
        (color_space,) = struct.unpack_from(">I", boxes, colr + 7)
    return _Header(
        width=right - left,
        height=bottom - top,
        bits=bits,
        subsampled=subsampled,
        palette=b"pclr" in boxes,
        alpha=count in (2, 4) and (cdef < 0 or _last_is_alpha(boxes, cdef, count)),
        color_space=color_space,
    )


def _last_is_alpha(boxes: bytes, cdef: int, count: int) -> bool:
    """Return True if the channel definitions make the last of `count` channels an opacity of the image."""
    (entries,) = struct.unpack_from(">H", boxes, cdef + 4) if len(boxes) >= cdef + 6 else (0,)
    for i in range(min(entries, count)):
        if len(boxes) >= cdef + 12 + 6 * i:
            channel, kind, _ = struct.unpack_from(">HHH", boxes, cdef + 6 + 6 * i)
            if channel == count - 1:
                return bool(kind == 1)
    return False


def decode(data: bytes, reading: DecodeOptions) -> Decoded:
    """Decode with imagecodecs.

    Raises:
        ImportError: the extra is not installed.
        InputError: too large, or of a kind that is not read.
        Exception: damaged.
    """
    import imagecodecs

    header = _header(data)
    if header is None:
        raise InputError("damaged", "no JPEG 2000 codestream")
    check_size(header.width, header.height, reading)
    if len(header.bits) * header.width * header.height > 4 * reading.max_pixels:
        raise InputError("bomb", f"{len(header.bits)} components, of more samples than four times --max-pixels")
    if header.color_space in _COLOR_SPACES:
        raise InputError("unsupported", f"JPEG 2000 of {_COLOR_SPACES[header.color_space]} at this depth")
    if abs(header.bits[0]) > _MOST_BITS:
        raise InputError("unsupported", f"JPEG 2000 of {abs(header.bits[0])} bits, more than OpenJPEG reads")
    if len(set(header.bits)) > 1 or header.subsampled:
        what = "subsampled components" if header.subsampled else f"components of {header.bits} bits"
        raise InputError("unsupported", f"JPEG 2000 of {what}".replace("-", "signed "))
    array = imagecodecs.jpeg2k_decode(data)
    bits = header.bits[0]
    if header.palette:
        if array.ndim != 3 or array.dtype != np.uint8:
            raise InputError("unsupported", "JPEG 2000 of a palette that is not expanded to 8-bit color")
        bits = 8
    if array.ndim == 2:
        array = array[:, :, None]
    return _decoded(array, bits, header)


def _decoded(array: np.ndarray[Any, Any], bits: int, header: _Header) -> Decoded:
    samples, full_scale = array.shape[2], None
    alpha = header.alpha and samples in (2, 4)
    colors = samples - alpha
    mode = {1: "L", 3: "RGB"}.get(colors, f"bands{colors}") + ("A" if alpha else "")
    if colors == 3 and header.color_space == _GRAY:
        mode = "bands3"
    if 0 < bits <= 16:
        if array.dtype.kind != "u":
            raise InputError(
                "unsupported",
                f"JPEG 2000 of {bits} bits, which OpenJPEG decodes as {array.dtype}, not as unsigned integers",
            )
        array, full_scale = from_levels(array, (1 << bits) - 1)
    if array.dtype.itemsize > 1:
        mode += ";16" if bits > 0 else f";{array.dtype}"
    decoded = split_alpha(array, mode, "JPEG2000", alpha, [])
    decoded.full_scale, decoded.depth = full_scale, abs(bits)
    return decoded
