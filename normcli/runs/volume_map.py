"""One block of a volume mapped, and back: decode ─► scheme ─► kernel, with the shape and the missing samples kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from normcli import schemes
from normcli.errors import InputError
from normcli.images import convert
from normcli.options.shared import DecodeOptions
from normcli.runs.transform import MappedImage, Transform
from normcli.runs.volume_statistics import CountedBlock, affine_of_volume
from normcli.schemes import Affine
from normcli.sinks.sink import Record
from normcli.sources.nifti import case_of
from normcli.sources.tagged import UNSCALED, holds, tagged
from normcli.sources.volume import Array, StoredVolume, blocks_of, is_missing
from normcli.sources.volume_details import number_of
from normcli.summary.summary import channel_names, white_level


@dataclass(frozen=True, kw_only=True)
class FixedTransform(Transform):
    """The transform of one volume: its affine of stored levels is known.

    Attributes:
        affine: scale and shift per channel.
    """

    affine: Affine

    def _affine(self, *args: Any) -> tuple[Affine, tuple[tuple[float, float], ...], float, float]:
        return self.affine, (), 0.0, 1.0


class MappedBlock(NamedTuple):
    """A block after the map.

    Attributes:
        values: in the shape of the stored block.
        mapped: the image that it was mapped as; None where no sample of it is finite.
        missing: number of samples that stay as they were.
        invalid: number of other invalid samples.
        exact: the inverse returns the stored samples.
    """

    values: Array
    mapped: MappedImage | None
    missing: int
    invalid: int
    exact: bool


def as_image(block: Array, channel: int | None) -> Array:
    """Return a block as (H,W,C)."""
    if channel is None:
        return block.reshape(-1, block.shape[-1], 1)
    last = np.moveaxis(block, channel, -1)
    return last.reshape(-1, last.shape[-2], last.shape[-1])


def as_block(image: Array, shape: tuple[int, ...], channel: int | None) -> Array:
    """Return (H,W,C) in the shape of the block that it was."""
    if channel is None:
        return image.reshape(shape)
    rest = [*shape[:channel], *shape[channel + 1 :]]
    return np.moveaxis(image.reshape(*rest, shape[channel]), -1, channel)


def decode_block(stored: Array, volume: StoredVolume, reading: DecodeOptions) -> convert.Decoded:
    """Return stored samples (H,W,C) as decoded pixels.

    Raises:
        InputError: as `images.decode`.
    """
    try:
        return convert.shape_block(convert.from_array(tagged(stored, volume.tags), reading), reading)
    except InputError:
        raise
    except Exception as error:
        raise convert.input_error(error) from error


def transform_of(transform: Transform, volume: StoredVolume, reading: DecodeOptions) -> Transform:
    """Return the transform of a volume, for which a scheme of each image reads all of it.

    Raises:
        InputError: see `affine_of_volume`.
    """
    if transform.scheme in schemes.OF_DATASET or transform.constants is not None:
        return transform
    settings = {**schemes.settings(transform.scheme), **dict(transform.settings)}
    if schemes.divides(transform.scheme):
        settings["zero_std"] = transform.zero_std
    dtype = np.dtype(volume.dtype)
    scale = _scale_of_levels(volume, reading)
    in_units = reading.scale_offset != "none" and scale != UNSCALED
    is_scaled = in_units and reading.scale_offset == "values"
    is_short = dtype.kind in "iub" and dtype.itemsize <= 2
    kind = "uint8" if dtype.kind == "b" else dtype.name if dtype.name in ("uint8", "uint16") else "float"
    white = transform.max_value if in_units else white_level(kind, transform.max_value)
    scales = (scale,) * volume.channels if is_scaled else ()
    blocks = partial(_counted, volume, reading.replace(scale_offset="tag") if is_scaled else reading, scales)
    affine = affine_of_volume(
        transform.scheme,
        settings,
        blocks,
        None if white is None else float(white),
        is_short=is_short,
        of_values=is_scaled,
        nan=transform.nan,
    )
    values = {name: getattr(transform, name) for name in Transform.__dataclass_fields__}
    return FixedTransform(**values, affine=affine)


def _scale_of_levels(volume: StoredVolume, reading: DecodeOptions) -> tuple[float, float]:
    """Return the scale of decoded levels, which for bools are 0 and 255."""
    scale = volume.tags.scale
    return convert.scale_of_bool(scale, reading) if np.dtype(volume.dtype).kind == "b" else scale


def _counted(
    volume: StoredVolume, reading: DecodeOptions, scales: tuple[tuple[float, float], ...]
) -> Iterator[CountedBlock]:
    for _, block in blocks_of(volume):
        image = decode_block(as_image(block, volume.channel), volume, reading)
        yield CountedBlock(image.pixels, image.valid, scales or image.scales)


def inexact_levels(transform: Transform, volume: StoredVolume, reading: DecodeOptions) -> Array | None:
    """Return True (levels,C) where the map of a level has another inverse; None for samples of more than 16 bits.

    Levels are those of the unsigned type of the same size: a block is looked up in a tenth of the time of its inverse.
    """
    dtype = np.dtype(volume.dtype)
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        return None
    levels = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype.newbyteorder("="))
    shape = [len(levels) if i == len(volume.shape) - 1 else 1 for i in range(len(volume.shape))]
    if volume.channel is not None:  # of its own, next to the levels
        shape = [1] * (len(volume.shape) - 2) + [len(levels), volume.channels]
    block = np.broadcast_to(levels.reshape(-1, 1), (len(levels), volume.channels)).reshape(shape)
    one = volume._replace(channel=None if volume.channel is None else len(shape) - 1)
    try:
        mapped = map_block(transform, np.ascontiguousarray(block), one, reading)
    except InputError:
        return None
    assert mapped.mapped is not None
    entry = {**map_record(mapped.mapped, volume, reading), "dtype": dtype.str, "missing": missing_of(volume, reading)}
    differs: Array = invert(as_image(mapped.values, one.channel), entry) != as_image(block, one.channel)
    return differs.reshape(len(levels), volume.channels)


def map_block(
    transform: Transform,
    stored: Array,
    volume: StoredVolume,
    reading: DecodeOptions,
    inexact: Array | None = None,
) -> MappedBlock:
    """Map a block of stored samples.

    Args:
        transform: of the volume.
        stored: the samples.
        volume: the array that they are of.
        reading: decoding of the samples.
        inexact: levels without an inverse, of `inexact_levels`; None computes the inverse of the block.

    Raises:
        InputError: as `Transform.map`, or constants of other channels.
    """
    pixels = as_image(stored, volume.channel)
    image = decode_block(pixels, volume, reading)
    mapped = None
    if image.pixels.dtype.kind == "f" and transform.nan == "skip" and not np.isfinite(image.pixels).any():
        values, hidden = image.pixels.astype(transform.dtype), image.pixels.size
    else:
        mapped = transform.map(image.pixels, None, image.scales, image.valid, case_name(volume))
        values, hidden = mapped.array, sum(mapped.invalid)
    if values.shape != pixels.shape:
        raise InputError("channels", f"{pixels.shape[2]} channels, which would become {values.shape[2]}")
    keeps = reading.nodata == "tag" and transform.fill == "keep"
    missing = is_missing(pixels, volume.tags) if keeps else None
    if keeps and volume.tags.no_data:
        _set_apart(values, missing_of(volume, reading))
    count = 0
    if missing is not None:
        values[missing] = pixels[missing].astype(values.dtype)
        count = int(np.count_nonzero(missing))
    if volume.tags.valid is not None and image.valid is not None and transform.fill == "keep":
        beyond = ~image.valid if missing is None else ~image.valid & ~missing
        values[beyond] = out_of_range_value(volume, transform.dtype)
    exact = False
    if pixels.dtype.kind in "iub" and mapped is not None and transform.scheme not in schemes.CURVES:
        entry = {
            **map_record(mapped, volume, reading),
            "dtype": pixels.dtype.str,
            "missing": missing_of(volume, reading),
        }
        if inexact is None:
            exact = np.array_equal(invert(values, entry), pixels)
        else:
            places = pixels.view(f"u{pixels.itemsize}")
            exact = not any(inexact[places[:, :, c], c].any() for c in range(places.shape[2]))
    block = as_block(values, stored.shape, volume.channel)
    return MappedBlock(block, mapped, count, hidden - count, exact)


def _set_apart(values: Array, missing: list[str]) -> None:
    """Change mapped samples that have a value of missing ones by one step of floats, toward 0, or from 0 upward.

    Such as those at the lower end of `minmax` where 0 is missing: readers would take them for missing.
    """
    for text in missing:
        mark = values.dtype.type(number_of(text))
        same = values == mark
        if same.any():
            values[same] = np.nextafter(mark, values.dtype.type(0)) if mark else np.finfo(values.dtype).tiny


def case_name(volume: StoredVolume) -> str | None:
    """Return the label of the planes of a volume, by which `stats` groups them as one case; None for none."""
    if volume.kind == "nifti":
        return case_of(volume.source)
    return (volume.path.rpartition("/")[0] or None) if volume.kind == "zarr" else None


def out_of_range_value(volume: StoredVolume, dtype: str) -> Any:
    """Return the value of samples out of the valid range: the first missing value, or NaN."""
    values = volume.tags.no_data
    return np.dtype(dtype).type(values[0] if values else np.nan)


def missing_of(volume: StoredVolume, reading: DecodeOptions) -> list[str]:
    """Return the values of missing samples, which stay as they are, as text."""
    values = dict.fromkeys(volume.tags.no_data) if reading.nodata == "tag" else ()
    return [repr(value) for value in values if holds(np.dtype(volume.dtype), value)]


def map_record(mapped: MappedImage, volume: StoredVolume, reading: DecodeOptions) -> Record:
    """Return the map of stored levels, for the record of an array."""
    affine, outside = mapped.affine, list(mapped.outside)
    scale, offset = _scale_of_levels(volume, reading)
    if reading.scale_offset == "values" and (scale, offset) != UNSCALED:
        affine = affine.of_levels([(scale, offset)] * len(affine.scale))
        outside = [-offset / scale + 0.0 for _ in outside]
    record: Record = {"scale": list(affine.scale), "shift": list(affine.shift)}
    return {**record, "outside": outside} if outside else record


def invert(values: Array, entry: Record) -> Array:
    """Return the stored samples (H,W,C) of mapped ones: integers rounded and within their type.

    Args:
        values: (H,W,C) of floats.
        entry: record of the array: scale and shift per channel, dtype, and values of missing samples.
    """
    dtype = np.dtype(entry["dtype"])
    levels = np.empty(values.shape, dtype.newbyteorder("="))
    for c, (scale, shift) in enumerate(zip(entry["scale"], entry["shift"], strict=True)):
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            level = (values[:, :, c].astype(np.float64) - shift) / scale
            if "outside" in entry:
                level[np.isin(values[:, :, c], (0, np.finfo(values.dtype).tiny))] = entry["outside"][c]
            if dtype.kind in "iu":
                limits: Any = np.iinfo(dtype)
                # the largest of 64 bits is no float64: the next lower one is
                top = float(limits.max) if dtype.itemsize < 8 else float(np.nextafter(float(limits.max), 0))
                level = np.clip(np.nan_to_num(np.rint(level)), float(limits.min), top)
            elif dtype.kind == "b":
                level = level > 127
            levels[:, :, c] = level.astype(levels.dtype)
    for text in entry["missing"]:
        value = np.asarray(number_of(text)).astype(levels.dtype)
        same = value.astype(values.dtype)
        levels[np.isnan(values) if np.isnan(same) else values == same] = value
    return levels


def background_of(transform: Transform, volume: StoredVolume, reading: DecodeOptions, stored: float | int) -> float:
    """Return the value of chunks that are not written, from the one that the source reads there."""
    one = np.full([volume.channels if i == volume.channel else 1 for i in range(len(volume.shape))], stored)
    one = one.astype(np.dtype(volume.dtype))
    if reading.nodata == "tag" and transform.fill == "keep" and is_missing(one, volume.tags) is not None:
        return float(one.flat[0])
    try:
        block = map_block(transform, one, volume, reading)
        return float(block.values.flat[0])
    except (InputError, ValueError, OverflowError):
        return 0.0


def names_of(volume: StoredVolume) -> list[str]:
    """Return the names of the channels."""
    names = volume.tags.names
    return list(names if len(names) == volume.channels else channel_names(volume.channels))
