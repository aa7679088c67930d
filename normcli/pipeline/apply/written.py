"""What apply wrote, read again: arrays by their records, and the pixels they were made of."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.formats import stack as stacks
from normcli.pipeline.apply import manifest, outputs
from normcli.pipeline.apply.manifest import Record, text_of
from normcli.pipeline.apply.mapping import invert
from normcli.schemes import Affine

Array = np.ndarray[Any, Any]


def batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """The records of files that were written, a few at a time."""
    usable = (record for record in records if "error" not in record)
    while batch := list(islice(usable, 16)):
        yield batch


def load(out: str, settings: Record, record: Record) -> Array:
    """The array of one record, as it was written.

    Raises:
        InputError: missing, damaged, or of another shape than recorded.
    """
    if record.get("found"):
        raise InputError("not-recorded", "was there before (--skip-existing): nothing is known of how it was made")
    if settings["to"] == "stack":
        try:
            stack = stacks.read(os.path.join(out, stacks.ARRAY))  # noqa: PTH118
        except (OSError, ValueError) as error:
            raise InputError("damaged", f"{stacks.ARRAY}: {error}") from None
        array: Array = stack[record["row"]]
    else:
        kind = outputs.KINDS[settings["to"]]
        array = outputs.decode(
            settings["to"],
            os.path.join(out, text_of(record, "name")) + kind.suffix,  # noqa: PTH118
            settings["alpha"],
        )
    want = manifest.written_shape(record, settings)
    if array.shape != want:
        raise InputError("damaged", f"is {array.shape}, and {want} was written")
    return array


def pixels_of(written: Array, record: Record, settings: Record) -> Array:
    """Pixels (H,W,C) as they were mapped, in their own dtype: integers exactly, where the record says so."""
    written = outputs.interleaved(written, settings["layout"])
    found = record["map"]
    restore = restoring(found)
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


def restoring(found: Record) -> Affine | None:
    """The affine from quantized values to y, of a record's map; None where they were not quantized."""
    if "restore" not in found:
        return None
    return Affine((found["restore"]["scale"],), (found["restore"]["shift"],))
