"""NumPy's files: .npy with one tensor, .npz with several by key."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from normcli.errors import InputError, TensorError
from normcli.storage import npy_format
from normcli.storage.npy_format import bytes_of, npy_header, read_npy_header
from normcli.tensor.raw import ReservedTensor, StoredTensor, stamp_of


def _raise_damaged(path: object, problem: str, error: Exception) -> NoReturn:
    if isinstance(error, TensorError | MemoryError):
        raise error
    text = " ".join(str(error).split())[:200]
    raise TensorError(f"{path}: {problem} ({text or type(error).__name__})")


def _read_header(file: IO[bytes], path: object) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, Fortran order and dtype, up to the first element.

    Raises:
        TensorError: not an .npy, a damaged header, or elements that are objects or records.
    """
    try:
        header = read_npy_header(file)
    except InputError as error:
        raise TensorError(f"{path}: {error.message}") from None
    dtype = np.dtype(header.dtype)
    if dtype.names is not None or dtype.subdtype is not None:
        raise TensorError(f"{path}: elements are records, not numbers: {dtype}")
    return header.shape, header.fortran, dtype


def read_npy(path: Path) -> StoredTensor | NDArray[Any]:
    """Open an .npy; its samples are read when a slice asks for them.

    Raises:
        TensorError: the header is damaged, or claims another size than the file has.
    """
    with path.open("rb") as file:
        shape, fortran, dtype = _read_header(file, path)
        offset = file.tell()
        stamp = stamp_of(file.fileno())
    claimed, present = math.prod(shape) * dtype.itemsize, stamp.size - offset
    if claimed != present:
        raise TensorError(
            f"{path}: the header claims {claimed} bytes for shape {shape} {dtype}, the file has {present}"
        )
    if fortran and len(shape) > 1:
        with StoredTensor(path, offset, shape[::-1], dtype, stamp) as tensor:
            return tensor.read_all().transpose()
    return StoredTensor(path, offset, shape, dtype, stamp)


def read_npy_stream(file: IO[bytes], name: str, limit: int | None) -> NDArray[Any]:
    """Read an .npy from a pipe.

    Raises:
        TensorError: damaged, cut short, followed by other bytes, or larger than the limit.
    """
    shape, fortran, dtype = _read_header(file, name)
    claimed = math.prod(shape) * dtype.itemsize
    if limit is not None and claimed > limit:
        raise TensorError(f"{name}: {claimed} bytes exceed the memory limit of {limit}: raise --memory-limit")
    parts, size = [], 0
    while size <= claimed and (part := file.read(min(claimed - size + 1, 1 << 24))):
        parts.append(part)  # grows with the bytes that arrive, whatever the header claims
        size += len(part)
    if size != claimed:
        raise TensorError(f"{name}: the header claims {claimed} bytes, {'more' if size > claimed else size} arrived")
    array = np.frombuffer(b"".join(parts), dtype)
    return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def npz_keys(path: Path) -> list[str]:
    """Return the keys of an .npz, in the order of the file.

    Raises:
        TensorError: not a valid zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # zipfile raises many types on damaged files
        _raise_damaged(path, "not a valid npz file", error)


def read_npz(path: Path, key: str, limit: int | None) -> NDArray[Any]:
    """Read one tensor of an .npz and verify its checksum.

    Raises:
        TensorError: no such key, a damaged member, or one larger than it claims or than the limit.
    """
    where = f"{path}:{key}"
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{key}.npy" if f"{key}.npy" in archive.NameToInfo else key)
            with archive.open(info) as member:
                return read_npy_stream(member, where, limit)
    except KeyError:
        raise TensorError(f"{path}: no key {key!r}; it has {', '.join(npz_keys(path)) or 'none'}") from None
    except Exception as error:  # zipfile and zlib raise many types on damaged files
        _raise_damaged(where, "damaged", error)


def check_writable(dtype: np.dtype[Any]) -> None:
    """Raise for a dtype that NumPy's files cannot store.

    Raises:
        TensorError: bfloat16.
    """
    if dtype.name == "bfloat16":
        raise TensorError("npy and npz have no bfloat16: write .safetensors or .pt, or give --dtype float32")


def create_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ReservedTensor:
    """Create an .npy with room for a tensor, to be filled by slices."""
    check_writable(dtype)
    return ReservedTensor(path, npy_header(shape, dtype.str), shape, dtype)


def write_npy(file: IO[bytes], array: NDArray[Any]) -> None:
    """Write an .npy into an open file or pipe."""
    check_writable(array.dtype)
    file.write(npy_header(array.shape, array.dtype.str))
    file.write(bytes_of(np.ascontiguousarray(array)))


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz, not compressed, the same bytes for the same tensors."""
    for array in arrays.values():
        check_writable(array.dtype)
    npy_format.write_npz(path, {key: np.asarray(array, order="C") for key, array in arrays.items()}, mode=0o600)
