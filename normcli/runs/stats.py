"""stats: sources ─► run loop (load ─► images.decode ─► tally) ─► + ─► summary."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from normcli import __version__, images
from normcli import sources as containers
from normcli.errors import NoInputError, RemoteError
from normcli.options.images import DecodeOptions, InputOptions
from normcli.options.parse import as_tuple
from normcli.options.stats import StatsOptions
from normcli.runs.batches import Batching
from normcli.runs.commit import StatsTarget, check_no_image, stamp
from normcli.runs.count import WorkerOptions, count_batch
from normcli.runs.loop import FailurePolicy, Loop
from normcli.runs.masks import PixelMask
from normcli.runs.partial_result import Failure, PartialResult, merge
from normcli.runs.sample import Sample, SamplePlan, StoppingRule, checkpoints
from normcli.runs.stats_settings import settings_of
from normcli.sources import Item, Skipped, folder
from normcli.summary import Summary
from normcli.summary.conventions import check_shared_channels
from normcli.tally import Tally

if TYPE_CHECKING:
    from normcli.runs.gallery import GalleryCollector

log = logging.getLogger("normcli.stats")

BATCHING = Batching(seconds=0.02, most_items=512)  # the last batch may end so much after the others; one costs 0.1 ms


def stats(
    sources: Sequence[str],
    options: StatsOptions,
    items: Iterator[Item | Skipped] | None = None,
    patterns: containers.PatternUse | None = None,
) -> Summary:
    """Compute the statistics of all images of the sources in one pass; see `normcli.stats`.

    Where `options.output` names a file, the statistics are written there, whole or not at all.

    Args:
        sources: folders, files and containers.
        options: all options.
        items: of the sources, where the caller lists them; None lists them here.
        patterns: those to report if they match nothing; None takes them from the options.
    """
    if options.output is not None:
        check_no_image(options.output, sources)
    with StatsTarget(options) as target:
        run = _StatsRun(list(sources), options, target, patterns)
        try:
            return run.run(items)
        finally:
            if run.gallery is not None:
                run.gallery.close()


class _StatsRun:
    """A run: its sources, the options of its workers, and the sum so far."""

    def __init__(
        self,
        sources: list[str],
        options: StatsOptions,
        target: StatsTarget,
        patterns: containers.PatternUse | None,
    ) -> None:
        self.sources, self.options, self.target = sources, options, target
        self.files = as_tuple(options.files) if isinstance(options.files, str) else options.files or ()
        self.listing = options.part(InputOptions)
        containers.check_exist(sources)
        containers.check_distinct(sources)
        self.patterns = patterns or containers.PatternUse(self.listing, options.group_by)
        self.failures = FailurePolicy(options)
        plan = SamplePlan.of(options)
        mask = PixelMask.of(options.mask_dir, options.ignore_value, sources)
        self.worker = WorkerOptions(
            reading=options.part(DecodeOptions),
            nan=options.nan,
            group_by=options.group_by,
            max_value=options.white_level,
            per_image=options.on_image is not None,
            extremes=options.on_gallery is not None,
            rows=plan is not None,
            file_results=options.incremental,
            mask=mask,
        )
        self.settings = settings_of(options, plan, mask)
        self.sample = None if plan is None else Sample(plan, self._relisted())
        self.stopping = None if self.sample is None else StoppingRule(self.sample)
        self.gallery = None if options.on_gallery is None else _gallery_collector()
        self.total = Tally()
        self.bytes = 0
        self.kinds: dict[int, str] = {}  # the first image of each number of channels
        self.started = time.perf_counter()

    def _relisted(self) -> "partial[Iterator[Item | Skipped]]":
        self.files = list(self.files)  # they are listed several times
        return partial(self._listed, self.files)

    def _listed(self, files: Iterable[str]) -> Iterator[Item | Skipped]:
        shard = self.options.part_of
        return containers.read(self.sources, self.listing, files, shard=shard, patterns=self.patterns)

    def run(self, items: Iterator[Item | Skipped] | None) -> Summary:
        """Count everything and write the statistics."""
        target, options = self.target, self.options
        depends = {**self.settings, "max_pixels": options.max_pixels, "max_file_size": options.file_limit}
        depends["per_image"] = self.worker.per_image
        target.open({**depends, **provenance()}, self.listing, self.worker.mask)
        if self.sample is not None:
            items = self.sample.items()
        elif items is None:
            items = self._listed(self.files)
        self._loop().run(target.skip_done(items, self.sources, self.files, self.patterns))
        if target.cache is not None:
            target.cache.complete(self.total)
        self.failures.check(at_end=True)
        summary = self._summarize()
        if options.provenance:
            summary.provenance["stamp"] = stamp()
        target.commit(summary)
        if options.resume and self.failures.replayed and options.on_resume is not None:
            options.on_resume(self.failures.replayed)
        if target.cache is not None and options.on_update is not None:
            options.on_update(target.cache.changes())
        return summary

    def _loop(self) -> Loop[Item | Skipped, PartialResult]:
        checkpoint, cache = self.target.checkpoint, self.target.cache
        batching = BATCHING
        if self.sample is not None:
            batching = replace(batching, ends=checkpoints)
        if cache is not None:
            batching = replace(batching, group_of=cache.group_of)
        return Loop(
            worker=partial(count_batch, self.worker),
            consume=self._add,
            engine=self.options,
            batching=batching,
            failures=self.failures,
            checkpoint=checkpoint,
            # what is looked at or stored batch by batch is not merged on the way
            merge=merge if checkpoint is None and self.sample is None else None,
        )

    def _add(self, result: PartialResult) -> bool:
        """Add the next result; return True to end the run early.

        Raises:
            UsageError: images that have no channels in common.
        """
        if self.options.on_image is not None:
            for record in result.records:
                self.options.on_image(record)
        if self.gallery is not None:
            self.gallery.add(result.seen)
        self.total.add(result.tally)
        self.bytes += result.bytes
        self.kinds = {**result.kinds, **self.kinds}
        if len(self.kinds) > 1:
            check_shared_channels(self.kinds, self.settings, bands=self.total.composition["bands"] > 0)
        if self.stopping is None:
            return False
        self.stopping.add(result.rows)
        channels = max((key[0] for key in self.total.buckets), default=1)
        return self.stopping.should_stop(self.failures.inputs, self.total.images, channels)

    def _summarize(self) -> Summary:
        """Compute the summary of the counts.

        Raises:
            NoInputError: no usable image.
            RemoteError: no image, and a server that did not answer.
        """
        failures, total = self.failures, self.total
        if set(total.groups) == {containers.NO_MATCH}:
            log.warning("--group-by %r matched no image", self.options.group_by)
        spent = time.perf_counter() - self.started
        inputs = failures.inputs
        log.info("%d inputs in %.2f s: %.0f/s, %.1f MB/s", inputs, spent, inputs / spent, self.bytes / spent / 1e6)
        if failures.first_remote is not None and not total.buckets:
            raise RemoteError(f"nothing could be read: {failures.first_remote.message}")
        try:
            summary = Summary.of(total, self.settings, provenance())
        except NoInputError as error:
            first = failures.first_unused
            reason = f": {first.key}: {first.message}" if first is not None else ""
            raise NoInputError(f"{error}{reason}") from None
        if self.sample is not None and self.stopping is not None:
            self.stopping.report(summary, total.images + total.failed.total() - self.sample.refused)
        if self.gallery is not None and self.options.on_gallery is not None:
            self.options.on_gallery(self.gallery.gallery(summary, self.worker.reading))
        return summary


def _gallery_collector() -> "GalleryCollector":
    from normcli.runs.gallery import GalleryCollector  # 25 ms that only a report needs

    return GalleryCollector()


def expected(sources: Iterable[str]) -> int | None:
    """Return the number of inputs of folders, for the remaining time; None if that requires opening a container."""
    sizes = [folder.size(source) for source in sources]
    return None if not sizes or None in sizes else sum(n for n in sizes if n is not None)


def provenance() -> dict[str, Any]:
    """Return the versions of the libraries that results depend on."""
    return {"normcli": __version__, **images.decoders()}


__all__ = ["Failure", "PartialResult", "WorkerOptions", "count_batch", "expected", "stats"]
