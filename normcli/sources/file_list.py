"""A table of files: CSV, TSV or JSONL with a column of paths and, if there is one, a column of labels."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterator
from functools import cache
from typing import IO, Any
from urllib.parse import urlsplit

from normcli.errors import InputError, UsageError, listed
from normcli.options.field import Options, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.folder import PathFilter, is_unsafe
from normcli.sources.item import ColumnLabel, Item, Items, Skipped, failed_item
from normcli.storage import is_remote
from normcli.storage.files import FileBytes
from normcli.storage.reader import Reader

log = logging.getLogger("normcli.sources")

PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img", "url")
LABELS = ("label", "labels", "class", "cls", "category", "target")
_LONGEST_LINE = 1 << 20


class FileListOptions(Options):
    """Open options of tables of files."""

    column: str | None = option("Column that holds the paths (default: path, file, image, url, ...).")
    columns: str | None = option("Columns of numbers to count as vectors, with a component each: x,y,speed.")


OPEN_OPTIONS = FileListOptions


def read(source: str, listing: InputOptions, options: FileListOptions, *, group_by: str | None = None) -> Items:
    """Yield the file of every row; relative paths start at the table's folder.

    With columns of numbers, yield the rows in blocks. `group_by` may be a column, which then has the groups.

    Raises:
        InputError: the table cannot be read.
        UsageError: it has no column of paths.
    """
    paths = PathFilter(listing, source)
    place = RowPlaces(source)
    with Reader(source) as reader:
        if reader.at(0, 2) in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError("unsupported", "a table in UTF-16: save it as UTF-8")
        text = io.TextIOWrapper(reader.file(), encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = _objects(source, text) if source.lower().endswith(".jsonl") else _records(source, text)
        if options.columns is not None:
            from normcli.sources.vectors import parse_columns, read_records

            yield from read_records(source, rows, parse_columns(options.columns), group_by)
            return
        path_of = label_of = None
        for number, row in rows:
            if isinstance(row, str):
                yield failed_item(f"{source}:{number}", "bad-row", row)
                continue
            if path_of is None or path_of not in row:
                path_of = _column(source, row, options.column)
                label_of = group_by if group_by in row else next((name for name in LABELS if name in row), None)
            path, label = row[path_of], row.get(label_of) if label_of else None
            if not isinstance(path, str) or not path or "\0" in path:
                yield failed_item(f"{source}:{number}", "bad-row", f"no path in column {path_of!r}")
                continue
            try:
                path = place(path)
            except InputError as error:
                yield failed_item(f"{source}:{number}", error.reason, error.message)
                continue
            if (reason := paths.named_reason(path)) is not None:
                yield Skipped(path, *reason)
            else:
                load = FileBytes(path, parse_size("max_file_size", listing.max_file_size))
                if label in (None, ""):
                    yield Item(path, load)
                else:
                    yield Item(path, load, ColumnLabel(label) if label_of == group_by else str(label))


class RowPlaces:
    """The places that the rows of a table may name: a table may come from anybody.

    Args:
        table: path of the table.
    """

    def __init__(self, table: str) -> None:
        self._remote = is_remote(table)
        self._home = table.rpartition("/")[0]
        self._host = urlsplit(table).hostname if self._remote else None

    def __call__(self, path: str) -> str:
        """Return the path of a row's file; a relative one starts at the table's folder.

        Raises:
            InputError: a scheme that is not supported, or a place that such a table may not name.
        """
        if not is_remote(path):
            if not self._remote:
                return path if os.path.isabs(path) or not self._home else f"{self._home}/{path}"  # noqa: PTH117
            if is_unsafe(path):
                raise InputError("unsafe-name", "a table on a server names a file outside its folder")
            return f"{self._home}/{path}"
        from normcli.storage import http, remote

        remote.check_scheme(path)
        if path.partition(":")[0].lower() == "file":
            return self._local(path)
        host = urlsplit(path).hostname or ""
        if self._remote and host != self._host and http.is_internal(host):
            raise InputError("unsafe-name", f"a table on a server names {host}, which is in this machine's network")
        return path

    def _local(self, path: str) -> str:
        """Return the local path of a file:// address below the table's folder."""
        from urllib.request import url2pathname  # 80 ms

        name = os.path.normpath(url2pathname(urlsplit(path).path))
        home = os.path.abspath(self._home)  # noqa: PTH100
        if self._remote or not name.startswith(os.path.join(home, "")):  # noqa: PTH118
            raise InputError("unsafe-name", "file:// names a file outside the table's folder")
        return name


def _column(source: str, row: dict[str, Any], asked: str | None) -> str:
    if asked is not None and asked in row:
        return asked
    column = next((name for name in PATHS if name in row), None) if asked is None else None
    if column is None:
        columns = listed(map(str, row)) or "none"
        what = f"no column {asked!r}" if asked else "no column of paths"
        remedy = "-O column=NAME"
        if len(row) == 1 and ";" in str(next(iter(row))):
            remedy = "semicolons separate nothing: a .csv has commas, a .tsv tabs"
        raise UsageError(f"{source}: {what}; its columns are {columns} ({remedy})")
    first = os.path.basename(str(row[column]))  # noqa: PTH119
    for other in PATHS:  # a url is where the file of a row came from
        if other not in (column, "url") and row.get(other) and os.path.basename(str(row[other])) != first:  # noqa: PTH119
            _warn_of_paths(source, column, other)
    return column


@cache  # once for all rows and passes
def _warn_of_paths(source: str, column: str, other: str) -> None:
    log.warning("%s: column %s has other paths; images are read from column %s", source, other, column)


def _records(source: str, text: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield line numbers and rows of a CSV or TSV with a header; the message for a bad row."""
    rows = csv.reader(text, delimiter="\t" if source.lower().endswith(".tsv") else ",")
    header: list[str] | None = None
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:  # a field of more than 128 KiB, a NUL
            yield rows.line_num, f"not a row: {error}"
            continue
        if header is None:
            header = [name.strip() for name in row]
        elif row:
            short = len(row) != len(header)
            yield (
                rows.line_num,
                (
                    f"{len(row)} fields where the header has {len(header)}"
                    if short
                    else dict(zip(header, row, strict=True))
                ),
            )
    if header is None:
        raise InputError("empty", "empty file")


def _objects(source: str, text: IO[str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    number = 0
    while line := text.readline(_LONGEST_LINE):
        number += 1
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield number, row if isinstance(row, dict) else "not a JSON object"
    if number == 0:
        raise InputError("empty", "empty file")
