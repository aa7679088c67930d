"""Large images without the copies that Pillow makes: views of files that are not compressed, and of Pillow's memory.

Pillow has colors in four bytes a pixel, its array interface copies all of them, and its WebP decoder has four such
images. Photographs are left to Pillow: a copy of 2 MB costs less than this does.
"""

import ctypes as c
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]


class _ArrowArray(c.Structure):
    """The array of Arrow's C data interface, which Pillow exports since 11.3: a fixed layout."""


_ArrowArray._fields_ = [
    *((name, c.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", c.POINTER(c.c_void_p)),
    ("children", c.POINTER(c.POINTER(_ArrowArray))),
    ("dictionary", c.c_void_p),
    ("release", c.c_void_p),
    ("private_data", c.c_void_p),
]


_AT_ONCE = 1 << 18  # pixels
# modes of TIFFs whose samples are stored as they are read, and Pillow's names for them
_STORED = {
    "L": ("L", "u1"),
    "LA": ("LA", "u1"),
    "RGB": ("RGB", "u1"),
    "RGBA": ("RGBA", "u1"),
    "I;16": ("I;16", "<u2"),
    "F": ("F;32F", "<f4"),
}
_ORIENTATION, _PHOTOMETRIC = 274, 262


def decode(image: Image.Image, data: bytes) -> tuple[Array, None, bool] | None:
    """Decode an opened image where Pillow would hold more copies; else prepare Pillow to load it.

    Returns:
        Pixels (H,W,C), None, and whether the last channel is alpha; None where Pillow should load it.
    """
    pixels = None
    if image.format == "TIFF":
        pixels = _view(image, data)
    elif image.format in ("BMP", "DIB", "TGA"):
        pixels = _unpack(image, data)
    elif image.format == "PNG" and image.mode == "LA":
        pixels = _decode_by("png", image, data)
    elif image.format == "WEBP" and getattr(image, "n_frames", 1) == 1:
        pixels = _decode_by("webp", image, data)
    if pixels is not None:
        return pixels, None, image.mode in ("LA", "RGBA")
    core: Any = getattr(Image, "core", None)
    allocate = getattr(core, "set_use_block_allocator", None)
    if allocate is not None:
        allocate(1)  # one block an image, as `_memory_of` needs, not several of 16 MB
    return None


def _view(image: Image.Image, data: bytes) -> Array | None:
    """Return a TIFF that is not compressed as a view of the file; None if it has to be unpacked or turned."""
    tags: Any = getattr(image, "tag_v2", None)
    raw_mode, code = _STORED.get(image.mode, ("", "u1"))
    if not raw_mode or tags is None or tags.get(_ORIENTATION, 1) != 1 or tags.get(_PHOTOMETRIC) == 0:
        return None
    dtype, channels = np.dtype(code), len(image.getbands())
    line = image.width * channels * dtype.itemsize
    tiles: Any = getattr(image, "tile", ())
    start = at = tiles[0].offset if tiles else 0
    for tile in tiles:
        mode, stride = tile.args[:2] if isinstance(tile.args, tuple) and len(tile.args) > 1 else ("", 0)
        left, top, right, bottom = tile.extents or (0, 0, 0, 0)
        if (tile.codec_name, mode, left, right) != ("raw", raw_mode, 0, image.width) or stride not in (0, line):
            return None
        if tile.offset != at or at - start != top * line:
            return None
        at += (bottom - top) * line
    if at - start != image.height * line or at > len(data):
        return None
    pixels = np.frombuffer(data, dtype, image.height * image.width * channels, start)
    return pixels.reshape(image.height, image.width, channels) if pixels.flags.aligned else None


def _unpack(image: Image.Image, data: bytes) -> Array | None:
    """Return colors that are stored as rows of BGR; None for other layouts, and if rows are missing."""
    tiles: Any = getattr(image, "tile", ())
    if len(tiles) != 1 or image.mode not in ("RGB", "RGBA"):
        return None
    (codec, extents, offset, args), channels = tiles[0], len(image.getbands())
    raw_mode, stride, direction = args if isinstance(args, tuple) and len(args) == 3 else ("", 0, 0)
    stored = {"BGR": 3, "BGRX": 4, "BGRA": 4}.get(raw_mode, 0) if codec == "raw" else 0
    line = stride or image.width * stored
    usable = stored >= channels and direction in (1, -1) and extents in (None, (0, 0, *image.size))
    if not usable or line < image.width * stored or offset + image.height * line > len(data):
        return None
    rows = np.frombuffer(data, np.uint8, image.height * line, offset).reshape(image.height, line)[::direction]
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    source = rows[:, : image.width * stored].reshape(image.height, image.width, stored)
    for band, place in enumerate((2, 1, 0, 3)[:channels]):
        pixels[:, :, band] = source[:, :, place]
    return pixels


def _decode_by(library: str, image: Image.Image, data: bytes) -> Array | None:
    """Return the pixels of a PNG or WebP by imagecodecs, the same library in one image; None if that fails."""
    try:
        import imagecodecs

        pixels: Array = getattr(imagecodecs, f"{library}_decode")(data)
    except Exception:  # not installed; damaged, of which Pillow has the better words
        return None
    shape = (image.height, image.width, len(image.getbands()))
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def array_of(image: Image.Image, mode: str) -> Array:
    """Return the pixels of a loaded image in a mode: (H,W) or (H,W,C).

    They are in the memory of the image where that is possible; the image must not be used afterwards.
    """
    width, height = image.size
    memory = _memory_of(image)
    sample = np.asarray(image.crop((0, 0, 1, 1)).convert(mode)) if mode != image.mode else _sample(image)
    shape = (height, width, *sample.shape[2:])
    if memory is not None and mode == image.mode and memory.shape == shape:
        return memory
    count = width * height * sample.size
    if memory is not None and memory.dtype == sample.dtype and count <= memory.size:
        array = memory.reshape(-1)[:count].reshape(shape)
    else:
        array = np.empty(shape, sample.dtype)
    rows = max(1, _AT_ONCE // width)
    for top in range(0, height, rows):  # they end in the memory before the next ones begin
        part = image.crop((0, top, width, min(top + rows, height)))
        array[top : top + rows] = np.asarray(part if mode == image.mode else part.convert(mode))
    return array


def _sample(image: Image.Image) -> Array:
    return np.asarray(image.crop((0, 0, 1, 1)))


def _memory_of(image: Image.Image) -> Array | None:
    """Return the pixels of a loaded image, not a copy: (H,W), or (H,W,4) for modes of several bands.

    Returns:
        An array that may be overwritten where the image is not used afterwards; None where it would be a copy.
    """
    if image.readonly or not hasattr(image, "__arrow_c_array__"):
        return None
    try:
        _, capsule = image.__arrow_c_array__()
        address = c.pythonapi.PyCapsule_GetPointer
    except (ValueError, AttributeError):  # in several blocks; no CPython
        return None
    address.restype, address.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
    array = _ArrowArray.from_address(address(capsule, b"arrow_array"))
    sample = _sample(image)
    several = sample.ndim == 3
    values = array.children[0].contents if several else array
    dtype = np.dtype(np.uint8) if several or sample.dtype == np.bool_ else sample.dtype
    shape = (image.height, image.width, 4) if several else (image.height, image.width)
    count = int(np.prod(shape))
    if values.length != count or values.offset or values.n_buffers != 2:
        return None
    memory: Any = (c.c_uint8 * (count * dtype.itemsize)).from_address(values.buffers[1])
    memory.owner = capsule  # which releases it
    pixels: Array = np.frombuffer(memory, dtype).reshape(shape)
    return pixels
