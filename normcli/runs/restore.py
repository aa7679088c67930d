"""The way back: from what apply wrote to the pixels of the original files."""

import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from normcli import engine as engines
from normcli import storage
from normcli.errors import InputError, NoInputError, UsageError
from normcli.images.encode import png, tiff
from normcli.images.orientation import as_stored
from normcli.options.apply import RestoreOptions
from normcli.runs import manifest, names
from normcli.runs.read_output import batches, load, pixels_of
from normcli.runs.stats import Failure
from normcli.sinks.files import png_holds, temporary_name
from normcli.sinks.record import decode_name
from normcli.sinks.sink import Record


@dataclass
class RestoreResult:
    """What an inverse gave.

    Attributes:
        images: files written.
        exact: of them, those whose pixels are the originals' bit for bit.
        why_not: the others, by reason.
        failed: by reason: files that are missing or damaged.
    """

    images: int = 0
    exact: int = 0
    why_not: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)


def restore(folder: str, output: str, options: RestoreOptions) -> RestoreResult:
    """Restore the images that `apply` read from what it wrote; see `normcli.restore`."""
    source, target = folder, output
    head, records = manifest.read(source)
    names.check_overlap(target, [source])
    if manifest.find_content(target) is not None and not options.force:
        raise UsageError(f"{target} is not empty (`force` writes into it)")
    work = os.path.join(target, names.WORK)  # noqa: PTH118
    try:
        os.makedirs(work, exist_ok=True)  # noqa: PTH103
    except OSError as error:
        storage.raise_output_error(target, error)
    total = RestoreResult()
    one = partial(_restore_batch, source, head["settings"], target, work, options.to)
    try:
        for done in engines.run(one, batches(records), **options.runner):
            total.images += done.images
            total.exact += done.exact
            total.why_not.update(done.why_not)
            for failure in done.failures:
                total.failed[failure.reason] += 1
                if options.on_failure is not None:
                    options.on_failure(failure)
            if options.on_progress is not None:
                options.on_progress(done)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not total.images:
        raise NoInputError(f"nothing in {source} could be restored")
    return total


class _Batch(NamedTuple):
    images: int
    exact: int
    why_not: Counter[str]
    failures: list[Failure]
    inputs: int
    bytes: int


def _restore_batch(
    source: str, settings: Record, target: str, work: str, to: str | None, records: list[Record]
) -> _Batch:
    exact, size = 0, 0
    why_not: Counter[str] = Counter()
    failures = []
    for record in records:
        try:
            written = load(source, settings, record)
            size += written.nbytes
            pixels = pixels_of(written, record, settings)
            orientation = record.get("orientation", 1)
            if orientation != 1:
                pixels = as_stored(pixels, orientation)
            usual = png_holds(pixels.shape[2], settings["alpha"])
            kind = to or ("png" if pixels.dtype.kind == "u" and usual else "tiff")
            if kind == "png" and not (pixels.dtype.kind == "u" and usual):
                raise InputError("unsupported", f"PNG cannot hold {pixels.shape[2]} channels of {pixels.dtype}")
            data = png(pixels, orientation) if kind == "png" else tiff(pixels)
            name = decode_name(record, "name") + (".png" if kind == "png" else ".tif")
            names.check_name_length(name)
            storage.atomic_write_buffers(f"{work}/{temporary_name()}", os.path.join(target, name), [data])  # noqa: PTH118
        except InputError as error:
            failures.append(Failure(decode_name(record, "name"), "restore", error.reason, error.message))
            continue
        if record["exact"]:
            exact += 1
        else:
            why_not[_why_not(record, settings)] += 1
    return _Batch(len(records) - len(failures), exact, why_not, failures, len(records), size)


def _why_not(record: Record, settings: Record) -> str:
    if record["dtype"].startswith("f"):
        return "float originals, restored within rounding"
    if record.get("clipped"):
        return "clipped values"
    return f"{settings['to']} {settings['dtype']} holds fewer levels than the original"
