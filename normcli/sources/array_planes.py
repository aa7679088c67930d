"""Planes of one array of any number of axes, .npy or .npz, for `-O axes=TCZYX`.

An image is some runs of the file, one for each place on its axes that others come after, such as C of TCZYX.
"""

import zlib
from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any, NamedTuple

from normcli.errors import InputError
from normcli.sources.axes import Planes, planes_of
from normcli.sources.item import Item, failed_item
from normcli.sources.npy import LARGEST_HELD, ReadBytes, itemsize, no_bytes
from normcli.storage.files import FileStamp, read_at
from normcli.storage.npy import ArrayHeader


class PlaneRuns(NamedTuple):
    """The loader of one image of an array.

    Attributes:
        path: of the file.
        start: of the first run, in bytes.
        dtype: of a value.
        lead: length and stride in bytes of the axes of the image that are outside of a run.
        run: lengths of the axes of a run.
        order: of these axes as rows, columns and channels.
        stamp: of the file.
        content: the values, where only the reader has them.
    """

    path: str
    start: int
    dtype: str
    lead: tuple[tuple[int, int], ...]
    run: tuple[int, ...]
    order: tuple[int, ...]
    stamp: FileStamp | None = None
    content: bytes | None = None

    def __call__(self) -> Any:
        import numpy as np

        dtype = np.dtype(self.dtype)
        data = self._runs(prod(self.run) * dtype.itemsize) if self.content is None else self.content
        image = np.frombuffer(data, dtype).reshape((*(length for length, _ in self.lead), *self.run))
        native = image.astype(dtype.newbyteorder("="), copy=False)  # counts do not depend on the order of bytes
        return np.ascontiguousarray(native.transpose(self.order))

    def _runs(self, size: int) -> bytes:
        places = product(*(range(0, length * stride, stride) for length, stride in self.lead))
        return b"".join(read_at(self.path, self.start + sum(place), size, self.stamp) for place in places)

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the loader itself takes."""
        return 0 if self.content is None else len(self.content)

    def fingerprint(self) -> str:
        """Return a text that changes with the image: the file's stamp and the place, or a checksum of the bytes."""
        return f"{self.stamp}:{self.start}:{self.run}" if self.content is None else str(zlib.crc32(self.content))


class ArrayFile(NamedTuple):
    """An array in a file.

    Attributes:
        source: for names and messages.
        header: of the array.
        axes: letters of the user.
        read_bytes: returns the bytes where only the reader has them.
        stamp: of the file.
        labels: of the entries on the first axis; None without any.
        limit: largest image in bytes.
        group_by: an axis, or anything else.
    """

    source: str
    header: ArrayHeader
    axes: str
    read_bytes: ReadBytes
    stamp: FileStamp | None
    labels: Any = None
    limit: int | None = None
    group_by: str | None = None


def slice_planes(file: ArrayFile) -> Iterator[Item]:
    """Yield one item for every image of an array.

    Raises:
        InputError: of text or complex numbers, without values, or in an order that scatters its planes.
        UsageError: axes that do not fit.
    """
    source, header = file.source, file.header
    planes = planes_of(source, header.shape, file.axes)
    groups = planes.groups(source, file.group_by)
    size = planes.values * itemsize(header.dtype)
    if 0 in header.shape:
        yield failed_item(source, "empty", f"an array of shape {header.shape} has no pixels")
        return
    if file.limit is not None and size > file.limit:
        what = f"images of {size} bytes, more than the limit of {file.limit} (--max-file-size)"
        yield failed_item(source, "too-large", what)
        return
    places = _Places(file, planes)
    by_first = file.labels is not None and planes.axes[0] not in "YXC"
    for number, index in planes.each():
        label = str(file.labels[index[0]]) if by_first else None
        load = places.load(index)
        yield Item(f"{source}/{number}" if number else source, load, label if groups is None else groups.label(index))


class _Places:
    """The bytes of every image: runs of the file, or parts of a block that was read."""

    def __init__(self, file: ArrayFile, planes: Planes) -> None:
        header = file.header
        turn = slice(None, None, -1) if header.fortran else slice(None)
        self._file, self._turn = file, turn
        stored = Planes(header.shape[turn], planes.axes[turn])  # in the order of the bytes
        self._shape, self._axes, self._order = stored.shape, stored.axes, stored.order
        outer = [i for i in stored.outer if stored.shape[i] > 1]
        inner = [i for i, letter in enumerate(stored.axes) if letter in "YXC"]
        self._is_stream = file.read_bytes is not no_bytes
        if header.fortran and self._is_stream:
            raise InputError("unsupported", "Fortran order in an archive is not read (save np.ascontiguousarray of it)")
        rows = min(stored.axes.index("Y"), stored.axes.index("X"))
        if outer and outer[-1] > rows:
            order = "Fortran order" if header.fortran else "C order"
            raise InputError(
                "unsupported",
                f"planes of axes {planes.axes} in {order} are not contiguous (save them with YX last)",
            )
        self._strides = [prod(stored.shape[i + 1 :]) * itemsize(header.dtype) for i in range(len(stored.shape))]
        after = outer[-1] if outer else -1
        self._lead = tuple((stored.shape[i], self._strides[i]) for i in inner if i < after)
        self._run = tuple(stored.shape[i] for i in inner if i > after)
        self._first = inner[0]
        self._block: tuple[tuple[int, ...], Any] | None = None

    def load(self, index: tuple[Any, ...]) -> PlaneRuns:
        """Return the loader of the image at an index of the array."""
        file, place = self._file, index[self._turn]
        start = sum(at * stride for at, stride in zip(place, self._strides, strict=True) if isinstance(at, int))
        runs = PlaneRuns(
            file.source, file.header.start + start, file.header.dtype, self._lead, self._run, self._order, file.stamp
        )
        if not self._is_stream:
            return runs
        if not self._lead:
            content = file.read_bytes(runs.start, prod(self._run) * itemsize(file.header.dtype))
            return runs if content is None else runs._replace(content=bytes(content))
        values = self._values(place)
        return runs._replace(content=values.tobytes(), lead=(), run=values.shape)

    def _values(self, place: tuple[Any, ...]) -> Any:
        """Return the image at a place in the block that was read of a stream."""
        import numpy as np

        file, before = self._file, place[: self._first]
        if self._block is None or self._block[0] != before:
            start = sum(at * stride for at, stride in zip(before, self._strides, strict=False))
            size = self._strides[self._first - 1] if self._first else self._strides[0] * self._shape[0]
            if size > LARGEST_HELD:
                raise InputError(
                    "too-large", f"blocks of {size} bytes of the axes {self._axes[self._first :]} in a stream"
                )
            self._block = None
            data = file.read_bytes(file.header.start + start, size)
            self._block = before, np.frombuffer(data or b"", file.header.dtype).reshape(self._shape[self._first :])
        return self._block[1][place[self._first :]]
