"""Arrays as image files: PNG of 8 and 16 bits, TIFF of integers and floats. Lossless, the same bytes each time."""

import io
import math
import struct
import zlib
from functools import lru_cache
from typing import Any

import numpy as np

from normcli import late_imports
from normcli.storage.seekable import SeekableFile

Array = np.ndarray[Any, Any]


def png(pixels: Array, orientation: int = 1) -> bytes:
    """Encode (H,W,C) of uint8 with 1 to 4 channels, or of uint16.

    Args:
        pixels: gray, gray and alpha, RGB, or RGBA.
        orientation: EXIF orientation to note in the file.

    Raises:
        MissingExtraError: 16-bit color needs the [tiff] extra.
    """
    channels = pixels.shape[2]
    if pixels.dtype == np.uint16 and channels > 1:
        imagecodecs = _codecs("16-bit color PNG")[0]
        data = bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1))
    else:
        from PIL import Image  # 6 ms, which other outputs do without

        buffer = io.BytesIO()
        plane = np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels)
        # level 1: a third of the time of 6 for files 5 % larger
        Image.fromarray(plane).save(buffer, "PNG", compress_level=1)
        data = buffer.getvalue()
    return data if orientation == 1 else _with_orientation(data, orientation)


def _with_orientation(data: bytes, orientation: int) -> bytes:
    """Insert an eXIf chunk after the header: a TIFF with one tag."""
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)
    body = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + body + struct.pack(">I", zlib.crc32(body))
    end_of_header = 8 + 25
    return data[:end_of_header] + chunk + data[end_of_header:]


def tiff(pixels: Array) -> list[Any]:
    """Encode (H,W,C) of any dtype and number of channels, as two buffers: the header, and the array.

    Raises:
        MissingExtraError: a kind that Pillow cannot write, without the [tiff] extra.
    """
    channels, kind = pixels.shape[2], pixels.dtype.name
    simple = kind in ("uint8", "uint16", "float32") if channels == 1 else (channels, kind) == (3, "uint8")
    head = _pillow_head(pixels.shape, kind) if simple else _tifffile_head(pixels.shape, kind)
    return [head, np.ascontiguousarray(pixels)]


@lru_cache(maxsize=256)
def _pillow_head(shape: tuple[int, int, int], kind: str) -> bytes:
    """Return the header that Pillow writes for a TIFF: that of one pixel, with the sizes of this image."""
    from PIL import Image

    height, width, channels = shape
    one = np.zeros((1, 1, channels) if channels > 1 else (1, 1), kind)
    buffer = io.BytesIO()
    Image.fromarray(one).save(buffer, "TIFF")
    head = bytearray(buffer.getvalue()[: -one.nbytes])
    values = {256: width, 257: height, 278: height, 279: height * width * one.nbytes}
    (entries,) = struct.unpack_from("<H", head, 8)
    for entry in range(10, 10 + 12 * entries, 12):
        if (tag := struct.unpack_from("<H", head, entry)[0]) in values:
            struct.pack_into("<I", head, entry + 8, values[tag])
    return bytes(head)


@lru_cache(maxsize=256)
def _tifffile_head(shape: tuple[int, int, int], kind: str) -> bytes:
    """Return the header that tifffile writes for a TIFF."""
    channels = shape[2]
    tifffile = _codecs(f"TIFF of {channels} x {kind}")[1]
    file = _SparseFile()
    tifffile.imwrite(
        file,
        shape=shape if channels > 1 else shape[:2],
        dtype=kind,
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        metadata=None,
        software="normcli",
    )
    return file.start(file.size - math.prod(shape) * np.dtype(kind).itemsize)


class _SparseFile(SeekableFile):
    """A sparse file, whose gaps take no memory: tifffile writes one byte at the end of empty images."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[tuple[int, bytes]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append((self._at, bytes(data)))
        self._at += len(self._parts[-1][1])
        self.size = max(self.size, self._at)
        return len(self._parts[-1][1])

    def start(self, size: int) -> bytes:
        """Return the first bytes."""
        start = bytearray(size)
        for at, data in self._parts:
            if at < size:
                start[at : at + len(data)] = data
        return bytes(start)


def _codecs(what: str) -> tuple[Any, Any]:
    imagecodecs = late_imports.required("imagecodecs", what, "tiff", "tifffile and imagecodecs")
    tifffile = late_imports.required("tifffile", what, "tiff", "tifffile and imagecodecs")
    return imagecodecs, tifffile
