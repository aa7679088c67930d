"""The .safetensors container: a JSON header, then the tensors as plain bytes.

Read and written here and not by its library, which maps files: so large tensors go by blocks. The checks are
the format's own: header at most 100 MB, tensors inside the file, without holes and overlaps.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from normcli.errors import MissingExtraError, TensorError
from normcli.tensor.raw import Reserved, Stored, content, reserve, stamp_of

MAX_HEADER = 100_000_000

TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
NAMES = {np.dtype(code): name for name, code in TYPES.items()}


def bfloat16() -> np.dtype[Any]:
    """Give the dtype that NumPy itself lacks.

    Raises:
        MissingExtraError: ml_dtypes is not installed.
    """
    try:
        import ml_dtypes
    except ImportError:
        raise MissingExtraError("bfloat16", "ml_dtypes", "safetensors") from None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def _refuse(path: Path, why: str) -> NoReturn:
    raise TensorError(f"{path}: not a sound safetensors file: {why}")


def read(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Open the tensors of a file, and give its metadata.

    Raises:
        TensorError: a header that is damaged, or lies about sizes.
    """
    with path.open("rb") as file:
        stamp = stamp_of(file.fileno())
        size = stamp[1]
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            _refuse(path, f"the header claims {length} bytes of a file of {size}")
        try:
            entries = json.loads(file.read(length).decode())
        except (ValueError, RecursionError) as error:
            _refuse(path, f"the header is not JSON ({type(error).__name__})")
    if not isinstance(entries, dict):
        _refuse(path, "the header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(path, "its metadata is not a map of texts")
    places = {name: _place(path, name, entry) for name, entry in entries.items()}
    end = 0
    for name, (start, stop, _, _) in sorted(places.items(), key=lambda item: item[1][:2]):
        if start != end:
            _refuse(path, f"{name!r} starts at {start}, not at {end}")
        end = stop
    if 8 + length + end != size:
        _refuse(path, f"its tensors end at {8 + length + end}, the file at {size}")
    tensors = {
        name: Stored(path, 8 + length + start, shape, bfloat16() if code == "BF16" else np.dtype(TYPES[code]), stamp)
        for name, (start, _, shape, code) in places.items()
    }
    return tensors, metadata


def _place(path: Path, name: str, entry: Any) -> tuple[int, int, tuple[int, ...], str]:
    try:
        code, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, start, stop)
        if not all(type(n) is int and n >= 0 for n in numbers):
            _refuse(path, f"{name!r} has the shape {shape} at {start} to {stop}")
    except (TypeError, KeyError, ValueError):
        _refuse(path, f"the entry of {name!r} is incomplete")
    if not isinstance(code, str) or (code != "BF16" and code not in TYPES):
        _refuse(path, f"{name!r} has the dtype {code!r}")
    item = 2 if code == "BF16" else np.dtype(TYPES[code]).itemsize
    if math.prod(shape) * item != stop - start:
        _refuse(path, f"{name!r} of shape {shape} {code} claims {stop - start} bytes")
    return start, stop, shape, code


def _head(tensors: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (shape, dtype) in tensors.items():
        code = "BF16" if dtype.name == "bfloat16" else NAMES.get(dtype.newbyteorder("<"))
        if code is None:
            raise TensorError(f"safetensors has no dtype {dtype} ({name})")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def create(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Reserved:
    """Make a file with room for one tensor, to be filled by slices."""
    return Reserved(path, _head({name: (shape, dtype)}, None), shape, dtype)


def write(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name.

    Raises:
        TensorError: a dtype that the format lacks.
    """
    head = _head({name: (a.shape, a.dtype) for name, a in arrays.items()}, metadata)
    with path.open("xb") as file:
        reserve(file.fileno(), len(head) + sum(a.nbytes for a in arrays.values()))
        file.write(head)
        for array in arrays.values():
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            file.write(content(little))
        file.flush()
        os.fsync(file.fileno())
