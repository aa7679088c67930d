"""TIFF: which files Pillow reads exactly, and tifffile (the `[tiff]` extra) for all others.

Pillow swaps the bytes of compressed big-endian signed and float samples twice, cuts 16-bit color to 8 bits, and drops
bands; such files go to tifffile, or fail where it is not installed, and are never read wrongly.
"""

import io
import json
import logging
import math
import re
import struct
from typing import Any, NamedTuple

import numpy as np

from normcli import late_imports
from normcli.errors import InputError
from normcli.images import raster
from normcli.images.convert import Decoded, check_size, from_levels, row_slices, to_supported_dtype
from normcli.options.shared import DecodeOptions
from normcli.storage.tiff_pages import check_claims

_CLASSIC = (b"II*\0", b"MM\0*")
_BIG = (b"II+\0", b"MM\0+")
SIGNATURES = (*_CLASSIC, *_BIG)
_NUMBERS = {
    256: "width",
    257: "height",
    258: "bits",
    259: "compression",
    262: "photometric",
    266: "fill_order",
    277: "samples",
    284: "planar",
    317: "predictor",
    338: "extra",
    339: "format",
    32997: "slices",
}
_DESCRIPTION, _NO_DATA = 270, 42113
_ORIENTATION = 274
# of which libtiff and tifffile undo a predictor
_WITH_PREDICTOR = frozenset({5, 8, 32946, 34925, 50000})
UNUSUAL = "a TIFF of this compression or these colors"
# which every libtiff reads, and the colors of which Pillow knows modes
_USUAL_COMPRESSIONS, _USUAL_COLORS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}), frozenset({0, 1, 2, 3, 5, 6})
LARGE = 64 << 20  # bytes of samples, from which images are decoded in blocks
_LONGEST_TEXT = 1 << 16
_MOST_BANDS_AS_PAGES = 16
_PHOTOMETRIC = {
    3: "a palette",
    4: "a transparency mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELAB",
    9: "ICCLAB",
    10: "ITULAB",
    32803: "a color filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}


class _Directory(NamedTuple):
    """The first directory of a classic TIFF: numbers by name, its description, and a flag for further pages."""

    numbers: dict[str, tuple[int, ...]]
    description: bytes
    more: bool

    def get(self, name: str, default: int = 1) -> int:
        return self.numbers.get(name, (default,))[0]


def is_tiff(data: bytes) -> bool:
    """Return True if a file opens as a TIFF or BigTIFF."""
    return data[:4] in SIGNATURES


def is_small(data: bytes) -> bool:
    """Return True for a TIFF whose samples take so little memory that it is decoded in one piece; 20 us."""
    directory = None if data[:4] in _BIG else first_directory(data)
    if directory is None:
        return data[:4] not in _BIG
    values = directory.get("width", 0) * directory.get("height", 0) * directory.get("samples")
    return values * max(directory.numbers.get("bits", (1,))) <= 8 * LARGE


def needs_tifffile(data: bytes) -> bool:
    """Return True if Pillow would not read a TIFF as it is stored."""
    if data[:4] in _BIG:  # which Pillow reads only in part
        return True
    directory = first_directory(data)
    return directory is not None and _is_damaged_by_pillow(directory, data[:2] == b"MM")


def is_usual(data: bytes) -> bool:
    """Return True for a TIFF that every Pillow reads unless it is damaged."""
    directory = first_directory(data)
    if directory is None:
        return True
    colors = directory.get("photometric")
    return directory.get("compression") in _USUAL_COMPRESSIONS and colors in _USUAL_COLORS


def page_needs_tifffile(page: Any) -> bool:
    """Return True if Pillow would not read a tifffile page as it is stored."""
    file = page.parent
    entries = ((name, page.tags.get(tag)) for tag, name in _NUMBERS.items())
    values = {name: tag.value for name, tag in entries if tag is not None}
    numbers = {name: value if isinstance(value, tuple) else (int(value),) for name, value in values.items()}
    description = (page.description or "").encode("latin-1", "replace")
    return file.is_bigtiff or _is_damaged_by_pillow(_Directory(numbers, description, False), file.byteorder == ">")


def _is_damaged_by_pillow(directory: _Directory, big_endian: bool) -> bool:
    bits = directory.numbers.get("bits", (1,))
    samples, kind, photometric = directory.get("samples"), directory.get("format"), directory.get("photometric")
    compression = directory.get("compression")
    if directory.get("slices") > 1:
        return True
    if directory.more and bands_as_pages(directory.description) is not None:
        return True
    if directory.get("predictor") != 1 and compression not in _WITH_PREDICTOR:
        return True
    if max(bits) > 8 and directory.get("fill_order") == 2:
        return True
    if samples == 1:
        # of a plane, Pillow takes the first letter of "I;16S" for its raw mode, which reads 32 bits
        if directory.get("planar") == 2 and bits[0] > 8 and (kind != 3 or big_endian):
            return True
        return _gray_needs_tifffile(bits[0], kind, photometric, compression, big_endian)
    if max(bits) > 8 or min(bits) < 8 or kind != 1:
        return True
    usual = {2: (3, 4), 5: (4,), 6: (3,), 8: (3,)}
    gray_alpha = samples == 2 and photometric in (0, 1) and directory.get("extra", 0) == 2
    no_alpha = photometric == 2 and samples == 4 and directory.get("extra", 0) not in (1, 2)
    return no_alpha or not (gray_alpha or samples in usual.get(photometric, ()))


def _gray_needs_tifffile(bits: int, kind: int, photometric: int, compression: int, big_endian: bool) -> bool:
    if photometric == 3:
        return bits not in (1, 2, 4, 8) or kind != 1
    if kind == 1 and bits in (1, 2, 4, 8):
        return False
    if photometric == 0 and (kind != 1 or big_endian):
        return True
    if kind == 1 and bits == 16:
        return False
    # libtiff has turned the bytes already; Pillow's raw mode turns them again
    swapped = big_endian and compression != 1
    return swapped or not ((kind == 2 and bits in (16, 32)) or (kind == 3 and bits == 32))


def first_directory(data: bytes) -> _Directory | None:
    """Return the tags of a classic TIFF's first directory that choose its decoder; None if it is damaged."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        numbers: dict[str, tuple[int, ...]] = {}
        description = b""
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", data, entry)
            if tag == _DESCRIPTION and kind == 2:
                at = entry + 8 if number <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
                description = data[at : at + min(number, _LONGEST_TEXT)]
            if tag not in _NUMBERS or kind not in (3, 4) or not 1 <= number <= 4096:
                continue
            letter, size = ("H", 2) if kind == 3 else ("I", 4)
            at = entry + 8
            if number * size > 4:
                (at,) = struct.unpack_from(order + "I", data, at)
            numbers[_NUMBERS[tag]] = struct.unpack_from(f"{order}{number}{letter}", data, at)
        after = data[start + 2 + 12 * count : start + 6 + 12 * count]
    except struct.error:
        return None
    return _Directory(numbers, description, any(after))


def bands_as_pages(description: bytes) -> str | None:
    r"""Return the arrangement of pages that are one image, by the description of their writer; None if they are not.

    >>> bands_as_pages(b'{"shape": [20, 24, 5]}'), bands_as_pages(b'{"shape": [5, 20, 24]}')
    ('an array of shape (20, 24, 5)', None)
    >>> bands_as_pages(b"ImageJ=1.54\nimages=4\nchannels=4\n")
    '4 channels'
    """
    if description.startswith(b'{"shape"'):
        try:
            shape = json.loads(description.rstrip(b"\0").decode("latin-1"))["shape"]
            last = shape[-1] if len(shape) == 3 else 0
            return f"an array of shape {tuple(shape)}" if 0 < last <= _MOST_BANDS_AS_PAGES else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
    if description.startswith(b"ImageJ="):
        channels = re.search(rb"\nchannels=(\d+)", description)
        return f"{int(channels[1])} channels" if channels and len(channels[1]) < 6 and int(channels[1]) > 1 else None
    if b"<OME" in description[:2048]:
        sizes = re.search(rb'SizeC="(\d{1,5})"', description)
        return f"{int(sizes[1])} channels" if sizes and int(sizes[1]) > 1 else None
    return None


def libraries(what: str = UNUSUAL) -> tuple[Any, Any]:
    """Import tifffile and imagecodecs.

    Args:
        what: the feature that needs them, for the error.

    Raises:
        MissingExtraError: they are not installed.
    """
    imagecodecs = late_imports.required("imagecodecs", what, "tiff", "tifffile")
    tifffile = late_imports.required("tifffile", what, "tiff")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are reported by this module
    return tifffile, imagecodecs


def decode(data: bytes, reading: DecodeOptions) -> Decoded:
    """Decode the first image of a TIFF with tifffile.

    Raises:
        MissingExtraError: the extra is not installed.
        InputError: too large, or of a kind that is not read.
        Exception: any of tifffile, on damaged files.
    """
    tifffile, _ = libraries()
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page: Any = tiff.pages[0]
        check_page(page, len(data), reading)
        types = raster.subfile_types(data)
        pages = raster.frames(types)
        array, bands = (None, 0) if pages <= 1 else _channels_of_pages(tiff, page, pages, reading)
        if array is None:
            array = _read(data, page)
        has_more = pages > max(bands, 1) or raster.has_planes_without_directories(page.description)
        notes = raster.missing_planes(page.description, pages, page.samplesperpixel)
        decoded = from_page(array, page, notes + ["multi-frame"] * has_more)
        mask = _mask(tiff, types)
    decoded.no_data = no_data_of(page)
    scaled = reading.scale_offset != "none"
    raster.annotate(decoded, raster.read_tags(tags_of(page), array.shape[2], scaled=scaled), mask)
    decoded.orientation = orientation(page)
    if decoded.orientation != 1:
        decoded.notes.append("rotated")
    return decoded


def _read(data: bytes, page: Any) -> np.ndarray[Any, Any]:
    """Return the samples (H,W,C) of a page."""
    array = _stored(data, page)
    if array is None:
        from normcli.images import tiff_blocks  # which large pages need

        if (pixels := tiff_blocks.read_page(page, len(data))) is not None:
            return pixels
        array = page.asarray()
    if "S" in page.axes and page.axes.index("S") == 0:  # planes one after the other
        array = np.moveaxis(array, 0, -1)
    return array[:, :, None] if array.ndim == 2 else array


def _stored(data: bytes, page: Any) -> np.ndarray[Any, Any] | None:
    """Return a page that is not compressed, as a view of the file; None if its values are not stored one by one."""
    dtype = page.dtype
    plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
    if not plain or dtype is None or page.bitspersample != dtype.itemsize * 8 or not page.is_contiguous:
        return None
    (start, *_), count = page.dataoffsets, math.prod(page.shape)
    if count * dtype.itemsize > len(data) - start:
        return None
    values = np.frombuffer(data, dtype.newbyteorder(page.parent.byteorder), count, start)
    return values.reshape(page.shape) if values.flags.aligned else None


def no_data_of(page: Any) -> float | None:
    """Return the value of the tag GDAL_NODATA of a tifffile page; None without one."""
    return parse_no_data(getattr(page.tags.get(_NO_DATA), "value", None))


def parse_no_data(text: Any) -> float | None:
    """Return the value of the tag GDAL_NODATA; None if there is none.

    >>> parse_no_data("-9999"), parse_no_data("nan "), parse_no_data("none")
    (-9999.0, nan, None)
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    try:
        return float(str(text).strip("\0 \r\n")) if text is not None else None
    except ValueError:
        return None


def tags_of(page: Any) -> dict[int, Any]:
    """Return the values of the tags of a tifffile page that describe its bands."""
    entries = ((tag, page.tags.get(tag)) for tag in raster.TAGS)
    return {tag: entry.value for tag, entry in entries if entry is not None}


def stored_statistics(path: str, sidecar: str | None) -> dict[str, raster.BandTags]:
    """Return the statistics that GDAL has stored of a file, by where they are.

    Raises:
        ImportError: the extra is not installed.
        Exception: any of tifffile, on damaged files.
    """
    tifffile, _ = libraries()
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        entries = {"its tags": raster.read_tags(tags_of(page), page.samplesperpixel, scaled=False)}
        if sidecar is not None:
            entries["its .aux.xml"] = raster.pam_statistics(sidecar, page.samplesperpixel)
    return {origin: tags for origin, tags in entries.items() if tags.statistics}


def read_mask(data: bytes) -> np.ndarray[Any, Any] | None:
    """Read the mask (H,W) that a TIFF has of its first image, True where a pixel counts; None without one.

    Raises:
        InputError: the extra is not installed.
        Exception: any of tifffile, on damaged files.
    """
    types = raster.subfile_types(data)
    if raster.mask_page(types) is None:
        return None
    tifffile, _ = libraries("a TIFF with a mask page")
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        return _mask(tiff, types)


def _mask(tiff: Any, types: list[int]) -> np.ndarray[Any, Any] | None:
    number = raster.mask_page(types)
    if number is None:
        return None
    page = tiff.pages[number]
    check_mask(page, tiff.pages[0])
    return np.asarray(page.asarray() != 0)


def check_mask(page: Any, image: Any) -> None:
    """Check that a tifffile page can be the mask of another.

    Raises:
        InputError: of another size, or in several bands.
    """
    size, own = (f"{one.imagewidth} x {one.imagelength}" for one in (image, page))
    if own != size or page.samplesperpixel != 1:
        raise InputError("mask", f"its mask page is {own} in {page.samplesperpixel} bands, not {size} in one")


def check_page(page: Any, size: int, reading: DecodeOptions) -> None:
    """Check that a tifffile page is an image that is read, and not too large.

    Args:
        page: the page.
        size: of the file, in bytes.
        reading: limits.

    Raises:
        InputError: it is not.
    """
    for name in ("imagewidth", "imagelength", "imagedepth", "samplesperpixel"):
        value = getattr(page, name)
        if not isinstance(value, int):  # several values: a tuple times a million would fill the memory
            raise InputError("unsupported", f"a TIFF whose {name} is {str(value)[:40]}")
    check_size(page.imagewidth, page.imagelength, reading)
    if page.imagedepth > 1:
        raise InputError("unsupported", "a volume, not an image")
    bits = page.bitspersample
    if isinstance(bits, tuple) and (page.samplesperpixel != 3 or bits != (5, 6, 5) or page.photometric != 2):
        raise InputError("unsupported", f"a TIFF whose BitsPerSample is {str(bits)[:40]}, which is not read")
    if page.compression not in libraries()[0].TIFF.DECOMPRESSORS:
        name = getattr(page.compression, "name", page.compression)
        raise InputError("unsupported", f"a TIFF in the compression {name}: save it with LZW or deflate")
    if (
        page.compression in (6, 7)
        and page.planarconfig == 1
        and page.samplesperpixel in (2, 4)
        and page.photometric < 3
    ):
        raise InputError("unsupported", f"a TIFF of {page.samplesperpixel} bands in JPEG: save it with LZW or deflate")
    if page.dtype is None:
        kind = "complex integers" if page.sampleformat == 5 else f"{bits}-bit samples of format {page.sampleformat}"
        raise InputError("unsupported", f"a TIFF of {kind}, which is not read")
    # 210 bytes can claim 17 GB of bands
    values = page.imagewidth * page.imagelength * page.samplesperpixel
    width = sum(bits) / 3 if isinstance(bits, tuple) else bits
    if page.compression == 1 and values * width * _stored_share(page) > 8 * size:
        raise InputError("truncated", f"truncated: {size} bytes for {values} values of {bits} bits")
    if values > 4 * reading.max_pixels:  # as many as RGBA of the largest image
        raise InputError("bomb", f"{values} values in {page.samplesperpixel} bands, more than four times --max-pixels")


def _stored_share(page: Any) -> float:
    """Return the share of a page's samples that are stored at least: tiles and strips may be left out as nodata."""
    counts = page.databytecounts
    missing = sum(not count for count in counts)
    return max(0, len(counts) - missing - 1) / len(counts) if missing else 1.0  # the last strip is shorter


def _channels_of_pages(tiff: Any, page: Any, pages: int, reading: DecodeOptions) -> tuple[Any, int]:
    """Return the channels of the first frame, where a writer put each into a page, as bands (H,W,C), and their number.

    None for pages that are frames.

    Raises:
        InputError: pages that are rows of an image with bands, or too many.
    """
    what = bands_as_pages((page.description or "").encode("latin-1", "replace"))
    if what is None or page.samplesperpixel != 1:
        return None, 0
    check_claims(page.description.encode("latin-1", "replace"))
    series = tiff.series[0]
    axes, shape = series.axes, series.shape
    place = axes.find("C")
    if place < 0 or axes[-2:] != "YX" or shape[-2:] != (page.imagelength, page.imagewidth):
        if what.endswith("channels"):
            return None, 0
        raise InputError(
            "unsupported",
            f"{pages} pages that are parts of {what}: save it with its bands in one page "
            '(tifffile: photometric="minisblack", planarconfig="contig")',
        )
    channels, step = shape[place], math.prod(shape[place + 1 : -2])
    if channels * page.imagewidth * page.imagelength > 4 * reading.max_pixels:
        raise InputError("bomb", f"{channels} channels, of more samples than four times --max-pixels")
    if channels == 1 or (channels - 1) * step >= len(series.pages):
        return None, 0
    return np.stack([series.pages[c * step].asarray() for c in range(channels)], axis=2), channels


def orientation(page: Any) -> int:
    """Return the orientation of a tifffile page, 1 to 8."""
    value = getattr(page.tags.get(_ORIENTATION), "value", 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def is_jpeg_of_ycbcr(page: Any) -> bool:
    """Return True for a tifffile page of YCbCr in JPEG, which is decoded to RGB."""
    return (
        int(page.photometric) == 6 and page.compression == 7 and page.samplesperpixel == 3 and page.bitspersample == 8
    )


def from_page(array: np.ndarray[Any, Any], page: Any, notes: list[str]) -> Decoded:
    """Return the samples (H,W,C) of a tifffile page as a decoded image.

    Raises:
        InputError: of a kind that is not read.
    """
    photometric = int(page.photometric)
    if is_jpeg_of_ycbcr(page):
        photometric = 2  # libjpeg has converted it
    if photometric not in (0, 1, 2):
        what = _PHOTOMETRIC.get(photometric, f"photometric interpretation {photometric}")
        raise InputError("unsupported", f"a TIFF of {what} in {array.dtype} samples: save it as gray or RGB")
    samples = array.shape[2]
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8  # 5, 6 and 5 bits expand to 8
    white = (1 << bits) - 1
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.dtype.kind == "u" and bits < 8 * array.dtype.itemsize and (top := int(array.max())) > white:
        raise InputError("unsupported", f"samples up to {top} in a TIFF whose header claims {bits} bits")
    if photometric == 0:  # white is zero
        if array.dtype.kind != "u":
            raise InputError("unsupported", f"a white-is-zero TIFF with samples of {array.dtype}")
        array = array.dtype.type(white) - array
    alpha = bool(page.extrasamples) and page.extrasamples[-1] in (1, 2) and samples in (2, 4)
    colors = samples - alpha
    mode = {1: "L", 3: "RGB"}.get(colors, f"bands{colors}") + ("A" if alpha else "")
    if alpha and page.extrasamples[-1] == 1:
        if array.dtype != np.uint8 or bits != 8:
            raise InputError("unsupported", "premultiplied alpha is not read at this depth")
        array = _unpremultiplied(array)
    if colors == 3 and photometric != 2:
        mode = "bands3"
    full_scale = None
    if array.dtype.kind == "u" and bits <= 16:
        array, full_scale = from_levels(array, white)
    decoded = split_alpha(array, f"{mode};{array.dtype}", "TIFF", alpha, notes)
    decoded.full_scale = full_scale
    decoded.white_is_zero = photometric == 0
    decoded.stored_bits = bits if bits < 8 else 0
    if full_scale is not None or bits < 8:
        decoded.depth = bits
    return decoded


def _unpremultiplied(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Divide 8-bit colors by their alpha, with Pillow's rounding; nothing divides where alpha is 0."""
    out = np.empty_like(array)
    for rows in row_slices(array):
        alpha = array[rows, :, -1:].astype(np.int32)
        divided = np.minimum(array[rows, :, :-1].astype(np.int32) * 255 // np.maximum(alpha, 1), 255)
        out[rows, :, :-1] = np.where(alpha == 0, array[rows, :, :-1], divided)
        out[rows, :, -1:] = alpha
    return out


def split_alpha(array: np.ndarray[Any, Any], mode: str, name: str, alpha: bool, notes: list[str]) -> Decoded:
    """Return an array (H,W,C) of one of the dtypes that are counted, its last channel as alpha or not."""
    depth = array.dtype.itemsize * 8
    pixels = to_supported_dtype(array)
    return Decoded(pixels, name, mode, depth, has_alpha=alpha, is_owned=pixels.flags.writeable, notes=notes)
