"""Decoding by Pillow of everything that it reads exactly, and of the modes that need care.

`convert("RGB")`, everybody's loader, clips or cuts 16-bit and I-mode images: it is never called on them.
"""

import io
import logging
import re
import struct
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from normcli import late_imports
from normcli.errors import InputError, MissingExtraError
from normcli.images import png, raster, tiff
from normcli.images.convert import Decoded, check_size, is_early_end, row_slices, to_supported_dtype
from normcli.images.orientation import upright
from normcli.options.shared import MAX_PIXELS, DecodeOptions

log = logging.getLogger("normcli.images")

# Content decides, never the name; without this list an EPS named .jpg would start Ghostscript.
# "MPO" must not be in it (it turns every unknown file into a KeyError); the JPEG factory opens MPO anyway.
FORMATS = ["JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "JPEG2000"]
_PLUGINS = {"DIB": "Bmp", "WEBP": "WebP", "JPEG2000": "Jpeg2K"}  # those that are not named as their format

Array = np.ndarray[Any, Any]

_LARGE = 1 << 22  # pixels from which an image is decoded with as few copies as possible: see `large`
_TO_RGB = {"CMYK", "YCbCr", "LAB", "HSV", "RGBX"}
_BLACK_AND_WHITE, _MARKED_BLACK = b"\0\0\0\xff\xff\xff", b"\1\0\0"
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_ORIENTATION, _TIFF_SAMPLES, _TIFF_COLORS = 258, 262, 274, 277, 320
_TIFF_DESCRIPTION, _TIFF_FORMAT, _TIFF_NO_DATA = 270, 339, 42113
_TIFF_EXTRA = 'pip install "normcli[tiff]"'


def decode(data: bytes, reading: DecodeOptions) -> Decoded:
    """Decode with Pillow, and with tifffile a TIFF that Pillow does not know.

    Raises:
        InputError: not an image, too large, truncated, or of a kind that Pillow would damage.
        Exception: any other of Pillow, on damaged files.
    """
    try:
        return _decode(data, reading)
    except (InputError, OSError, SyntaxError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and (complete := png.completed(data)) is not None:
            return _decode(complete, reading)
        final = isinstance(error, InputError) and error.reason != "not-an-image"
        if final or not tiff.is_tiff(data) or is_early_end(error):
            raise
        try:
            tiff.libraries()
        except MissingExtraError:
            if isinstance(error, InputError) or not tiff.is_usual(data):
                raise
            raise error from None
        try:
            return tiff.decode(data, reading)
        except InputError as other:
            if other.reason == "unsupported":
                raise
        except Exception as other:
            log.debug("tifffile: %s", other)
        raise


def _decode(data: bytes, reading: DecodeOptions) -> Decoded:
    _restrain(reading)
    data = _with_palette_of_two(data)
    _check_place_of_pixels(data)
    try:
        try:
            image = _open(data)
        except KeyError:
            if not _load_plugins():
                raise
            return _decode(data, reading)
        except UnidentifiedImageError:
            if not _is_tga_of_15_bits(data):
                from normcli.images import unread

                raise unread.explain(data) from None
            image = Image.open(io.BytesIO(data[:16] + b"\x10" + data[17:]), formats=["TGA"])
    except Image.DecompressionBombError as error:
        count = "".join(re.findall(r"\((\d+) pixels\)", str(error))) or "more"
        raise InputError("bomb", f"{count} pixels, over the limit of {reading.max_pixels} (--max-pixels)") from None
    with image:
        check_size(image.width, image.height, reading)
        notes = _notes(image, data)
        _refuse_what_is_damaged(image)
        frame = image.tile[0][1] if image.format == "GIF" and image.tile else None
        turned = 1 if (tags := _tiff_tags(image)) is None else tags.get(_TIFF_ORIENTATION, 1)
        direct = None
        if image.width * image.height > _LARGE:
            from normcli.images import large

            direct = large.decode(image, data)
        if direct is None:
            image.load()
            _widen_colors(image)
        mode, name = image.mode, "JPEG" if image.format == "MPO" else str(image.format)
        if mode == "CMYK":
            notes.append("cmyk")
        pixels, alpha, has_alpha = direct or _pixels(image, reading, _stored_bits(data, image))
        if image.format == "TGA" and data[16] in (15, 16) and not data[17] & 15:
            pixels, alpha, has_alpha = pixels[:, :, : -1 if has_alpha else None], None, False  # the bit is no attribute
        if frame is not None and frame != (0, 0, *image.size):
            pixels, alpha = (pixels[:, :, :-1], pixels[:, :, -1]) if has_alpha else (pixels, alpha)
            alpha, has_alpha = _outside(frame, alpha, image.size), False
        orientation = _orientation(image)
        if orientation != 1:
            notes.append("rotated")
        decoded = Decoded(np.ascontiguousarray(pixels), name, mode, _depth(image), notes=notes, orientation=orientation)
        decoded.alpha, decoded.has_alpha, decoded.is_owned = alpha, has_alpha, pixels.flags.writeable
        bits = _stored_bits(data, image)
        if tags is not None:
            bits = int(next(iter(_as_tuple(tags.get(_TIFF_BITS, 1)))))
            decoded.white_is_zero = tags.get(_TIFF_PHOTOMETRIC) == 0
            decoded.no_data = tiff.parse_no_data(tags.get(_TIFF_NO_DATA))
        decoded.stored_bits = bits if bits < 8 and mode in ("1", "L") else 0
        if tags is not None:
            _annotate(decoded, tags, turned, data, reading)
            if mode == "P" and decoded.no_data is not None:
                from normcli.images.nodata import mark_index

                mark_index(decoded, np.asarray(image), reading)
        return decoded


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) and value else (value,)


def mode_and_depth(file: Any, reading: DecodeOptions) -> tuple[str, int] | None:
    """Return Pillow's mode and depth of a TIFF that it reads, from its header; None for others.

    Args:
        file: the file, open for reading.
        reading: limits.
    """
    _restrain(reading)
    file.seek(0)
    try:
        with Image.open(file, formats=["TIFF"]) as image:
            return image.mode, _depth(image)
    except (OSError, SyntaxError, ValueError, TypeError):
        return None


def _annotate(decoded: Decoded, tags: Any, turned: int, data: bytes, reading: DecodeOptions) -> None:
    """Add the mask of a TIFF, and the names and scales in its tags."""
    mask = tiff.read_mask(data)
    if mask is not None and turned in range(2, 9):  # as Pillow turned the pixels
        mask = upright(mask[:, :, None], turned)[:, :, 0]
    described = {tag: tags[tag] for tag in raster.TAGS if tag in tags}
    scaled = reading.scale_offset != "none"
    raster.annotate(decoded, raster.read_tags(described, tags.get(_TIFF_SAMPLES, 1), scaled=scaled), mask)


def _with_palette_of_two(data: bytes) -> bytes:
    """Return a BMP of 4 or 8 bits whose palette is black and white with another black.

    Pillow takes such a palette for one bit a pixel whatever the depth, and reads the indices as bits; palettes of
    other colors it reads right, and 1 in 255 of blue is taken back below.
    """
    if data[:2] != b"BM" or len(data) < 62:
        return data
    core = int.from_bytes(data[14:18], "little") == 12
    bits = int.from_bytes(data[24:26] if core else data[28:30], "little")
    used = 0 if core else int.from_bytes(data[46:50], "little")
    at = 14 + int.from_bytes(data[14:18], "little")
    if bits not in (4, 8) or used != 2 or data[at : at + 3] + data[at + 4 : at + 7] != _BLACK_AND_WHITE:
        return data
    return data[:at] + _MARKED_BLACK + data[at + 3 :]


def _check_place_of_pixels(data: bytes) -> None:
    """Check that the pixels of a BMP do not begin inside its headers, which Pillow would read as colors.

    Raises:
        InputError: they do. 0 is no place, but behind the headers.
    """
    if data[:2] == b"BM" and 0 < int.from_bytes(data[10:14], "little") < 14 + int.from_bytes(data[14:18], "little"):
        raise InputError("damaged", "its pixels would begin inside the header")


def _is_tga_of_15_bits(data: bytes) -> bool:
    """Return True if a file looks like a TGA of 5-5-5 bits, which Pillow knows as 16 bits only."""
    return len(data) > 18 and data[1] == 0 and data[2] in (2, 10) and data[16] == 15 and not data[17] & 0xC0


def _widen_colors(image: Image.Image) -> None:
    """Correct the palette of a TIFF whose colors are 0-255 instead of 0-65535, and of `_with_palette_of_two`."""
    if image.mode != "P":
        return
    palette = image.getpalette() or []
    if image.format in ("BMP", "DIB") and palette[:6] == [0, 0, 1, 255, 255, 255]:
        image.putpalette([0, 0, 0, 255, 255, 255])
    if (tags := _tiff_tags(image)) is not None:
        colors: Any = tags.get(_TIFF_COLORS, ())
        if colors and 0 < max(colors) < 256:
            count = len(colors) // 3
            image.putpalette([colors[i + c * count] for i in range(count) for c in range(3)])


def _stored_bits(data: bytes, image: Image.Image) -> int:
    """Return the bits of a PNG's samples, which its transparent level counts in; 8 for all others."""
    return data[24] if image.format == "PNG" and data[:8] == png.SIGNATURE and len(data) > 24 else 8


def _outside(
    frame: tuple[int, int, int, int], alpha: np.ndarray[Any, Any] | None, size: tuple[int, int]
) -> np.ndarray[Any, Any]:
    """Return the alpha of a picture whose first frame leaves a part of the canvas empty: transparent there."""
    left, top, right, bottom = frame
    inside = np.zeros((size[1], size[0]), np.uint8)
    inside[top:bottom, left:right] = 255 if alpha is None else alpha[top:bottom, left:right]
    return inside


def header_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and height that Pillow reads; None if the header is damaged or does not fit in these bytes."""
    try:
        with _open(data) as image:
            return image.size
    except Exception:  # damaged headers raise anything
        return None


def _open(data: bytes) -> ImageFile.ImageFile:
    """Open an image by its content; a PNG without the plugins of four other formats, which take 4 ms."""
    if data[:8] == png.SIGNATURE:
        from PIL.PngImagePlugin import PngImageFile

        with suppress(SyntaxError, IndexError, TypeError, struct.error):  # as in Image.open, which gives the reason
            return PngImageFile(io.BytesIO(data))
    has_heif = data[4:8] == b"ftyp" and _register_heif()
    return Image.open(io.BytesIO(data), formats=[*FORMATS, "HEIF"] if has_heif else FORMATS)


def _load_plugins() -> bool:
    """Import plugins that Pillow has passed over because their import failed; return True if there are more now."""
    missing = [name for name in FORMATS if name not in Image.OPEN]
    for name in missing:
        late_imports.optional(f"PIL.{_PLUGINS.get(name, name.capitalize())}ImagePlugin")
    return any(name in Image.OPEN for name in missing)


@cache  # a failed import is looked for anew each time: 150 us; one that succeeds takes 4 ms
def _register_heif() -> bool:
    """Make Pillow read HEIC, and return True if pillow-heif is installed."""
    pillow_heif = late_imports.optional("pillow_heif")  # [heif]: importing it registers nothing until asked
    if pillow_heif is None:
        return False
    pillow_heif.register_heif_opener()
    return True


def _restrain(reading: DecodeOptions) -> None:
    """Set Pillow's two process-wide switches, which other code may have changed."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    limit = max(MAX_PIXELS, reading.max_pixels)
    if Image.MAX_IMAGE_PIXELS is None or limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow warns from here; the limit itself is check_size's


def _refuse_what_is_damaged(image: Image.Image) -> None:
    """Reject images that Pillow would not read as they are stored."""
    if (tags := _tiff_tags(image)) is not None:
        samples = tags.get(_TIFF_SAMPLES, 1)
        if image.mode != "P" and samples > len(image.getbands()) and image.mode != "RGBX":
            raise InputError("unsupported", f"{samples} bands need tifffile: {_TIFF_EXTRA}")


def _notes(image: Image.Image, data: bytes) -> list[str]:
    notes = []
    if image.info.get("exif"):
        notes.append("exif")
    if "icc_profile" in image.info:
        notes.append("icc")
    if (tags := _tiff_tags(image)) is not None:
        types, description = raster.subfile_types(data), tags.get(_TIFF_DESCRIPTION)
        notes += raster.missing_planes(description, raster.frames(types), tags.get(_TIFF_SAMPLES, 1))
        if any(types):  # Pillow counts masks and reduced resolutions as frames, and cannot open the former
            return [*notes, "multi-frame"] if raster.frames(types) > 1 else notes
        if raster.has_planes_without_directories(description):
            return [*notes, "multi-frame"]
    try:
        if getattr(image, "is_animated", False):
            notes.append("multi-frame")
            image.seek(0)
    except (OSError, EOFError, SyntaxError, ValueError):
        notes.append("damaged")
        image.seek(0)
    if (image.format == "AVIF" and _avif_is_deep(image)) or image.info.get("bit_depth", 8) > 8:  # HEIF
        notes.append("depth-reduced")
    return notes


def _avif_is_deep(image: Image.Image) -> bool:
    """Return True if an AVIF has 10 or 12 bits, which libavif returns as 8, by a bit of its av1C box."""
    file: Any = getattr(image, "fp", None)
    if file is None:
        return False
    file.seek(0)
    head = file.read(4096)
    at = head.find(b"av1C")
    return 0 <= at < len(head) - 6 and bool(head[at + 6] & 0x40)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF" or not ("exif" in image.info or "Raw profile type exif" in image.info):
        return 1  # Pillow turns a TIFF at load
    try:
        value = image.getexif().get(274, 1)
    except Exception:  # a damaged EXIF block is no damage of the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _depth(image: Image.Image) -> int:
    if image.mode == "I":
        tags = _tiff_tags(image)
        return 16 if tags is None else int(_as_tuple(tags.get(_TIFF_BITS, 32))[0])  # signed samples of 16 or 32 bits
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)


def _pixels(image: Image.Image, reading: DecodeOptions, bits: int) -> tuple[Array, Array | None, bool]:
    """Return pixels (H,W,C) of a loaded image by its mode, and its alpha: (H,W), or True for the last channel."""
    mode = image.mode
    key = image.info.get("transparency")  # a gray level that counts as transparent; bytes for palettes
    if mode.startswith("I;16"):
        deep = _gray16(image)
        return deep, None if key is None else _opaque_but(deep[:, :, 0], np.uint16(key)), False
    if mode == "I":
        return _integers(image), None, False
    if mode == "F":
        return to_supported_dtype(_array(image)[:, :, None]), None, False
    target = mode
    if mode in ("P", "PA"):
        array = _expand_palette(image, key is not None or mode == "PA", reading)
        return array, None, array.shape[2] in (2, 4)
    if mode in ("RGBa", "La"):
        target = "RGBA" if mode == "RGBa" else "LA"
    elif mode == "1":
        target = "L"
    elif mode in _TO_RGB:
        target = "RGB"
    elif key is not None and mode == "RGB":
        target = "RGBA"
    if target not in ("L", "LA", "RGB", "RGBA"):
        raise InputError("unsupported", f"images of Pillow's mode {target} are not read")
    pixels = _array(image, target)
    alpha = None
    if key is not None and mode in ("1", "L"):
        level = np.uint8(key * (255 // ((1 << bits) - 1)) & 255) if bits < 8 else np.uint8(key)
        level = level if mode == "L" else np.uint8(255 if key else 0)
        alpha = _opaque_but(pixels, level)
    pixels = pixels[:, :, None] if target == "L" else pixels
    return pixels, alpha, target in ("LA", "RGBA")


def _opaque_but(pixels: Array, level: Any) -> Array:
    """Return the alpha (H,W) of pixels of which one level is transparent."""
    alpha = np.empty_like(pixels)
    for rows in row_slices(pixels):
        alpha[rows] = np.where(pixels[rows] == level, 0, np.iinfo(pixels.dtype).max)
    return alpha


def _array(image: Image.Image, mode: str | None = None) -> Array:
    """Return an image as an array, converted to a mode; of a large one it may be in Pillow's own memory."""
    mode = mode or image.mode
    if image.width * image.height > _LARGE:
        from normcli.images import large

        return large.array_of(image, mode)
    return np.asarray(image if mode == image.mode else image.convert(mode))


def _expand_palette(image: Image.Image, transparent: bool, reading: DecodeOptions) -> Array:
    """Expand to RGB, or to gray where every used entry is gray; with alpha where an entry is transparent."""
    expanded = _array(image, "RGBA" if transparent else "RGB")
    if reading.color == "native":
        return expanded
    for rows in row_slices(expanded):
        red, green, blue = (expanded[rows, :, c] for c in range(3))
        if (red != green).any() or (green != blue).any():
            return expanded
    return np.ascontiguousarray(expanded[:, :, ::3] if transparent else expanded[:, :, :1])


def _tiff_tags(image: Image.Image) -> Any:
    """Return the tags of a TIFF, None for all others; by name, since importing Pillow's class takes 5 ms."""
    return getattr(image, "tag_v2", None) if image.format == "TIFF" else None


def _gray16(image: Image.Image) -> np.ndarray[Any, Any]:
    array = to_supported_dtype(_array(image)[:, :, None])
    if (tags := _tiff_tags(image)) is not None and tags.get(_TIFF_PHOTOMETRIC) == 0:
        # white is zero: Pillow turns 8 bits round, not 16
        array = np.subtract(np.uint16(65535), array, out=array if array.flags.writeable else None)
    return array


def _integers(image: Image.Image) -> np.ndarray[Any, Any]:
    """Convert mode I: 16-bit PGM and PNG to uint16, signed TIFF to raw units."""
    array = _array(image)[:, :, None]
    if (tags := _tiff_tags(image)) is not None:
        formats: Any = tags.get(_TIFF_FORMAT, (1,))
        if formats != 2 and tuple(formats if isinstance(formats, tuple) else (formats,)) != (2,):
            raise InputError("unsupported", f"unsigned 32-bit samples need tifffile: {_TIFF_EXTRA}")
        return to_supported_dtype(array)
    if int(array.min()) < 0 or int(array.max()) > 65535:
        raise InputError("unsupported", "32-bit samples outside 0 to 65535")
    return np.ascontiguousarray(array, dtype=np.uint16)
