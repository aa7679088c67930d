"""apply: formats.read ─ Items ─► engine ─► load ► images.decode ► scheme.affine ► kernel ► formats.write."""

import logging
import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from normcli import engine as engines
from normcli import images, storage
from normcli.errors import InputError, NoInputError, NormcliError, UsageError
from normcli.formats import Listing, Skip
from normcli.formats import stack as stacks
from normcli.formats.stack import Stack
from normcli.images import Reading
from normcli.images.orientation import upright
from normcli.pipeline import constants as numbers
from normcli.pipeline import counting, manifest, mapping, naming, outputs
from normcli.pipeline.counting import Failure, provenance
from normcli.pipeline.manifest import Journal, Record, named, text_of
from normcli.pipeline.mapping import Buffer, Mapped, Transform
from normcli.pipeline.naming import Plan, Planned
from normcli.pipeline.settings import limit_of
from normcli.schemes import OF_DATASET
from normcli.summary import Summary
from normcli.tally import DIGEST, digest

_BATCH_SECONDS = 0.05  # long enough that handing a batch over costs nothing, short enough to stop soon
_LARGEST_BATCH = 64
_WRITERS = 2  # threads per worker beyond the first: while some wait for the disk, others decode
_SYNC_SECONDS = 1.0
_mine = threading.local()
log = logging.getLogger("normcli.apply")


@dataclass(frozen=True, kw_only=True)
class Work:
    """How one batch is mapped and written: the same in every worker, picklable where it must be.

    Attributes:
        transform: what is done to the pixels.
        reading: how images are read.
        orientation: "apply" turns images upright, "ignore" leaves them as stored.
        to: kind of output.
        out: output folder.
        folder: for files that are being written.
        stack: where rows go, or None.
        writing: False maps only, for the dry run.
        gate: lets only so many threads decode at a time; the others write.
        stop: set when the run is broken off.
    """

    transform: Transform
    reading: Reading
    orientation: str
    to: str
    out: str
    folder: str
    stack: Stack | None = None
    writing: bool = True
    gate: Any = None
    stop: threading.Event | None = None


class Task(NamedTuple):
    """One input on its way: where its result goes, and what is known of it already."""

    planned: Planned | Skip
    row: int = -1
    known: Record | None = None


@dataclass
class Done:
    """What a batch gave: a record for every input that was tried."""

    records: list[Record]
    failures: list[Failure]
    skipped: Counter[str]
    inputs: int = 0
    bytes: int = 0
    seconds: float = 0.0
    reused: int = 0


def map_batch(work: Work, batch: list[Task]) -> Done:
    """Load, decode, map and write one batch, in a worker; an input that fails is recorded and left out."""
    started = time.perf_counter()
    done = Done([], [], Counter(), len(batch))
    for task in batch:
        if work.stop is not None and work.stop.is_set():
            break
        if isinstance(task.planned, Skip):
            done.skipped[task.planned.reason] += 1
            done.failures.append(Failure(task.planned.key, "skip", task.planned.reason, task.planned.message))
        elif task.known is not None:
            done.records.append(task.known)
            done.reused += not task.known.get("found")
        else:
            _map_one(work, task, task.planned, done)
    done.seconds = time.perf_counter() - started
    return done


def _map_one(work: Work, task: Task, planned: Planned, done: Done) -> None:
    item, name = planned
    names = {**named("name", name), **named("source", item.key)}
    record: Record = dict(names)
    if item.label is not None:
        record |= named("label", item.label)
    stage = "load"
    try:
        with ExitStack() as decoding:
            decoding.enter_context(work.gate or nullcontext())
            data = item.load()
            done.bytes += len(data)
            stage = "decode"
            image = images.decode(data, work.reading)
            stage = "map"
            pixels = image.pixels
            record["shape"] = list(pixels.shape)
            record["dtype"] = pixels.dtype.name
            if work.orientation == "apply" and image.orientation != 1:
                pixels = upright(pixels, image.orientation)
                record["orientation"] = image.orientation
            if not hasattr(_mine, "buffer"):
                _mine.buffer = Buffer()
            mapped = work.transform.map(pixels, _mine.buffer)
            _describe(record, work.transform, pixels, mapped)
            parts: list[Any] = (
                [mapped.array] if work.stack is not None else outputs.encode(work.to, mapped, work.reading.alpha)
            )
            record["digest"] = f"{digest(data if isinstance(data, bytes) else data.tobytes()):032x}"
            record["bytes"] = sum(memoryview(part).nbytes for part in parts)
            if record["bytes"] <= Buffer.LARGEST_KEPT:
                decoding.close()  # others decode while this one waits for the disk; not with many huge arrays
            if work.stack is not None:
                _check_shape(work.stack, mapped, item.key)
                record["row"] = task.row
                if work.writing:
                    work.stack.write_row(task.row, mapped.array)
            elif work.writing:
                path = os.path.join(work.out, name) + outputs.KINDS[work.to].suffix  # noqa: PTH118
                storage.place(f"{work.folder}/file-{os.getpid()}-{threading.get_native_id()}", path, parts)
    except InputError as error:
        done.records.append({**names, "error": error.reason, "message": error.message})
        done.failures.append(Failure(item.key, stage, error.reason, error.message))
        return
    done.records.append(record)


def _describe(record: Record, transform: Transform, pixels: Any, mapped: Mapped) -> None:
    """Note what the inverse needs."""
    record["map"] = {
        "channels": list(mapped.channels),
        "source": list(mapped.source),
        "scale": list(mapped.affine.scale),
        "shift": list(mapped.affine.shift),
    }
    if mapped.restore is not None:
        record["map"]["restore"] = {"scale": mapped.restore.scale[0], "shift": mapped.restore.shift[0]}
    record["exact"] = mapped.exact
    if mapped.clipped:
        record["clipped"] = mapped.clipped
    if pixels.dtype.kind == "f" and -5 <= float(pixels.min()) < 0 < float(pixels.max()) <= 5:
        record["looks_normalized"] = True


def _check_shape(stack: Stack, mapped: Mapped, key: str) -> None:
    if mapped.array.shape != stack.shape:
        raise UsageError(
            f"{key} is {'x'.join(map(str, mapped.array.shape))}, and the stack holds "
            f"{'x'.join(map(str, stack.shape))} of one shape: --resize N --center-crop N, --color rgb|gray, or --to npy"
        )


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
    dtype: str | None = None,
    layout: str | None = None,
    order: str | None = None,
    names: str = "full",
    orientation: str = "apply",
    files: Iterable[str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    follow_symlinks: bool = False,
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
    workers: int = 0,
    on_error: str = "skip",
    max_errors: str | None = None,
    on_failure: Callable[[Failure], None] | None = None,
    on_progress: Callable[[Any], None] | None = None,
    on_statistics: Callable[[Summary], None] | None = None,
) -> Record:
    """Map every image of the sources and write the results into a folder.

    Args:
        sources: folders and files.
        out: the output folder.
        scheme: name, or name:settings.
        stats: statistics file or `Summary`; where contrast is given no numbers, statistics are computed first.
        mean: per channel, range 0-1; with `std`.
        std: per channel, range 0-1; with `mean`.
        preset: name of published constants.
        convention: which of the statistics' conventions.
        zero_std: what a constant channel does: "error", "one" or "eps:X".
        clip: bounds for the result; clipped values are counted.
        to: "npy", "npz", "stack", "safetensors", "png", "png16" or "tiff".
        dtype: "float32", "float16", "float64", or "uint8" for quantized.
        layout: "chw" or "hwc".
        order: "rgb" or "bgr".
        names: "full" keeps the suffix of the input, "stem" drops it.
        orientation: "apply" turns images as their EXIF says, "ignore" leaves them as stored.
        files: further paths; their folders are kept.
        include: glob patterns that decide instead of the usual suffixes.
        exclude: glob patterns to leave out.
        follow_symlinks: walk into linked folders, each once.
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
        engine: "auto" (threads), "serial", "threads" or "processes"; none changes a bit.
        workers: how many; 0 is one per usable processor.
        on_error: "skip", or "fail" at the first input that fails.
        max_errors: "N" or "N%": give up when more inputs fail.
        on_failure: called with every input not used, in order.
        on_progress: called after every batch.
        on_statistics: called with the statistics, where they were computed first.

    Returns:
        The manifest, without the files' records; "reused" counts images that earlier runs wrote.

    Raises:
        UsageError: settings that cannot be, names that collide, statistics that do not fit.
        NoInputError: no usable image.
        OutputError: something cannot be written; no file stands incomplete under its name.
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
    counting_engine = engine
    if engine == "auto":  # waiting for the disk releases the interpreter's lock: threads lose nothing
        engine = "threads"
    if orientation not in ("apply", "ignore"):
        raise UsageError(f"orientation {orientation!r}: choose from apply, ignore")
    if resume + force + skip_existing > 1:
        raise UsageError("resume, force and skip-existing exclude each other")
    dtype, layout, order = outputs.settle(to, dtype, layout, order)
    quantized = dtype == "uint16"
    transform = mapping.plan(
        scheme,
        zero_std=zero_std,
        clip=clip,
        dtype="uint8" if quantized else dtype,
        layout=layout,
        order=order,
        color=color,
        range=range,
        nan=nan,
    )
    transform = replace(transform, dtype=dtype)
    listing = Listing(
        include=tuple(include),
        exclude=tuple(exclude),
        follow_symlinks=follow_symlinks,
        max_file_bytes=max_file_bytes,
    )
    limit = limit_of(max_errors)
    if on_error not in ("skip", "fail"):
        raise UsageError(f"on-error {on_error!r}: choose from skip, fail")
    given = [os.fsdecode(source) for source in sources]
    named = None if files is None else list(files)
    folder = os.fsdecode(out)
    if not dry_run:
        naming.refuse_overlap(folder, given)
        _refuse_occupied(folder, resume or force or skip_existing)
    listed = naming.plan(given, named, listing, names)
    count = naming.survey(listed, out=None if dry_run else folder)
    constants = mapping.choose(
        transform, stats=stats, mean=mean, std=std, preset=preset, convention=convention, reading=reading
    )
    computed: Summary | None = None
    if constants is None and mapping.needs_statistics(transform):
        computed = _kept_statistics(folder, resume or skip_existing)
        if computed is not None:
            numbers.check_contract(computed, {**asdict(reading), "range": range}, f"{folder}/{manifest.STATISTICS}")
        computed = computed or counting.stats(
            *given,
            files=named,
            include=include,
            exclude=exclude,
            follow_symlinks=follow_symlinks,
            range=range,
            nan=nan,
            engine=counting_engine,
            workers=workers,
            on_progress=on_progress,
            **asdict(reading),
        )
        constants = numbers.of_summary(computed, convention, origin="computed", percents=mapping.percents_of(transform))
        if on_statistics is not None:
            on_statistics(computed)
    transform = replace(transform, constants=constants)
    _refuse_constant(transform)
    settings = {
        "scheme": transform.scheme,
        **dict(transform.settings),
        **{key: getattr(transform, key) for key in ("zero_std", "dtype", "layout", "order", "range", "nan")},
        "clip": None if clip is None else list(clip),
        "to": to,
        "names": names,
        "orientation": orientation,
        **{key: getattr(reading, key) for key in ("color", "alpha", "cmyk", "integrity", "resize", "center_crop")},
    }
    head: Record = {
        "schema": manifest.SCHEMA,
        "settings": settings,
        "constants": None if constants is None else constants.record(),
    }
    run = _Run(limit, on_error, on_failure, on_progress)
    work = Work(
        transform=transform,
        reading=reading,
        orientation=orientation,
        to=to,
        out=folder,
        folder=os.path.join(folder, naming.WORK),  # noqa: PTH118
        writing=not dry_run,
        stop=threading.Event() if engine == "threads" else None,
    )
    work = _gated(work, engine, workers)
    if dry_run:
        if to == "stack":
            work = _with_stack(work, listed, count, None)
        for done in _run_batches(work, _tasks(listed, None, work, False), engine, workers):
            run.take(done)
        return run.head(head, count, work)
    log.info("%d inputs to map by %s, %s", count, scheme, "as they are" if constants is None else constants.origin)
    fresh = manifest.occupied(folder) is None
    journal = Journal(folder, head)
    journal.open(resume=resume or skip_existing)
    try:
        if computed is not None:
            computed.save(os.path.join(folder, manifest.STATISTICS))  # noqa: PTH118
        if to == "stack":
            work = _with_stack(work, listed, count, journal)
        for done in _run_batches(work, _tasks(listed, journal, work, skip_existing), engine, workers):
            run.take(done)
            if work.stack is not None:
                run.sync_sometimes(work.stack)
            journal.add(done.records)
        complete = run.head(head, count, work)
        _finish(work, journal, complete, run)
    except BaseException as error:
        if work.stop is not None:
            work.stop.set()
        nothing = not run.images or (to == "stack" and isinstance(error, UsageError))
        untouched = fresh and nothing and isinstance(error, NormcliError)
        if untouched and computed is not None:
            with suppress(OSError):
                os.unlink(os.path.join(folder, manifest.STATISTICS))  # noqa: PTH108, PTH118
        journal.close(forget=untouched)
        raise
    return {**complete, "reused": run.reused}


def _refuse_occupied(folder: str, allowed: bool) -> None:
    found = manifest.occupied(folder)
    if found is None or allowed:
        return
    if found == "an interrupted run":
        raise UsageError(f"{folder} holds an interrupted run: --resume completes it, --force starts anew")
    raise UsageError(
        f"{folder} is not empty ({found}): --resume or --skip-existing write what is missing, --force overwrites"
    )


def _refuse_constant(transform: Transform) -> None:
    """Tell of a zero std before the first image, where it is the dataset's."""
    if transform.constants is None or transform.scheme != "contrast":
        return
    if transform.zero_std == "error":
        flat = [c for c, s in zip(transform.constants.channels, transform.constants.std, strict=True) if s == 0]
        if flat:
            raise UsageError(
                f"channel {', '.join(flat)} has std 0 over the whole dataset: "
                "--zero-std one or eps:X maps it all the same"
            )


def _kept_statistics(folder: str, again: bool) -> Summary | None:
    """The statistics that the run which is resumed had computed."""
    path = os.path.join(folder, manifest.STATISTICS)  # noqa: PTH118
    return Summary.load(path) if again and os.path.exists(path) else None  # noqa: PTH110


def _gated(work: Work, engine: str, workers: int) -> Work:
    """Let as many threads decode as there are workers, though more run: the rest wait for the disk."""
    if engine != "threads":
        return work
    return replace(work, gate=threading.Semaphore(workers or engines.usable_cpus()))


def _with_stack(work: Work, listed: Plan, rows: int, journal: Journal | None) -> Work:
    """Find the shape of a stack from its first usable image, and the disk for all of them."""
    transform = work.transform
    for planned in listed():
        if isinstance(planned, Skip):
            continue
        with suppress(InputError):
            image = images.decode(planned.item.load(), work.reading)
            pixels = upright(image.pixels, image.orientation if work.orientation == "apply" else 1)
            mapped = transform.map(pixels)
            break
    else:
        raise NoInputError("no usable image")
    wide = len(mapped.source)
    if wide in (3, 4):  # gray images among coloured ones get their channels
        transform = replace(transform, channels=wide)
    path = f"{work.folder}/{stacks.ARRAY}"
    stack = Stack(path, rows, mapped.array.shape, mapped.array.dtype.name)
    if journal is not None:
        stack.allocate(os.path.join(work.out, stacks.ARRAY))  # noqa: PTH118
    return replace(work, transform=transform, stack=stack)


def _tasks(listed: Plan, journal: Journal | None, work: Work, skip_existing: bool) -> Iterator[Task]:
    """Every input, with what earlier runs know of it."""
    row = -1
    suffix = outputs.KINDS[work.to].suffix
    settings = {"layout": work.transform.layout}
    for planned in listed():
        if isinstance(planned, Skip):
            yield Task(planned)
            continue
        row += 1
        known = None if journal is None else journal.done(planned.name)
        path = os.path.join(work.out, planned.name) + suffix  # noqa: PTH118
        if known is not None and work.stack is not None:
            same = known["row"] == row and manifest.written_shape(known, settings) == work.stack.shape
            known = known if same else None
        elif known is not None and not _stands(path, known, planned.item.key):
            known = None
        elif known is None and skip_existing and work.stack is None and os.path.exists(path):  # noqa: PTH110
            known = {**named("name", planned.name), **named("source", planned.item.key), "found": True}
        yield Task(planned, row, known)


def _stands(path: str, record: Record, source: str) -> bool:
    """Whether an output is there, of its size, and its source has not changed since."""
    try:
        written = os.stat(path)  # noqa: PTH116
        if written.st_size != record.get("bytes"):
            return bool(record.get("found"))
        return os.stat(source).st_mtime_ns <= written.st_mtime_ns  # noqa: PTH116
    except FileNotFoundError:
        return os.path.exists(path)  # noqa: PTH110
    except OSError:
        return False


def _run_batches(work: Work, tasks: Iterator[Task], engine: str, workers: int) -> Iterator[Done]:
    """Map in batches that take about as long as each other, whatever the images' size."""
    size = 2

    def batches() -> Iterator[list[Task]]:
        while batch := list(islice(tasks, size)):
            yield batch

    count = workers or engines.usable_cpus()
    if work.gate is not None and workers >= 0:
        count *= 1 + _WRITERS
    with warnings.catch_warnings():  # once for all threads: Pillow warns of damage that is counted anyway
        warnings.simplefilter("ignore")
        for done in engines.run(
            partial(map_batch, work), batches(), engine=engine, workers=workers if workers < 0 else count
        ):
            if done.seconds > 0:
                size = max(1, min(int(done.inputs * _BATCH_SECONDS / done.seconds), 2 * size, _LARGEST_BATCH))
            yield done


class _Run:
    """What a run adds up."""

    def __init__(
        self,
        limit: Callable[[int, int, bool], None] | None,
        on_error: str,
        on_failure: Callable[[Failure], None] | None,
        on_progress: Callable[[Any], None] | None,
    ) -> None:
        self.limit, self.on_error = limit, on_error
        self.on_failure, self.on_progress = on_failure, on_progress
        self.reused = self.images = self.bytes = self.values = self.clipped = self.exact = self.found = 0
        self.digest = 0
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.looks_normalized = 0
        self.folders: set[str] = set()
        self.first_failure: Failure | None = None
        self._synced = time.monotonic()

    def take(self, done: Done) -> None:
        for failure in done.failures:
            if self.on_failure is not None:
                self.on_failure(failure)
            if failure.stage != "skip":
                self.first_failure = self.first_failure or failure
                if self.on_error == "fail":
                    raise NormcliError(f"{failure.key}: {failure.message}")
        self.skipped.update(done.skipped)
        self.reused += done.reused
        for record in done.records:
            self._count(record)
        if self.limit is not None:
            self.limit(self.failed.total(), self.images + self.failed.total() + self.skipped.total(), False)
        if self.on_progress is not None:
            self.on_progress(done)

    def _count(self, record: Record) -> None:
        if "error" in record:
            self.failed[record["error"]] += 1
            return
        self.images += 1
        if record.get("found"):
            self.found += 1
            return
        self.bytes += record["bytes"]
        self.exact += record["exact"]
        self.clipped += record.get("clipped", 0)
        height, width, _ = record["shape"]
        self.values += height * width * len(record["map"]["channels"])
        self.digest = (self.digest + int(record["digest"], 16)) % DIGEST
        self.kinds[f"{len(record['map']['channels'])} x {record['dtype']}"] += 1
        self.looks_normalized += bool(record.get("looks_normalized"))
        self.folders.add(os.path.dirname(text_of(record, "name")))  # noqa: PTH120

    def sync_sometimes(self, stack: Stack) -> None:
        """What the journal says is done must be on the disk: for the rows of a stack, once a second."""
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            stack.sync()
            self._synced = time.monotonic()

    def head(self, head: Record, count: int, work: Work) -> Record:
        """The manifest's head, complete.

        Raises:
            NoInputError: nothing could be used.
            NormcliError: too many failures.
        """
        if self.limit is not None:
            self.limit(self.failed.total(), self.images + self.failed.total() + self.skipped.total(), True)
        if not self.images:
            because = ""
            if self.first_failure is not None:
                more = self.failed.total() - 1
                because = f": {self.first_failure.key}: {self.first_failure.message}"
                because += f" (and {more} more)" if more else ""
            elif self.skipped:
                because = f" ({', '.join(f'{n} {reason}' for reason, n in sorted(self.skipped.items()))})"
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
            "exact": self.exact,
            "found": self.found,
            "looks_normalized": self.looks_normalized,
            "kinds": dict(sorted(self.kinds.items())),
            "digest": f"{self.digest:032x}",
            "provenance": provenance(),
            **({} if work.stack is None else {"stack": [self.images, *work.stack.shape]}),
        }


def _finish(work: Work, journal: Journal, complete: Record, run: _Run) -> None:
    """Put what stands beside the files in its place; the manifest last."""
    records = journal.records()
    if work.stack is not None:
        rows: list[int] = []
        lines = []
        for record in journal.records():
            if "error" not in record:
                lines.append(
                    (len(rows), text_of(record, "name"), text_of(record, "label") if "label" in record else "")
                )
                rows.append(record["row"])
        work.stack.finish(rows, os.path.join(work.out, stacks.ARRAY))  # noqa: PTH118
        index = os.path.join(work.out, stacks.INDEX)  # noqa: PTH118
        storage.place(f"{work.folder}/file-index", index, [stacks.index(lines)])
        place = {row: number for number, row in enumerate(rows)}
        records = (_moved(record, place) for record in records)
    storage.sync_folders({os.path.join(work.out, folder) for folder in run.folders})  # noqa: PTH118
    journal.finish(complete, records, fold=work.transform.scheme in OF_DATASET or work.transform.constants is not None)


def _moved(record: Record, place: dict[int, int]) -> Record:
    return record if "row" not in record else {**record, "row": place[record["row"]]}
