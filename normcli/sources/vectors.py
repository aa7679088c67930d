"""Vectors in tables and arrays: blocks of rows of numbers, with the names of their components.

A column is a number, which is one component, or a list of as many numbers in every row: `action[0]`, `action[1]`, ...
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError, UsageError, listed, shortened
from normcli.sources.item import Item, Items, Vectors, failed_item
from normcli.storage.files import FileStamp, read_at

Array = np.ndarray[Any, Any]

NO_GROUP = "."  # the group of rows without a value
MOST_COMPONENTS = 512  # each has a histogram of 0.5 MB
_BLOCK = 1 << 18  # numbers in a block
_WORK = 4  # times the memory of the numbers, which it takes to count them
_EXACT = 1 << 53  # integers up to it are float64
_LONGEST_NAME = 128


class RowsInMemory(NamedTuple):
    """The loader of a block of rows that was read while its source was listed."""

    vectors: Vectors

    def __call__(self) -> Vectors:
        return self.vectors

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the rows take, and their counting."""
        return _WORK * self.vectors.nbytes

    @property
    def inputs(self) -> int:
        """Return the number of rows."""
        return len(self.vectors.rows)

    def fingerprint(self) -> str:
        """Return a text that changes with the rows."""
        import zlib

        return str(zlib.crc32(np.ascontiguousarray(self.vectors.rows).data.cast("B")))


class RowSlice(NamedTuple):
    """The loader of a block of rows of an array (N,C) in a file."""

    path: str
    key: str
    offset: int
    dtype: str
    shape: tuple[int, int]
    first: int
    stamp: FileStamp | None = None
    content: bytes | bytearray | None = None
    groups: tuple[list[str], Array] | None = None

    def __call__(self) -> Vectors:
        data: bytes | bytearray | None = self.content
        if data is None:
            data = read_at(self.path, self.offset, self._size, self.stamp)
        rows = as_floats(np.frombuffer(data, self.dtype).reshape(self.shape))
        return Vectors(rows, (), self.key, self.first, self.groups)

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the rows take, and their counting."""
        return _WORK * self._size

    @property
    def _size(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def inputs(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def fingerprint(self) -> str:
        """Return a text that changes with the rows: the file's stamp and the offset, or a checksum of the bytes."""
        import zlib

        return f"{self.stamp}:{self.offset}" if self.content is None else str(zlib.crc32(self.content))


def as_floats(rows: Array) -> Array:
    """Return numbers as float32 or float64 of the same values.

    Raises:
        InputError: no numbers, or integers that no float64 is.
    """
    kind, size = rows.dtype.kind, rows.dtype.itemsize
    if kind not in "uifb" or (kind == "f" and size > 8):
        raise InputError("unsupported", f"an array of {rows.dtype}, not of numbers")
    if kind in "ui" and size == 8 and rows.size and not -_EXACT <= int(rows.min()) <= int(rows.max()) <= _EXACT:
        raise InputError("overflow", "integers over 2^53, which no float64 is")
    narrow = size < 4 if kind in "ui" else size <= 4
    return np.ascontiguousarray(rows, np.float32 if narrow else np.float64)


def rows_in_block(components: int) -> int:
    """Return the number of rows of a block.

    Raises:
        InputError: too many components.
    """
    if not components:
        raise InputError("empty", "vectors without a component")
    if components > MOST_COMPONENTS:
        raise InputError("unsupported", f"vectors of {components} components, more than {MOST_COMPONENTS}")
    return max(1, _BLOCK // components)


def item_of(vectors: Vectors) -> Item:
    """Return the item of a block in memory."""
    return Item(f"{vectors.path}/{vectors.first}", RowsInMemory(vectors))


def safe_name(name: str) -> str:
    """Return the name of a component with the characters that names of channels may have.

    >>> safe_name("left arm, x"), safe_name("action[shoulder.pos]")
    ('left_arm_x', 'action[shoulder.pos]')
    """
    return re.sub(r"[^A-Za-z0-9_.+\[\]-]+", "_", name)[:_LONGEST_NAME] or "_"


def component_names(column: str, width: int | None, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the components of a column: its own for a number, else with an index or a name in brackets.

    >>> component_names("reward", None), component_names("action", 2), component_names("action", 2, ["x", "y"])
    (('reward',), ('action[0]', 'action[1]'), ('action[x]', 'action[y]'))
    """
    if width is None:
        return (safe_name(column),)
    parts = [re.sub(r"[\[\]]", "_", name) for name in names] if names and len({*names}) == len(names) == width else None
    return tuple(safe_name(f"{column}[{part}]") for part in parts or range(width))


class NumberColumn(NamedTuple):
    """One column of vectors.

    Attributes:
        name: of the column.
        width: numbers in a row; None where a row is one number; 0 where the first row decides.
        names: of the components, where something names them.
    """

    name: str
    width: int | None
    names: Sequence[str] | None = None

    @property
    def components(self) -> tuple[str, ...]:
        """Return the names of the components."""
        return component_names(self.name, self.width, self.names)


def columns_of(source: str, schema: Any, names: Sequence[str]) -> list[NumberColumn]:
    """Return columns of numbers by their names, in this order.

    Raises:
        UsageError: no such column, or one that does not hold numbers.
    """
    kinds = shortened(", ".join(f"{field.name} ({field.type})" for field in schema), 300)
    columns = []
    for name in names:
        if schema.names.count(name) != 1:
            what = "no column" if name not in schema.names else "several columns"
            raise UsageError(f"{source}: {what} {name!r}; its columns are {kinds}")
        kind = schema.field(name).type
        if not holds_numbers(kind):
            raise UsageError(f"{source}: column {name!r} holds {kind}, neither numbers nor lists of numbers")
        columns.append(NumberColumn(name, getattr(kind, "list_size", 0) if _is_list(kind) else None))
    return columns


def parse_columns(text: str) -> list[str]:
    """Return the names of -O columns=A,B.

    Raises:
        UsageError: none, or one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len({*names}) < len(names):
        raise UsageError(f"`open_options` columns={text}: must be distinct names of columns between commas")
    return names


def holds_numbers(kind: Any) -> bool:
    """Return True for an Arrow type of numbers, or of lists of numbers."""
    import pyarrow as pa

    value = kind.value_type if _is_list(kind) else kind
    return any(test(value) for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean))


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def read_parquet(source: str, table: Any, columns: list[NumberColumn], groups: "GroupColumn | None" = None) -> Items:
    """Yield the rows of an open Parquet file in blocks; a row that is null, or of another width, fails.

    Args:
        source: for the names of rows.
        table: a `pyarrow.parquet.ParquetFile`.
        columns: to read.
        groups: column of the groups.
    """
    names = [column.name for column in columns]
    every = names if groups is None or groups.name in names else [*names, groups.name]
    blocks = Blocks(source, columns, groups)
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        leaves = [group.column(i) for i in range(group.num_columns)]
        values = sum(leaf.num_values for leaf in leaves if leaf.path_in_schema.partition(".")[0] in names)
        size = rows_in_block(max(1, values // max(1, group.num_rows)))
        batches = table.iter_batches(size, row_groups=[number], columns=every, use_threads=False)
        yield from blocks.of(batches)


def read_batches(source: str, schema: Any, batches: Iterable[Any], options: Any, group_by: str | None) -> Items:
    """Yield the rows of Arrow record batches in blocks.

    Args:
        source: for the names of rows.
        schema: of the batches.
        batches: of any number of rows.
        options: open options with `column` and `columns`.
        group_by: column of the groups, where there is one of this name.

    Raises:
        UsageError: no such columns, or one of images as well.
    """
    columns, groups = choose_columns(source, schema, options, group_by)
    step = rows_in_block(min(MOST_COMPONENTS, 16 * len(columns)))
    parts = (batch.slice(start, step) for batch in batches for start in range(0, len(batch), step))
    yield from Blocks(source, columns, groups).of(part for part in parts if not part.validate(full=True))


def choose_columns(
    source: str, schema: Any, options: Any, group_by: str | None
) -> "tuple[list[NumberColumn], GroupColumn | None]":
    """Return the columns of numbers of a table by its open options, and that of the groups.

    Raises:
        UsageError: no such columns, or one of images as well.
    """
    if options.column is not None:
        raise UsageError("`open_options` column and columns cannot be combined: images or vectors")
    columns = columns_of(source, schema, parse_columns(str(options.columns)))
    return columns, GroupColumn(group_by) if group_by is not None and schema.names.count(group_by) == 1 else None


class GroupColumn(NamedTuple):
    """The column that has the groups of rows.

    Attributes:
        name: of the column.
        texts: names of the values that have one; others are printed as they are.
    """

    name: str
    texts: Mapping[Any, str] | None = None

    def of(self, batch: Any) -> tuple[list[str], Array]:
        """Return the names of the groups of a batch of rows, and the position of each row's among them."""
        encoded = batch.column(self.name)
        if not hasattr(encoded, "dictionary"):
            encoded = encoded.dictionary_encode()
        values = encoded.dictionary.to_pylist()
        names = [NO_GROUP if value is None else (self.texts or {}).get(value, str(value)) for value in values]
        codes = encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
        return [*names, NO_GROUP], codes.astype(np.int64)


class Blocks:
    """Blocks of the rows of one table.

    Args:
        source: for the names of rows.
        columns: to read; a width of 0 becomes that of the first row.
        groups: column of the groups.
    """

    def __init__(self, source: str, columns: list[NumberColumn], groups: GroupColumn | None = None) -> None:
        self._source, self._columns, self._groups = source, columns, groups
        self._rows = 0

    def of(self, batches: Iterable[Any]) -> Items:
        """Yield the rows of Arrow record batches, in order."""
        for batch in batches:
            first, self._rows = self._rows, self._rows + len(batch)
            reasons: dict[int, str] = {}
            self._columns = [_with_width(column, batch.column(column.name)) for column in self._columns]
            for column in self._columns:
                reasons |= _bad_rows(column, batch.column(column.name))
            for row in sorted(reasons):
                yield failed_item(f"{self._source}/{first + row}", "bad-row", reasons[row])
            yield from self._blocks(batch, first, sorted(reasons))

    def _blocks(self, batch: Any, first: int, bad: list[int]) -> Iterator[Item]:
        """Yield the good rows between the bad ones, so that the number of the first row numbers them all."""
        names = tuple(name for column in self._columns for name in column.components)
        ends = [-1, *bad, len(batch)]
        for before, end in pairwise(ends):
            if end > before + 1:
                part = batch.slice(before + 1, end - before - 1)
                rows = [_values(column, part.column(column.name)) for column in self._columns]
                together = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
                rows_in_block(together.shape[1])
                groups = None if self._groups is None else self._groups.of(part)
                yield item_of(Vectors(together, names, self._source, first + before + 1, groups))


def _with_width(column: NumberColumn, values: Any) -> NumberColumn:
    """Return a column with the width of its first row that has one."""
    if column.width != 0:
        return column
    widths = values.value_lengths().drop_null()
    return column._replace(width=widths[0].as_py()) if len(widths) else column


def _bad_rows(column: NumberColumn, values: Any) -> dict[int, str]:
    """Return the position and the problem of every row that is not counted."""
    if column.width is None:  # a null is a component that is missing, as NaN is
        return {}
    reasons = {}
    if values.null_count:
        nulls = np.flatnonzero(~values.is_valid().to_numpy(zero_copy_only=False)).tolist()
        reasons = dict.fromkeys(nulls, f"column {column.name!r} is null")
    if hasattr(values.type, "list_size"):
        if values.type.list_size != column.width:
            raise InputError("layout", _another_width(values.type.list_size, column))
        return reasons
    widths = values.value_lengths().fill_null(column.width).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(widths != column.width).tolist():
        reasons[row] = _another_width(int(widths[row]), column)
    return reasons


def _another_width(width: int, column: NumberColumn) -> str:
    return f"{width} numbers in column {column.name!r}, where others have {column.width}"


def _values(column: NumberColumn, values: Any) -> Array:
    """Return the numbers (N,width) of a column without null rows."""
    flat = values if column.width is None else values.flatten()
    return as_floats(flat.to_numpy(zero_copy_only=False)).reshape(len(values), column.width or 1)


def slice_rows(
    source: str, array: Any, read_bytes: Any, stamp: FileStamp | None, labels: Array | None = None
) -> Iterator[Item]:
    """Yield the rows of an array (N,C) in blocks; the arguments are those of `npy.slice_images`."""
    count, components = array.shape
    size = np.dtype(array.dtype).itemsize * components
    step = rows_in_block(components)
    if not count:
        yield failed_item(source, "empty", f"an array of shape {array.shape} has no rows")
    names, codes = list[str](), None
    if labels is not None:
        classes, codes = np.unique(labels.ravel(), return_inverse=True)
        names = [str(name) for name in classes]
    for first in range(0, count, step):
        shape = (min(step, count - first), components)
        offset = array.start + first * size
        content = read_bytes(offset, shape[0] * size)
        groups = None if codes is None else (names, codes[first : first + step])
        yield Item(
            f"{source}/{first}",
            RowSlice(source, source, offset, array.dtype, shape, first, stamp, content, groups),
        )


def read_records(
    source: str, records: Iterator[tuple[int, dict[str, Any] | str]], columns: list[str], group_by: str | None
) -> Items:
    """Yield the rows of a CSV or JSONL in blocks; an empty field is a component that is missing.

    Args:
        source: for the names of rows.
        records: line numbers and rows; a text is the problem of a row.
        columns: to read.
        group_by: column of the groups, where there is one of this name.

    Raises:
        UsageError: no such column.
    """
    names = tuple(map(safe_name, columns))
    step = rows_in_block(len(columns))
    rows: list[list[float]] = []
    groups: list[str] = []
    first = 0
    for number, (line, record) in enumerate(records):
        problem = record if isinstance(record, str) else None
        values: list[float] = []
        if isinstance(record, dict):
            if missing := [name for name in columns if name not in record]:
                raise UsageError(f"{source}: no column {missing[0]!r}; its columns are {listed(map(str, record))}")
            try:
                values = [_number(record[name]) for name in columns]
            except ValueError as error:
                problem = f"not a number: {error}"
        if problem is not None or len(rows) == step:
            yield from _of_records(source, rows, names, first, groups)
            rows, groups, first = [], [], number
        if problem is not None:
            yield failed_item(f"{source}:{line}", "bad-row", problem)
            first = number + 1
        else:
            rows.append(values)
            if isinstance(record, dict) and group_by in record:
                groups.append(str(record[group_by]) or NO_GROUP)
    yield from _of_records(source, rows, names, first, groups)


def _of_records(
    source: str, rows: list[list[float]], names: tuple[str, ...], first: int, groups: list[str]
) -> Iterator[Item]:
    if not rows:
        return
    distinct = sorted({*groups})
    codes = {name: code for code, name in enumerate(distinct)}
    labels = (distinct, np.array([codes[name] for name in groups])) if len(groups) == len(rows) else None
    yield item_of(Vectors(np.array(rows, np.float64), names, source, first, labels))


def _number(value: Any) -> float:
    """Return a field as a number; NaN where it is empty.

    Raises:
        ValueError: the text of a field that is no number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(shortened(repr(value), 60)) from None
