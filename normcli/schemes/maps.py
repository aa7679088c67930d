"""Every scheme is one function that returns an `Affine`: y = x*scale + shift per channel.

x are levels as stored: 0-255, 0-65535, or raw units for float images. So one kernel is enough for all schemes, and
the inverse is free, as is folding the map into a network's first convolution. The table of schemes by name, and the
published constants that `contrast` can use, come last.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from normcli.constants.presets import PRESETS as PUBLISHED
from normcli.constants.presets import Preset
from normcli.errors import InputError, UsageError, unknown
from normcli.kernels.affine import Affine, Values
from normcli.schemes import curves

Array = np.ndarray[Any, Any]


class Image(NamedTuple):
    """Facts about one image that a scheme may use.

    Attributes:
        names: of the channels.
        white_level: level of full intensity: 255, 65535 or the setting; None for floats in raw units.
        histogram: (C, bins) counts of an integer image; None for floats.
        pixels: values (N, C) of a float image, NaN where a sample is invalid; None for integers.
        scales: (scale, offset) of each channel, by which levels are values in units; () where they are values.
    """

    names: tuple[str, ...]
    white_level: float | None
    histogram: Array | None = None
    pixels: Array | None = None
    scales: tuple[tuple[float, float], ...] = ()

    def full(self) -> float:
        """Return the level of full intensity.

        Raises:
            InputError: a float image has none.
        """
        if self.white_level is None:
            raise InputError(
                "no-range", "no value of samples other than uint8 and uint16 maps to 1 (--max-value sets one)"
            )
        return float(self.white_level)

    def columns(self, per: str) -> list[tuple[Array, Array]]:
        """Return sorted values and their counts: of each channel, or with per="image" of all channels together."""
        if per not in ("channel", "image"):
            raise UsageError(f"`scheme`: per must be one of channel, image, not {per!r}")
        count = len(self.names)
        together = per == "image" and len(set(self.scales)) <= 1
        if self.histogram is not None:
            rows = self.histogram.sum(axis=0, keepdims=True) if together else self.histogram
            columns = [(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in rows]
        else:
            assert self.pixels is not None
            groups = self.pixels.reshape(1, -1) if together else self.pixels.T
            seen = [values[~np.isnan(values)] for values in groups]
            columns = [(np.sort(values), np.ones(values.size, np.int64)) for values in seen]
        if self.scales:
            columns = [scaled(*column, scale) for column, scale in zip(columns, self.scales, strict=False)]
            if per == "image" and not together:
                values, counts = (np.concatenate(parts) for parts in zip(*columns, strict=True))
                order = np.argsort(values, kind="stable")
                columns = [(values[order], counts[order])]
        anything = np.arange(2), np.ones(2, np.int64)  # maps a channel of which no sample is valid
        columns = [column if len(column[0]) else anything for column in columns]
        return columns if per == "channel" else columns * count

    def moments(self, per: str) -> tuple[list[float], list[float]]:
        """Return mean and population std, of each channel or of all together; of integers from exact sums."""
        mean, std = [], []
        for values, counts in self.columns(per):
            if values.dtype.kind != "f":
                pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
                n, s = sum(c for _, c in pairs), sum(v * c for v, c in pairs)
                spread = n * sum(v * v * c for v, c in pairs) - s * s
                mean.append(s / n)
                std.append(math.sqrt(spread) / n)
            else:
                middle, spread = _moments_of_floats(values, counts)
                mean.append(middle)
                std.append(spread)
        return mean, std


def _moments_of_floats(values: Array, counts: Array) -> tuple[float, float]:
    """Return mean and population std of values with counts; infinity where a sum is beyond float64."""
    n = int(counts.sum())
    try:
        with np.errstate(over="ignore"):
            middle = math.fsum((values * counts).tolist()) / n
            apart = values - middle
            # a power of 2 changes no bit; squares of values around 1e-200 would be 0, those of 1e200 infinite
            _, power = math.frexp(max(-float(apart[0]), float(apart[-1])))
            squares = np.ldexp(apart, -power) ** 2 * counts
        return middle, math.ldexp(math.sqrt(math.fsum(squares.tolist()) / n), power)
    except OverflowError:
        return math.inf, math.inf


def scaled(values: Array, counts: Array, scale: tuple[float, float]) -> tuple[Array, Array]:
    """Return sorted values in the units of a scale (scale, offset), sorted again, and their counts."""
    in_units = values * np.float64(scale[0]) + scale[1]
    return (in_units, counts) if scale[0] > 0 else (in_units[::-1], counts[::-1])


def unit(image: Image) -> Affine:
    """Scale to [0,1]: x/255, or x/65535 at 16 bits.

    >>> unit(Image(names=("L",), white_level=255)).scale[0] == 1 / 255
    True
    """
    return Affine((1.0 / image.full(),) * len(image.names), (0.0,) * len(image.names))


def signed(image: Image) -> Affine:
    """Scale to [-1,1]: x/127.5 - 1, or x/32767.5 - 1 at 16 bits."""
    return Affine((2.0 / image.full(),) * len(image.names), (-1.0,) * len(image.names))


def clip(image: Image, *, lo: float | None = None, hi: float | None = None) -> Affine:
    """Clip to a window and scale it to [0,1]: (min(max(x, lo), hi) - lo) / (hi - lo), as CT is windowed.

    Args:
        image: its levels.
        lo: value that becomes 0, in the units of the image: Hounsfield units where its scale tags are of CT.
        hi: value that becomes 1.
    """
    if lo is None or hi is None or not lo < hi:
        raise UsageError("`scheme`: clip requires LO,HI with LO < HI, such as clip:-1000,400")
    return centered([lo] * len(image.names), [hi - lo] * len(image.names))


def contrast(
    image: Image,
    *,
    mean: Values,
    std: Values,
    lo: float = 0.0,
    hi: float = 100.0,
    low: Values | None = None,
    high: Values | None = None,
    zero_std: str = "error",
) -> Affine:
    """Standardize by the dataset's mean and std per channel: (x/255 - mean) / std.

    Float images without --max-value are not divided: their mean and std are in raw units. Mean and std come from
    --stats, --mean and --std, --preset, or are computed first. With LO,HI, values are first clipped to these
    percentiles of the statistics, as nnU-Net normalizes CT (`contrast:0.5,99.5`).
    """
    white = float(image.white_level or 1)
    spread = divisors(std, image.names, zero_std, "std")
    return centered([m * white for m in mean], [s * white for s in spread])


def caffe(image: Image, *, mean: Values = (123.68, 116.779, 103.939)) -> Affine:
    """Subtract the ImageNet mean in range 0-255, and write BGR (Keras' mode="caffe").

    Args:
        image: three channels.
        mean: in RGB order, range 0-255.
    """
    if len(image.names) != len(mean):
        raise InputError(
            "channels", f"caffe maps {len(mean)} channels, not {len(image.names)} (--color rgb repeats gray)"
        )
    return Affine((255.0 / image.full(),) * len(mean), tuple(-m for m in mean))


def zscore(
    image: Image, *, per: str = "channel", eps: float = 0.0, mask: str = "none", zero_std: str = "error"
) -> Affine:
    """Standardize each image by its own mean and std: (x - mean) / (std + eps).

    With mask=nonzero, mean and std are of the samples that are not 0, and the others become 0, as MR is normalized.

    Args:
        image: its levels.
        per: "channel", or "image" for one mean and std over all channels.
        eps: added to the std, in levels or, by scale tags, in units; albumentations adds 1e-4.
        mask: "nonzero" leaves samples of value 0 out, each in its own channel; `image` is without them.
        zero_std: treatment of a constant channel.
    """
    mean, std = image.moments(per)
    return centered(mean, divisors([s + eps for s in std], image.names, zero_std, "std"))


def gcn(image: Image, *, scale: float = 1.0, sqrt_bias: float = 0.0, zero_std: str = "error") -> Affine:
    """Normalize the global contrast of each image: scale * (x - mean) / sqrt(sqrt_bias + variance), over all channels.

    Args:
        image: its levels.
        scale: std of the result.
        sqrt_bias: added to the variance, range 0-1 squared (Goodfellow et al., Deep Learning, 12.2.1.1).
        zero_std: treatment of a constant image.
    """
    mean, std = image.moments("image")
    bias = sqrt_bias * float(image.white_level or 1) ** 2
    spread = [math.sqrt(bias + s * s) if bias else s for s in std]
    widths = divisors(spread, image.names, zero_std, "std")
    return centered(mean, [width / _positive("scale", scale) for width in widths])


def minmax(image: Image, *, per: str = "channel", eps: float = 0.0, zero_std: str = "error") -> Affine:
    """Scale each image from its own min and max to [0,1]: (x - min) / (max - min + eps).

    Args:
        image: its levels.
        per: "channel", or "image" for one range over all channels.
        eps: added to the range, in levels or, by scale tags, in units; albumentations adds 1e-4.
        zero_std: treatment of a constant channel.
    """
    columns = image.columns(per)
    low = [float(values[0]) for values, _ in columns]
    width = [float(values[-1]) - bottom + eps for (values, _), bottom in zip(columns, low, strict=True)]
    return centered(low, divisors(width, image.names, zero_std, "max - min"))


def percentile(
    image: Image,
    *,
    lo: float = 1.0,
    hi: float = 99.0,
    over: str = "image",
    per: str = "channel",
    low: Values | None = None,
    high: Values | None = None,
    zero_std: str = "error",
) -> Affine:
    """Scale percentiles of each image or of the dataset to [0,1]: (x - p_lo) / (p_hi - p_lo).

    Values outside 0-1 stay, unless `clip` limits them.

    Args:
        image: its levels.
        lo: percentile that becomes 0.
        hi: percentile that becomes 1.
        over: "image", or "dataset" for the percentiles of all images together.
        per: "channel", or "image" for all channels together.
        low: the dataset's lower percentile per channel, range 0-1.
        high: the dataset's upper percentile per channel, range 0-1.
        zero_std: treatment of equal percentiles.
    """
    if not 0 <= lo < hi <= 100:
        raise UsageError(f"`scheme`: percentile requires 0 <= LO < HI <= 100, not {lo:g},{hi:g}")
    if over == "dataset":
        assert low is not None and high is not None
        white = float(image.white_level or 1)
        bottom, top = [v * white for v in low], [v * white for v in high]
    else:
        columns = image.columns(per)
        bottom = [_quantile(values, counts, lo) for values, counts in columns]
        top = [_quantile(values, counts, hi) for values, counts in columns]
    width = [t - b for b, t in zip(bottom, top, strict=True)]
    return centered(bottom, divisors(width, image.names, zero_std, f"{hi:g}% - {lo:g}%"))


def robust(
    image: Image, *, per: str = "channel", factor: float = 1.4826022185056018, zero_std: str = "error"
) -> Affine:
    """Standardize each image by its own median and MAD: (x - median) / (factor * MAD).

    MAD is the median of |x - median|.

    Args:
        image: its levels.
        per: "channel", or "image" for all channels together.
        factor: 1.4826 makes the MAD of normally distributed values their std; 1 is the bare MAD.
        zero_std: treatment of a MAD of 0.
    """
    _positive("factor", factor)
    median, mad = [], []
    for values, counts in image.columns(per):
        middle = _quantile(values, counts, 50)
        with np.errstate(over="ignore"):
            apart = np.abs(values - middle)
        order = np.argsort(apart, kind="stable")
        median.append(middle)
        mad.append(factor * _quantile(apart[order], counts[order], 50))
    return centered(median, divisors(mad, image.names, zero_std, "MAD"))


def _quantile(values: Array, counts: Array, percent: float) -> float:
    """Return a percentile of sorted values with counts, linear between neighbors in rank, as numpy.percentile does."""
    until = np.cumsum(counts)
    last = int(until[-1]) - 1
    rank = percent / 100 * last
    below = min(int(rank), last)
    at = np.searchsorted(until, [below, min(below + 1, last)], side="right")
    bottom, top = float(values[at[0]]), float(values[at[1]])
    return bottom + (top - bottom) * (rank - below)


def divisors(spread: Sequence[float], names: Sequence[str], zero_std: str, what: str) -> list[float]:
    """Return divisors; a spread of 0 is an error that names the channel, or becomes 1 or eps."""
    least = least_std(zero_std)
    if least is None:
        constant = [name for name, s in zip(names, spread, strict=True) if s <= 0]
        if constant:
            noun, verb, them = ("channel", "is", "it") if len(constant) == 1 else ("channels", "are", "them")
            remedy = f"--zero-std one or eps:X maps {them}"
            raise InputError("constant", f"{noun} {', '.join(constant)} {verb} constant ({what} 0): {remedy}")
        return list(spread)
    if least == "one":
        return [s if s > 0 else 1.0 for s in spread]
    return [max(s, float(least)) for s in spread]


def least_std(setting: str) -> str | float | None:
    """Parse `zero_std`: None for "error", "one", or the X of "eps:X".

    Raises:
        UsageError: none of these.
    """
    if setting == "error":
        return None
    if setting == "one":
        return "one"
    if setting.startswith("eps:"):
        try:
            value = float(setting[4:])
        except ValueError:
            value = 0.0
        if 0 < value < math.inf:
            return value
    raise UsageError(f"`zero_std`: must be error, one, or eps:X with X > 0, not {setting!r}")


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError(f"`scheme`: {name} must be a positive number, not {value:g}")
    return value


SCHEMES: dict[str, Callable[..., Any]] = {  # an affine each, and a function of levels those of `curves`
    scheme.__name__: scheme
    for scheme in (
        *(unit, signed, clip, contrast, caffe),
        *(zscore, minmax, percentile, robust, gcn),
        *(curves.nyul, curves.reinhard),
    )
}
ALIASES = {"standardize": "contrast"}
# the same affine for every image of a depth; the others depend on the image
OF_DATASET = frozenset({"unit", "signed", "clip", "contrast", "caffe"})
# parameters that are not settings: options of their own, or computed from the statistics
_NO_SETTINGS = {
    "contrast": {"mean", "std", "low", "high"},
    "percentile": {"low", "high"},
    "nyul": {"landmarks", "percentiles"},
    "reinhard": {"mean", "std"},
}
_CHOICES = {"over": ("image", "dataset"), "per": ("channel", "image"), "mask": ("none", "nonzero")}
_CHOICES_OF = {"nyul": {"over": ("case", "image")}, "reinhard": {"mask": ("none", "tissue")}}


def settings(name: str) -> dict[str, Any]:
    """Return the settings of a scheme in `--scheme NAME:SETTINGS`, with their defaults, from its signature.

    >>> settings("zscore")
    {'per': 'channel', 'eps': 0.0, 'mask': 'none'}

    Raises:
        UsageError: no such scheme.
    """
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    others = _NO_SETTINGS.get(name, set()) | {"zero_std"}
    parameters = list(inspect.signature(SCHEMES[name]).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.name not in others}


@cache  # it is called for each image: 28 us
def divides(name: str) -> bool:
    """Return True if a scheme divides by something that can be 0."""
    return "zero_std" in inspect.signature(SCHEMES[name]).parameters


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Parse "NAME" or "NAME:SETTINGS": values in the order of the settings, or setting=value.

    >>> parse("percentile:2,98"), parse("zscore:per=image"), parse("standardize")
    (('percentile', {'lo': 2.0, 'hi': 98.0}), ('zscore', {'per': 'image'}), ('contrast', {}))

    Raises:
        UsageError: no such scheme or setting, or a value of the wrong kind.
    """
    if not isinstance(text, str):
        raise UsageError(f"`scheme`: must be a name such as contrast, not {text!r:.60}")
    name, colon, rest = text.partition(":")
    name = ALIASES.get(name, name)
    defaults = settings(name)
    values: dict[str, Any] = {}
    parts = rest.split(",") if colon else []
    if isinstance(defaults.get("mean"), tuple) and len(parts) > 1 and "=" not in ",".join(parts[1:]):
        parts = [rest]  # caffe:1,2,3 and caffe:mean=1,2,3
    for position, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            if position >= len(defaults):
                raise UsageError(f"`scheme`: {name} has {_count_of(defaults)}, not {len(parts)}: {text!r}")
            key, value = list(defaults)[position], part
        key = key.strip().replace("-", "_")
        if key not in defaults:
            if not defaults:
                raise UsageError(f"`scheme`: {name} has no settings")
            raise unknown(f"setting of {name}", key, defaults)
        values[key] = _value(name, key, value, defaults[key])
    for key, choices in {**_CHOICES, **_CHOICES_OF.get(name, {})}.items():
        if values.get(key, choices[0]) not in choices:
            raise UsageError(f"`scheme`: {key} of {name} must be one of {', '.join(choices)}, not {values[key]!r}")
    if name == "clip":
        clip(Image((), None), **values)
    if name == "contrast":
        lo, hi = values.get("lo", 0.0), values.get("hi", 100.0)
        if not 0 <= lo < hi <= 100:
            raise UsageError(f"`scheme`: contrast requires percentiles 0 <= LO < HI <= 100, not {lo:g},{hi:g}")
    return name, values


def percents(name: str, given: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the two percentages of the dataset that a scheme needs percentiles of; None for none.

    >>> percents("contrast", {"lo": 0.5, "hi": 99.5}), percents("contrast", {}), percents("percentile", {})
    ((0.5, 99.5), None, None)
    """
    values = {**settings(name), **given}
    clips = name == "contrast" and (values["lo"], values["hi"]) != (0.0, 100.0)
    return (values["lo"], values["hi"]) if clips or values.get("over") == "dataset" else None


def window(name: str, affine: Affine, ends: tuple[Values, Values] | None) -> tuple[tuple[float, float], ...]:
    """Return the bounds of y per channel that a scheme clips to; () for one that clips nothing.

    Args:
        name: of the scheme.
        affine: of values, not of stored levels.
        ends: of the values, where percentiles of the dataset limit them.
    """
    if name == "clip":
        return ((0.0, 1.0),) * len(affine.scale)
    if name != "contrast" or ends is None:
        return ()
    return tuple((low * s + t, high * s + t) for low, high, s, t in zip(*ends, *affine, strict=True))


def _count_of(settings: dict[str, Any]) -> str:
    if not settings:
        return "no settings"
    return f"{len(settings)} setting{'s' * (len(settings) > 1)} ({', '.join(settings)})"


def _value(name: str, key: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text.strip()
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"`scheme`: {key} of {name} must be a number, not {text!r}")
    if isinstance(default, tuple):
        if len(values) != len(default):
            raise UsageError(f"`scheme`: {key} of {name} must be {len(default)} numbers, not {len(values)}")
        return values
    return values[0]


# constants that `contrast` can use: in range 0-1 and the channel order of decoded images
PRESETS: dict[str, Preset] = {
    name: constants
    for name, constants in PUBLISHED.items()
    if constants.std is not None and constants.range == "0-1" and constants.order in ("RGB", "L")
}


def preset(name: str) -> Preset:
    """Return published constants by name.

    >>> preset("mnist").std
    (0.3081,)

    Raises:
        UsageError: no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def centered(center: Sequence[float], spread: Sequence[float]) -> Affine:
    """Return the affine (x - center) / spread; a level equal to the center maps to 0 exactly.

    Raises:
        InputError: a spread whose inverse, or a center over it, is beyond float64.
    """
    scale = tuple(1.0 / s for s in spread)
    # + 0.0: no negative zero where the center is 0
    affine = Affine(scale, tuple(-(c * s) + 0.0 for c, s in zip(center, scale, strict=True)))
    if not all(map(math.isfinite, (*scale, *affine.shift))) or 0.0 in scale:
        raise InputError("overflow", f"float64 cannot divide by {', '.join(f'{s:g}' for s in spread)}")
    return affine


def catalog() -> list[tuple[str, dict[str, Any], str]]:
    """Return every scheme with its settings and the first line of its help."""
    return [
        (name, settings(name), (function.__doc__ or "\n").splitlines()[0].rstrip("."))
        for name, function in SCHEMES.items()
    ]
