"""Write parquet shards of arrays, and read one array of them back; `sources.parquet` reads tables of images.

Arrays are rows of name, label, array and shape: the values one after the other in a list of their own dtype, as every
reader of parquet knows it; images may differ in size.
"""

import os
import threading
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from normcli import __version__
from normcli.errors import InputError
from normcli.options.shared import MAX_PIXELS
from normcli.sinks.parquet_pages import PageWriter, ParquetColumn
from normcli.sinks.sink import Array, SpilledPart
from normcli.sources.parquet import check_ratio, parquet_modules

_GROUP_BYTES, _GROUP_ROWS = 16 << 20, 1000  # of a row group: what a reader of one row has to read
_thread = threading.local()


class ParquetShardWriter:
    """A table that is being written: rows in order, a row group for every 16 MiB.

    Args:
        path: temporary; the caller renames it.
        dtype: of the arrays' values.

    Attributes:
        size: bytes of the arrays so far.
    """

    def __init__(self, path: str, dtype: str) -> None:
        self._dtype = dtype
        self._file: IO[bytes] = open(path, "wb")  # noqa: PTH123, SIM115
        columns = (
            ParquetColumn("name"),
            ParquetColumn("label", optional=True),
            ParquetColumn("array", dtype),
            ParquetColumn("shape", "int32"),
        )
        try:  # it writes the first bytes
            self._writer = PageWriter(self._file, columns, f"normcli version {__version__}")
        except BaseException:
            self._file.close()
            raise
        self._rows: list[tuple[str, str | None, Any, Any]] = []
        self._held = self._groups = 0
        self.size = 0

    def after(self, size: int) -> int:
        """Return the size of the shard's arrays with so many bytes more."""
        return self.size + size

    def add(self, parts: Sequence[Any], name: str, label: str | None, shape: tuple[int, ...]) -> dict[str, int]:
        """Add a row; return its row group and its number in the group."""
        (part,) = parts
        if isinstance(part, SpilledPart):
            values = np.fromfile(part.file, self._dtype, part.size // np.dtype(self._dtype).itemsize)
        else:
            values = np.frombuffer(memoryview(part).cast("B"), self._dtype)
        if self._rows and self._held + values.nbytes > _GROUP_BYTES:
            self._flush()  # a large image has a row group of its own
        place = {"group": self._groups, "row": len(self._rows)}
        self._rows.append(
            (_readable(name), None if label is None else _readable(label), values, np.array(shape, "<i4"))
        )
        self._held += values.nbytes
        self.size += values.nbytes
        if len(self._rows) >= _GROUP_ROWS or self._held >= _GROUP_BYTES:  # nothing more fits into the group
            self._flush()
        return place

    def _flush(self) -> None:
        self._writer.write_group([*zip(*self._rows, strict=True)], len(self._rows))
        self._rows, self._held = [], 0
        self._groups += 1

    def close(self, *, complete: bool) -> int:
        """Close the file, a complete table with its footer and durably; return its size."""
        try:
            if complete:
                if self._rows:
                    self._flush()
                self._writer.finish()
                self._file.flush()
                os.fsync(self._file.fileno())
            return self._file.tell()
        finally:
            self._file.close()


def read_group(path: str, group: int) -> list[Array]:
    """Read the arrays of one row group that `ParquetShardWriter` wrote.

    Raises:
        InputError: missing, or damaged.
    """
    pa, parquet = parquet_modules()
    try:
        file = parquet.ParquetFile(path)
        _check_group(file.metadata.row_group(group))
        table = file.read_row_group(group, columns=["array", "shape"], use_threads=False)
        column = table.column("array").combine_chunks()
        values, ends = column.values.to_numpy(), column.offsets.to_numpy()
        shapes = table.column("shape").to_pylist()
        return [values[ends[i] : ends[i + 1]].reshape(shape) for i, shape in enumerate(shapes)]
    except FileNotFoundError:
        raise InputError("missing", f"{os.path.basename(path)}: no such file") from None  # noqa: PTH119
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise InputError("damaged", f"{os.path.basename(path)}: {text[:200]}") from None  # noqa: PTH119


def _check_group(group: Any) -> None:
    """Check that a row group expands no further than images do; runs of one value take no room in a file.

    Raises:
        InputError: it does.
    """
    check_ratio(group)
    for i in range(group.num_columns):
        column = group.column(i)
        if column.dictionary_page_offset is not None and column.num_values > 4 * MAX_PIXELS:
            raise InputError("bomb", f"{column.total_compressed_size} bytes claim {column.num_values} values")


def read_array(path: str, group: int, row: int) -> Array:
    """Read one array; its row group stays in memory while the next arrays of this thread are of the same group.

    Raises:
        InputError: missing, or damaged.
    """
    if getattr(_thread, "group", None) != (path, group):
        _thread.arrays, _thread.group = read_group(path, group), (path, group)
    arrays: list[Array] = _thread.arrays
    try:
        return arrays[row]
    except IndexError:
        raise InputError("damaged", f"holds no row {row} in group {group}") from None


def _readable(text: str) -> str:
    """Return a name as a parquet string, which is UTF-8: other bytes are replaced; the manifest has them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
