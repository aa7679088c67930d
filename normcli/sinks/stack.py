"""One memory-mappable .npy (N,C,H,W) of all images, and a CSV that says which row is which image."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normcli import platforms, storage
from normcli.storage.npy_format import npy_header

ARRAY, INDEX = "stack.npy", "index.csv"


class Stack(NamedTuple):
    """A stack while it is written, under a temporary name.

    Attributes:
        path: of the temporary file.
        rows: number of images it has room for.
        shape: of one image.
        dtype: of its values.
    """

    path: str
    rows: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def header(self, rows: int) -> bytes:
        """What stands before the first image; as long for any number of rows that fits."""
        return npy_header((rows, *self.shape), np.dtype(self.dtype).str)

    def offset(self, row: int) -> int:
        """Where an image begins."""
        return len(self.header(self.rows)) + row * self.row_bytes

    def allocate(self, final: str) -> None:
        """Take all the disk that it needs, at once.

        On a full disk a memory map dies with SIGBUS in the middle; this fails at the start.

        Raises:
            OutputError: there is not enough.
        """
        size = self.offset(self.rows)
        try:
            handle = platforms.open_binary(self.path, os.O_RDWR | os.O_CREAT)
            try:
                platforms.reserve(handle, size)
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno == 28:
                error = OSError(28, f"no space left on device: {self.rows} images need {size:,} bytes")
            storage.raise_output_error(final, error)

    def write_row(self, row: int, array: Any) -> None:
        """Write one image at its place; any number of threads and processes at a time.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            handle = platforms.open_binary(self.path, os.O_WRONLY)
            try:
                storage.write_all(handle, [array], self.offset(row))
            finally:
                os.close(handle)
        except OSError as error:
            storage.raise_output_error(self.path, error)

    def sync(self) -> None:
        """Make the rows written so far durable."""
        platforms.sync_file(self.path)

    def finish(self, rows: list[int], final: str) -> None:
        """Close the gaps that failed images left, write the header, put it under its name.

        Args:
            rows: those that hold an image, ascending.
            final: path of the finished stack.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.path
        try:
            header = self.header(len(rows))
            if rows != list(range(len(rows))):
                # rows that were moved are not where the journal says: under this name a resumed run drops them
                path = os.path.join(os.path.dirname(path), f"file-{ARRAY}")  # noqa: PTH118, PTH120
                os.replace(self.path, path)  # noqa: PTH105
            if len(header) != len(self.header(self.rows)):  # the padding of a .npy header absorbs the digits
                raise OSError(0, "the header of the stack changed its length")
            handle = platforms.open_binary(path, os.O_RDWR)
            try:
                for row, came_from in enumerate(rows):
                    if row != came_from:
                        storage.write_all(
                            handle, [platforms.pread(handle, self.row_bytes, self.offset(came_from))], self.offset(row)
                        )
                os.ftruncate(handle, self.offset(len(rows)))
                storage.write_all(handle, [header], 0)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(path, final)  # noqa: PTH105
        except OSError as error:
            storage.raise_output_error(final, error)


def index(records: Iterable[tuple[int, str, str]]) -> bytes:
    """The CSV beside a stack: row, name, label."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "name", "label"))
    writer.writerows(records)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read(path: str | Path) -> Any:
    """Map a finished stack into memory."""
    return np.load(path, mmap_mode="r", allow_pickle=False)
