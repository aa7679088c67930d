"""The log of an unfinished run: a run that resumes does not repeat the work that is in it.

A line is a checksum and a JSON object; the first holds the settings that the others depend on. A line that a kill
cut short, or that was damaged, is not used.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from normcli.errors import NormcliError, UsageError
from normcli.platforms import lock_file, open_binary
from normcli.storage import raise_output_error

SCHEMA = "normcli/checkpoint/1"
# a first line that was cut short, or whose disk blocks were never written
_TORN_HEAD = rb"(?s)[0-9a-f]{0,8}|[0-9a-f]{8} (\{.*)?|\0+"
Entry = dict[str, Any]


class CheckpointLog:
    """An append-only file of JSON objects, locked against other runs while it is open.

    Args:
        path: of the file; made where it is missing.

    Attributes:
        path: of the file.

    Raises:
        OutputError: it cannot be opened.
        NormcliError: another run is writing it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        try:
            handle = open_binary(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_output_error(path, error)
        self._file: IO[bytes] = open(handle, "r+b")  # noqa: SIM115, PTH123
        self._reader: IO[bytes] | None = None
        if not lock_file(self._file):
            self._file.close()
            raise NormcliError(f"{self.path}: another run is writing it")

    def begin(self, head: Entry) -> None:
        """Write the first line of an empty log."""
        self.append({**head, "schema": SCHEMA})
        self.flush()

    def entries(self) -> Iterator[tuple[int, Entry | None]]:
        """Yield the offset and the object of every line, None for a damaged one; then cut off a torn last line.

        Appending continues after the last complete line.

        Raises:
            UsageError: the file is no log.
        """
        at = 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                if at == 0 and re.fullmatch(_TORN_HEAD, line) is None:  # somebody's own file
                    raise UsageError(f"{self.path}: not a checkpoint; move it away")
                break
            yield at, _decode(line)
            at += len(line)
        self._file.seek(at)
        self._file.truncate()

    def read(self, offset: int) -> Entry | None:
        """Read the line at an offset; return None if it is damaged."""
        if self._reader is None:  # a position of its own: appending continues at the end
            self._reader = open(self.path, "rb")  # noqa: SIM115, PTH123
        self._reader.seek(offset)
        return _decode(self._reader.readline())

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an object.

        Raises:
            OutputError: it cannot be written.
        """
        text = json.dumps(entry).encode()
        try:
            self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        except OSError as error:
            raise_output_error(self.path, error)

    def flush(self, *, durable: bool = False) -> None:
        """Flush added lines to the system; with `durable`, to the disk.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise_output_error(self.path, error)

    def close(self) -> None:
        """Close the file, which unlocks it.

        Raises:
            OutputError: the last lines cannot be written.
        """
        if self._reader is not None:
            self._reader.close()
        try:
            self._file.close()
        except OSError as error:
            raise_output_error(self.path, error)


_SMALL_STATE = 16 << 20
_LARGEST_RATIO = 200  # that counts of flat images reach is 64


def inflate(data: bytes) -> bytes:
    """Inflate counts, up to the size that counts can have: longer ones are damaged.

    Raises:
        ValueError: not deflated.
    """
    try:
        return zlib.decompressobj().decompress(data, max(_SMALL_STATE, _LARGEST_RATIO * len(data)))
    except zlib.error as error:
        raise ValueError(str(error)) from None


def _decode(line: bytes) -> Entry | None:
    """Parse a line; return None if it is damaged or cut short."""
    text = line[9:-1]
    try:
        valid = line.endswith(b"\n") and line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(text)
        entry = json.loads(text) if valid else None
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
