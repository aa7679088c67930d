"""A run whose output is one stack: its shape before the first row, its gaps and its index after the last."""

import os
from collections.abc import Iterator
from dataclasses import replace

from normcli import images, storage
from normcli.errors import InputError, NoInputError, RemoteError
from normcli.images.orientation import upright
from normcli.runs.apply_checkpoint import ApplyCheckpoint
from normcli.runs.manifest import Record, decode_name
from normcli.runs.map_batch import MapJob
from normcli.runs.names import InputLister
from normcli.sinks import stack as stacks
from normcli.sinks.stack import Stack
from normcli.sources import Skipped


def begin(work: MapJob, listed: InputLister, rows: int, journal: ApplyCheckpoint | None) -> MapJob:
    """Find the shape of a stack from its first usable image, and the disk for all of them.

    Raises:
        NoInputError: no image can be used.
        RemoteError: the server of the first does not answer.
        OutputError: not enough disk.
    """
    transform = work.transform
    for named_item in listed():
        if isinstance(named_item, Skipped):
            continue
        try:
            image = images.decode(named_item.item.load(), work.reading)
            pixels = upright(image.pixels, image.orientation if work.orientation == "apply" else 1)
            mapped = transform.map(pixels)
            break
        except InputError as error:
            if error.reason == "remote":
                raise RemoteError(f"{named_item.item.key}: {error.message}") from None
    else:
        raise NoInputError("no usable image")
    wide = len(mapped.source)
    if wide in (3, 4):  # gray images among coloured ones get their channels
        transform = replace(transform, channels=wide)
    path = f"{work.folder}/{stacks.ARRAY}"
    stack = Stack(path, rows, mapped.array.shape, mapped.array.dtype.name)
    if journal is not None:
        stack.allocate(os.path.join(work.out, stacks.ARRAY))  # noqa: PTH118
    return replace(work, transform=transform, stack=stack)


def end(work: MapJob, stack: Stack, journal: ApplyCheckpoint) -> Iterator[Record]:
    """Close the gaps that failed images left, put the stack and its index in their places; give the records.

    Raises:
        OutputError: they cannot be written.
    """
    rows: list[int] = []
    lines = []
    for record in journal.records():
        if "error" not in record:
            lines.append(
                (len(rows), decode_name(record, "name"), decode_name(record, "label") if "label" in record else "")
            )
            rows.append(record["row"])
    stack.finish(rows, os.path.join(work.out, stacks.ARRAY))  # noqa: PTH118
    index = os.path.join(work.out, stacks.INDEX)  # noqa: PTH118
    storage.atomic_write_buffers(f"{work.folder}/file-index", index, [stacks.index(lines)])
    place = {row: number for number, row in enumerate(rows)}
    return (record if "row" not in record else {**record, "row": place[record["row"]]} for record in journal.records())
