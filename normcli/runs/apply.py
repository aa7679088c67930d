"""apply: formats.read ─ Items ─► engine ─► load ► images.decode ► scheme.affine ► kernel ► formats.write."""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from normcli import storage
from normcli.errors import NormcliError, UsageError
from normcli.images import Reading
from normcli.runs import apply_settings, build_transform, manifest
from normcli.runs import map_constants as numbers
from normcli.runs import names as naming
from normcli.runs import stats as counting
from normcli.runs.apply_checkpoint import ApplyCheckpoint
from normcli.runs.finished_shards import count_finished_shards
from normcli.runs.map_batch import MapJob
from normcli.runs.measure_stack import measure_stack
from normcli.runs.names import InputLister
from normcli.runs.stats import Failure
from normcli.runs.stats_settings import limit_of
from normcli.runs.tasks import gated, run_batches, tasks
from normcli.runs.totals import Totals
from normcli.schemes import OF_DATASET
from normcli.sinks import OUTPUT_KINDS, open_sink, open_writer
from normcli.sinks.shards import ShardSize, class_numbers
from normcli.sinks.sink import Record
from normcli.sinks.stack import ARRAY, Stack
from normcli.sinks.tar import sample_key
from normcli.sources import Listing
from normcli.summary import Summary

log = logging.getLogger("normcli.apply")


def apply(
    *sources: str | os.PathLike[str],
    out: str | os.PathLike[str],
    scheme: str = "contrast",
    stats: str | os.PathLike[str] | Summary | None = None,
    mean: tuple[float, ...] | list[float] | None = None,
    std: tuple[float, ...] | list[float] | None = None,
    preset: str | None = None,
    convention: str = "pooled_population",
    zero_std: str = "error",
    clip: tuple[float, float] | None = None,
    to: str = "npy",
    shard_size: str | int | None = None,
    dtype: str | None = None,
    layout: str | None = None,
    order: str | None = None,
    names: str = "full",
    orientation: str = "apply",
    files: Iterable[str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    follow_symlinks: bool = False,
    column: str | None = None,
    source_layout: str = "auto",
    color: str = "auto",
    alpha: str = "drop",
    cmyk: str = "rgb",
    integrity: str = "basic",
    max_pixels: int = Reading.max_pixels,
    max_file_bytes: int | None = None,
    resize: int | None = None,
    center_crop: int | None = None,
    range: int | None = None,
    nan: str = "error",
    resume: bool = False,
    force: bool = False,
    skip_existing: bool = False,
    dry_run: bool = False,
    engine: str = "auto",
    scheduler: str | None = None,
    workers: int = 0,
    on_error: str = "skip",
    max_errors: str | None = None,
    on_failure: Callable[[Failure], None] | None = None,
    on_progress: Callable[[Any], None] | None = None,
    on_statistics: Callable[[Summary], None] | None = None,
) -> Record:
    """Map every image of the sources and write the results into a folder.

    Args:
        sources: folders, images, archives, tables and arrays, local or remote.
        out: the output folder.
        scheme: name, or name:settings.
        stats: statistics file or `Summary`; where contrast is given no numbers, statistics are computed first.
        mean: per channel, range 0-1; with `std`.
        std: per channel, range 0-1; with `mean`.
        preset: name of published constants.
        convention: which of the statistics' conventions.
        zero_std: what a constant channel does: "error", "one" or "eps:X".
        clip: bounds for the result; clipped values are counted.
        to: "npy", "npz", "stack", "safetensors", "tar", "parquet", "png", "png16" or "tiff".
        shard_size: of tar and parquet: so many images, or bytes with a unit; "1GB" by default.
        dtype: "float32", "float16", "float64", or "uint8" for quantized.
        layout: "chw" or "hwc".
        order: "rgb" or "bgr".
        names: "full" keeps the suffix of the input, "stem" drops it.
        orientation: "apply" turns images as their EXIF says, "ignore" leaves them as stored.
        files: further paths; their folders are kept.
        include: glob patterns that decide instead of the usual suffixes.
        exclude: glob patterns to leave out.
        follow_symlinks: walk into linked folders, each once.
        column: column of a table, or array of an npz, that holds the images; None finds it.
        source_layout: axes of npy and npz sources: "nhwc", "nchw", …; "auto" where the shape says it.
        color: "auto", "rgb" (gray repeated), "gray" or "native".
        alpha: "drop", "composite:COLOR", "weight" (in the statistics; dropped here) or "keep".
        cmyk: "rgb" or "skip".
        integrity: "basic" or "strict".
        max_pixels: refuse larger images by their header.
        max_file_bytes: refuse larger files before reading them.
        resize: shorter side after a bilinear, antialiased resize.
        center_crop: side of the square cut from the middle.
        range: level of full intensity of 16-bit and float images.
        nan: "error" refuses images with NaN or infinity, "skip" lets them through.
        resume: go on where an interrupted run ended.
        force: write into a folder that holds something.
        skip_existing: write only what is missing.
        dry_run: map, but write nothing.
        engine: "auto" (threads), "serial", "threads", "processes" or "dask"; none changes a bit.
        scheduler: address of a running Dask cluster, for engine "dask"; None starts one here.
        workers: how many; 0 is one per usable processor.
        on_error: "skip", or "fail" at the first input that fails.
        max_errors: "N" or "N%": give up when more inputs fail.
        on_failure: called with every input not used, in order.
        on_progress: called after every batch.
        on_statistics: called with the statistics, where they were computed first.

    Returns:
        The manifest, without the files' records; "reused" counts images that earlier runs wrote, "changed" tells
        of images that are not those which mean and std were computed of.

    Raises:
        UsageError: settings that cannot be, names that collide, statistics that do not fit.
        NoInputError: no usable image.
        OutputError: something cannot be written; no file stands incomplete under its name.
        RemoteError: a server that did not answer; what is done is kept.
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
    apply_settings.check(orientation, on_error, resume + force + skip_existing)
    size = apply_settings.shard_size(to, shard_size, skip_existing)
    mapped: dict[str, Any] = {
        "scheme": scheme,
        "zero_std": zero_std,
        "clip": clip,
        "color": color,
        "range": range,
        "nan": nan,
    }
    transform = apply_settings.transform_for(to, dtype=dtype, layout=layout, order=order, **mapped)
    listing = Listing(
        include=tuple(include),
        exclude=tuple(exclude),
        follow_symlinks=follow_symlinks,
        max_file_bytes=max_file_bytes,
        column=column,
        layout=source_layout,
    )
    limit = limit_of(max_errors)
    given = [os.fsdecode(source) for source in sources]
    named = None if files is None else list(files)
    folder = os.fsdecode(out)
    if engine == "dask":  # the workers run elsewhere, and must see the same folder
        folder = os.path.abspath(folder)  # noqa: PTH100
    if not dry_run:
        naming.check_overlap(folder, given)
        apply_settings.refuse_occupied(folder, resume or force or skip_existing)
    suffix = None if to == "stack" or size is not None else OUTPUT_KINDS[to].suffix
    listed = naming.make_lister(given, named, listing, names, suffix)
    labels: set[str] | None = set() if to == "tar" else None
    count = naming.check_collisions(
        listed,
        out=None if dry_run else folder,
        written=sample_key if to == "tar" else lambda name: name + (suffix or ""),
        files=suffix is not None,
        labels=labels,
    )
    constants = build_transform.resolve_constants(
        transform, stats=stats, mean=mean, std=std, preset=preset, convention=convention, reading=reading
    )
    computed: Summary | None = None
    if constants is None and build_transform.needs_statistics(transform):
        computed = apply_settings.kept_statistics(folder, reading, range) if resume or skip_existing else None
        computed = computed or counting.stats(
            *given,
            files=named,
            include=include,
            exclude=exclude,
            follow_symlinks=follow_symlinks,
            column=column,
            layout=source_layout,
            range=range,
            nan=nan,
            engine=engine,
            scheduler=scheduler,
            workers=workers,
            on_progress=on_progress,
            **asdict(reading),
        )
        percents = build_transform.percents_of(transform)
        constants = numbers.of_summary(computed, convention, origin="computed", percents=percents)
        if on_statistics is not None:
            on_statistics(computed)
    transform = replace(transform, constants=constants)
    apply_settings.refuse_constant(transform)
    if engine == "auto":  # waiting for the disk releases the interpreter's lock: threads lose nothing
        engine = "threads"
    partial = os.path.join(folder, naming.WORK)  # noqa: PTH118
    work = MapJob(
        transform=transform,
        reading=reading,
        orientation=orientation,
        to=to,
        out=folder,
        folder=partial,
        writer=open_writer(to, out=folder, partial=partial, alpha=reading.alpha),
        classes=class_numbers(labels),
        spill=size is not None and engine in ("processes", "dask") and not dry_run,
        writing=not dry_run,
        stop=threading.Event() if engine == "threads" else None,
    )
    run = Run(
        work=gated(work, engine, workers),
        listed=listed,
        count=count,
        head=apply_settings.head(work, names, size),
        computed=computed,
        totals=Totals(limit, on_error, on_failure, on_progress),
        size=size,
        runner={"engine": engine, "workers": workers, "scheduler": scheduler},
    )
    log.info("%d inputs to map by %s, %s", count, scheme, "as they are" if constants is None else constants.origin)
    return run.dry() if dry_run else run.write(again=resume or skip_existing, skip_existing=skip_existing)


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
        runner: engine, workers, scheduler.
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
