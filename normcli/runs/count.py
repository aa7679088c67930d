"""One batch of images, counted in a worker."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from normcli import images, tally
from normcli.errors import InputError
from normcli.options.images import DecodeOptions
from normcli.runs.masks import PixelMask
from normcli.runs.partial_result import Failure, FileResult, PartialResult, row
from normcli.sources import Item, Skipped
from normcli.storage import path_fields
from normcli.storage.byte_sources import FileBytes
from normcli.summary.channels import white_level
from normcli.tally import serialize

log = logging.getLogger("normcli.stats")


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Options of the worker function: picklable, the same in every worker.

    Attributes:
        per_image, extremes, rows, file_results: results of single images to return besides the sum.
    """

    reading: DecodeOptions
    nan: str = "error"
    max_value: int | None = None
    group_by: str | None = None
    per_image: bool = False
    extremes: bool = False
    rows: bool = False
    mask: PixelMask | None = None
    file_results: bool = False


def count_batch(options: WorkerOptions, batch: list[Item | Skipped]) -> PartialResult:
    """Load, decode and count one batch, in a worker; an input that fails is listed and left out."""
    started = time.perf_counter()
    result = PartialResult(inputs=len(batch))
    group = _grouping(options.group_by)
    data: Any
    image: Any
    for item in batch:
        if isinstance(item, Skipped):
            result.tally.skipped[item.reason] += 1
            result.failures.append(Failure(item.key, "skip", item.reason, item.message))
            result.file_results += [None] if options.file_results else []
            continue
        stage, left_out = "load", 0
        try:
            data = item.load()
            result.bytes += data.nbytes if hasattr(data, "nbytes") else len(data)
            stage = "decode"
            image = images.decode(data, options.reading)
            images.check_full_scale(image, options.max_value)
            stage = "count"
            shape = image.pixels.shape
            if options.mask is not None:
                left_out = options.mask.select(item.key, image)
            if image.no_data is not None and (options.mask is None or options.mask.value != image.no_data):
                image.notes += images.no_data_notes(image.pixels, image.no_data)
            # members of containers are kept together, except a file that a table names, which looks like any file
            apart = options.file_results and isinstance(getattr(item.load, "loader", item.load), FileBytes)
            into = tally.Tally() if apart else result.tally
            _count(result, into, item, data, image, shape, options, group)
            if left_out:
                into.composition["ignored-pixels"] += left_out
            result.kinds.setdefault(image.pixels.shape[2], item.key)
            entry: FileResult = None
            if apart:
                entry = (image.pixels.shape[2], serialize.to_bytes(into))
                result.tally.add(into)
        except Exception as error:
            if isinstance(error, MemoryError):
                error = InputError("memory", f"not enough memory to {stage} it")
            elif not isinstance(error, InputError):
                log.debug("%s", item.key, exc_info=True)
                error = InputError("unexpected", f"{type(error).__name__}: {error}")
            result.tally.failed[error.reason] += 1
            entry = Failure(item.key, stage, error.reason, " ".join(error.message.split()))
            result.failures.append(entry)
        data = image = None  # not beside the next, whatever became of them
        result.file_results += [entry] if options.file_results else []
    _ = result.tally.images  # per-image values of the whole batch at once, here in the worker
    result.seconds = time.perf_counter() - started
    return result


def _count(
    result: PartialResult,
    into: tally.Tally,
    item: Item,
    data: Any,
    image: images.Decoded,
    shape: tuple[int, ...],
    options: WorkerOptions,
    group: Callable[[Item], str] | None,
) -> None:
    notes = (f"format:{image.format}", f"mode:{image.mode}", f"depth:{image.depth}", *image.notes)
    encoded = data if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B")
    digest = into.digest
    moments = into.count(
        image.pixels,
        image.weights,
        nan=options.nan,
        notes=notes,
        data=encoded,
        group=None if group is None else group(item),
        moments=options.per_image or options.rows or options.extremes,
    )
    if moments is None:
        return
    full = white_level(tally.bucket_dtype(image.pixels), options.max_value)
    scale = full or 1
    if options.rows:
        unit = 1 if image.weights is None else int(np.iinfo(image.weights.dtype).max)
        result.rows.append(row(moments, unit, full))
    if options.extremes:
        from normcli.runs.gallery import SeenImage
        from normcli.runs.image_table import ImageRow

        scaled = [v / scale for v in moments.mean], [v / scale for v in moments.std]
        size = image.stored_size if image.orientation < 5 else image.stored_size[::-1]  # 5 to 8 lie on their side
        own = (into.digest - digest) % tally.DIGEST_MODULUS
        row_of_image = ImageRow(item.key, item.label, *size, len(encoded), own)
        result.seen.append(SeenImage(item, moments.weight, *scaled, row_of_image))
    if options.per_image:
        height, width, channels = shape  # before pixels were left out
        record = {
            **path_fields(item.key),
            "width": width,
            "height": height,
            "channels": channels,
            "format": image.format,
            "mode": image.mode,
            "depth": image.depth,
            "mean": [v / scale for v in moments.mean],
            "std": [v / scale for v in moments.std],
            "min": [v / scale for v in moments.low],
            "max": [v / scale for v in moments.high],
            "notes": image.notes,
        }
        result.records.append(record)


def _grouping(by: str | None) -> Callable[[Item], str] | None:
    if by is None:
        return None
    if by in ("folder", "label"):
        return lambda item: item.label or "."
    return lambda item: item.label or ""  # the listing made it of the regex: see sources.PatternUse
