"""Every scheme is one function that returns an `Affine`: y = x*scale + shift per channel.

x are levels as stored: 0-255, 0-65535, or raw units for float images. So one kernel is enough for all schemes, and
the inverse is free, as is folding the map into a network's first convolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from normcli.errors import InputError, UsageError
from normcli.kernels.affine import Affine, Values

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Image:
    """Facts about one image that a scheme may use.

    Attributes:
        names: of the channels.
        white_level: level of full intensity: 255, 65535 or the setting; None for floats in raw units.
        histogram: (C, bins) counts of an integer image; None for floats.
        pixels: finite values (N, C) of a float image; None for integers.
    """

    names: tuple[str, ...]
    white_level: float | None
    histogram: Array | None = None
    pixels: Array | None = None

    def full(self) -> float:
        """Return the level of full intensity.

        Raises:
            InputError: a float image has none.
        """
        if self.white_level is None:
            raise InputError("no-range", "a float image has no level of full intensity (--max-value sets one)")
        return float(self.white_level)

    def columns(self, per: str) -> list[tuple[Array, Array]]:
        """Return sorted values and their counts: of each channel, or with per="image" of all channels together."""
        if per not in ("channel", "image"):
            raise UsageError(f"`scheme`: per must be one of channel, image, not {per!r}")
        count = len(self.names)
        if self.histogram is not None:
            rows = self.histogram if per == "channel" else self.histogram.sum(axis=0, keepdims=True)
            columns = [(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in rows]
        else:
            assert self.pixels is not None
            groups = self.pixels.T if per == "channel" else self.pixels.reshape(1, -1)
            columns = [(np.sort(values), np.ones(values.size, np.int64)) for values in groups]
        return columns if per == "channel" else columns * count


def unit(image: Image) -> Affine:
    """[0,1]: x/255, or x/65535 at 16 bits.

    >>> unit(Image(names=("L",), white_level=255)).scale[0] == 1 / 255
    True
    """
    return Affine((1.0 / image.full(),) * len(image.names), (0.0,) * len(image.names))


def signed(image: Image) -> Affine:
    """[-1,1]: x/127.5 - 1, or x/32767.5 - 1 at 16 bits."""
    return Affine((2.0 / image.full(),) * len(image.names), (-1.0,) * len(image.names))


def contrast(image: Image, *, mean: Values, std: Values, zero_std: str = "error") -> Affine:
    """(x/255 - mean) / std, by the dataset's mean and std per channel.

    Float images without --max-value are not divided: their mean and std are in raw units. Mean and std come from
    --stats, --mean and --std, --preset, or are computed first.
    """
    white = float(image.white_level or 1)
    spread = _divisors(std, image.names, zero_std, "std")
    return Affine.centered([m * white for m in mean], [s * white for s in spread])


def caffe(image: Image, *, mean: Values = (123.68, 116.779, 103.939)) -> Affine:
    """Minus the ImageNet mean, range 0-255, written as BGR (Keras' mode="caffe").

    Args:
        image: three channels.
        mean: in RGB order, range 0-255.
    """
    if len(image.names) != len(mean):
        raise InputError(
            "channels", f"caffe maps {len(mean)} channels, not {len(image.names)} (--color rgb repeats gray)"
        )
    return Affine((255.0 / image.full(),) * len(mean), tuple(-m for m in mean))


def zscore(image: Image, *, per: str = "channel", eps: float = 0.0, zero_std: str = "error") -> Affine:
    """Each image by its own mean and std: (x - mean) / (std + eps).

    Args:
        image: its levels.
        per: "channel", or "image" for one mean and std over all channels.
        eps: added to the std, in levels as stored; albumentations adds 1e-4.
        zero_std: treatment of a constant channel.
    """
    mean, std = _moments(image, per)
    return Affine.centered(mean, _divisors([s + eps for s in std], image.names, zero_std, "std"))


def gcn(image: Image, *, scale: float = 1.0, sqrt_bias: float = 0.0, zero_std: str = "error") -> Affine:
    """Global contrast: scale * (x - mean) / sqrt(sqrt_bias + variance), over all channels of each image.

    Args:
        image: its levels.
        scale: std of the result.
        sqrt_bias: added to the variance, range 0-1 squared (Goodfellow et al., Deep Learning, 12.2.1.1).
        zero_std: what a constant image does.
    """
    mean, std = _moments(image, "image")
    bias = sqrt_bias * float(image.white_level or 1) ** 2
    spread = [math.sqrt(bias + s * s) if bias else s for s in std]
    divisors = _divisors(spread, image.names, zero_std, "std")
    return Affine.centered(mean, [d / _positive("scale", scale) for d in divisors])


def minmax(image: Image, *, per: str = "channel", eps: float = 0.0, zero_std: str = "error") -> Affine:
    """Each image from its own min and max to [0,1]: (x - min) / (max - min + eps).

    Args:
        image: its levels.
        per: "channel", or "image" for one range over all channels.
        eps: added to the range, in levels as stored; albumentations adds 1e-4.
        zero_std: treatment of a constant channel.
    """
    columns = image.columns(per)
    low = [float(values[0]) for values, _ in columns]
    width = [float(values[-1]) - bottom + eps for (values, _), bottom in zip(columns, low, strict=True)]
    return Affine.centered(low, _divisors(width, image.names, zero_std, "max - min"))


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
    """(x - p_lo) / (p_hi - p_lo), percentiles of each image or of the dataset.

    Values outside 0-1 stay, unless `clip` limits them.

    Args:
        image: its levels.
        lo: percentile that becomes 0.
        hi: percentile that becomes 1.
        over: "image", or "dataset" for the percentiles of all images together.
        per: "channel", or "image" for all channels together.
        low: the dataset's lower percentile per channel, range 0-1.
        high: the dataset's upper percentile per channel, range 0-1.
        zero_std: what equal percentiles do.
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
    return Affine.centered(bottom, _divisors(width, image.names, zero_std, f"{hi:g}% - {lo:g}%"))


def robust(
    image: Image, *, per: str = "channel", factor: float = 1.4826022185056018, zero_std: str = "error"
) -> Affine:
    """Each image by its own median and MAD: (x - median) / (factor * MAD).

    MAD is the median of |x - median|.

    Args:
        image: its levels.
        per: "channel", or "image" for all channels together.
        factor: 1.4826 makes the MAD of normally distributed values their std; 1 is the bare MAD.
        zero_std: what a MAD of 0 does.
    """
    _positive("factor", factor)
    median, mad = [], []
    for values, counts in image.columns(per):
        middle = _quantile(values, counts, 50)
        apart = np.abs(values - middle)
        order = np.argsort(apart, kind="stable")
        median.append(middle)
        mad.append(factor * _quantile(apart[order], counts[order], 50))
    return Affine.centered(median, _divisors(mad, image.names, zero_std, "MAD"))


def _moments(image: Image, per: str) -> tuple[list[float], list[float]]:
    """Return mean and population std; of integers from exact sums."""
    mean, std = [], []
    for values, counts in image.columns(per):
        if image.histogram is not None:
            pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
            n, s = sum(c for _, c in pairs), sum(v * c for v, c in pairs)
            spread = n * sum(v * v * c for v, c in pairs) - s * s
            mean.append(s / n)
            std.append(math.sqrt(spread) / n)
        else:
            middle = math.fsum(values.tolist()) / values.size
            mean.append(middle)
            std.append(math.sqrt(math.fsum(((values - middle) ** 2).tolist()) / values.size))
    return mean, std


def _quantile(values: Array, counts: Array, percent: float) -> float:
    """Return a percentile of sorted values with counts, linear between neighbors in rank, as numpy.percentile does."""
    until = np.cumsum(counts)
    last = int(until[-1]) - 1
    rank = percent / 100 * last
    below = min(int(rank), last)
    at = np.searchsorted(until, [below, min(below + 1, last)], side="right")
    bottom, top = float(values[at[0]]), float(values[at[1]])
    return bottom + (top - bottom) * (rank - below)


def _divisors(spread: Sequence[float], names: Sequence[str], zero_std: str, what: str) -> list[float]:
    """Return divisors; where a spread is 0, raise an error that names the channel, or use 1, or at least eps."""
    least = least_std(zero_std)
    if least is None:
        constant = [name for name, s in zip(names, spread, strict=True) if not s > 0]
        if constant:
            raise InputError(
                "constant", f"channel {', '.join(constant)} is constant ({what} 0): --zero-std one or eps:X maps it"
            )
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
