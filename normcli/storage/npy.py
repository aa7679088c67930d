"""NumPy's files: .npy with one array, .npz with several by key; and tensors stored as plain bytes in any file.

Headers are parsed without evaluating anything, and written as NumPy writes them (`numpy.lib.format`, versions 1 to 3).
Tensors are read and written by slices of samples and never mapped: a mapped output dies by SIGBUS on a full disk and
mapped inputs count as resident memory; `pread` and `pwrite` on a file whose space is reserved first do neither, and
threads may share the file.
"""

import ast
import io
import math
import os
import re
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np

from normcli import platforms
from normcli.errors import InputError, TensorError, UnsupportedTensorError, listed

_MAGIC = b"\x93NUMPY"
_VERSIONS = {1: (10, "<H"), 2: (12, "<I"), 3: (12, "<I")}  # start of the text, type of its length
_MAX_TEXT = 10_000  # NumPy's own limit
MAX_HEADER = _MAX_TEXT + 12
_MAX_AXIS = 1 << 48
Array = np.ndarray[Any, Any]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip must hold a time; np.savez takes now, and no two runs write the same bytes


class ArrayHeader(NamedTuple):
    """The header of an array in a file.

    Attributes:
        dtype: type of the elements, as NumPy spells it, such as "<f4".
        fortran: the first axis varies fastest.
        shape: lengths of the axes.
        start: offset of the first element.
    """

    dtype: str
    fortran: bool
    shape: tuple[int, ...]
    start: int


def parse_npy_header(data: bytes | bytearray) -> ArrayHeader:
    """Parse the header at the start of an .npy.

    Args:
        data: the first `MAX_HEADER` bytes of the file, or all of a shorter one.

    Raises:
        InputError: not an .npy, damaged, cut short, or an array of objects or records.
    """
    start, length = _text_position(data)
    if len(data) < start + length:
        raise InputError("truncated", "the file is cut short inside its header")
    # Python 2 wrote long integers as 10L
    text = re.sub(r"(\d)L\b", r"\1", data[start : start + length].decode("latin-1").strip())
    try:
        entries = ast.literal_eval(text)
        dtype, fortran, shape = entries["descr"], bool(entries["fortran_order"]), tuple(entries["shape"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise InputError("damaged", "a damaged NumPy header") from None
    if not isinstance(dtype, str) or "O" in dtype:
        raise InputError("unsupported", "an array of objects or records, which would have to be unpickled")
    _check_dtype(dtype)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < _MAX_AXIS for n in shape):
        raise InputError("damaged", "a damaged NumPy header")
    return ArrayHeader(dtype, fortran, shape, start + length)


def read_npy_header(file: IO[bytes]) -> ArrayHeader:
    """Read the header of an .npy from a file or pipe, up to the first element.

    Raises:
        InputError: as `parse_npy_header`.
    """
    head = file.read(12)
    start, length = _text_position(head)
    return parse_npy_header(head + file.read(max(0, start + length - len(head))))


def _text_position(head: bytes | bytearray) -> tuple[int, int]:
    """Return start and length of the header's text."""
    if head[:6] != _MAGIC or len(head) < 12:
        raise InputError("not-an-array", "not a NumPy file")
    if head[6] not in _VERSIONS or head[7]:
        raise InputError("unsupported", f"a NumPy file of version {head[6]}.{head[7]}; known are 1.0, 2.0 and 3.0")
    start, form = _VERSIONS[head[6]]
    (length,) = struct.unpack_from(form, head, 8)
    if length > _MAX_TEXT:
        raise InputError("damaged", f"its header claims {length} bytes, more than {_MAX_TEXT}")
    return start, length


def _check_dtype(dtype: str) -> None:
    import numpy as np

    try:
        np.dtype(dtype)
    except Exception:  # NumPy parses it as Python: TypeError, ValueError, SyntaxError, …
        raise InputError("damaged", f"an array of unknown type {dtype[:40]!r}") from None


@lru_cache(maxsize=256)
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the bytes before the elements of an .npy in C order."""
    import numpy as np
    from numpy.lib import format as npy

    buffer = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def write_npz(target: Path | IO[bytes], arrays: Mapping[str, Any], *, mode: int) -> None:
    """Write an .npz, not compressed: the same bytes for the same arrays.

    Args:
        target: path or open file.
        arrays: key -> array, C-contiguous, or a tensor in a file whose `parts` yields its bytes piece by piece.
        mode: permissions of an extracted member.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            info = zipfile.ZipInfo(f"{key}.npy", _EPOCH)
            info.external_attr = mode << 16
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(npy_header(array.shape, array.dtype.str))
                for part in array.parts() if hasattr(array, "parts") else [bytes_of(array)]:
                    member.write(part)


def bytes_of(array: Any) -> memoryview:
    """Return the bytes of a C-contiguous array without copying them; a memoryview cannot cast an empty one."""
    import numpy as np

    return memoryview(array.reshape(-1).view(np.uint8))


CHUNK = 1 << 30  # Linux moves at most 2 GiB in one call
_PIECE = 1 << 24  # of a tensor that is copied from file to file


class FileStamp(NamedTuple):
    """The attributes that change when a file is written or replaced."""

    inode: int
    size: int
    mtime_ns: int


def stamp_of(handle: int) -> FileStamp:
    """Return the stamp of an open file."""
    status = os.fstat(handle)
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


def file_parts(handle: int, offset: int, size: int) -> Iterator[memoryview]:
    """Yield bytes of a file piece by piece; each piece is valid until the next.

    Raises:
        TensorError: the file became shorter.
    """
    buffer = memoryview(bytearray(min(size, _PIECE)))
    done = 0
    while done < size:
        count = platforms.pread_into(handle, buffer[: size - done], offset + done)
        if not count:
            raise TensorError("the file became shorter while it was read")
        yield buffer[:count]
        done += count


class StoredTensor:
    """A tensor in a file: shape, dtype, and samples read when a slice asks for them."""

    def __init__(
        self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], stamp: FileStamp | None = None
    ) -> None:
        self.path, self.offset, self.shape, self.dtype, self.stamp = path, offset, shape, dtype, stamp
        self._file: IO[bytes] | None = None
        self._opening = threading.Lock()

    def _handle(self) -> int:
        with self._opening:
            if self._file is None:  # a container may have thousands of tensors, few of which are read
                self._file = self.path.open("rb", buffering=0)
            return self._file.fileno()

    def __getitem__(self, samples: slice, /) -> Array:
        start, stop, _ = samples.indices(self.shape[0])
        per_sample = math.prod(self.shape[1:]) * self.dtype.itemsize
        out = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        view = bytes_of(out)
        offset, done = self.offset + start * per_sample, 0
        while done < len(view):
            count = platforms.pread_into(self._handle(), view[done : done + CHUNK], offset + done)
            if not count:
                raise TensorError("the file became shorter while it was read")
            done += count
        if self.stamp is not None and stamp_of(self._handle()) != self.stamp:
            raise TensorError("the file changed while it was read")  # two passes must see the same tensor
        return out

    def read_all(self) -> Array:
        """Read the complete tensor.

        Raises:
            TensorError: the file changed while it was read.
        """
        try:
            if self.shape:
                return self[0 : self.shape[0]]
            with StoredTensor(self.path, self.offset, (1,), self.dtype, self.stamp) as tensor:
                return tensor[0:1].reshape(())
        except TensorError as error:
            raise TensorError(f"{self.path}: {error}") from None

    @property
    def nbytes(self) -> int:
        """Return the size of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def parts(self) -> Iterator[memoryview]:
        """Yield the bytes of the elements, piece by piece."""
        return file_parts(self._handle(), self.offset, self.nbytes)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "StoredTensor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class UnreadableTensor:
    """A tensor of a type that cannot be read; the others of its file can.

    Attributes:
        shape: lengths of its axes.
        error: the reason.
        kind: the type of its elements, as its file spells it.
    """

    def __init__(self, shape: tuple[int, ...], error: UnsupportedTensorError, kind: str = "") -> None:
        self.shape, self.error, self.kind = shape, error, kind


class UnreadableBytes(UnreadableTensor):
    """A tensor of a type that cannot be read, whose bytes can be copied.

    Attributes:
        nbytes: size of the elements.
    """

    def __init__(
        self, shape: tuple[int, ...], error: UnsupportedTensorError, kind: str, place: tuple[Path, int, int]
    ) -> None:
        super().__init__(shape, error, kind)
        self._path, self._offset, self.nbytes = place

    def parts(self) -> Iterator[memoryview]:
        """Yield the bytes of the elements, piece by piece."""
        with self._path.open("rb", buffering=0) as file:
            yield from file_parts(file.fileno(), self._offset, self.nbytes)


class ReservedTensor:
    """A tensor in a new file: its space is reserved, and slices of samples are written into it."""

    def __init__(self, path: Path, head: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Reserve the space.

        Raises:
            OSError: the disk has no room for it.
        """
        self.shape, self.dtype, self._head, self._path = shape, dtype, len(head), path
        size = len(head) + math.prod(shape) * dtype.itemsize
        self._file = path.open("x+b", buffering=0)
        try:
            platforms.reserve(self._file.fileno(), size)
            platforms.pwrite(self._file.fileno(), head, 0)
        except OSError:
            self._file.close()
            raise

    def __setitem__(self, samples: slice, block: Array) -> None:
        start, _, _ = samples.indices(self.shape[0])
        per_sample = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = np.ascontiguousarray(block, self.dtype)
        view = bytes_of(data)
        offset, done = self._head + start * per_sample, 0
        while done < len(view):
            done += platforms.pwrite(self._file.fileno(), view[done : done + CHUNK], offset + done)

    @property
    def nbytes(self) -> int:
        """Return the size of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def parts(self) -> Iterator[memoryview]:
        """Yield the bytes of the elements, piece by piece."""
        return file_parts(self._file.fileno(), self._head, self.nbytes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
        kind = UnsupportedTensorError if error.reason == "unsupported" else TensorError
        raise kind(f"{path}: {error.message}") from None
    dtype = np.dtype(header.dtype)
    if dtype.names is not None or dtype.subdtype is not None:
        raise UnsupportedTensorError(f"{path}: elements are records, not numbers: {dtype}")
    return header.shape, header.fortran, dtype


def read_npy(path: Path, limit: int | None = None) -> StoredTensor | Array:
    """Open an .npy; its samples are read when a slice asks for them, those in Fortran order at once.

    Raises:
        TensorError: the header is damaged, or claims another size than the file has; Fortran order beyond the limit.
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
        if limit is not None and claimed > limit:
            raise TensorError(
                f"{path}: Fortran order is read at once, and {claimed} bytes exceed the memory limit of {limit}: "
                "raise `memory_limit`, or save it in C order"
            )
        with StoredTensor(path, offset, shape[::-1], dtype, stamp) as tensor:
            return tensor.read_all().transpose()
    return StoredTensor(path, offset, shape, dtype, stamp)


def read_npy_stream(file: IO[bytes], name: str, limit: int | None) -> Array:
    """Read an .npy from a pipe.

    Raises:
        TensorError: damaged, cut short, followed by other bytes, or larger than the limit.
    """
    shape, fortran, dtype = _read_header(file, name)
    claimed = math.prod(shape) * dtype.itemsize
    if limit is not None and claimed > limit:
        raise TensorError(f"{name}: {claimed} bytes exceed the memory limit of {limit}: raise `memory_limit`")
    parts, size = [], 0
    while size <= claimed and (part := file.read(min(claimed - size + 1, 1 << 24))):
        parts.append(part)  # grows with the bytes that arrive, whatever the header claims
        size += len(part)
    if size != claimed:
        raise TensorError(f"{name}: the header claims {claimed} bytes, {'more' if size > claimed else size} arrived")
    array = np.frombuffer(b"".join(parts), dtype)
    return array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)


def read_npz(path: Path, key: str, limit: int | None) -> Array:
    """Read one tensor of an .npz and verify its checksum.

    Raises:
        TensorError: no such key, a damaged member, or one larger than it claims or than the limit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_member(archive, path, key, limit)
    except Exception as error:
        _raise_damaged(path, "not a valid npz file", error)


def read_every_npz(path: Path, limit: int | None) -> dict[str, Array | UnreadableTensor]:
    """Read all tensors of an .npz; the archive is opened once, since its directory may have a million entries.

    Raises:
        TensorError: a damaged member, or one larger than it claims or than the limit.
    """
    tensors: dict[str, Array | UnreadableTensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                key = name.removesuffix(".npy")
                try:
                    tensors[key] = _read_member(archive, path, key, limit)
                except UnsupportedTensorError as error:
                    tensors[key] = UnreadableTensor((), error)
    except Exception as error:
        _raise_damaged(path, "not a valid npz file", error)
    return tensors


def _read_member(archive: zipfile.ZipFile, path: Path, key: str, limit: int | None) -> Array:
    where = f"{path}:{key}"
    try:
        info = archive.getinfo(f"{key}.npy" if f"{key}.npy" in archive.NameToInfo else key)
        with archive.open(info) as member:
            return read_npy_stream(member, where, limit)
    except KeyError:
        names = (name.removesuffix(".npy") for name in archive.namelist())
        raise TensorError(f"{path}: no key {key!r}; it has {listed(names) or 'none'}") from None
    except Exception as error:  # zipfile and zlib raise many types on damaged files
        _raise_damaged(where, "damaged", error)


def check_writable(dtype: np.dtype[Any]) -> None:
    """Raise for a dtype that NumPy's files cannot store.

    Raises:
        TensorError: bfloat16.
    """
    if dtype.name == "bfloat16":
        raise TensorError("npy and npz have no bfloat16 (write .safetensors or .pt, or use --dtype float32)")


def create_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ReservedTensor:
    """Create an .npy with room for a tensor, to be filled by slices."""
    check_writable(dtype)
    return ReservedTensor(path, npy_header(shape, dtype.str), shape, dtype)


def write_npy(file: IO[bytes], array: Array) -> None:
    """Write an .npy into an open file or pipe."""
    check_writable(array.dtype)
    file.write(npy_header(array.shape, array.dtype.str))
    file.write(bytes_of(np.ascontiguousarray(array)))


def save_npz(path: Path, arrays: Mapping[str, Array | ReservedTensor]) -> None:
    """Write an .npz, not compressed, the same bytes for the same tensors."""
    for array in arrays.values():
        check_writable(array.dtype)
    plain = {k: a if isinstance(a, ReservedTensor) else np.asarray(a, order="C") for k, a in arrays.items()}
    write_npz(path, plain, mode=0o600)
