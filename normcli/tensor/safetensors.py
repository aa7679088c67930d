"""The .safetensors container: opened by name, written by blocks."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normcli import platforms
from normcli.errors import InputError, TensorError
from normcli.storage.npy_format import bytes_of
from normcli.storage.safetensors_format import bfloat16, read_safetensors_header, safetensors_header
from normcli.tensor.npy import ReservedTensor, StoredTensor, stamp_of


def read(path: Path, key: str | None = None) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Open the tensors of a file, and return its metadata.

    Args:
        path: the file.
        key: the tensor that is of interest; then another of a type that cannot be read does no harm.

    Raises:
        TensorError: the header is damaged, its sizes are not those of the file, or a dtype that cannot be read.
    """
    with path.open("rb") as file:
        stamp = stamp_of(file.fileno())
        try:
            entries, metadata = read_safetensors_header(file, stamp.size)
        except InputError as error:
            raise TensorError(f"{path}: {error.message}") from None
    tensors = {}
    for name, entry in entries.items():
        if key is not None and name != key and key in entries:
            continue
        if not entry.readable:
            remedy = "" if name == key else f" (name the tensors that are wanted, {path}:KEY)"
            raise TensorError(f"{path}:{name}: dtype {entry.dtype} cannot be read{remedy}")
        dtype = bfloat16() if entry.dtype == "bfloat16" else np.dtype(entry.dtype)
        tensors[name] = StoredTensor(path, entry.start, entry.shape, dtype, stamp)
    return tensors, metadata


def _header(
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    try:
        return safetensors_header(tensors, metadata)
    except InputError as error:
        raise TensorError(error.message) from None


def create(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ReservedTensor:
    """Create a file with room for one tensor, to be filled by slices."""
    return ReservedTensor(path, _header({name: (shape, dtype)}), shape, dtype)


def write(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name.

    Raises:
        TensorError: a dtype that the format lacks.
    """
    header = _header({name: (a.shape, a.dtype) for name, a in arrays.items()}, metadata)
    with path.open("xb") as file:
        platforms.reserve(file.fileno(), len(header) + sum(a.nbytes for a in arrays.values()))
        file.write(header)
        for array in arrays.values():
            file.write(bytes_of(np.ascontiguousarray(array, array.dtype.newbyteorder("<"))))
        file.flush()
        os.fsync(file.fileno())
