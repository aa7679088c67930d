"""Parquet tables of images, as the Hugging Face Hub holds them: a struct of bytes and path, or plain bytes.

Pages come by in a stream, so the rows that are under way are all that is held. Arrays are written as rows of name,
label, array and shape: the values one after the other in a list of their own dtype, as every reader of parquet knows
it, and images may differ in size.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import IO, Any

from normcli.errors import InputError, MissingExtraError, UsageError
from normcli.sources.filter import hostile
from normcli.sources.item import Item, Listing, Skipped, failed_item
from normcli.storage.byte_sources import FileBytes, InMemory
from normcli.storage.reader import Reader

_LABELS = ("label", "labels", "cls", "class", "fine_label", "category", "target")
_ROWS = 16  # at a time: photographs of 10 MB stay under 200 MB
_BUFFER = 1 << 20
_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 1000  # of a row group: what a reader of one row has to read
_SMALL_FILE = 64 << 20


def read(source: str, listing: Listing) -> Iterator[Item | Skipped]:
    """Yield the image of every row; a row that only names a file is read beside the table.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: not a parquet file, or damaged: after the rows that came before.
        UsageError: no such column, or none that holds images.
    """
    pyarrow, parquet = modules()
    number = 0
    with Reader(source) as reader:
        try:
            # Without a buffer size pyarrow holds whole row groups: 500 MB on the Hub. With one it believes a page that
            # claims 2 GiB and takes them, which a small file cannot need.
            buffer = _BUFFER if reader.size > _SMALL_FILE else 0
            table = parquet.ParquetFile(reader.file(), buffer_size=buffer, pre_buffer=False)
            column = _column(source, table.schema_arrow, listing.column)
            label = next((name for name in _LABELS if name in table.schema_arrow.names), None)
            names = _class_names(table.schema_arrow.metadata, label)
            width = len(str(max(0, table.metadata.num_rows - 1)))
            wanted = [column] if label is None else [column, label]
            for batch in table.iter_batches(_ROWS, columns=wanted, use_threads=False):
                images = batch.column(column)
                labels = None if label is None else batch.column(label)
                for i in range(len(batch)):
                    key = f"{source}/{number:0{width}d}"
                    number += 1
                    item = _item(key, source, images[i].as_py(), listing)
                    yield item if labels is None else item._replace(label=_named(labels[i].as_py(), names))
        except (pyarrow.ArrowException, OSError, EOFError, UnicodeDecodeError, OverflowError) as error:
            text = " ".join(str(error).split())
            if isinstance(error, pyarrow.ArrowNotImplementedError):
                raise InputError("unsupported", text[:200]) from None
            raise InputError("damaged", f"not a parquet file, or damaged after {number} rows: {text[:200]}") from None


def _item(key: str, source: str, value: Any, listing: Listing) -> Item:
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    limit = listing.max_file_bytes
    if data:
        if limit is not None and len(data) > limit:
            return failed_item(
                key, "too-large", f"{len(data)} bytes, more than the limit of {limit} (--max-file-bytes)"
            )
        return Item(key, InMemory(data))
    if isinstance(path, str) and path:
        if hostile(path):
            return failed_item(key, "hostile-name", "it names a file outside the table's folder")
        return Item(key, FileBytes(f"{source.rpartition('/')[0] or '.'}/{path}", limit))
    return failed_item(key, "empty", "neither bytes nor a path in this row")


def _column(source: str, schema: Any, asked: str | None) -> str:
    import pyarrow as pa

    def holds_images(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" and is_bytes(kind.field(i).type) for i in range(kind.num_fields))
        return is_bytes(kind)

    def is_bytes(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    fitting = [field.name for field in schema if holds_images(field.type)]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)[:300]
    if asked is not None:
        if asked not in schema.names:
            raise UsageError(f"{source}: no column {asked!r}; its columns are {columns}")
        if asked not in fitting:
            raise UsageError(f"{source}: column {asked!r} holds no images; its columns are {columns}")
        return asked
    if not fitting:
        raise InputError("no-image-column", f"no column holds images (bytes); its columns are {columns}")
    named = [name for name in fitting if name in ("image", "img", "jpg", "png")]
    if len(fitting) > 1 and len(named) != 1:
        raise UsageError(f"{source}: images in columns {', '.join(fitting)}: say which (--column NAME)")
    return str((named or fitting)[0])


def _class_names(metadata: dict[bytes, bytes] | None, label: str | None) -> list[str] | None:
    """Names of the classes, from what the datasets library writes beside the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _named(value: Any, names: list[str] | None) -> str | None:
    if value is None:
        return None
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value)


def modules() -> tuple[Any, Any]:
    """Give pyarrow and pyarrow.parquet.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(".parquet", "pyarrow", "parquet") from None
    return pyarrow, parquet


class ParquetShardWriter:
    """A shard under way: rows in order, a row group for every 16 MiB.

    Args:
        path: temporary; whoever calls puts it under its name.
        dtype: of the arrays' values.

    Attributes:
        size: bytes of the arrays so far.
    """

    def __init__(self, path: str, dtype: str) -> None:
        pa, parquet = modules()

        def several(kind: Any) -> Any:
            return pa.list_(pa.field("element", kind, nullable=False))

        fields = [
            pa.field("name", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("array", several(pa.from_numpy_dtype(dtype)), nullable=False),
            pa.field("shape", several(pa.int32()), nullable=False),
        ]
        self._pa, self._schema, self._dtype = pa, pa.schema(fields), dtype
        self._file: IO[bytes] = open(path, "wb")  # noqa: PTH123, SIM115
        # parquet knows no integers under 32 bits: a dictionary makes a byte of them again. Pictures after a map
        # do not compress, and statistics of single values say nothing
        names = ["label", "array.list.element"] if dtype == "uint8" else ["label"]
        self._writer = parquet.ParquetWriter(
            self._file,
            self._schema,
            compression="NONE",
            use_dictionary=names,
            write_statistics=False,
            write_batch_size=1 << 20,  # values: 590 MB/s where the default of 1,024 gives 340
            data_page_size=4 << 20,
        )
        self._rows: list[tuple[str, str | None, Any, tuple[int, ...]]] = []
        self._held = self._groups = 0
        self.size = 0

    def after(self, size: int) -> int:
        """How large the shard's arrays would be with so many bytes more."""
        return self.size + size

    def add(self, parts: Sequence[Any], name: str, label: str | None, shape: tuple[int, ...]) -> dict[str, int]:
        """Add a row; give its row group and its place in it."""
        import numpy as np

        (part,) = parts
        values = np.frombuffer(memoryview(part).cast("B"), self._dtype)
        if self._rows and self._held + values.nbytes > _GROUP_BYTES:
            self._flush()  # pyarrow takes four times a row group's bytes: a large image has one of its own
        place = {"group": self._groups, "row": len(self._rows)}
        self._rows.append((_readable(name), None if label is None else _readable(label), values, shape))
        self._held += values.nbytes
        self.size += values.nbytes
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()
        return place

    def _flush(self) -> None:
        import numpy as np

        pa = self._pa
        names, labels, arrays, shapes = zip(*self._rows, strict=True)
        ends = np.cumsum([0, *map(len, arrays)])
        values = pa.concat_arrays([pa.array(one) for one in arrays])
        array = pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values, type=self._schema.field("array").type)
        columns = [
            pa.array(names, pa.string()),
            pa.array(labels, pa.string()),
            array,
            pa.array(list(map(list, shapes)), self._schema.field("shape").type),
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=len(names))
        self._rows, self._held = [], 0
        self._groups += 1

    def close(self, *, whole: bool) -> int:
        """Close the file; where it is to be a `whole` table, with its footer and durably. Give its size."""
        try:
            if whole:
                if self._rows:
                    self._flush()
                self._writer.close()
                self._file.flush()
                os.fsync(self._file.fileno())
            return self._file.tell()
        finally:
            self._writer.is_open = False  # or its destructor would write a footer
            self._file.close()


def arrays(path: str, group: int) -> list[Any]:
    """Read the arrays of one row group that `ParquetShardWriter` wrote.

    Raises:
        InputError: missing, or damaged.
    """
    pa, parquet = modules()
    try:
        table = parquet.ParquetFile(path).read_row_group(group, columns=["array", "shape"], use_threads=False)
        column = table.column("array").combine_chunks()
        values, ends = column.values.to_numpy(), column.offsets.to_numpy()
        shapes = table.column("shape").to_pylist()
        return [values[ends[i] : ends[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]
    except FileNotFoundError:
        raise InputError("missing", f"{os.path.basename(path)}: no such file") from None  # noqa: PTH119
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise InputError("damaged", f"{os.path.basename(path)}: {text[:200]}") from None  # noqa: PTH119


def _readable(text: str) -> str:
    """A name as a parquet string, which is UTF-8: other bytes are replaced; the manifest has them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
