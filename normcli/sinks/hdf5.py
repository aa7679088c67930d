"""HDF5 and NetCDF4: a copy of the file in which the mapped datasets have other samples.

Kept: groups, attributes, links, dimension scales, the other datasets, and of the mapped ones the path, the layout in
chunks and the filters, save those of integers. Dropped: attributes that refer to objects.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np

from normcli import storage
from normcli.errors import InputError, library_text
from normcli.sinks.volume import RECORD, Array, ArrayPlan, is_background, new_chunks
from normcli.sources.volume import Place
from normcli.sources.volume_details import PACKING
from normcli.storage.reader import Reader

_SCALES = ("DIMENSION_LIST", "REFERENCE_LIST")  # attributes that tie datasets to their scales
_FILTERS = {1, 2, 3, 32000}  # deflate, shuffle, fletcher32, lzf: of samples of any type
_OWN = {*_FILTERS, 4, 5, 6}
_NAME = "image"
_LARGEST_ATTRIBUTE = 64_000  # bytes, with room for its name
_MOST_STRINGS = 100_000  # in memory


def create(path: str, plans: list[ArrayPlan], **options: Any) -> "Hdf5Writer":
    """Begin a file; see `volume.open_output`."""
    return Hdf5Writer(path, plans)


def array_path(plan: ArrayPlan) -> str:
    """Return the path of an array in the output."""
    return plan.volume.path if plan.volume.kind == "hdf5" else _NAME


class RawFile(io.FileIO):
    """A file that keeps its first error instead of raising it: HDF5 prints errors of writing when it closes."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        try:
            if self._error is None:
                storage.write_all(self.fileno(), [data])
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            if self._error is None:
                super().truncate(size)
        except OSError as error:
            self._error = error
        return size or 0

    def flush(self) -> None:
        """Do nothing: `finish` makes the file durable."""

    def check(self) -> None:
        """Raise the error that a write had."""
        if self._error is not None:
            raise self._error


class Hdf5Writer:
    """A file that is being written.

    Args:
        path: of the unfinished file.
        plans: the datasets.

    Raises:
        InputError: a dataset of the source that cannot be copied.
        OSError: it cannot be written.
    """

    def __init__(self, path: str, plans: list[ArrayPlan]) -> None:
        self._plans, self._raw = plans, RawFile(path)
        self._file = self._open("earliest")
        try:
            if plans[0].volume.kind == "hdf5":
                import h5py

                with Reader(plans[0].volume.source) as reader, h5py.File(reader.file(), "r") as source:
                    self._copy_from(source)
            else:
                for plan in plans:
                    self._create(plan, None, array_path(plan))
        except BaseException:
            self.abandon()
            raise

    def write(self, number: int, place: Place, values: Array) -> None:
        """Write a block; one of background alone takes no room."""
        plan = self._plans[number]
        if not is_background(values, plan.background):
            self._file[array_path(plan)][place] = values
            self._raw.check()

    def finish(self) -> None:
        """Complete the file, durably."""
        self._file.close()
        self._raw.check()
        os.fsync(self._raw.fileno())
        self._raw.close()

    def abandon(self) -> None:
        """Close the file after an error."""
        with suppress(OSError, RuntimeError, ValueError):
            self._file.close()
        self._raw.close()

    def _open(self, oldest: str, *, ordered: bool = False) -> Any:
        """Begin the file in the oldest format that its objects can have, from a version of HDF5 on.

        Args:
            oldest: the version.
            ordered: keep the order of creation, without which the NetCDF library changes no file.
        """
        import h5py

        return h5py.File(self._raw, "w", libver=(oldest, "latest"), track_order=ordered)

    def _copy_from(self, source: Any) -> None:
        try:
            oldest, ordered = "v108" if _has_large_attributes(source) else "earliest", _is_ordered(source["/"])
            if oldest != "earliest" or ordered:
                self._file.close()
                self._raw.truncate(0)
                self._file = self._open(oldest, ordered=ordered)
            self._copy(source)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            self._raw.check()
            raise InputError("damaged", f"cannot be copied as HDF5: {library_text(error)}") from None

    def _copy(self, source: Any) -> None:
        """Copy everything but the mapped datasets, which are made anew, empty."""
        import h5py

        plans = {h5py.h5o.get_info(source[plan.volume.path].id).addr: plan for plan in self._plans}
        first: dict[Any, str] = {}
        _copy_attributes(source, self._file, {})
        for path, link in _links(source):
            if isinstance(link, h5py.SoftLink | h5py.ExternalLink):  # as text: nothing is opened
                self._file[path] = link
                continue
            value = source[path]
            address = h5py.h5o.get_info(value.id).addr
            if address in first:
                self._file[path] = self._file[first[address]]
            elif isinstance(value, h5py.Group):
                _copy_attributes(value, self._file.create_group(path, track_order=_is_ordered(value)), {})
            elif address in plans:
                self._create(plans[address], value, path)
            elif isinstance(value, h5py.Dataset):
                _check_filters(path, value)
                if h5py.check_string_dtype(value.dtype) is not None and value.dtype.kind == "O":
                    _copy_strings(value, self._file, path)
                else:
                    source.copy(source[path], self._file, path, without_attrs=True)
                _copy_attributes(value, self._file[path], {})
            else:
                self._file[path] = value.dtype  # a type with a name
            first.setdefault(address, path)
        self._attach_scales(source, first)
        for path in first.values():
            kind = getattr(source[path], "dtype", None)
            if kind is not None and h5py.check_ref_dtype(kind) is h5py.Reference and source[path].size:
                _copy_references(source[path], self._file[path])

    def _create(self, plan: ArrayPlan, value: Any, path: str) -> None:
        volume, options = plan.volume, dict[str, Any]()
        if value is None:
            options["chunks"] = new_chunks(volume)
        elif value.chunks:
            filters = {
                value.id.get_create_plist().get_filter(i)[0] for i in range(value.id.get_create_plist().get_nfilters())
            }
            options = {
                "chunks": value.chunks,
                "maxshape": value.maxshape,
                "shuffle": 2 in filters,
                "fletcher32": 3 in filters,
            }
            if filters & {1, 4, 32000}:
                options["compression"] = "lzf" if 32000 in filters else "gzip"
                options["compression_opts"] = value.compression_opts if value.compression == "gzip" else None
        dataset = self._file.create_dataset(
            path,
            volume.shape,
            plan.dtype,
            fillvalue=np.dtype(plan.dtype).type(plan.background),
            track_times=False,
            track_order=value is not None and bool(value.id.get_create_plist().get_attr_creation_order()),
            **options,
        )
        if value is not None:
            _copy_attributes(value, dataset, dict.fromkeys((*PACKING, RECORD)))
        for name, attribute in plan.attributes.items():
            dataset.attrs[name] = json.dumps(attribute, sort_keys=True) if isinstance(attribute, dict) else attribute

    def _attach_scales(self, source: Any, paths: dict[Any, str]) -> None:
        """Add the copies of dimension scales to the datasets, as in the source."""
        import h5py

        for path in paths.values():
            value = source[path]
            if not isinstance(value, h5py.Dataset) or "DIMENSION_LIST" not in value.attrs:
                continue
            for i, dimension in enumerate(value.dims):
                for scale in dimension.values():
                    name = paths.get(h5py.h5o.get_info(scale.id).addr)
                    if name is not None:
                        self._file[path].dims[i].attach_scale(self._file[name])


def _is_ordered(group: Any) -> bool:
    """Return True for a group that records in which order its links were made."""
    return bool(group.id.get_create_plist().get_link_creation_order())


def _links(source: Any) -> Iterator[tuple[str, Any]]:
    """Yield path and link of everything in a file; a group is entered once."""
    import h5py

    addresses, stack = {h5py.h5o.get_info(source.id).addr}, [("", source)]
    while stack:
        path, group = stack.pop()
        for name in group if _is_ordered(group["/"] if path == "" else group) else sorted(group):
            link = group.get(name, getlink=True)
            inner = f"{path}/{name}".lstrip("/")
            yield inner, link
            if isinstance(link, h5py.HardLink) and isinstance(group[name], h5py.Group):
                address = h5py.h5o.get_info(group[name].id).addr
                if address not in addresses:
                    addresses.add(address)
                    stack.append((inner, group[name]))


def _has_large_attributes(source: Any) -> bool:
    """Return True for an attribute that files before HDF5 1.8 cannot have."""
    import h5py

    objects = chain([source], (source[path] for path, link in _links(source) if isinstance(link, h5py.HardLink)))
    every = (one.attrs.get_id(name) for one in objects for name in one.attrs)
    sizes = (one.get_space().get_simple_extent_npoints() * one.get_type().get_size() for one in every)
    return any(size > _LARGEST_ATTRIBUTE for size in sizes)


def _copy_strings(source: Any, target: Any, path: str) -> None:
    """Copy strings of any length: HDF5 copies their fill value, which NetCDF always has, so that no one can read it."""
    import h5py

    kind, space = source.id.get_type().copy(), source.id.get_space()
    new = h5py.Dataset(h5py.h5d.create(target.id, path.encode(), kind, space, source.id.get_create_plist()))
    if source.shape is None or not source.size:
        return
    rows = max(1, _MOST_STRINGS * len(source) // source.size) if source.shape else 1
    places = (slice(i, i + rows) for i in range(0, len(source), rows)) if source.shape else iter([()])
    for place in places:
        new[place] = source[place]


def _copy_attributes(source: Any, target: Any, without: dict[str, None]) -> None:
    """Copy attributes in the type that they have, save those that refer to objects."""
    import h5py

    for name in source.attrs:
        attribute = source.attrs.get_id(name)
        if name in without or name in _SCALES or _refers(attribute.dtype):
            continue
        value = source.attrs[name]
        if isinstance(value, h5py.Empty):
            target.attrs[name] = value
            continue
        copy = h5py.h5a.create(target.id, attribute.name, attribute.get_type(), attribute.get_space())
        if attribute.get_type().get_class() == h5py.h5t.STRING and attribute.get_type().is_variable_str():
            target.attrs[name] = value
            continue
        data = np.empty(attribute.shape, attribute.dtype)
        is_text = attribute.get_type().get_class() == h5py.h5t.STRING
        memory = attribute.get_type() if is_text else None  # else a null takes the place of the last character
        attribute.read(data, mtype=memory)
        copy.write(data, mtype=memory)


def _refers(dtype: Any) -> bool:
    """Return True for references to objects, or a compound with some."""
    import h5py

    members = dtype.fields.values() if dtype.fields else ()
    return h5py.check_ref_dtype(dtype.base) is not None or any(_refers(member[0]) for member in members)


def _copy_references(source: Any, target: Any) -> None:
    """Write references to the objects of a dataset's own file, where HDF5 copied none; those to regions stay null."""
    import h5py

    references = source[()]
    copies = np.empty(source.shape, source.dtype)
    for place, reference in np.ndenumerate(references):
        name = h5py.h5r.get_name(reference, source.file.id) if reference else None
        copies[place] = target.file[name].ref if name and name in target.file else h5py.Reference()
    target[...] = copies


def _check_filters(path: str, value: Any) -> None:
    """Check that a dataset can be copied by the filters of HDF5 itself, from the file itself.

    Raises:
        InputError: it cannot.
    """
    created = value.id.get_create_plist()
    if (
        value.external
        or value.is_virtual
        or any(created.get_filter(i)[0] not in _OWN for i in range(created.get_nfilters()))
    ):
        raise InputError("unsupported", f"its dataset {path} has values in other files or filters that are not read")
