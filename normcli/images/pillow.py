"""Decoding by Pillow of everything that it reads exactly, and of the modes that need care.

`convert("RGB")`, everybody's loader, clips or cuts 16-bit and I-mode images: it is never called on them.
"""

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from normcli.errors import InputError
from normcli.images.convert import Decoded, check_size, to_supported_dtype
from normcli.options.images import MAX_PIXELS, DecodeOptions

# Content decides, never the name; without this list an EPS named .jpg would start Ghostscript.
# "MPO" must not be in it (it turns every unknown file into a KeyError); the JPEG factory opens MPO anyway.
FORMATS = ["JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "JPEG2000"]

_TO_RGB = {"CMYK", "YCbCr", "LAB", "HSV", "RGBX"}
_AT_ONCE = 1 << 22  # pixels
_TIFF_PHOTOMETRIC, _TIFF_SAMPLES, _TIFF_FORMAT = 262, 277, 339


def decode(data: bytes, reading: DecodeOptions) -> Decoded:
    """Decode with Pillow.

    Raises:
        InputError: not an image, too large, truncated, or of a kind that Pillow would damage.
        Exception: whatever else Pillow raises on damaged files.
    """
    _restrain(reading)
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Image.DecompressionBombError as error:
        raise InputError("bomb", f"{error} (--max-pixels)".replace("Image size ", "")) from None
    with image:
        check_size(image.width, image.height, reading)
        notes = _notes(image)
        _refuse_what_is_damaged(image)
        image.load()
        mode, name = image.mode, "JPEG" if image.format == "MPO" else str(image.format)
        if mode == "CMYK":
            notes.append("cmyk")
        pixels, alpha = _pixels(image, reading)
        orientation = _orientation(image)
        if orientation != 1:
            notes.append("rotated")
        return Decoded(pixels, name, mode, _depth(image), alpha=alpha, notes=notes, orientation=orientation)


@cache  # a failed import is looked for anew each time: 150 us
def _formats() -> list[str]:
    try:  # [heif]: importing it registers nothing until asked
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return [*FORMATS, "HEIF"]


def _restrain(reading: DecodeOptions) -> None:
    """Set Pillow's two process-wide switches, which can change how a file is read."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    limit = max(MAX_PIXELS, reading.max_pixels)
    if Image.MAX_IMAGE_PIXELS is None or limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow warns from here; the limit itself is check_size's


def _unidentified(data: bytes) -> InputError:
    head = data[:16]
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
        return InputError("unsupported", 'HEIC needs pillow-heif: pip install "normcli[heif]"')
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return InputError("unsupported", "JPEG XL is not read")
    return InputError("not-an-image", "not an image that normcli reads, or its header is damaged")


def _refuse_what_is_damaged(image: Image.Image) -> None:
    """Reject images that Pillow would not read as they are stored."""
    if (tags := _tiff_tags(image)) is not None:
        samples = tags.get(_TIFF_SAMPLES, 1)
        if image.mode != "P" and samples > len(image.getbands()) and image.mode != "RGBX":
            raise InputError("unsupported", f'{samples} bands need tifffile: pip install "normcli[tiff]"')
    if image.format == "PPM" and image.mode == "RGB" and _ppm_maximum(image) > 255:
        raise InputError("unsupported", "a 16-bit color PPM; convert it to PNG or TIFF")


def _ppm_maximum(image: Image.Image) -> int:
    tile: Any = getattr(image, "tile", None)
    arguments: Any = tile[0].args if tile else ()
    for argument in arguments if isinstance(arguments, tuple) else ():
        if isinstance(argument, int) and not isinstance(argument, bool):
            return argument
    return 255


def _notes(image: Image.Image) -> list[str]:
    notes = []
    if "exif" in image.info:
        notes.append("exif")
    if "icc_profile" in image.info:
        notes.append("icc")
    try:
        if getattr(image, "is_animated", False):
            notes.append("multi-frame")
            image.seek(0)
    except (OSError, EOFError, SyntaxError, ValueError):
        notes.append("damaged")
        image.seek(0)
    if image.format == "AVIF" and _avif_is_deep(image):
        notes.append("depth-reduced")
    return notes


def _avif_is_deep(image: Image.Image) -> bool:
    """Return whether an AVIF has 10 or 12 bits, which libavif returns as 8, by a bit of its av1C box."""
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
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _depth(image: Image.Image) -> int:
    if image.mode == "I" and image.format != "TIFF":
        return 16
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)


def _pixels(image: Image.Image, reading: DecodeOptions) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Return pixels (H,W,C) and alpha (H,W) of a loaded image, by its mode."""
    mode = image.mode
    key = image.info.get("transparency")  # a gray level that counts as transparent; bytes for palettes
    if mode.startswith("I;16"):
        deep = _gray16(image)
        return deep, None if key is None else np.where(deep[:, :, 0] == key, np.uint16(0), np.uint16(65535))
    if mode == "I":
        return _integers(image), None
    if mode == "F":
        return to_supported_dtype(np.asarray(image)[:, :, None]), None
    keyed = key is not None
    if mode in ("P", "PA"):
        image = _expand_palette(image, keyed or mode == "PA", reading)
    elif mode in ("RGBa", "La"):
        image = image.convert("RGBA" if mode == "RGBa" else "LA")
    elif mode == "1":
        plane = np.asarray(image.convert("L"))
        alpha = None if key is None else np.where(plane == (255 if key else 0), np.uint8(0), np.uint8(255))
        return plane[:, :, None], alpha
    elif mode in _TO_RGB:
        image = image.convert("RGB")
    elif keyed and mode in ("RGB", "L"):
        image = image.convert("RGBA" if mode == "RGB" else "LA")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise InputError("unsupported", f"images of Pillow's mode {mode} are not read")
    array = _array(image)
    if image.mode == "L":
        return array[:, :, None], None
    if image.mode == "RGB":
        return array, None
    return np.ascontiguousarray(array[:, :, :-1]), np.ascontiguousarray(array[:, :, -1])


def _array(image: Image.Image) -> np.ndarray[Any, Any]:
    """Return `np.asarray(image)`, without a second copy of more than some rows on the way."""
    width, height = image.size
    if width * height <= _AT_ONCE:
        return np.asarray(image)
    rows = max(1, _AT_ONCE // width)
    array = np.empty((height, width, len(image.getbands())), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        array[top:bottom] = np.asarray(image.crop((0, top, width, bottom))).reshape(bottom - top, width, -1)
    return array[:, :, 0] if image.mode == "L" else array


def _expand_palette(image: Image.Image, transparent: bool, reading: DecodeOptions) -> Image.Image:
    """Expand to RGB, or to gray where every used entry is gray; with alpha where an entry is transparent."""
    expanded = image.convert("RGBA" if transparent else "RGB")
    if reading.color == "native":
        return expanded
    colors = expanded.getcolors(1 << 16)
    if colors is not None and all(len({*c[:3]}) == 1 for _, c in colors if isinstance(c, tuple)):
        bands = expanded.split()
        return Image.merge("LA", (bands[0], bands[3])) if transparent else bands[0]
    return expanded


def _tiff_tags(image: Image.Image) -> Any:
    """Return the tags of a TIFF, None for all others; by name, since importing Pillow's class takes 5 ms."""
    return getattr(image, "tag_v2", None) if image.format == "TIFF" else None


def _gray16(image: Image.Image) -> np.ndarray[Any, Any]:
    array = to_supported_dtype(np.asarray(image)[:, :, None])
    if (tags := _tiff_tags(image)) is not None and tags.get(_TIFF_PHOTOMETRIC) == 0:
        return np.uint16(65535) - array  # white is zero: Pillow turns 8 bits round, not 16
    return array


def _integers(image: Image.Image) -> np.ndarray[Any, Any]:
    """Convert mode I: 16-bit PGM and PNG to uint16, signed TIFF to raw units."""
    array = np.asarray(image)[:, :, None]
    if (tags := _tiff_tags(image)) is not None:
        formats: Any = tags.get(_TIFF_FORMAT, (1,))
        if formats != 2 and tuple(formats if isinstance(formats, tuple) else (formats,)) != (2,):
            raise InputError("unsupported", 'unsigned 32-bit samples need tifffile: pip install "normcli[tiff]"')
        return to_supported_dtype(array)
    if int(array.min()) < 0 or int(array.max()) > 65535:
        raise InputError("unsupported", "32-bit samples outside 0 to 65535")
    return np.ascontiguousarray(array, dtype=np.uint16)
