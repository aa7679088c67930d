"""apply: formats.read ─ Items ─► engine ─► load ► images.decode ► scheme.affine ► kernel ► formats.write."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

from normcli import engine as engines
from normcli import images, storage
from normcli.errors import InputError, NoInputError, NormcliError, UsageError
from normcli.formats import Listing, Skip
from normcli.formats import stack as stacks
from normcli.formats.stack import Stack
from normcli.images import Reading
from normcli.images.orientation import upright
from normcli.pipeline.apply import constants as numbers
from normcli.pipeline.apply import manifest, naming, outputs, transforms
from normcli.pipeline.apply.manifest import Journal, Record, named, text_of
from normcli.pipeline.apply.mapping import Transform
from normcli.pipeline.apply.naming import Plan
from normcli.pipeline.apply.outcome import Outcome
from normcli.pipeline.apply.worker import Done, Task, Work, map_batch
from normcli.pipeline.stats import counting
from normcli.pipeline.stats.counting import Failure
from normcli.pipeline.stats.settings import limit_of
from normcli.schemes import OF_DATASET
from normcli.summary import Summary

_BATCH_SECONDS = 0.05  # long enough that handing a batch over costs nothing, short enough to stop soon
_LARGEST_BATCH = 64
_WRITERS = 2  # threads per worker beyond the first: while some wait for the disk, others decode
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
        The manifest, without the files' records; "reused" counts images that earlier runs wrote, "changed" tells
        of images that are not those which mean and std were computed of.

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
    transform = transforms.plan(
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
    constants = transforms.choose(
        transform, stats=stats, mean=mean, std=std, preset=preset, convention=convention, reading=reading
    )
    computed: Summary | None = None
    if constants is None and transforms.needs_statistics(transform):
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
        constants = numbers.of_summary(
            computed, convention, origin="computed", percents=transforms.percents_of(transform)
        )
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
    run = Outcome(limit, on_error, on_failure, on_progress)
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
    # as many images and others: somebody wrote to the source between the two passes
    same = computed is None or computed.images != run.images or computed.provenance["digest"] == complete["digest"]
    return {**complete, "reused": run.reused, "changed": not same and not run.found}


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


def _finish(work: Work, journal: Journal, complete: Record, run: Outcome) -> None:
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
