"""Tensors stored in a file as plain bytes: read and written by slices of samples, never mapped.

A mapped output dies by SIGBUS on a full disk and mapped inputs count as resident memory; `pread` and
`pwrite` on a file whose space is reserved first do neither, and threads may share the file.
"""

import math
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normcli import platforms
from normcli.errors import TensorError
from normcli.storage.npy_format import bytes_of

CHUNK = 1 << 30  # Linux moves at most 2 GiB in one call


class FileStamp(NamedTuple):
    """The attributes that change when a file is written or replaced."""

    inode: int
    size: int
    mtime_ns: int


def stamp_of(handle: int) -> FileStamp:
    """Return the stamp of an open file."""
    status = os.fstat(handle)
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


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

    def __getitem__(self, samples: slice, /) -> NDArray[Any]:
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

    def read_all(self) -> NDArray[Any]:
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


class ReservedTensor:
    """A tensor in a file that is being made: its space is reserved, slices of samples are put into it."""

    def __init__(self, path: Path, head: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Reserve the space.

        Raises:
            OSError: the disk has no room for it.
        """
        self.shape, self.dtype, self._head = shape, dtype, len(head)
        size = len(head) + math.prod(shape) * dtype.itemsize
        self._file = path.open("xb", buffering=0)
        try:
            platforms.reserve(self._file.fileno(), size)
            platforms.pwrite(self._file.fileno(), head, 0)
        except OSError:
            self._file.close()
            raise

    def __setitem__(self, samples: slice, block: NDArray[Any]) -> None:
        start, _, _ = samples.indices(self.shape[0])
        per_sample = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = np.ascontiguousarray(block, self.dtype)
        view = bytes_of(data)
        offset, done = self._head + start * per_sample, 0
        while done < len(view):
            done += platforms.pwrite(self._file.fileno(), view[done : done + CHUNK], offset + done)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
