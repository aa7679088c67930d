"""Images stacked in one array: .npy, or the arrays of an .npz. Nothing is unpickled.

One image of a plain .npy is a span of the file, read in the worker; a compressed .npz is read as it inflates.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from normcli.errors import InputError, UsageError
from normcli.options.field import Options, option
from normcli.options.images import InputOptions
from normcli.sources.item import ArrayLayout, Item, Items, failed_item
from normcli.sources.zip import ZipEntry, walk_directory
from normcli.storage.byte_sources import read_at
from normcli.storage.npy_format import MAX_HEADER, ArrayHeader, parse_npy_header
from normcli.storage.reader import Reader
from normcli.storage.versions import FileStamp

LARGEST_HELD = 1 << 28  # of an image that inflates from a stream: 1 MB of .npz can claim to be 1 GB
ReadBytes = Callable[
    [int, int], bytes | bytearray | None
]  # offset, size: the bytes where only the reader can give them
_FEW = (1, 2, 3, 4)  # channels
_AXES = {"nhwc": 4, "nchw": 4, "nhw": 3, "hwc": 3, "chw": 3, "hw": 2}


class ArraySlice(NamedTuple):
    """The recipe for one image of a stack: read its values, put channels last."""

    path: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    channels_first: bool
    stamp: FileStamp | None = None
    held: bytes | bytearray | None = None

    def __call__(self) -> Any:
        import numpy as np

        dtype = np.dtype(self.dtype)
        data: bytes | bytearray | None = self.held
        if data is None:
            data = read_at(self.path, self.offset, prod(self.shape) * dtype.itemsize, self.stamp)
        image = np.frombuffer(data, dtype).reshape(self.shape)
        return np.ascontiguousarray(image.transpose(1, 2, 0)) if self.channels_first else image

    @property
    def memory_bytes(self) -> int:
        """How much memory the recipe itself takes."""
        return 0 if self.held is None else len(self.held)

    def fingerprint(self) -> str:
        """What changes with the image: the file's stamp and the place in it, or a checksum of what is held."""
        return f"{self.stamp}:{self.offset}" if self.held is None else str(zlib.crc32(self.held))


class ArrayMember(NamedTuple):
    """The recipe for one image that an archive holds as an .npy: read by `load`, put channels last."""

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
            raise InputError("layout", f"an array of shape {array.shape}: a member holds one image, not a stack")
        size = prod(array.shape) * _itemsize(array.dtype)
        held = data[array.start : array.start + size]
        if len(held) < size:
            raise InputError("truncated", f"{len(held)} of {size} bytes: the array is cut short")
        if not size:
            raise InputError("empty", f"an array of shape {array.shape} holds no pixels")
        return ArraySlice(self.key, 0, array.dtype, array.shape, layout == "chw", None, held)()

    def _axes(self, shape: tuple[int, ...]) -> str:
        """A member holds one image, so three axes leave less to guess than those of a file."""
        if self.layout == "auto" and len(shape) == 3 and (shape[2] in _FEW) != (shape[0] in _FEW):
            return "hwc" if shape[2] in _FEW else "chw"
        return self.layout

    @property
    def memory_bytes(self) -> int:
        """How much memory the recipe itself takes."""
        return int(getattr(self.load, "memory_bytes", 0))

    def fingerprint(self) -> str:
        """What changes with the image: that of its bytes."""
        return str(self.load.fingerprint())


@dataclass(frozen=True, kw_only=True)
class NpyOptions(Options):
    """Open options of .npy and .npz files."""

    layout: ArrayLayout = option(
        "Axes of the array: n images, h rows, w columns, c channels; auto: as the sizes tell.", "auto"
    )
    column: str | None = option("Array of an .npz that holds the images (default: all of 3 or 4 axes).")


OPEN_OPTIONS = NpyOptions


def read(source: str, listing: InputOptions, options: NpyOptions) -> Items:
    """Yield the images of an .npy or .npz.

    Raises:
        InputError: damaged, cut short, of objects, or in Fortran order.
        UsageError: the layout does not fit, or is not clear.
    """
    with Reader(source) as reader:
        if reader.at(0, 4) == b"PK\3\4":
            yield from _archive(reader, listing, options)
            return
        array = parse_npy_header(reader.at(0, MAX_HEADER))
        layout = resolve_layout(source, array, options.layout)
        whole = prod(array.shape) * _itemsize(array.dtype)
        if array.start + whole > reader.size:
            raise InputError("truncated", f"{reader.size - array.start} of {whole} bytes: the array is cut short")
        yield from slice_images(
            source, array, layout, lambda offset, size: None, reader.stamp, None, listing.file_limit
        )


def slice_images(
    source: str,
    array: ArrayHeader,
    layout: str,
    read_bytes: ReadBytes,
    stamp: FileStamp | None,
    labels: Any = None,
    limit: int | None = None,
) -> Iterator[Item]:
    """One item for every image of an array; `read_bytes` gives the bytes where only the reader has them."""
    alone = not layout.startswith("n")
    shape = array.shape if alone else array.shape[1:]
    count = 1 if alone else array.shape[0]
    size = prod(shape) * _itemsize(array.dtype)
    first = layout.endswith("chw")
    width = len(str(max(0, count - 1)))
    if 0 in shape:
        yield failed_item(source, "empty", f"an array of shape {array.shape} holds no pixels")
        return
    if limit is not None and size > limit:  # one word for all: a stream of a few bytes may claim 2^48 of them
        what = f"{size} bytes" if alone else f"{count} images of {size} bytes"
        yield failed_item(source, "too-large", f"{what}, more than the limit of {limit} (--max-file-size)")
        return
    for i in range(count):
        key = source if alone else f"{source}/{i:0{width}d}"
        offset = array.start + i * size
        held = read_bytes(offset, size)
        load = ArraySlice(source, offset, array.dtype, shape, first, stamp, held)
        yield Item(key, load, None if labels is None else str(labels[i]))


def resolve_layout(source: str, array: ArrayHeader, layout: str) -> str:
    """Settle the layout of an array.

    Raises:
        InputError: of text or complex numbers, in Fortran order, or of too few axes.
        UsageError: the layout does not fit, or is not clear from the shape.
    """
    import numpy as np

    kind = np.dtype(array.dtype).kind
    if kind not in "uifb":
        raise InputError("unsupported", f"an array of {array.dtype}, not of numbers")
    shape = array.shape
    if layout == "auto":
        layout = _layout(source, shape)
    if len(shape) != _AXES[layout]:
        raise UsageError(f"{source}: an array of shape {shape} is not {layout} (-O layout=nchw)")
    if array.fortran and len([n for n in shape if n > 1]) > 1:
        raise InputError("unsupported", "in Fortran order its images lie scattered; save np.ascontiguousarray(it)")
    return layout


def _layout(source: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        last, second = shape[3] in _FEW, shape[1] in _FEW
        if last != second:
            return "nhwc" if last else "nchw"
        raise UsageError(f"{source}: shape {shape} may be nhwc or nchw: say which (-O layout=nchw)")
    if len(shape) == 3:
        last, first = shape[2] in _FEW, shape[0] in _FEW
        if not last and not first:
            return "nhw"
        raise UsageError(f"{source}: shape {shape} may be nhw, hwc or chw: say which (-O layout=nchw)")
    if len(shape) == 2:
        return "hw"
    raise InputError("not-an-image", f"an array of shape {shape}; images need 2 to 4 axes")


def _archive(reader: Reader, listing: InputOptions, options: NpyOptions) -> Items:
    """The arrays of an .npz that look like images, or the one asked for."""
    source = reader.path
    found: dict[str, tuple[ZipEntry, ArrayHeader]] = {}
    for entry in walk_directory(reader):
        if entry.name.endswith(".npy") and entry.method in (0, 8):
            name = entry.name.removesuffix(".npy")
            try:
                found[name] = entry, parse_npy_header(_Inflating(reader, entry).at(0, MAX_HEADER))
            except InputError as error:
                if options.column in (None, name):
                    yield failed_item(f"{source}/{name}", error.reason, error.message)
        if len(found) > 10_000:
            raise InputError("unsupported", "more than 10,000 arrays")
    asked = options.column
    if asked is not None and asked not in found:
        raise UsageError(f"{source}: no array {asked!r}; it holds {', '.join(found) or 'none'} (-O column=NAME)")
    stacks = [name for name, (_, array) in found.items() if len(array.shape) in (3, 4)]
    names = [asked] if asked is not None else stacks
    if not names:
        raise InputError(
            "no-image-column", f"no array of images; it holds {', '.join(found) or 'none'} (-O column=NAME)"
        )
    for name in names:
        entry, array = found[name]
        try:
            layout = resolve_layout(f"{source}/{name}", array, options.layout)
            stream = _Inflating(reader, entry)
            labels = _labels(reader, name, found)
            limit = listing.file_limit or LARGEST_HELD
            yield from slice_images(f"{source}/{name}", array, layout, stream.exactly, None, labels, limit)
        except InputError as error:
            yield failed_item(f"{source}/{name}", error.reason, error.message)


def _labels(reader: Reader, name: str, found: dict[str, tuple[ZipEntry, ArrayHeader]]) -> Any:
    """The array that holds the classes of `name`: y_train for x_train, labels for images."""
    count = found[name][1].shape[0]
    for other in (name.replace("x", "y", 1), name.replace("images", "labels"), "y", "label", "labels", "target"):
        if other != name and other in found and found[other][1].shape in ((count,), (count, 1)):
            import numpy as np

            entry, array = found[other]
            size = count * _itemsize(array.dtype)
            if np.dtype(array.dtype).kind in "ui" and size <= LARGEST_HELD:
                return np.frombuffer(_Inflating(reader, entry).exactly(array.start, size), array.dtype)
    return None


def _itemsize(dtype: str) -> int:
    import numpy as np

    return np.dtype(dtype).itemsize


class _Inflating:
    """A member of the archive as a stream that inflates; offsets only grow."""

    def __init__(self, reader: Reader, entry: ZipEntry) -> None:
        head = reader.at(entry.at, 30)
        if head[:4] != b"PK\3\4" or len(head) < 30:
            raise InputError("damaged", "the archive's directory and the member's own header disagree")
        name, extra = struct.unpack_from("<HH", head, 26)
        self._reader, self._entry = reader, entry
        self._next = entry.at + 30 + name + extra
        self._end = self._next + entry.packed
        self._inflater = zlib.decompressobj(-15) if entry.method == 8 else None
        self._at, self._pending = 0, b""

    def at(self, offset: int, size: int) -> bytearray:
        """Up to `size` bytes at `offset`."""
        assert offset >= self._at, "a stream is read forwards"
        while self._at < offset:
            if not self._take(min(offset - self._at, 1 << 20)):
                return bytearray()
        out = bytearray()  # grows with what comes, whatever is claimed, and is never joined: half the memory
        while len(out) < size and (part := self._take(min(size - len(out), 1 << 20))):
            out += part
        return out

    def exactly(self, offset: int, size: int) -> bytearray:
        """As `at`, all of it.

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
        return data

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
