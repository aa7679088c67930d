"""apply: sources ─► run loop (load ─► images.decode ─► scheme ─► kernel ─► sink) ─► manifest."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from normcli import images, storage
from normcli.errors import NoInputError, NormcliError, RemoteError, UsageError
from normcli.options.apply import ApplyOptions
from normcli.options.field import Options, as_tuple, options_of
from normcli.options.shared import DecodeOptions, EngineOptions, InputOptions, ValueOptions
from normcli.options.stats import StatsOptions
from normcli.runs import build_transform
from normcli.runs import names as naming
from normcli.runs import stats as counting
from normcli.runs.apply_checkpoint import ApplyCheckpoint, head_of
from normcli.runs.finished_shards import count_finished_shards, finished_stack
from normcli.runs.loop import FailurePolicy
from normcli.runs.map_batch import REMARKS, BatchResult, MapJob, class_numbers, map_loop, tasks, with_gate
from normcli.runs.masks import PixelMask
from normcli.runs.measure_stack import measure_stack
from normcli.runs.names import InputLister, SuffixCollisions, Survey, any_stream
from normcli.runs.transform import Transform
from normcli.schemes import OF_DATASET
from normcli.sinks import OUTPUT_KINDS, ImagePacker, open_sink, open_writer
from normcli.sinks.shards import ShardSize
from normcli.sinks.sink import Record
from normcli.sinks.stack import Stack
from normcli.sources import PatternUse
from normcli.summary import Summary
from normcli.tally import DIGEST_MODULUS


@dataclass(frozen=True, kw_only=True)
class ApplyResult:
    """The images of an output folder, after a run of `apply`.

    Attributes:
        images: images in the output, those of earlier runs included.
        reused: images that earlier runs wrote.
        complete: True where no input failed.
        failed, skipped: numbers of inputs by reason.
        bytes: bytes of the arrays or image files.
        values: sample values written.
        clipped: values that clipping or quantization changed.
        invalid: invalid samples written, as `fill` says.
        exact: images that `restore` returns bit for bit.
        existing: files that existed before (`skip_existing`) and are not described in the manifest.
        looks_normalized: float images with values of both signs within [-5,5].
        remarks: numbers of images by peculiarity: "nodata" has pixels of the GDAL nodata value, which were mapped
            like all others; "above-range" is float beyond the range of the constants,
            "low-range" 16 bits that never exceed 4095.
        kinds: numbers of images by "CHANNELS x DTYPE" of the source.
        changed: True where images changed after mean and std were computed.
        settings: the options that decide about the outputs.
        constants: mean, std and their origin; None for a scheme without them.
        stack: shape (N,C,H,W) or (N,H,W,C) of the one array; None for other outputs.
        shards: records of the shards; () for other outputs.
        classes: names of the classes that .cls files number; None for other outputs.
        digest: of the encoded images, in any order.
        provenance: versions of their decoders.
        schema: of the manifest.
    """

    images: int
    reused: int = 0
    complete: bool
    failed: Mapping[str, int]
    skipped: Mapping[str, int]
    bytes: int
    values: int
    clipped: int
    invalid: int = 0
    exact: int
    existing: int
    looks_normalized: int
    remarks: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, int]
    changed: bool = False
    settings: Mapping[str, Any]
    constants: Mapping[str, Any] | None
    stack: tuple[int, ...] | None = None
    shards: tuple[Mapping[str, Any], ...] = ()
    classes: list[str] | None = None
    digest: str
    provenance: Mapping[str, Any]
    schema: str
    _record: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "ApplyResult":
        """Return the result that a manifest's head describes."""
        names = {f.name for f in fields(cls)} - {"_record", "existing", "stack", "shards"}
        stack = None if record.get("stack") is None else tuple(record["stack"])
        values = {name: value for name, value in record.items() if name in names}
        return cls(
            **values, stack=stack, shards=tuple(record.get("shards") or ()), existing=record["found"], _record=record
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest's head, as `apply --json` prints it."""
        return dict(self._record)


class Totals:
    """The sums over all results of a run.

    Args:
        failures: of the run.
        sources: of the run.
    """

    def __init__(self, failures: FailurePolicy, sources: Sequence[str] = ()) -> None:
        self.failures, self.sources = failures, sources
        self.reused = self.images = self.bytes = self.values = self.clipped = self.exact = self.found = 0
        self.invalid = 0
        self.digest = 0
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.looks_normalized = 0
        self.remarks: Counter[str] = Counter()

    def add(self, result: BatchResult) -> None:
        """Add the result of a batch."""
        self.skipped.update(result.skipped)
        self.reused += result.reused
        for record in result.records:
            self._count(record)

    def _count(self, record: Record) -> None:
        if "error" in record:
            self.failed[record["error"]] += 1
            return
        self.images += 1
        if record.get("found"):
            self.found += 1
            return
        if "arrays" in record:
            self._count_volume(record)
            return
        self.bytes += record["bytes"]
        self.exact += record["exact"]
        self.clipped += record.get("clipped", 0)
        self.invalid += sum(record.get("invalid", ()))
        height, width, _ = record["shape"]
        self.values += height * width * len(record["map"]["channels"])
        self.digest = (self.digest + int(record["digest"], 16)) % DIGEST_MODULUS
        self.kinds[f"{len(record['map']['channels'])} x {record['dtype']}"] += 1
        self.looks_normalized += bool(record.get("looks_normalized"))
        remarks = record.get("remarks", [])
        self.remarks.update(name for name in REMARKS if isinstance(remarks, list) and name in remarks)

    def _count_volume(self, record: Record) -> None:
        self.bytes += record["bytes"]
        self.exact += record["exact"]
        self.digest = (self.digest + int(record["digest"], 16)) % DIGEST_MODULUS
        for array in record["arrays"]:
            self.values += array["values"]
            self.clipped += array["clipped"]
            self.invalid += array["invalid"]
        first = record["arrays"][0]
        self.kinds[f"{len(first['scale'])} x {np.dtype(first['dtype']).name}"] += 1

    def require_servers(self) -> None:
        """End a run in which every image's place depends on the others, when a server does not answer.

        Raises:
            RemoteError: some inputs are missing for that reason.
        """
        if count := self.failed["remote"]:
            first = self.failures.first_remote
            assert first is not None
            several = f"{count} input{'s' * (count != 1)}"
            raise RemoteError(f"{several} could not be read (`resume` continues): {first.key}: {first.message}")

    def head(self, head: Record, count: int, outputs: Record) -> Record:
        """Return the manifest's head, complete.

        Raises:
            NoInputError: nothing could be used.
            NormcliError: too many failures.
        """
        self.failures.check(at_end=True)
        if not self.images:
            because = ""
            first = self.failures.first
            if first is not None:
                more = self.failed.total() - 1
                because = f": {first.key}: {first.message}"
                because += f" (and {more} more)" if more else ""
            elif self.skipped:
                because = f" ({', '.join(f'{n} {reason}' for reason, n in sorted(self.skipped.items()))})"
                because += self.failures.describe_unused()
            else:
                because = self.failures.describe_unused(self.sources)
            if self.failed["remote"]:
                raise RemoteError(f"nothing could be read{because}")
            raise NoInputError(f"no usable image{because}")
        return {
            **head,
            "complete": not self.failed,
            "images": self.images,
            "failed": dict(sorted(self.failed.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "bytes": self.bytes,
            "values": self.values,
            "clipped": self.clipped,
            **({"invalid": self.invalid} if self.invalid else {}),
            "exact": self.exact,
            "found": self.found,
            "looks_normalized": self.looks_normalized,
            **({"remarks": dict(sorted(self.remarks.items()))} if self.remarks else {}),
            "kinds": dict(sorted(self.kinds.items())),
            "digest": f"{self.digest:032x}",
            "provenance": images.versions(),
            **outputs,
        }


log = logging.getLogger("normcli.apply")


def apply(sources: Sequence[str], output: str, options: ApplyOptions) -> ApplyResult:
    """Map every image of the sources and write the results into a folder; see `normcli.apply`."""
    options = build_transform.with_geometry(options)
    is_stacked = options.to == "stack"
    if OUTPUT_KINDS[options.to].volume:
        from normcli.runs import apply_volumes as volumes
        from normcli.sinks.image_container import require_library

        if options.files is not None:
            options = options.replace(files=list(as_tuple(options.files)))
        if volumes.are_volumes(sources, options.files, options.to):
            result: ApplyResult = volumes.apply_volumes(sources, output, options, _engine(options))
            return result
        require_library(options.to)
        is_stacked = True
    reading = options.part(DecodeOptions)
    listing = options.part(InputOptions)
    size = build_transform.shard_size(options)
    transform = build_transform.transform_for(options)
    named = None if options.files is None else list(as_tuple(options.files))
    if options.engine.startswith("dask"):  # the workers run elsewhere, and must see the same folder
        output = os.path.abspath(output)  # noqa: PTH100
    if not options.dry_run:
        naming.check_overlap(output, sources)
        naming.refuse_occupied(output, options.resume or options.force or options.skip_existing)
    suffix = None if is_stacked or size is not None else OUTPUT_KINDS[options.to].suffix
    listed = naming.make_lister(sources, named, listing, options.no_suffix, suffix)
    shorter = suffix is not None and OUTPUT_KINDS[options.to].image and not options.no_suffix
    collisions = SuffixCollisions() if shorter else None
    with Survey(
        listed,
        out=None if options.dry_run else output,
        written=_naming_rule(options.to, suffix),
        files=suffix is not None,
        with_labels=options.to == "tar",
        keep_names=size is not None and options.resume,
        collisions=collisions,
    ) as survey:
        constants = build_transform.resolve_constants(transform, options, reading)
        computed: Summary | None = None
        if not build_transform.needs_pass(transform, constants):
            survey.run()
        else:
            computed = _compute_statistics(sources, named, output, options, survey)
            constants = build_transform.after_pass(computed, transform, options.convention, constants)
            if options.on_statistics is not None:
                options.on_statistics(computed)
        if collisions is not None:
            collisions.report()
            listed = collisions.shortened(listed)
        transform = replace(transform, constants=constants)
        build_transform.refuse_constant(transform)
        job = _job(transform, output, options, class_numbers(survey.labels))
        if options.mask_dir is not None:
            job = job._replace(mask=PixelMask.of(options.mask_dir, options.labels, sources))
        run = Run(
            job=job,
            listed=listed,
            survey=survey,
            head=head_of(job, options.no_suffix, size),
            computed=computed,
            totals=Totals(FailurePolicy(options), sources),
            size=size,
            engine=_engine(options),
        )
        origin = "none" if constants is None else constants.origin
        log.info("%d inputs to map by %s, constants: %s", survey.count, options.scheme, origin)
        if options.dry_run:
            return run.dry()
        return run.write(again=options.resume or options.skip_existing, skip_existing=options.skip_existing)


def _naming_rule(to: str, suffix: str | None) -> Callable[[str], str]:
    """Return the function from the name of an input to that of its output."""
    if to == "tar":
        from normcli.sinks.tar import sample_key

        return sample_key
    return lambda name: name + (suffix or "")


def _engine(options: ApplyOptions) -> EngineOptions:
    engine = options.part(EngineOptions)
    if engine.engine == "auto":  # waiting for the disk releases the interpreter's lock: threads lose nothing
        engine = engine.replace(engine="threads")
    return engine


def _job(transform: Transform, output: str, options: ApplyOptions, classes: dict[str, int] | None) -> MapJob:
    reading, engine = options.part(DecodeOptions), _engine(options)
    partial = os.path.join(output, naming.WORK)  # noqa: PTH118
    writer = open_writer(options.to, out=output, partial=partial, alpha=reading.alpha, sync=not options.no_sync)
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
        summary = build_transform.kept_statistics(output, options)
        if summary is not None:
            survey.run()
            return summary
    items = None
    if any_stream([*sources, *(named or ())]):
        items = survey.watch()  # one pass for both
    else:
        survey.run()
    groups: tuple[type[Options], ...] = (InputOptions, DecodeOptions, ValueOptions)
    shared = {f.name: getattr(options, f.name) for group in groups for f in options_of(group)}
    shared |= build_transform.counting_options(options.scheme)
    if shared.get("group_by") == "label":
        counting.check_cases([*sources, *(named or ())], weigh=True)
    return counting.stats(
        sources,
        StatsOptions(
            files=named,
            engine=options.engine,
            workers=options.workers,
            on_progress=options.on_progress,
            mask_dir=options.mask_dir,
            labels=options.labels,
            **shared,
        ),
        items,
        PatternUse(InputOptions()),  # the survey reports them
    )


@dataclass(eq=False, repr=False)
class Run:
    """A run that is planned: every input is named, the numbers are known.

    Attributes:
        job: the mapping and writing of a batch.
        listed: returns every input with the name of its output.
        survey: of the inputs.
        head: of the manifest, as far as it is known before.
        computed: statistics that this run has made.
        totals: counts of the images so far.
        size: of shards; None where none are written.
        engine: runs the batches.
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
        if isinstance(job.writer, Stack):
            job = measure_stack(job, self.listed, self.survey.count)
        map_loop(job, self.engine, self.totals.failures, self.totals.add).run(tasks(self.listed, None, job))
        stack = job.writer
        shape = {"stack": [self.totals.images, *stack.shape]} if isinstance(stack, Stack) else {}
        return ApplyResult.of(self.totals.head(self.head, self.survey.count, shape))

    def write(self, *, again: bool, skip_existing: bool) -> ApplyResult:
        """Map and write everything; an error leaves a run that can be resumed, or nothing."""
        folder = self.job.out
        if (
            again
            and isinstance(self.job.writer, Stack)
            and (earlier := finished_stack(self.listed(), self.head, folder)) is not None
        ):
            self.totals.add(earlier)
            self.totals.failures.report(earlier.failures)
            from normcli.runs import manifest

            stack = manifest.read(folder)[0]["stack"]
            complete = self.totals.head(self.head, self.survey.count, {"stack": stack})
            return ApplyResult.of({**complete, "reused": self.totals.reused, "changed": False})
        fresh = naming.find_content(folder) is None
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
            nothing = not self.totals.images or (isinstance(self.job.writer, Stack) and isinstance(error, UsageError))
            untouched = fresh and nothing and isinstance(error, NormcliError) and not self._has_outputs()
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

    def _has_outputs(self) -> bool:
        """Return True if the folder has an output: workers are ahead of the image whose failure ended the run."""
        with suppress(OSError):
            return any(path.name not in (naming.WORK, naming.STATISTICS) for path in Path(self.job.out).iterdir())
        return False

    def _map(self, checkpoint: ApplyCheckpoint, skip_existing: bool) -> Record:
        job, totals = self.job, self.totals
        if isinstance(job.writer, Stack):
            job = measure_stack(job, self.listed, self.survey.count)
            assert isinstance(job.writer, Stack)
            job.writer.allocate(job.out)
        sink = open_sink(
            job.writer, out=job.out, partial=job.folder, dtype=job.transform.dtype, size=self.size, head=self.head
        )
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
