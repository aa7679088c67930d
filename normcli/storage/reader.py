"""A file open for reading: at any place, or as a stream that is decompressed.

Readers of containers use it, so that they need not know whether a file is local or remote.
"""

import io
import os
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Self

from normcli import late_imports, platforms
from normcli.errors import InputError
from normcli.storage.files import FileStamp, is_remote, open_regular, read_error, read_range, stamp_of, too_large
from normcli.storage.seekable import SeekableFile

_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}
# A stream that expands 100 times over this much is a bomb: photographs do not compress, and the most
# repetitive label files expand less. Deflate can expand 1,030 times.
BOMB_RATIO = 100
_PART = 4 << 20
_BOMB_WINDOW = 32 << 20


class Reader:
    """A file, local or remote, read at any offset.

    Attributes:
        path: its name.
        size: its length in bytes.
        stamp: its size and time; None for remote files.

    Raises:
        InputError: missing, unreadable, not a regular file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.stamp: FileStamp | None = None
        self._handle = -1
        self._remote: IO[bytes] | None = None
        if is_remote(path):
            from normcli.storage import remote

            self._remote, self.size = remote.open_file(path)
        else:
            self._handle, self.stamp = open_regular(path)
            self.size = self.stamp[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._remote is not None:
            self._remote.close()
        else:
            os.close(self._handle)

    def at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset`; fewer only if the file ends.

        Raises:
            InputError: unreadable.
        """
        size = min(size, self.size - offset)  # a damaged archive may claim 2^87: never ask for it
        if size <= 0:
            return b""
        try:
            if self._remote is not None:
                from normcli.storage import remote

                return remote.retried(self.path, lambda: self._read_remote(offset, size))
            return read_range(self._handle, size, offset)
        except OSError as error:
            raise read_error(self.path, error) from None

    def _into(self, buffer: memoryview, offset: int) -> int:
        """Read into a buffer from `offset` of a local file; return the number of bytes, 0 at its end."""
        try:
            return platforms.pread_into(self._handle, buffer, offset)
        except OSError as error:
            raise read_error(self.path, error) from None

    def changed(self) -> bool:
        """Return True if a local file was written since it was opened."""
        return self.stamp is not None and stamp_of(self._handle) != self.stamp

    def _read_remote(self, offset: int, size: int) -> bytes:
        assert self._remote is not None
        self._remote.seek(offset)
        return self._remote.read(size)

    def file(self) -> IO[bytes]:
        """Return a seekable Python file of the same bytes, for libraries that need one."""
        return self.buffered(1 << 16)

    def buffered(self, size: int) -> io.BufferedReader:
        """Return a Python file of the same bytes that reads at least so many at a time."""
        return io.BufferedReader(RangeFile(self.at, self.size, None if self._remote else self._into), size)

    def compression(self) -> str | None:
        """Return "gz", "zst", "bz2" or "xz" by the first bytes, never by the name; None for anything else."""
        head = self.at(0, 6)
        return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


class LargeFile:
    """A local file that is read in parts, since its bytes would fill the memory; close it after use.

    Args:
        path: its name.
        limit: size in bytes over which it is rejected.

    Raises:
        InputError: as `files.read`.
    """

    def __init__(self, path: str, limit: int | None = None) -> None:
        self._reader = Reader(path)
        if limit is not None and self._reader.size > limit:
            self.close()
            raise too_large(self._reader.size, limit)

    def __len__(self) -> int:
        return self._reader.size

    def start(self, size: int) -> bytes:
        """Return the first bytes."""
        return self._reader.at(0, size)

    def open(self) -> IO[bytes]:
        """Return a Python file of the same bytes."""
        return self._reader.file()

    def digest(self) -> int:
        """Compute the digest of all bytes, as `files.digest` does.

        Raises:
            InputError: unreadable, or the file changed since it was opened.
        """
        import hashlib

        total = hashlib.sha256()
        for offset in range(0, self._reader.size, _PART):
            total.update(self._reader.at(offset, _PART))
        if self._reader.changed():
            raise InputError("changed", "it changed while it was read")
        return int.from_bytes(total.digest()[:16], "big")

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class RangeFile(SeekableFile):
    """A raw file whose bytes a function returns.

    Args:
        read_range: of offset and size; returns fewer bytes only where the file ends.
        size: of the file.
        read_into: of buffer and offset; fills the buffer without a copy in between, and returns the number of bytes.
    """

    name = ""  # some libraries ask for it

    def __init__(
        self,
        read_range: Callable[[int, int], bytes],
        size: int,
        read_into: Callable[[memoryview, int], int] | None = None,
    ) -> None:
        super().__init__(size)
        self._read_range, self._read_into = read_range, read_into

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.size - self._at)
        if size <= 0:
            return 0
        if self._read_into is not None:
            count = self._read_into(memoryview(buffer)[:size], self._at)
        else:
            data = self._read_range(self._at, size)
            count = len(data)
            buffer[:count] = data
        self._at += count
        return count


class Stream:
    """A file read once from start to end, decompressed where it is compressed; offsets only grow.

    Args:
        reader: of the file.
        harmless: bytes that may expand in any ratio.

    Raises:
        MissingExtraError: zst without zstandard.
    """

    def __init__(self, reader: Reader, harmless: int = 0) -> None:
        self.path = reader.path
        self._harmless = harmless
        # 1 MiB: what a request to a server should at least ask for
        self._packed = reader.buffered(1 << 20)
        self._file = _decompressed(self._packed, reader.compression())
        self._at = 0
        self._checked = (0, 0)

    def at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset`, which must not be before the end of the last read.

        Raises:
            InputError: the compressed data is damaged or ends early, or expands like a bomb.
        """
        assert offset >= self._at, "a stream is read forwards"
        while self._at < offset:
            if not self._take(min(offset - self._at, 1 << 20)):
                return b""
        out = io.BytesIO()  # its value is its buffer: parts that are joined take twice the memory
        while size and (part := self._take(min(size, 1 << 20))):
            out.write(part)
            size -= len(part)
        return out.getvalue()

    def _take(self, size: int) -> bytes:
        import zlib
        from lzma import LZMAError

        try:
            data: bytes = self._file.read(size)
        except EOFError:
            raise InputError("truncated", "the compressed data ends early") from None
        except (zlib.error, LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise read_error(self.path, error) from None
            raise InputError("damaged", f"the compressed data is damaged: {error}") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # zstandard may be absent
                raise
            raise InputError("damaged", f"the compressed data is damaged: {error}") from None
        self._at += len(data)
        if self._at - self._checked[0] >= _BOMB_WINDOW:
            taken = self._packed.tell()  # by the decompressor, not what was read ahead for it
            expanded = self._at - self._checked[0]
            if self._at > self._harmless and expanded > BOMB_RATIO * max(taken - self._checked[1], 1):
                raise InputError("bomb", f"its compressed data expands to more than {BOMB_RATIO} times its size")
            self._checked = (self._at, taken)
        return data


def _decompressed(file: IO[bytes], kind: str | None) -> Any:
    if kind is None:
        return file
    if kind == "gz":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if kind == "bz2":
        import bz2

        return bz2.BZ2File(file)
    if kind == "xz":
        import lzma

        # a legal header can ask for 4 GiB; xz -9 needs 65 MiB
        return lzma.LZMAFile(file)
    zstandard = late_imports.required("zstandard", ".zst", "zst")
    # a stream that is cut short ends silently here; the container inside it notices
    return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True)
