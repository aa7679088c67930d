"""DICOM, by pydicom (the `[medical]` extra): the first frame, with rescale, padding and a reversed gray scale.

Stored integers are counted; RescaleSlope and RescaleIntercept are the scale of the results, such as Hounsfield units.
"""

import contextlib
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np

from normcli import late_imports
from normcli.errors import InputError
from normcli.images.convert import Decoded, check_size, from_samples
from normcli.images.tags import apply_tags
from normcli.options.shared import DecodeOptions

Array = np.ndarray[Any, Any]
_MOST_READS = 500_000  # of elements and items of sequences: 300 bytes as an object, and 8 in the file
_DEFLATED, _PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_META, _LONG_VRS = b"\x02\x00", (b"OB", b"OW", b"OF", b"OD", b"OL", b"SQ", b"UC", b"UR", b"UT", b"UN")
_JPEG_2000 = b"\xff\x4f\xff\x51"
_BOMB_RATIO, _HARMLESS = 100, 1 << 26
_LARGEST_PICTURE = 8  # bits of gray that is a picture, from 0 to 1; gray of more bits is a measurement
# Segmentation Storage and Label Map Segmentation Storage
_LABELS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_REQUIRED = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
_MISSING = "pip install pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg"


def decode(data: bytes, reading: DecodeOptions) -> Decoded:
    """Decode the first frame.

    Raises:
        MissingExtraError: the extra is not installed.
        InputError: a decoder is not installed, no pixels, too large, or cut short.
        Exception: any of pydicom, on damaged files.
    """
    pydicom = late_imports.required("pydicom", "DICOM", "medical", "pydicom 3")
    pixels = late_imports.required("pydicom.pixels", "DICOM", "medical", "pydicom 3")
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")  # on values that break the standard
    dataset = _parsed(pydicom, data)
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError("not-an-image", f"a DICOM file without pixels ({_kind(dataset)})")
    _check_elements(dataset)
    check_size(int(dataset.Columns), int(dataset.Rows), reading)
    stored = _first_frame(dataset, pixels.pixel_array)
    gray = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    scale, hidden = (1.0, 0.0), None
    if gray.startswith("MONOCHROME"):
        scale, hidden = _rescale(dataset, reading), _padding(stored, dataset, pixels.pixel_array)
    elif gray == "PALETTE COLOR":
        stored = _colors(stored, dataset, pixels.apply_color_lut)
    bits = int(dataset.get("BitsStored", stored.itemsize * 8))
    if gray == "MONOCHROME1" and stored.dtype.kind in "ui":
        white = -1 if stored.dtype.kind == "i" else (1 << bits) - 1
        stored = (white - stored.astype(np.int64)).astype(stored.dtype)
    if bits == 1:
        stored = stored * np.uint8(255)
    samples = stored if stored.ndim == 3 else stored[:, :, None]
    image = from_samples(samples, "DICOM", gray.replace(" ", "_"), bits, white_is_zero=gray == "MONOCHROME1")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        image.notes.append("multi-frame")
    if dataset.get("SOPClassUID") in _LABELS:
        image.notes.append("labels")
    apply_tags(image, scale, hidden, reading)
    measured = gray.startswith("MONOCHROME") and bits > _LARGEST_PICTURE
    if measured and not image.scales and reading.scale_offset != "none":
        image.scales = ((1.0, 0.0),)
    return image


class _Bytes(io.BytesIO):
    """A file whose elements are counted as they are read, in sequences too: pydicom makes an object of each."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read some bytes; raise OSError after more reads than files with images take."""
        self.reads += 1
        if self.reads > _MOST_READS:
            raise OSError("too many elements")
        return super().read(size)


def _parsed(pydicom: Any, data: bytes) -> Any:
    """Return the dataset of a file.

    Raises:
        InputError: too many elements, or too deep.
        Exception: any of pydicom, on damaged files.
    """
    file = _Bytes(_inflated(data))
    try:
        return pydicom.dcmread(file)
    except RecursionError:
        raise InputError("bomb", "sequences are nested too deeply") from None
    except Exception:
        if file.reads > _MOST_READS:
            raise InputError("bomb", f"more than {_MOST_READS // 2:,} elements and items of sequences") from None
        raise


def _inflated(data: bytes) -> bytes:
    """Inflate the elements of a deflated file; return any other file as it is.

    pydicom inflates without a limit.

    Raises:
        InputError: damaged, or a bomb.
    """
    at, deflated = 132, False
    while data[at : at + 2] == _META and at + 12 <= len(data):
        is_long = data[at + 4 : at + 6] in _LONG_VRS
        head, length = (12, 8) if is_long else (8, 6)
        size = int.from_bytes(data[at + length : at + head], "little")
        deflated |= data[at + head : at + head + size].rstrip(b"\0 ") == _DEFLATED
        at += head + size
    if not deflated:
        return data
    inflater, most = zlib.decompressobj(-zlib.MAX_WBITS), max(_HARMLESS, _BOMB_RATIO * len(data))
    plain = inflater.decompress(data[at:], most + 1)
    if len(plain) > most:
        raise InputError("bomb", f"deflated elements that expand to more than {most:,} bytes")
    return data[:at].replace(_DEFLATED, _PLAIN) + plain


def _kind(dataset: Any) -> str:
    """Return the name of the kind of object, for a message."""
    uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")  # a DICOMDIR has no other
    return str(getattr(uid, "name", "") or dataset.get("Modality", "") or "unknown")[:80]


def _check_elements(dataset: Any) -> None:
    """Check that the elements of pixels are there, and samples the lowest bits of their words (PS3.5, section 8.1.1).

    Raises:
        InputError: an element is missing, or samples are at other bits, as in files from before 2009.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    missing = next((name for name in _REQUIRED if dataset.get(name) is None), None)
    if syntax is None or missing is not None:
        raise InputError("damaged", f"its header has no {'TransferSyntaxUID' if syntax is None else missing}")
    allocated, stored, high = (dataset.get(name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if None not in (allocated, stored, high) and stored < allocated and high != stored - 1 and not syntax.is_compressed:
        what = f"BitsStored {stored} and HighBit {high} of BitsAllocated {allocated}"
        raise InputError("unsupported", f"{what}: only samples whose HighBit is BitsStored - 1 are read")


def _first_frame(dataset: Any, pixel_array: Any, **options: bool) -> Array:
    """Return the stored samples (H,W) or (H,W,C) of the first frame; color as RGB.

    Raises:
        InputError: cut short, or compressed in a way that no installed library decodes.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    _check_frame(dataset)
    try:
        frame: Array = pixel_array(dataset, index=0, **options)
    except (RuntimeError, NotImplementedError) as error:
        text = " ".join(str(error).split())
        if "by all available plugins" in text:
            cause = text.rpartition("plugins: ")[2][:120]
            raise InputError("damaged", f"cannot be decoded: {cause} (other decoders: {_MISSING})") from None
        if isinstance(error, NotImplementedError) or "missing dependencies" in text or "nable to decompress" in text:
            name = getattr(syntax, "name", None) or "an unknown syntax"
            raise InputError(
                "unsupported", f"compressed as {name}: no installed library decodes it ({_MISSING})"
            ) from None
        raise
    except ValueError as error:
        if "less than expected" in str(error) or "no frame" in str(error).lower():
            raise InputError("truncated", "the pixels are cut short") from None
        raise
    return frame


def _check_frame(dataset: Any) -> None:
    """Check that the first frame is compressed in the size that the file has: decoders take the frame's own.

    Raises:
        InputError: it is larger.
    """
    from pydicom.encaps import get_frame

    width = height = 0
    with contextlib.suppress(Exception):  # a damaged file, or one that is not compressed: `pixel_array` names it
        frame = get_frame(dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
        width, height = _frame_size(frame)
    if width * height > int(dataset.Rows) * int(dataset.Columns):
        what = f"{width} x {height} pixels, but its header has {dataset.Columns} x {dataset.Rows}"
        raise InputError("damaged", f"its first frame has {what}")


def _frame_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a frame of JPEG, JPEG-LS or JPEG 2000; zeros if it has none.

    >>> _frame_size(bytes.fromhex("ffd8 ffc0 0011 08 0010 0020 03".replace(" ", "")))
    (32, 16)
    """
    at = data.find(_JPEG_2000, 0, 1 << 12)
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
        return right - left, bottom - top
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    return 0, 0


def _colors(stored: Array, dataset: Any, apply_color_lut: Any) -> Array:
    """Return the colors of a palette: 8 or 16 bits, as its descriptor has them (PS3.3, section C.7.6.3.1.6)."""
    if not dataset.file_meta.TransferSyntaxUID.is_little_endian:  # pydicom takes the bytes as they are
        for color in ("Red", "Green", "Blue", "Alpha"):
            name = f"{color}PaletteColorLookupTableData"
            if name in dataset and dataset[name].VR == "OW":
                dataset[name].value = np.frombuffer(dataset[name].value, np.uint16).byteswap().tobytes()
    colors: Array = apply_color_lut(stored, dataset)
    if dataset.RedPaletteColorLookupTableDescriptor[2] == 8 and colors.itemsize == 2:  # each in a word of 16
        return (colors & 0xFF).astype(np.uint8)
    return colors


def _rescale(dataset: Any, reading: DecodeOptions) -> tuple[float, float]:
    """Return RescaleSlope and RescaleIntercept, of a file of several frames those of its first one.

    Raises:
        InputError: a slope of 0, numbers that are not finite, or a table of values instead.
    """
    if reading.scale_offset == "none":
        return 1.0, 0.0
    if "ModalityLUTSequence" in dataset:
        raise InputError(
            "scale", "its values follow a table, the Modality LUT, which is not read (--scale-offset none ignores it)"
        )
    own = _functional_group(dataset)
    slope, intercept = (own.get(name, dataset.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    scale = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if not np.isfinite(scale).all() or scale[0] == 0:
        raise InputError(
            "scale", f"its rescale slope is {slope}, its intercept {intercept} (--scale-offset none ignores both)"
        )
    return scale


def _functional_group(dataset: Any) -> Any:
    """Return the pixel value transformation of the first frame (PS3.3, C.7.6.16.2.9), or {} where there is none."""
    for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = dataset.get(name)
        sequence = groups[0].get("PixelValueTransformationSequence") if groups else None
        if sequence:
            return sequence[0]
    return {}


def _padding(stored: Array, dataset: Any, pixel_array: Any) -> Array | None:
    """Return True (H,W) where samples are padding; None where none is."""
    kind = {"f4": "Float", "f8": "DoubleFloat"}.get(stored.dtype.str[1:], "")
    value, limit = (dataset.get(f"{kind}PixelPadding{name}") for name in ("Value", "RangeLimit"))
    if not isinstance(value, int | float):
        return None
    ends = sorted(_signed(one, stored.dtype) for one in (value, limit if isinstance(limit, int | float) else value))
    bits = int(dataset.get("BitsStored", 8 * stored.itemsize)) - (stored.dtype.kind == "i")
    if (
        stored.dtype.kind in "ui"
        and bits < 8 * stored.itemsize
        and any((end if end >= 0 else ~end) >> bits for end in ends)
    ):
        stored = _first_frame(dataset, pixel_array, correct_unused_bits=False)  # no sample of these bits is padding
    hidden = (stored >= ends[0]) & (stored <= ends[1])
    return hidden if hidden.any() else None


def _signed(value: float, dtype: "np.dtype[Any]") -> Any:
    """Return a value that was written as unsigned as one of a signed type.

    >>> _signed(63536, np.dtype("i2")), _signed(-2000, np.dtype("i2")), _signed(63536, np.dtype("u2"))
    (-2000, -2000, 63536)
    """
    return value - (1 << 8 * dtype.itemsize) if dtype.kind == "i" and value > np.iinfo(dtype).max else value
