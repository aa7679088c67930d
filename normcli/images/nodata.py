"""Samples that a value marks as "no data": that of the file's GDAL tag, or those of the option `nodata`."""

import math
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.images.convert import Decoded
from normcli.options.shared import DecodeOptions

Array = np.ndarray[Any, Any]


def mark_no_data(image: Decoded, reading: DecodeOptions) -> None:
    """Make the samples of a decoded image invalid that have a nodata value, each in its own band.

    Where the tag's value is not used, or no sample can have it, a note says so.

    Raises:
        InputError: the samples cannot have a value of the option.
    """
    if reading.nodata in ("tag", "none"):
        assert image.no_data is not None
        value = _decoded(image, image.no_data)
        if value is None or not holds(image.pixels.dtype, value):
            image.notes.append(f"unusable_nodata:{image.no_data:.10g}")
        elif (hidden := equal(image.colors, value)).any():
            if reading.nodata == "none":
                image.notes.append(f"nodata:{image.no_data:.10g}")
            else:
                hide(image, hidden)
        return
    for text in str(reading.nodata).split(","):
        if not holds(image.pixels.dtype, float(text)):
            raise InputError("nodata", f"{image.pixels.dtype} samples cannot have the nodata value {text} (--nodata)")
        hide(image, equal(image.colors, float(text)))


def mark_index(image: Decoded, indexes: Array, reading: DecodeOptions) -> None:
    """Mark as invalid the pixels whose palette index (H,W) is the value of the file's tag.

    A tag that no index can have is left to `mark_no_data`, which notes it.
    """
    value = image.no_data
    if value is None or not holds(indexes.dtype, value):
        return
    image.no_data = None
    if (hidden := equal(indexes, value)).any():
        if reading.nodata == "none":
            image.notes.append(f"nodata:{value:.10g}")
        elif reading.nodata == "tag":
            hide(image, np.repeat(hidden[:, :, None], image.colors.shape[2], axis=2))


def hide(image: Decoded, hidden: Array) -> None:
    """Make samples of an image invalid, in addition to those that are; `hidden` is bool (H,W,C)."""
    if hidden.any():
        image.valid = ~hidden if image.valid is None else image.valid & ~hidden


def _decoded(image: Decoded, value: float) -> float | None:
    """Return the value that stored samples of this value have after decoding; None if colors replaced them."""
    if image.mode.startswith("P"):
        return None
    white, scale = stored_levels(image)
    if image.white_is_zero:
        value = white - value
    return value * scale if scale == 1 or 0 <= value <= white else None


def stored_levels(image: Decoded) -> tuple[int, int]:
    """Return the highest stored level of an integer image, and the factor that decoding multiplied levels by."""
    if image.stored_bits:
        white = (1 << image.stored_bits) - 1
        return white, 255 // white
    return image.full_scale or (65535 if image.pixels.dtype == np.uint16 else 255), 1


def holds(dtype: "np.dtype[Any]", value: float) -> bool:
    """Return True if a sample of this type can have a value, which floats round.

    >>> holds(np.dtype("u1"), 255), holds(np.dtype("u1"), -9999), holds(np.dtype("u2"), 0.5)
    (True, False, False)
    >>> holds(np.dtype("f4"), 1e300), holds(np.dtype("f4"), -3.4e38), holds(np.dtype("f4"), math.nan)
    (False, True, True)
    """
    if dtype.kind == "u":
        return math.isfinite(value) and 0 <= value <= np.iinfo(dtype).max and value == int(value)
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(value).astype(dtype))) or not math.isfinite(value)


def equal(pixels: Array, value: float) -> Array:
    """Return True (H,W,C) where samples have a value that their type holds; NaN is equal to NaN.

    >>> equal(np.float32([[[0.1, np.nan]]]), 0.1).tolist(), equal(np.float32([[[0.1, np.nan]]]), math.nan).tolist()
    ([[[True, False]]], [[[False, True]]])
    """
    if math.isnan(value):
        return np.isnan(pixels)
    return np.asarray(pixels == np.asarray(value).astype(pixels.dtype))
