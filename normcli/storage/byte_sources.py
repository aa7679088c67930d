"""Recipes for bytes, run in the worker: a whole file, a span of one, bytes that a reader already holds.

All are picklable. A span of a local file is one `pread` (4 us) on a descriptor that each thread keeps open.
"""

import os
import threading
from collections import OrderedDict
from typing import NamedTuple

from normcli import storage
from normcli.errors import InputError

Stamp = tuple[int, int]  # size and modification time in ns: what a changed file does not keep
_KEPT_OPEN = 8  # per thread; shards are read one after the other
_mine = threading.local()


class FileBytes(NamedTuple):
    """A whole file, local or remote, up to `limit` bytes."""

    path: str
    limit: int | None = None
    version: str | None = None  # where the listing already told it

    def __call__(self) -> bytes:
        return storage.read(self.path, limit=self.limit)

    def fingerprint(self) -> str:
        """What changes with the file: its size and time."""
        return storage.fingerprint(self.path) if self.version is None else self.version


class ByteRange(NamedTuple):
    """Some bytes of a file that was found to have `stamp`; a changed file is refused, not read."""

    path: str
    offset: int
    size: int
    stamp: Stamp | None = None

    def __call__(self) -> bytes:
        return read_at(self.path, self.offset, self.size, self.stamp)

    def fingerprint(self) -> str:
        """What changes with the file: its stamp, and where in it the bytes lie."""
        return f"{self.stamp}:{self.offset}:{self.size}"


class InMemory(NamedTuple):
    """Bytes that came by in a stream, which only one reader can read."""

    data: bytes

    def __call__(self) -> bytes:
        return self.data

    @property
    def memory_bytes(self) -> int:
        """How much memory the recipe itself takes."""
        return len(self.data)

    def fingerprint(self) -> str:
        """What changes with the bytes: a checksum."""
        import zlib

        return f"{len(self.data)}:{zlib.crc32(self.data)}"


def read_at(path: str, offset: int, size: int, stamp: Stamp | None = None) -> bytes:
    """Read `size` bytes at `offset`.

    Raises:
        InputError: missing, unreadable, ends early, or is not the file that `stamp` was taken of.
    """
    if size == 0:
        raise InputError("empty", "empty file")
    if storage.is_remote(path):
        from normcli.storage import remote

        data = remote.read_at(path, offset, size)
    else:
        try:
            handle, length = _opened(path, stamp)
            data = b""
            if offset + size <= length:  # a lying archive may ask for 2^64: nothing is allocated for what is not there
                data = os.pread(handle, size, offset)
                while len(data) < size and (more := os.pread(handle, size - len(data), offset + len(data))):
                    data += more  # one pread gives at most 2 GiB
        except OSError as error:
            raise storage.read_error(path, error) from None
        if stamp is not None and stamp_of(handle) != stamp:
            raise InputError("changed", f"{path} changed while it was read")
    if len(data) != size:
        raise InputError("truncated", f"{len(data)} of {size} bytes: {path} ends early")
    return data


def stamp_of(handle: int) -> Stamp:
    """Size and time of an open file: asked after a read too, since a write in place shows only there."""
    found = os.fstat(handle)
    return found.st_size, found.st_mtime_ns


def _opened(path: str, stamp: Stamp | None) -> tuple[int, int]:
    """A descriptor of this thread for `path`, opened if need be, and the length of the file."""
    files: OrderedDict[str, tuple[_Descriptor, Stamp]] | None = getattr(_mine, "files", None)
    if files is None:
        files = _mine.files = OrderedDict()
    entry = files.get(path)
    if entry is None or (stamp is not None and entry[1] != stamp):
        handle, found = open_regular(path)
        entry = files[path] = (_Descriptor(handle), found)
        if len(files) > _KEPT_OPEN:
            files.popitem(last=False)
    files.move_to_end(path)
    if stamp is not None and entry[1] != stamp:
        raise InputError("changed", f"{path} changed while it was read")
    return entry[0].handle, entry[1][0]


class _Descriptor:
    """Closes its descriptor when the thread, or the place among those kept open, is gone."""

    def __init__(self, handle: int) -> None:
        self.handle, self._close = handle, os.close

    def __del__(self) -> None:
        self._close(self.handle)


def open_regular(path: str) -> tuple[int, Stamp]:
    """Open a regular local file for reading; give the descriptor and the stamp.

    Raises:
        InputError: missing, unreadable or not a regular file.
    """
    import stat

    try:
        # without O_NONBLOCK the open of a FIFO waits for a writer, for ever
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise storage.read_error(path, error) from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise InputError("not-a-file", f"{storage.file_kind(found.st_mode)}, not a regular file")
    return handle, (found.st_size, found.st_mtime_ns)
