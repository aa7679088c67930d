"""Metadata of arrays that a copy keeps: packing and validity of CF, and the value of chunks that are not there."""

import os
from contextlib import ExitStack
from typing import Any

import numpy as np

from normcli.errors import InputError, library_text
from normcli.sources.volume import StoredVolume, open_dataset

_VALID = ("valid_min", "valid_max", "valid_range")
_OF_TYPE = ("_Unsigned", "dtype")  # the second is of xarray, whose bools are bytes
PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", *_VALID, *_OF_TYPE)


def attribute_of(value: Any) -> Any:
    """Return an attribute of `packing_of` in the type of its container."""
    if not isinstance(value, dict):
        return value
    dtype = np.dtype(value["dtype"])
    numbers = [float(text) if dtype.kind == "f" else int(text) for text in value["values"]]
    return np.array(numbers, dtype).reshape(value["shape"])[()]


def open_zarr(volume: StoredVolume) -> Any:
    """Return an array as the zarr library opens it.

    Raises:
        InputError: metadata that the library rejects.
    """
    import zarr

    try:
        return zarr.open_array(os.path.join(volume.source, volume.path), mode="r")  # noqa: PTH118
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            "damaged", f"{volume.path or 'its metadata'}: cannot be read as Zarr: {library_text(error)}"
        ) from None


def packing_of(volume: StoredVolume) -> dict[str, Any]:
    """Return the attributes of packing and validity of an array: dtype and values, or text."""
    if volume.kind == "nifti":
        return {}
    if volume.kind == "zarr":
        attributes = dict(open_zarr(volume).attrs)
        return {name: attributes[name] for name in PACKING if name in attributes}
    with ExitStack() as stack:
        attributes = open_dataset(stack, volume.source, volume.path).attrs
        return {name: _typed(attributes[name]) for name in PACKING if name in attributes}


def _typed(value: Any) -> Any:
    if isinstance(value, bytes | str):
        return value if isinstance(value, str) else value.decode("utf-8", "replace")
    array = np.asarray(value)
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "values": [repr(one) for one in array.ravel().tolist()],
    }


def stored_dtype(volume: StoredVolume) -> str:
    """Return the type of samples in the file, which `_Unsigned` may read as another one."""
    if volume.kind == "nifti":
        return volume.dtype
    if volume.kind == "zarr":
        return str(open_zarr(volume).dtype.str)
    with ExitStack() as stack:
        return str(open_dataset(stack, volume.source, volume.path).dtype.str)


def background(volume: StoredVolume) -> float | int:
    """Return the value of chunks that are not stored, of integers an integer; 0 if there is none."""
    if volume.kind == "nifti":
        return 0.0
    if volume.kind == "zarr":
        fill: float | int = volume.array.fill
        return fill
    with ExitStack() as stack:
        value = open_dataset(stack, volume.source, volume.path).fillvalue
        return float(value or 0) if np.asarray(value).dtype.kind == "f" else int(value or 0)


def number_of(text: str) -> float | int:
    """Return the number of a text; those of 64 bits are no float64.

    >>> number_of("-9223372036854775806"), number_of("1e20")
    (-9223372036854775806, 1e+20)
    """
    return int(text) if text.removeprefix("-").isdigit() else float(text)
