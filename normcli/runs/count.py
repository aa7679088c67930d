"""One batch of images, counted in a worker, and the partial result that it returns."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normcli import images, late_imports, tally
from normcli.errors import InputError, UsageError
from normcli.images.convert import input_error
from normcli.options.shared import DecodeOptions
from normcli.sources import Item, Skipped, Vectors
from normcli.storage import path_fields
from normcli.storage.files import FileBytes
from normcli.storage.files import digest as digest_of
from normcli.summary.summary import white_level
from normcli.tally import ImageMoments, Tally, serialize

if TYPE_CHECKING:
    from normcli.images.tiff_blocks import LargeImage
    from normcli.runs.array_masks import ArrayMask
    from normcli.runs.gallery import SeenImage
    from normcli.runs.masks import PixelMask
    from normcli.runs.plain_arrays import PlainArrays
    from normcli.storage.reader import LargeFile
    from normcli.tally.selection import Division


IntervalRow = tuple[list[float], list[float], list[float], float, float, int]
# reasons of failures that another try cannot mend, as long as bytes and settings are the same
LASTING = frozenset(
    {
        *("truncated", "damaged", "empty", "bomb", "too-large", "too-small", "not-finite", "not-an-image", "bad-row"),
        *("unsupported", "transparent", "nodata", "cmyk", "mode", "no-range", "channels", "overflow", "link", "nan"),
        *("unsafe-name", "trailing-data", "not-an-archive", "not-an-array", "no-image-column", "name-too-long"),
        *("layout", "link-loop", "max-value", "git-lfs"),
    }
)


class Failure(NamedTuple):
    """One input that was not used.

    Attributes:
        key: its path, or container and member.
        stage: "list", "load", "decode" or "count"; "skip" for inputs that are no images.
        reason: one word, as counted.
        message: one line.
    """

    key: str
    stage: str
    reason: str
    message: str

    @property
    def is_lasting(self) -> bool:
        """True where another try would fail alike: of the same bytes, with the same settings."""
        return self.stage == "skip" or self.reason in LASTING

    def record(self) -> dict[str, Any]:
        """Return the object for a line of --failures."""
        return {**path_fields(self.key), "stage": self.stage, "reason": self.reason, "message": self.message}


FileResult = tuple[int, bytes] | Failure | None  # of one item: its channels and packed counts, or why there are none


class PartialResult:
    """The accumulated results of consecutive batches.

    Attributes:
        tally: the exact counts.
        failures: inputs that were not used.
        records: of single images, where asked for.
        rows: of single images, for intervals: weight, E[x], E[x^2] per channel, lowest and highest value, pixels.
        seen: images as a gallery ranks them, where asked for.
        inputs: number of inputs.
        bytes: number of bytes that were read.
        seconds: time of the worker.
        kinds: the first image of each number of channels.
        bands: the first image of each kind of names and scales of bands.
        file_results: of every item, its entry for the file cache; empty without a cache.
    """

    def __init__(self, tally: Tally | None = None, failures: Iterable[Failure] = (), *, inputs: int = 0) -> None:
        self.tally = Tally() if tally is None else tally
        self.failures = list(failures)
        self.records: list[dict[str, Any]] = []
        self.rows: list[IntervalRow] = []
        self.seen: list[SeenImage] = []
        self.inputs = inputs
        self.bytes = 0
        self.seconds = 0.0
        self.kinds: dict[int, str] = {}
        self.bands: dict[str, str] = {}
        self.file_results: list[FileResult] = []

    def note_kind(self, channels: int, bands: str, key: str) -> None:
        """Remember an image if it is the first of its number of channels, or of its names and scales of bands."""
        if channels not in self.kinds:
            self.kinds[channels] = key
        if bands not in self.bands:
            self.bands[bands] = key

    def add(self, other: "PartialResult") -> None:
        """Add the result of the next batch."""
        self.tally.add(other.tally)
        self.failures += other.failures
        self.records += other.records
        self.rows += other.rows
        self.seen += other.seen
        self.inputs += other.inputs
        self.bytes += other.bytes
        self.seconds += other.seconds
        self.kinds = {**other.kinds, **self.kinds}
        self.bands = {**other.bands, **self.bands}
        self.file_results += other.file_results

    def state(self) -> dict[str, Any]:
        """Return everything but the time as JSON values."""
        failures = [(f.key, f.stage, f.reason, f.message) for f in self.failures]
        counts = {"tally": self.tally.state(), "inputs": self.inputs, "bytes": self.bytes}
        return {
            **counts,
            "failures": failures,
            "records": self.records,
            "rows": self.rows,
            "kinds": self.kinds,
            "bands": self.bands,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PartialResult":
        """Rebuild a result from its state."""
        failures = [Failure(*row) for row in state["failures"]]
        result = cls(Tally.from_state(state["tally"]), failures, inputs=state["inputs"])
        result.records = state["records"]
        result.rows = [tuple(row) for row in state["rows"]]
        result.bytes = state["bytes"]
        result.kinds = {int(channels): key for channels, key in state.get("kinds", {}).items()}
        result.bands = state.get("bands", {})
        return result


def row(moments: ImageMoments, unit: int, white: int | None, pixels: int) -> IntervalRow:
    """Return an image's row for the intervals, on the scale where full intensity is 1, with its number of pixels.

    A channel without a valid pixel has weight 0, and 0 for everything else.
    """
    scale = white or 1
    means, stds = ([v if w else 0.0 for v, w in zip(row, moments.weights, strict=True)] for row in moments[1:3])
    seconds = [(std * std + mean * mean) / scale**2 for mean, std in zip(means, stds, strict=True)]
    low = min(v for v in moments.low if not math.isnan(v)) / scale
    high = max(v for v in moments.high if not math.isnan(v)) / scale
    return [weight / unit for weight in moments.weights], [mean / scale for mean in means], seconds, low, high, pixels


def merge(parts: list[PartialResult]) -> PartialResult:
    """Return the sum of consecutive results."""
    total = PartialResult()
    for part in parts:
        total.add(part)
    return total


log = logging.getLogger("normcli.stats")

# inputs of a batch, which takes 20 ms: they are likely to be small; per-image values cost 200 us, however few they are
_LARGE_BATCH = 64


class WorkerOptions(NamedTuple):
    """Options of the worker function: picklable, the same in every worker.

    Attributes:
        per_image, extremes, rows, file_results: results of single images to return in addition to the sum.
        gather: count small arrays together.
        division: of a second pass, the cells of values to divide.
    """

    reading: DecodeOptions
    nan: str = "error"
    max_value: int | None = None
    group_by: str | None = None
    per_image: bool = False
    extremes: bool = False
    rows: bool = False
    mask: "PixelMask | ArrayMask | None" = None
    file_results: bool = False
    division: "Division | None" = None
    gather: bool = True

    @property
    def adds_only(self) -> bool:
        """True where images are added to one tally, and nothing is returned of a single one."""
        by_image = (self.per_image, self.extremes, self.rows, self.file_results, self.group_by)
        return self.mask is None and self.division is None and not any(by_image)

    def tally(self) -> Tally:
        """Return a tally of no image."""
        if self.division is None:
            return Tally()
        from normcli.tally.second_pass import SecondPass

        return SecondPass(self.division)


def count_batch(options: WorkerOptions, batch: list[Item | Skipped]) -> PartialResult:
    """Load, decode and count one batch, in a worker; an input that fails is listed and left out."""
    started = time.perf_counter()
    result = PartialResult(options.tally(), inputs=len(batch))
    group, adds_only = _grouping(options.group_by), options.adds_only
    data: Any
    image: Any
    arrays: PlainArrays | None = None
    for item in _one_by_one(options, result, batch) if adds_only else batch:
        if isinstance(item, Skipped):
            _skip(options, result, item)
            continue
        stage, data, large, plain = "load", None, None, False
        try:
            load = item.load
            data = load.read_or_open() if isinstance(load, FileBytes) else load()
            plain = isinstance(data, bytes)
            if plain:
                result.bytes += len(data)
            else:
                result.bytes += data.nbytes if hasattr(data, "nbytes") else len(data)
                if isinstance(data, Vectors):
                    stage = "count"
                    _count_vectors(result, data, options, None if group is None else group(item))
                    result.inputs += len(data.rows) - 1
                    result.file_results += [None] if options.file_results else []
                    continue
                if type(data) is np.ndarray and not hasattr(load, "skips_empty"):
                    arrays = arrays or _plain_arrays(options, result)
                    if arrays.add(item.key, data):
                        continue
            stage = "decode"
            tiff = not plain or data[:4] in images.SIGNATURES
            if tiff:
                data, large = _open_parts(options, load, data)
            image = _decode(options, load, data) if large is None else large.first
            entry: FileResult = None
            if adds_only and image.is_plain:
                stage = "count"
                result.tally.count_plain(image.pixels, _notes(image), data)
                result.note_kind(image.pixels.shape[2], "", item.key)
            else:
                if image.full_scale is not None:
                    images.check_full_scale(image, options.max_value)
                if tiff and image.format == "TIFF":
                    note_sidecars(load, image, options.reading)
                stage = "count"
                entry = _count_alone(result, item, data, large, image, options, group)
        except UsageError:
            raise  # of options, or of samples that none of them describe
        except Exception as raised:
            entry = _failed(options, result, item, raised, stage, is_loaded=data is not None)
        if not plain or large is not None:
            _close(large, data)
        data = image = None  # not in memory together with the next
        if options.file_results:
            result.file_results.append(entry)
    if arrays is not None:
        arrays.finish(batch)
    if result.inputs >= _LARGE_BATCH:  # here in the worker; those of small batches wait until they are many
        result.tally.compute_per_image()
    result.seconds = time.perf_counter() - started
    return result


def _skip(options: WorkerOptions, result: PartialResult, item: Skipped) -> None:
    """Record an input that is no image."""
    result.tally.skipped[item.reason] += 1
    result.failures.append(Failure(item.key, "skip", item.reason, item.message))
    result.file_results += [None] if options.file_results else []


def _open_parts(options: WorkerOptions, load: Any, data: Any) -> "tuple[Any, LargeImage | None]":
    """Return loaded data, and the image if it is decoded in blocks; else the data is complete, not a file to read."""
    large = None if hasattr(load, "skips_empty") else _open_large(data, options)
    if large is None and hasattr(data, "close"):  # a file that is read in parts: of another format
        data.close()
        data = load()
    return data, large


def _decode(options: WorkerOptions, load: Any, data: Any) -> images.Decoded:
    if hasattr(load, "skips_empty"):
        from normcli.runs.empty import decode_content

        return decode_content(data, options.reading)
    return images.decode(data, options.reading)


def _failed(
    options: WorkerOptions, result: PartialResult, item: Item, raised: Exception, stage: str, is_loaded: bool
) -> FileResult:
    """Record an input that failed; count it again where another thread's failed import was in its way.

    Its bytes are those of `result` already if it is loaded.
    """
    reason = late_imports.reason_of(raised)
    if reason is None and stage != "count":  # some of its counts may have been added
        part = count_batch(options, [item])
        part.inputs -= 1
        part.bytes *= not is_loaded
        entry = part.file_results.pop() if part.file_results else None
        result.add(part)
        return entry
    failure = failure_of(item.key, stage, _input_error(reason or raised, stage, item.key))
    (result.tally.skipped if failure.stage == "skip" else result.tally.failed)[failure.reason] += 1
    result.inputs += inputs_of(item) - 1
    result.failures.append(failure)
    return failure


# Counts the files of one kind in a batch with less than a step of the loop for each, and yields the other items in
# their places, to be counted one by one. Only for options that ask for nothing of a single image.
FileCounter = Callable[[WorkerOptions, PartialResult, list[Item | Skipped]], Iterator[Item | Skipped]]


def _one_by_one(options: WorkerOptions, result: PartialResult, batch: list[Item | Skipped]) -> Iterable[Item | Skipped]:
    """Return the items of a batch that are not counted together."""
    count_files: FileCounter
    try:
        if len(batch) >= _LARGE_BATCH:
            from normcli.runs.small_files import count_small_files as count_files
        else:
            from normcli.runs.photographs import count_photographs as count_files
    except Exception:  # of a disk that is damaged, no memory, or another thread's import failed: every input says so
        return batch
    return count_files(options, result, batch)


def _count_alone(
    result: PartialResult,
    item: Item,
    data: Any,
    large: "LargeImage | None",
    image: images.Decoded,
    options: WorkerOptions,
    group: Callable[[Item], str] | None,
) -> FileResult:
    """Count an image with the options that apply to single ones; return the result of its file, if it has one."""
    shape = image.shape if large is None else (*large.shape, image.shape[2])
    if options.mask is not None:
        options.mask.apply(item.key, image, options.reading)
    # members of containers are kept together, except a file that a table names, which looks like any file
    apart = options.file_results and _is_file(item)
    into = tally.Tally() if apart else result.tally
    _count(result, into, item, data, large or image, shape, options, group)
    result.note_kind(shape[2], " ".join(_band_notes(image)), item.key)
    if not apart:
        return None
    entry = (shape[2], serialize.to_bytes(into))
    result.tally.add(into)
    return entry


def _close(*opened: Any) -> None:
    """Close those that can be closed: files that are read in parts, and images that are decoded in blocks."""
    for one in opened:
        if hasattr(one, "close"):
            one.close()


def failure_of(key: str, stage: str, error: InputError) -> Failure:
    """Return the record of an input that was not used; stage "skip" for one that is left out because it is empty."""
    stage = "skip" if error.reason in ("all-zero", "unlabeled") else stage
    return Failure(key, stage, error.reason, " ".join(error.message.split()))


def _input_error(error: Exception, stage: str, key: str) -> InputError:
    """Return the error of an input for an exception that a stage raised."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, MemoryError | ImportError):
        return input_error(error, stage)
    log.debug("%s", key, exc_info=error)
    return InputError("unexpected", f"{type(error).__name__}: {error}")


def inputs_of(item: Any) -> int:
    """Return the number of inputs of an item: a block of vectors has one for each row."""
    return int(getattr(getattr(item, "load", None), "inputs", 1))


def _plain_arrays(options: WorkerOptions, result: PartialResult) -> "PlainArrays":
    from normcli.runs.plain_arrays import PlainArrays

    return PlainArrays(options, result)


def _count_vectors(result: PartialResult, data: Vectors, options: WorkerOptions, group: str | None) -> None:
    from normcli.runs.vectors import count_vectors

    count_vectors(result, data, options, group)


def _count(
    result: PartialResult,
    into: tally.Tally,
    item: Item,
    data: Any,
    image: "images.Decoded | LargeImage",
    shape: tuple[int, ...],
    options: WorkerOptions,
    group: Callable[[Item], str] | None,
) -> None:
    digest = into.digest
    name = None if group is None else group(item)
    if options.extremes:  # before anything is counted: an import can fail for want of memory
        from normcli.runs.gallery import SeenImage
        from normcli.runs.image_table import ImageRow
    if (image if isinstance(image, images.Decoded) else image.first).scales:
        from normcli.summary.bands import scaled_moments
    if isinstance(image, images.Decoded):
        encoded = data if isinstance(data, bytes) else images.stored_bytes(data)
        samples = image.samples
        moments = into.count(
            samples,
            image.weights,
            image.valid,
            nan=options.nan,
            notes=_notes(image),
            data=encoded,
            group=name,
            moments=options.per_image or options.rows or options.extremes,
        )
    else:
        encoded, large, image = data, image, image.first
        samples = image.pixels
        moments = count_large(into, large, data, options.nan, name)
    if moments is None:
        return
    full = white_level(tally.bucket_dtype(samples), options.max_value)
    if image.scales:
        full, moments = None, scaled_moments(moments, image.scales, options.max_value)
    scale = full or 1
    if options.rows:
        unit = 1 if image.weights is None else int(np.iinfo(image.weights.dtype).max)
        result.rows.append(row(moments, unit, full, shape[0] * shape[1]))
    if options.extremes:
        scaled = [v / scale for v in moments.mean], [v / scale for v in moments.std]
        size = (
            image.stored_size if image.orientation < 5 else image.stored_size[::-1]
        )  # 5 to 8 are turned by 90 degrees
        own = (into.digest - digest) % tally.DIGEST_MODULUS
        row_of_image = ImageRow(item.key, item.label, *size, getattr(data, "nbytes", len(encoded)), own)
        result.seen.append(SeenImage(item, max(moments.weights), *scaled, row_of_image))
    if options.per_image:
        height, width, channels = shape  # before pixels were left out
        record = {
            **path_fields(item.key),
            "width": width,
            "height": height,
            "channels": channels,
            "format": image.format,
            "mode": image.mode,
            "depth": image.depth,
            **{
                key: [None if math.isnan(v) else v / scale for v in values]
                for key, values in zip(("mean", "std", "min", "max"), moments[1:], strict=True)
            },
            "notes": image.notes,
        }
        result.records.append(record)


def count_large(
    into: tally.Tally, large: "LargeImage", data: "bytes | LargeFile", nan: str, group: str | None
) -> ImageMoments | None:
    """Add an image that is decoded in blocks to a tally; return its moments."""
    from normcli.images.tiff_blocks import blocks

    parts = ((block.pixels, block.weights, block.valid) for block in blocks(large))
    own = into.empty()
    moments = own.count_blocks(parts, nan=nan, notes=lambda: _notes(large.first), group=group)
    own.digest = digest_of(data) if isinstance(data, bytes) else data.digest()
    into.add(own)  # only once it is known that the file did not change
    return moments


def note_sidecars(load: Any, image: images.Decoded, reading: DecodeOptions) -> None:
    """Add notes to a TIFF for GDAL files next to it that describe its pixels; see `sidecars`."""
    from normcli.runs import sidecars  # which only rasters need

    sidecars.note_sidecars(load, image, reading)


def _notes(image: images.Decoded) -> tuple[str, ...]:
    kinds = kind_notes(image.format, image.mode, image.depth)
    if not image.notes and (image.is_plain or not (image.names or image.scales)):
        return kinds
    return (*kinds, *image.notes, *_band_notes(image))


@cache
def kind_notes(format: str, mode: str, depth: int) -> tuple[str, ...]:
    """Return the notes of the composition that every image has."""
    return f"format:{format}", f"mode:{mode}", f"depth:{depth}"


def _band_notes(image: images.Decoded) -> list[str]:
    if not (image.names or image.scales):
        return []
    from normcli.images.bands import band_notes

    return band_notes(image)


def _is_file(item: Item) -> bool:
    """Return True for a file that a folder or a table names, which may be an array too."""
    load = getattr(item.load, "loader", item.load)
    return isinstance(getattr(load, "load", load), FileBytes)


def _open_large(data: Any, options: WorkerOptions) -> "LargeImage | None":
    """Open a TIFF that is decoded in blocks; None for all others, and if a mask file is needed."""
    if options.mask is not None or isinstance(data, np.ndarray):
        return None
    if (data[:4] if isinstance(data, bytes) else data.start(4)) not in images.SIGNATURES:
        return None
    from normcli.images.tiff_blocks import open_large

    return open_large(data, options.reading)


NO_LABEL = "."  # the group of images that have no class


def _grouping(by: str | None) -> Callable[[Item], str] | None:
    if by is None:
        return None
    if by in ("folder", "label"):
        return lambda item: item.label or NO_LABEL
    return lambda item: item.label or ""  # the listing made it of the regex: see sources.PatternUse
