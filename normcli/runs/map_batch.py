"""One batch of apply, in a worker: load ► images.decode ► scheme ► kernel ► sink; and the tasks of all."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from normcli import images, late_imports
from normcli.errors import InputError, NormcliError, OutputError, UsageError
from normcli.images.orientation import upright
from normcli.options.shared import DecodeOptions, EngineOptions
from normcli.platforms import usable_cpus
from normcli.runs.apply_checkpoint import ApplyCheckpoint, is_up_to_date
from normcli.runs.count import NO_LABEL, Failure, failure_of, note_sidecars
from normcli.runs.loop import Batching, FailurePolicy, Loop, Replay
from normcli.runs.masks import PixelMask
from normcli.runs.names import InputLister, NamedItem
from normcli.runs.transform import Buffer, MappedImage, Transform
from normcli.sinks import OUTPUT_KINDS
from normcli.sinks.shards import SpillFile
from normcli.sinks.sink import ImageEncoder, ImagePacker, ImageWriter, PackedImage, Record, name_fields, output_shape
from normcli.sinks.stack import Stack
from normcli.sources import Load, Skipped
from normcli.storage.files import digest

_12_BITS = 4095
REMARKS = ("above-range", "low-range", "nodata", "sidecar")  # what a record may note
_mine = threading.local()
_LARGEST_PACKED = 32 << 20  # bytes of a result that waits in memory to be packed; six of them may wait


class MapJob(NamedTuple):
    """Options of the worker function: the same in every worker, picklable where it must be.

    Attributes:
        transform: mapping of the pixels.
        reading: decoding of the images.
        orientation: "apply" turns images upright, "ignore" leaves them as stored.
        to: kind of output.
        out: output folder.
        folder: for files that are being written.
        writer: encodes an image, and writes it where a worker can.
        classes: number of every class, for a format that names them by numbers; None where they are numbers.
        spill: shards are packed in another process, which takes mapped images from a file.
        writing: False maps only, for the dry run.
        gate: lets only so many threads decode at a time; the others write.
        stop: set when the run is aborted.
        mask: mask files, which mark invalid pixels.
    """

    transform: Transform
    reading: DecodeOptions
    orientation: str
    to: str
    out: str
    folder: str
    writer: ImageEncoder
    classes: dict[str, int] | None = None
    spill: bool = False
    writing: bool = True
    gate: Any = None
    stop: threading.Event | None = None
    mask: PixelMask | None = None

    @property
    def stacked(self) -> bool:
        """Return True if all images become one array of a container that others have for volumes."""
        return isinstance(self.writer, Stack) and self.to != "stack"


class Task(NamedTuple):
    """One input on its way to a worker.

    Attributes:
        key, load, label: of the item.
        name: of its output, without a suffix.
        row: its number among all inputs.
    """

    key: str
    load: Load
    label: str | None
    name: str
    row: int


@dataclass(eq=False, repr=False)
class BatchResult:
    """The result of a batch: a record for every input that was tried.

    For shards also what is to be packed, image by image: as buffers, or as a file of them and their sizes.
    """

    records: list[Record]
    failures: list[Failure]
    skipped: Counter[str]
    inputs: int = 0
    bytes: int = 0
    seconds: float = 0.0
    reused: int = 0
    packed: list[PackedImage] = field(default_factory=list)
    piece: str | None = None
    sizes: list[list[int]] = field(default_factory=list)


def map_batch(job: MapJob, batch: list[Task | Skipped]) -> BatchResult:
    """Load, decode, map and write one batch, in a worker; an input that fails is recorded and left out."""
    started = time.perf_counter()
    result = BatchResult([], [], Counter(), len(batch))
    packer = job.writer if isinstance(job.writer, ImagePacker) else None  # once: a protocol's check takes 5 us
    writer = job.writer if packer is None and isinstance(job.writer, ImageWriter) else None
    spilled, waiting = None, 0
    for task in batch:
        if job.stop is not None and job.stop.is_set():
            break
        if isinstance(task, Skipped):
            result.skipped[task.reason] += 1
            result.failures.append(Failure(task.key, "skip", task.reason, task.message))
        else:
            waiting += _map_one(job, task, result, packer, writer)
        if waiting > _LARGEST_PACKED:
            spilled = spilled or SpillFile(job.folder, piece_name(batch))
            waiting = spilled.add(result.packed)
    if result.packed and (job.spill or spilled is not None):
        spilled = spilled or SpillFile(job.folder, piece_name(batch))
        spilled.add(result.packed)
        result.piece, result.sizes = spilled.close(), spilled.sizes
    result.seconds = time.perf_counter() - started
    return result


def piece_name(batch: list[Task | Skipped]) -> str:
    """Return the name of a batch's file of images to pack, by its first image, which is in no other batch."""
    return f"file-piece-{next(task.row for task in batch if isinstance(task, Task))}"


def _map_one(
    job: MapJob, task: Task, result: BatchResult, packer: ImagePacker | None, writer: ImageWriter | None
) -> int:
    """Map one image, and write or pack it; return the bytes that it leaves for the sink."""
    names = {**name_fields("name", task.name), **name_fields("source", task.key)}
    record: Record = dict(names)
    if task.label is not None:
        record |= name_fields("label", task.label)
    stage, before = "load", result.bytes
    try:
        with ExitStack() as decoding:
            decoding.enter_context(job.gate or nullcontext())
            data = task.load()
            result.bytes += len(data) if isinstance(data, bytes) else data.nbytes
            label = _class(job, task.label)
            stage = "decode"
            image = _decode(job, task, data)
            if image.full_scale is not None:
                images.check_full_scale(image, job.transform.max_value)
            if image.format == "TIFF":
                note_sidecars(task.load, image, job.reading)
            if job.mask is not None:
                job.mask.apply(task.key, image, job.reading)
            stage = "map"
            pixels, valid = image.pixels, image.valid
            record["shape"] = list(pixels.shape)
            record["dtype"] = pixels.dtype.name
            if job.orientation == "apply" and image.orientation != 1:
                pixels = upright(pixels, image.orientation)
                valid = None if valid is None else upright(valid, image.orientation)
                record["orientation"] = image.orientation
            if not hasattr(_mine, "buffer"):
                _mine.buffer = Buffer()
            buffer = None if packer is not None else _mine.buffer
            mapped = job.transform.map(pixels, buffer, image.scales, valid, task.label or NO_LABEL)
            seen = pixels if valid is None or not valid.any() else pixels[valid]  # a plane without a label has none
            _describe(record, job.transform, seen, mapped)
            if remarks := _remarks(job.transform, seen, image.notes):
                record["remarks"] = remarks
            encoded = images.stored_bytes(data)
            record["digest"] = f"{digest(encoded):032x}"
            del data, encoded, image, pixels, valid, seen  # an encoder may need as much
            parts = job.writer.encode(mapped, task.key)
            record["bytes"] = sum(memoryview(part).nbytes for part in parts)
            if max(record["bytes"], mapped.array.nbytes) <= Buffer.LARGEST_KEPT:
                decoding.close()  # others decode while this one waits for the disk; not with many huge arrays
            if job.writing and packer is not None:
                result.packed.append(packer.pack(parts, task.name, label, mapped.array.shape))
            elif job.writing and writer is not None:
                record |= writer.write(parts, task.name, task.row)
            del mapped, parts  # before the next thread decodes
    except (NormcliError, MemoryError, ImportError, AttributeError, NameError) as raised:
        error = late_imports.reason_of(raised)
        if error is None:
            result.bytes = before
            return _map_one(job, task, result, packer, writer)
        if isinstance(error, MemoryError):
            error = InputError("memory", f"not enough memory to {stage} it")
        elif isinstance(error, OutputError | UsageError) or not isinstance(error, NormcliError):
            raise error from error.__cause__
        elif not isinstance(error, InputError):  # a library that the scheme of a row needs
            error = InputError("unsupported", str(error))
        failure = failure_of(task.key, stage, error)
        result.failures.append(failure)
        if failure.stage == "skip":
            result.skipped[failure.reason] += 1
        else:
            result.records.append({**names, "error": error.reason, "message": error.message, "stage": stage})
        return 0
    result.records.append(record)
    return int(record["bytes"])


def _decode(job: MapJob, task: Task, data: Any) -> images.Decoded:
    turn = job.orientation == "apply"
    if not hasattr(task.load, "skips_empty"):
        return images.decode(data, job.reading, turn=turn)
    from normcli.runs.empty import decode_content

    return decode_content(data, job.reading, turn=turn)


def _remarks(transform: Transform, pixels: Any, notes: list[str]) -> list[str]:
    """Return the remarks on one image, of `REMARKS`."""
    remarks = []
    if any(note.startswith("nodata:") for note in notes):
        remarks.append("nodata")
    if any(note.startswith("unread-") for note in notes):
        remarks.append("sidecar")
    constants = transform.constants
    of_unit_range = constants is not None and constants.origin.startswith(("given", "preset"))
    if pixels.dtype.kind == "f" and transform.max_value is None and constants is not None and of_unit_range:
        # constants of 0-1, or within some spreads of it; pixels of 0-255 end hundreds of spreads away
        within = max(abs(m) + 20 * s for m, s in zip(constants.mean, constants.std, strict=True))
        if float(np.nanmax(pixels)) > max(within, 2.0):
            remarks.append("above-range")
    if pixels.dtype == np.uint16 and transform.max_value is None and of_unit_range and int(pixels.max()) <= _12_BITS:
        remarks.append("low-range")
    return remarks


def _class(job: MapJob, label: str | None) -> str | None:
    """Return a class as its number if the output requires numbers."""
    if label is None or job.classes is None:
        return label
    if label not in job.classes:
        raise InputError("changed", f"its class {label!r} is new since the inputs were counted")
    return str(job.classes[label])


def _describe(record: Record, transform: Transform, pixels: Any, mapped: MappedImage) -> None:
    """Add to a record the fields that restoring requires."""
    record["map"] = {
        "channels": list(mapped.channels),
        "source": list(mapped.source),
        "scale": list(mapped.affine.scale),
        "shift": list(mapped.affine.shift),
    }
    if mapped.restore is not None:
        record["map"]["restore"] = {"scale": mapped.restore.scale[0], "shift": mapped.restore.shift[0]}
    if mapped.outside:
        record["map"]["outside"] = list(mapped.outside)
    record["exact"] = mapped.exact
    if mapped.clipped:
        record["clipped"] = mapped.clipped
    if any(mapped.invalid):
        record["invalid"] = list(mapped.invalid)
    if pixels.dtype.kind == "f" and -5 <= float(pixels.min()) < 0 < float(pixels.max()) <= 5:
        record["looks_normalized"] = True


_WRITERS = 2  # threads per worker beyond the first: while some wait for the disk, others decode
_MOST_REPLAYED = 64  # records in one replay
_MOST_PACKED = 4 << 20  # bytes of a batch that is to be packed: three batches a worker may wait for that
# a batch is long enough that handing it over costs nothing, and short enough to stop soon
BATCHING = Batching(seconds=0.05, most_items=64)


def with_gate(job: MapJob, engine: EngineOptions) -> MapJob:
    """Limit the threads that decode to the number of workers, though more run: the rest wait for the disk."""
    if engine.engine != "threads" or isinstance(job.writer, ImagePacker):
        return job
    return job._replace(gate=threading.Semaphore(engine.workers or usable_cpus()))


def map_loop(
    job: MapJob, engine: EngineOptions, failures: FailurePolicy, consume: Callable[[BatchResult], None]
) -> Loop[Task | Skipped, BatchResult]:
    """Return the loop that maps inputs and writes them."""
    packs = isinstance(job.writer, ImagePacker)
    threads = (engine.workers or usable_cpus()) * (1 if job.gate is None else 1 + _WRITERS)
    return Loop(
        worker=partial(map_batch, job),
        consume=consume,
        engine=engine,
        batching=BATCHING._replace(most_result_bytes=_MOST_PACKED) if packs else BATCHING,
        failures=failures,
        result_bytes=lambda result: sum(record.get("bytes", 0) for record in result.records) if packs else 0,
        max_threads=threads,
    )


def tasks(
    listed: InputLister,
    checkpoint: ApplyCheckpoint | None,
    job: MapJob,
    *,
    skip_existing: bool = False,
    shards: int = 0,
) -> Iterator[Task | Skipped | Replay[BatchResult]]:
    """Yield every input as a task, or a replay of earlier runs' records.

    Args:
        listed: the inputs.
        checkpoint: the results of earlier runs; None where they do not matter.
        job: the outputs, and their place.
        skip_existing: outputs of unknown origin count as finished.
        shards: number of shards that are kept.
    """
    row = -1
    finished: list[tuple[str, Record]] = []
    for item in listed():
        known = None
        if isinstance(item, NamedItem):
            row += 1
            known = None if checkpoint is None else _find_record(checkpoint, job, item, row, skip_existing, shards)
        if known is not None and isinstance(item, NamedItem):
            finished.append((item.item.key, known))
        if finished and (known is None or len(finished) == _MOST_REPLAYED):
            yield Replay(partial(_replay, finished))
            finished = []
        if known is None:
            yield item if isinstance(item, Skipped) else Task(*item.item, item.name, row)
    if finished:
        yield Replay(partial(_replay, finished))


def _find_record(
    checkpoint: ApplyCheckpoint, job: MapJob, item: NamedItem, row: int, skip_existing: bool, shards: int
) -> Record | None:
    """Return an earlier run's record of an input if its output is up to date; else None."""
    known = checkpoint.done(item.name)
    if isinstance(job.writer, ImagePacker):
        return known if known is not None and known["shard"] < shards else None
    path = os.path.join(job.out, item.name) + OUTPUT_KINDS[job.to].suffix  # noqa: PTH118
    if known is not None:
        return known if _is_written(known, row, path, item.item.key, job) else None
    if skip_existing and not isinstance(job.writer, Stack) and os.path.exists(path):  # noqa: PTH110
        return {**name_fields("name", item.name), **name_fields("source", item.item.key), "found": True}
    return None


def _is_written(known: Record, row: int, path: str, source: str, job: MapJob) -> bool:
    if isinstance(job.writer, Stack):
        same_shape = output_shape(known, job.transform.output_layout) == job.writer.shape
        return known["row"] == row and same_shape
    if known.get("found"):
        return os.path.exists(path)  # noqa: PTH110
    return is_up_to_date(path, known["bytes"], source)


def _replay(finished: list[tuple[str, Record]]) -> BatchResult:
    """Return the records of earlier runs as a result; failures too, which have a place among a shard's images."""
    result = BatchResult([], [], Counter(), len(finished))
    for key, record in finished:
        result.records.append(record)
        if "error" in record:
            result.failures.append(Failure(key, record["stage"], record["error"], record["message"]))
        else:
            result.reused += not record.get("found")
    return result


def class_numbers(labels: set[str] | None) -> dict[str, int] | None:
    """Return a number for every class, as torchvision's folders count them; None if all are numbers already.

    WebDataset's own decoder takes the content of a .cls for a number.

    >>> class_numbers({"dog", "cat"}), class_numbers({"7", "10"})
    ({'cat': 0, 'dog': 1}, None)
    """
    if labels is None or all(label.isascii() and label.isdecimal() for label in labels):
        return None
    return {label: number for number, label in enumerate(sorted(labels))}
