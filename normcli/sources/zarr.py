"""Zarr 2 and 3 and OME-Zarr: the planes of one array, or those of level 0 of every image.

A folder or a zip, local or remote, is read by its metadata; chunks are read and decoded in the worker.
"""

import base64
import binascii
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from normcli.errors import InputError, UsageError, library_text, listed
from normcli.options.field import parse_size
from normcli.options.shared import InputOptions
from normcli.sources.axes import DatasetOptions, coordinate_texts, letters_by_names, planes_of
from normcli.sources.cf import auxiliary_names, cf_tags, unpacked
from normcli.sources.chunked import ChunkBlocks, image
from normcli.sources.dataset_rows import Region, check_image, group_of, has_wildcard, is_rows, rows_of
from normcli.sources.item import Item, Items, failed_item
from normcli.sources.npy import LARGEST_HELD
from normcli.sources.tagged import ArrayTags, TaggedArray, tagged
from normcli.sources.zarr_array import ZarrArray, array_of
from normcli.sources.zarr_files import Files, open_files

_LARGEST_METADATA = 1 << 24
_MOST_GROUPS = 100_000


OPEN_OPTIONS = DatasetOptions


class _Array(NamedTuple):
    """One array: its metadata, names of its axes, and those of its channels where OME records them."""

    path: str
    metadata: Mapping[str, Any]
    attributes: Mapping[str, Any]
    axes: str | None = None
    channels: tuple[str, ...] = ()
    group: str | None = None


class ZarrSlice(NamedTuple):
    """The loader of one image of an array."""

    array: ZarrArray
    place: tuple[Any, ...]
    order: tuple[int, ...]
    dtype: str
    tags: ArrayTags
    version: str

    def __call__(self) -> TaggedArray:
        array = self.array
        key = os.getpid(), array.files, array.path, self.version
        values = image(key, self.place, self._blocks, partial(decoded, array))
        return tagged(values.view(self.dtype).transpose(self.order), self.tags)

    @property
    def block(self) -> tuple[Any, ...]:
        """Return the key of the block in the chunks: array and place."""
        return self.array.files, self.array.path, self._blocks.of(self.place)[0]

    @property
    def _blocks(self) -> ChunkBlocks:
        return ChunkBlocks(self.array.shape, self.array.chunks, self.array.dtype.itemsize)

    def fingerprint(self) -> str:
        """Return a text that changes with the metadata of the array, and the index of the image."""
        return f"{self.version}:{self.place}:{self.tags}"


class ZarrRegion(NamedTuple):
    """The loader of a region of an array."""

    array: ZarrArray
    start: tuple[int, ...]
    stop: tuple[int, ...]
    dtype: str
    tags: ArrayTags
    version: str

    def __call__(self) -> TaggedArray:
        return tagged(decoded(self.array, self.start, self.stop).view(self.dtype), self.tags)

    def fingerprint(self) -> str:
        """Return a text that changes with the metadata of the array."""
        return f"{self.version}:{self.tags}"


def read(source: str, listing: InputOptions, options: DatasetOptions, *, group_by: str | None = None) -> Items:
    """Yield the images of an array, or of every image of an OME-Zarr, named by the numbers of their axes.

    `group_by` may be an axis.

    Raises:
        InputError: no Zarr, damaged metadata, or codecs that are not known.
        UsageError: several arrays, or axes that are not clear.
    """
    files = open_files(source)
    for array in _chosen(source, files, options.variable):
        name = f"{source.rstrip('/')}/{array.path}" if array.path else source.rstrip("/")
        try:
            yield from _images(name, files, array, listing, options, group_by)
        except InputError as error:
            yield failed_item(name, error.reason, error.message)


def _images(
    name: str, files: Files, array: _Array, listing: InputOptions, options: DatasetOptions, group_by: str | None
) -> Items:
    stored_array = array_of(files, array.path, array.metadata)
    shape, dtype = stored_array.shape, stored_array.dtype
    dimensions = array.attributes.get("_ARRAY_DIMENSIONS") or array.metadata.get("dimension_names") or ()
    names = [str(one or "") for one in dimensions]
    stored, tags = cf_tags(_cf_attributes(array), dtype)
    version = f"{zlib.crc32(json.dumps([array.metadata, array.attributes], sort_keys=True).encode()):08x}"
    folder = array.group or array.path.rpartition("/")[0] or None
    if is_rows(options.axes):
        load_rows = partial(_rows, stored_array, stored.str, tags, version)
        yield from rows_of(name, shape, str(options.axes), folder, load_rows)
        return
    if options.axes is None and array.axes is None and not any(names):
        check_image(name, shape, dtype.kind)
    planes = planes_of(name, shape, options.axes or array.axes, names)
    length = shape[planes.axes.index("C")] if "C" in planes.axes else 1
    tags = tags._replace(names=array.channels if len(array.channels) == length else ())
    limit = parse_size("max_file_size", listing.max_file_size) or LARGEST_HELD
    size = planes.values * dtype.itemsize
    if size > limit:
        raise InputError("too-large", f"images of {size} bytes, more than the limit of {limit} (--max-file-size)")
    groups = planes.groups(name, group_by, partial(_coordinates, stored_array, planes.names))
    for number, index in planes.each():
        load = ZarrSlice(stored_array, index, planes.order, stored.str, tags, version)
        label = folder if groups is None else groups.label(index)
        yield Item(f"{name}/{number}" if number else name, load, label)


def _rows(array: ZarrArray, dtype: str, tags: ArrayTags, version: str, region: Region) -> ZarrRegion:
    return ZarrRegion(array, *region, dtype, tags, version)


def _chosen(source: str, files: Files, variable: str | None) -> list[_Array]:
    """Return the arrays to read.

    Raises:
        InputError: there is none.
        UsageError: no such array, or several of them.
    """
    if variable is not None:
        path = "" if variable == "." else variable.strip("/")  # "." is the root, as messages name it
        if ".." in path.split("/"):
            raise InputError("unsafe-name", f"{variable} leads out of the folder")
        if has_wildcard(path):
            return _matching(source, files, path)
        found = [array for array in _arrays(files) if array.path == path]
        if not found:
            metadata, attributes = _metadata(files, path)
            if metadata is None or "shape" not in metadata:
                names = listed(array.path or "." for array in _arrays(files))
                raise UsageError(f"{source}: no array {variable!r}; it contains {names or 'none'} (-O variable=PATH)")
            found = [_level(files, path) or _Array(path, metadata, attributes)]
        return found
    every = [array for array in _arrays(files) if array.axes or len(array.metadata["shape"]) >= 2]
    others = {_sibling(array.path, name) for array in _arrays(files) for name in auxiliary_names(array.attributes)}
    every = [array for array in every if array.path not in others] or every
    if not every:
        raise InputError("no-image-column", "no array of 2 axes or more (-O variable=PATH)")
    if len(every) > 1 and not all(array.axes for array in every):
        names = listed(f"{array.path} {tuple(array.metadata['shape'])}" for array in every)
        raise UsageError(f"{source}: several arrays, {names}: choose one (-O variable={every[0].path})")
    return every


def _matching(source: str, files: Files, variable: str) -> list[_Array]:
    """Return the arrays whose paths match wildcards.

    Raises:
        UsageError: there is none.
    """
    every = list(_arrays(files))
    groups = [group_of(variable, array.path) for array in every]
    matches = [array._replace(group=group) for array, group in zip(every, groups, strict=True) if group is not None]
    if not matches:
        names = listed(array.path or "." for array in every)
        raise UsageError(f"{source}: no array matches {variable!r}; it contains {names or 'none'} (-O variable=PATH)")
    return [array for array in matches if len(array.metadata["shape"]) > 1] or matches  # without coordinates


def _arrays(files: Files) -> Iterator[_Array]:
    """Yield every array below a folder; of an OME-Zarr image, level 0."""
    stack, count = [""], 0
    while stack:
        path = stack.pop()
        metadata, attributes = _metadata(files, path)
        count += 1
        if count > _MOST_GROUPS:
            raise InputError("bomb", f"more than {_MOST_GROUPS:,} groups (-O variable=PATH)")
        if metadata is None:
            if path:
                continue
            raise InputError("not-an-image", "a folder without the metadata of Zarr")
        if "shape" in metadata:
            yield _Array(path, metadata, attributes)
            continue
        ome = attributes.get("ome", attributes)
        if isinstance(ome, dict) and ome.get("multiscales"):
            yield _ome_image(files, path, ome)
            continue
        stack += [f"{path}/{name}".strip("/") for name in reversed(files.folders(path))]


def _level(files: Files, path: str) -> _Array | None:
    """Return a level of an OME image; None for any other array."""
    parts = path.split("/")
    for count in reversed(range(len(parts))):  # the path of a level in its image may have several parts
        group, name = "/".join(parts[:count]), "/".join(parts[count:])
        attributes = _metadata(files, group)[1]
        ome = attributes.get("ome", attributes)
        if isinstance(ome, dict) and ome.get("multiscales"):
            break
    else:
        return None
    try:
        array = _ome_image(files, group, ome, name)
    except InputError:  # an array is read without them
        return None
    return array if len(array.metadata["shape"]) == len(array.axes or "") else None


def _ome_image(files: Files, path: str, ome: Mapping[str, Any], level: str = "") -> _Array:
    """Return a level of an image, by default level 0, with its axes and the names of its channels."""
    try:
        scales = ome["multiscales"][0]
        level = level or str(scales["datasets"][0]["path"])
        axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales.get("axes", "tczyx")]
        labels = [str(one.get("label", "")) for one in (ome.get("omero") or {}).get("channels", [])]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise InputError("damaged", f"the OME metadata of {path or 'the folder'} is damaged") from None
    if ".." in level.split("/") or level.startswith("/"):
        raise InputError("unsafe-name", f"level {level} of {path} leads out of the folder")
    inner = f"{path}/{level}".strip("/")
    metadata, attributes = _metadata(files, inner)
    if metadata is None or "shape" not in metadata:
        raise InputError("damaged", f"level {level} of the image, {inner}, is no array")
    names = tuple(re.sub(r"[^A-Za-z0-9_.+-]+", "_", label).strip("_")[:64] for label in labels)
    letters = "".join(str(axis)[:1] for axis in axes).upper()
    if len(set(letters)) < len(letters):  # such as those of time and tile
        letters = letters_by_names([str(axis) for axis in axes]) or letters
    return _Array(inner, metadata, attributes, letters, names if any(names) else ())


def _metadata(files: Files, path: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the metadata of an array or a group and its attributes; None for another folder.

    Raises:
        InputError: damaged.
    """
    for name in ("zarr.json", ".zarray", ".zgroup"):
        document = _json(files, path, name)
        if document is None:
            continue
        attributes = document.get("attributes") if name == "zarr.json" else _json(files, path, ".zattrs")
        if (name == ".zarray" or "shape" in document) and not isinstance(document.get("shape"), list):
            raise InputError("damaged", f"{name} has no shape")
        return document, attributes if isinstance(attributes, dict) else {}
    return None, {}


def _json(files: Files, path: str, name: str) -> dict[str, Any] | None:
    try:
        data = files.read(f"{path}/{name}" if path else name, _LARGEST_METADATA)
        document = None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        document = "damaged"
    except InputError as error:
        if error.reason != "too-large":
            raise
        document = "too large"
    if document is not None and not isinstance(document, dict):
        raise InputError("damaged", f"{name} is no JSON object, or too large")
    return document


def _cf_attributes(array: _Array) -> dict[str, Any]:
    """Return the attributes of CF as xarray writes them: a fill value of floats in base64, or as that of the array."""
    attributes = dict(array.attributes)
    if "_ARRAY_DIMENSIONS" in attributes and array.metadata.get("fill_value") is not None:
        attributes.setdefault("_FillValue", array.metadata["fill_value"])
    value = attributes.get("_FillValue")
    if isinstance(value, str):
        try:
            attributes["_FillValue"] = float(value)
        except ValueError:
            try:
                (attributes["_FillValue"],) = struct.unpack("<d", base64.b64decode(value, validate=True))
            except (binascii.Error, struct.error):
                del attributes["_FillValue"]
    return attributes


def _sibling(path: str, name: str) -> str:
    """Return the path of another array in the group of an array."""
    return f"{path.rpartition('/')[0]}/{name}".strip("/")


def _coordinates(array: ZarrArray, names: tuple[str, ...], axis: int, length: int) -> list[str] | None:
    """Return the values of the array that has the name of a dimension, in the same group; None without one."""
    name = names[axis] if names else ""
    if not name or "/" in name or ".." in name:
        return None
    path = _sibling(array.path, name)
    metadata, attributes = _metadata(array.files, path)
    if metadata is None or metadata.get("shape") != [length]:
        return None
    values = decoded(array_of(array.files, path, metadata), (0,), (length,))
    return coordinate_texts(unpacked(values, _cf_attributes(_Array(path, metadata, attributes))), length)


def decoded(array: ZarrArray, start: tuple[int, ...], stop: tuple[int, ...]) -> Any:
    """Return a region of an array.

    Raises:
        InputError: damaged, a bomb, or no answer of a server.
        MissingExtraError: a codec without its library.
    """
    try:
        return array.region(start, stop)
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise InputError("damaged", f"a chunk cannot be decoded: {library_text(error)}") from None
