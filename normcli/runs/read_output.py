"""What apply wrote, read again: arrays by their records, and the pixels they were made of."""

import os
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.runs.transform import invert
from normcli.schemes import Affine
from normcli.sinks import OUTPUT_KINDS, read_array
from normcli.sinks.record import decode_name, output_shape
from normcli.sinks.sink import Record

Array = np.ndarray[Any, Any]


def batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """The records of files that were written, a few at a time; a row group of a table, which is read as one."""
    usable = (record for record in records if "error" not in record)
    for group, those in groupby(usable, lambda record: (record.get("shard"), record.get("group"))):
        if group[1] is not None:
            yield list(those)
            continue
        while batch := list(islice(those, 16)):
            yield batch


def load(out: str, settings: Record, record: Record) -> Array:
    """The array of one record, as it was written.

    Raises:
        InputError: missing, damaged, or of another shape than recorded.
    """
    if record.get("found"):
        raise InputError("not-recorded", "was there before (--skip-existing): nothing is known of how it was made")
    to = settings["to"]
    array = read_array(to, out, record, settings["alpha"])
    shape = output_shape(record, settings["output_layout"])
    same_type = OUTPUT_KINDS[to].image or array.dtype == settings["dtype"]
    if array.shape != shape or not same_type:
        raise InputError("damaged", f"is {array.dtype} {array.shape}, and {settings['dtype']} {shape} was written")
    return array


def check_size(out: str, settings: Record, record: Record, shards: list[Record]) -> None:
    """Hold the size of a file against what was written.

    Raises:
        InputError: missing, or of another size.
    """
    to = settings["to"]
    if to == "stack":
        return
    if OUTPUT_KINDS[to].shard:
        if record["shard"] >= len(shards):
            raise InputError("damaged", f"the manifest knows no shard {record['shard']}")
        shard = shards[record["shard"]]
        name, size, said = shard["name"], shard["bytes"], f"{shard['name']} "
    else:
        name, size, said = decode_name(record, "name") + OUTPUT_KINDS[to].suffix, record["bytes"], ""
    try:
        found = os.stat(os.path.join(out, name)).st_size  # noqa: PTH116, PTH118
    except OSError as error:
        raise InputError("missing", f"{said}{(error.strerror or str(error)).lower()}") from None
    if found != size:
        raise InputError("damaged", f"{said}has {found} bytes, and {size} were written")


def interleaved(array: Array, layout: str) -> Array:
    """Return any written array as (H,W,C)."""
    return array.transpose(1, 2, 0) if layout == "chw" else array


def pixels_of(written: Array, record: Record, settings: Record) -> Array:
    """Pixels (H,W,C) as they were mapped, in their own dtype: integers exactly, where the record says so."""
    written = interleaved(written, settings["output_layout"])
    found = record["map"]
    restore = dequantize_affine(found)
    height, width = written.shape[:2]
    dtype = np.dtype(record["dtype"])
    pixels = np.empty((height, width, record["shape"][2]), dtype)
    top = 255 if dtype.itemsize == 1 else 65535
    for j, channel in enumerate(found["source"]):
        one = Affine((found["scale"][j],), (found["shift"][j],))
        if dtype.kind == "u":
            levels = invert(written[:, :, j], one, restore)
            pixels[:, :, channel] = np.clip(np.nan_to_num(levels), 0, top).astype(dtype)
        else:
            y = written[:, :, j].astype(np.float64)
            if restore is not None:
                y = y * restore.scale[0] + restore.shift[0]
            pixels[:, :, channel] = ((y - one.shift[0]) / one.scale[0]).astype(dtype)
    return pixels


def dequantize_affine(found: Record) -> Affine | None:
    """The affine from quantized values to y, of a record's map; None where they were not quantized."""
    if "restore" not in found:
        return None
    return Affine((found["restore"]["scale"],), (found["restore"]["shift"],))
