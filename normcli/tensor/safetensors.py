"""The .safetensors container: opened by name, written by blocks."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normcli import platforms
from normcli.errors import InputError, TensorError, UnsupportedTensorError
from normcli.storage.npy import ReservedTensor, StoredTensor, UnreadableBytes, UnreadableTensor, bytes_of, stamp_of
from normcli.storage.safetensors_format import bfloat16, read_safetensors_header, safetensors_header

# elements in memory, or in another file
TensorContent = NDArray[Any] | ReservedTensor | StoredTensor | UnreadableBytes


def read(path: Path) -> tuple[dict[str, StoredTensor | UnreadableTensor], dict[str, str]]:
    """Open the tensors of a file, and return its metadata.

    Raises:
        TensorError: the header is damaged, or its sizes are not those of the file.
    """
    with path.open("rb") as file:
        stamp = stamp_of(file.fileno())
        try:
            entries, metadata = read_safetensors_header(file, stamp.size)
        except InputError as error:
            raise TensorError(f"{path}: {error.message}") from None
    tensors: dict[str, StoredTensor | UnreadableTensor] = {}
    for name, entry in entries.items():
        if not entry.readable:
            problem = UnsupportedTensorError(f"{path}:{name}: dtype {entry.dtype} cannot be read")
            tensors[name] = UnreadableBytes(entry.shape, problem, entry.dtype, (path, entry.start, entry.size))
            continue
        dtype = bfloat16() if entry.dtype == "bfloat16" else np.dtype(entry.dtype)
        tensors[name] = StoredTensor(path, entry.start, entry.shape, dtype, stamp)
    return tensors, metadata


def _dtype_of(content: TensorContent) -> np.dtype[Any] | str:
    return content.kind if isinstance(content, UnreadableBytes) else content.dtype


def _header(
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype[Any] | str]], metadata: Mapping[str, str] | None = None
) -> bytes:
    try:
        return safetensors_header(tensors, metadata)
    except InputError as error:
        raise TensorError(error.message) from None


def create(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ReservedTensor:
    """Create a file with room for one tensor, to be filled by slices."""
    return ReservedTensor(path, _header({name: (shape, dtype)}), shape, dtype)


def write(path: Path, arrays: Mapping[str, TensorContent], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name.

    Raises:
        TensorError: a dtype that the format lacks.
    """
    header = _header({name: (a.shape, _dtype_of(a)) for name, a in arrays.items()}, metadata)
    with path.open("xb") as file:
        platforms.reserve(file.fileno(), len(header) + sum(a.nbytes for a in arrays.values()))
        file.write(header)
        for array in arrays.values():
            if not isinstance(array, np.ndarray | np.generic):
                file.writelines(array.parts())
            else:
                file.write(bytes_of(np.ascontiguousarray(array, array.dtype.newbyteorder("<"))))
        file.flush()
        os.fsync(file.fileno())
