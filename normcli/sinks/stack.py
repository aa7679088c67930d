"""One memory-mappable .npy (N,C,H,W) of all images, and a CSV that names the image of each row."""

import csv
import io
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from normcli import platforms, storage
from normcli.errors import InputError, UsageError
from normcli.sinks.sink import Array, EncodableImage, FinishedShard, MappedBatch, Parts, Record, RecordLog, decode_name
from normcli.storage.npy import npy_header

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
ARRAY, INDEX = "stack.npy", "index.csv"
# names of the finished stack by the kind of output
FINAL = {"stack": ARRAY, "hdf5": "images.h5", "zarr": "images.zarr"}
_SYNC_SECONDS = 1.0


class Stack(NamedTuple):
    """A stack while it is written, under a temporary name: the half of the sink that workers call.

    Attributes:
        path: of the temporary file.
        rows: number of images it has room for.
        shape: of one image.
        dtype: of its values.
        to: "stack", or the container that the finished stack is copied to.
    """

    path: str
    rows: int
    shape: tuple[int, ...]
    dtype: str
    to: str = "stack"

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one image."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def header(self, rows: int) -> bytes:
        """Return the bytes before the first image; as many for any number of rows that fits."""
        return npy_header((rows, *self.shape), np.dtype(self.dtype).str)

    def offset(self, row: int) -> int:
        """Return the offset of an image in the file."""
        return len(self.header(self.rows)) + row * self.row_bytes

    def of_shape(self, rows: int, array: Array) -> "Stack":
        """Return the stack of so many images of one image's shape and dtype."""
        return self._replace(rows=rows, shape=array.shape, dtype=array.dtype.name)

    def allocate(self, out: str) -> None:
        """Reserve the disk space for all rows.

        On a full disk a memory map dies with SIGBUS in the middle; this fails at the start.

        Args:
            out: output folder, for the error.

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
                images = "1 image needs" if self.rows == 1 else f"{self.rows:,} images need"
                error = OSError(28, f"no space left on device: {images} {size:,} bytes")
            storage.raise_output_error(os.path.join(out, FINAL[self.to]), error)  # noqa: PTH118

    def encode(self, image: EncodableImage, key: str) -> Parts:
        """Return the values of one row.

        Raises:
            UsageError: the image has another shape.
        """
        if image.array.shape != self.shape:
            raise UsageError(
                f"{key} is {'x'.join(map(str, image.array.shape))}, but a stack has one shape, "
                f"{'x'.join(map(str, self.shape))} (--resize N --center-crop N, --color rgb|gray, or --to npy)"
            )
        return [image.array]

    def write(self, parts: Parts, name: str, row: int) -> Record:
        """Write one image at its offset; any number of threads and processes at a time.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            handle = platforms.open_binary(self.path, os.O_WRONLY)
            try:
                storage.write_all(handle, parts, self.offset(row))
            finally:
                os.close(handle)
        except OSError as error:
            storage.raise_output_error(self.path, error)
        return {"row": row}

    def sync(self) -> None:
        """Make the rows written so far durable."""
        platforms.sync_file(self.path)

    def close_gaps(self, rows: list[int], final: str) -> None:
        """Close the gaps that failed images left, write the header, put the file under its final name.

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
                # moved rows are not where the checkpoint has them: under this name a resumed run drops the file
                path = os.path.join(os.path.dirname(path), f"file-{ARRAY}")  # noqa: PTH118, PTH120
                os.replace(self.path, path)  # noqa: PTH105
            if len(header) != len(self.header(self.rows)):  # the padding of a .npy header absorbs the digits
                raise OSError(0, "the header of the stack changed its length")
            handle = platforms.open_binary(path, os.O_RDWR)
            try:
                for row, origin in enumerate(rows):
                    if row != origin:
                        storage.write_all(
                            handle, [platforms.pread(handle, self.row_bytes, self.offset(origin))], self.offset(row)
                        )
                os.ftruncate(handle, self.offset(len(rows)))
                storage.write_all(handle, [header], 0)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(path, final)  # noqa: PTH105
        except OSError as error:
            storage.raise_output_error(final, error)


class StackSink:
    """Rows of one array, which the workers write at their offsets.

    Args:
        writer: the stack under its temporary name.
        out: output folder.
        partial: folder for files that are being written.
        head: of the manifest, for the attributes of a container.
    """

    needs_every_input = True

    def __init__(self, writer: Stack, out: str, partial: str, head: Mapping[str, Any]) -> None:
        self.writer, self._head = writer, head
        self._out, self._partial = out, partial
        self._synced = time.monotonic()

    def resume(self, finished: Mapping[int, FinishedShard], kept: int) -> list[Record]:
        """Return nothing: each row is kept or written on its own."""
        return []

    def add(self, batch: MappedBatch) -> Iterator[Record]:
        """Yield the records of a batch; sync its rows to the disk first, at most once a second."""
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.writer.sync()
            self._synced = time.monotonic()
        yield from batch.records

    def summary(self, images: int) -> Record:
        """Return the shape of the stack."""
        return {"stack": [images, *self.writer.shape]}

    def finish(self, log: RecordLog) -> Iterator[Record]:
        """Move the stack and its index to their final names; return the records with the rows' final numbers.

        Raises:
            OutputError: they cannot be written.
        """
        rows: list[int] = []
        lines = []
        for record in log.records():
            if "error" not in record:
                label = decode_name(record, "label") if "label" in record else ""
                lines.append((len(rows), decode_name(record, "name"), label))
                rows.append(record["row"])
        if self.writer.to == "stack":
            self.writer.close_gaps(rows, os.path.join(self._out, ARRAY))  # noqa: PTH118
        else:
            from normcli.sinks.image_container import write_container

            labels = [label for _, _, label in lines]
            write_container(self.writer, rows, labels, self._head, out=self._out, partial=self._partial)
        index = os.path.join(self._out, INDEX)  # noqa: PTH118
        storage.atomic_write_buffers(f"{self._partial}/file-index", index, [_index(lines)])
        place = {row: number for number, row in enumerate(rows)}
        return (record if "row" not in record else {**record, "row": place[record["row"]]} for record in log.records())

    def abandon(self) -> None:
        """Leave the rows in the temporary file, for a run that resumes."""


def _index(lines: Iterable[tuple[int, str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "name", "label"))
    writer.writerows((row, _plain_cell(name, "./"), _plain_cell(label, "'")) for row, name, label in lines)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _plain_cell(text: str, prefix: str) -> str:
    """Return a cell that no spreadsheet runs as a formula: one that begins as a formula does gets a prefix.

    A name stays the same path behind "./"; a number such as -1 stays a number.

    >>> _plain_cell("=1+1.png", "./"), _plain_cell("-1", "'"), _plain_cell("+cmd", "'"), _plain_cell("a=b", "'")
    ('./=1+1.png', '-1', "'+cmd", 'a=b')
    """
    is_formula = text[:1] in tuple("=+-@\t\r") and not _NUMBER.fullmatch(text)
    return prefix + text if is_formula else text


def read_row(out: str, row: int, to: str = "stack") -> Array:
    """Return one image of a finished stack, mapped into memory.

    Raises:
        InputError: missing or damaged.
    """
    if to != "stack":
        from normcli.sinks.image_container import read_image

        return read_image(os.path.join(out, FINAL[to]), row)  # noqa: PTH118
    try:
        array: Any = np.load(os.path.join(out, ARRAY), mmap_mode="r", allow_pickle=False)  # noqa: PTH118
        return np.asanyarray(array[row])
    except (OSError, ValueError, IndexError) as error:
        raise InputError("damaged", f"{ARRAY}: {error}") from None


def stack_shape(path: str, to: str) -> list[int] | None:
    """Return the shape of a finished stack; None if it cannot be read."""
    try:
        if to != "stack":
            from normcli.sinks.image_container import container_shape

            return container_shape(path)
        return list(np.load(path, mmap_mode="r", allow_pickle=False).shape)
    except (OSError, ValueError, InputError):
        return None
