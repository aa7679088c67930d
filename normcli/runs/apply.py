"""apply: formats.read ─ Items ─► engine ─► load ► images.decode ► scheme.affine ► kernel ► formats.write."""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from normcli import storage
from normcli.errors import NormcliError, UsageError
from normcli.options.apply import ApplyOptions
from normcli.options.field import Options
from normcli.options.images import DecodeOptions, InputOptions, ValueOptions
from normcli.options.parse import as_tuple
from normcli.options.stats import StatsOptions
from normcli.runs import apply_settings, build_transform, manifest
from normcli.runs import map_constants as numbers
from normcli.runs import names as naming
from normcli.runs import stats as counting
from normcli.runs.apply_checkpoint import ApplyCheckpoint
from normcli.runs.finished_shards import count_finished_shards
from normcli.runs.map_batch import MapJob
from normcli.runs.measure_stack import measure_stack
from normcli.runs.names import InputLister
from normcli.runs.tasks import gated, run_batches, tasks
from normcli.runs.totals import Totals
from normcli.schemes import OF_DATASET
from normcli.sinks import OUTPUT_KINDS, open_sink, open_writer
from normcli.sinks.shards import ShardSize, class_numbers
from normcli.sinks.sink import Record
from normcli.sinks.stack import ARRAY, Stack
from normcli.sinks.tar import sample_key
from normcli.summary import Summary

log = logging.getLogger("normcli.apply")


def apply(sources: Sequence[str], output: str, options: ApplyOptions) -> Record:
    """Map every image of the sources and write the results into a folder; see `normcli.apply`."""
    reading = options.part(DecodeOptions)
    listing = options.part(InputOptions)
    size = apply_settings.shard_size(options)
    transform = apply_settings.transform_for(options)
    named = None if options.files is None else list(as_tuple(options.files))
    if options.engine.startswith("dask"):  # the workers run elsewhere, and must see the same folder
        output = os.path.abspath(output)  # noqa: PTH100
    if not options.dry_run:
        naming.check_overlap(output, sources)
        apply_settings.refuse_occupied(output, options.resume or options.force or options.skip_existing)
    suffix = None if options.to == "stack" or size is not None else OUTPUT_KINDS[options.to].suffix
    listed = naming.make_lister(sources, named, listing, options.no_suffix, suffix)
    labels: set[str] | None = set() if options.to == "tar" else None
    count = naming.check_collisions(
        listed,
        out=None if options.dry_run else output,
        written=sample_key if options.to == "tar" else lambda name: name + (suffix or ""),
        files=suffix is not None,
        labels=labels,
    )
    constants = build_transform.resolve_constants(transform, options, reading)
    computed: Summary | None = None
    if constants is None and build_transform.needs_statistics(transform):
        computed = _compute_statistics(sources, named, output, options)
        percents = build_transform.percents_of(transform)
        constants = numbers.of_summary(computed, options.convention, origin="computed", percents=percents)
        if options.on_statistics is not None:
            options.on_statistics(computed)
    transform = replace(transform, constants=constants)
    apply_settings.refuse_constant(transform)
    runner = options.runner
    if runner["engine"] == "auto":  # waiting for the disk releases the interpreter's lock: threads lose nothing
        runner["engine"] = "threads"
    partial = os.path.join(output, naming.WORK)  # noqa: PTH118
    work = MapJob(
        transform=transform,
        reading=reading,
        orientation=options.orientation,
        to=options.to,
        out=output,
        folder=partial,
        writer=open_writer(options.to, out=output, partial=partial, alpha=reading.alpha),
        classes=class_numbers(labels),
        spill=size is not None and runner["engine"].startswith(("processes", "dask")) and not options.dry_run,
        writing=not options.dry_run,
        stop=threading.Event() if runner["engine"] == "threads" else None,
    )
    run = Run(
        work=gated(work, runner["engine"], options.workers),
        listed=listed,
        count=count,
        head=apply_settings.head(work, options.no_suffix, size),
        computed=computed,
        totals=Totals(options, options.on_progress),
        size=size,
        runner=runner,
    )
    origin = "none" if constants is None else constants.origin
    log.info("%d inputs to map by %s, constants: %s", count, options.scheme, origin)
    if options.dry_run:
        return run.dry()
    return run.write(again=options.resume or options.skip_existing, skip_existing=options.skip_existing)


def _compute_statistics(sources: Sequence[str], named: list[str] | None, output: str, options: ApplyOptions) -> Summary:
    """Return the statistics of the sources, or those that the interrupted run had computed."""
    if options.resume or options.skip_existing:
        summary = apply_settings.kept_statistics(output, options)
        if summary is not None:
            return summary
    groups: tuple[type[Options], ...] = (InputOptions, DecodeOptions, ValueOptions)
    shared = {f.name: getattr(options, f.name) for group in groups for f in fields(group)}
    return counting.stats(
        sources,
        StatsOptions(
            files=named,
            engine=options.engine,
            workers=options.workers,
            on_progress=options.on_progress,
            **shared,
        ),
    )


@dataclass
class Run:
    """A run that is planned: every input is named, the numbers are known.

    Attributes:
        work: how a batch is mapped and written.
        listed: gives every input with the name of its output.
        count: how many inputs there are.
        head: of the manifest, as far as it is known before.
        computed: statistics that this run has made.
        outcome: adds up what is done.
        size: of shards; None where none are written.
        runner: engine and workers.
    """

    work: MapJob
    listed: InputLister
    count: int
    head: Record
    computed: Summary | None
    totals: Totals
    size: ShardSize | None
    runner: dict[str, Any]

    def dry(self) -> Record:
        """Map everything and write nothing."""
        work = self.work
        if work.to == "stack":
            work = measure_stack(work, self.listed, self.count)
        for done in run_batches(work, tasks(self.listed, None, work), **self.runner):
            self.totals.add(done)
        stack = work.writer
        shape = {"stack": [self.totals.images, *stack.shape]} if isinstance(stack, Stack) else {}
        return self.totals.head(self.head, self.count, shape)

    def write(self, *, again: bool, skip_existing: bool) -> Record:
        """Map everything and write it; on any error, leave what can be resumed, or nothing."""
        folder = self.work.out
        fresh = manifest.find_content(folder) is None
        journal = ApplyCheckpoint(folder, self.head)
        journal.open(resume=again)
        try:
            if self.computed is not None:
                # by way of the folder that vanishes: a kill leaves no temporary file among the outputs
                path = os.path.join(folder, naming.STATISTICS)  # noqa: PTH118
                storage.atomic_write_buffers(
                    f"{journal.work}/file-statistics", path, [self.computed.to_json().encode()]
                )
            complete = self._map(journal, skip_existing)
        except BaseException as error:
            if self.work.stop is not None:
                self.work.stop.set()
            nothing = not self.totals.images or (self.work.to == "stack" and isinstance(error, UsageError))
            untouched = fresh and nothing and isinstance(error, NormcliError)
            if untouched and self.computed is not None:
                with suppress(OSError):
                    os.unlink(os.path.join(folder, naming.STATISTICS))  # noqa: PTH108, PTH118
            journal.close(forget=untouched)
            raise
        # as many images and others: somebody wrote to the source between the two passes
        before, totals = self.computed, self.totals
        same = before is None or before.images != totals.images or before.provenance["digest"] == complete["digest"]
        return {**complete, "reused": totals.reused, "changed": not same and not totals.found}

    def _map(self, journal: ApplyCheckpoint, skip_existing: bool) -> Record:
        work = self.work
        if work.to == "stack":
            work = measure_stack(work, self.listed, self.count)
            assert isinstance(work.writer, Stack)
            work.writer.allocate(os.path.join(work.out, ARRAY))  # noqa: PTH118
        sink = open_sink(work.writer, out=work.out, partial=work.folder, dtype=work.transform.dtype, size=self.size)
        kept = count_finished_shards(self.listed, journal, work) if work.writer.packs else 0
        journal.add(sink.resume(journal.shards, kept))
        inputs = tasks(self.listed, journal, work, skip_existing=skip_existing, kept=kept)
        try:
            for done in run_batches(work, inputs, **self.runner):
                self.totals.add(done)
                journal.add(sink.add(done))
                if work.writer.packs:
                    self.totals.refuse_remote()
            if sink.needs_every_input:
                self.totals.refuse_remote()
            complete = self.totals.head(self.head, self.count, sink.summary(self.totals.images))
            records = sink.finish(journal)
        finally:
            sink.abandon()
        journal.finish(
            complete, records, fold=work.transform.scheme in OF_DATASET or work.transform.constants is not None
        )
        return complete
