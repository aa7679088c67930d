"""Restoration of the pixels of original files from the output of apply."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from normcli import storage
from normcli.errors import InputError, NoInputError, UsageError
from normcli.images.encode import png, tiff
from normcli.images.orientation import as_stored
from normcli.options.apply import RestoreOptions
from normcli.options.shared import FailureOptions, describe_geometry
from normcli.runs import manifest, names
from normcli.runs.count import Failure
from normcli.runs.loop import FailurePolicy, Loop
from normcli.runs.names import SuffixCollisions
from normcli.runs.read_output import BATCHING, load, pixels_of, readable
from normcli.schemes import CURVES
from normcli.sinks import holds_volumes
from normcli.sinks.files import png_holds, temporary_name
from normcli.sinks.sink import Array, Record, decode_name


@dataclass
class RestoreResult:
    """The result of a restore.

    Attributes:
        images: number of files written.
        exact: number of those that have the pixels of the originals bit for bit.
        inexact: the others, by reason.
        failed: files that are missing or damaged, by reason.
        geometry: the resize and crop that `apply` made, which cannot be undone; "" where there were none.
        unit: "image" or "volume", of the numbers.
    """

    images: int = 0
    exact: int = 0
    inexact: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    geometry: str = ""
    unit: str = "image"


def restore(folder: str, output: str, options: RestoreOptions) -> RestoreResult:
    """Restore the images that `apply` read from its output; see `normcli.restore`."""
    head, records = manifest.read(folder)
    if (scheme := head["settings"]["scheme"]) in CURVES:
        raise UsageError(
            f"{folder}: cannot be restored: scheme {scheme} has no inverse (use the original images, or `scheme` "
            "contrast, which has one)"
        )
    if holds_volumes(head["settings"]):
        from normcli.runs.restore_volumes import restore_volumes

        return restore_volumes(folder, head["settings"], records, output, options)
    total = RestoreResult(geometry=describe_geometry(head["settings"]))

    def consume(result: RestoredBatch) -> None:
        total.images += result.images
        total.exact += result.exact
        total.inexact.update(result.inexact)
        total.failed.update(failure.reason for failure in result.failures)

    failures = FailurePolicy(FailureOptions(on_failure=options.on_failure))
    with output_folder(folder, output, force=options.force) as unfinished:
        job = RestoreJob(folder, head["settings"], output, unfinished, options.to)
        collisions = SuffixCollisions()
        for record in readable(manifest.read(folder)[1]):
            collisions.add(decode_name(record, "name"))
        collisions.report()
        loop = Loop(
            worker=partial(_restore_batch, job),
            consume=consume,
            engine=options,
            batching=BATCHING,
            failures=failures,
        )
        loop.run(_renamed(readable(records), job, collisions))
        require_images(folder, total, failures)
    return total


@contextmanager
def output_folder(folder: str, output: str, *, force: bool) -> Iterator[str]:
    """Yield the folder of unfinished files in the output folder; after an error, remove it.

    A new output folder is removed with it where it is still empty.

    Args:
        folder: the output of `apply`.
        output: folder for the images or volumes.
        force: write into a folder that is not empty.

    Raises:
        UsageError: `output` overlaps with `folder`, or is not empty.
        OutputError: it cannot be written.
    """
    names.check_overlap(output, [folder])
    if names.find_content(output) is not None and not force:
        raise UsageError(f"{output} is not empty (`force` writes into it)")
    is_new = not os.path.lexists(output)
    unfinished = os.path.join(output, names.WORK)  # noqa: PTH118
    try:
        storage.make_work_folder(unfinished)
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # not empty: images were restored
                os.rmdir(output)  # noqa: PTH106
        raise
    storage.remove_work_folder(unfinished)


def require_images(folder: str, total: RestoreResult, failures: FailurePolicy) -> None:
    """Require that an image was restored.

    Raises:
        NoInputError: none was, with the reason of the first.
    """
    if total.images:
        return
    first, more = failures.first, total.failed.total() - 1
    reason = "" if first is None else f": {first.key}: {first.message}{f' (and {more:,} more)' * (more > 0)}"
    raise NoInputError(f"nothing in {folder} could be restored{reason}")


class RestoreJob(NamedTuple):
    """Settings by which a worker restores a batch; picklable.

    Attributes:
        folder: the output of `apply`.
        settings: of its manifest.
        output: folder for the images or volumes.
        unfinished: folder for files that are being written.
        to: of images, "png" or "tiff"; None chooses by the pixels.
    """

    folder: str
    settings: Record
    output: str
    unfinished: str
    to: str | None


@dataclass
class RestoredBatch:
    """The result of a batch."""

    images: int
    exact: int
    inexact: Counter[str]
    failures: list[Failure]
    inputs: int
    bytes: int
    seconds: float


def _renamed(records: Iterator[Record], job: RestoreJob, collisions: SuffixCollisions) -> Iterator[Record]:
    """Yield the records with the name of the file to restore."""
    for record in records:
        suffix = ".png" if _kind(record, job) == "png" else ".tif"
        name, source = decode_name(record, "name"), str(record.get("source", ""))
        yield {**record, "restored": collisions.restore(name, source, suffix)}


def _restore_batch(job: RestoreJob, records: list[Record]) -> RestoredBatch:
    return restore_each(records, partial(_restore, job), lambda record: _inexact_reason(record, job.settings))


def restore_each(
    records: list[Record], restore_one: Callable[[Record], int], inexact_reason: Callable[[Record], str]
) -> RestoredBatch:
    """Restore the images or volumes of a batch, in a worker; one that fails is listed and left out.

    Args:
        records: of the manifest.
        restore_one: writes an image or volume and returns its number of bytes.
        inexact_reason: returns why one is not restored bit for bit.
    """
    started = time.perf_counter()
    exact, size = 0, 0
    inexact: Counter[str] = Counter()
    failures = []
    for record in records:
        try:
            size += restore_one(record)
        except InputError as error:
            failures.append(Failure(decode_name(record, "name"), "restore", error.reason, error.message))
            continue
        if record["exact"]:
            exact += 1
        else:
            inexact[inexact_reason(record)] += 1
    seconds = time.perf_counter() - started
    return RestoredBatch(len(records) - len(failures), exact, inexact, failures, len(records), size, seconds)


def _restore(job: RestoreJob, record: Record) -> int:
    written = load(job.folder, job.settings, record)
    parts = _encode(pixels_of(written, record, job.settings), record, job)
    names.check_name_length(record["restored"])
    path = os.path.join(job.output, record["restored"])  # noqa: PTH118
    storage.atomic_write_buffers(f"{job.unfinished}/{temporary_name()}", path, parts, job.output)
    return written.nbytes


def _kind(record: Record, job: RestoreJob) -> str:
    """Return the format of the image to restore: `to`, else "png" if it can store the pixels, else "tiff"."""
    return job.to or ("png" if _fits_png(record, job) else "tiff")


def _fits_png(record: Record, job: RestoreJob) -> bool:
    if "shape" not in record:  # was there before (--skip-existing): fails
        return True
    return str(record["dtype"]).startswith("u") and png_holds(record["shape"][2], job.settings["alpha"])


def _encode(pixels: Array, record: Record, job: RestoreJob) -> list[Any]:
    """Return the content of an image file as buffers."""
    orientation = record.get("orientation", 1)
    if orientation != 1:
        pixels = as_stored(pixels, orientation)
    if _kind(record, job) == "tiff":
        return tiff(pixels)
    if not _fits_png(record, job):
        raise InputError("unsupported", f"PNG cannot hold {pixels.shape[2]} channels of {pixels.dtype}")
    return [png(pixels, orientation)]


def _inexact_reason(record: Record, settings: Record) -> str:
    if record["dtype"].startswith("f"):
        return "float originals, restored within rounding"
    if record.get("clipped"):
        return "clipped values"
    if record.get("invalid") and settings.get("fill", "keep") != "keep":
        return "invalid samples, which were filled"
    return f"{settings['to']} {settings['dtype']} has fewer levels than the original"
