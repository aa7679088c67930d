"""Arrow tables of images, as `datasets.save_to_disk` writes them: a stream or a file of record batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normcli.errors import InputError, UsageError
from normcli.options.field import Options, option
from normcli.options.shared import InputOptions
from normcli.sources.item import Items
from normcli.sources.parquet import class_names, image_column, items_of, label_column, parquet_modules
from normcli.storage.reader import Reader

_MAGIC = b"ARROW1\0\0"
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream, which without it ends where a batch does


@dataclass(frozen=True, kw_only=True)
class ArrowOptions(Options):
    """Open options of Arrow tables."""

    column: str | None = option("Column that holds the images (default: the only one of bytes).")


OPEN_OPTIONS = ArrowOptions


def read(source: str, listing: InputOptions, options: ArrowOptions) -> Items:
    """Yield the image of every row; a row that only names a file stands for that file, next to the table.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: not an Arrow table, or damaged: after the rows that came before.
        UsageError: no such column, or none that holds images.
    """
    pyarrow, _ = parquet_modules()
    number = 0
    with Reader(source) as reader:
        try:
            table, batches = _open(pyarrow, reader)
            column = image_column(source, table.schema, options.column)
            label = label_column(table.schema, column)
            names = class_names(table.schema.metadata, label)
            for batch in batches:
                batch.validate(full=True)  # offsets that lead out of the buffers
                keys = (f"{source}/{i:07d}" for i in range(number, number + len(batch)))
                number += len(batch)
                yield from items_of(keys, batch, column, label, names, source, listing)
            if reader.at(0, len(_MAGIC)) != _MAGIC and reader.at(reader.size - len(_END), len(_END)) != _END:
                raise InputError("truncated", f"no Arrow table to its end: it is cut short after {number} rows")
        except (pyarrow.ArrowException, OSError, EOFError, ValueError, KeyError, OverflowError) as error:
            if isinstance(error, InputError | UsageError):
                raise
            text = " ".join(str(error).split())
            raise InputError("damaged", f"not an Arrow table, or damaged after {number} rows: {text[:200]}") from None


def _open(pyarrow: Any, reader: Reader) -> tuple[Any, Iterator[Any]]:
    """Return the open table, which has the schema, and its record batches."""
    if reader.at(0, len(_MAGIC)) == _MAGIC:
        file = pyarrow.ipc.open_file(reader.file())
        return file, (file.get_batch(i) for i in range(file.num_record_batches))
    stream = pyarrow.ipc.open_stream(reader.file())
    return stream, iter(stream)
