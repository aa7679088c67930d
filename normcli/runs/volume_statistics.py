"""Statistics of one volume for the schemes that map each image by its own: counted block by block, exactly."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from normcli import schemes
from normcli.errors import InputError
from normcli.schemes import Affine
from normcli.tally import Tally

Array = np.ndarray[Any, Any]
Scales = tuple[tuple[float, float], ...]
_LEVELS = 1 << 16


class CountedBlock(NamedTuple):
    """A block of a volume.

    Attributes:
        pixels: (H,W,C) as decoded.
        valid: bool (H,W,C), True where a sample counts; None where all do.
        scales: (scale, offset) of each channel; () where samples are values.
    """

    pixels: Array
    valid: Array | None
    scales: Scales


class _VolumeImage(schemes.Image):
    """A volume as a scheme sees it: columns and moments that were counted, in its own units."""

    counted: list[tuple[Array, Array]]
    means: tuple[list[float], list[float]]

    def columns(self, per: str) -> list[tuple[Array, Array]]:
        """Return sorted values and their counts of each channel, or of all together for each."""
        return self.counted

    def moments(self, per: str) -> tuple[list[float], list[float]]:
        """Return mean and population std."""
        return self.means


def affine_of_volume(
    scheme: str,
    settings: dict[str, Any],
    blocks: Callable[[], Iterable[CountedBlock]],
    white: float | None,
    *,
    is_short: bool,
    of_values: bool,
    nan: str,
) -> Affine:
    """Return the affine by which a scheme maps a volume.

    Args:
        scheme: one that maps each image by its own statistics.
        settings: of the scheme.
        blocks: returns those of the volume; percentiles of floats read them several times.
        white: level of full intensity; None for raw units.
        is_short: samples are integers of at most 16 bits, whose values are all counted.
        of_values: the affine is one of values in units; False is one of stored levels.
        nan: "error" or "skip", of NaN and infinite samples.

    Raises:
        InputError: constant, NaN, or robust of floats.
    """
    if not is_short and scheme == "robust":
        raise InputError("unsupported", "robust requires volumes of integers of at most 16 bits (percentile does not)")
    per_image = settings.get("per") == "image" or scheme == "gcn"
    tally, wide = Tally(), 1
    scales: Scales = ()
    levels: Array | None = None
    for block in blocks():
        scales, wide = block.scales, block.pixels.shape[2]
        pixels, valid = _counting(block, settings, per_image)
        if valid is not None and not valid.any():
            continue
        if pixels.dtype.kind == "f" and nan == "skip" and not np.isfinite(pixels).any():
            continue
        if is_short:
            if levels is None:
                levels = np.zeros((pixels.shape[2], 2 * _LEVELS), np.int64)
            for c in range(pixels.shape[2]):
                plane = pixels[:, :, c] if valid is None else pixels[:, :, c][valid[:, :, c]]
                levels[c] += np.bincount(plane.ravel().astype(np.int64) + _LEVELS, minlength=2 * _LEVELS)
        else:
            tally.count(pixels, None, valid, nan=nan)
    image = _VolumeImage(names=tuple(str(c) for c in range(wide)), white_level=white)
    columns = _columns_of(levels) if is_short and levels is not None else _ends_of(tally)
    if columns and not is_short and scheme == "percentile":
        columns = _percentile_columns(blocks, settings, tally)
    if not columns:  # nothing is valid: any affine maps it
        return Affine((1.0,) * wide, (0.0,) * wide)
    means = [_moments(values, counts) for values, counts in columns] if is_short else _tally_moments(tally)
    factors = scales or ((1.0, 0.0),) * wide
    columns, means = ([*row, *row[:1] * (wide - len(row))] for row in (columns, means))
    image.counted = [schemes.scaled(*column, factor) for column, factor in zip(columns, factors, strict=True)]
    pairs = zip(means, factors, strict=True)
    in_units = [(mean * s + o, std * abs(s)) for (mean, std), (s, o) in pairs]
    image.means = [mean for mean, _ in in_units], [std for _, std in in_units]
    affine: Affine = schemes.SCHEMES[scheme](image, **settings)
    return affine.of_levels(list(factors)) if scales and not of_values else affine


def _counting(block: CountedBlock, settings: dict[str, Any], per_image: bool) -> tuple[Array, Array | None]:
    """Return pixels and valid samples of a block, by the settings of a scheme; of all channels as one if per image."""
    pixels, valid = block.pixels, block.valid
    wide = pixels.shape[2]
    if settings.get("mask") == "nonzero":
        factors = block.scales or ((1.0, 0.0),) * wide
        values = np.stack([pixels[:, :, c] * np.float64(s) + o != 0 for c, (s, o) in enumerate(factors)], axis=2)
        valid = values if valid is None else valid & values
    if per_image and wide > 1:
        pixels = pixels.reshape(pixels.shape[0], -1, 1)
        valid = None if valid is None else valid.reshape(pixels.shape)
    return pixels, valid


def _percentile_columns(
    blocks: Callable[[], Iterable[CountedBlock]], settings: dict[str, Any], tally: Tally
) -> list[tuple[Array, Array]]:
    """Return values and counts with the percentiles of each channel; a channel without samples is that of 0 and 1."""
    from normcli.runs.volume_quantiles import columns_of_percentiles

    (bucket,) = tally.buckets.values()
    counts = [int(bucket.weights[c]) for c in range(bucket.channels)]

    def samples() -> Iterator[tuple[int, Array]]:
        for block in blocks():
            pixels, valid = _counting(block, settings, settings.get("per") == "image")
            for c in range(pixels.shape[2]):
                plane = pixels[:, :, c] if valid is None else pixels[:, :, c][valid[:, :, c]]
                yield c, plane[np.isfinite(plane)]

    percents = (float(settings["lo"]), float(settings["hi"]))
    ends = [*percents, *(100 - p for p in percents)]  # a negative scale turns the order
    columns = columns_of_percentiles(samples, [count or 1 for count in counts], ends)
    anything = np.arange(2.0), np.ones(2, np.int64)
    return [column if count else anything for column, count in zip(columns, counts, strict=True)]


def _columns_of(levels: Array) -> list[tuple[Array, Array]]:
    """Return values and counts of each channel; a channel without samples is that of 0 and 1."""
    columns = [(np.flatnonzero(row) - _LEVELS, row[np.flatnonzero(row)]) for row in levels]
    anything = np.arange(2), np.ones(2, np.int64)
    return [column if len(column[0]) else anything for column in columns]


def _ends_of(tally: Tally) -> list[tuple[Array, Array]]:
    """Return the least and the greatest value of each channel."""
    for bucket in tally.buckets.values():
        ends = [bucket.range(c) or (0.0, 1.0) for c in range(bucket.channels)]
        return [(np.array(pair, np.float64), np.ones(2, np.int64)) for pair in ends]
    return []


def _moments(values: Array, counts: Array) -> tuple[float, float]:
    pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
    n, s = sum(c for _, c in pairs), sum(v * c for v, c in pairs)
    return s / n, math.sqrt(n * sum(v * v * c for v, c in pairs) - s * s) / n


def _tally_moments(tally: Tally) -> list[tuple[float, float]]:
    """Return mean and std of each channel from exact sums."""
    (bucket,) = tally.buckets.values()
    rows = []
    for c in range(bucket.channels):
        n, (s, q) = bucket.weights[c], bucket.sums(c)
        rows.append((float(s / n), math.sqrt(float((q - s * s / n) / n))) if n else (0.5, 0.5))
    return rows
