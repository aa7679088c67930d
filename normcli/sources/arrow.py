"""Arrow tables, as `datasets.save_to_disk` writes them and Feather: a stream or a file of record batches."""

import struct
from collections.abc import Iterator
from typing import Any

from normcli.errors import InputError, UsageError
from normcli.options.field import Options, option
from normcli.options.shared import InputOptions
from normcli.sources.item import Items
from normcli.sources.parquet import class_names, image_column, items_of, label_column, parquet_modules
from normcli.storage.reader import BOMB_RATIO, Reader

_MAGIC = b"ARROW1\0\0"
_FEATHER_1 = b"FEA1"
_CONTINUED = b"\xff\xff\xff\xff"  # begins every message
_LARGEST_METADATA = 1 << 26
_LARGEST_BATCH = 1 << 26  # bytes, where it is compressed 100 times or more
_DICTIONARY, _BATCH = 2, 3  # types of messages


class ArrowOptions(Options):
    """Open options of Arrow tables."""

    column: str | None = option("Column that holds the images (default: the only one of bytes).")
    columns: str | None = option("Columns of numbers, or of lists of numbers, to count as vectors: action,state.")


OPEN_OPTIONS = ArrowOptions


def read(source: str, listing: InputOptions, options: ArrowOptions, *, group_by: str | None = None) -> Items:
    """Yield the image of every row; a row that only names a file means that file, next to the table.

    With columns of numbers, yield the rows in blocks; `group_by` may be a column of their groups.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: not an Arrow table, or damaged: after the rows that came before.
        UsageError: no such column, or none that holds images.
    """
    pyarrow, _ = parquet_modules()
    number = 0
    with Reader(source) as reader:
        try:
            _check_messages(reader)
            table, batches = _open(pyarrow, reader)
            if options.columns is not None:
                from normcli.sources.vectors import read_batches

                yield from read_batches(source, table.schema, batches, options, group_by)
                return
            column = image_column(source, table.schema, options.column)
            label = label_column(table.schema, column)
            names = class_names(table.schema.metadata, label)
            for batch in batches:
                batch.validate(full=True)  # offsets that lead out of the buffers
                keys = (f"{source}/{i:07d}" for i in range(number, number + len(batch)))
                number += len(batch)
                yield from items_of(keys, batch, column, label, names, source, listing)
        except (pyarrow.ArrowException, OSError, EOFError, ValueError, KeyError, OverflowError) as error:
            if isinstance(error, InputError | UsageError):
                raise
            text = " ".join(str(error).split())
            raise InputError("damaged", f"not an Arrow table, or damaged after {number} rows: {text[:200]}") from None


def _open(pyarrow: Any, reader: Reader) -> tuple[Any, Iterator[Any]]:
    """Return the open table, which has the schema, and its record batches.

    A file is a stream with a footer, whose places of batches are not used: only what `_check_messages` saw is read.
    """
    data = reader.file()
    data.seek(_start(reader))
    stream = pyarrow.ipc.open_stream(data)
    return stream, iter(stream)


def _start(reader: Reader) -> int:
    return len(_MAGIC) if reader.at(0, len(_MAGIC)) == _MAGIC else 0


def _check_messages(reader: Reader) -> None:
    """Check the lengths that the messages claim, before pyarrow allocates them, and that the end is there.

    A compressed buffer claims its size before it, which pyarrow allocates: those of a batch have a limit.

    Raises:
        InputError: cut short, damaged, or compressed batches that are too large.
    """
    at = _start(reader)
    if reader.at(0, len(_FEATHER_1)) == _FEATHER_1:
        raise InputError("unsupported", "Feather of version 1 (pyarrow.feather.write_feather writes version 2)")
    while True:
        head = reader.at(at, 8)
        if len(head) < 8:
            raise InputError("truncated", "an Arrow table that is cut short: no end marker")
        (size,) = struct.unpack_from("<i", head, 4)
        if head[:4] != _CONTINUED or not 0 <= size <= _LARGEST_METADATA:
            raise InputError("damaged", "not an Arrow table, or damaged: no message where one begins")
        if size == 0:
            return
        try:
            length, buffers = _message(bytes(reader.at(at + 8, size)))
        except struct.error:
            raise InputError("damaged", "not an Arrow table, or damaged: a message cannot be read") from None
        body = at + 8 + size
        at = body + length
        if length < 0 or at > reader.size:
            raise InputError("truncated", "an Arrow table that is cut short, or damaged: a batch ends beyond the file")
        claims = (int.from_bytes(reader.at(body + start, 8), "little", signed=True) for start in buffers)
        if sum(max(claim, 0) for claim in claims) > max(_LARGEST_BATCH, BOMB_RATIO * length):
            what = f"a compressed batch of more than {_LARGEST_BATCH:,} bytes, and {BOMB_RATIO} times its size"
            raise InputError("bomb", f"{what} (write it without compression)")


def _message(data: bytes) -> tuple[int, list[int]]:
    """Return the length of a message's body, and the places of its compressed buffers, from its flatbuffer.

    Raises:
        struct.error: offsets that lead out of it.
    """

    def field(table: int, index: int) -> int:
        (back,) = struct.unpack_from("<i", data, table)
        if not 0 <= table - back < len(data):
            raise struct.error
        (size,) = struct.unpack_from("<H", data, table - back)
        if 4 + 2 * index >= size:
            return 0
        (offset,) = struct.unpack_from("<H", data, table - back + 4 + 2 * index)
        return table + offset if offset else 0

    def follow(at: int) -> int:
        return at + int(struct.unpack_from("<I", data, at)[0]) if at else 0

    (root,) = struct.unpack_from("<I", data)
    kind = data[field(root, 1)] if 0 < field(root, 1) < len(data) else 0
    length = struct.unpack_from("<q", data, field(root, 3))[0] if field(root, 3) else 0
    batch = follow(field(root, 2))
    if kind == _DICTIONARY and batch:
        batch = follow(field(batch, 1))
    if not (batch and kind in (_DICTIONARY, _BATCH) and field(batch, 3)):
        return int(length), []
    buffers = follow(field(batch, 2))
    (count,) = struct.unpack_from("<I", data, buffers)
    rows = struct.unpack_from(f"<{2 * count}q", data, buffers + 4) if count < len(data) else ()
    return int(length), [start for start, size in zip(rows[::2], rows[1::2], strict=True) if size > 0]
