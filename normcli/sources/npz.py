"""Archives of arrays, .npz: the array that looks like images, read as it inflates. Nothing is unpickled."""

import struct
import zlib
from math import prod
from typing import Any

from normcli.errors import InputError, UsageError, listed, shortened
from normcli.options.field import parse_size
from normcli.options.shared import InputOptions
from normcli.sources.item import Items, failed_item
from normcli.sources.npy import (
    LARGEST_HELD,
    NpyOptions,
    ReadBytes,
    check_end,
    check_numbers,
    itemsize,
    no_bytes,
    resolve_layout,
    slice_images,
)
from normcli.sources.zip import ZipEntry, walk_directory
from normcli.storage.npy import MAX_HEADER, ArrayHeader, parse_npy_header
from normcli.storage.reader import Reader


def read_archive(
    reader: Reader, listing: InputOptions, options: NpyOptions, names_only: bool, group_by: str | None = None
) -> Items:
    """Yield the images of the one array of an .npz that looks like images, or of the one that is asked for."""
    source = reader.path
    arrays: dict[str, tuple[ZipEntry, ArrayHeader]] = {}
    for entry in walk_directory(reader):
        if entry.name.endswith(".npy") and entry.method in (0, 8):
            name = entry.name.removesuffix(".npy")
            try:
                arrays[name] = entry, parse_npy_header(_Inflating(reader, entry).at(0, MAX_HEADER))
            except InputError as error:
                if options.column in (None, name):
                    yield failed_item(f"{source}/{name}", error.reason, error.message)
        if len(arrays) > 10_000:
            raise InputError("unsupported", "more than 10,000 arrays")
    column = options.column
    if column is not None and column not in arrays:
        raise UsageError(f"{source}: no array {column!r}; it contains {listed(arrays) or 'none'} (-O column=NAME)")
    axes = (len(options.axes),) if options.axes else (2,) if options.layout == "nc" else (3, 4)
    stacks = [name for name, (_, array) in arrays.items() if len(array.shape) in axes]
    names = [column] if column is not None else stacks
    if not names:
        raise InputError(
            "no-image-column", f"no array of images; it contains {listed(arrays) or 'none'} (-O column=NAME)"
        )
    if len(names) > 1:
        choices = " or ".join(f"-O column={shortened(name)}" for name in names[:4])
        raise UsageError(f"{source}: images in arrays {listed(names)}: choose one ({choices})")
    for name in names:
        entry, array = arrays[name]
        try:
            labels = _labels(reader, name, arrays)
            stream = _Inflating(reader, entry)
            limit = parse_size("max_file_size", listing.max_file_size) or LARGEST_HELD
            read_bytes: ReadBytes = no_bytes if names_only else stream.exactly
            if options.axes:
                from normcli.sources.array_planes import ArrayFile, slice_planes

                check_numbers(array)
                file = ArrayFile(f"{source}/{name}", array, options.axes, read_bytes, None, labels, limit, group_by)
                yield from slice_planes(file)
            else:
                layout = resolve_layout(f"{source}/{name}", array, options.layout, labeled=labels is not None)
                yield from slice_images(f"{source}/{name}", array, layout, read_bytes, None, labels, limit)
            stream.check_end(array.start + prod(array.shape) * itemsize(array.dtype))
        except InputError as error:
            yield failed_item(f"{source}/{name}", error.reason, error.message)


def _labels(reader: Reader, name: str, arrays: dict[str, tuple[ZipEntry, ArrayHeader]]) -> Any:
    """Return the array that holds the classes of `name`: y_train for x_train, labels for images."""
    count = arrays[name][1].shape[0]
    for other in (name.replace("x", "y", 1), name.replace("images", "labels"), "y", "label", "labels", "target"):
        if other != name and other in arrays and arrays[other][1].shape in ((count,), (count, 1)):
            import numpy as np

            entry, array = arrays[other]
            size = count * itemsize(array.dtype)
            if np.dtype(array.dtype).kind in "ui" and size <= LARGEST_HELD:
                return np.frombuffer(_Inflating(reader, entry).exactly(array.start, size), array.dtype)
    return None


class _Inflating:
    """A member of the archive as a stream that is inflated; offsets only grow."""

    def __init__(self, reader: Reader, entry: ZipEntry) -> None:
        head = reader.at(entry.at, 30)
        if head[:4] != b"PK\3\4" or len(head) < 30:
            raise InputError("damaged", "the archive's directory and the member's own header disagree")
        name, extra = struct.unpack_from("<HH", head, 26)
        self._reader, self._entry = reader, entry
        self._next = entry.at + 30 + name + extra
        self._end = self._next + entry.packed
        self._inflater = zlib.decompressobj(-15) if entry.method == 8 else None
        self._at, self._pending, self._checksum = 0, b"", 0

    def at(self, offset: int, size: int) -> bytearray:
        """Return up to `size` bytes at `offset`."""
        assert offset >= self._at, "a stream is read forwards"
        while self._at < offset:
            if not self._take(min(offset - self._at, 1 << 20)):
                return bytearray()
        out = bytearray()  # grows with what comes, whatever is claimed, and is never joined: half the memory
        while len(out) < size and (part := self._take(min(size - len(out), 1 << 20))):
            out += part
        return out

    def exactly(self, offset: int, size: int) -> bytearray:
        """Return `size` bytes at `offset`.

        Raises:
            InputError: it ends early.
        """
        data = self.at(offset, size)
        if len(data) < size:
            raise InputError("truncated", "the array is cut short")
        return data

    def _take(self, size: int) -> bytes:
        if self._inflater is None:
            data = self._reader.at(self._next, min(size, self._end - self._next))
            self._next += len(data)
        else:
            try:
                data = self._inflated(size)
            except zlib.error as error:
                raise InputError("damaged", f"the compressed data is damaged: {error}") from None
        self._at += len(data)
        self._checksum = zlib.crc32(data, self._checksum)
        return data

    def check_end(self, offset: int) -> None:
        """Check that a member that was read up to `offset` ends there, and its checksum.

        Raises:
            InputError: more follows, or it is damaged.
        """
        if self._at != offset:  # it was not read, such as for its names alone
            return
        check_end(len(self.at(offset, 1 << 16)))
        if self._checksum != self._entry.checksum:
            raise InputError("damaged", "the member's checksum is wrong: some of its images are damaged")

    def _inflated(self, size: int) -> bytes:
        assert self._inflater is not None
        while True:
            if not self._pending and self._next < self._end:
                self._pending = self._reader.at(self._next, min(1 << 16, self._end - self._next))
                if not self._pending:  # the directory claims more than the file has
                    raise InputError("truncated", "the archive ends inside the array")
                self._next += len(self._pending)
            data = self._inflater.decompress(self._pending, size)
            self._pending = self._inflater.unconsumed_tail
            if data or self._inflater.eof or not (self._pending or self._next < self._end):
                return data
