"""Counts of float pixels in raw units, summed without rounding."""

import math
import threading
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.kernels.kernel import contiguous
from normcli.tally.exact import (
    FLOAT_BITS,
    nearest_quotient,
    run_length_decode,
    run_length_encode,
    sqrt_ratio,
    to_fixed_point,
    trailing_zeros,
)
from normcli.tally.extremes import ExtremeValues
from normcli.tally.integers import CountedImage, ImageMoments, PerImage, one_if_equal, per_channel

Array = np.ndarray[Any, Any]

_BINS = 65536
LARGEST = float(np.finfo(np.float32).max)  # percentiles are counted by the bits of float32
_BIAS = 1023  # of the exponents that float64 stores


class Floats:
    """Pixels in raw units: sums of values and of squares as exact integers.

    Attributes:
        weights: per channel, the number of pixels counted.
        invalid: per channel, the pixels that do not count in it.
        not_finite: per channel, the other pixels left out, which are NaN or infinite.
        histogram: (C,65536), by the upper 16 bits of the value as float32: 8 significant bits. For percentiles.
        total: per channel, the sum of values in units of 2^-1074.
        squares: per channel, the sum of squares in units of 2^-2148.
        lowest: per channel, the smallest per-image minima; `highest` the largest maxima. A minimum alone could
            not be subtracted; with the next ones known it can.
    """

    def __init__(self, channels: int) -> None:
        self.channels, self.dtype, self.unit = channels, "float", 1
        self.weights, self.invalid, self.not_finite = ([0] * channels for _ in range(3))
        self.histogram: Array = np.zeros((channels, _BINS), np.int64)
        self.total = [0] * channels
        self.squares = [0] * channels
        self.lowest = [ExtremeValues() for _ in range(channels)]
        self.highest = [ExtremeValues() for _ in range(channels)]  # of negated values: one order serves both
        self.per_image = PerImage(channels, FLOAT_BITS)

    def count(self, pixels: Array, nan: str, *, group: bool = True) -> CountedImage:
        """Add one image (H,W,C); return its counts in the units above, with its moments.

        Args:
            pixels: float32, float64 or int16.
            nan: treatment of a NaN or infinity: "error" or "skip".
            group: a group needs the image's own histogram.

        Raises:
            InputError: NaN or infinity where `nan` is "error", nothing finite, or values over 3.4e38.
        """
        own = np.zeros_like(self.histogram) if group else None  # 1.5 MB: 200 us where the sums of a small image take 80
        weight, total, squares, extremes = sum_floats(pixels, self.histogram if own is None else own)
        is_finite = weight == pixels.shape[0] * pixels.shape[1]
        if own is None and not (is_finite and np.abs(extremes).max() <= LARGEST):
            own = np.zeros_like(self.histogram)
            sum_floats(pixels, own)
            self.histogram -= own  # as before: what follows raises, or counts it in another way
        if not is_finite:
            from normcli.tally.valid import count_valid  # a NaN in one channel says nothing of the others

            return count_valid(self, pixels, None, np.ones(pixels.shape, bool), nan)
        none = [0] * self.channels
        return self.count_sums([weight] * self.channels, (none, none), own, total, squares, extremes)

    def count_sums(
        self,
        weights: list[int],
        left_out: tuple[list[int], list[int]],
        own: Array | None,
        total: list[int],
        squares: list[int],
        extremes: Array,
    ) -> CountedImage:
        """Add one image by its sums, histogram (C,65536) and extremes (C,2); return its counts.

        Args:
            weights: pixels counted in each channel.
            left_out: pixels of each channel that are invalid, and others that are not finite.
            own: its histogram; None where it is in that of the bucket already.
            total: its sums of values.
            squares: its sums of squares.
            extremes: smallest and largest value; NaN in a channel without a pixel.

        Raises:
            InputError: values over 3.4e38.
        """
        counted = np.array(weights) > 0
        if np.abs(extremes[counted]).max() > LARGEST:
            raise InputError(
                "unsupported", "values over 3.4e38, the largest float32 (--nodata leaves out those of missing samples)"
            )
        self.weights = [a + b for a, b in zip(self.weights, weights, strict=True)]
        self.invalid = [a + b for a, b in zip(self.invalid, left_out[0], strict=True)]
        self.not_finite = [a + b for a, b in zip(self.not_finite, left_out[1], strict=True)]
        if own is not None:
            self.histogram += own
        one = PerImage(self.channels, FLOAT_BITS, 1, [int(w > 0) for w in weights], [int(w > 1) for w in weights])
        scatter = one.scatter = [0] * self.channels
        mean, std, sample_std = [math.nan] * self.channels, [math.nan] * self.channels, [0.0] * self.channels
        for c in np.flatnonzero(counted).tolist():
            weight = weights[c]
            self.total[c] += total[c]
            self.squares[c] += squares[c]
            low, high = float(extremes[c, 0]), float(extremes[c, 1])
            # 0 has two signs, which are equal as keys: the first to come would stay, and show in the state
            self.lowest[c].add_value(low + 0.0)
            self.highest[c].add_value(0.0 - high)
            # values of one image have few bits: without the zeros at their end, integers of 2,148 bits become short
            zeros = _common_zeros(total[c], squares[c])
            values, shift = total[c] >> zeros, 2 * zeros - FLOAT_BITS
            square = values * values
            spread = weight * (squares[c] >> 2 * zeros) - square
            mean[c] = _quotient(values, weight, zeros - FLOAT_BITS)
            std[c] = _root(spread, weight * weight, shift - FLOAT_BITS)
            if weight > 1:
                sample_std[c] = _root(spread, weight * (weight - 1), shift - FLOAT_BITS)
            # not the rounded moments: means around 1e32 that cancel would leave a sum of nothing but their roundings
            one.mean[c] = nearest_quotient(values, weight, zeros)
            one.variance[c] = nearest_quotient(spread, weight * weight, shift)
            one.square[c] = nearest_quotient(square, weight * weight, shift)
            scatter[c] = nearest_quotient(spread, weight, shift)
            one.std[c] = to_fixed_point(std[c])
            one.sample_std[c] = to_fixed_point(sample_std[c])
        self.per_image.add(one)
        moments = ImageMoments(list(weights), mean, std, extremes[:, 0].tolist(), extremes[:, 1].tolist())
        return CountedImage(np.array(weights), np.array([total, squares], dtype=object).T, own, one, moments)

    def add(self, other: "Floats", sign: int = 1) -> None:
        """Add the sums of other images, or subtract them with sign -1."""
        for name in ("weights", "invalid", "not_finite"):
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            setattr(self, name, [a + sign * b for a, b in pairs])
        (np.add if sign == 1 else np.subtract)(self.histogram, other.histogram, out=self.histogram)
        for c in range(self.channels):
            self.total[c] += sign * other.total[c]
            self.squares[c] += sign * other.squares[c]
            self.lowest[c].add(other.lowest[c], sign)
            self.highest[c].add(other.highest[c], sign)
        self.per_image.add(other.per_image, sign)

    @property
    def left_out(self) -> list[int]:
        """Return the pixels of each channel that do not count: invalid, NaN or infinite."""
        return [a + b for a, b in zip(self.invalid, self.not_finite, strict=True)]

    @property
    def images(self) -> int:
        """Return the number of images."""
        return self.per_image.images

    def sums(self, channel: int) -> tuple[Fraction, Fraction]:
        """Return sum and sum of squares of a channel's values."""
        return (
            Fraction(self.total[channel], 1 << FLOAT_BITS),
            Fraction(self.squares[channel], 1 << 2 * FLOAT_BITS),
        )

    def range(self, channel: int) -> tuple[float, float] | None:
        """Return smallest and largest value, or None if subtraction removed every one that was known."""
        low, high = self.lowest[channel].first(), self.highest[channel].first()
        return None if low is None or high is None else (low, 0.0 - high)

    def is_valid(self) -> bool:
        """Return True if the sums can be those of images."""
        spread = all(w * q >= t * t for w, t, q in zip(self.weights, self.total, self.squares, strict=True))
        counted = (self.histogram >= 0).all() and (self.histogram.sum(axis=1) == self.weights).all()
        parts = self.weights, self.invalid, self.not_finite
        same_size = len({sum(each) for each in zip(*parts, strict=True)}) == 1 and min(map(min, parts)) >= 0
        some = [weight > 0 for weight in self.weights] == [n > 0 for n in self.per_image.counted]
        return bool(spread and counted and same_size and some and self.per_image.is_valid(1 << 512))

    def is_empty(self) -> bool:
        """Return True if no image is left after subtraction."""
        return self.per_image.images == 0 and not any(self.weights) and not any(self.squares)

    def state(self) -> dict[str, Any]:
        """Return the sums as JSON values."""
        return {
            "channels": self.channels,
            "dtype": self.dtype,
            "pixels": one_if_equal(self.weights),
            **({"invalid": self.invalid} if any(self.invalid) else {}),
            "not_finite": one_if_equal(self.not_finite),
            "histogram": [run_length_encode(row) for row in self.histogram.tolist()],
            "total": [str(v) for v in self.total],
            "squares": [str(v) for v in self.squares],
            "lowest": [e.state() for e in self.lowest],
            "highest": [e.state() for e in self.highest],
            "per_image": self.per_image.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Floats":
        """Rebuild from `state`."""
        channels = len(state["histogram"])
        lists = (state["total"], state["squares"], state["lowest"], state["highest"])
        if channels != state["channels"] or any(len(row) != channels for row in lists):
            raise ValueError("sums of another number of channels")
        one = cls(channels)
        parts = state["pixels"], state.get("invalid", 0), state["not_finite"]
        one.weights, one.invalid, one.not_finite = (per_channel(part, channels) for part in parts)
        one.histogram[:] = [run_length_decode(row, _BINS) for row in state["histogram"]]
        one.total = [int(v) for v in state["total"]]
        one.squares = [int(v) for v in state["squares"]]
        one.lowest = [ExtremeValues.from_state(row) for row in state["lowest"]]
        one.highest = [ExtremeValues.from_state(row) for row in state["highest"]]
        one.per_image = PerImage.from_state(channels, FLOAT_BITS, state["per_image"])
        return one


def bin_values() -> Array:
    """Return the value of each bin of the histogram (65536): the upper 16 bits of a float32, the rest cut off.

    >>> values = bin_values()
    >>> values[bins_of(np.float32([0.5, -1.0]))].tolist()
    [0.5, -1.0]
    """
    keys = np.arange(_BINS, dtype=np.uint32)
    bits = np.where(keys >> 15 == 1, keys & 0x7FFF, ~keys & 0xFFFF)
    with np.errstate(invalid="ignore"):  # some bit patterns are NaNs: their bins stay empty
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def bins_of(values: Array) -> Array:
    """Return the bin of each finite value; the order of bins is the order of values."""
    with np.errstate(over="ignore"):
        bits = np.asarray(values, np.float32).view(np.uint32) >> 16
    return np.where(bits >> 15 == 1, 0xFFFF - bits, bits | 0x8000).astype(np.int64)


class _Scratch(threading.local):
    """Zeros of this thread, which `sum_floats` leaves as zeros; taken out while it adds to them."""

    def __init__(self) -> None:
        self.bins: dict[int, Array] = {}  # by number of channels, of images with few


_scratch = _Scratch()
_FEW = 4
_MANY = 1 << 17  # pixels from which a histogram of integers is faster: 2 to 6 ns a sample for 14, and 1 ms for its bins


def sum_floats(pixels: Array, histogram: Array) -> tuple[int, list[int], list[int], Array]:
    """Return pixels used, sums (2^-1074), sums of squares (2^-2148) and extremes (C,2) of one image, exactly.

    Args:
        pixels: (H,W,C) of float32, float64 or int16.
        histogram: (C,65536), added to as in `Floats`.
    """
    channels = pixels.shape[2]
    is_large = channels <= _FEW and _MANY <= pixels.size // channels < 1 << 32
    if is_large:
        from normcli.tally.signed_integers import sum_integers  # few images are so large

        if (sums := sum_integers(pixels, histogram)) is not None:
            return sums
    from normcli.kernels import histograms as loops

    if pixels.dtype.kind == "i":
        pixels = pixels.astype(np.float32)
    extremes = np.empty((channels, 2))
    extremes[:] = np.inf, -np.inf
    bins = _scratch.bins.pop(channels, None)
    if bins is None:
        bins = np.zeros((2, channels, loops.EXPONENTS, 2), np.int64)
    used = np.array([0, loops.EXPONENTS, 0], np.int64)
    flat = contiguous(pixels).reshape(-1)
    if loops.count_floats.try_call(flat, histogram, bins[0], bins[1], extremes, used):
        totals, squares = _take_sums(bins, *used[1:].tolist())
        if channels <= _FEW:
            _scratch.bins[channels] = bins
        return int(used[0]), totals, squares, extremes
    rows = pixels.reshape(-1, channels)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows):
        extremes[:, 0], extremes[:, 1] = rows.min(axis=0), rows.max(axis=0)
    for c in range(channels):
        histogram[c] += np.bincount(bins_of(rows[:, c]), minlength=_BINS)
    exact = [[to_fixed_point(float(v)) for v in rows[:, c]] for c in range(channels)]
    return len(rows), [sum(c) for c in exact], [sum(v * v for v in c) for c in exact], extremes


def _take_sums(bins: Array, lowest: int, highest: int) -> list[list[int]]:
    """Combine sums by exponent (2,C,bins,2) into two integers per channel, and set them to zero.

    Args:
        bins: sums of values and of squares, as the kernel adds them.
        lowest: the smallest exponent of a value other than 0, as float64 stores it; above `highest` for zeros alone.
        highest: the largest one.
    """
    from normcli.kernels.histograms import EXPONENTS, SHIFT

    # exponents of x^2 = (high + low)^2: up to that of 4^(e+1), where high is rounded up; down to low^2, 104 below 4^e
    ends = (lowest, highest + 1), (2 * lowest - _BIAS - 104, 2 * highest - _BIAS + 3)
    if lowest < _BIAS - 390 or highest > _BIAS + 500:  # the kernel scales tiny values; squares may overflow
        ends = ((-SHIFT, EXPONENTS - SHIFT),) * 2
    out: list[list[int]] = []
    for part, (first, last), extra in zip(bins, ends, (0, FLOAT_BITS), strict=True):
        within = part[:, SHIFT + first : SHIFT + last] if highest else part[:, :0]
        sums = []
        for row in within.tolist():
            mantissas = sum(((high << 26) + low) << i for i, (high, low) in enumerate(row) if high or low)
            power = first - 1 + extra
            sums.append(mantissas << power if power >= 0 else mantissas >> -power)  # what is shifted out is zero
        within[...] = 0
        out.append(sums)
    return out


def _common_zeros(total: int, squares: int) -> int:
    """Return n so that 2^n divides a sum of values, and 2^2n the sum of their squares."""
    if squares == 0:
        return FLOAT_BITS
    zeros = trailing_zeros(squares) // 2
    return min(zeros, trailing_zeros(total)) if total else zeros


def _quotient(numerator: int, denominator: int, shift: int) -> float:
    """Return numerator * 2^shift / denominator, rounded once."""
    return (numerator << shift) / denominator if shift >= 0 else numerator / (denominator << -shift)


def _root(numerator: int, denominator: int, shift: int) -> float:
    """Return the square root of numerator * 2^shift / denominator, rounded once."""
    return sqrt_ratio(numerator << max(shift, 0), denominator << max(-shift, 0))
