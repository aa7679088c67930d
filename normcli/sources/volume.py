"""Volumes as arrays: those of a NIfTI file, an HDF5 dataset or a Zarr store, read block by block in chunks of the file.

`stats` counts planes; `apply` and `restore` keep the shape of the array. No chunk is read twice.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError, UsageError, library_text
from normcli.options.shared import InputOptions
from normcli.sources.item import FailingSource, Item
from normcli.sources.listing import Source, effective_options, kind_of, read_one
from normcli.sources.tagged import ArrayTags
from normcli.storage.reader import Reader, Stream

Array = np.ndarray[Any, Any]
Place = tuple[slice, ...]

KINDS = ("nifti", "hdf5", "zarr")
BLOCK_VALUES = 1 << 21  # samples of a block, or one chunk: 16 MB in float64
_HEADER = 540
_OUTER = "NABDEFGHIJKLMOPQ"


class StoredVolume(NamedTuple):
    """One array of a container.

    Attributes:
        kind: of the container.
        source: path of the container.
        path: of the array in it; "" for NIfTI and for a Zarr store that is one array.
        shape: of the array; of NIfTI with the axes of the file in reverse order, and colors last.
        dtype: of the stored samples.
        channel: position of the axis of channels; None for one channel.
        chunks: lengths that are read and written at once.
        tags: scale, offset and values of missing samples.
        like: position of the array of level 0 whose map this level of an image takes; None for an array of its own.
        array: the reader of an array of Zarr; None for other containers.
    """

    kind: str
    source: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    channel: int | None
    chunks: tuple[int, ...]
    tags: ArrayTags
    like: int | None = None
    array: Any = None

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return 1 if self.channel is None else self.shape[self.channel]

    def places(self) -> Iterator[Place]:
        """Yield the blocks, each a number of complete chunks, in the order of the array."""
        block = block_shape(self.shape, self.chunks)
        starts = (range(0, length, step) for length, step in zip(self.shape, block, strict=True))
        for at in product(*starts):
            yield tuple(slice(i, min(i + step, length)) for i, step, length in zip(at, block, self.shape, strict=True))


def block_shape(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a block: a chunk, or as many as have `BLOCK_VALUES` samples, of the last axes first.

    >>> block_shape((10, 300, 512, 512), (1, 1, 512, 512)), block_shape((7, 9), (4, 4))
    ((1, 8, 512, 512), (7, 9))
    """
    block = [min(chunk, length) for chunk, length in zip(chunks, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        count = -(-shape[axis] // block[axis])
        several = min(count, max(1, BLOCK_VALUES // prod(block)))
        block[axis] = min(block[axis] * several, shape[axis])
        if several < count:
            break
    return tuple(block)


def volumes_of(source: str, listing: InputOptions) -> list[StoredVolume]:
    """Return the arrays of a container that `stats` counts, and the smaller levels of the images of OME-Zarr.

    Raises:
        InputError: it cannot be read.
        UsageError: not a container of volumes, or the array must be named.
    """
    kind = kind_of(source)
    if kind not in KINDS:
        raise UsageError(f"{source}: is not a volume (NIfTI, HDF5, NetCDF4 or Zarr)")
    if kind == "nifti":
        return [_nifti_volume(source)]
    volumes = [_volume(kind, source, item) for item in _first_items(source, listing)]
    if kind == "zarr":
        from normcli.sources.volume_levels import levels_of

        for number, volume in enumerate(list(volumes)):
            for path in levels_of(source, volume.path):
                named = Source(source)
                options = effective_options(source, listing.open_options)
                named.open_options = {
                    **options,
                    "variable": path,
                    "axes": letters_of(len(volume.shape), volume.channel),
                }
                (item,) = _first_items(named, InputOptions(max_file_size=listing.max_file_size))
                volumes.append(_volume(kind, source, item)._replace(like=number))
    return volumes


def _first_items(source: str, listing: InputOptions) -> list[Item]:
    """Return the first plane of every array."""
    firsts: dict[str, Item] = {}
    for item in read_one(source, listing):
        if not isinstance(item, Item):
            continue
        if isinstance(item.load, FailingSource):
            raise InputError(item.load.reason, item.load.message)
        load: Any = item.load
        if hasattr(load, "inputs"):
            raise UsageError(f"{source}: apply writes images, not vectors (`stats` counts them)")
        firsts.setdefault(load.variable if hasattr(load, "variable") else load.array.path, item)
    if not firsts:
        raise InputError("empty", "contains no image")
    return list(firsts.values())


def _volume(kind: str, source: str, item: Item) -> StoredVolume:
    """Return the array of a plane."""
    load: Any = item.load
    inner = [i for i, at in enumerate(load.place) if isinstance(at, slice)]
    channel = inner[load.order[2]] if len(load.order) == 3 else None
    if kind == "zarr":
        array = load.array
        chunks = array.shards
        return StoredVolume(kind, source, array.path, array.shape, load.dtype, channel, chunks, load.tags, None, array)
    with ExitStack() as stack:
        dataset = open_dataset(stack, source, load.variable)
        path, shape, chunks = load.variable.strip("/"), dataset.shape, dataset.chunks
    chunks = chunks or tuple(n if i in inner else 1 for i, n in enumerate(shape))
    shape, chunks = (tuple(map(int, row)) for row in (shape, chunks))
    return StoredVolume(kind, source, path, shape, load.dtype, channel, chunks, load.tags)


def letters_of(axes: int, channel: int | None) -> str:
    """Return letters for the axes of an array, whose last two, without that of channels, are rows and columns."""
    letters = list(_OUTER[:axes])
    rest = [i for i in range(axes) if i != channel]
    letters[rest[-2]], letters[rest[-1]] = "Y", "X"
    if channel is not None:
        letters[channel] = "C"
    return "".join(letters)


def _nifti_volume(source: str) -> StoredVolume:
    from normcli.sources import nifti

    with Reader(nifti.pair_of(source)[0]) as reader:
        stream = Stream(reader) if reader.compression() else None
        plane, _ = nifti.parse_header((stream or reader).at(0, _HEADER))
    shape = (*reversed(plane.axes), *plane.shape)
    lead = len(plane.axes)
    channel = lead + 2 if len(plane.shape) == 3 else None
    chunks = (1,) * lead + plane.shape
    if lead:  # so that a chunk of another container is a small cube
        several = max(1, min(16, plane.axes[0], BLOCK_VALUES // prod(plane.shape)))
        chunks = (*chunks[: lead - 1], several, *plane.shape)
    return StoredVolume("nifti", source, "", shape, plane.dtype, channel, chunks, plane.tags)


def blocks_of(volume: StoredVolume) -> Iterator[tuple[Place, Array]]:
    """Yield the blocks of stored samples in the byte order of the machine.

    Raises:
        InputError: cut short, damaged, or changed since it was listed.
    """
    reader = {"nifti": _nifti_blocks, "hdf5": _hdf5_blocks, "zarr": _zarr_blocks}[volume.kind]
    for place, block in reader(volume):
        native = block.astype(block.dtype.newbyteorder("="), copy=False)
        yield place, native.view(np.dtype(volume.dtype).newbyteorder("="))


def _nifti_blocks(volume: StoredVolume) -> Iterator[tuple[Place, Array]]:
    from normcli.sources import nifti

    header_path, image_path = nifti.pair_of(volume.source)
    with Reader(header_path) as reader:
        stream = Stream(reader) if reader.compression() else None
        head = (stream or reader).at(0, _HEADER)
        plane, is_single = nifti.parse_header(head)
    dtype = np.dtype(volume.dtype)
    with Reader(header_path if is_single else image_path) as reader:
        stream = Stream(reader) if reader.compression() else None
        offset = plane.start
        for place in volume.places():
            shape = tuple(part.stop - part.start for part in place)
            size = prod(shape) * dtype.itemsize
            data = (stream or reader).at(offset, size)
            if len(data) < size:
                raise InputError("truncated", "the volume is cut short")
            offset += size
            yield place, np.frombuffer(data, dtype).reshape(shape)
        if reader.changed():
            raise InputError("changed", "it changed while it was read")


def open_dataset(stack: ExitStack, source: str, variable: str) -> Any:
    """Return a dataset of a file that is closed with the stack."""
    import h5py

    reader = stack.enter_context(Reader(source))
    file = stack.enter_context(h5py.File(reader.file(), "r", rdcc_nbytes=64 << 20))
    return file[variable]


def _hdf5_blocks(volume: StoredVolume) -> Iterator[tuple[Place, Array]]:
    with ExitStack() as stack:
        dataset = open_dataset(stack, volume.source, volume.path)
        for place in volume.places():
            try:
                block = dataset[place]
            except (ImportError, MemoryError):
                raise
            except Exception as error:
                raise InputError("damaged", f"cannot be read as HDF5: {library_text(error)}") from None
            yield place, block


def _zarr_blocks(volume: StoredVolume) -> Iterator[tuple[Place, Array]]:
    from normcli.sources.zarr import decoded

    for place in volume.places():
        yield place, decoded(volume.array, tuple(part.start for part in place), tuple(part.stop for part in place))


def is_missing(stored: Array, tags: ArrayTags) -> Array | None:
    """Return True where a sample has the value of missing ones; None where none has, or tags name no value."""
    from normcli.sources.tagged import invalid_samples

    return invalid_samples(stored, tags._replace(hidden=None, valid=None))[0]


def read_json(path: str) -> dict[str, Any]:
    """Return a JSON object of a store, {} where there is none."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            document = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
