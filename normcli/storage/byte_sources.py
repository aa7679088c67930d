"""Byte sources, called in the worker: a complete file, a range of one, bytes that a reader already has.

All are picklable. A range of a local file is one `pread` (4 us) on a descriptor that each thread keeps open.
"""

import os
import threading
from collections import OrderedDict
from typing import NamedTuple

from normcli.errors import InputError
from normcli.storage import files
from normcli.storage.files import open_regular, read_range
from normcli.storage.paths import is_remote
from normcli.storage.versions import FileStamp, fingerprint, stamp_of

_OPEN_FILES = 8  # per thread; shards are read one after the other
_thread = threading.local()


class FileBytes(NamedTuple):
    """A complete file, local or remote, up to `limit` bytes."""

    path: str
    limit: int | None = None
    version: str | None = None  # where the listing already had it

    def __call__(self) -> bytes:
        return files.read(self.path, limit=self.limit)

    def fingerprint(self) -> str:
        """Return what changes with the file: its size and time."""
        return fingerprint(self.path) if self.version is None else self.version


class ByteRange(NamedTuple):
    """Some bytes of the file that had `stamp` when it was listed; a changed file is rejected, not read."""

    path: str
    offset: int
    size: int
    stamp: FileStamp | None = None

    def __call__(self) -> bytes:
        return read_at(self.path, self.offset, self.size, self.stamp)

    def fingerprint(self) -> str:
        """Return what changes with the file: its stamp, and the place of the bytes in it."""
        return f"{self.stamp}:{self.offset}:{self.size}"


class InMemory(NamedTuple):
    """Bytes of a stream, which only one reader can read."""

    data: bytes

    def __call__(self) -> bytes:
        return self.data

    @property
    def memory_bytes(self) -> int:
        """Number of bytes of memory that the source itself takes."""
        return len(self.data)

    def fingerprint(self) -> str:
        """Return what changes with the bytes: a checksum."""
        import zlib

        return f"{len(self.data)}:{zlib.crc32(self.data)}"


def read_at(path: str, offset: int, size: int, stamp: FileStamp | None = None) -> bytes:
    """Read `size` bytes at `offset`.

    Raises:
        InputError: missing, unreadable, ends early, or is not the file that `stamp` was taken of.
    """
    if size == 0:
        raise InputError("empty", "empty file")
    if is_remote(path):
        from normcli.storage import remote

        data = remote.read_at(path, offset, size)
    else:
        try:
            handle, length = _descriptor(path, stamp)
            data = b""
            if offset + size <= length:  # a damaged archive may ask for 2^64: allocate nothing for it
                data = read_range(handle, size, offset)
        except OSError as error:
            raise files.read_error(path, error) from None
        if stamp is not None and stamp_of(handle) != stamp:
            raise InputError("changed", f"{path} changed while it was read")
    if len(data) != size:
        raise InputError("truncated", f"{len(data)} of {size} bytes: {path} ends early")
    return data


def _descriptor(path: str, stamp: FileStamp | None) -> tuple[int, int]:
    """Return a descriptor of this thread for `path`, opened if need be, and the length of the file."""
    cache: OrderedDict[str, tuple[_Descriptor, FileStamp]] | None = getattr(_thread, "cache", None)
    if cache is None:
        cache = _thread.cache = OrderedDict()
    entry = cache.get(path)
    if entry is None or (stamp is not None and entry[1] != stamp):
        handle, actual = open_regular(path)
        entry = cache[path] = (_Descriptor(handle), actual)
        if len(cache) > _OPEN_FILES:
            cache.popitem(last=False)
    cache.move_to_end(path)
    if stamp is not None and entry[1] != stamp:
        raise InputError("changed", f"{path} changed while it was read")
    return entry[0].handle, entry[1][0]


class _Descriptor:
    """A descriptor that is closed when its thread ends or its place in the cache is taken."""

    def __init__(self, handle: int) -> None:
        self.handle, self._close = handle, os.close

    def __del__(self) -> None:
        self._close(self.handle)
