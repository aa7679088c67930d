"""A file open for reading: at any place, or as a stream that is decompressed.

Readers of containers use it, so that they need not know whether a file is local or remote.
"""

import io
import os
from types import TracebackType
from typing import IO, Any, Self

from normcli.errors import InputError, MissingExtraError
from normcli.storage.files import FileStamp, is_remote, open_regular, read_error, read_range

_MAGIC = {b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst", b"BZh": "bz2", b"\xfd7zXZ\0": "xz"}
# A stream that expands 100 times over this much is a bomb: photographs do not compress, and the most
# repetitive label files expand less. Deflate can expand 1,030 times.
BOMB_RATIO = 100
_BOMB_WINDOW = 32 << 20  # the first passes, since 1 MiB is read ahead


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
        if self._remote is not None:
            self._remote.close()
        else:
            os.close(self._handle)

    def at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset`; fewer only where the file ends.

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

    def _read_remote(self, offset: int, size: int) -> bytes:
        assert self._remote is not None
        self._remote.seek(offset)
        return self._remote.read(size)

    def file(self) -> IO[bytes]:
        """Return a seekable Python file of the same bytes, for libraries that need one."""
        return io.BufferedReader(_RawReader(self), 1 << 16)

    def compression(self) -> str | None:
        """Return "gz", "zst", "bz2" or "xz" by the first bytes, never by the name; None for anything else."""
        head = self.at(0, 6)
        return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


class _RawReader(io.RawIOBase):
    """A Reader as a raw file."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._at = reader, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._reader.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._reader.at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Stream:
    """A file read once from start to end, decompressed where it is compressed; offsets only grow.

    Raises:
        MissingExtraError: zst without zstandard.
    """

    def __init__(self, reader: Reader) -> None:
        self.path = reader.path
        self._raw = _RawReader(reader)
        # 1 MiB: what a request to a server should at least ask for
        self._file = _decompressed(io.BufferedReader(self._raw, 1 << 20), reader.compression())
        self._at = 0
        self._checked = (0, 0)

    def at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset`, which must not be before what was read already.

        Raises:
            InputError: the compressed data is damaged or ends early, or expands like a bomb.
        """
        assert offset >= self._at, "a stream is read forwards"
        while self._at < offset:
            if not self._take(min(offset - self._at, 1 << 20)):
                return b""
        parts = []
        while size and (part := self._take(min(size, 1 << 20))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

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
        out, into = self._at - self._checked[0], self._raw.tell() - self._checked[1]
        if out >= _BOMB_WINDOW:
            if out > BOMB_RATIO * max(into, 1):
                raise InputError("bomb", f"its compressed data expands to more than {BOMB_RATIO} times its size")
            self._checked = (self._at, self._raw.tell())
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
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError(".zst", "zstandard", "zst") from None
    # a stream that is cut short ends silently here; the container inside it notices
    return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True)
