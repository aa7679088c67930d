"""Containers of volumes as output: a plan for each array, and the container under its final name when complete.

`nifti`, `hdf5` and `zarr` hold one writer each, which takes the blocks of every array in order.
"""

import importlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

import numpy as np

from normcli import late_imports, storage
from normcli.errors import OutputError
from normcli.sources.volume import Place, StoredVolume
from normcli.storage.atomic import require_no_link

Array = np.ndarray[Any, Any]

SUFFIXES = {"nifti": ".nii.gz", "hdf5": ".h5", "zarr": ".zarr"}
LIBRARIES = {"nifti": ("nibabel", "medical"), "hdf5": ("h5py", "hdf5"), "zarr": ("zarr", "zarr")}
RECORD = "normcli"  # the attribute that records how an array was mapped


class ArrayPlan(NamedTuple):
    """The plan of one array of an output.

    Attributes:
        volume: the array that is read.
        dtype: of the output.
        background: value of chunks that are not written.
        attributes: replacements for those of packing (`volume_details.PACKING`) and `RECORD`.
    """

    volume: StoredVolume
    dtype: str
    background: float | int
    attributes: Mapping[str, Any]


class VolumeOutput(Protocol):
    """A container that is being written."""

    def write(self, number: int, place: Place, values: Array) -> None:
        """Write a block of an array; the blocks of an array come in order."""

    def finish(self) -> None:
        """Complete the container, durably."""

    def abandon(self) -> None:
        """Close the container after an error."""


def output_name(name: str, kind: str, to: str) -> str:
    """Return the name of a container of another kind.

    >>> output_name("a/ct.nii.gz", "nifti", "zarr"), output_name("c.hdr", "nifti", "nifti")
    ('a/ct.zarr', 'c.nii')
    """
    if kind == "nifti":
        bare = re.sub(r"\.(nii|hdr|img)(\.gz)?$", "", name, flags=re.IGNORECASE)
        if to != "nifti":
            return bare + SUFFIXES[to]
        return bare + (".nii.gz" if name.lower().endswith(".gz") else ".nii")
    return name


def open_output(to: str, path: str, plans: list[ArrayPlan], **options: Any) -> VolumeOutput:
    """Open a container for writing, with the structure and the metadata of the one that is read.

    Args:
        to: "nifti", "hdf5" or "zarr".
        path: temporary; on the same file system as the final name.
        plans: the arrays.
        options: of the writer.

    Raises:
        MissingExtraError: the library is not installed.
        OSError: it cannot be written.
    """
    name, extra = LIBRARIES[to]
    late_imports.required(name, SUFFIXES[to], extra)
    module = importlib.import_module(f"normcli.sinks.{to}")
    output: VolumeOutput = module.create(path, plans, **options)
    return output


@contextmanager
def output_errors(final: str) -> Iterator[None]:
    """Raise OutputError for errors of libraries that write.

    Raises:
        OutputError: naming the file.
    """
    try:
        yield
    except OSError as error:
        storage.raise_output_error(final, error)
    except RuntimeError as error:  # of HDF5
        storage.raise_output_error(final, OSError(5, " ".join(str(error).split())[:200]))


def publish(temporary: str, final: str, root: str) -> None:
    """Move a complete container to its final name, and replace an earlier one.

    Args:
        temporary: a file, or the folder of a Zarr store.
        final: its name.
        root: folder above, between which and `final` no link may lead elsewhere.

    Raises:
        OutputError: it cannot be renamed, or a link leads out of `root`.
    """
    require_no_link(root, final)
    try:
        os.makedirs(os.path.dirname(final), exist_ok=True)  # noqa: PTH103, PTH120
        if os.path.islink(final):  # noqa: PTH114
            raise OutputError(f"cannot write {final}: is a link (remove it; its target stays)")
        if os.path.isdir(final):  # noqa: PTH112 - an earlier store, which a rename does not replace
            old = f"{temporary}-old"
            os.replace(final, old)  # noqa: PTH105
            os.replace(temporary, final)  # noqa: PTH105
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, final)  # noqa: PTH105
    except OSError as error:
        storage.raise_output_error(final, error)


def remove(path: str) -> None:
    """Remove an unfinished container, a file or a folder."""
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108


def files_below(path: str) -> Iterator[str]:
    """Yield the files of a container: itself, or those of the folder of a store, without following links."""
    if not os.path.isdir(path):  # noqa: PTH112
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))  # noqa: PTH118


def container_bytes(path: str) -> int:
    """Return the number of bytes of a container.

    Raises:
        OSError: it is missing.
    """
    return sum(os.lstat(one).st_size for one in files_below(path))


def sync_all(path: str) -> None:
    """Make the files of a store durable."""
    for one in files_below(path):
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_background(values: Array, background: float | int) -> bool:
    """Return True if all samples of a block are those of chunks that are not written."""
    first = values.flat[0]
    if first == background or (first != first and background != background):
        same = np.isnan(values) if background != background else values == background
        return bool(same.all())
    return False


def new_chunks(volume: StoredVolume) -> tuple[int, ...]:
    """Return chunks of at most 128 rows and columns for a volume whose file has none."""
    rows = len(volume.shape) - 2 - (volume.channel is not None)
    return tuple(min(n, 128) if rows <= i < rows + 2 else n for i, n in enumerate(volume.chunks))
