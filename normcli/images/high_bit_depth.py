"""Images that Pillow would silently damage: 16-bit color, multi-band, 32-bit and float color.

Read exactly by tifffile and imagecodecs (the `[tiff]` extra); without them such a file fails, and is never
read wrongly.
"""

import io
import logging
import struct
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.images.convert import Decoded, check_size, to_supported_dtype
from normcli.options.images import DecodeOptions

_TAGS = {256: "width", 257: "height", 258: "bits", 262: "photometric", 277: "samples", 339: "format"}


# imagecodecs 2026.3.6 drops a reference to None with each PNG that it cannot decode: after some ten thousand of
# them Python ends with "none_dealloc". This list gives them back.
_owed: list[None] = []


def needed(data: bytes) -> str | None:
    """Return "PNG", "TIFF" or "JPEG 2000" when only this module reads the image exactly, else None."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        deep = len(data) > 25 and data[24] == 16 and data[25] in (2, 4, 6)  # RGB, LA, RGBA
        return "PNG" if deep else None
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF" if _tiff_is_deep(data) else None
    if data[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF, which Pillow reads only in part
        return "TIFF"
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:8] == b"jP  ":
        return "JPEG 2000" if _jpeg2000_is_deep(data) else None
    return None


def _jpeg2000_is_deep(data: bytes) -> bool:
    """Return whether a codestream has color of more than 8 bits, by its SIZ marker; Pillow keeps gray of 16."""
    at = data.find(b"\xff\x4f\xff\x51", 0, 1 << 16)
    if at < 0 or len(data) < at + 44:
        return False
    components = data[at + 40] << 8 | data[at + 41]
    return components > 1 and (data[at + 42] & 0x7F) + 1 > 8


def _tiff_is_deep(data: bytes) -> bool:
    tags = first_directory(data)
    if tags is None:
        return False
    bits = tags.get("bits", (1,))
    samples = tags.get("samples", (1,))[0]
    kind = tags.get("format", (1,))[0]
    if samples == 1:
        # Pillow: 1-8 and 16 unsigned, 16 and 32 signed, float32
        return (kind == 1 and bits[0] > 16) or (kind == 3 and bits[0] != 32) or (kind == 2 and bits[0] == 8)
    if max(bits) > 8 or kind != 1:
        return True
    photometric = tags.get("photometric", (1,))[0]
    usual = {0: (2,), 1: (2,), 2: (3, 4), 5: (4,), 6: (3,), 8: (3,)}
    extra = samples in (2, 4) and photometric in (0, 1, 2) and not _has_alpha(data)
    return samples not in usual.get(photometric, ()) or extra


def _has_alpha(data: bytes) -> bool:
    tags = first_directory(data, {**_TAGS, 338: "extra"})
    return tags is not None and tags.get("extra", (0,))[0] in (1, 2)


def first_directory(data: bytes, names: dict[int, str] = _TAGS) -> dict[str, tuple[int, ...]] | None:
    """Return short and long tags of a classic TIFF's first directory; None where it is damaged."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        values: dict[str, tuple[int, ...]] = {}
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
            if tag not in names or kind not in (3, 4) or not 1 <= number <= 4096:
                continue
            letter, size = ("H", 2) if kind == 3 else ("I", 4)
            at = entry + 8
            if number * size > 4:
                (at,) = struct.unpack_from(order + "I", data, at)
            values[names[tag]] = struct.unpack_from(f"{order}{number}{letter}", data, at)
    except struct.error:
        return None
    return values


def decode(data: bytes, need: str, reading: DecodeOptions) -> Decoded:
    """Decode a deep PNG or TIFF exactly.

    Raises:
        InputError: the extra is not installed, the image is too large or damaged.
    """
    try:
        import imagecodecs
        import tifffile

        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are reported by this module
    except ImportError:
        what = f"{need} of 16-bit color" if need != "TIFF" else "this TIFF (16-bit color, multi-band, 32-bit or float)"
        raise InputError("unsupported", f'{what} needs tifffile: pip install "normcli[tiff]"') from None
    if need == "PNG":
        width, height = struct.unpack(">II", data[16:24])
        check_size(width, height, reading)
        try:
            array = imagecodecs.png_decode(data)  # libspng, which plain PNGs go to, gives no 16-bit RGB
        except Exception:
            _owed.append(None)
            raise
        samples = array.shape[2]
        return _split(array, {2: "LA", 3: "RGB", 4: "RGBA"}[samples] + ";16", "PNG", samples in (2, 4), [])
    if need == "JPEG 2000":
        return _jpeg2000(imagecodecs.jpeg2k_decode, data, reading)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page: Any = tiff.pages[0]
        for name in ("imagewidth", "imagelength", "imagedepth", "samplesperpixel", "bitspersample"):
            value = getattr(page, name)
            if not isinstance(value, int):  # several values: a tuple times a million would fill the memory
                raise InputError("unsupported", f"a TIFF whose {name} is {str(value)[:40]}")
        check_size(page.imagewidth, page.imagelength, reading)
        if page.imagedepth > 1:
            raise InputError("unsupported", "a volume, not an image")
        _check_bands(page, len(data), reading)
        array = page.asarray()
        if "S" in page.axes and page.axes.index("S") == 0:  # planes one after the other
            array = np.moveaxis(array, 0, -1)
        notes = ["multi-frame"] if len(tiff.pages) > 1 else []
        return _from_page(array, page, notes)


def _check_bands(page: Any, size: int, reading: DecodeOptions) -> None:
    """Reject more bands than the limit of pixels allows: 210 bytes can claim 17 GB."""
    values = page.imagewidth * page.imagelength * page.samplesperpixel
    if page.compression == 1 and values * page.bitspersample > 8 * size:
        raise InputError("truncated", f"truncated: {size} bytes for {values} values of {page.bitspersample} bits")
    if values > 4 * reading.max_pixels:  # as many as RGBA of the largest image
        raise InputError("bomb", f"{values} values in {page.samplesperpixel} bands, over four times --max-pixels")


def _jpeg2000(decode_: Any, data: bytes, reading: DecodeOptions) -> Decoded:
    at = data.find(b"\xff\x4f\xff\x51")
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    check_size(right - left, bottom - top, reading)
    array = decode_(data)
    bits = (data[at + 42] & 0x7F) + 1
    if bits != 16 or data[at + 42] & 0x80 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise InputError("unsupported", f"JPEG 2000 of {bits} bits and {array.shape[-1]} components")
    return _split(array, {3: "RGB", 4: "RGBA"}[array.shape[2]] + ";16", "JPEG2000", array.shape[2] == 4, [])


def _from_page(array: np.ndarray[Any, Any], page: Any, notes: list[str]) -> Decoded:
    if array.ndim == 2:
        array = array[:, :, None]
    if page.photometric == 0:  # white is zero
        if array.dtype.kind != "u":
            raise InputError("unsupported", f"white-is-zero with samples of {array.dtype}")
        array = np.iinfo(array.dtype).max - array
    if page.photometric not in (0, 1, 2):
        raise InputError("unsupported", f"photometric interpretation {page.photometric.name} at this depth")
    bits, samples = page.bitspersample, array.shape[2]
    if array.dtype.kind == "u" and bits not in (8, 16, 32):
        raise InputError("unsupported", f"{bits}-bit samples")
    alpha = bool(page.extrasamples) and page.extrasamples[-1] in (1, 2) and samples in (2, 4)
    colors = samples - alpha
    mode = {1: "L", 3: "RGB"}.get(colors, f"bands{colors}") + ("A" if alpha else "")
    if alpha and page.extrasamples[-1] == 1:
        raise InputError("unsupported", "premultiplied alpha at this depth")
    if colors == 3 and page.photometric != 2:
        mode = "bands3"
    return _split(array, f"{mode};{array.dtype}", "TIFF", alpha, notes)


def _split(array: np.ndarray[Any, Any], mode: str, name: str, alpha: bool, notes: list[str]) -> Decoded:
    depth = array.dtype.itemsize * 8
    array = to_supported_dtype(array)
    if not alpha:
        return Decoded(array, name, mode, depth, notes=notes)
    pixels, last = np.ascontiguousarray(array[:, :, :-1]), np.ascontiguousarray(array[:, :, -1])
    return Decoded(pixels, name, mode, depth, alpha=last, notes=notes)
