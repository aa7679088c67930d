"""Images stacked in one array, .npy. Nothing is unpickled.

One image of a plain .npy is a span of the file, read in the worker; `npz` reads archives of arrays.
"""

import logging
import zlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

from normcli.errors import InputError, UsageError
from normcli.options.field import Options, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.containers import SkipEmpty, skip_empty_option
from normcli.sources.item import ArrayLayout, Item, Items, failed_item
from normcli.storage.files import FileStamp, read_at
from normcli.storage.npy import MAX_HEADER, ArrayHeader, parse_npy_header
from normcli.storage.reader import Reader

log = logging.getLogger("normcli.sources")

LARGEST_HELD = 1 << 28  # of an image that inflates from a stream: 1 MB of .npz can claim to be 1 GB
ReadBytes = Callable[[int, int], bytes | bytearray | None]  # offset, size: the bytes where only the reader has them
_FEW = (1, 2, 3, 4)  # channels
_MOST_BANDS = 32  # of an image that is not taken for a stack of gray ones
_AXES = {"nhwc": 4, "nchw": 4, "nhw": 3, "hwc": 3, "chw": 3, "hw": 2, "nc": 2}


class ArraySlice(NamedTuple):
    """The loader of one image of a stack: reads its values, and puts channels last."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    channels_first: bool
    stamp: FileStamp | None = None
    content: bytes | bytearray | None = None

    def __call__(self) -> Any:
        import numpy as np

        dtype = np.dtype(self.dtype)
        data: bytes | bytearray | None = self.content
        if data is None:
            data = read_at(self.path, self.offset, prod(self.shape) * dtype.itemsize, self.stamp)
        image = np.frombuffer(data, dtype).reshape(self.shape)
        image = image.astype(dtype.newbyteorder("="), copy=False)  # counts do not depend on the order of bytes
        return np.ascontiguousarray(image.transpose(1, 2, 0)) if self.channels_first else image

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the loader itself takes."""
        return 0 if self.content is None else len(self.content)

    def fingerprint(self) -> str:
        """Return a text that changes with the image: the file's stamp and the offset, or a checksum of the bytes."""
        return f"{self.stamp}:{self.offset}" if self.content is None else str(zlib.crc32(self.content))


class ArrayMember(NamedTuple):
    """The loader of one image that is an .npy in an archive: `load` reads it; channels are put last."""

    load: Any
    key: str
    layout: str

    def __call__(self) -> Any:
        data = self.load()
        array = parse_npy_header(data)
        try:
            layout = resolve_layout(self.key, array, self._axes(array.shape))
        except UsageError as error:
            raise InputError("layout", str(error)) from None
        if layout.startswith("n"):
            what = f"an array of shape {array.shape}, not one image"
            raise InputError("layout", f"{what} (as SOURCE it is read as a stack of images; extract an archive first)")
        size = prod(array.shape) * itemsize(array.dtype)
        values = data[array.start : array.start + size]
        if len(values) < size:
            raise InputError("truncated", f"{len(values)} of {size} bytes: the array is cut short")
        check_end(len(data) - array.start - size)
        if not size:
            raise InputError("empty", f"an array of shape {array.shape} has no pixels")
        return ArraySlice(self.key, 0, array.dtype, array.shape, layout == "chw", None, values)()

    def _axes(self, shape: tuple[int, ...]) -> str:
        """Return the layout: a member holds one image, so three axes leave less to guess than those of a file."""
        if self.layout == "auto" and len(shape) == 3 and (shape[2] in _FEW) != (shape[0] in _FEW):
            return "hwc" if shape[2] in _FEW else "chw"
        return self.layout

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the loader itself takes."""
        return int(getattr(self.load, "memory_bytes", 0))

    def fingerprint(self) -> str:
        """Return a text that changes with the image: the fingerprint of its bytes."""
        return str(self.load.fingerprint())


class NpyOptions(Options):
    """Open options of .npy and .npz files."""

    layout: ArrayLayout = option(
        "Axes of the array: n images, h rows, w columns, c channels; auto: recognized by the sizes; nc: vectors.",
        "auto",
    )
    axes: str | None = option(
        "A letter for each axis of the array, such as TCZYX: Y rows, X columns, C channels, others number the images."
    )
    column: str | None = option("Array of an .npz that holds the images (default: the only one of 3 or 4 axes).")
    skip_empty: SkipEmpty = skip_empty_option()

    def _check(self) -> None:
        super()._check()
        if self.axes is not None and self.layout != "auto":
            raise UsageError("`open_options` axes: cannot be combined with layout")


OPEN_OPTIONS = NpyOptions


def read(
    source: str,
    listing: InputOptions,
    options: NpyOptions,
    *,
    names_only: bool = False,
    group_by: str | None = None,
) -> Items:
    """Yield the images of an .npy or .npz; `group_by` may be one of the `axes`.

    Raises:
        InputError: damaged, cut short, of objects, or in Fortran order.
        UsageError: the layout does not fit, or is not clear.
    """
    with Reader(source) as reader:
        if reader.at(0, 4) in (b"PK\3\4", b"PK\5\6"):  # an archive of arrays, or of none
            from normcli.sources import npz

            yield from npz.read_archive(reader, listing, options, names_only, group_by)
            return
        array = parse_npy_header(reader.at(0, MAX_HEADER))
        check_numbers(array)
        layout = "" if options.axes else resolve_layout(source, array, options.layout)
        total = prod(array.shape) * itemsize(array.dtype)
        if array.start + total > reader.size:
            raise InputError("truncated", f"{reader.size - array.start} of {total} bytes: the array is cut short")
        limit = parse_size("max_file_size", listing.max_file_size)
        if options.axes:
            from normcli.sources.array_planes import ArrayFile, slice_planes

            file = ArrayFile(source, array, options.axes, no_bytes, reader.stamp, None, limit, group_by)
            yield from slice_planes(file)
        else:
            yield from slice_images(source, array, layout, no_bytes, reader.stamp, None, limit)
        check_end(reader.size - array.start - total)


def check_end(rest: int) -> None:
    """Check that an array ends with its file: `np.save` may write several into one.

    Raises:
        InputError: so many bytes follow.
    """
    if rest > 0:
        raise InputError("trailing-data", f"{rest} bytes after the array are not read: several arrays in one file?")


def no_bytes(offset: int, size: int) -> None:
    """Leave the reading to the worker."""


def slice_images(
    source: str,
    array: ArrayHeader,
    layout: str,
    read_bytes: ReadBytes,
    stamp: FileStamp | None,
    labels: Any = None,
    limit: int | None = None,
) -> Iterator[Item]:
    """Yield one item for every image of an array; `read_bytes` returns the bytes where only the reader has them."""
    if layout == "nc":
        from normcli.sources.vectors import slice_rows

        yield from slice_rows(source, array, read_bytes, stamp, labels)
        return
    alone = not layout.startswith("n")
    shape = array.shape if alone else array.shape[1:]
    count = 1 if alone else array.shape[0]
    size = prod(shape) * itemsize(array.dtype)
    first = layout.endswith("chw")
    width = len(str(max(0, count - 1)))
    if 0 in shape:
        yield failed_item(source, "empty", f"an array of shape {array.shape} has no pixels")
        return
    if limit is not None and size > limit:  # one word for all: a stream of a few bytes may claim 2^48 of them
        what = f"{size} bytes" if alone else f"{count} images of {size} bytes"
        yield failed_item(source, "too-large", f"{what}, more than the limit of {limit} (--max-file-size)")
        return
    for i in range(count):
        key = source if alone else f"{source}/{i:0{width}d}"
        offset, label = array.start + i * size, None if labels is None else str(labels[i])
        # no name for its bytes: they would stay until the next image is there
        yield Item(key, ArraySlice(source, offset, array.dtype, shape, first, stamp, read_bytes(offset, size)), label)


def resolve_layout(source: str, array: ArrayHeader, layout: str, *, labeled: bool = False) -> str:
    """Return the layout of an array.

    Args:
        source: for messages.
        array: its header.
        layout: the user's choice, or "auto".
        labeled: it has as many labels as entries on its first axis.

    Raises:
        InputError: of text or complex numbers, in Fortran order, or of too few axes.
        UsageError: the layout does not fit, or is not clear from the shape.
    """
    check_numbers(array)
    shape = array.shape
    if layout == "auto":
        layout = "nhw" if labeled and len(shape) == 3 else _layout(source, shape)
    if len(shape) != _AXES[layout]:
        raise UsageError(f"{source}: an array of shape {shape} is not {layout} (-O layout=nchw)")
    if array.fortran and len([n for n in shape if n > 1]) > 1:
        raise InputError("unsupported", "images in Fortran order are not contiguous (save np.ascontiguousarray of it)")
    return layout


def check_numbers(array: ArrayHeader) -> None:
    """Check that an array is of numbers.

    Raises:
        InputError: of text, complex numbers or objects.
    """
    import numpy as np

    if np.dtype(array.dtype).kind not in "uifb":
        raise InputError("unsupported", f"an array of {array.dtype}, not of numbers")


def _layout(source: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        last, second = shape[3] in _FEW, shape[1] in _FEW
        if last != second:
            return "nhwc" if last else "nchw"
        raise UsageError(f"{source}: shape {shape} may be nhwc or nchw (choose one: -O layout=nchw)")
    if len(shape) == 3:
        last, first = shape[2] in _FEW, shape[0] in _FEW
        if not last and not first and not _may_be_bands(shape):
            log.warning(
                "%s: read as %d gray images of %d x %d (`open_options` layout=chw or hwc reads bands)", source, *shape
            )
            return "nhw"
        raise UsageError(f"{source}: shape {shape} may be nhw, hwc or chw (choose one: -O layout=nhw)")
    if len(shape) == 2:
        return "hw"
    raise InputError("not-an-image", f"an array of shape {shape}; images need 2 to 4 axes")


def _may_be_bands(shape: tuple[int, ...]) -> bool:
    """Return True if three axes may be one image of up to 32 bands.

    >>> _may_be_bands((13, 40, 40)), _may_be_bands((40, 50, 13)), _may_be_bands((60000, 28, 28))
    (True, True, False)
    """
    return shape[0] <= _MOST_BANDS or (shape[2] <= _MOST_BANDS and shape[2] != shape[1])


def itemsize(dtype: str) -> int:
    """Return the bytes of one value."""
    import numpy as np

    return np.dtype(dtype).itemsize
