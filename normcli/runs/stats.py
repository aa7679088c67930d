"""stats: formats.read ─ Items ─► engine ─► load ► images.decode ► tally ─► + ─► summary."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from normcli import __version__, engine, images, tally
from normcli import sources as formats
from normcli.errors import NoInputError, NormcliError, RemoteError, UsageError
from normcli.images import Reading
from normcli.runs.batches import Alone, Batches, held_by
from normcli.runs.count import WorkerOptions, count_batch
from normcli.runs.masks import PixelMask
from normcli.runs.partial_result import Failure, PartialResult, merge
from normcli.runs.prefetch import prefetch
from normcli.runs.sample import Sample, SamplePlan, StoppingRule, checkpoints
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.runs.stats_settings import check, check_ledger, described, limit_of, shard_of
from normcli.sources import Item, Listing, Skipped, folder
from normcli.summary import Summary
from normcli.summary.conventions import check_shared_channels

if TYPE_CHECKING:
    from normcli.report.pictures import Gallery
    from normcli.runs.file_cache import Changes, FileCache

log = logging.getLogger("normcli.stats")


Progress = Callable[[PartialResult], None]


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
    ledger: str | os.PathLike[str] | None = None,
    update: str | os.PathLike[str] | None = None,
    on_error: str = "skip",
    max_errors: str | int | None = None,
    on_failure: Callable[[Failure], None] | None = None,
    on_image: Callable[[dict[str, Any]], None] | None = None,
    on_progress: Progress | None = None,
    on_gallery: "Callable[[Gallery], None] | None" = None,
    on_update: "Callable[[Changes], None] | None" = None,
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
        ledger: where to write what every file added, for a later update; `FILE.ledger` beside the statistics FILE.
        update: statistics file with its ledger beside it: only what is new or changed since is read.
        on_error: "skip", or "fail" at the first input that fails.
        max_errors: "N" or "N%": give up when more inputs fail.
        on_failure: called with every input not used, in order.
        on_image: called with every image's own record, in order.
        on_progress: called after every batch.
        on_gallery: called at the end with small pictures of the most extreme images.
        on_update: called at the end with the numbers of files kept, new, changed and gone.

    Raises:
        UsageError: settings that cannot be, or images that have no channels in common.
        StatisticsFileError: `update` has no ledger that goes with it.
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
    plan = SamplePlan.of(sample, tolerance, confidence, seed)
    if plan is not None and plan.tolerance is not None and resume is not None:
        raise UsageError("--resume goes with a fixed --sample, not with --tolerance")
    if on_gallery is not None and resume is not None:
        raise UsageError("--report with pictures does not go with --resume: make it with show afterwards")
    if ledger is not None or update is not None:
        check_ledger(update is not None, shard, plan, resume, on_image, on_gallery)
    extremes = None
    if on_gallery is not None:
        from normcli.runs.gallery import ExtremeImages

        extremes = ExtremeImages()
    names = list(map(os.fsdecode, sources))
    mask = PixelMask.of(mask_dir, ignore_value, names, reading)
    counting = WorkerOptions(
        reading=reading,
        nan=nan,
        by=by,
        per_image=on_image is not None,
        extremes=extremes is not None,
        rows=plan is not None,
        range=range,
        mask=mask,
        ledger=ledger is not None,
    )
    settings = described(reading, listing, counting, plan, weight)
    paths = _several(files or ())
    stopping = journal = books = None
    if plan is not None:
        listed = list(paths)
        chosen = Sample(plan, lambda: formats.read(names, listing, listed))
        stopping = StoppingRule(chosen)
    every = formats.read(names, listing, paths) if plan is None else chosen.items()
    items: Iterator[Item | Skipped | Alone] = iter(every)
    depends = {**settings, "max_pixels": max_pixels, **provenance()}
    if resume is not None:
        journal = StatsCheckpoint(os.fsdecode(resume), {**depends, "per_image": counting.per_image})
        items = journal.known(every)
    elif ledger is not None or update is not None:
        from normcli.runs.file_cache import FileCache

        books = FileCache(ledger, update, {**depends, "max_file_bytes": max_file_bytes}, listing, mask)
        items = books.items(formats.each(names, paths))
    total = tally.Tally()
    kinds: dict[int, str] = {}
    first: Failure | None = None
    found, size, started, unanswered = 0, 0, time.perf_counter(), ""
    runner = {"engine": engine, "workers": workers, "scheduler": scheduler}
    with books or nullcontext(), closing(_run(counting, items, journal or books, **runner)) as results:
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
            kinds = {**done.kinds, **kinds}
            if len(kinds) > 1:
                check_shared_channels(kinds, settings, bands=total.composition["bands"] > 0)
            if limit is not None:
                limit(total.failed.total(), found, False)
            if on_progress is not None:
                on_progress(done)
            if stopping is not None:
                stopping.add(done.rows)
                if stopping.should_stop(found, total.images, max((key[0] for key in total.buckets), default=1)):
                    results.close()
        if books is not None:
            books.complete(total)
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
        if books is not None:
            books.seal(summary)
            changes = books.changes()
            if changes is not None and on_update is not None:
                on_update(changes)
    return summary


def expected(sources: Iterable[str]) -> int | None:
    """How many inputs folders hold, for the time that is left; None where that takes opening something."""
    sizes = [folder.size(source) for source in sources]
    return None if not sizes or None in sizes else sum(n for n in sizes if n is not None)


def _several(values: Iterable[str]) -> Iterable[str]:
    """One string is one value, not its letters."""
    return (values,) if isinstance(values, str) else values


def _run(
    counting: WorkerOptions,
    items: Iterator[Item | Skipped | Alone],
    keeper: "StatsCheckpoint | FileCache | None",
    **runner: Any,
) -> Generator[PartialResult, None, None]:
    """Count items in batches, in order; a journal or ledger is told of every batch and passes results on."""
    marks = checkpoints() if counting.rows else iter(())
    # the workers of a cluster read for themselves
    reader = iter if runner["engine"] == "dask" else prefetch
    batches = Batches(reader(items), None if keeper is None else keeper.starts, marks)
    # what is looked at or written down batch by batch is not merged on the way
    merging = merge if keeper is None and not counting.rows else None
    results = engine.run(partial(count_batch, counting), batches, merge=merging, weigh=held_by, **runner)
    with warnings.catch_warnings(), keeper if isinstance(keeper, StatsCheckpoint) else nullcontext():
        # once for all threads: Pillow warns of damage that is counted anyway
        warnings.simplefilter("ignore")
        for done in results if keeper is None else keeper.keep(results):
            batches.learn(done.inputs, done.seconds)
            yield done


def provenance() -> dict[str, Any]:
    """Versions of what the numbers depend on."""
    return {"normcli": __version__, **images.decoders()}


__all__ = ["Failure", "PartialResult", "WorkerOptions", "count_batch", "expected", "stats"]
