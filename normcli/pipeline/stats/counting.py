"""stats: formats.read ─ Items ─► engine ─► load ► images.decode ► tally ─► + ─► summary."""

import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from normcli import __version__, engine, formats, images, tally
from normcli.errors import InputError, NoInputError, NormcliError, RemoteError, UsageError
from normcli.formats import Item, Listing, Skip, folder
from normcli.images import Reading
from normcli.pipeline.stats.batches import Batch, Batches, held_by
from normcli.pipeline.stats.counted import Counted, Failure, row, together
from normcli.pipeline.stats.journal import Journal, Recalled
from normcli.pipeline.stats.masking import Masking
from normcli.pipeline.stats.prefetch import ahead
from normcli.pipeline.stats.sampling import Plan, Sample, Stopping, looks
from normcli.pipeline.stats.settings import check, described, limit_of, shard_of
from normcli.storage import path_fields
from normcli.summary import Summary
from normcli.summary.conventions import white

if TYPE_CHECKING:
    from normcli.report.pictures import Gallery

log = logging.getLogger("normcli.stats")


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How one batch is counted: picklable, the same in every worker."""

    reading: Reading
    nan: str = "error"
    range: int | None = None
    by: str | None = None
    per_image: bool = False
    extremes: bool = False
    rows: bool = False
    masking: Masking | None = None


def count_batch(counting: Counting, batch: Batch) -> Counted:
    """Load, decode and count one batch, in a worker; an input that fails is listed and left out."""
    if isinstance(batch, Recalled):
        return batch.result()
    started = time.perf_counter()
    done = Counted(inputs=len(batch))
    group = _grouping(counting.by)
    for item in batch:
        if isinstance(item, Skip):
            done.tally.skipped[item.reason] += 1
            done.failures.append(Failure(item.key, "skip", item.reason, item.message))
            continue
        stage = "load"
        try:
            data = item.load()
            done.bytes += data.nbytes if hasattr(data, "nbytes") else len(data)
            stage = "decode"
            image = images.decode(data, counting.reading)
            stage = "count"
            shape = image.pixels.shape
            if counting.masking is not None:
                left_out = counting.masking.apply(item.key, image)
                done.tally.composition.update({"ignored-pixels": left_out} if left_out else {})
            _count(done, item, data, image, shape, counting, group)
            del image, data  # not beside the next
        except Exception as error:
            if isinstance(error, MemoryError):
                error = InputError("memory", f"not enough memory to {stage} it")
            elif not isinstance(error, InputError):
                log.debug("%s", item.key, exc_info=True)
                error = InputError("unexpected", f"{type(error).__name__}: {error}")
            done.tally.failed[error.reason] += 1
            done.failures.append(Failure(item.key, stage, error.reason, " ".join(error.message.split())))
    _ = done.tally.images  # per-image values of the whole batch at once, here in the worker
    done.seconds = time.perf_counter() - started
    return done


def _count(
    done: Counted,
    item: Item,
    data: Any,
    image: images.Decoded,
    shape: tuple[int, ...],
    counting: Counting,
    group: Callable[[Item], str] | None,
) -> None:
    notes = (f"format:{image.format}", f"mode:{image.mode}", f"depth:{image.depth}", *image.notes)
    encoded = data if isinstance(data, bytes) else np.ascontiguousarray(data).data.cast("B")
    moments = done.tally.count(
        image.pixels,
        image.weights,
        nan=counting.nan,
        notes=notes,
        data=encoded,
        group=None if group is None else group(item),
        moments=counting.per_image or counting.rows or counting.extremes,
    )
    if moments is None:
        return
    full = white(tally.kind(image.pixels), counting.range)
    scale = full or 1
    if counting.rows:
        unit = 1 if image.weights is None else int(np.iinfo(image.weights.dtype).max)
        done.rows.append(row(moments, unit, full))
    if counting.extremes:
        from normcli.pipeline.stats.gallery import Seen

        scaled = [v / scale for v in moments.mean], [v / scale for v in moments.std]
        done.seen.append(Seen(item, moments.weight, *scaled))
    if counting.per_image:
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
        done.records.append(record)


def _grouping(by: str | None) -> Callable[[Item], str] | None:
    if by is None:
        return None
    if by == "folder":
        return lambda item: item.label or "."
    pattern = re.compile(by)

    def group(item: Item) -> str:
        found = pattern.search(item.key)
        if found is None:
            return "(no match)"
        return found.group(1) or "" if pattern.groups else found.group()

    return group


Progress = Callable[[Counted], None]


def stats(
    *sources: str | os.PathLike[str],
    files: Iterable[str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    follow_symlinks: bool = False,
    column: str | None = None,
    layout: str = "auto",
    shard: str | None = None,
    color: str = "auto",
    alpha: str = "drop",
    cmyk: str = "rgb",
    integrity: str = "basic",
    max_pixels: int = images.Reading.max_pixels,
    max_file_bytes: int | None = None,
    resize: int | None = None,
    center_crop: int | None = None,
    range: int | None = None,
    nan: str = "error",
    by: str | None = None,
    engine: str = "auto",
    scheduler: str | None = None,
    workers: int = 0,
    weight: str = "pixel",
    mask_dir: str | os.PathLike[str] | None = None,
    ignore_value: float | None = None,
    sample: str | None = None,
    tolerance: float | None = None,
    confidence: float = 0.99,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    on_error: str = "skip",
    max_errors: str | int | None = None,
    on_failure: Callable[[Failure], None] | None = None,
    on_image: Callable[[dict[str, Any]], None] | None = None,
    on_progress: Progress | None = None,
    on_gallery: "Callable[[Gallery], None] | None" = None,
) -> Summary:
    """Count a set of images in one pass and say what the counts mean.

    Args:
        sources: folders, images, archives, tables and arrays, local or remote.
        files: further paths, taken as given.
        include: glob patterns that decide instead of the usual suffixes.
        exclude: glob patterns to leave out.
        follow_symlinks: walk into linked folders, each once.
        column: column of a table, or array of an npz, that holds the images; None finds it.
        layout: axes of npy and npz arrays: "nhwc", "nchw", …; "auto" where the shape says it.
        shard: "I/N" takes the I-th of N parts.
        color: "auto", "rgb", "gray" or "native".
        alpha: "drop", "composite:COLOR", "weight" or "keep".
        cmyk: "rgb" or "skip".
        integrity: "basic" uses damaged images that decode and counts them; "strict" refuses them.
        max_pixels: refuse larger images by their header.
        max_file_bytes: refuse larger files before reading them.
        resize: shorter side after a bilinear, antialiased resize.
        center_crop: side of the square cut from the middle.
        range: value of full intensity of 16-bit and float images; None is 65535 and raw units.
        nan: "error" refuses images with NaN or infinity, "skip" leaves those pixels out.
        by: "folder", or a regular expression on the path: statistics by group as well.
        engine: "auto", "serial", "threads" or "processes"; none changes a bit.
        scheduler: address of a running Dask cluster, for engine "dask"; None starts one here.
        workers: how many; 0 is one per usable processor.
        weight: what counts the same in mean and std: every "pixel", "image" or "group" (of `by`).
        mask_dir: folder of masks laid out as the images; where a mask is zero, the pixel is left out.
        ignore_value: pixels with this value in every channel are left out.
        sample: read "N" images or "P%" of them, and estimate.
        tolerance: read images in random order until mean and std are known to within it.
        confidence: that all intervals of an estimate hold.
        seed: of the random choice.
        resume: a journal: what it holds is not counted again, what is counted is added to it.
        on_error: "skip", or "fail" at the first input that fails.
        max_errors: "N" or "N%": give up when more inputs fail.
        on_failure: called with every input not used, in order.
        on_image: called with every image's own record, in order.
        on_progress: called after every batch.
        on_gallery: called at the end with small pictures of the most extreme images.

    Raises:
        UsageError: settings that cannot be.
        NoInputError: no usable image.
        RemoteError: no image, and a server that did not answer.
        NormcliError: too many failures.
    """
    reading = Reading(
        color=color,
        alpha=alpha,
        cmyk=cmyk,
        integrity=integrity,
        max_pixels=max_pixels,
        max_file_bytes=max_file_bytes,
        resize=resize,
        center_crop=center_crop,
    )
    check(range, nan, by, on_error)
    limit = limit_of(max_errors)
    listing = Listing(
        include=tuple(_several(include)),
        exclude=tuple(_several(exclude)),
        follow_symlinks=follow_symlinks,
        max_file_bytes=max_file_bytes,
        column=column,
        layout=layout,
        shard=shard_of(shard),
    )
    plan = Plan.of(sample, tolerance, confidence, seed)
    if plan is not None and plan.tolerance is not None and resume is not None:
        raise UsageError("--resume goes with a fixed --sample, not with --tolerance")
    if on_gallery is not None and resume is not None:
        raise UsageError("--report with pictures does not go with --resume: make it with show afterwards")
    extremes = None
    if on_gallery is not None:
        from normcli.pipeline.stats.gallery import Extremes

        extremes = Extremes()
    names = list(map(os.fsdecode, sources))
    masking = Masking.of(mask_dir, ignore_value, names, reading)
    counting = Counting(
        reading=reading,
        nan=nan,
        by=by,
        per_image=on_image is not None,
        extremes=extremes is not None,
        rows=plan is not None,
        range=range,
        masking=masking,
    )
    settings = described(reading, listing, counting, plan, weight)
    items, stopping = formats.read(names, listing, _several(files or ())), None
    if plan is not None:
        paths = list(_several(files or ()))
        chosen = Sample(plan, lambda: formats.read(names, listing, paths))
        items, stopping = chosen.items(), Stopping(chosen)
    total = tally.Tally()
    journal = None
    if resume is not None:
        depends = {**settings, "per_image": counting.per_image, "max_pixels": max_pixels, **provenance()}
        journal = Journal(os.fsdecode(resume), depends)
    first: Failure | None = None
    found, size, started, unanswered = 0, 0, time.perf_counter(), ""
    results = _run(counting, items, journal, engine=engine, workers=workers, scheduler=scheduler)
    for done in results:
        for failure in done.failures:
            if on_failure is not None:
                on_failure(failure)
            first = first or failure
            if failure.reason == "remote":
                unanswered = failure.message
            if failure.stage != "skip" and on_error == "fail":
                raise NormcliError(f"{failure.key}: {failure.message}")
        if on_image is not None:
            for record in done.records:
                on_image(record)
        if extremes is not None:
            extremes.add(done.seen)
        total.add(done.tally)
        found += done.inputs
        size += done.bytes
        if limit is not None:
            limit(total.failed.total(), found, False)
        if on_progress is not None:
            on_progress(done)
        if stopping is not None:
            stopping.add(done.rows)
            if stopping.enough(found, total.images, max((key[0] for key in total.buckets), default=1)):
                results.close()
    if limit is not None:
        limit(total.failed.total(), found, True)
    spent = time.perf_counter() - started
    log.info("%d inputs in %.2f s: %.0f/s, %.1f MB/s", found, spent, found / spent, size / spent / 1e6)
    if unanswered and not total.buckets:
        raise RemoteError(f"nothing could be read: {unanswered}")
    try:
        summary = Summary.of(total, settings, provenance())
    except NoInputError as error:
        why = f": {first.key}: {first.message}" if first is not None else ""
        raise NoInputError(f"{error}{why}") from None
    if stopping is not None:
        stopping.report(summary, total.images + total.failed.total() - chosen.refused)
    if extremes is not None and on_gallery is not None:
        on_gallery(extremes.gallery(summary, reading))
    return summary


def expected(sources: Iterable[str]) -> int | None:
    """How many inputs folders hold, for the time that is left; None where that takes opening something."""
    sizes = [folder.size(source) for source in sources]
    return None if not sizes or None in sizes else sum(n for n in sizes if n is not None)


def _several(values: Iterable[str]) -> Iterable[str]:
    """One string is one value, not its letters."""
    return (values,) if isinstance(values, str) else values


def _run(
    counting: Counting, items: Iterator[Item | Skip], journal: Journal | None, **runner: Any
) -> Generator[Counted, None, None]:
    """Count items in batches, in order; what the journal holds is not counted again."""
    marks = looks() if counting.rows else iter(())
    # the workers of a cluster read for themselves
    reader = iter if runner["engine"] == "dask" else ahead
    if journal is None:
        batches = Batches(reader(items), looks=marks)
    else:
        batches = Batches(reader(journal.known(items)), journal.starts, marks)
    # what is looked at or written down batch by batch is not merged on the way
    merge = together if journal is None and not counting.rows else None
    results = engine.run(partial(count_batch, counting), batches, merge=merge, weigh=held_by, **runner)
    with warnings.catch_warnings(), journal or nullcontext():
        # once for all threads: Pillow warns of damage that is counted anyway
        warnings.simplefilter("ignore")
        for done in results if journal is None else journal.keep(results):
            batches.learn(done.inputs, done.seconds)
            yield done


def provenance() -> dict[str, Any]:
    """Versions of what the numbers depend on."""
    return {"normcli": __version__, **images.decoders()}


__all__ = ["Counted", "Counting", "Failure", "count_batch", "expected", "stats"]
