"""Zarr 2 and 3 and OME-Zarr: the planes of one array, or those of level 0 of every image.

A folder is read by its metadata; the zarr library decodes chunks in the worker. Codecs that run code are not loaded.
"""

import base64
import binascii
import json
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

from normcli.errors import InputError, MissingExtraError, UsageError, listed
from normcli.options.field import parse_size
from normcli.options.shared import InputOptions
from normcli.sources.axes import DatasetOptions, coordinate_texts, planes_of
from normcli.sources.cf import cf_tags
from normcli.sources.item import Item, Items, failed_item
from normcli.sources.npy import LARGEST_HELD
from normcli.sources.tagged import ArrayTags, TaggedArray, tagged
from normcli.storage.files import is_remote

_MARKERS = ("zarr.json", ".zgroup", ".zarray")
_CODECS = frozenset(
    {
        *("blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4", "shuffle", "delta", "fixedscaleoffset", "packbits"),
        *("bitround", "crc32", "adler32", "fletcher32", "bytes", "transpose", "crc32c", "sharding_indexed", "endian"),
    }
)
_LARGEST_METADATA = 1 << 24
_MOST_GROUPS = 10_000
_LARGEST_BLOCK = 64 << 20  # bytes of chunks that stay decoded for the next plane


OPEN_OPTIONS = DatasetOptions


class _Array(NamedTuple):
    """One array: its metadata, names of its axes, and those of its channels where OME records them."""

    path: str
    metadata: Mapping[str, Any]
    attributes: Mapping[str, Any]
    axes: str | None = None
    channels: tuple[str, ...] = ()


class ZarrSlice(NamedTuple):
    """The loader of one image of an array."""

    path: str
    place: tuple[Any, ...]
    order: tuple[int, ...]
    dtype: str
    tags: ArrayTags
    version: str

    def __call__(self) -> TaggedArray:
        try:
            values = _plane(self.path, self.version, self.place)
        except (InputError, MissingExtraError, MemoryError):
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise InputError("damaged", f"a chunk cannot be decoded: {type(error).__name__}: {text}") from None
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        return tagged(native.view(self.dtype).transpose(self.order), self.tags)

    def fingerprint(self) -> str:
        """Return a text that changes with the metadata of the array, and the index of the image."""
        return f"{self.version}:{self.place}:{self.tags}"


def is_zarr(folder: str) -> bool:
    """Return True for a folder with the metadata of Zarr."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in _MARKERS)  # noqa: PTH113, PTH118


def read(source: str, listing: InputOptions, options: DatasetOptions, *, group_by: str | None = None) -> Items:
    """Yield the images of an array, or of every image of an OME-Zarr, named by the numbers of their axes.

    `group_by` may be an axis.

    Raises:
        InputError: no Zarr, damaged metadata, or codecs that are not known.
        UsageError: several arrays, or axes that are not clear.
    """
    if is_remote(source):
        raise InputError("unsupported", "Zarr is read from local folders (copy it first)")
    if not os.path.isdir(source):  # noqa: PTH112
        raise InputError("missing", "no such folder")
    root = source.rstrip("/" + os.sep)
    for array in _chosen(source, root, options.variable):
        name = f"{source.rstrip('/')}/{array.path}" if array.path else source.rstrip("/")
        try:
            yield from _images(name, os.path.join(root, array.path), array, listing, options, group_by)  # noqa: PTH118
        except InputError as error:
            yield failed_item(name, error.reason, error.message)


def _images(
    name: str, path: str, array: _Array, listing: InputOptions, options: DatasetOptions, group_by: str | None
) -> Items:
    import numpy as np

    shape = tuple(int(n) for n in array.metadata["shape"])
    try:
        dtype = np.dtype(array.metadata.get("dtype") or array.metadata["data_type"])
    except TypeError:
        raise InputError("unsupported", "an array of another type than numbers") from None
    if dtype.kind not in "uifb":
        raise InputError("unsupported", f"an array of {dtype}, not of numbers")
    _check_codecs(array.metadata)
    chunks = _chunks(array.metadata, shape)
    if prod(chunks) * dtype.itemsize > LARGEST_HELD:
        raise InputError("bomb", f"chunks of {prod(chunks) * dtype.itemsize:,} bytes, more than {LARGEST_HELD:,}")
    names = array.attributes.get("_ARRAY_DIMENSIONS") or array.metadata.get("dimension_names") or ()
    planes = planes_of(name, shape, options.axes or array.axes, [str(one or "") for one in names])
    stored, tags = cf_tags(_cf_attributes(array), dtype.newbyteorder("="), options.scaling)
    length = shape[planes.axes.index("C")] if "C" in planes.axes else 1
    tags = tags._replace(names=array.channels if len(array.channels) == length else ())
    limit = parse_size("max_file_size", listing.max_file_size) or LARGEST_HELD
    size = planes.values * dtype.itemsize
    if size > limit:
        raise InputError("too-large", f"images of {size} bytes, more than the limit of {limit} (--max-file-size)")
    version = f"{zlib.crc32(json.dumps([array.metadata, array.attributes], sort_keys=True).encode()):08x}"
    groups = planes.groups(name, group_by, partial(_coordinates, path, planes.names))
    for number, index in planes.each():
        load = ZarrSlice(path, index, planes.order, stored.str, tags, version)
        label = (array.path.rpartition("/")[0] or None) if groups is None else groups.label(index)
        yield Item(f"{name}/{number}" if number else name, load, label)


def _chosen(source: str, root: str, variable: str | None) -> list[_Array]:
    """Return the arrays to read.

    Raises:
        InputError: there is none.
        UsageError: no such array, or several of them.
    """
    if variable is not None:
        path = variable.strip("/")
        if ".." in path.split("/"):
            raise InputError("unsafe-name", f"{variable} leads out of the folder")
        found = [array for array in _arrays(root) if array.path == path]
        if not found:
            metadata, attributes = _metadata(os.path.join(root, path))  # noqa: PTH118
            if metadata is None or "shape" not in metadata:
                names = listed(array.path or "." for array in _arrays(root))
                raise UsageError(f"{source}: no array {variable!r}; it holds {names or 'none'} (-O variable=PATH)")
            found = [_Array(path, metadata, attributes)]
        return found
    every = [array for array in _arrays(root) if array.axes or len(array.metadata["shape"]) >= 2]
    if not every:
        raise InputError("no-image-column", "no array of 2 axes or more (-O variable=PATH)")
    if len(every) > 1 and not all(array.axes for array in every):
        names = listed(f"{array.path} {tuple(array.metadata['shape'])}" for array in every)
        raise UsageError(f"{source}: several arrays, {names}: choose one (-O variable={every[0].path})")
    return every


def _arrays(root: str) -> Iterator[_Array]:
    """Yield every array below a folder; of an OME-Zarr image, level 0."""
    stack, count = [""], 0
    while stack:
        path = stack.pop()
        folder = os.path.join(root, path)  # noqa: PTH118
        metadata, attributes = _metadata(folder)
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
            yield _ome_image(root, path, ome)
            continue
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        stack += [f"{path}/{name}".strip("/") for name in reversed(names)]


def _ome_image(root: str, path: str, ome: Mapping[str, Any]) -> _Array:
    """Return level 0 of an image, with its axes and the names of its channels."""
    try:
        scales = ome["multiscales"][0]
        level = str(scales["datasets"][0]["path"])
        axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales.get("axes", "tczyx")]
        labels = [str(one.get("label", "")) for one in (ome.get("omero") or {}).get("channels", [])]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise InputError("damaged", f"the OME metadata of {path or 'the folder'} is damaged") from None
    if ".." in level.split("/") or level.startswith("/"):
        raise InputError("unsafe-name", f"level {level} of {path} leads out of the folder")
    inner = f"{path}/{level}".strip("/")
    metadata, attributes = _metadata(os.path.join(root, inner))  # noqa: PTH118
    if metadata is None or "shape" not in metadata:
        raise InputError("damaged", f"level 0 of the image, {inner}, is no array")
    names = tuple(re.sub(r"[^A-Za-z0-9_.+-]+", "_", label).strip("_")[:64] for label in labels)
    letters = "".join(str(axis)[:1] for axis in axes).upper()
    return _Array(inner, metadata, attributes, letters, names if any(names) else ())


def _metadata(folder: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the metadata of an array or a group and its attributes; None for another folder.

    Raises:
        InputError: damaged.
    """
    for name in ("zarr.json", ".zarray", ".zgroup"):
        document = _json(os.path.join(folder, name))  # noqa: PTH118
        if document is None:
            continue
        if name == "zarr.json":
            attributes = document.get("attributes") or {}
        else:
            attributes = _json(os.path.join(folder, ".zattrs")) or {}  # noqa: PTH118
        is_array = isinstance(document.get("shape"), list)
        if name == ".zarray" and not is_array:
            raise InputError("damaged", f"{name} has no shape")
        return document, attributes
    return None, {}


def _json(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read(_LARGEST_METADATA + 1)
    except OSError:
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if len(data) > _LARGEST_METADATA or not isinstance(document, dict):
        raise InputError("damaged", f"{os.path.basename(path)} is no JSON object, or too large")  # noqa: PTH119
    return document


def _check_codecs(metadata: Mapping[str, Any]) -> None:
    """Check the codecs of an array: some of numcodecs, such as pickle, run code.

    Raises:
        InputError: one that is not known.
    """
    stack = [metadata.get("compressor"), metadata.get("filters"), metadata.get("codecs")]
    while stack:
        entry = stack.pop()
        if isinstance(entry, list):
            stack += entry
        elif isinstance(entry, dict):
            name = str(entry.get("id") or entry.get("name"))
            if name.removeprefix("numcodecs.") not in _CODECS:
                raise InputError("unsupported", f"compressed by the codec {name[:60]}, which is not read")
            inner = entry.get("configuration")
            if isinstance(inner, dict):
                stack += [inner.get("codecs"), inner.get("index_codecs")]


def _chunks(metadata: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    grid = metadata.get("chunk_grid")
    chunks = metadata.get("chunks") or (grid["configuration"]["chunk_shape"] if isinstance(grid, dict) else None)
    if not isinstance(chunks, list) or len(chunks) != len(shape) or not all(isinstance(n, int) for n in chunks):
        raise InputError("damaged", "its metadata has no lengths of chunks")
    return tuple(chunks)


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


def _coordinates(path: str, names: tuple[str, ...], axis: int, length: int) -> list[str] | None:
    """Return the values of the array beside this one that has the name of a dimension; None where there is none."""
    name = names[axis] if names else ""
    beside = os.path.join(os.path.dirname(path), name)  # noqa: PTH118, PTH120
    metadata, _ = _metadata(beside) if name and "/" not in name and ".." not in name else (None, {})
    if metadata is None or metadata.get("shape") != [length]:
        return None
    _check_codecs(metadata)
    import zarr

    return coordinate_texts(zarr.open_array(beside, mode="r")[:], length)


_local = threading.local()


def _plane(path: str, version: str, place: tuple[Any, ...]) -> Any:
    """Return one image; this thread keeps the chunks of its neighbors decoded, within a bound."""
    key = os.getpid(), path, version
    if getattr(_local, "key", None) != key:
        try:
            import zarr
        except ImportError:
            raise MissingExtraError(".zarr", "zarr", "zarr") from None
        _local.array, _local.key, _local.start, _local.block = zarr.open_array(path, mode="r"), key, None, None
    array = _local.array
    lengths = [chunk if isinstance(at, int) else 0 for at, chunk in zip(place, array.chunks, strict=True)]
    size = prod(length or n for length, n in zip(lengths, array.shape, strict=True)) * array.dtype.itemsize
    if size > _LARGEST_BLOCK:
        return array[place]
    start = tuple(at // n * n if n else 0 for at, n in zip(place, lengths, strict=True))
    if _local.start != start:
        _local.block = _local.start = None  # before the next one takes its memory
        _local.block = array[
            tuple(slice(at, at + n) if n else slice(None) for at, n in zip(start, lengths, strict=True))
        ]
        _local.start = start
    return _local.block[
        tuple(at - first if isinstance(at, int) else at for at, first in zip(place, start, strict=True))
    ]
