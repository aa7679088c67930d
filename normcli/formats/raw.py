"""Tensors that lie in a file as plain bytes: read and written by slices of samples, never mapped.

A mapped output dies by SIGBUS on a full disk and mapped inputs count as resident memory; `pread` and
`pwrite` on a file whose space is reserved first do neither, and threads may share the file.
"""

import math
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normcli.errors import TensorError

CHUNK = 1 << 30  # Linux moves at most 2 GiB in one call


class Stored:
    """A tensor in a file: shape, dtype, and samples read when a slice asks for them."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.offset, self.shape, self.dtype = path, offset, shape, dtype
        self._file = path.open("rb", buffering=0)

    def __getitem__(self, samples: slice, /) -> NDArray[Any]:
        start, stop, _ = samples.indices(self.shape[0])
        per_sample = math.prod(self.shape[1:]) * self.dtype.itemsize
        out = np.empty((max(stop - start, 0), *self.shape[1:]), self.dtype)
        view = content(out)
        at, done = self.offset + start * per_sample, 0
        while done < len(view):
            got = os.preadv(self._file.fileno(), [view[done : done + CHUNK]], at + done)
            if not got:
                raise TensorError(f"{self.path}: it became shorter while it was read")
            done += got
        return out

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "Stored":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Reserved:
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
            reserve(self._file.fileno(), size)
            os.pwrite(self._file.fileno(), head, 0)
        except OSError:
            self._file.close()
            raise

    def __setitem__(self, samples: slice, block: NDArray[Any]) -> None:
        start, _, _ = samples.indices(self.shape[0])
        per_sample = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = np.ascontiguousarray(block, self.dtype)
        view = content(data)
        at, done = self._head + start * per_sample, 0
        while done < len(view):
            done += os.pwrite(self._file.fileno(), view[done : done + CHUNK], at + done)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def content(array: NDArray[Any]) -> memoryview:
    """Give the bytes of a contiguous array without copying them."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def reserve(handle: int, size: int) -> None:
    """Take the space of a file before it is written, so that a full disk shows now.

    Raises:
        OSError: no room.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
            return
        except OSError as error:
            if error.errno not in (22, 95):  # EINVAL, EOPNOTSUPP: this file system cannot reserve
                raise
    with suppress(OSError):
        os.ftruncate(handle, size)
