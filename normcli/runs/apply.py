"""apply: formats.read ─ Items ─► engine ─► load ► images.decode ► scheme.affine ► kernel ► formats.write."""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from normcli import storage
from normcli.errors import NormcliError, UsageError
from normcli.options.apply import ApplyOptions
from normcli.options.field import Options
from normcli.options.images import DecodeOptions, InputOptions, ValueOptions
from normcli.options.parse import as_tuple
from normcli.options.running import EngineOptions
from normcli.options.stats import StatsOptions
from normcli.runs import apply_settings, build_transform, manifest
from normcli.runs import map_constants as numbers
from normcli.runs import names as naming
from normcli.runs import stats as counting
from normcli.runs.apply_checkpoint import ApplyCheckpoint
from normcli.runs.apply_result import ApplyResult
from normcli.runs.finished_shards import count_finished_shards
from normcli.runs.loop import FailurePolicy
from normcli.runs.map_batch import BatchResult, MapJob
from normcli.runs.measure_stack import measure_stack
from normcli.runs.names import InputLister
from normcli.runs.suffixes import SuffixCollisions
from normcli.runs.survey import Survey, any_stream
from normcli.runs.tasks import map_loop, tasks, with_gate
from normcli.runs.totals import Totals
from normcli.runs.transform import Transform
from normcli.schemes import OF_DATASET
from normcli.sinks import OUTPUT_KINDS, ImagePacker, open_sink, open_writer
from normcli.sinks.shards import ShardSize, class_numbers
from normcli.sinks.sink import Record
from normcli.sinks.stack import ARRAY, Stack
from normcli.sinks.tar import sample_key
from normcli.sources import PatternUse
from normcli.summary import Summary

log = logging.getLogger("normcli.apply")


def apply(sources: Sequence[str], output: str, options: ApplyOptions) -> ApplyResult:
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
    shorter = suffix is not None and OUTPUT_KINDS[options.to].image and not options.no_suffix
    collisions = SuffixCollisions() if shorter else None
    with Survey(
        listed,
        out=None if options.dry_run else output,
        written=sample_key if options.to == "tar" else lambda name: name + (suffix or ""),
        files=suffix is not None,
        with_labels=options.to == "tar",
        keep_names=size is not None and options.resume,
        collisions=collisions,
    ) as survey:
        constants = build_transform.resolve_constants(transform, options, reading)
        computed: Summary | None = None
        if constants is not None or not build_transform.needs_statistics(transform):
            survey.run()
        else:
            computed = _compute_statistics(sources, named, output, options, survey)
            percents = build_transform.percents_of(transform)
            constants = numbers.of_summary(computed, options.convention, origin="computed", percents=percents)
            if options.on_statistics is not None:
                options.on_statistics(computed)
        if collisions is not None:
            collisions.report()
            listed = collisions.shortened(listed)
        transform = replace(transform, constants=constants)
        apply_settings.refuse_constant(transform)
        job = _job(transform, output, options, class_numbers(survey.labels))
        run = Run(
            job=job,
            listed=listed,
            survey=survey,
            head=apply_settings.head(job, options.no_suffix, size),
            computed=computed,
            totals=Totals(FailurePolicy(options)),
            size=size,
            engine=_engine(options),
        )
        origin = "none" if constants is None else constants.origin
        log.info("%d inputs to map by %s, constants: %s", survey.count, options.scheme, origin)
        if options.dry_run:
            return run.dry()
        return run.write(again=options.resume or options.skip_existing, skip_existing=options.skip_existing)


def _engine(options: ApplyOptions) -> EngineOptions:
    engine = options.part(EngineOptions)
    if engine.engine == "auto":  # waiting for the disk releases the interpreter's lock: threads lose nothing
        engine = replace(engine, engine="threads")
    return engine


def _job(transform: Transform, output: str, options: ApplyOptions, classes: dict[str, int] | None) -> MapJob:
    reading, engine = options.part(DecodeOptions), _engine(options)
    partial = os.path.join(output, naming.WORK)  # noqa: PTH118
    writer = open_writer(options.to, out=output, partial=partial, alpha=reading.alpha)
    are_apart = engine.engine.startswith(("processes", "dask"))
    job = MapJob(
        transform=transform,
        reading=reading,
        orientation=options.orientation,
        to=options.to,
        out=output,
        folder=partial,
        writer=writer,
        classes=classes,
        spill=isinstance(writer, ImagePacker) and are_apart and not options.dry_run,
        writing=not options.dry_run,
        stop=threading.Event() if engine.engine == "threads" else None,
    )
    return with_gate(job, engine)


def _compute_statistics(
    sources: Sequence[str], named: list[str] | None, output: str, options: ApplyOptions, survey: Survey
) -> Summary:
    """Survey the sources, and return their statistics, or those that the interrupted run had computed."""
    if options.resume or options.skip_existing:
        summary = apply_settings.kept_statistics(output, options)
        if summary is not None:
            survey.run()
            return summary
    items = None
    if any_stream([*sources, *(named or ())]):
        items = survey.watch()  # one pass for both
    else:
        survey.run()
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
        items,
        PatternUse(InputOptions()),  # the survey reports them
    )


@dataclass
class Run:
    """A run that is planned: every input is named, the numbers are known.

    Attributes:
        job: how a batch is mapped and written.
        listed: returns every input with the name of its output.
        survey: of the inputs.
        head: of the manifest, as far as it is known before.
        computed: statistics that this run has made.
        totals: of what is done.
        size: of shards; None where none are written.
        engine: who maps.
    """

    job: MapJob
    listed: InputLister
    survey: Survey
    head: Record
    computed: Summary | None
    totals: Totals
    size: ShardSize | None
    engine: EngineOptions

    def dry(self) -> ApplyResult:
        """Map everything and write nothing."""
        job = self.job
        if job.to == "stack":
            job = measure_stack(job, self.listed, self.survey.count)
        map_loop(job, self.engine, self.totals.failures, self.totals.add).run(tasks(self.listed, None, job))
        stack = job.writer
        shape = {"stack": [self.totals.images, *stack.shape]} if isinstance(stack, Stack) else {}
        return ApplyResult.of(self.totals.head(self.head, self.survey.count, shape))

    def write(self, *, again: bool, skip_existing: bool) -> ApplyResult:
        """Map and write everything; an error leaves a run that can be resumed, or nothing."""
        folder = self.job.out
        fresh = manifest.find_content(folder) is None
        checkpoint = ApplyCheckpoint(folder, self.head)
        checkpoint.open(resume=again)
        try:
            if self.computed is not None:
                # by way of the folder that vanishes: a kill leaves no temporary file among the outputs
                path = os.path.join(folder, naming.STATISTICS)  # noqa: PTH118
                text = self.computed.to_json().encode()
                storage.atomic_write_buffers(f"{checkpoint.folder}/file-statistics", path, [text])
            complete = self._map(checkpoint, skip_existing)
        except BaseException as error:
            if self.job.stop is not None:
                self.job.stop.set()
            nothing = not self.totals.images or (self.job.to == "stack" and isinstance(error, UsageError))
            untouched = fresh and nothing and isinstance(error, NormcliError)
            if untouched and self.computed is not None:
                with suppress(OSError):
                    os.unlink(os.path.join(folder, naming.STATISTICS))  # noqa: PTH108, PTH118
            checkpoint.close(forget=untouched)
            raise
        # as many images and others: somebody wrote to the source between the two passes
        before, totals = self.computed, self.totals
        same = before is None or before.images != totals.images or before.provenance["digest"] == complete["digest"]
        changed = not same and not totals.found
        return ApplyResult.of({**complete, "reused": totals.reused, "changed": changed})

    def _map(self, checkpoint: ApplyCheckpoint, skip_existing: bool) -> Record:
        job, totals = self.job, self.totals
        if job.to == "stack":
            job = measure_stack(job, self.listed, self.survey.count)
            assert isinstance(job.writer, Stack)
            job.writer.allocate(os.path.join(job.out, ARRAY))  # noqa: PTH118
        sink = open_sink(job.writer, out=job.out, partial=job.folder, dtype=job.transform.dtype, size=self.size)
        shards = count_finished_shards(self.survey.names(), checkpoint, job) if checkpoint.shards else 0
        checkpoint.add(sink.resume(checkpoint.shards, shards))

        def consume(result: BatchResult) -> None:
            totals.add(result)
            checkpoint.add(sink.add(result))
            if isinstance(job.writer, ImagePacker):
                totals.require_servers()

        try:
            loop = map_loop(job, self.engine, totals.failures, consume)
            loop.run(tasks(self.listed, checkpoint, job, skip_existing=skip_existing, shards=shards))
            if sink.needs_every_input:
                totals.require_servers()
            complete = totals.head(self.head, self.survey.count, sink.summary(totals.images))
            records = sink.finish(checkpoint)
        finally:
            sink.abandon()
        fold = job.transform.scheme in OF_DATASET or job.transform.constants is not None
        checkpoint.finish(complete, records, fold=fold)
        return complete
