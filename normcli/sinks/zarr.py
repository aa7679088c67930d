"""Zarr 2 and 3 and OME-Zarr: a copy of the store in which the mapped arrays have other samples.

Kept: the version, groups, attributes and OME metadata, the other arrays, and of the mapped ones the path, names of
dimensions, chunks, shards and compression. Filters, which are of the old type, are dropped.
"""

import base64
import os
import shutil
import struct
import warnings
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.sinks.volume import RECORD, Array, ArrayPlan, new_chunks, sync_all
from normcli.sources.volume import Place, read_json
from normcli.sources.volume_details import PACKING, open_zarr

_METADATA = ("zarr.json", ".zattrs", ".zgroup")
_TYPED = {"float32": "<f4", "float64": "<f8", "float16": "<f2"}


def create(path: str, plans: list[ArrayPlan], **options: Any) -> "ZarrWriter":
    """Begin a store; see `volume.open_output`."""
    return ZarrWriter(path, plans)


class ZarrWriter:
    """A store that is being written, in a folder.

    Args:
        path: of the unfinished folder.
        plans: the arrays.
    """

    def __init__(self, path: str, plans: list[ArrayPlan]) -> None:
        self._path, self._plans = path, plans
        os.mkdir(path)  # noqa: PTH102
        source = plans[0].volume.source
        self._consolidated = False
        if plans[0].volume.kind == "zarr":
            mapped = {os.path.normpath(os.path.join(source, plan.volume.path)) for plan in plans}  # noqa: PTH118
            self._consolidated = _is_consolidated(source)
            _copy_store(source, path, mapped)
        self._arrays = [self._create(plan) for plan in plans]

    def write(self, number: int, place: Place, values: Array) -> None:
        """Write a block; chunks of background alone are not written.

        Raises:
            InputError: settings of codecs that the source has, and that their library rejects.
        """
        try:
            self._arrays[number][place] = values
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError("unsupported", f"its codecs cannot be used for writing: {error}") from None

    def finish(self) -> None:
        """Complete the store, durably."""
        if self._consolidated:
            import zarr

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the library, on version 3
                zarr.consolidate_metadata(self._path)
        sync_all(self._path)

    def abandon(self) -> None:
        """Leave the folder to be removed."""

    def _create(self, plan: ArrayPlan) -> Any:
        import zarr

        volume, options = plan.volume, dict[str, Any]()
        typed = np.dtype(plan.dtype)
        fill = typed.type(plan.background)
        if volume.kind == "zarr":
            old = open_zarr(volume)
            attributes = {k: v for k, v in dict(old.attrs).items() if k not in (*PACKING, RECORD)}
            version = old.metadata.zarr_format
            options = {"chunks": old.chunks, "shards": old.shards, "compressors": old.compressors}
            if version == 2:
                if old.metadata.fill_value is None:
                    fill = None  # a value would be that of missing samples, as xarray reads version 2
                options["order"] = old.order
                options["chunk_key_encoding"] = {"name": "v2", "separator": old.metadata.dimension_separator}
            else:
                options["dimension_names"] = old.metadata.dimension_names
        else:
            attributes, version = {}, 3
            options = {"chunks": new_chunks(volume), "dimension_names": plan.attributes["axes"]}
        attributes |= {name: _json_value(name, value, version, typed) for name, value in plan.attributes.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of types that only zarr-python writes
            return zarr.create_array(
                os.path.join(self._path, volume.path) if volume.path else self._path,  # noqa: PTH118
                shape=volume.shape,
                dtype=typed,
                zarr_format=version,
                attributes=attributes,
                fill_value=fill,
                config={"write_empty_chunks": fill is None},
                overwrite=True,
                **options,
            )


def _json_value(name: str, value: Any, version: int, dtype: np.dtype[Any]) -> Any:
    """Return an attribute as JSON; a fill value of floats in version 3 in base64, as xarray has it."""
    if name == "_FillValue" and dtype.kind == "f" and version == 3 and not isinstance(value, str):
        return base64.b64encode(struct.pack("<d", float(value))).decode()
    return value.item() if isinstance(value, np.generic) else value.tolist() if isinstance(value, np.ndarray) else value


def _is_consolidated(source: str) -> bool:
    if os.path.exists(os.path.join(source, ".zmetadata")):  # noqa: PTH110, PTH118
        return True
    return bool(read_json(os.path.join(source, "zarr.json")).get("consolidated_metadata"))  # noqa: PTH118


def _copy_store(source: str, target: str, mapped: set[str]) -> None:
    """Copy the files of a store without those of mapped arrays, without following a link."""
    if os.path.normpath(source) in mapped:
        return
    for folder, folders, names in os.walk(source):
        here = os.path.join(target, os.path.relpath(folder, source))  # noqa: PTH118
        os.makedirs(here, exist_ok=True)  # noqa: PTH103
        folders[:] = sorted(
            name
            for name in folders
            if os.path.normpath(os.path.join(folder, name)) not in mapped  # noqa: PTH118
            and not os.path.islink(os.path.join(folder, name))  # noqa: PTH114, PTH118
        )
        for name in sorted(names):
            path = os.path.join(folder, name)  # noqa: PTH118
            if not os.path.islink(path) and name != ".zmetadata":  # noqa: PTH114
                shutil.copyfile(path, os.path.join(here, name))  # noqa: PTH118
