"""Reading files by plain system calls: complete ones, ranges, and byte sources that workers call.

A path with "://" in it is remote. A file's version is a mark that changes when the file does: size, times, or a
mark of the server. Byte sources are picklable; a range of a local file is one `pread` (4 us) on a descriptor that each
thread keeps open.
"""

import os
import re
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

from normcli import platforms
from normcli.errors import InputError, UsageError

if TYPE_CHECKING:
    import hashlib

    from normcli.storage.reader import LargeFile

# s3://bucket/key, and chains such as simplecache::s3://bucket/key, which are rejected
_URL = r"([A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://"


def is_remote(path: str) -> bool:
    """Return True for a URL; compiling its pattern costs as much as 10,000 local paths, which never need it."""
    return "://" in path and re.match(_URL, path) is not None


def file_kind(mode: int) -> str:
    """Return the name of a kind of file from its mode.

    >>> import stat
    >>> file_kind(stat.S_IFIFO)
    'FIFO'
    """
    kinds = (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISREG, "regular file"),
    )
    return next((name for test, name in kinds if test(mode)), "special file")


def path_fields(path: str) -> dict[str, str]:
    """Return a path for JSON: "path", and "path_b64" with its bytes where they are not UTF-8.

    >>> path_fields("a.png")
    {'path': 'a.png'}
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogateescape")
        import base64

        return {"path": raw.decode("utf-8", "replace"), "path_b64": base64.b64encode(raw).decode()}
    return {"path": path}


RECENT = 2_000_000_000  # ns: FAT stores times in steps of 2 s, other file systems of 1 s down to 4 ms

FileStamp = tuple[int, int]  # size in bytes and modification time in ns


def stamp_of(handle: int) -> FileStamp:
    """Return size and time of an open file; also to be asked after a read, since a write in place shows only there."""
    status = os.fstat(handle)
    return status.st_size, status.st_mtime_ns


def fingerprint(path: str) -> str:
    """Return a text that changes with a file: size and time, or the server's version; "" if missing."""
    if is_remote(path):
        from normcli.storage import remote

        return remote.fingerprint(path)
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def version(path: str) -> str:
    """Return a mark that every later write to a local file changes; "" if the file is too recent to be trusted.

    Size, time of the content, and time of the inode, which also changes for files that were swapped, or written and
    dated back. A file written just now can be written again within the same tick of its clock, and then has the
    same times with other bytes (git calls it racily clean): it has no version yet.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return ""
    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    return "" if newest > time.time_ns() - RECENT else f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


_TOO_MANY_OPEN = (23, 24)  # ENFILE, EMFILE


@overload
def read(path: str | Path, *, limit: int | None = None) -> bytes: ...
@overload
def read(path: str | Path, *, limit: int | None = None, most: int) -> bytes | None: ...
def read(path: str | Path, *, limit: int | None = None, most: int | None = None) -> bytes | None:
    """Read a complete regular file.

    Plain `os.open`/`os.read` take 27 us on a small file where `open().read()` takes 52.

    Args:
        path: a local path, or one with "://".
        limit: size in bytes over which a file is rejected before it is read.
        most: size in bytes over which a local file is not read, and None returned.

    Raises:
        InputError: missing, unreadable, not a regular file, empty, over the limit, or changed while read.
    """
    if isinstance(path, str) and "://" in path and is_remote(path):
        from normcli.storage import remote

        return remote.read(path, limit)
    handle, stamp = open_regular(path)
    size = stamp[0]
    try:
        if most is not None and size > most:
            return None
        if limit is not None and size > limit:
            raise too_large(size, limit)
        data = os.read(handle, size + 1)  # one more than promised: end of file shows in the same call
        if len(data) != size:
            data = _read_rest(handle, data, size, limit)
        if size and stamp_of(handle) != stamp:  # a write in place shows nowhere else; 0.5 us
            raise InputError("changed", "it changed while it was read")
    except OSError as error:
        raise read_error(path, error) from None
    finally:
        os.close(handle)
    if not data:
        raise InputError("empty", "empty file")
    return data


def too_large(size: int, limit: int) -> InputError:
    """Return the error for a file over the limit of its size."""
    return InputError("too-large", f"{size} bytes, more than the limit of {limit} (--max-file-size)")


def read_stream(path: str | Path) -> bytes:
    """Read a file or a pipe, such as a shell's <(command), to its end.

    Raises:
        InputError: as `read`.
    """
    try:
        return read(path)
    except InputError as error:
        if error.reason != "not-a-file" or Path(path).is_dir():
            raise
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise read_error(path, error) from None


READ_FLAGS = os.O_RDONLY | platforms.NONBLOCK


def open_regular(path: str | Path) -> tuple[int, FileStamp]:
    """Open a regular local file for reading; return the descriptor and the file's stamp.

    Raises:
        InputError: missing, unreadable or not a regular file.
    """
    try:
        handle = platforms.open_binary(path, READ_FLAGS)
    except OSError as error:
        raise read_error(path, error) from None
    except ValueError:
        raise InputError("missing", "a NUL in the path (lists of find -print0 need -0)") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise InputError("not-a-file", f"{file_kind(status.st_mode)}, not a regular file")
    return handle, (status.st_size, status.st_mtime_ns)


def read_range(handle: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at `offset` of an open local file; fewer only if the file ends.

    Raises:
        OSError: unreadable.
    """
    data = platforms.pread(handle, size, offset)
    while len(data) < size and (more := platforms.pread(handle, size - len(data), offset + len(data))):
        data += more  # one pread returns at most 2 GiB
    return data


def _read_rest(handle: int, start: bytes, size: int, limit: int | None) -> bytes:
    """Continue after a short read: files over 2 GiB, /proc files of size 0, files that change while read."""
    parts, total = [start], len(start)
    while part := os.read(handle, 1 << 24):
        parts.append(part)
        total += len(part)
        if limit is not None and total > limit:
            raise InputError("too-large", f"more than the limit of {limit} bytes (--max-file-size)")
    if size and total != size:
        raise InputError("changed", f"it changed while it was read: {total} bytes of {size}")
    return b"".join(parts)


def read_error(path: str | Path, error: OSError) -> InputError:
    """Return the error for a file that the system did not read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError("missing", "dangling link" if os.path.islink(path) else "no such file")  # noqa: PTH114
    if isinstance(error, PermissionError) and os.path.isdir(path):  # noqa: PTH112 - Windows opens none
        return InputError("not-a-file", "folder, not a regular file")
    if error.errno in _TOO_MANY_OPEN:  # no fault of this file
        return InputError("unreadable", "too many open files (ulimit -n)")
    return InputError("unreadable", (error.strerror or str(error)).lower())


_LARGE = 64 << 20  # bytes; files up to here are read at once
_OPEN_FILES = 8  # per thread; shards are read one after the other
_thread = threading.local()


class FileBytes(NamedTuple):
    """A complete file, local or remote, up to `limit` bytes."""

    path: str
    limit: int | None = None
    version: str | None = None  # where the listing already had it

    def __call__(self) -> bytes:
        return read(self.path, limit=self.limit)

    def read_or_open(self) -> "bytes | LargeFile":
        """Read the file; a local one that is better read in parts is opened.

        Raises:
            InputError: as a complete read.
        """
        data = read(self.path, limit=self.limit, most=_LARGE)
        return self.open() if data is None else data

    @property
    def is_local(self) -> bool:
        """Return True for a file of this machine."""
        return "://" not in self.path

    def read_early(self, most: int) -> bytes | None:
        """Read a local file of at most so many bytes; return None for others, and raise as a complete read does."""
        return read(self.path, limit=self.limit, most=most) if self.is_local else None

    def open(self) -> "LargeFile":
        """Open a local file to be read in parts.

        Raises:
            InputError: as a complete read.
        """
        from normcli.storage.reader import LargeFile

        return LargeFile(self.path, self.limit)

    def fingerprint(self) -> str:
        """Return a text that changes with the file: its size and time."""
        return fingerprint(self.path) if self.version is None else self.version


class ByteRange(NamedTuple):
    """Some bytes of the file that had `stamp` when it was listed; a changed file is rejected, not read."""

    path: str
    offset: int
    size: int
    stamp: FileStamp | None = None

    def __call__(self) -> bytes:
        return read_at(self.path, self.offset, self.size, self.stamp)

    @property
    def end(self) -> int:
        """Return the offset behind the bytes."""
        return self.offset + self.size

    @property
    def is_local(self) -> bool:
        """Return True for bytes of a file of this machine."""
        return "://" not in self.path

    def read_early(self, most: int) -> bytes | None:
        """Read at most so many bytes of a local file; return None for others, and raise as a complete read does."""
        return self() if self.size <= most and self.is_local else None

    def fingerprint(self) -> str:
        """Return a text that changes with the file: its stamp, and the place of the bytes in it."""
        return f"{self.stamp}:{self.offset}:{self.size}"


class InMemory(NamedTuple):
    """Bytes of a stream, which only one reader can read."""

    data: bytes

    def __call__(self) -> bytes:
        return self.data

    def read_early(self, most: int) -> bytes | None:
        """Return at most so many bytes; None for more, and for none."""
        return self.data if 0 < len(self.data) <= most else None

    @property
    def memory_bytes(self) -> int:
        """Return the number of bytes of memory that the source itself takes."""
        return len(self.data)

    def fingerprint(self) -> str:
        """Return a text that changes with the bytes: a checksum."""
        import zlib

        return f"{len(self.data)}:{zlib.crc32(self.data)}"


def read_early(load: object, most: int) -> bytes | None:
    """Read the bytes of a loader, if they are at most so many, of a local file; return None for all others.

    None is also returned for a file that cannot be read, since a complete read names the reason.
    """
    method: Callable[[int], bytes | None] | None = getattr(load, "read_early", None)
    try:
        return None if method is None else method(most)
    except Exception:
        return None


def read_at(path: str, offset: int, size: int, stamp: FileStamp | None = None) -> bytes:
    """Read `size` bytes at `offset`.

    Raises:
        InputError: missing, unreadable, ends early, or is not the file that `stamp` was taken of.
    """
    if size == 0:
        raise InputError("empty", "empty file")
    if "://" in path and is_remote(path):
        from normcli.storage import remote

        data = remote.read_at(path, offset, size)
    else:
        try:
            handle, length = _descriptor(path, stamp)
            data = b""
            if offset + size <= length:  # a damaged archive may ask for 2^64: allocate nothing for it
                data = read_range(handle, size, offset)
        except OSError as error:
            raise read_error(path, error) from None
        if stamp is not None and stamp_of(handle) != stamp:
            raise InputError("changed", f"{path} changed while it was read")
    if len(data) != size:
        raise InputError("truncated", f"{len(data)} of {size} bytes: {path} ends early")
    return data


def read_start(source: "FileBytes | ByteRange", size: int) -> bytes:
    """Read the first bytes of a source, all of a smaller one.

    Raises:
        InputError: as its complete read.
    """
    offset, most = (source.offset, min(size, source.size)) if isinstance(source, ByteRange) else (0, size)
    if is_remote(source.path):
        from normcli.storage import remote

        return remote.read_at(source.path, offset, most)
    try:
        handle, _ = open_regular(source.path)
        try:
            return read_range(handle, most, offset)
        finally:
            os.close(handle)
    except OSError as error:
        raise read_error(source.path, error) from None


def _descriptor(path: str, stamp: FileStamp | None) -> tuple[int, int]:
    """Return a descriptor of this thread for `path`, opened if need be, and the length of the file."""
    cache: OrderedDict[str, tuple[_Descriptor, FileStamp]] | None = getattr(_thread, "cache", None)
    if cache is None:
        cache = _thread.cache = OrderedDict()
    entry = cache.get(path)
    if entry is None or (not _is_same(path, entry) if stamp is None else entry[1] != stamp):
        handle, actual = open_regular(path)
        entry = cache[path] = (_Descriptor(handle), actual)
        if len(cache) > _OPEN_FILES:
            cache.popitem(last=False)
        if stamp is not None and actual != stamp:
            raise InputError("changed", f"{path} changed while it was read")
    cache.move_to_end(path)
    return entry[0].handle, entry[1][0]


def _is_same(path: str, entry: "tuple[_Descriptor, FileStamp]") -> bool:
    """Return True if a path is still the file that is open, as it was when it was opened."""
    status = os.stat(path)  # noqa: PTH116
    return os.path.samestat(status, os.fstat(entry[0].handle)) and (status.st_size, status.st_mtime_ns) == entry[1]


class _Descriptor:
    """A descriptor that is closed when its thread ends or its place in the cache is taken."""

    def __init__(self, handle: int) -> None:
        self.handle, self._close = handle, os.close

    def __del__(self) -> None:
        self._close(self.handle)


def read_path_list(source: str | None, *, null: bool = False) -> Iterator[str] | None:
    """Return the paths that a text file lists, relative to the current folder; None without a file.

    Args:
        source: the file, or "-" for stdin; one path a line.
        null: paths end with NUL bytes instead of line breaks.

    Raises:
        UsageError: the file cannot be read, or `null` without a file.
    """
    if source is None:
        if null:
            raise UsageError("`null` requires `files_from`")
        return None
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"`files_from`: cannot read {source}: {(error.strerror or '').lower()}") from None
    if null:
        return (os.fsdecode(path) for path in data.split(b"\0") if path)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") and b"\0" in data:
        raise UsageError(f"`files_from`: {source} is in UTF-16: save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")  # of editors on Windows
    return (os.fsdecode(line) for line in (raw.rstrip(b"\r") for raw in data.split(b"\n")) if line.strip())


def digest(data: bytes | memoryview) -> int:
    """Return the first 128 bits of SHA-256 of an item's bytes: the fastest hash in the standard library here."""
    return int.from_bytes(_sha256()(data).digest()[:16], "big")


@cache
def _sha256() -> "Callable[[bytes | memoryview], hashlib._Hash]":
    import hashlib  # 3 ms that `show` does not need

    return hashlib.sha256
