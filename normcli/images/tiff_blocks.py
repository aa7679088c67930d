"""Large TIFFs, decoded in blocks of tiles or strips: memory is bounded by a block, not by the image."""

import io
import math
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from normcli.errors import InputError, MissingExtraError
from normcli.images import convert, pillow, raster, tiff
from normcli.images.convert import Decoded
from normcli.options.shared import DecodeOptions

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 20  # samples
_PIECE = 16 << 20  # bytes of a page, from which it is put together block by block
_JPEG = (6, 7, 34892, 33007)  # compressions whose segments share their tables


class LargeImage:
    """A TIFF that is decoded in blocks.

    Attributes:
        shape: (H, W) as stored.
        first: the first block, which has format, mode, depth, names and full scale of all, and after the last block
            the notes of all.
    """

    def __init__(self, file: Any, data: IO[bytes], size: int, reading: DecodeOptions) -> None:
        self._tiff, self._data, self._reading = file, data, reading
        page = file.pages[0]
        plain = not tiff.page_needs_tifffile(page)
        self._named = pillow.mode_and_depth(file.filehandle, reading) if plain else None  # as in one piece
        self._types = [int(one.subfiletype) for one in file.pages]
        self._image = _Page(page, size)
        mask = raster.mask_page(self._types)
        self._mask = None if mask is None else _Page(file.pages[mask], size)
        scaled = reading.scale_offset != "none"
        self._tags = raster.read_tags(tiff.tags_of(page), page.samplesperpixel, scaled=scaled)
        pages = raster.frames(self._types)
        self._notes = raster.missing_planes(page.description, pages, page.samplesperpixel)
        self._notes += ["multi-frame"] * (pages > 1)
        self.shape = (page.imagelength, page.imagewidth)
        if self._mask is not None:
            tiff.check_mask(self._mask.page, page)
        windows = self._image.windows()
        self.first = self._decode(*next(windows))
        self._windows = windows
        self.first.stored_size = (page.imagewidth, page.imagelength)

    def blocks(self) -> Iterator[Decoded]:
        """Yield the blocks once, each with its pixels, weights and valid samples.

        Raises:
            InputError: a block is damaged, or no pixel has a weight.
        """
        hidden = weighted = 0
        block: Decoded | None = self.first
        while block is not None:
            self.first.notes += [note for note in block.notes if note not in self.first.notes]
            hidden += block.hidden
            weighted += block.weights is None or bool(block.weights.any())
            yield block
            window = next(self._windows, None)
            block = None if window is None else self._decode(*window)
        if not weighted:
            raise convert.all_transparent()
        self.first.notes += convert.transparency_notes(hidden, math.prod(self.shape))

    def _decode(self, top: int, left: int, height: int, width: int) -> Decoded:
        array = self._image.read(top, left, height, width)
        mask = None if self._mask is None else self._mask.read(top, left, height, width)[:, :, 0] != 0
        block = tiff.from_page(array, self._image.page, [*self._notes])
        block.is_owned = False  # a segment may be read again
        if self._named is not None:
            block.mode, block.depth = self._named
        block.no_data = tiff.no_data_of(self._image.page)
        raster.annotate(block, self._tags, mask)
        return convert.shape_block(block, self._reading)

    def close(self) -> None:
        """Close the library's view of the file, and free the bytes of one that is in memory: its pages refer to it."""
        self._tiff.close()
        if isinstance(self._data, io.BytesIO):
            self._data.close()


def _open(data: IO[bytes], size: int, reading: DecodeOptions) -> LargeImage | None:
    """Open a TIFF that is large and can be decoded in blocks; None for all others.

    Args:
        data: the file.
        size: its number of bytes.
        reading: the options.

    Raises:
        InputError: too large, or of a kind that is not read.
        Exception: any of tifffile, on damaged files.
    """
    try:
        tifffile, _ = tiff.libraries()
    except MissingExtraError:
        return None
    file = tifffile.TiffFile(data)
    try:
        page: Any = file.pages[0]
        if _is_suited(page, reading) and page.nbytes > tiff.LARGE:
            tiff.check_page(page, size, reading)
            pages = raster.frames([int(one.subfiletype) for one in file.pages])
            if pages == 1 or tiff.bands_as_pages((page.description or "").encode("latin-1", "replace")) is None:
                return LargeImage(file, data, size, reading)
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def read_page(page: Any, size: int) -> Array | None:
    """Return a large page (H,W,S), put together from its tiles or strips; None if tifffile has to do that.

    tifffile holds the decoded segments of all its threads, and moves planes in a second image.

    Args:
        page: of a kind that is read, see `tiff.check_page`.
        size: of the file, in bytes.
    """
    if not _is_decoded_alike(page) or page.nbytes <= _PIECE:
        return None
    source, out = _Page(page, size), None
    for top, left, height, width in source.windows():
        block = source.read(top, left, height, width)
        if out is None:
            out = np.empty((page.imagelength, page.imagewidth, block.shape[2]), block.dtype)
        out[top : top + height, left : left + width] = block
    return out


def _is_suited(page: Any, reading: DecodeOptions) -> bool:
    """Return True if blocks of a page can be counted one by one: nothing turns or resizes the image."""
    return (
        _is_decoded_alike(page)
        and tiff.orientation(page) == 1
        and reading.resize is None
        and reading.center_crop is None
    )


def _is_decoded_alike(page: Any) -> bool:
    """Return True if blocks of a page are decoded to the same values as the complete image."""
    numbers = (page.imagewidth, page.imagelength, page.imagedepth, page.samplesperpixel, page.bitspersample)
    if not all(isinstance(value, int) for value in numbers) or page.dtype is None:
        return False
    jpeg = page.compression in _JPEG and not (tiff.is_jpeg_of_ycbcr(page) and page.planarconfig == 1)
    same = not jpeg and (int(page.photometric) in (0, 1, 2) or tiff.is_jpeg_of_ycbcr(page))
    return same and page.bitspersample >= 8 and page.imagedepth == 1


class _Page:
    """One page of a TIFF, of which any window can be read."""

    def __init__(self, page: Any, size: int) -> None:
        self.page, self._size = page, size
        self._height, self._width = page.imagelength, page.imagewidth
        self._planes = page.samplesperpixel if page.planarconfig == 2 else 1
        tiled = page.is_tiled
        self._rows = page.tilelength if tiled else min(page.rowsperstrip, self._height)
        self._columns = page.tilewidth if tiled else self._width
        self._across, self._down = (-(-a // b) for a, b in ((self._width, self._columns), (self._height, self._rows)))
        self._start = page.is_contiguous and not tiled and page.dtype.kind != "b"
        self._decoding: dict[str, Any] = {}
        if page.compression in _JPEG:
            self._decoding = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        self._segments: dict[int, Array] = {}  # those that the last window needed

    def windows(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield top, left, height and width of blocks of about a million samples, along the tiles or strips."""
        samples = self.page.samplesperpixel
        rows, columns = self._rows, self._columns
        if self._start:
            rows = 1
        if columns < self._width:
            columns *= max(1, _BLOCK // (rows * columns * samples))
        else:
            rows *= max(1, _BLOCK // (rows * columns * samples))
        for top in range(0, self._height, rows):
            for left in range(0, self._width, columns):
                yield top, left, min(rows, self._height - top), min(columns, self._width - left)

    def read(self, top: int, left: int, height: int, width: int) -> Array:
        """Read a window (h,w,S)."""
        if self._start:
            return self._read_rows(top, height)[:, left : left + width]
        out: Array | None = None
        needed: dict[int, Array] = {}
        for row in range(top // self._rows, -(-(top + height) // self._rows)):
            for column in range(left // self._columns, -(-(left + width) // self._columns)):
                for plane in range(self._planes):
                    index = (plane * self._down + row) * self._across + column
                    segment = needed[index] = self._segment(index)
                    y, x = row * self._rows - top, column * self._columns - left
                    if self._planes == 1 and segment.shape[:2] == (height, width) and (y, x) == (0, 0):
                        self._segments = needed
                        return segment
                    if out is None:
                        out = np.empty((height, width, segment.shape[2] * self._planes), segment.dtype)
                    part = segment[max(0, -y) : height - y, max(0, -x) : width - x]
                    bands = slice(plane, plane + 1) if self._planes > 1 else slice(None)
                    out[max(0, y) : max(0, y) + len(part), max(0, x) : max(0, x) + part.shape[1], bands] = part
        assert out is not None, "a window has pixels"
        self._segments = needed
        return out

    def _segment(self, index: int) -> Array:
        """Return a tile or strip (h,w,S), without its padding beyond the image."""
        if index in self._segments:
            return self._segments[index]
        page = self.page
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        data = None
        if count:
            if offset + count > self._size:
                raise InputError(
                    "truncated", f"truncated: a tile or strip ends at {offset + count} of {self._size} bytes"
                )
            data = self._bytes(offset, count)
        decoded, (_, _, y, x, _), shape = page.decode(data, index, **self._decoding)
        if decoded is None:
            decoded = np.full(shape, page.nodata, page.dtype)
        return np.asarray(decoded[0, : self._height - y, : self._width - x])

    def _read_rows(self, top: int, height: int) -> Array:
        """Return complete rows (h,W,S) of a page whose samples are stored one after the other."""
        page = self.page
        dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        samples = page.samplesperpixel // self._planes
        row, plane = self._width * samples * dtype.itemsize, self._height * self._width * dtype.itemsize
        planes = []
        for number in range(self._planes):
            offset = page.dataoffsets[0] + number * plane + top * row
            data = self._bytes(offset, height * row)
            if len(data) < height * row:
                raise InputError("truncated", f"truncated: {self._size} bytes, of which row {top} is beyond the end")
            planes.append(np.frombuffer(data, dtype).reshape(height, self._width, samples))
        rows = planes[0] if self._planes == 1 else np.concatenate(planes, axis=2)
        return rows.astype(dtype.newbyteorder("="), copy=False)

    def _bytes(self, offset: int, count: int) -> bytes:
        handle = self.page.parent.filehandle
        handle.seek(offset)
        return bytes(handle.read(count))


def open_large(data: Any, reading: DecodeOptions) -> LargeImage | None:
    """Open a TIFF that is so large that it is decoded in blocks; None for all others.

    Args:
        data: the bytes of a TIFF, or a `storage.reader.LargeFile`.
        reading: the options.

    Raises:
        InputError: the image cannot be decoded; no other exception is raised.
    """
    if isinstance(data, bytes) and tiff.is_small(data):
        return None
    file = io.BytesIO(data) if isinstance(data, bytes) else data.open()
    try:
        return convert.guarded(lambda: _open(file, len(data), reading))
    except InputError:
        if isinstance(data, bytes):  # `decode` knows better
            return None
        raise


def blocks(image: LargeImage) -> Iterator[Decoded]:
    """Yield the blocks of a large image, decoded and converted by the options.

    Raises:
        InputError: a block cannot be decoded; no other exception is raised.
    """
    steps = image.blocks()
    while (block := convert.guarded(lambda: next(steps, None))) is not None:
        yield block


def stored_statistics(path: str, sidecar: str | None) -> dict[str, raster.BandTags]:
    """Return the statistics that GDAL has stored of a TIFF, by where they are: "its tags", "its .aux.xml".

    Args:
        path: of the TIFF.
        sidecar: the text of its .aux.xml file; None without one.
    """
    try:
        return tiff.stored_statistics(path, sidecar)
    except Exception:  # a damaged file, which counting reports
        return {}
