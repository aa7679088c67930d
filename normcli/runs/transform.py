"""One image mapped: scheme.affine ► kernel. The command and `normcli.transform` both end here: the same bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normcli import images, schemes
from normcli.errors import InputError, naming_parameters
from normcli.kernels.kernel import as_words, contiguous
from normcli.options.field import Color
from normcli.options.shared import DecodeOptions
from normcli.schemes import Affine, Values
from normcli.summary.summary import channel_names, source_channels
from normcli.tally import Integers

if TYPE_CHECKING:
    from normcli.schemes.nyul import Landmarks

Array = np.ndarray[Any, Any]


class MapConstants(NamedTuple):
    """Mean and std per channel, and their origin.

    Attributes:
        mean, std: per channel, RGB; range 0-1, raw units for float images without `max_value`.
        channels: their names.
        origin: "statistics", "computed", "given" or "preset NAME".
        convention: of mean and std, such as "pooled_population".
        digest: of the images that statistics were made of, or None.
        images: number of the images that they are from.
        dtypes: of those images: "uint8", "uint16", "float"; empty where it is not known.
        pooled: every pixel counts once: mapped by these, the same images have mean 0 and std 1.
        low, high: percentiles of the dataset, where a scheme asked for them.
        landmarks: of scheme nyul.
        scales: (scale, offset) of the stored levels of those images; None where the images are not known.
    """

    mean: Values
    std: Values
    channels: tuple[str, ...]
    origin: str
    convention: str
    digest: str | None = None
    images: int | None = None
    dtypes: tuple[str, ...] = ()
    pooled: bool = False
    low: Values | None = None
    high: Values | None = None
    landmarks: "Landmarks | None" = None
    scales: tuple[tuple[float, float], ...] | None = None

    def record(self) -> dict[str, Any]:
        """Return the object for the manifest."""
        values = {name: value for name, value in self._asdict().items() if value not in (None, ())}
        if self.landmarks is not None:
            values["landmarks"] = self.landmarks.record()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def check(self, channels: int, dtype: str, scales: tuple[tuple[float, float], ...] = ()) -> None:
        """Check that the constants apply to an image's channels, depth and scales.

        Raises:
            InputError: other channels, another depth, or other scales.
        """
        want = len(self.channels)
        repeated = (channels, want) in ((1, 3), (2, 4))
        same = scales == self.scales or (repeated and {*scales} == {*(self.scales or ())})
        if self.scales is not None and not same:
            raise InputError(
                "scale",
                f"its scale and offset, {_scales(scales)}, are not those of the statistics, {_scales(self.scales)} "
                "(--scale-offset none ignores both)",
            )
        if channels != want and not repeated:
            raise InputError(
                "channels",
                f"{_counted(channels, 'channel')}, but mean and std have {want} ({', '.join(self.channels)}): "
                "one value per channel is required",
            )
        if self.dtypes and dtype not in self.dtypes:
            words = {"uint8": "8-bit", "uint16": "16-bit", "float": "float"}
            raise InputError(
                "depth",
                f"{words[dtype]} pixels, but the statistics are of "
                f"{' and '.join(words[d] for d in self.dtypes)} images",
            )


def _scales(scales: tuple[tuple[float, float], ...]) -> str:
    return ", ".join(f"{scale:g}*x{offset:+g}" for scale, offset in scales) or "none"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class MappedImage(NamedTuple):
    """One image after the map.

    Attributes:
        array: (C,H,W) or (H,W,C) of the dtype asked for.
        affine: y = x*scale + shift per channel of `array`, x in levels as stored.
        restore: for quantized arrays, the affine that leads from them back to y.
        channels: names, in the order of `array`.
        source: the channel of the pixels that each channel of `array` was made from.
        clipped: values that --clip or the quantized range changed.
        exact: the inverse restores the pixels bit for bit.
        invalid: number of invalid samples of each channel of `array`; () where there is none.
        outside: level of the samples of each channel that a mask leaves out, which are 0; () without such a mask.
    """

    array: Array
    affine: Affine
    restore: Affine | None
    channels: tuple[str, ...]
    source: tuple[int, ...]
    clipped: int
    exact: bool
    invalid: tuple[int, ...] = ()
    outside: tuple[float, ...] = ()


class Finish(NamedTuple):
    """The steps after the affine: clip, quantize, round to the dtype.

    Attributes:
        dtype: of the result.
        clip: bounds of y; of all channels together where they have `windows`.
        restore: from quantized values to y.
        windows: bounds of y for each channel, where the scheme has them; () for the same bounds.
    """

    dtype: str
    clip: tuple[float, float] | None = None
    restore: Affine | None = None
    windows: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, dtype: str, clip: tuple[float, float] | None, windows: Sequence[tuple[float, float]] = ()) -> "Finish":
        """Return the steps that clip to the windows of a scheme, if it has some, and then to `clip`, if that is set."""
        if not windows:
            return cls(dtype, clip)
        low, high = clip or (-np.inf, np.inf)
        limits = tuple((min(max(a, low), high), min(max(b, low), high)) for a, b in windows)
        return cls(dtype, (min(a for a, _ in limits), max(b for _, b in limits)), None, limits)

    def channel(self, j: int) -> "Finish":
        """Return the steps of one channel."""
        return self._replace(clip=self.windows[j], windows=()) if self.windows else self

    def __call__(self, y: Array) -> tuple[Array, int]:
        """Finish float64 values; return them and the number of clipped ones."""
        clipped = 0
        if self.clip is not None:
            low, high = self.clip
            clipped = int(np.count_nonzero((y < low) | (y > high)))
            y = np.clip(y, low, high)
        if self.restore is not None:
            (step,), (bottom,) = self.restore
            top = np.iinfo(self.dtype).max
            y = np.rint((y - bottom) / step)
            if self.clip is None:
                clipped = int(np.count_nonzero((y < 0) | (y > top)))
            y = np.clip(y, 0, top)
        with np.errstate(over="ignore", invalid="ignore"):  # float16 ends at 65504: the caller reports it
            return y.astype(self.dtype), clipped


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Map images by a scheme: a picklable callable, array in, array out. Made by `normcli.transform`.

    Attributes:
        scheme: its name.
        settings: of the scheme, as pairs.
        constants: mean and std for contrast; percentiles of the dataset.
        zero_std: treatment of a constant channel: "error", "one" or "eps:X".
        clip: bounds for y, or None.
        dtype: of the result; "uint8" and "uint16" are quantized.
        output_layout: "chw" or "hwc".
        channel_order: "rgb" or "bgr".
        color: "rgb" repeats gray into three channels, "gray" converts color.
        max_value: value that maps to 1.0 in 16-bit and float images; None is 65535 and raw units.
        nan: "error" fails images with NaN or infinity, "skip" maps them.
        channels: number of channels that gray is repeated to, or None.
        nodata: values of samples that are invalid in their channel, as text; "tag" and "none" for no value.
        fill: value of invalid samples in the result, as text; "keep" maps them like all others.
    """

    scheme: str
    settings: tuple[tuple[str, Any], ...] = ()
    constants: MapConstants | None = None
    zero_std: str = "error"
    clip: tuple[float, float] | None = None
    dtype: str = "float32"
    output_layout: str = "chw"
    channel_order: str = "rgb"
    color: Color = "auto"
    max_value: int | None = None
    nan: str = "error"
    channels: int | None = None
    nodata: str = "tag"
    fill: str = "keep"

    @naming_parameters
    def __call__(self, image: Any) -> Array:
        """Map one image.

        Args:
            image: (H,W) or (H,W,C) of uint8, uint16 or float; or a Pillow image in gray or RGB.

        Raises:
            InputError: an image that cannot be mapped so.
        """
        mode = None if isinstance(image, np.ndarray) else getattr(image, "mode", None)  # a memory map has one too
        if type(image).__module__ == "torch":  # of an unknown order of axes, and with a method `mode`
            raise InputError("unsupported", "a torch.Tensor, not an array (H,W) or (H,W,C): pass its numpy()")
        if mode is not None and mode not in ("L", "RGB", "I;16", "F"):
            raise InputError("mode", f"a Pillow image of mode {mode}: convert it to L or RGB first")
        from normcli.sources.tagged import is_masked, masked

        pixels = masked(image) if is_masked(image) else np.asarray(image)
        if pixels.dtype.kind in "SUO" and not isinstance(image, np.ndarray):
            raise InputError("unsupported", f"a {type(image).__name__}, not an array or a Pillow image")
        decoded = images.decode(pixels, DecodeOptions(color=self.color, nodata=self.nodata))
        return self.map(decoded.pixels, valid=decoded.valid).array

    def map(
        self,
        pixels: Array,
        buffer: "Buffer | None" = None,
        scales: tuple[tuple[float, float], ...] = (),
        valid: Array | None = None,
        case: str | None = None,
    ) -> MappedImage:
        """Map decoded pixels (H,W,C).

        Args:
            pixels: uint8, uint16, float32 or float64, C-contiguous.
            buffer: has the memory for the result; a fresh array by default.
            scales: (scale, offset) of each channel, in whose units the constants are; () where samples are values.
            valid: bool (H,W,C), True where a sample counts in its channel; None where all do.
            case: name of the case that the image is a part of; None for an image that is a case.

        Raises:
            InputError: constant, of another depth or channels than the statistics, not finite, no range.
        """
        dtype = pixels.dtype
        if dtype.kind == "f" and not _is_finite(pixels):
            from normcli.runs.fill import with_finite

            finite = with_finite(pixels, valid)
            if self.nan == "error" and (valid is None or not np.array_equal(finite, valid)):
                raise InputError("not-finite", "NaN or infinite values (--nan skip makes them invalid)")
            if not finite.any():
                raise InputError("not-finite", "no pixel is finite")
            valid = finite
        source = self._source(pixels, scales)
        outside, seen = None, valid
        if dict(self.settings).get("mask") == "nonzero":
            outside, seen = _outside(pixels, scales, valid)
        wide, at = len(source), source  # channels of the stored pixels, and of those that the affine maps
        windows: tuple[tuple[float, float], ...] = ()
        is_curve = self.scheme in schemes.CURVES
        if is_curve:
            from normcli.runs.curves import map_by_curve

            pixels, low, high = map_by_curve(self, pixels, source, scales, valid, case)
            affine, at = Affine((1.0,) * wide, (0.0,) * wide), tuple(range(wide))
            valid = None if valid is None else valid[:, :, list(source)]
        else:
            affine, windows, low, high = self._affine(pixels, source, scales, seen)
        names = self.constants.channels if self.constants else channel_names(wide)
        if self.channel_order == "bgr" and wide in (3, 4):
            turned = (2, 1, 0, 3)[:wide]
            affine, windows = affine.take(turned), tuple(windows[c] for c in turned if windows)
            names, at = tuple(names[c] for c in turned), tuple(at[c] for c in turned)
            source = tuple(source[c] for c in turned)
        finish = Finish.of(self.dtype, self.clip, windows)
        if self.dtype.startswith("u"):
            low, high = finish.clip or (low, high)
            step = (high - low) / np.iinfo(self.dtype).max or 1.0
            finish = finish._replace(restore=Affine((step,), (low,)))
        height, width = pixels.shape[:2]
        planar = self.output_layout == "chw"
        shape = (wide, height, width) if planar else (height, width, wide)
        out = np.empty(shape, self.dtype) if buffer is None else buffer(shape, self.dtype)
        clipped = _fill(pixels, at, affine, finish, out, planar)
        hidden: tuple[int, ...] = ()
        if valid is not None:
            from normcli.runs.fill import clipped_invalid, fill_invalid

            _check_finite(pixels, affine, out, valid, at, planar)
            clipped -= clipped_invalid(pixels, valid, at, affine, finish)
            hidden = tuple(fill_invalid(out, valid, at, self.fill, planar))
        else:
            _check_finite(pixels, affine, out)
        kept = not is_curve and (self.fill == "keep" or not any(hidden))
        zero: tuple[float, ...] = ()
        if outside is not None:
            from normcli.runs.fill import write_outside

            zero, is_apart = write_outside(out, outside, source, finish(np.zeros(1))[0].item(), planar, scales)
            kept &= is_apart
        exact = dtype.kind == "u" and clipped == 0 and kept and _invertible(affine, finish, dtype.name)
        return MappedImage(out, affine, finish.restore, tuple(names), source, clipped, exact, hidden, zero)

    def _source(self, pixels: Array, scales: tuple[tuple[float, float], ...]) -> tuple[int, ...]:
        """Return the channel of the pixels that each channel of the result is made from: gray may be repeated."""
        count = pixels.shape[2]
        want = self.channels
        if self.constants is not None:
            self.constants.check(count, "float" if pixels.dtype.kind == "f" else pixels.dtype.name, scales)
            want = len(self.constants.channels)
        elif self.scheme == "caffe":
            want = 3 if count == 1 else count
        elif want is None and self.color == "rgb":
            want = {1: 3, 2: 4}.get(count, count)
        return source_channels(count, want or count)

    def _affine(
        self,
        pixels: Array,
        source: tuple[int, ...],
        scales: tuple[tuple[float, float], ...],
        valid: Array | None,
    ) -> tuple[Affine, tuple[tuple[float, float], ...], float, float]:
        """Return the affine in RGB order, the bounds that the scheme clips to, and the range of a quantized result."""
        count = pixels.shape[2]
        white_level = _white_level(pixels.dtype, self.max_value)
        settings = dict(self.settings)
        if schemes.divides(self.scheme):
            settings["zero_std"] = self.zero_std
        constants = self.constants
        if self.scheme == "contrast":
            assert constants is not None
            settings |= {"mean": constants.mean, "std": constants.std}
        elif self.scheme == "percentile" and constants is not None:
            settings |= {"low": constants.low, "high": constants.high}
        function = schemes.SCHEMES[self.scheme]
        if self.scheme in schemes.OF_DATASET or constants is not None:
            names = constants.channels if constants else channel_names(len(source))
            in_units = bool(scales) and (constants is not None or self.scheme == "clip")
            if in_units:
                white_level = self.max_value
            image = schemes.Image(names=names, white_level=white_level)
            affine = of_values = function(image, **settings)
            windows = schemes.window(self.scheme, of_values, _ends(constants, float(white_level or 1)))
            if in_units:
                affine = of_values.of_levels([scales[c] for c in source])
            if not self.dtype.startswith("u") or white_level is not None:
                return affine, windows, *_span(of_values, [0.0] * len(source), [white_level or 1.0] * len(source))
            low, high = _bounds(pixels, valid)
            return affine, windows, *_span(affine, [low[c] for c in source], [high[c] for c in source])
        image = schemes.Image(names=channel_names(count), white_level=self.max_value if scales else white_level)
        image = image._replace(scales=scales)
        if pixels.dtype.kind == "f":
            flat = pixels.reshape(-1, count).astype(np.float64) if valid is None else _valid_values(pixels, valid)
            image = image._replace(pixels=flat)
            low, high = _bounds(pixels, valid)
        else:
            histogram = _histogram(pixels, valid)
            bins = [np.flatnonzero(row) if row.any() else (0, 1) for row in histogram]
            low, high = [float(b[0]) for b in bins], [float(b[-1]) for b in bins]
            image = image._replace(histogram=histogram)
        affine = function(image, **settings)
        if scales:
            affine = affine.of_levels(scales[:count])
        return affine.take(source), (), *_span(affine, low, high)


class Buffer:
    """Memory for one array at a time, used again: a fresh 2 MB array has to be faulted in page by page.

    Every worker thread has its own.
    """

    LARGEST_KEPT = 16 << 20

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def __call__(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array of undefined content; it is valid until the next call."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > self.LARGEST_KEPT:
            return np.empty(shape, dtype)
        if self._bytes.size < size:
            self._bytes = np.empty(max(size, 1 << 20), np.uint8)
        return self._bytes[:size].view(dtype).reshape(shape)


def _outside(pixels: Array, scales: tuple[tuple[float, float], ...], valid: Array | None) -> tuple[Array, Array]:
    """Return two masks of valid samples: those of value 0, by their scale if they have one, and all others."""
    zeros: Array = np.equal(pixels, 0)
    if scales:
        zeros = np.stack([pixels[:, :, c] * np.float64(s) + o == 0 for c, (s, o) in enumerate(scales)], axis=2)
    return (zeros, ~zeros) if valid is None else (zeros & valid, valid & ~zeros)


def _histogram(pixels: Array, valid: Array | None) -> Array:
    """Return the histogram (C,bins) of an integer image, of its valid samples."""
    if valid is not None:
        from normcli.runs.fill import valid_histogram

        return valid_histogram(pixels, valid)
    tally = Integers(pixels.shape[2], pixels.dtype.name)
    tally.count(pixels, None)
    return tally.histogram


def _valid_values(pixels: Array, valid: Array) -> Array:
    from normcli.runs.fill import valid_values

    return valid_values(pixels, valid)


def _bounds(pixels: Array, valid: Array | None) -> tuple[list[float], list[float]]:
    """Return the smallest and largest valid value of each channel; 0 and 1 if there is none."""
    if valid is None:
        return pixels.min(axis=(0, 1)).astype(float).tolist(), pixels.max(axis=(0, 1)).astype(float).tolist()
    columns = [pixels[:, :, c][valid[:, :, c]] for c in range(pixels.shape[2])]
    pairs = [(float(column.min()), float(column.max())) if column.size else (0.0, 1.0) for column in columns]
    return [low for low, _ in pairs], [high for _, high in pairs]


def _is_finite(array: Array) -> bool:
    return all(np.isfinite(array[rows]).all() for rows in images.row_slices(array))


def _check_finite(
    pixels: Array,
    affine: Affine,
    out: Array,
    valid: Array | None = None,
    source: tuple[int, ...] = (),
    planar: bool = True,
) -> None:
    """Reject a result that is beyond its type: float16 ends at 65504.

    Args:
        pixels: the levels.
        affine: their map.
        out: the result.
        valid: bool (H,W,C), True where a sample counts in its channel; None where all do.
        source: the channel of the pixels that each channel of `out` is made from.
        planar: `out` is (C,H,W).

    Raises:
        InputError: a valid sample is NaN or infinite.
    """
    if out.dtype.kind != "f":
        return
    if pixels.dtype.kind == "u" and _fits(affine, pixels.dtype.name, out.dtype.name):
        return
    if valid is None:
        finite = _is_finite(out.reshape(-1))
    else:
        from normcli.runs.fill import valid_is_finite

        finite = valid_is_finite(out, valid, source, planar)
    if not finite:
        raise InputError("overflow", f"values beyond {out.dtype}" + " (--dtype float64)" * (out.dtype != np.float64))


@lru_cache(maxsize=16)
def _fits(affine: Affine, levels: str, dtype: str) -> bool:
    """Return True if every level of an integer type has a finite result in a float type."""
    ends = [abs(x * s + t) for x in (0.0, float(np.iinfo(levels).max)) for s, t in zip(*affine, strict=True)]
    return max(ends) <= float(np.finfo(dtype).max)


def _white_level(dtype: np.dtype[Any], setting: int | None) -> float | None:
    if dtype == np.uint8:
        return 255.0
    return float(setting) if setting is not None else {"uint16": 65535.0}.get(dtype.name)


def _ends(constants: MapConstants | None, white: float) -> tuple[Values, Values] | None:
    """Return the percentiles of the dataset per channel, in the values that an affine maps; None if it has none."""
    if constants is None or constants.low is None or constants.high is None:
        return None
    return tuple(v * white for v in constants.low), tuple(v * white for v in constants.high)


def _span(affine: Affine, low: list[float], high: list[float]) -> tuple[float, float]:
    """Return the smallest and largest y over all channels, for x between low and high."""
    ends = [x * s + t for x, s, t in zip([*low, *high], affine.scale * 2, affine.shift * 2, strict=True)]
    return min(ends), max(ends)


@lru_cache(maxsize=16)
def _table(affine: Affine, finish: Finish, dtype: str) -> Array:
    """Return every level of an integer dtype, mapped (C, 256 or 65536): bit for bit the slow path's."""
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=np.float64)
    rows = [finish(levels * s + t)[0] for s, t in zip(*affine, strict=True)]
    table = np.stack(rows)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=256)
def _invertible(affine: Affine, finish: Finish, dtype: str) -> bool:
    """Return True if every level that is not clipped is restored from the output."""
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=np.float64)
    low, high = finish.clip or (-np.inf, np.inf)
    if finish.clip is None and finish.restore is not None:  # made for the levels of this image
        (step,), (bottom,) = finish.restore
        low, high = bottom - step / 2, bottom + step * (np.iinfo(finish.dtype).max + 0.5)
    for j, (s, t) in enumerate(zip(*affine, strict=True)):
        y = levels * s + t
        low, high = finish.channel(j).clip or (low, high)
        unclipped = levels[(y >= low) & (y <= high)]
        written, _ = finish.channel(j)(unclipped * s + t)
        if not np.array_equal(invert(written, Affine((s,), (t,)), finish.restore), unclipped):
            return False
    return True


def invert(written: Array, affine: Affine, restore: Affine | None) -> Array:
    """Restore the levels of one channel (float64, integers where they were) from an output."""
    y = written.astype(np.float64)
    if restore is not None:
        y = y * restore.scale[0] + restore.shift[0]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.rint((y - affine.shift[0]) / affine.scale[0]))


def _fill(pixels: Array, source: tuple[int, ...], affine: Affine, finish: Finish, out: Array, planar: bool) -> int:
    """Map pixels (H,W,C) into `out`; return the number of clipped values."""
    from normcli.kernels import mapping as loops

    def fallback() -> int:
        return _fill_by_numpy(pixels, source, affine, finish, out, planar)

    def by_arithmetic() -> tuple[Any, ...]:
        return (*pixel_arguments(), np.array(affine.scale), np.array(affine.shift), out.reshape(-1), planar)

    def by_table() -> tuple[Any, ...]:
        flat, channels, at = pixel_arguments()
        table, into = _table(affine, finish, pixels.dtype.name), out.reshape(-1)
        if out.dtype == np.float16:  # Numba has no float16: their bits are copied
            table, into = table.view(np.uint16), into.view(np.uint16)
        return flat, as_words(flat if channels == 3 else flat[:0]), channels, at, table, into, planar

    def pixel_arguments() -> tuple[Array, int, Array]:
        return contiguous(pixels).reshape(-1), pixels.shape[2], np.array(source, np.int64)

    # a photograph takes the fallback 0.6 ms, a kernel 0.1; only the fallback counts clipped values
    plain = finish.clip is None and finish.restore is None
    if plain and out.dtype in (np.float32, np.float64):
        return loops.affine.call_or(fallback, by_arithmetic) or 0
    by_levels = pixels.dtype == np.uint8 or (plain and out.dtype == np.float16 and pixels.dtype.kind == "u")
    if finish.clip is None and by_levels:
        return loops.look_up.call_or(fallback, by_table) or 0
    return fallback()


def _fill_by_numpy(
    pixels: Array, source: tuple[int, ...], affine: Affine, finish: Finish, out: Array, planar: bool
) -> int:
    """Map plane by plane, the slow path; 8-bit images through a table. Float64 and indices of some rows at a time."""
    clipped = 0
    table = None
    if pixels.dtype == np.uint8 and finish.clip is None:
        table = _table(affine, finish, "uint8")
    for (j, c), rows in product(enumerate(source), images.row_slices(pixels)):
        plane = pixels[rows, :, c]
        into = out[j, rows] if planar else out[rows, :, j]
        if table is not None and planar:
            np.take(table[j], plane, out=into, mode="clip")  # "raise" would fill a copy first
        elif table is not None:
            into[:] = table[j][plane]
        else:
            with np.errstate(over="ignore", invalid="ignore"):  # nodata at the end of the range
                y = plane.astype(np.float64) * affine.scale[j] + affine.shift[j]
            finished, count = finish.channel(j)(y)
            into[:] = finished
            clipped += count
    return clipped
