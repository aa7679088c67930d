"""NumPy's files: .npy with one tensor, .npz with several by key."""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from normcli.errors import TensorError
from normcli.tensor.raw import Reserved, Stored, content, stamp_of

MAGIC = b"\x93NUMPY"


def _refuse(path: object, why: str) -> NoReturn:
    raise TensorError(f"{path}: {why}")


def _refuse_damage(path: object, what: str, error: Exception) -> NoReturn:
    if isinstance(error, TensorError | MemoryError):
        raise error
    text = " ".join(str(error).split())[:200]
    _refuse(path, f"{what} ({text or type(error).__name__})")


def header(file: IO[bytes], path: object) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an .npy: shape, whether it is in Fortran order, dtype.

    Raises:
        TensorError: not an .npy, a damaged header, or elements that are objects.
    """
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file)
        elif version in ((2, 0), (3, 0)):
            shape, fortran, dtype = npy.read_array_header_2_0(file)
        else:
            _refuse(path, f"npy version {version[0]}.{version[1]} is not known")
    except TensorError:
        raise
    except Exception as error:  # the header is Python text: whatever is wrong with it may be raised
        _refuse(path, f"not a sound npy header ({type(error).__name__})")
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        _refuse(path, f"elements are {'objects' if dtype.hasobject else 'records'}, not numbers: {dtype}")
    if any(n < 0 for n in shape):
        _refuse(path, f"the header claims shape {shape}")
    return shape, fortran, dtype


def read_npy(path: Path) -> Stored | NDArray[Any]:
    """Open an .npy; its samples are read when they are asked for.

    Raises:
        TensorError: the header is damaged, or claims another size than the file has.
    """
    with path.open("rb") as file:
        shape, fortran, dtype = header(file, path)
        offset = file.tell()
        stamp = stamp_of(file.fileno())
    claimed, found = math.prod(shape) * dtype.itemsize, stamp[1] - offset
    if claimed != found:
        _refuse(path, f"the header claims {claimed} bytes for shape {shape} {dtype}, the file has {found}")
    if fortran and len(shape) > 1:
        with Stored(path, offset, shape[::-1], dtype, stamp) as stored:
            return stored.whole().transpose()
    return Stored(path, offset, shape, dtype, stamp)


def read_stream(file: IO[bytes], name: str, limit: int | None) -> NDArray[Any]:
    """Read an .npy from a pipe.

    Raises:
        TensorError: damaged, cut short, followed by other bytes, or larger than the limit.
    """
    shape, fortran, dtype = header(file, name)
    claimed = math.prod(shape) * dtype.itemsize
    if limit is not None and claimed > limit:
        _refuse(name, f"{claimed} bytes do not fit into the memory limit of {limit}: raise --memory-limit")
    parts, found = [], 0
    while found <= claimed and (part := file.read(min(claimed - found + 1, 1 << 24))):
        parts.append(part)  # grows with what comes, whatever the header claims
        found += len(part)
    if found != claimed:
        _refuse(name, f"the header claims {claimed} bytes, {'more' if found > claimed else found} came")
    array = np.frombuffer(b"".join(parts), dtype)
    return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def npz_keys(path: Path) -> list[str]:
    """List the keys of an .npz, in the order of the file.

    Raises:
        TensorError: not a sound zip.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:  # zipfile raises what it stumbles on
        _refuse_damage(path, "not a sound npz", error)


def read_npz(path: Path, key: str, limit: int | None) -> NDArray[Any]:
    """Read one tensor of an .npz, its checksum checked.

    Raises:
        TensorError: no such key, a damaged member, or one larger than it says or than the limit.
    """
    where = f"{path}:{key}"
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{key}.npy" if f"{key}.npy" in archive.NameToInfo else key)
            with archive.open(info) as member:
                return read_stream(member, where, limit)
    except KeyError:
        raise TensorError(f"{path}: no key {key!r}; it has {', '.join(npz_keys(path)) or 'none'}") from None
    except Exception as error:  # zipfile and zlib raise what they stumble on
        _refuse_damage(where, "damaged", error)


def _head(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    head = io.BytesIO()
    described = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(head, described)
    return head.getvalue()


def check_writable(dtype: np.dtype[Any]) -> None:
    """Refuse what NumPy's files cannot say.

    Raises:
        TensorError: bfloat16.
    """
    if dtype.name == "bfloat16":
        raise TensorError("npy and npz have no bfloat16: write .safetensors or .pt, or give --dtype float32")


def create_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Reserved:
    """Make an .npy with room for a tensor, to be filled by slices."""
    check_writable(dtype)
    return Reserved(path, _head(shape, dtype), shape, dtype)


def write_npy(file: IO[bytes], array: NDArray[Any]) -> None:
    """Write an .npy into an open file or pipe."""
    check_writable(array.dtype)
    file.write(_head(array.shape, array.dtype))
    file.write(content(np.ascontiguousarray(array)))


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz, not compressed, the same bytes for the same tensors."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            check_writable(array.dtype)
            info = zipfile.ZipInfo(f"{key}.npy", (1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=True) as member:
                write_npy(member, array)
