"""The way back: from what apply wrote to the pixels of the original files."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from normcli import engine as engines
from normcli import storage
from normcli.errors import InputError, NoInputError, UsageError
from normcli.images.encode import png, tiff
from normcli.images.orientation import as_stored
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


def restore(
    out: str | os.PathLike[str],
    back: str | os.PathLike[str],
    *,
    to: str | None = None,
    force: bool = False,
    engine: str = "auto",
    scheduler: str | None = None,
    workers: int = 0,
    on_failure: Callable[[Failure], None] | None = None,
    on_progress: Callable[[Any], None] | None = None,
) -> RestoreResult:
    """Restore the original files' pixels from the output of `apply`, as PNG or TIFF.

    The pixels are those that were mapped: after --resize and --center-crop, without a dropped alpha channel;
    turned back as they were stored, with the EXIF orientation noted in the file.

    Args:
        out: what `apply` wrote.
        back: folder for the images.
        to: "png" or "tiff"; None is PNG, and TIFF for what PNG cannot hold.
        force: write into a folder that holds something.
        engine: "auto", "serial", "threads", "processes" or "dask".
        scheduler: address of a running Dask cluster, for engine "dask".
        workers: how many; 0 is one per usable processor.
        on_failure: called with every file that cannot be restored.
        on_progress: called after every batch.

    Raises:
        UsageError: not such a folder, or settings that cannot be.
        NoInputError: nothing could be restored.
        OutputError: something cannot be written.
    """
    source, target = os.fsdecode(out), os.fsdecode(back)
    if to not in (None, "png", "tiff"):
        raise UsageError(f"{to} cannot hold restored images: choose png or tiff")
    head, records = manifest.read(source)
    names.check_overlap(target, [source])
    if manifest.find_content(target) is not None and not force:
        raise UsageError(f"{target} is not empty (--force writes into it)")
    work = os.path.join(target, names.WORK)  # noqa: PTH118
    try:
        os.makedirs(work, exist_ok=True)  # noqa: PTH103
    except OSError as error:
        storage.raise_output_error(target, error)
    total = RestoreResult()
    one = partial(_restore_batch, source, head["settings"], target, work, to)
    try:
        for done in engines.run(one, batches(records), engine=engine, workers=workers, scheduler=scheduler):
            total.images += done.images
            total.exact += done.exact
            total.why_not.update(done.why_not)
            for failure in done.failures:
                total.failed[failure.reason] += 1
                if on_failure is not None:
                    on_failure(failure)
            if on_progress is not None:
                on_progress(done)
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
