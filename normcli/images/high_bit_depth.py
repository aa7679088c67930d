"""Images that Pillow would silently damage: 16-bit color PNG, 12-bit and lossless JPEG, and TIFF and JPEG 2000.

Read exactly by tifffile and imagecodecs (the `[tiff]` extra); without them such a file fails, and is never
read wrongly.
"""

import struct
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.images import jpeg, png, tiff
from normcli.images.convert import Decoded, check_size, from_levels
from normcli.options.shared import DecodeOptions

# imagecodecs 2026.3.6 drops a reference to None with each PNG that it cannot decode: after some ten thousand of
# them Python ends with "none_dealloc". This list restores them.
_owed: list[None] = []
_KINDS = {
    "PNG": "PNG of 16-bit color",
    "JPEG": "a JPEG of this precision",
    "JPEG 2000": "JPEG 2000 of other than 8 bits",
    "TIFF": "this TIFF (16-bit color, multi-band, signed, 32-bit or float, or an unusual number of bits)",
}


def needed(data: bytes) -> str | None:
    """Return "PNG", "JPEG", "TIFF" or "JPEG 2000" when only this module reads the image exactly, else None."""
    if data[:8] == png.SIGNATURE:
        deep = len(data) > 25 and data[24] == 16 and data[25] in (2, 4, 6)  # RGB, LA, RGBA
        return "PNG" if deep else None
    if data[:3] == jpeg.SIGNATURE:
        markers = jpeg.header(data)
        return "JPEG" if markers is not None and (markers.precision != 8 or markers.lossless) else None
    if tiff.is_tiff(data):
        return "TIFF" if tiff.needs_tifffile(data) else None
    from normcli.images import jpeg2000  # behind the usual formats, which do without it

    if jpeg2000.is_jpeg2000(data):
        return "JPEG 2000" if jpeg2000.needs_imagecodecs(data) else None
    return None


def decode(data: bytes, need: str, reading: DecodeOptions) -> Decoded:
    """Decode such an image exactly.

    Args:
        data: the file.
        need: from `needed`.
        reading: limits.

    Raises:
        MissingExtraError: the extra is not installed.
        InputError: the image is too large or damaged, or of a kind that is not read.
        Exception: damaged.
    """
    from normcli.images import jpeg2000

    decode_one = {"PNG": _png, "JPEG": _jpeg, "JPEG 2000": jpeg2000.decode, "TIFF": tiff.decode}[need]
    tiff.libraries(_KINDS[need])
    return decode_one(data, reading)


def _png(data: bytes, reading: DecodeOptions) -> Decoded:
    import imagecodecs

    width, height = struct.unpack(">II", data[16:24])
    check_size(width, height, reading)
    try:
        array = imagecodecs.png_decode(data)  # libspng, which decodes plain PNGs, has no 16-bit RGB
    except (ImportError, MemoryError):
        raise
    except Exception:  # its text is read from memory that libpng has freed, and differs from run to run
        _owed.append(None)
        raise InputError("damaged", "cannot be decoded: libpng reports an error") from None
    samples = array.shape[2]
    mode = {2: "LA", 3: "RGB", 4: "RGBA"}[samples] + ";16"
    decoded = tiff.split_alpha(array, mode, "PNG", samples in (2, 4), [])
    exif = _png_chunk(data, b"eXIf")
    if exif is not None:
        decoded.notes.append("exif")
        decoded.orientation = jpeg.parse_orientation(exif)
        if decoded.orientation != 1:
            decoded.notes.append("rotated")
    return decoded


def _png_chunk(data: bytes, kind: bytes) -> bytes | None:
    """Return the first chunk of a kind."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == kind:
            return data[at + 8 : at + 8 + length]
        at += 12 + length
    return None


_SEGMENTS = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # tables, comments, application data


def _check_markers(data: bytes) -> None:
    """Check that a JPEG is one frame, its tables and its scans up to the end marker.

    imagecodecs does not pass on libjpeg's warning of an early end, and 2026.3.6 ends the process where a file of this
    precision has a second frame header.

    Raises:
        InputError: other markers, or cut short.
    """
    at, frames = 2, 0
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or not (marker in _SEGMENTS or 0xC0 <= marker <= 0xC3 or marker in (0xDA, 0xFF)):
            raise InputError("damaged", f"cannot be decoded: a marker FF{marker:02X} where a segment begins")
        if marker == 0xFF:
            at += 1
            continue
        frames += 0xC0 <= marker <= 0xC3
        if frames > 1 or (marker == 0xDA and not frames):
            raise InputError("damaged", f"cannot be decoded: {frames} frame headers")
        at += 2 + max(2, data[at + 2] << 8 | data[at + 3])
        if marker != 0xDA:
            continue
        while (at := data.find(b"\xff", at)) >= 0 and (data[at + 1 : at + 2] == b"\0" or _is_restart(data, at)):
            at += 2
        if at < 0 or at + 2 > len(data):
            break
        if data[at + 1] == 0xD9:
            return
    raise InputError("truncated", "cannot be decoded: the image data ends without an end marker")


def _is_restart(data: bytes, at: int) -> bool:
    return 0xD0 <= data[at + 1] <= 0xD7 if at + 1 < len(data) else False


def _jpeg(data: bytes, reading: DecodeOptions) -> Decoded:
    import imagecodecs

    markers = jpeg.header(data)
    assert markers is not None
    check_size(markers.width, markers.height, reading)
    if markers.components not in (1, 3):
        raise InputError(
            "unsupported", f"a JPEG of {markers.precision} bits and {markers.components} components, which is not read"
        )
    if markers.precision not in (
        range(2, 17) if markers.lossless else (8, 12)
    ):  # for some imagecodecs returns anything
        raise InputError("damaged", f"cannot be decoded: a JPEG of {markers.precision} bits")
    _check_markers(data)
    array: np.ndarray[Any, Any] = imagecodecs.jpeg_decode(data)
    if array.shape[:2] != (markers.height, markers.width):
        raise InputError("damaged", "cannot be decoded: its size is not that of its frame header")
    if array.ndim == 2:
        array = array[:, :, None]
    pixels, full_scale = from_levels(array, (1 << markers.precision) - 1)
    mode = ("L" if markers.components == 1 else "RGB") + (";16" if pixels.dtype.itemsize > 1 else "")
    notes: list[str] = [note for note in ("exif", "icc", "rotated") if note in markers.notes]
    return Decoded(
        pixels,
        "JPEG",
        mode,
        markers.precision,
        notes=notes,
        orientation=markers.orientation,
        full_scale=full_scale,
    )
