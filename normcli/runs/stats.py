"""stats: formats.read ─ Items ─► engine ─► load ► images.decode ► tally ─► + ─► summary."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from normcli import __version__, engine, images, tally
from normcli import sources as formats
from normcli.errors import NoInputError, NormcliError, RemoteError
from normcli.options.images import DecodeOptions, InputOptions
from normcli.options.parse import as_tuple
from normcli.options.stats import StatsOptions
from normcli.runs import commit
from normcli.runs.batches import Alone, Batches, held_by
from normcli.runs.count import WorkerOptions, count_batch
from normcli.runs.masks import PixelMask
from normcli.runs.partial_result import Failure, PartialResult, merge
from normcli.runs.prefetch import prefetch
from normcli.runs.sample import Sample, SamplePlan, StoppingRule, checkpoints
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.runs.stats_settings import failure_limit, settings_of
from normcli.sources import Item, Skipped, folder
from normcli.summary import Summary
from normcli.summary.conventions import check_shared_channels

if TYPE_CHECKING:
    from normcli.runs.file_cache import FileCache

log = logging.getLogger("normcli.stats")


Progress = Callable[[PartialResult], None]


def stats(sources: Sequence[str], options: StatsOptions) -> Summary:
    """Compute the statistics of all images of the sources in one pass; see `normcli.stats`.

    Where `options.output` names a file, the statistics are written there, whole or not at all.
    """
    target = commit.Target.of(options)
    summary = _compute(sources, options, target)
    if options.provenance:
        summary.provenance["stamp"] = commit.stamp()
    target.commit(summary)
    return summary


def _compute(sources: Sequence[str], options: StatsOptions, target: "commit.Target") -> Summary:
    limit = failure_limit(options.max_failures)
    plan = SamplePlan.of(options)
    extremes = None
    if options.on_gallery is not None:
        from normcli.runs.gallery import ExtremeImages

        extremes = ExtremeImages()
    names = list(sources)
    reading = options.part(DecodeOptions)
    listing = options.part(InputOptions)
    mask = PixelMask.of(options.mask_dir, options.ignore_value, names)
    counting = WorkerOptions(
        reading=reading,
        nan=options.nan,
        group_by=options.group_by,
        per_image=options.on_image is not None,
        extremes=extremes is not None,
        rows=plan is not None,
        max_value=options.white_level,
        mask=mask,
        ledger=target.cache is not None,
    )
    settings = settings_of(options, plan, mask)
    paths = as_tuple(options.files) if isinstance(options.files, str) else options.files or ()
    stopping = journal = books = None
    if plan is not None:
        listed = list(paths)
        chosen = Sample(plan, lambda: formats.read(names, listing, listed, shard=options.part_of))
        stopping = StoppingRule(chosen)
    every = formats.read(names, listing, paths, shard=options.part_of) if plan is None else chosen.items()
    items: Iterator[Item | Skipped | Alone] = iter(every)
    depends = {**settings, "max_pixels": options.max_pixels, **provenance()}
    if target.checkpoint is not None:
        journal = StatsCheckpoint(os.fspath(target.checkpoint), {**depends, "per_image": counting.per_image})
        items = journal.known(every)
    elif target.cache is not None:
        from normcli.runs.file_cache import FileCache

        depends["max_file_size"] = options.file_limit
        books = FileCache(target.next_cache, target.previous, depends, listing, mask)
        items = books.items(formats.each(names, paths))
    total = tally.Tally()
    kinds: dict[int, str] = {}
    first: Failure | None = None
    found, size, started, unanswered = 0, 0, time.perf_counter(), ""
    runner = options.runner
    with books or nullcontext(), closing(_run(counting, items, journal or books, **runner)) as results:
        for done in results:
            for failure in done.failures:
                if options.on_failure is not None:
                    options.on_failure(failure)
                first = first or failure
                if failure.reason == "remote":
                    unanswered = failure.message
                if failure.stage != "skip" and options.max_failures == "0":
                    raise NormcliError(f"{failure.key}: {failure.message}")
            if options.on_image is not None:
                for record in done.records:
                    options.on_image(record)
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
            if options.on_progress is not None:
                options.on_progress(done)
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
        if extremes is not None and options.on_gallery is not None:
            options.on_gallery(extremes.gallery(summary, reading))
        if books is not None:
            books.seal(summary)
            changes = books.changes()
            if changes is not None and options.on_update is not None:
                options.on_update(changes)
    return summary


def expected(sources: Iterable[str]) -> int | None:
    """How many inputs folders hold, for the time that is left; None where that takes opening something."""
    sizes = [folder.size(source) for source in sources]
    return None if not sizes or None in sizes else sum(n for n in sizes if n is not None)


def _run(
    counting: WorkerOptions,
    items: Iterator[Item | Skipped | Alone],
    keeper: "StatsCheckpoint | FileCache | None",
    **runner: Any,
) -> Generator[PartialResult, None, None]:
    """Count items in batches, in order; a journal or ledger is told of every batch and passes results on."""
    marks = checkpoints() if counting.rows else iter(())
    # the workers of a cluster read for themselves
    reader = iter if runner["engine"].startswith("dask") else prefetch
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
