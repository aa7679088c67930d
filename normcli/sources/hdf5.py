"""HDF5 and NetCDF4: the planes of one dataset, each read in the worker through the cache of its chunks.

Nothing outside the file is opened: neither external links nor external storage, nor filters that are not HDF5's own.
"""

import os
import sys
import threading
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any, NamedTuple

from normcli import late_imports
from normcli.errors import InputError, UsageError, listed
from normcli.options.field import parse_size
from normcli.options.shared import InputOptions
from normcli.sources.axes import AxisGroups, DatasetOptions, Planes, coordinate_texts, planes_of
from normcli.sources.cf import DEFAULT_FILL, auxiliary_names, cf_tags, unpacked
from normcli.sources.chunked import ChunkBlocks, image
from normcli.sources.dataset_rows import Region, check_image, group_of, has_wildcard, is_rows, rows_of
from normcli.sources.hdf5_chunks import ChunkedDataset, chunked_dataset
from normcli.sources.item import Item, Items, failed_item
from normcli.sources.npy import LARGEST_HELD
from normcli.sources.tagged import ArrayTags, TaggedArray, tagged
from normcli.storage.files import FileStamp
from normcli.storage.reader import Reader

_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
_LEAST_CACHE, _MOST_CACHE = 1 << 20, 64 << 20  # bytes of chunks that stay inflated for the next plane
_MOST_OBJECTS = 100_000
_CLASSIC = b"CDF"


OPEN_OPTIONS = DatasetOptions


class DatasetSlice(NamedTuple):
    """The loader of one image of a dataset."""

    path: str
    variable: str
    place: tuple[Any, ...]
    order: tuple[int, ...]
    dtype: str
    tags: ArrayTags
    cache: int
    blocks: ChunkBlocks | None
    stamp: FileStamp | None

    def __call__(self) -> TaggedArray:
        with _readable():
            values = _image(self)
        return tagged(values.view(self.dtype).transpose(self.order), self.tags)

    @property
    def block(self) -> tuple[Any, ...] | None:
        """Return the key of the block in the chunks: dataset and place; None without chunks."""
        return None if self.blocks is None else (self.path, self.variable, self.blocks.of(self.place)[0])

    def fingerprint(self) -> str:
        """Return a text that changes with the image: stamp, dataset and index."""
        return f"{self.stamp}:{self.variable}:{self.place}:{self.tags}"


class DatasetRegion(NamedTuple):
    """The loader of a region of a dataset."""

    path: str
    variable: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    dtype: str
    tags: ArrayTags
    stamp: FileStamp | None

    def __call__(self) -> TaggedArray:
        with _readable():
            dataset, ours = _open_dataset(self.path, self.stamp, _LEAST_CACHE, self.variable)
            place = tuple(map(slice, self.start, self.stop))
            values = dataset[place] if ours is None else ours.region(self.start, self.stop)
        return tagged(values.view(self.dtype), self.tags)

    def fingerprint(self) -> str:
        """Return a text that changes with the samples: stamp and dataset."""
        return f"{self.stamp}:{self.variable}:{self.tags}"


class _Chosen(NamedTuple):
    """A dataset to read: its images, None if its rows are vectors."""

    variable: str
    shape: tuple[int, ...]
    planes: Planes | None
    dtype: Any
    tags: ArrayTags
    cache: int
    blocks: ChunkBlocks | None
    groups: AxisGroups | None
    label: str | None


def read(source: str, listing: InputOptions, options: DatasetOptions, *, group_by: str | None = None) -> Items:
    """Yield the images of datasets, named by the numbers of their axes, or rows of numbers in blocks.

    `group_by` may be an axis.

    Raises:
        InputError: damaged, cut short, without images, or with data outside the file.
        MissingExtraError: h5py is not installed.
        UsageError: several datasets, or axes that are not clear.
    """
    with Reader(source) as reader:
        if reader.at(0, 3) == _CLASSIC:
            raise InputError("unsupported", "NetCDF in the classic format (nccopy -k nc4 converts it to NetCDF4)")
        limit = parse_size("max_file_size", listing.max_file_size) or max(LARGEST_HELD, reader.size)
        stamp = reader.stamp
        with _readable(), _open(reader) as file:
            variables = _variables(source, file, options.variable)
            every = [_choose(source, file, *variable, options, group_by) for variable in variables]
    for one in every:
        name = f"{source}/{one.variable.strip('/')}"
        kind = one.dtype.str, one.tags
        if one.planes is None:
            load = partial(_region, source, one.variable, kind, stamp)
            yield from rows_of(name, one.shape, str(options.axes), one.label, load)
            continue
        size = one.planes.values * one.dtype.itemsize
        if size > limit:
            what = f"images of {size} bytes, more than the limit of {limit} (--max-file-size)"
            yield failed_item(name, "too-large", what)
            continue
        for number, index in one.planes.each():
            label = one.label if one.groups is None else one.groups.label(index)
            slice_of = DatasetSlice(source, one.variable, index, one.planes.order, *kind, one.cache, one.blocks, stamp)
            yield Item(f"{name}/{number}" if number else name, slice_of, label)


def _region(source: str, variable: str, kind: tuple[str, ArrayTags], stamp: FileStamp | None, region: Region) -> Any:
    return DatasetRegion(source, variable, *region, *kind, stamp)


def _variables(source: str, file: Any, variable: str | None) -> Sequence[tuple[str, str | None]]:
    """Return the paths of the datasets to read, each with the text that its wildcards match.

    Raises:
        InputError: none that holds images.
        UsageError: none that matches, or several without a choice.
    """
    if variable is None:
        return [(_only_variable(source, file), None)]
    if not has_wildcard(variable):
        return [(variable, None)]
    every = [(name, len(one.shape or ()), group_of(variable, name)) for name, one in _datasets(file)]
    if not (matches := [(name, group) for name, _, group in every if group is not None]):
        names = listed(name for name, _, _ in every)
        raise UsageError(f"{source}: no dataset matches {variable!r}; it contains {names or 'none'} (-O variable=PATH)")
    return [(name, group) for name, axes, group in every if group is not None and axes > 1] or matches


def _choose(
    source: str, file: Any, variable: str, label: str | None, options: DatasetOptions, group_by: str | None
) -> _Chosen:
    dataset = _dataset(source, file, variable)
    _check_storage(dataset)
    dtype, tags = cf_tags(_cf_attributes(dataset), dataset.dtype)
    if is_rows(options.axes):
        return _Chosen(variable, dataset.shape, None, dtype, tags, 0, None, None, label)
    names = _dimension_names(dataset)
    if options.axes is None and not any(names):
        check_image(f"{source}/{variable.strip('/')}", dataset.shape, dtype.kind)
    planes = planes_of(f"{source}/{variable.strip('/')}", dataset.shape, options.axes, names)
    groups = planes.groups(source, group_by, partial(_coordinates, dataset))
    blocks = None if dataset.chunks is None else ChunkBlocks(dataset.shape, dataset.chunks, dataset.dtype.itemsize)
    return _Chosen(variable, dataset.shape, planes, dtype, tags, _cache_bytes(dataset, planes), blocks, groups, label)


def _cf_attributes(dataset: Any) -> Mapping[str, Any]:
    """Return the attributes of CF; without a fill value, that of floats in a variable that the NetCDF library made."""
    made = "_NCProperties" in dataset.file.attrs or "DIMENSION_LIST" in dataset.attrs
    if made and dataset.dtype.kind == "f" and "_FillValue" not in dataset.attrs:
        created = dataset.id.get_create_plist()
        if created.fill_value_defined() == _h5py().h5d.FILL_VALUE_USER_DEFINED and dataset.fillvalue == DEFAULT_FILL:
            return ChainMap({"_FillValue": DEFAULT_FILL}, dataset.attrs)
    attributes: Mapping[str, Any] = dataset.attrs
    return attributes


def _image(load: DatasetSlice) -> Any:
    dataset, ours = _open_dataset(load.path, load.stamp, load.cache, load.variable)
    if ours is None or load.blocks is None:
        return dataset[load.place]
    key = os.getpid(), load.path, load.stamp, load.variable
    return image(key, load.place, load.blocks, ours.region)


def _h5py() -> Any:
    if "h5py" not in sys.modules:
        os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # no plugin is loaded, whatever HDF5_PLUGIN_PATH has
    return late_imports.required("h5py", ".h5", "hdf5")


@contextmanager
def _readable() -> Iterator[None]:
    """Raise InputError in place of h5py's errors on damaged files."""
    try:
        yield
    except (InputError, UsageError, ImportError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        reason = "truncated" if "truncated" in text or "eof" in text.lower() else "damaged"
        if "file signature not found" in text:
            raise InputError("not-an-image", "not an HDF5 file") from None
        raise InputError(reason, f"cannot be read as HDF5: {text[:200]}") from None


def _open(reader: Reader, cache: int = _LEAST_CACHE) -> Any:
    # through Python's file: HDF5 would lock the path in this process for as long as a thread has it open
    return _h5py().File(reader.file(), "r", rdcc_nbytes=cache, rdcc_nslots=10_007)


_local = threading.local()


def _open_dataset(path: str, stamp: FileStamp | None, cache: int, variable: str) -> tuple[Any, ChunkedDataset | None]:
    """Return a dataset in the open file of this thread, and its chunks; None if h5py decodes them.

    Raises:
        InputError: it changed since it was listed.
    """
    key = os.getpid(), path, stamp, cache, variable
    if getattr(_local, "key", None) != key:
        close_file()
        reader = Reader(path)
        _local.reader, _local.file, _local.key = reader, _open(reader, cache), key
        _local.dataset = _local.file[variable]
        _local.chunked = chunked_dataset(_local.dataset, reader.size)
    if _local.reader.stamp != stamp or _local.reader.changed():
        raise InputError("changed", "it changed while it was read")
    return _local.dataset, _local.chunked


def close_file() -> None:
    """Close the file that this thread has open."""
    if getattr(_local, "key", None) is None:
        return
    if _local.key[0] == os.getpid():
        _local.file.close()
        _local.reader.close()
    _local.key = _local.file = _local.reader = _local.dataset = _local.chunked = None


def _only_variable(source: str, file: Any) -> str:
    """Return the path of the only dataset that may hold images.

    Raises:
        InputError: there is none.
        UsageError: there are several.
    """
    numbers: dict[str, tuple[int, ...]] = {}
    others: set[str] = set()
    for name, dataset in _datasets(file):
        others |= {f"{name.rpartition('/')[0]}/{other}" for other in auxiliary_names(dataset.attrs)}
        if dataset.ndim >= 2 and dataset.dtype.kind in "uifb" and dataset.attrs.get("CLASS") != b"DIMENSION_SCALE":
            numbers[name] = dataset.shape
    numbers = {name: shape for name, shape in numbers.items() if name not in others} or numbers
    if not numbers:
        raise InputError("no-image-column", "no dataset of numbers with 2 axes or more (-O variable=PATH)")
    if len(numbers) > 1:
        names = listed(f"{name} {shape}" for name, shape in numbers.items())
        raise UsageError(f"{source}: several datasets, {names}: choose one (-O variable={next(iter(numbers))})")
    return next(iter(numbers))


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and dataset of every hard link; a group is entered once."""
    h5py = _h5py()
    stack, seen, count = [("", file)], set(), 0
    while stack:
        path, group = stack.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in sorted(group):
            count += 1
            if count > _MOST_OBJECTS:
                raise InputError("bomb", f"more than {_MOST_OBJECTS:,} objects (-O variable=PATH)")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            value = group[name]
            if isinstance(value, h5py.Dataset):
                yield f"{path}/{name}", value
            elif isinstance(value, h5py.Group):
                stack.append((f"{path}/{name}", value))


def _dataset(source: str, file: Any, variable: str) -> Any:
    """Return a dataset by its path, without following a link out of the file.

    Raises:
        InputError: a link out of the file.
        UsageError: no such dataset, or one without numbers.
    """
    h5py, value = _h5py(), file
    for part in [part for part in variable.split("/") if part not in ("", ".")] or [""]:
        link = value.get(part, getlink=True) if isinstance(value, h5py.Group) and part in value else None
        if isinstance(link, h5py.ExternalLink):
            raise InputError("unsafe-name", f"{variable} is a link to another file, {link.filename}")
        if isinstance(link, h5py.SoftLink):
            raise InputError(
                "unsafe-name", f"{variable} is a soft link, which is not followed (-O variable={link.path})"
            )
        if link is None:
            names = listed(name for name, _ in _datasets(file))
            raise UsageError(f"{source}: no dataset {variable!r}; it contains {names or 'none'} (-O variable=PATH)")
        value = value[part]
    if not isinstance(value, h5py.Dataset) or value.dtype.kind not in "uifb":
        what = f"a dataset of {value.dtype}" if isinstance(value, h5py.Dataset) else "a group"
        raise UsageError(f"{source}: {variable} is {what}, not a dataset of numbers (-O variable=PATH)")
    if value.shape is None:
        raise UsageError(f"{source}: {variable} has no values: its dataspace is null (-O variable=PATH)")
    return value


def _check_storage(dataset: Any) -> None:
    """Check that the values are in the file, and that HDF5 itself can read them.

    Raises:
        InputError: outside, or by filters that are not HDF5's own.
    """
    if dataset.external:
        raise InputError("unsafe-name", f"its values are in another file, {dataset.external[0][0]}")
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        if source.file_name != ".":
            raise InputError("unsafe-name", "a virtual dataset of other files (name them as SOURCES)")
        inner = _dataset(dataset.file.filename, dataset.file, source.dset_name)
        if inner.is_virtual:
            raise InputError("unsupported", f"a virtual dataset of the virtual dataset {source.dset_name[:80]}")
        _check_storage(inner)
    created = dataset.id.get_create_plist()
    created.fill_value_defined()  # raises where the fill value is damaged: to read such a one ends the process
    for i in range(created.get_nfilters()):
        code, name = created.get_filter(i)[0], created.get_filter(i)[3]
        if code not in _FILTERS:
            text = name.decode("utf-8", "replace") or "without a name"
            raise InputError(
                "unsupported", f"compressed by filter {code} ({text[:60]}), which is not one of HDF5's own"
            )
    if dataset.chunks and prod(dataset.chunks) * dataset.dtype.itemsize > LARGEST_HELD:
        size = prod(dataset.chunks) * dataset.dtype.itemsize
        raise InputError("bomb", f"chunks of {size:,} bytes, more than the limit of {LARGEST_HELD:,}")


def _cache_bytes(dataset: Any, planes: Planes) -> int:
    """Return the bytes of the chunks that one image is in, within bounds."""
    if not dataset.chunks:
        return _LEAST_CACHE
    count = 1
    for length, chunk, letter in zip(dataset.shape, dataset.chunks, planes.axes, strict=True):
        count *= -(-length // chunk) if letter in "YXC" else 1
    size = int(count * prod(dataset.chunks) * dataset.dtype.itemsize)
    return min(max(size, _LEAST_CACHE), _MOST_CACHE)


def _dimension_names(dataset: Any) -> list[str]:
    names = []
    for dimension in dataset.dims:
        scale = dimension[0].name if len(dimension) else ""
        names.append(dimension.label or (scale or "").rpartition("/")[2])
    return names


def _coordinates(dataset: Any, axis: int, length: int) -> list[str] | None:
    """Return the values of the scale of a dimension; None if it has none.

    Raises:
        InputError: they are in another file.
    """
    dimension = dataset.dims[axis]
    if not len(dimension) or dimension[0].shape != (length,) or dimension[0].dtype.kind not in "uif":
        return None
    _check_storage(dimension[0])
    return coordinate_texts(unpacked(dimension[0][()], dimension[0].attrs), length)
