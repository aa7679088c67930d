"""IDX, the format of MNIST: a big-endian array behind a short header, plain or gzipped."""

import os
from math import prod
from typing import Any

from normcli.errors import InputError
from normcli.options.field import Options, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.item import ArrayLayout, Items
from normcli.sources.npy import LARGEST_HELD, check_end, resolve_layout, slice_images
from normcli.storage import is_remote
from normcli.storage.npy import ArrayHeader
from normcli.storage.reader import Reader, Stream

_TYPES = {8: "|u1", 9: "|i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class IdxOptions(Options):
    """Open options of IDX files."""

    layout: ArrayLayout = option(
        "Axes of the array; auto: three axes are nhw, four are recognized by their sizes.", "auto"
    )


OPEN_OPTIONS = IdxOptions


def read(source: str, listing: InputOptions, options: IdxOptions, *, names_only: bool = False) -> Items:
    """Yield the images of an IDX file; classes come from the labels file next to it, if there is one.

    Raises:
        InputError: not an IDX file, cut short, or not of images.
        UsageError: the layout does not fit.
    """
    with Reader(source) as reader:
        stream = Stream(reader) if reader.compression() else None
        array = _header(stream or reader)
        layout = resolve_layout(
            source, array, "nhw" if options.layout == "auto" and len(array.shape) == 3 else options.layout
        )
        size = prod(array.shape) * int(array.dtype[2:])
        if stream is None and array.start + size > reader.size:
            raise InputError("truncated", f"{reader.size - array.start} of {size} bytes: the file is cut short")

        def read_bytes(offset: int, size: int) -> bytes | None:
            if stream is None or names_only:
                return None
            data = stream.at(offset, size)
            if len(data) < size:
                raise InputError("truncated", "the file is cut short")
            return data

        labels = _labels(source, array.shape[0])
        limit = parse_size("max_file_size", listing.max_file_size) or (LARGEST_HELD if stream else None)
        yield from slice_images(source, array, layout, read_bytes, reader.stamp, labels, limit)
        if stream is None:
            check_end(reader.size - array.start - size)
        elif not names_only and (limit is None or size <= limit * array.shape[0]):
            check_end(len(stream.at(array.start + size, 1 << 16)))


def _header(file: Reader | Stream) -> ArrayHeader:
    magic = file.at(0, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= 4:
        raise InputError("not-an-array", "not an IDX file")
    sizes = file.at(4, 4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise InputError("truncated", "the file is cut short inside its header")
    shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4))
    return ArrayHeader(_TYPES[magic[2]], False, shape, 4 + len(sizes))


def labels_beside(source: str) -> str | None:
    """Return the file of the classes, train-labels-idx1-ubyte for train-images-idx3-ubyte; None if there is none."""
    folder, slash, name = source.rpartition("/")
    other = name.replace("images", "labels").replace("idx3", "idx1")
    path = folder + slash + other
    return None if other == name or is_remote(source) or not os.path.isfile(path) else path  # noqa: PTH113


def _labels(source: str, count: int) -> Any:
    """Return the classes, where there are as many as images."""
    path = labels_beside(source)
    if path is None:
        return None
    with Reader(path) as reader:
        labels = Stream(reader) if reader.compression() else reader
        array = _header(labels)
        if array.shape != (count,) or array.dtype not in ("|u1", "|i1"):
            return None
        classes = labels.at(array.start, count)
    return classes if len(classes) == count else None
