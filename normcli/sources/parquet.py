"""Parquet tables of images, as the Hugging Face Hub holds them: a struct of bytes and path, or plain bytes.

Pages come by in a stream: only the rows that are being processed are in memory.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from normcli import late_imports
from normcli.errors import InputError, UsageError, listed, shortened
from normcli.options.field import Options, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.folder import is_unsafe
from normcli.sources.item import ColumnLabel, Item, Items, Skipped, failed_item
from normcli.storage.files import FileBytes, InMemory, read_error
from normcli.storage.reader import BOMB_RATIO, Reader

log = logging.getLogger("normcli.sources")

_SMALLEST_IMAGE = 16  # bytes: no image has a header of fewer
_LABELS = ("label", "labels", "cls", "class", "fine_label", "category", "target")
_ROWS = 16  # at a time, and fewer where they are large
_BATCH = 16 << 20  # bytes of rows at a time
_HARMLESS = 16 << 20  # bytes of a column chunk below which no ratio is a bomb
_LONGEST_LABEL = 4096  # characters
_BUFFER = 1 << 20
_SMALL_FILE = 64 << 20


class ParquetOptions(Options):
    """Open options of parquet tables."""

    column: str | None = option("Column that holds the images (default: the only one of bytes).")
    columns: str | None = option("Columns of numbers, or of lists of numbers, to count as vectors: action,state.")


OPEN_OPTIONS = ParquetOptions


def read(
    source: str,
    listing: InputOptions,
    options: ParquetOptions,
    *,
    names_only: bool = False,
    group_by: str | None = None,
) -> Items:
    """Yield the image of every row; a row that only names a file means that file, next to the table.

    With columns of numbers, yield the rows in blocks. `group_by` may be a column, which then has the groups.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: not a parquet file, or damaged: after the rows that came before.
        UsageError: no such column, or none that holds images.
    """
    pyarrow, parquet = parquet_modules()
    number = 0
    with Reader(source) as reader, _opened(pyarrow, reader) as file:
        try:
            # Without a buffer size pyarrow holds complete row groups: 500 MB on the Hub. With one it allocates the
            # 2 GiB that a page may claim, which a small file cannot need.
            buffer = _BUFFER if reader.size > _SMALL_FILE else 0
            table = parquet.ParquetFile(file, buffer_size=buffer, pre_buffer=False)
            if options.columns is not None:
                yield from _vectors(source, table, options, group_by)
                return
            column = image_column(source, table.schema_arrow, options.column)
            label = label_column(table.schema_arrow, column, group_by)
            names = class_names(table.schema_arrow.metadata, label)
            width = len(str(max(0, table.metadata.num_rows - 1)))
            if names_only and table.metadata.num_rows <= reader.size:  # a footer may claim any number of rows
                for i in range(table.metadata.num_rows):
                    yield Item(f"{source}/{i:0{width}d}", InMemory(b""))
                return
            columns = [column] if label is None else [column, label]
            _check_distinct(table.schema_arrow, columns)
            for batch in _batches(table, columns):
                keys = (f"{source}/{i:0{width}d}" for i in range(number, number + len(batch)))
                number += len(batch)
                items = items_of(keys, batch, column, label, names, source, listing)
                yield from items if label is None or label != group_by else map(_with_column_label, items)
        except (pyarrow.ArrowException, OSError, EOFError, ValueError, KeyError, OverflowError) as error:
            if isinstance(error, InputError | UsageError):
                raise
            if isinstance(error, OSError) and error.errno:  # of the disk, not of the table
                raise read_error(source, error) from None
            text = " ".join(str(error).split())
            if isinstance(error, pyarrow.ArrowNotImplementedError):
                raise InputError("unsupported", text[:200]) from None
            raise InputError("damaged", f"not a parquet file, or damaged after {number} rows: {text[:200]}") from None


def _opened(pyarrow: Any, reader: Reader) -> Any:
    """Return the file for pyarrow, which reads a local one by itself: in 0.8 of the time, and without the lock."""
    if reader.stamp is not None:
        with suppress(UnicodeEncodeError, OSError):  # of a name that is not UTF-8: pyarrow takes no such path
            return pyarrow.OSFile(reader.path)
    return reader.file()


def _vectors(source: str, table: Any, options: ParquetOptions, group_by: str | None) -> Items:
    from normcli.sources.vectors import choose_columns, read_parquet

    columns, groups = choose_columns(source, table.schema_arrow, options, group_by)
    yield from read_parquet(source, table, columns, groups)


def items_of(
    keys: Iterable[str],
    batch: Any,
    column: str,
    label: str | None,
    names: list[str] | None,
    source: str,
    listing: InputOptions,
) -> Items:
    """Yield the items of a batch of rows."""
    labels = None if label is None else batch.column(label)
    limit = parse_size("max_file_size", listing.max_file_size)
    for i, (key, (data, path)) in enumerate(zip(keys, _images(batch.column(column)), strict=True)):
        item = _item(key, source, data, path, limit)
        yield item if labels is None else _labeled(item, labels[i], names)


def _images(rows: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the bytes of the image of every row, and its path; a struct by its fields: 4.3 us a row instead of 5.4."""
    kind = rows.type
    names = [kind.field(i).name for i in range(kind.num_fields)]
    if sorted(names) != ["bytes", "path"]:
        for row in rows:
            value = row.as_py()
            yield (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        return
    parts = dict(zip(names, rows.flatten(), strict=True))
    for data, path in zip(parts["bytes"], parts["path"], strict=True):
        yield data.as_py(), path.as_py()


def _check_distinct(schema: Any, columns: list[str]) -> None:
    """Check that a name is that of one column.

    Raises:
        InputError: two columns have it.
    """
    for name in columns:
        if schema.names.count(name) > 1:
            raise InputError("unsupported", f"{schema.names.count(name)} columns are named {name!r}")


def _batches(table: Any, columns: list[str]) -> Iterator[Any]:
    """Yield the rows of a table, row group by row group, so many at a time that they take about `_BATCH` bytes.

    Raises:
        InputError: a column expands like a bomb.
    """
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        check_ratio(group, columns)
        largest = 1  # of a row, in bytes
        for i in range(group.num_columns):
            column = group.column(i)
            if column.path_in_schema.partition(".")[0] in columns:
                largest = max(largest, _largest_row(column, group.num_rows))
        rows = min(max(_BATCH // largest, 1), _ROWS)
        yield from table.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False)


def check_ratio(group: Any, columns: list[str] | None = None) -> None:
    """Check how far the columns of a row group expand, by its metadata; None stands for all columns.

    Raises:
        InputError: one expands like a bomb.
    """
    for i in range(group.num_columns):
        column = group.column(i)
        packed, size = column.total_compressed_size, column.total_uncompressed_size
        used = columns is None or column.path_in_schema.partition(".")[0] in columns
        if used and size > _HARMLESS and size > BOMB_RATIO * packed:
            raise InputError("bomb", f"{packed} bytes expand to {size}, more than {BOMB_RATIO} times as many")


def _largest_row(column: Any, rows: int) -> int:
    """Return the bytes that a row of a column chunk may take: its mean, or the largest value of the dictionary."""
    packed, size = column.total_compressed_size, column.total_uncompressed_size
    largest = int(size // max(rows, 1))
    if column.dictionary_page_offset is not None:
        # pages other than the dictionary are at least as large as they are compressed; the rest may be the dictionary
        dictionary = column.data_page_offset - column.dictionary_page_offset
        largest = max(largest, min(size, max(size - packed, 0) + max(dictionary, 0)))
    return largest


def _labeled(item: Item, label: Any, names: list[str] | None) -> Item:
    """Return an item with its label; a value that Python has no type for is taken as Arrow prints it."""
    import pyarrow as pa

    try:
        value = label.as_py()
    except (ValueError, TypeError, OverflowError):  # times of nanoseconds
        try:
            value = label.cast(pa.string()).as_py()
        except (pa.ArrowException, UnicodeDecodeError):
            return failed_item(item.key, "bad-row", "its label cannot be read")
    text = _named(value, names)
    if text is not None and len(text) > _LONGEST_LABEL:
        return failed_item(item.key, "bad-row", f"its label has {len(text)} characters, more than {_LONGEST_LABEL}")
    return item._replace(label=text)


def _item(key: str, source: str, data: Any, path: Any, limit: int | None) -> Item:
    if isinstance(data, list):  # of numbers of 8 bits
        if None in data:
            return failed_item(key, "bad-row", "a null among the bytes of its image")
        data = bytes(data)
    if data:
        if limit is not None and len(data) > limit:
            return failed_item(key, "too-large", f"{len(data)} bytes, more than the limit of {limit} (--max-file-size)")
        return Item(key, InMemory(data))
    if isinstance(path, str) and path:
        if is_unsafe(path):
            return failed_item(key, "unsafe-name", "it names a file outside the table's folder")
        return Item(key, FileBytes(f"{source.rpartition('/')[0] or '.'}/{path}", limit))
    return failed_item(key, "empty", "neither bytes nor a path in this row")


def image_column(source: str, schema: Any, asked: str | None) -> str:
    """Return the column that holds the images: the one that is asked for, or the only one of bytes.

    Raises:
        InputError: no column holds bytes.
        UsageError: no such column, or several of them.
    """
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    columns = shortened(", ".join(f"{field.name} ({field.type})" for field in schema), 300)
    if asked is not None:
        if asked not in schema.names:
            raise UsageError(f"{source}: no column {asked!r}; its columns are {columns}")
        if asked not in fitting and not _is_list_of_bytes(schema.field(asked).type):
            raise UsageError(f"{source}: column {asked!r} holds no images; its columns are {columns}")
        return asked
    if not fitting:
        hint = _numbers_hint(schema)
        raise InputError("no-image-column", f"no column holds images (bytes); its columns are {columns}{hint}")
    # masks and depth are in columns named as labels are
    images = [name for name in fitting if name not in _LABELS] or fitting
    if len(images) > 1:
        choices = " or ".join(f"-O column={shortened(name)}" for name in images[:4])
        raise UsageError(f"{source}: images in columns {listed(images)}: choose one ({choices})")
    if len(fitting) > 1:
        _warn_of_pictures(listed(name for name in fitting if name not in images), images[0])
    return str(images[0])


def _numbers_hint(schema: Any) -> str:
    from normcli.sources.vectors import holds_numbers

    names = [field.name for field in schema if holds_numbers(field.type)]
    return f" (-O columns={','.join(names[:2])} counts numbers)" if names else ""


@cache  # once for all shards
def _warn_of_pictures(labels: str, column: str) -> None:
    log.warning("column %s holds pictures, not classes: the images are those of column %s", labels, column)


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    view = getattr(pa.types, "is_binary_view", None)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width < _SMALLEST_IMAGE:
        return False  # such as float16 by fastparquet
    return any(test(kind) for test in tests) or bool(view and view(kind))


def _is_list_of_bytes(kind: Any) -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(is_list and pa.types.is_uint8(kind.value_type))


def _with_column_label(item: Item | Skipped) -> Item | Skipped:
    return item._replace(label=ColumnLabel(item.label)) if isinstance(item, Item) and item.label is not None else item


def label_column(schema: Any, column: str, group_by: str | None = None) -> str | None:
    """Return the column of the groups, or the first that is named as labels are: of numbers, text or times."""
    import pyarrow as pa

    for name in _LABELS if group_by not in schema.names else (group_by,):
        if name in schema.names and name != column:
            kinds = [schema.field(i).type for i in schema.get_all_field_indices(name)]
            kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
            if not any(pa.types.is_nested(kind) or _holds_bytes(kind) for kind in kinds):
                return name
    return None


def class_names(metadata: dict[bytes, bytes] | None, label: str | None) -> list[str] | None:
    """Return the names of the classes, from the metadata that the datasets library writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _named(value: Any, names: list[str] | None) -> str | None:
    if value is None:
        return None
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def parquet_modules() -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = late_imports.required("pyarrow", ".parquet", "parquet")
    parquet = late_imports.required("pyarrow.parquet", ".parquet", "parquet", "pyarrow")
    return pyarrow, parquet
