"""Zip archives: the central directory is walked, each member is read and inflated in the worker.

`zipfile` takes 500 bytes of memory for every member and trusts the sizes that are claimed; here the entries of the
directory are read one after the other, and the limits apply to the bytes that come out.
"""

import io
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from normcli.errors import InputError
from normcli.options.field import Options, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.folder import PathFilter, folder_of
from normcli.sources.item import ArrayLayout, Item, Load, Skipped, failed_item
from normcli.storage.files import FileStamp, read_at
from normcli.storage.reader import BOMB_RATIO, Reader

_END, _END64, _LOCATOR64, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_LARGEST_MEMBER = 1 << 30  # --max-file-size sets another
_HARMLESS = 1 << 20  # below this no ratio is a bomb: a flat mask as BMP shrinks 500 times
_WINDOW = 1 << 18
_PIECE = 4 << 20  # of a member that is inflated; photographs are smaller
_COMPRESSED_RATIO = 20  # of more than a piece, in formats that compress on their own
_PLAIN = (b"BM", b"II", b"MM", b"P", b"\x93NUMPY")
_METHODS = {1: "shrinking", 6: "implosion", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz"}
_OF_ZARR = ("zarr.json", ".zgroup", ".zarray")


class ZipEntry(NamedTuple):
    """One entry of the central directory."""

    name: str
    raw: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    at: int


class ZipMember(NamedTuple):
    """The loader of one member: reads it, inflates it within a limit, verifies it."""

    path: str
    at: int
    method: int
    packed: int
    size: int
    checksum: int
    name: bytes
    limit: int
    stamp: FileStamp | None

    def __call__(self) -> bytes:
        header = read_at(self.path, self.at, 30, self.stamp)
        name, extra = struct.unpack_from("<HH", header, 26)
        if header[:4] != _LOCAL or name != len(self.name):
            raise InputError("damaged", "the archive's directory and the member's own header disagree")
        start, more = self.at + 30, self.packed if self.packed < _PIECE else 0  # a large one is not read to be copied
        data = read_at(self.path, start, name + extra + more, self.stamp)
        if data[:name] != self.name:
            raise InputError("damaged", "the archive's directory and the member's own header disagree")
        data = data[name + extra :] if more else read_at(self.path, start + name + extra, self.packed, self.stamp)
        out = _inflated(data, self.size, self.limit) if self.method == 8 else data
        if not out:
            raise InputError("empty", "empty file")
        if len(out) != self.size or zlib.crc32(out) != self.checksum:
            raise InputError("damaged", "the member's checksum or size is wrong")
        return out

    def read_early(self, most: int) -> bytes | None:
        """Read a local member of at most so many bytes; return None for others, and raise as a complete read does."""
        return self() if max(self.packed, self.size) <= most and "://" not in self.path else None

    def fingerprint(self) -> str:
        """Return a text that changes with the member: size and checksum."""
        return f"{self.size}:{self.checksum}"


def _inflated(data: bytes, claimed: int, limit: int) -> bytes:
    """Inflate at most the allowed size; the claimed size is verified, never trusted."""
    ratio = BOMB_RATIO
    allowed = min(limit, max(_HARMLESS, ratio * len(data)))
    inflater = zlib.decompressobj(-15)
    most = min(allowed, claimed) + 1
    try:
        out = inflater.decompress(data, min(most, _PIECE))
        if len(out) == _PIECE:  # zlib joins its blocks, which takes twice the memory; a BytesIO does not
            buffer = io.BytesIO()
            buffer.write(out)
            if not _is_stored_plainly(out):
                ratio = _COMPRESSED_RATIO
                allowed = min(limit, max(_PIECE, ratio * len(data)))
                most = min(allowed, claimed) + 1
            while buffer.tell() < most and out:
                out = inflater.decompress(inflater.unconsumed_tail, min(most - buffer.tell(), _PIECE))
                buffer.write(out)
            out = buffer.getvalue()
    except zlib.error as error:
        raise InputError("damaged", f"the compressed data is damaged: {error}") from None
    if len(out) > allowed:
        if allowed == limit:
            raise InputError("too-large", f"more than the limit of {limit} bytes (--max-file-size)")
        raise InputError("bomb", f"{len(data)} bytes expand to more than {ratio} times as many")
    if not inflater.eof and len(out) <= claimed:
        raise InputError("truncated", "the compressed data ends early")
    return out


def _is_stored_plainly(head: bytes) -> bool:
    """Return True for the first bytes of a format that may store pixels one by one, as large as the image."""
    tga = head[1:3] in (b"\1\1", b"\0\2", b"\0\3")
    return head.startswith(_PLAIN) or head[128:132] == b"DICM" or tga


class ZipOptions(Options):
    """Open options of zip archives."""

    layout: ArrayLayout = option(
        "Axes of the .npy members that --include asks for, one image each; auto: recognized by the sizes.", "auto"
    )


OPEN_OPTIONS = ZipOptions


def read(source: str, listing: InputOptions, options: ZipOptions) -> Iterator[Item | Skipped]:
    """Yield the images in a zip.

    Raises:
        InputError: the archive cannot be read, is no zip, or its directory is cut short.
    """
    paths = PathFilter(listing, source)
    limit = parse_size("max_file_size", listing.max_file_size) or _LARGEST_MEMBER
    with Reader(source) as reader:
        start, size, count, shift = _directory(reader)
        overlapping = _Overlaps(reader, start, size, shift)
        listed = 0
        for entry in _walk_directory(reader, start, size, shift):
            listed += 1
            overlaps = overlapping(entry)
            if entry.name.endswith("/"):
                continue
            key = paths.member(source, entry.name)
            if not isinstance(key, str):
                if entry.name in _OF_ZARR:
                    raise InputError("unsupported", "a zip of a Zarr: rename it to end with .zarr.zip")
                yield key
            elif problem := _problem(entry, limit, overlaps):
                yield failed_item(key, *problem)
            else:
                sizes = entry.packed, entry.size, entry.checksum
                load: Load = ZipMember(source, entry.at, entry.method, *sizes, entry.raw, limit, reader.stamp)
                if key.endswith(".npy"):  # asked for by --include
                    from normcli.sources import npy  # 5 ms that photographs do not need

                    load = npy.ArrayMember(load, key, options.layout)
                yield Item(key, load, folder_of(entry.name))
        if listed != count:
            raise InputError("damaged", f"the archive's directory promises {count} members and lists {listed}")


def walk_directory(reader: Reader) -> Iterator[ZipEntry]:
    """Walk the central directory of a zip.

    Raises:
        InputError: no zip, or a damaged directory.
    """
    start, size, _, shift = _directory(reader)
    yield from _walk_directory(reader, start, size, shift)


def _problem(entry: ZipEntry, limit: int, overlaps: bool) -> tuple[str, str] | None:
    if overlaps:
        return "damaged", "it overlaps another member: a damaged archive, or a bomb"
    if entry.flags & 0x2041:
        return "unsupported", "encrypted"
    if entry.method not in (0, 8):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        return "unsupported", f"packed by {method}; only stored and deflated members are read"
    if entry.method == 0 and entry.packed != entry.size:
        return "damaged", "stored, but with two different sizes"
    if entry.size > limit or entry.packed > limit:
        return "too-large", f"{max(entry.size, entry.packed)} bytes, more than the limit of {limit} (--max-file-size)"
    if entry.size and not entry.packed:
        return "damaged", f"its directory claims {entry.size} bytes of an empty member"
    if entry.size > _HARMLESS and entry.size > BOMB_RATIO * entry.packed:
        return "bomb", f"{entry.packed} bytes claim to expand to {entry.size}, more than {BOMB_RATIO} times as many"
    return None


def _directory(reader: Reader) -> tuple[int, int, int, int]:
    """Return offset, size and count of the central directory, and the bytes before the archive (such as a program)."""
    tail_size = min(reader.size, 22 + 65535)
    tail = reader.at(reader.size - tail_size, tail_size)
    at = _end_record(tail)
    if at is None:
        if reader.at(0, 4) in (_LOCAL, b"PK\7\x08"):
            raise InputError("truncated", "the archive is cut short: no directory at its end")
        raise InputError("not-an-archive", "not a zip")
    disk, _, _, count, size, start = struct.unpack_from("<HHHHII", tail, at + 4)
    end = reader.size - tail_size + at
    if at >= 20 and tail[at - 20 : at - 16] == _LOCATOR64:
        (where,) = struct.unpack_from("<Q", tail, at - 12)
        before = end - 20 - 56  # where it is in an archive behind a program, whose offsets count from the archive
        if before > where and reader.at(before, 4) == _END64:
            where = before
        record = reader.at(where, 56) if where < reader.size else b""
        if record[:4] != _END64 or len(record) < 56:
            raise InputError("damaged", "a damaged zip64 end of the archive")
        count, size, start = struct.unpack_from("<QQQ", record, 32)
        end = where
    if disk not in (0, 0xFFFF):
        raise InputError("unsupported", "an archive in several parts")
    shift = end - size - start
    if shift < 0:
        raise InputError(
            "truncated" if start + size > reader.size else "damaged",
            "its directory is not where its end record places it",
        )
    return start + shift, size, count, shift


def _end_record(tail: bytes) -> int | None:
    """Return the place of the end record, whose comment ends with the file; None for no such record.

    The comment may look like a record itself, and bytes that follow it may be of a damaged download.
    """
    places, at = [], tail.rfind(_END)
    while at >= 0:
        if at + 22 <= len(tail):
            rest = len(tail) - at - 22 - int.from_bytes(tail[at + 20 : at + 22], "little")
            if rest == 0:
                return at
            if rest > 0:
                places.append(at)
        at = tail.rfind(_END, 0, at)
    return places[0] if places else None


def _walk_directory(reader: Reader, start: int, size: int, shift: int) -> Iterator[ZipEntry]:
    at, end, window, base = start, start + size, b"", start
    while at < end:
        if at - base + 46 + 3 * 65535 > len(window) and base + len(window) < end:
            base, window = at, reader.at(at, min(_WINDOW, end - at))
        inside = at - base
        if len(window) - inside < 46 or window[inside : inside + 4] != _ENTRY:
            raise InputError("damaged", "its directory is damaged")
        flags, method, _, _, checksum, packed, full, name_, extra_, comment_, _, _, _, offset = struct.unpack_from(
            "<HHHHIIIHHHHHII", window, inside + 8
        )
        following = at + 46 + name_ + extra_ + comment_
        if following > end:
            raise InputError("damaged", "its directory is damaged")
        name = window[inside + 46 : inside + 46 + name_]
        extra = window[inside + 46 + name_ : inside + 46 + name_ + extra_]
        full, packed, offset = _wide(extra, full, packed, offset)
        text = name.decode("utf-8", "surrogateescape") if flags & 0x800 else name.decode("cp437")
        yield ZipEntry(text, name, flags, method, checksum, packed, full, offset + shift)
        at = following


def _wide(extra: bytes, *values: int) -> tuple[int, int, int]:
    """Return size, packed size and offset, from the zip64 field where they do not fit 32 bits."""
    wide = list(values)
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + size]
            for i, value in enumerate(wide):
                if value == 0xFFFFFFFF and len(field) >= 8:
                    (wide[i],) = struct.unpack_from("<Q", field)
                    field = field[8:]
            break
        at += 4 + size
    return wide[0], wide[1], wide[2]


class _Overlaps:
    """A finder of members that overlap: one compressed block that a thousand members share is a bomb.

    Archives list their members in the order of their offsets; only where one does not are all offsets collected,
    16 bytes a member.
    """

    def __init__(self, *directory: object) -> None:
        self._directory = directory
        self._end = 0
        self._starts: array[int] | None = None
        self._ends: array[int] = array("Q")

    def __call__(self, entry: ZipEntry) -> bool:
        end = entry.at + 30 + entry.packed
        if self._starts is None:
            if entry.at >= self._end:
                self._end = end
                return False
            places = sorted((e.at, e.at + 30 + e.packed) for e in _walk_directory(*self._directory))  # type: ignore[arg-type]
            self._starts = array("Q", (a for a, _ in places))
            self._ends = array("Q", (b for _, b in places))
        i = bisect_left(self._starts, entry.at)
        before = i > 0 and self._ends[i - 1] > entry.at
        return before or (i + 1 < len(self._starts) and self._starts[i + 1] < end)
