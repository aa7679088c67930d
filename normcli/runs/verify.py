"""Verify: read everything that apply wrote, and compute mean and std per channel over all pixels."""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from normcli.errors import InputError, NormcliError
from normcli.options.apply import VerifyOptions
from normcli.runs import manifest
from normcli.runs.count import Failure
from normcli.runs.loop import Loop
from normcli.runs.read_output import BATCHING, check_size, dequantize_affine, interleaved, load, readable
from normcli.sinks import holds_volumes
from normcli.sinks.sink import Array, Record, decode_name


@dataclass
class ChannelStatistics:
    """Statistics of one channel's values, over all images of the same channels."""

    name: str
    values: int
    mean: float
    std: float
    min: float
    max: float


@dataclass
class VerifyResult:
    """The result of a verification.

    Attributes:
        images: files that were read again.
        channels: for every set of channels that was written, their statistics.
        problems: name and message of every file that is missing or not as it was written.
        expected: True where mean and std must be 0 and 1, within `tolerance`: not where invalid samples were kept.
        tolerance: depends on the dtype.
        unit: "image" or "volume", of `images`.
    """

    images: int
    channels: list[ChannelStatistics]
    problems: list[tuple[str, str]]
    expected: bool
    tolerance: float
    unit: str = "image"

    @property
    def is_valid(self) -> bool:
        """Return True if every file is as it was written, and mean and std are as expected."""
        near = all(abs(c.mean) < self.tolerance and abs(c.std - 1) < self.tolerance for c in self.channels)
        return not self.problems and (near or not self.expected)


class ChannelSums(NamedTuple):
    """Values of one channel in one image: their number, mean, sum of squared deviations, least and greatest."""

    values: int
    mean: float
    squares: float
    min: float
    max: float


@dataclass
class VerifiedBatch:
    """The result of a batch; `sums` has the names of the channels and their sums, image by image."""

    images: int
    kept_invalid: bool
    problems: list[tuple[str, str]]
    sums: list[tuple[tuple[str, ...], list[ChannelSums]]]
    failures: list[Failure]
    inputs: int
    bytes: int
    seconds: float


def verify(folder: str, options: VerifyOptions) -> VerifyResult:
    """Read everything that `apply` wrote and compute mean and std; see `normcli.verify`."""
    head, records = manifest.read(folder)
    settings = head["settings"]
    sums: dict[tuple[str, ...], list[list[ChannelSums]]] = {}
    tolerance = 1e-3 if settings["dtype"] == "float16" else 1e-6
    result = VerifyResult(0, [], [], _expects_standardized(head), tolerance)

    def consume(batch: VerifiedBatch) -> None:
        result.images += batch.images
        result.expected &= not batch.kept_invalid
        result.problems += batch.problems
        for names, channels in batch.sums:
            sums.setdefault(names, []).append(channels)

    worker, batching = partial(_verify_batch, folder, settings, head.get("shards", [])), BATCHING
    if holds_volumes(settings):
        from normcli.runs import restore_volumes

        result.unit = "volume"
        worker, batching = partial(restore_volumes.verify_batch, folder, settings), restore_volumes.BATCHING
    Loop(worker=worker, consume=consume, engine=options, batching=batching).run(readable(records))
    listed = result.images + len(result.problems)
    if listed != head.get("images", listed):
        result.problems.append((manifest.NAME, f"counts {head['images']} images, and lists {listed}"))
    result.channels = [
        _add_up(name, [channels[j] for channels in images])
        for names, images in sums.items()
        for j, name in enumerate(names)
    ]
    return result


def _expects_standardized(head: Record) -> bool:
    """Return True if mean and std must be 0 and 1: floats, not clipped, by the statistics of the same images."""
    constants = head["constants"] or {}
    is_volume = holds_volumes(head["settings"])  # whose digest is of blocks, not of planes
    same = constants.get("origin") == "computed" if is_volume else constants.get("digest") == head.get("digest")
    return bool(
        head["settings"]["scheme"] == "contrast"
        and constants.get("pooled", False)
        and same
        and "restore" not in (head.get("maps") or [{}])[0]
        and not head.get("clipped")
    )


def _verify_batch(folder: str, settings: Record, shards: list[Record], records: list[Record]) -> VerifiedBatch:
    started = time.perf_counter()
    problems, sums, size, kept = [], [], 0, False
    for record in records:
        name = decode_name(record, "name")
        try:
            written = load(folder, settings, record)
            check_size(folder, settings, record, shards)
            size += written.nbytes
            channels, has_kept = _sums(written, record, settings)
            sums.append((tuple(record["map"]["channels"]), channels))
            kept |= has_kept
        except InputError as error:
            problems.append((name, error.message))
    seconds = time.perf_counter() - started
    return VerifiedBatch(len(records) - len(problems), kept, problems, sums, [], len(records), size, seconds)


def _sums(written: Array, record: Record, settings: Record) -> tuple[list[ChannelSums], bool]:
    """Return the sums of every channel over its valid samples, and True if invalid ones could not be left out.

    Raises:
        InputError: NaN or infinity, where the run did not let it through, or fewer filled samples than it wrote.
    """
    fill, kept = settings.get("fill") or "keep", False
    dequantize = dequantize_affine(record["map"])
    planes = interleaved(written, settings["output_layout"])
    channels = []
    for j in range(planes.shape[2]):
        plane = planes[:, :, j]
        if (count := record["invalid"][j] if "invalid" in record else 0) > 0:
            from normcli.runs.fill import without_filled

            valid = without_filled(plane, fill, count)
            if valid is None and fill != "keep":
                raise InputError("damaged", f"has fewer samples of the fill value {fill} than were written")
            kept |= valid is None
            plane = plane if valid is None else valid
        y = plane.astype(np.float64)
        if dequantize is not None:
            y = y * dequantize.scale[0] + dequantize.shift[0]
        finite = np.isfinite(y)
        if not finite.all() and settings["nan"] == "error":
            raise InputError("nan", "contains NaN or infinity")
        channels.append(channel_sums(y[finite]))
    return channels, kept


def channel_sums(y: Array) -> ChannelSums:
    """Return the sums of finite values in float64."""
    mean = float(y.mean()) if y.size else 0.0
    squares = float(((y - mean) ** 2).sum())
    least, greatest = float(y.min(initial=math.inf)), float(y.max(initial=-math.inf))
    return ChannelSums(int(y.size), mean, squares, least, greatest)


def _add_up(name: str, images: list[ChannelSums]) -> ChannelStatistics:
    """Return one channel's mean and population std from those of the images; sums rounded once, in any order."""
    count = sum(image.values for image in images)
    if not count:
        raise NormcliError(f"channel {name} holds no finite value")
    mean = math.fsum(image.values * image.mean for image in images) / count
    squares = math.fsum(image.squares + image.values * (image.mean - mean) ** 2 for image in images) / count
    least, greatest = min(image.min for image in images), max(image.max for image in images)
    return ChannelStatistics(name, count, mean, math.sqrt(squares), least, greatest)
