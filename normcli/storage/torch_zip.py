"""The zip archive of torch's checkpoints: uncompressed members found by offset, and written member by member."""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from normcli.errors import InputError

ALIGNMENT = 64  # of the data of a member, as torch writes it
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LOCAL_HEADER = 30  # bytes before the name of a member
_ZIP64_EXTRA = 20
_PADDING = b"FB"  # the extra field that torch fills with zeros


class Member(NamedTuple):
    """A member of an archive: its data as bytes of the file."""

    start: int
    size: int


def is_zip(path: Path) -> bool:
    """Return True for a zip archive."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_members(path: Path) -> dict[str, Member]:
    """Return the members of an archive, in the order of its directory.

    Raises:
        InputError: damaged; with the reason "unsupported" for compressed members, "objects" for TorchScript.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            size = file.seek(0, 2)
            if any("/code/" in name for name in archive.namelist()):
                raise InputError("objects", "TorchScript, which is code")
            return {info.filename: _locate(file, info, size) for info in archive.infolist()}
    except (InputError, OSError, MemoryError):
        raise
    except Exception:  # zipfile raises many types on damaged files
        raise InputError("damaged", "a damaged zip archive") from None


def _locate(file: IO[bytes], info: zipfile.ZipInfo, end: int) -> Member:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise InputError("unsupported", "compressed members")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise InputError("damaged", f"a damaged zip archive (no member at {info.header_offset})")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = info.header_offset + _LOCAL_HEADER + name + extra
    if start + info.file_size > end:
        raise InputError("damaged", f"a damaged zip archive ({info.filename} ends beyond the file)")
    return Member(start, info.file_size)


def write_members(path: Path, members: Iterable[tuple[str, int, Iterable[Any]]]) -> None:
    """Write an archive that torch loads, by copying or by mapping.

    Args:
        path: a new file.
        members: name, number of bytes, and the bytes piece by piece.
    """
    with path.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, size, parts in members:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o600 << 16
            info.file_size = size
            is_large = size >= 1 << 31
            end = file.tell() + _LOCAL_HEADER + len(name.encode()) + _ZIP64_EXTRA * is_large + 4
            padding = -end % ALIGNMENT
            info.extra = _PADDING + padding.to_bytes(2, "little") + bytes(padding)
            with archive.open(info, "w", force_zip64=is_large) as member:
                for part in parts:
                    member.write(part)


def patched(parts: Iterable[memoryview], changes: Iterable[tuple[int, Any]]) -> Iterator[Any]:
    """Yield the pieces of a member with some of its bytes replaced.

    Args:
        parts: the bytes, piece by piece.
        changes: offset and new bytes, one after the other without overlaps.

    >>> b"".join(patched([memoryview(b"abcd"), memoryview(b"efgh")], [(1, b"XY"), (3, b"ZZZ")]))
    b'aXYZZZgh'
    """
    at, waiting = 0, iter(changes)
    change = next(waiting, None)
    for part in parts:
        piece = bytearray(part) if change is not None and change[0] < at + len(part) else part
        while change is not None and change[0] < at + len(part):
            offset, data = change[0], memoryview(change[1])
            count = min(len(data), at + len(part) - offset)
            piece[offset - at : offset - at + count] = data[:count]
            change = (offset + count, data[count:]) if count < len(data) else next(waiting, None)
        yield piece
        at += len(part)
