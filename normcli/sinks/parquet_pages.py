"""Write parquet files whose large values go from the arrays to the file: no encoder holds a copy.

Source: https://parquet.apache.org/docs/file-format/ - data pages of version 1, not compressed, without statistics; and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md for headers and footer. pyarrow
buffers a row group about seven times, and its bytes depend on its version.
"""

import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np

Field: TypeAlias = tuple[int, int, bytes]  # number, compact type, content
Values: TypeAlias = np.ndarray[Any, Any]

MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 3, 5, 6, 8, 9, 12
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_INT32, _FLOAT, _DOUBLE, _BYTE_ARRAY, _FIXED = 1, 4, 5, 6, 7
_UTF8, _LIST_OF, _UINT_8 = 0, 3, 11  # converted types, for readers of before 2018
_PAGE_BYTES = 4 << 20  # of values; an image is not divided


def varint(number: int) -> bytes:
    """Return a number of 0 or more, 7 bits a byte, the lowest first.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def i32(field: int, value: int) -> Field:
    """Return a field of a small integer, zigzag."""
    return field, _I32, varint(value << 1 if value >= 0 else (-value << 1) - 1)


def i64(field: int, value: int) -> Field:
    """Return a field of a large integer."""
    return field, _I64, i32(field, value)[2]


def flag(field: int, value: bool) -> Field:
    """Return a field of a boolean, which is its type."""
    return field, _TRUE if value else _FALSE, b""


def text(field: int, value: str) -> Field:
    """Return a field of a string."""
    return field, _BINARY, _text(value)


def _text(value: str) -> bytes:
    data = value.encode()
    return varint(len(data)) + data


def nested(field: int, *fields: Field) -> Field:
    """Return a field of a struct."""
    return field, _STRUCT, encode_struct(*fields)


def listed(field: int, kind: int, contents: Iterable[bytes]) -> Field:
    """Return a field of a list."""
    contents = list(contents)
    size = len(contents)
    head = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + varint(size)
    return field, _LIST, head + b"".join(contents)


def encode_struct(*fields: Field) -> bytes:
    """Return the fields of a struct, in the order of their numbers, and its end."""
    out, last = b"", 0
    for field, kind, content in fields:
        out += bytes([(field - last) << 4 | kind]) + content
        last = field
    return out + b"\0"


class _Physical(NamedTuple):
    """Physical type of a column.

    Attributes:
        kind: physical type.
        element: further fields of its schema element: converted and logical type.
        length: bytes of a value of fixed length.
        dictionary: values of 8 bits are places in a table of the integers 0 to 255.
    """

    kind: int
    element: tuple[Field, ...] = ()
    length: int | None = None
    dictionary: bool = False


_TEXT = _Physical(_BYTE_ARRAY, (i32(6, _UTF8), nested(10, nested(1))))
_DTYPES = {
    # parquet knows no integers under 32 bits: a dictionary makes a byte of them again
    "uint8": _Physical(
        _INT32,
        (i32(6, _UINT_8), nested(10, nested(10, (1, _BYTE, b"\x08"), flag(2, False)))),
        dictionary=True,
    ),
    "int32": _Physical(_INT32),
    "float16": _Physical(_FIXED, (nested(10, nested(15)),), length=2),
    "float32": _Physical(_FLOAT),
    "float64": _Physical(_DOUBLE),
}


class ParquetColumn(NamedTuple):
    """One column: strings, or lists of numbers.

    Attributes:
        name: of the column.
        dtype: of the numbers; None for strings.
        optional: strings may be None.
    """

    name: str
    dtype: str | None = None
    optional: bool = False

    @property
    def physical(self) -> _Physical:
        """Return the encoding of the values."""
        return _TEXT if self.dtype is None else _DTYPES[self.dtype]

    @property
    def path(self) -> list[str]:
        """Return the names from the root to the values."""
        return [self.name] if self.dtype is None else [self.name, "list", "element"]

    def elements(self) -> list[bytes]:
        """Return the schema elements of the column."""
        kind, annotations, length, _ = self.physical
        width = [] if length is None else [i32(2, length)]
        if self.dtype is None:
            repetition = _OPTIONAL if self.optional else _REQUIRED
            return [encode_struct(i32(1, kind), i32(3, repetition), text(4, self.name), *annotations)]
        return [
            encode_struct(i32(3, _REQUIRED), text(4, self.name), i32(5, 1), i32(6, _LIST_OF), nested(10, nested(3))),
            encode_struct(i32(3, _REPEATED), text(4, "list"), i32(5, 1)),
            encode_struct(i32(1, kind), *width, i32(3, _REQUIRED), text(4, "element"), *annotations),
        ]


class PageWriter:
    """A parquet file that is being written, row group by row group.

    Args:
        file: open for writing, at its start.
        columns: in their order.
        creator: program and version, for the footer.
    """

    def __init__(self, file: IO[bytes], columns: Sequence[ParquetColumn], creator: str) -> None:
        self._file, self._columns, self._creator = file, columns, creator
        self._groups: list[bytes] = []
        self._rows = 0
        self._at = file.write(MAGIC)

    def write_group(self, columns: Sequence[Sequence[Any]], rows: int) -> None:
        """Write a row group.

        Args:
            columns: for each column its values: strings or None, or arrays of one axis with at least one number.
            rows: number of rows.
        """
        start = self._at
        chunks = [self._write_chunk(*pair) for pair in zip(self._columns, columns, strict=True)]
        size = self._at - start
        self._groups.append(
            encode_struct(listed(1, _STRUCT, chunks), i64(2, size), i64(3, rows), i64(5, start), i64(6, size))
        )
        self._rows += rows

    def _write_chunk(self, column: ParquetColumn, values: Sequence[Any]) -> bytes:
        """Write the values of one column; return its entry in the footer."""
        start, dictionary = self._at, column.physical.dictionary
        if dictionary:
            table = np.arange(256, dtype="<i4")
            self._write_page(2, [table], nested(7, i32(1, 256), i32(2, _PLAIN), flag(3, True)))
        first = self._at
        if column.dtype is None:
            count = len(values)
            self._write_data(column, count, _levels_of_texts(column, values), [_plain_texts(values)])
        else:
            count = sum(map(len, values))
            for page in _pages(values):
                self._write_numbers(column, page)
        size = self._at - start
        encodings = [_PLAIN, _RLE, *([_RLE_DICTIONARY] if dictionary else [])]
        meta = (
            i32(1, column.physical.kind),
            listed(2, _I32, (i32(0, encoding)[2] for encoding in encodings)),
            listed(3, _BINARY, map(_text, column.path)),
            i32(4, 0),  # not compressed: pictures after a map do not become smaller
            i64(5, count),
            i64(6, size),
            i64(7, size),
            i64(9, first),
            *([i64(11, start)] if dictionary else []),
        )
        return encode_struct(i64(2, start), nested(3, *meta))

    def _write_numbers(self, column: ParquetColumn, arrays: Sequence[Values]) -> None:
        """Write one page of lists: levels, and the values unchanged."""
        count = sum(map(len, arrays))
        begins = b"".join(_run(1, 0) + (_run(len(array) - 1, 1) if len(array) > 1 else b"") for array in arrays)
        levels = _sized(begins) + _sized(_run(count, 1))
        parts: list[Any] = [array.astype(array.dtype.newbyteorder("<"), copy=False) for array in arrays]
        if column.physical.dictionary:
            octets = -(-count // 8)
            levels += b"\x08" + varint(octets << 1 | 1)  # bits of a place; one run of so many groups of eight places
            parts.append(bytes(8 * octets - count))
        self._write_data(column, count, levels, parts)

    def _write_data(self, column: ParquetColumn, count: int, levels: bytes, parts: Sequence[Any]) -> None:
        encoding = _RLE_DICTIONARY if column.physical.dictionary else _PLAIN
        header = nested(5, i32(1, count), i32(2, encoding), i32(3, _RLE), i32(4, _RLE))
        self._write_page(0, [levels, *parts], header)

    def _write_page(self, kind: int, parts: Sequence[Any], header: Field) -> None:
        views = [memoryview(part).cast("B") for part in parts]
        size = sum(view.nbytes for view in views)
        self._at += self._file.write(encode_struct(i32(1, kind), i32(2, size), i32(3, size), header))
        for view in views:
            self._file.write(view)
        self._at += size

    def finish(self) -> None:
        """Write the footer."""
        elements = [element for column in self._columns for element in column.elements()]
        root = encode_struct(text(4, "schema"), i32(5, len(self._columns)))
        footer = encode_struct(
            i32(1, 2),
            listed(2, _STRUCT, [root, *elements]),
            i64(3, self._rows),
            listed(4, _STRUCT, self._groups),
            text(6, self._creator),
        )
        self._file.write(footer + struct.pack("<I", len(footer)) + MAGIC)


def _pages(arrays: Sequence[Values]) -> Iterable[list[Values]]:
    """Yield the arrays in pages of at most 4 MiB, or of one array."""
    page: list[Values] = []
    size = 0
    for array in arrays:
        if page and size + array.nbytes > _PAGE_BYTES:
            yield page
            page, size = [], 0
        page.append(array)
        size += array.nbytes
    if page:
        yield page


def _run(count: int, level: int) -> bytes:
    """Return a run of equal levels of one bit."""
    return varint(count << 1) + bytes([level])


def _sized(levels: bytes) -> bytes:
    return struct.pack("<I", len(levels)) + levels


def _levels_of_texts(column: ParquetColumn, values: Sequence[str | None]) -> bytes:
    """Return the definition levels of strings, in runs."""
    if not column.optional:
        return b""
    there = np.array([value is not None for value in values], np.int8)
    starts = [0, *(np.flatnonzero(np.diff(there)) + 1).tolist(), len(there)]
    return _sized(b"".join(_run(b - a, int(there[a])) for a, b in itertools.pairwise(starts)))


def _plain_texts(values: Sequence[str | None]) -> bytes:
    encoded = [value.encode() for value in values if value is not None]
    return b"".join(struct.pack("<I", len(data)) + data for data in encoded)
