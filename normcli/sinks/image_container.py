"""A finished stack as the array `images` of one HDF5 file or Zarr store, with the classes as numbers.

The rows are written where workers can write them at any time, and copied in order when all are there.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from normcli.errors import InputError, MissingExtraError, UsageError
from normcli.options.shared import InputOptions
from normcli.sinks.stack import FINAL, Stack
from normcli.sinks.volume import LIBRARIES, RECORD, Array, output_errors, publish, remove, sync_all
from normcli.sources.listing import Source
from normcli.sources.volume import open_dataset, volumes_of

IMAGES, LABELS = "images", "labels"
_PIECE = 1 << 20  # bytes of a chunk of small images
_thread = threading.local()


def require_library(to: str) -> None:
    """Check that the library of a container is installed.

    Raises:
        MissingExtraError: naming the extra.
    """
    import importlib.util

    name, extra = LIBRARIES[to]
    if importlib.util.find_spec(name) is None:
        raise MissingExtraError(FINAL[to], name, extra)


def write_container(
    stack: Stack, rows: Sequence[int], labels: Sequence[str], head: Mapping[str, Any], *, out: str, partial: str
) -> None:
    """Copy the rows of a stack into a container, under its final name when it is complete.

    Args:
        stack: under its temporary name.
        rows: those that have an image, in order.
        labels: of these images; "" for none.
        head: of the manifest, for an attribute.
        out: output folder.
        partial: folder for files that are being written.

    Raises:
        OutputError: it cannot be written.
    """
    final = os.path.join(out, FINAL[stack.to])  # noqa: PTH118
    temporary = f"{partial}/file-{IMAGES}"
    remove(temporary)
    record = json.dumps({key: head.get(key) for key in ("settings", "constants")}, sort_keys=True)
    count = max(1, _PIECE // stack.row_bytes)
    write = {"hdf5": _write_hdf5, "zarr": _write_zarr}[stack.to]
    with output_errors(final):
        write(temporary, stack, (len(rows), count), _pieces(stack, rows, count), _classes(labels), record)
        sync_all(temporary)
    publish(temporary, final, out)


def _pieces(stack: Stack, rows: Sequence[int], count: int) -> Iterator[tuple[int, Array]]:
    """Yield the number of the first and the values of so many rows at a time."""
    with open(stack.path, "rb") as file:  # noqa: PTH123
        for first in range(0, len(rows), count):
            some = rows[first : first + count]
            piece = np.empty((len(some), *stack.shape), stack.dtype)
            for values, row in zip(piece, some, strict=True):
                file.seek(stack.offset(row))
                if file.readinto(values.reshape(-1).view(np.uint8)) != stack.row_bytes:
                    raise OSError(5, "a temporary file became shorter while it was read")
            yield first, piece


def _classes(labels: Sequence[str]) -> tuple[list[str], Array]:
    """Return names of classes in alphabetical order, and the number of each image's class; -1 for none.

    >>> _classes(["dog", "", "cat"])
    (['cat', 'dog'], array([ 1, -1,  0]))
    """
    names = sorted({label for label in labels if label})
    numbers = {name: number for number, name in enumerate(names)}
    readable = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names]
    return readable, np.array([numbers.get(label, -1) for label in labels], np.int64)


def _write_hdf5(
    path: str,
    stack: Stack,
    counts: tuple[int, int],
    pieces: Iterator[tuple[int, Array]],
    classes: tuple[list[str], Array],
    record: str,
) -> None:
    import h5py

    from normcli.sinks.hdf5 import RawFile

    with RawFile(path) as raw:
        with h5py.File(raw, "w", libver=("earliest", "v110")) as file:
            images = file.create_dataset(IMAGES, (counts[0], *stack.shape), stack.dtype, track_times=False)
            images.attrs[RECORD] = record
            for first, piece in pieces:
                images[first : first + len(piece)] = piece
                raw.check()
            if classes[0]:
                labels = file.create_dataset(LABELS, data=classes[1], track_times=False)
                labels.attrs["classes"] = classes[0]
        raw.check()


def _write_zarr(
    path: str,
    stack: Stack,
    counts: tuple[int, int],
    pieces: Iterator[tuple[int, Array]],
    classes: tuple[list[str], Array],
    record: str,
) -> None:
    import zarr

    group: Any = zarr.open_group(path, mode="w", zarr_format=3)
    rows, count = counts
    images = group.create_array(
        IMAGES,
        shape=(rows, *stack.shape),
        chunks=(min(count, rows), *stack.shape),
        dtype=stack.dtype,
        attributes={RECORD: json.loads(record)},
    )
    for first, piece in pieces:
        images[first : first + len(piece)] = piece
    if classes[0]:
        group.create_array(LABELS, data=classes[1], attributes={"classes": classes[0]})


def _open_images(path: str) -> Any:
    """Return the array of a container and its shape, checked as every source is.

    Raises:
        InputError: missing or damaged.
    """
    source = Source(path)
    source.open_options = {"variable": IMAGES, "axes": "NYXC"}
    try:
        (volume,) = volumes_of(source, InputOptions())
    except (UsageError, ValueError) as error:
        raise InputError("damaged", str(error)) from None
    return volume


def container_shape(path: str) -> list[int]:
    """Return the shape of the array of images.

    Raises:
        InputError: missing or damaged.
    """
    return list(_open_images(path).shape)


def read_image(path: str, row: int) -> Array:
    """Return one image; this thread keeps the container of the last one open.

    Raises:
        InputError: missing or damaged.
    """
    if not os.path.exists(path):  # noqa: PTH110
        raise InputError("missing", f"{os.path.basename(path)}: no such file")  # noqa: PTH119
    key = path, os.stat(path).st_mtime_ns  # noqa: PTH116
    if getattr(_thread, "key", None) != key:
        _thread.key, _thread.volume = None, _open_images(path)
        _thread.key = key
    volume = _thread.volume
    if row >= volume.shape[0]:
        raise InputError("damaged", f"has no image {row}")
    if volume.kind == "zarr":
        from normcli.sources.zarr import decoded

        start, stop = (row, *(0 for _ in volume.shape[1:])), (row + 1, *volume.shape[1:])
        return np.asarray(decoded(volume.array, start, stop)[0])
    from contextlib import ExitStack

    with ExitStack() as files:
        try:
            return np.asarray(open_dataset(files, path, IMAGES)[row])
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise InputError("damaged", f"cannot be read: {' '.join(str(error).split())[:200]}") from None
