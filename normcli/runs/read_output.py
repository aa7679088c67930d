"""Readers of the output of apply: arrays by their records, and the pixels that they were made of."""

import os
from collections.abc import Iterator

import numpy as np

from normcli.errors import InputError
from normcli.runs.loop import Batching
from normcli.runs.transform import invert
from normcli.schemes import Affine
from normcli.sinks import OUTPUT_KINDS, read_array
from normcli.sinks.sink import Array, Record, decode_name, output_shape

# a row group of a table is read as one
BATCHING = Batching(seconds=0.05, most_items=64, group_of=lambda record: _row_group(record), complete_groups=True)


def _row_group(record: Record) -> tuple[int, int] | None:
    return (record["shard"], record["group"]) if "group" in record else None


def readable(records: Iterator[Record]) -> Iterator[Record]:
    """Yield the records of images that were written."""
    return (record for record in records if "error" not in record)


def load(out: str, settings: Record, record: Record) -> Array:
    """Return the array of one record in its written form.

    Raises:
        InputError: missing, damaged, or of another shape than recorded.
    """
    if record.get("found"):
        raise InputError("not-recorded", "existed before the run (--skip-existing): the manifest does not describe it")
    to = settings["to"]
    shape = output_shape(record, settings["output_layout"])
    array = read_array(to, out, record, settings["alpha"], shape)
    same_type = OUTPUT_KINDS[to].image or array.dtype == settings["dtype"]
    if array.shape != shape or not same_type:
        raise InputError("damaged", f"is {array.dtype} {array.shape}, and {settings['dtype']} {shape} was written")
    return array


def check_size(out: str, settings: Record, record: Record, shards: list[Record]) -> None:
    """Compare the size of a file with the size that was written.

    Raises:
        InputError: missing, or of another size.
    """
    to = settings["to"]
    if to == "stack" or OUTPUT_KINDS[to].volume:
        return
    if OUTPUT_KINDS[to].shard:
        if record["shard"] >= len(shards):
            raise InputError("damaged", f"the manifest has no shard {record['shard']}")
        shard = shards[record["shard"]]
        name, size, prefix = shard["name"], shard["bytes"], f"{shard['name']} "
    else:
        name, size, prefix = decode_name(record, "name") + OUTPUT_KINDS[to].suffix, record["bytes"], ""
    try:
        actual = os.stat(os.path.join(out, name)).st_size  # noqa: PTH116, PTH118
    except OSError as error:
        raise InputError("missing", f"{prefix}{(error.strerror or str(error)).lower()}") from None
    if actual != size:
        raise InputError("damaged", f"{prefix}has {actual} bytes, and {size} were written")


def interleaved(array: Array, layout: str) -> Array:
    """Return any written array as (H,W,C)."""
    return array.transpose(1, 2, 0) if layout == "chw" else array


def pixels_of(written: Array, record: Record, settings: Record) -> Array:
    """Return the pixels (H,W,C) that were mapped, in their own dtype: integers exactly, if the record is `exact`."""
    written = interleaved(written, settings["output_layout"])
    mapping = record["map"]
    dequantize = dequantize_affine(mapping)
    height, width = written.shape[:2]
    dtype = np.dtype(record["dtype"])
    pixels = np.empty((height, width, record["shape"][2]), dtype)
    top = 255 if dtype.itemsize == 1 else 65535
    outside = None
    if "outside" in mapping:
        outside = written == (0 if dequantize is None else np.rint(-dequantize.shift[0] / dequantize.scale[0]))
    for j, channel in enumerate(mapping["source"]):
        affine = Affine((mapping["scale"][j],), (mapping["shift"][j],))
        if dtype.kind == "u":
            levels = invert(written[:, :, j], affine, dequantize)
            pixels[:, :, channel] = np.clip(np.nan_to_num(levels), 0, top).astype(dtype)
        else:
            y = written[:, :, j].astype(np.float64)
            if dequantize is not None:
                y = y * dequantize.scale[0] + dequantize.shift[0]
            pixels[:, :, channel] = ((y - affine.shift[0]) / affine.scale[0]).astype(dtype)
        if outside is not None:
            zero = mapping["outside"][j]
            pixels[:, :, channel][outside[:, :, j]] = round(min(max(zero, 0), top)) if dtype.kind == "u" else zero
    return pixels


def dequantize_affine(mapping: Record) -> Affine | None:
    """Return the affine from quantized values to y, of a record's map; None if they were not quantized."""
    if "restore" not in mapping:
        return None
    return Affine((mapping["restore"]["scale"],), (mapping["restore"]["shift"],))
