"""Directories of a TIFF or BigTIFF, and pages of it as a TIFF of their own, read by their ranges of the file.

TIFF 6.0 (1992), sections 2 and 14, and the BigTIFF proposal: offsets of 8 bytes, type LONG8.
"""

import io
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import NamedTuple

from normcli.errors import InputError

ReadRange = Callable[[int, int], bytes]  # offset, size: fewer bytes only where the file ends
DESCRIPTION = 270
_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 254, 256, 257, 258, 259, 262, 277
_ROWS, _PLANAR, _EXTRA, _FORMAT = 278, 284, 338, 339
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets and byte counts
_POINTERS = (330, 34665, 34853, 40965)  # to directories that a page does not need
_IMAGEJ = (50838, 50839)
_OLD_JPEG = 6
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MOST_ENTRIES, _MOST_DIRECTORIES = 4096, 1 << 16
_MOST_CLAIMED = 1 << 20
_PIECE = 4 << 20


class Format(NamedTuple):
    """Byte order and width of the offsets of a TIFF."""

    order: str
    is_big: bool

    @property
    def offset(self) -> str:
        """Return the letter of an offset."""
        return "Q" if self.is_big else "I"

    @property
    def inline(self) -> int:
        """Return the bytes of a value that an entry has room for."""
        return 8 if self.is_big else 4


class Entry(NamedTuple):
    """A tag of a directory: its type, number of values and their bytes."""

    kind: int
    length: int
    value: bytes


class Plane(NamedTuple):
    """A page, or a part of one.

    Attributes:
        directory: offset of its directory.
        sample: the sample to take of a page whose samples are stored one after the other; None for all.
        start: offset of the samples, where the directory is that of another page; None for those of the directory.
    """

    directory: int
    sample: int | None = None
    start: int | None = None


def parse_start(data: bytes) -> tuple[Format, int]:
    """Return the format of a TIFF and the offset of its first directory, from its first 16 bytes.

    Raises:
        InputError: not a TIFF.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    if not order or len(data) < 16 or data[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        raise InputError("not-an-image", "not a TIFF")
    layout = Format(order, b"+" in data[2:4])
    (first,) = struct.unpack_from(order + layout.offset, data, 8 if layout.is_big else 4)
    return layout, first


def read_directory(read: ReadRange, layout: Format, offset: int) -> tuple[dict[int, Entry], int]:
    """Return the entries of a directory, and the offset of the next one.

    Raises:
        InputError: damaged, or cut short.
    """
    order, letter = layout.order, "Q" if layout.is_big else "H"
    head = struct.calcsize(order + letter)
    (count,) = struct.unpack(order + letter, _exactly(read, offset, head))
    if count > _MOST_ENTRIES:
        raise InputError("damaged", f"a directory claims {count:,} entries, more than {_MOST_ENTRIES:,}")
    form = struct.Struct(f"{order}HH{layout.offset}{layout.inline}s")
    data = _exactly(read, offset + head, count * form.size + layout.inline)
    entries = {}
    for at in range(0, count * form.size, form.size):
        tag, kind, number, value = form.unpack_from(data, at)
        size = _SIZES.get(kind, 0) * number
        if size > layout.inline:
            (place,) = struct.unpack(order + layout.offset, value)
            value = _exactly(read, place, size)
        if size:
            entries[tag] = Entry(kind, number, value[:size])
    return entries, int.from_bytes(data[-layout.inline :], "little" if order == "<" else "big")


def directories(read: ReadRange, layout: Format, offset: int) -> Iterator[tuple[int, dict[int, Entry]]]:
    """Yield the offset and the entries of every directory.

    Raises:
        InputError: damaged, cut short, or too many.
    """
    seen: set[int] = set()
    while offset and offset not in seen:
        if len(seen) >= _MOST_DIRECTORIES:
            raise InputError("bomb", f"more than {_MOST_DIRECTORIES:,} directories")
        seen.add(offset)
        entries, after = read_directory(read, layout, offset)
        yield offset, entries
        offset = after


def subfile_type(entries: Mapping[int, Entry], layout: Format) -> int:
    """Return the subfile type of a directory: 1 a reduced image, 4 a mask."""
    return next(iter(_numbers(entries, _SUBFILE, layout)), 0)


def extract(read: ReadRange, size: int, layout: Format, planes: tuple[Plane, ...], description: bytes | None) -> bytes:
    """Return a TIFF of some pages, with their samples as they are compressed.

    Args:
        read: ranges of the file.
        size: of the file.
        layout: its format.
        planes: the pages, in this order.
        description: of the first page, b"" for none on any page; None keeps those of the pages.

    Raises:
        InputError: damaged, cut short, or of a kind whose parts cannot be moved.
    """
    out = io.BytesIO()  # its value is its buffer
    out.write((b"II" if layout.order == "<" else b"MM") + struct.pack(layout.order + "H", 43 if layout.is_big else 42))
    out.write(struct.pack(layout.order + "HH", 8, 0) if layout.is_big else b"")
    link = out.tell()
    out.write(bytes(layout.inline))
    for number, plane in enumerate(planes):
        entries, _ = read_directory(read, layout, plane.directory)
        if description is not None:
            for tag in (DESCRIPTION, *_IMAGEJ):
                entries.pop(tag, None)
            if description and not number:
                entries[DESCRIPTION] = Entry(2, len(description) + 1, description + b"\0")
        link = _write_page(out, link, read, size, layout, entries, plane)
    return out.getvalue()


def _write_page(
    out: io.BytesIO, link: int, read: ReadRange, size: int, layout: Format, entries: dict[int, Entry], plane: Plane
) -> int:
    """Append a page, and its offset at `link`; return the place for the offset of the next page."""
    segments = _segments(entries, layout, plane)
    if sum(count for _, count in segments) > size:
        raise InputError("bomb", "its strips or tiles are larger than the file")
    if plane.sample is not None:
        _keep_one_sample(entries, layout)
    if plane.start is not None:
        entries[_ROWS] = entries[_LENGTH]
    for tag in _POINTERS:
        entries.pop(tag, None)
    places = []
    for offset, count in segments:
        places.append(_align(out) if count else 0)
        for at in range(0, count, _PIECE):  # a strip may be the complete page
            out.write(_exactly(read, offset + at, min(_PIECE, count - at)))
    for tag, values in zip(
        _TILES if _TILES[0] in entries else _STRIPS, (places, [n for _, n in segments]), strict=True
    ):
        entries[tag] = _entry(layout, values)
    form = layout.order + ("Q" if layout.is_big else "H")
    rows = []
    for tag, (kind, count, value) in sorted(entries.items()):
        if len(value) > layout.inline:
            at = _align(out)
            out.write(value)
            value = struct.pack(layout.order + layout.offset, at)
        rows.append(
            struct.pack(f"{layout.order}HH{layout.offset}", tag, kind, count) + value.ljust(layout.inline, b"\0")
        )
    start = _align(out)
    out.write(struct.pack(form, len(rows)) + b"".join(rows))
    after = out.tell()
    out.write(bytes(layout.inline))
    out.seek(link)
    out.write(struct.pack(layout.order + layout.offset, start))
    out.seek(0, io.SEEK_END)
    return after


def _segments(entries: Mapping[int, Entry], layout: Format, plane: Plane) -> list[tuple[int, int]]:
    """Return offset and size of the strips or tiles of a plane.

    Raises:
        InputError: none, not as many of both, or such as point to further parts of the file.
    """
    if _OLD_JPEG in _numbers(entries, _COMPRESSION, layout):
        raise InputError("unsupported", "pages of the old JPEG compression are not read one by one")
    offsets, counts = (_numbers(entries, tag, layout) for tag in (_TILES if _TILES[0] in entries else _STRIPS))
    if not offsets or len(offsets) != len(counts):
        raise InputError("damaged", f"{len(offsets)} strips or tiles, but {len(counts)} sizes of them")
    if plane.start is not None:
        width, length, samples, bits = (
            max((1, *_numbers(entries, tag, layout))) for tag in (_WIDTH, _LENGTH, _SAMPLES, _BITS)
        )
        return [(plane.start, length * ((width * samples * bits + 7) // 8))]
    pairs = list(zip(offsets, counts, strict=True))
    if plane.sample is None:
        return pairs
    each = len(pairs) // max((1, *_numbers(entries, _SAMPLES, layout)))
    return pairs[plane.sample * each : (plane.sample + 1) * each]


def _keep_one_sample(entries: dict[int, Entry], layout: Format) -> None:
    """Change the tags of a page of several samples to those of one."""
    for tag in (_BITS, _FORMAT):
        if values := _numbers(entries, tag, layout):
            entries[tag] = _short(layout, values[0])
    entries.pop(_EXTRA, None)
    entries[_SAMPLES], entries[_PLANAR] = _short(layout, 1), _short(layout, 1)
    if _numbers(entries, _PHOTOMETRIC, layout) != (0,):
        entries[_PHOTOMETRIC] = _short(layout, 1)


def _numbers(entries: Mapping[int, Entry], tag: int, layout: Format) -> tuple[int, ...]:
    """Return the integers of a tag; () where there are none."""
    entry = entries.get(tag)
    if entry is None or entry.kind not in _INTEGERS:
        return ()
    return struct.unpack(f"{layout.order}{entry.length}{_INTEGERS[entry.kind]}", entry.value)


def _short(layout: Format, value: int) -> Entry:
    return Entry(3, 1, struct.pack(layout.order + "H", value))


def _entry(layout: Format, values: list[int]) -> Entry:
    kind = 16 if layout.is_big else 4
    return Entry(kind, len(values), struct.pack(f"{layout.order}{len(values)}{layout.offset}", *values))


def _align(out: io.BytesIO) -> int:
    """Append bytes up to a multiple of 8, so that samples can be read in place; return the length."""
    out.write(bytes(-out.tell() % 8))
    return out.tell()


def _exactly(read: ReadRange, offset: int, size: int) -> bytes:
    data = read(offset, size)
    if len(data) < size:
        raise InputError("truncated", f"truncated: the file ends inside of a page, {len(data)} of {size} bytes")
    return data


def check_claims(description: bytes) -> None:
    """Check that OME-XML does not claim so many planes that a list of them would fill the memory.

    Raises:
        InputError: it does.
    """
    for element in re.finditer(rb"<(?:\w+:)?Pixels\b[^>]*", description):
        sizes = re.findall(rb"\bSize[CZT]\s*=\s*[\"']\s*([^\"']*)", element[0])
        texts = [size.decode("latin-1").strip() for size in sizes]
        if prod(int(text) for text in texts if text.isdecimal() and len(text) < 12) > _MOST_CLAIMED:
            raise InputError("bomb", f"OME-XML claims {' x '.join(texts)[:60]} channels, planes and times")
        if not all(text.isdecimal() and len(text) < 12 for text in texts):
            raise InputError("damaged", f"OME-XML of the sizes {' x '.join(texts)[:60]}")
