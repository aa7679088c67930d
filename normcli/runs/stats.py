"""stats: sources ─► run loop (load ─► images.decode ─► tally) ─► + ─► summary, committed.

The commit protocol is the same for the command and for Python. Next to the statistics file is the checkpoint of an
interrupted run, or the file cache of incremental ones. The statistics file is written first, then the file cache is
committed, and the checkpoint is removed last. A kill between two of them leaves files that the next run takes up: the
checkpoint spares it the reading, and a cache that lags behind knows the files that were counted.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli import images
from normcli import sources as containers
from normcli.errors import NoInputError, RemoteError, StatisticsFileError, UsageError
from normcli.options.field import as_tuple, nearest, parse_level, parse_size
from normcli.options.shared import GEOMETRY_WHERE_USED, MAX_PIXELS, DecodeOptions, InputOptions
from normcli.options.stats import StatsOptions
from normcli.runs.count import NO_LABEL, Failure, PartialResult, WorkerOptions, count_batch, merge
from normcli.runs.loop import Batching, FailurePolicy, Loop, Replay
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.sources import Item, Skipped, folder
from normcli.sources.folder import SUFFIXES
from normcli.storage import is_remote
from normcli.storage.atomic import check_output
from normcli.summary import Summary
from normcli.summary.conventions import check_shared_channels
from normcli.summary.settings_diff import describe_differences, differing_settings
from normcli.tally import Tally

if TYPE_CHECKING:
    from normcli.runs.file_cache import FileCache
    from normcli.runs.gallery import GalleryCollector
    from normcli.runs.masks import PixelMask
    from normcli.runs.sample import Sample, SamplePlan, StoppingRule


Steps = Iterator[Item | Skipped | Replay[PartialResult]]


def checkpoint_path(output: str | os.PathLike[str]) -> Path:
    """Return the path of the checkpoint of an output.

    >>> checkpoint_path("a/stats.json").name
    'stats.json.checkpoint'
    """
    return _next_to(output, ".checkpoint")


def cache_path(output: str | os.PathLike[str]) -> Path:
    """Return the path of the file cache of an output.

    >>> cache_path("a/stats.json").name
    'stats.json.cache'
    """
    return _next_to(output, ".cache")


def _next_to(output: str | os.PathLike[str], suffix: str) -> Path:
    path = Path(os.fsdecode(output))
    return path.with_name(path.name + suffix)


class StatsTarget:
    """The files that a run writes; use as a context manager.

    Args:
        options: of the run. With `incremental` the file cache is also the checkpoint, with `resume` or without.

    Raises:
        UsageError: the output exists and is not that of the run which is taken up, or its folder does not exist.
        OutputError: it cannot be written.
    """

    def __init__(self, options: StatsOptions) -> None:
        self._options = options
        self._path: Path | None = None
        self._is_finished = False
        self._checkpoint: StatsCheckpoint | None = None
        self._cache: FileCache | None = None
        if options.output is not None and os.fsdecode(options.output) != "-":
            self._path = Path(os.fsdecode(options.output))
            taken_up = self._is_taken_up(self._path)
            if options.resume and not (taken_up or options.force or options.incremental or options.is_estimate):
                self._is_finished = self._path.is_file()
            check_output(self._path, overwrite=options.force or taken_up or self._is_finished)

    def _is_taken_up(self, path: Path) -> bool:
        """Return True if an existing output belongs to the run that is resumed or updated."""
        if self._options.incremental:
            return cache_path(path).exists()
        return self._options.resume and checkpoint_path(path).exists()

    def __enter__(self) -> "StatsTarget":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._checkpoint, self._cache):
            if opened is not None:
                opened.close()

    def finished(self, settings: Mapping[str, Any]) -> Summary | None:
        """Return the statistics of the finished run of which this one may be a repetition; None if there is none.

        A kill, or a signal, may come when the file is written and its checkpoint removed.

        Args:
            settings: of this run, as the statistics file records them.

        Raises:
            UsageError: the file is of other settings.
        """
        if not self._is_finished or self._path is None:
            return None
        try:
            summary = Summary.load(self._path)
        except StatisticsFileError:
            raise UsageError(f"{self._path}: exists (`force` overwrites it)") from None
        theirs = {**summary.settings, **({} if summary.shards is None else {"shard": summary.shards})}
        if differences := differing_settings(theirs, json.loads(json.dumps(settings))):
            changes = describe_differences(differences, first="was", second="now")
            raise UsageError(f"{self._path}: exists, with other settings: {changes} (`force` overwrites it)")
        from normcli.runs.exact_percentiles import has_percentiles

        if not has_percentiles(summary, self._options):
            raise UsageError(f"{self._path}: exists, with other percentiles (`force` overwrites it)")
        return summary

    def open(self, settings: Mapping[str, Any], listing: InputOptions, mask: "PixelMask | None") -> None:
        """Open the checkpoint or the cache.

        Args:
            settings: everything that the counts depend on.
            listing: selection of inputs from the sources.
            mask: marks pixels that are left out.

        Raises:
            UsageError: it is of a run with other settings.
            StatisticsFileError: the cache is damaged.
            NormcliError: another run is writing it.
        """
        if self._path is None:
            return
        if self._options.incremental:
            try:
                from normcli.runs.file_cache import FileCache
            except ModuleNotFoundError as error:
                if error.name not in ("sqlite3", "_sqlite3"):
                    raise
                raise UsageError(f"`incremental` requires SQLite, which this Python lacks ({error})") from None

            path = cache_path(self._path)
            self._cache = FileCache(path, settings, listing, mask, start_over=self._options.force)
        elif self._options.resume and not self._is_finished:
            self._checkpoint = StatsCheckpoint(checkpoint_path(self._path), settings)

    @property
    def checkpoint(self) -> "StatsCheckpoint | FileCache | None":
        """Return the checkpoint that records every batch; None without one."""
        return self._checkpoint or self._cache

    @property
    def cache(self) -> "FileCache | None":
        """Return the file cache of an incremental run."""
        return self._cache

    def skip_done(
        self,
        items: Iterator[Item | Skipped],
        sources: list[str],
        files: Iterable[str],
        patterns: containers.PatternUse,
    ) -> Steps:
        """Return the items of the sources, with replays for those that earlier runs counted."""
        if self._cache is not None:
            return self._cache.skip_unchanged(containers.each(sources, patterns.watch_files(files)), patterns)
        return items if self._checkpoint is None else self._checkpoint.skip_done(items)

    def commit(self, summary: Summary) -> None:
        """Write the statistics file, then commit the cache, then remove the checkpoint.

        Raises:
            OutputError: one of them cannot be written.
            UsageError: the file is there, of a finished run with other inputs.
        """
        if self._path is None:
            return
        if self._is_finished:
            if not same_counts(Summary.load(self._path), summary):
                raise UsageError(f"{self._path}: exists, and is of other inputs (`force` overwrites it)")
            return
        summary.save(self._path)
        if self._checkpoint is not None and not summary.failures.get("remote"):
            self._checkpoint.remove()  # else the same command reads what is missing, and nothing else
        if self._cache is not None:
            self._cache.commit()


def same_counts(a: Summary, b: Summary) -> bool:
    """Return True if two summaries are equal in everything but the time of the run."""
    for summary in (a, b):
        summary.provenance.pop("stamp", None)
    return a.to_json() == b.to_json()


def check_no_image(path: str | os.PathLike[str], sources: Iterable[str]) -> None:
    """Check that an output overwrites no input: a source itself, or an image in one.

    Raises:
        UsageError: it does.
    """
    place = os.path.realpath(os.fsdecode(path))
    if not os.path.isfile(place):  # noqa: PTH113
        return
    for source in chain.from_iterable(map(containers.expand, sources)):
        if is_remote(source):
            continue
        original = os.path.realpath(source)
        inside = place.startswith(original + os.sep) and Path(place).suffix.lower() in SUFFIXES
        if place == original or inside:
            raise UsageError(f"{os.fsdecode(path)}: is an input of this run; choose another `output`")


def stamp() -> dict[str, Any]:
    """Return time, host and command line of this process."""
    import platform
    import shlex
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "host": platform.node(), "command": shlex.join(["normcli", *sys.argv[1:]])}


def decode_settings(options: DecodeOptions) -> dict[str, Any]:
    """Return the decode options that change the numbers; `max_pixels` only limits the files that are used."""
    settings = options.part(DecodeOptions).as_dict()
    del settings["max_pixels"]
    for name, default in {"nodata": "tag", "bands": None, "scale_offset": "tag"}.items():
        if settings[name] == default:  # older statistics do not record them
            del settings[name]
    # what is not used is not there: files of earlier versions have the same settings
    return {key: value for key, value in settings.items() if value is not None or key not in GEOMETRY_WHERE_USED}


def _plan_of(options: StatsOptions) -> "SamplePlan | None":
    if not options.is_estimate:
        return None
    from normcli.runs.sample import SamplePlan

    return SamplePlan.of(options)


def _mask_of(options: StatsOptions, sources: Sequence[str]) -> "PixelMask | None":
    if options.mask_dir is None:
        return None
    from normcli.runs.masks import PixelMask

    return PixelMask.of(options.mask_dir, options.labels, sources, counting=True)


def check_cases(sources: Sequence[str], *, weigh: bool) -> None:
    """Check that no two volumes have one label, by which they would be one case.

    Args:
        sources: of the run.
        weigh: raise an error, because numbers depend on the cases; else log a warning.

    Raises:
        UsageError: naming two of them.
    """
    from normcli.sources.cases import find_same_case

    if (same := find_same_case(sources)) is not None:
        text = f"{same[0]} and {same[1]} have the same label, and are one case"
        if weigh:
            raise UsageError(f"{text} (`group_by` REGEX of their paths separates them, in statistics)")
        log.warning("%s (`group_by` REGEX of their paths separates them)", text)


def settings_of(options: StatsOptions, plan: "SamplePlan | None", mask: "PixelMask | None") -> dict[str, Any]:
    """Return the settings that change the numbers, as the statistics file records them."""
    settings = {
        **decode_settings(options),
        "max_value": parse_level(options.max_value),
        "nan": options.nan,
        "group_by": options.group_by,
    }
    if (part := options.part_of) is not None:
        settings["shard"] = {"of": part[1], "parts": [part[0]]}
    if plan is not None:
        settings["sample"] = plan.settings()
    if mask is not None:
        settings.update(mask.settings())
    if options.weight != "pixel":
        settings["weight"] = options.weight
    return settings


log = logging.getLogger("normcli.stats")

BATCHING = Batching(seconds=0.02, most_items=512)  # the last batch may end so much after the others; one costs 0.1 ms


def stats(
    sources: Sequence[str],
    options: StatsOptions,
    items: Iterator[Item | Skipped] | None = None,
    patterns: containers.PatternUse | None = None,
    again: Callable[[], Iterator[Item | Skipped]] | None = None,
) -> Summary:
    """Compute the statistics of all images of the sources in one pass; see `normcli.stats`.

    Where `options.output` names a file, the statistics are written there, completely or not at all.

    Args:
        sources: folders, files and containers.
        options: all options.
        items: of the sources, where the caller lists them; None lists them here.
        patterns: those to report if they match nothing; None takes them from the options.
        again: returns the items once more, for `exact_percentiles`; None lists the sources.
    """
    if options.like is not None:
        from normcli.constants.like import resolve

        options = resolve(options)
    if any(map(containers.is_import, sources)):
        from normcli.runs.import_strings import prepare

        sources, options = prepare(sources, options)
    if options.output is not None:
        check_no_image(options.output, sources)
    with StatsTarget(options) as target:
        run = _StatsRun(list(sources), options, target, patterns, again)
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
        again: Callable[[], Iterator[Item | Skipped]] | None = None,
    ) -> None:
        self.sources, self.options, self.target, self.again = sources, options, target, again
        self.files = as_tuple(options.files) if isinstance(options.files, str) else options.files or ()
        self.files = list(self.files) if options.exact_percentiles else self.files  # they are listed again
        self.listing = options.part(InputOptions)
        containers.check_exist(sources)
        self.files = containers.check_distinct(sources, self.listing, self.files)
        if options.group_by == "label":
            check_cases(sources, weigh=options.weight == "case")
        self.patterns = patterns or containers.PatternUse(self.listing, options.group_by)
        self.failures = FailurePolicy(options)
        plan = _plan_of(options)
        self.mask = mask = _mask_of(options, sources)
        self.worker = WorkerOptions(
            reading=options.part(DecodeOptions),
            nan=options.nan,
            group_by=options.group_by,
            max_value=parse_level(options.max_value),
            per_image=options.on_image is not None,
            extremes=options.on_gallery is not None,
            rows=plan is not None,
            file_results=options.incremental,
            mask=mask,
        )
        self.settings = settings_of(options, plan, mask)
        self.sample: Sample | None = None
        self.stopping: StoppingRule | None = None
        if plan is not None:
            from normcli.runs import sample

            self.sample = sample.Sample(plan, self._relisted(), self.worker.reading)
            self.stopping = sample.StoppingRule(self.sample)
        self.gallery = None if options.on_gallery is None else _gallery_collector()
        self.total = Tally()
        self.bytes = 0
        self.kinds: dict[int, str] = {}  # the first image of each number of channels
        self.bands: dict[str, str] = {}  # and of each kind of names and scales of bands
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
        earlier = target.finished(self.settings)
        if earlier is not None and self._is_repetition(earlier):
            self._report_complete(earlier)
            return earlier
        depends = {
            **self.settings,
            "max_pixels": options.max_pixels,
            "max_file_size": parse_size("max_file_size", options.max_file_size),
        }
        depends["per_image"] = self.worker.per_image
        target.open({**depends, **images.versions()}, self.listing, self.mask)
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
        if earlier is not None:
            self._report_complete(summary)
        if options.resume and self.failures.replayed and options.on_resume is not None:
            options.on_resume(self.failures.replayed)
        if target.cache is not None and options.on_update is not None:
            options.on_update(target.cache.changes())
        return summary

    def _is_repetition(self, earlier: Summary) -> bool:
        """Return True if a finished run counted the same bytes: inputs are read, and none is decoded."""
        options = self.options
        lists = (options.on_image, options.on_gallery)
        limits = (options.max_pixels, options.max_file_size) != (MAX_PIXELS, None)
        versions = {key: earlier.provenance.get(key) for key in images.versions()}
        more = earlier.failed or limits or options.group_by or self.mask is not None or any(map(callable, lists))
        if more or versions != images.versions():
            return False
        from normcli.runs.digest_inputs import digest_inputs

        self.files = list(self.files)  # they may be listed again
        total = digest_inputs(self._listed(self.files), options)
        return total == (earlier.images, earlier.skipped, earlier.provenance.get("digest"))

    def _report_complete(self, summary: Summary) -> None:
        if self.options.on_resume is not None:
            self.options.on_resume(summary.images + summary.failed + summary.skipped)

    def _loop(self) -> Loop[Item | Skipped, PartialResult]:
        checkpoint, cache = self.target.checkpoint, self.target.cache
        batching = BATCHING
        if self.sample is not None:
            from normcli.runs.sample import checkpoints

            batching = batching._replace(ends=checkpoints)
        if cache is not None:
            batching = batching._replace(group_of=cache.group_of)
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
        self.bands = {**result.bands, **self.bands}
        if len(self.kinds) > 1:
            check_shared_channels(self.kinds, self.settings, self.total.composition)
        if len(self.bands) > 1:
            from normcli.summary.bands import check_same_bands

            check_same_bands(self.bands, self.settings)
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
            near = nearest(self.options.group_by, ("folder", "label"))
            log.warning("`group_by` '%s' matched no image%s", self.options.group_by, near)
        elif set(total.groups) == {NO_LABEL}:
            log.warning("`group_by` %s: no image has a class, all are in one group", self.options.group_by)
        spent = time.perf_counter() - self.started
        inputs = failures.inputs
        log.info("%d inputs in %.2f s: %.0f/s, %.1f MB/s", inputs, spent, inputs / spent, self.bytes / spent / 1e6)
        if failures.first_remote is not None and not total.buckets:
            raise RemoteError(f"nothing could be read: {failures.first_remote.message}")
        try:
            summary = Summary.of(total, self.settings, images.versions())
        except NoInputError as error:
            part = self.options.part_of
            empty = None if part is None or failures.inputs else f": part {part[0]} of {part[1]} has no input"
            raise NoInputError(f"{error}{empty or failures.describe_unused(self.sources)}") from None
        if self.sample is not None and self.stopping is not None:
            self.stopping.report(summary, total.images + total.failed.total() - self.sample.refused)
        if self.options.exact_percentiles:
            from normcli.runs.exact_percentiles import with_exact_percentiles

            again = self.again or partial(self._listed, self.files)
            summary = with_exact_percentiles(summary, self.options, self.worker, again)
        elif self.options.percentiles is not None:
            summary = summary.with_percentiles(self.options.percentiles, method=self.options.percentile_method)
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


__all__ = ["Failure", "PartialResult", "WorkerOptions", "count_batch", "expected", "stats"]
