"""Pixels of 8 and 16 bits, counted in histograms."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from normcli import kernels
from normcli.exact import packed, unpacked
from normcli.tally.per_image import Moments, PerImage

Array = np.ndarray[Any, Any]

_BITS = 64  # per-image values are held in units of 2^-64 of a level
_BINS = {"uint8": 256, "uint16": 65536}


class Integers:
    """Pixels of 8 or 16 bits: a histogram per channel, from which everything pooled follows.

    Args:
        channels: number of channels.
        dtype: "uint8" or "uint16".
        unit: weight of a pixel that counts fully: 1, or 255 or 65535 where pixels count by their alpha.
    """

    def __init__(self, channels: int, dtype: str, unit: int = 1) -> None:
        self.channels, self.dtype, self.unit = channels, dtype, unit
        self.histogram: Array = np.zeros((channels, _BINS[dtype]), np.int64)
        self._per_image = PerImage(channels, _BITS)
        self._rows: list[tuple[int, Array]] = []  # weight and sums (C,2) of images not yet in it

    def count(self, pixels: Array, weights: Array | None) -> tuple[int, Array]:
        """Add one image (H,W,C); give its weight and its sums (C,2) of values and of squares."""
        sums = np.empty((self.channels, 2), np.int64)
        weight = _count(pixels, weights, self.histogram, sums)
        self._rows.append((weight, sums))
        return weight, sums

    def moments(self, weight: int, sums: Array, pixels: Array) -> Moments:
        """Mean, std and range of the image that `count` just added."""
        mean, std, sample, *_ = self._values(np.array([weight]), sums[None])
        low, high = (bound(axis=(0, 1)).astype(float).tolist() for bound in (pixels.min, pixels.max))
        sampled = sample[0].tolist() if weight > self.unit else None
        return Moments(weight, mean[0].tolist(), std[0].tolist(), sampled, low, high)

    @property
    def per_image(self) -> PerImage:
        """Sums over images of per-image values; brings in the images counted since the last look, all at once."""
        if self._rows:
            weights = np.array([row[0] for row in self._rows], np.int64)
            values = self._values(weights, np.array([row[1] for row in self._rows]))
            several = weights > self.unit
            self._rows.clear()
            self._per_image.images += len(weights)
            self._per_image.sampled += int(several.sum())
            for name, value in zip(PerImage.SUMS, values, strict=True):
                kept = value[several] if name == "sample_std" else value
                sums = getattr(self._per_image, name)
                for c in range(self.channels):
                    sums[c] += sum(map(int, np.ldexp(kept[:, c], _BITS).tolist()))
        return self._per_image

    def _values(self, weights: Array, sums: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Per-image mean, std, N-1 std, variance and squared mean (B,C), from exact integers.

        n*q - s*s is exact: in int64 where it fits, else in Python's integers. What follows is one float64
        division and one square root, which IEEE 754 rounds alike on every machine.
        """
        n, s, q = weights[:, None], sums[:, :, 0], sums[:, :, 1]
        if int(weights.max()) * int(q.max()) < 1 << 62:
            spread = (n * q - s * s).astype(np.float64)
        else:
            spread = (n.astype(object) * q.astype(object) - s.astype(object) ** 2).astype(np.float64)
        n_ = n.astype(np.float64)
        roots = np.sqrt(spread)
        pairs = n_ * np.maximum(n - self.unit, 1).astype(np.float64)
        mean = s / n_
        return mean, roots / n_, roots / np.sqrt(pairs), spread / (n_ * n_), mean * mean

    def add(self, other: "Integers", sign: int = 1) -> None:
        """Add (or take away) the counts of other images."""
        if sign == 1:
            self.histogram += other.histogram
        else:
            self.histogram = self.histogram - other.histogram
        self.per_image.add(other.per_image, sign)

    @property
    def weight(self) -> int:
        """Number of pixels times `unit`."""
        return int(self.histogram[0].sum())

    def sums(self, channel: int) -> tuple[int, int]:
        """Sum and sum of squares of a channel's values, weighted, as Python's integers."""
        bins = np.flatnonzero(self.histogram[channel])
        total = squares = 0
        for value, count in zip(bins.tolist(), self.histogram[channel][bins].tolist(), strict=True):
            total += value * count
            squares += value * value * count
        return total, squares

    def range(self, channel: int) -> tuple[int, int]:
        """Smallest and largest value of a channel."""
        bins = np.flatnonzero(self.histogram[channel])
        return int(bins[0]), int(bins[-1])

    def is_sound(self) -> bool:
        """Say whether the counts can be those of images: what a wrong subtraction breaks."""
        totals = self.histogram.sum(axis=1)
        return bool((self.histogram >= 0).all() and (totals == totals[0]).all() and self.per_image.images >= 0)

    def is_empty(self) -> bool:
        """Say whether nothing is left after taking away."""
        return self.per_image.images == 0 and not self.histogram.any()

    def state(self) -> dict[str, Any]:
        """Give the counts as JSON values."""
        return {
            "channels": self.channels,
            "dtype": self.dtype,
            "unit": self.unit,
            "histogram": [packed(row) for row in self.histogram.tolist()],
            "per_image": self.per_image.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Integers":
        """Read what `state` gave."""
        one = cls(int(state["channels"]), str(state["dtype"]), int(state["unit"]))
        if len(state["histogram"]) != one.channels:
            raise ValueError("histograms of another number of channels")
        one.histogram[:] = [unpacked(row, _BINS[one.dtype]) for row in state["histogram"]]
        one._per_image = PerImage.from_state(one.channels, state["per_image"])
        return one


# Loading Numba costs 0.4 s of processor time, as much again to wait for it, and 120 MB. Until the detour below
# has cost as much, 8-bit images take it: Pillow's histogram or NumPy's bincount, 0.9 ns a pixel and 9 us an image
# dearer. So a small folder never pays for the load, and a large one pays at most twice.
_LOADING = 0.8
_detour = 0.0


def _count(pixels: Array, weights: Array | None, histogram: Array, sums: Array) -> int:
    """Add one integer image to a histogram (C,bins), fill in its sums (C,2), give its weight."""
    global _detour
    channels = pixels.shape[2]
    simple = pixels.dtype == np.uint8 and weights is None and channels in (1, 3)
    compiled = kernels.loaded(wait=not simple)
    if compiled is None:
        _detour += 9e-6 + 0.9e-9 * pixels.size / channels
        if _detour > _LOADING:
            kernels.start()
        return _count_without_numba(pixels, weights, histogram, sums)
    flat = pixels.reshape(-1)
    if simple:
        (compiled.count_rgb8 if channels == 3 else compiled.count_gray8)(flat, histogram, sums)
        return int(flat.size // channels)
    weight_of = np.empty(0, pixels.dtype) if weights is None else weights.reshape(-1)
    return int(compiled.count_integers(flat, weight_of, histogram, sums))


def _count_without_numba(pixels: Array, weights: Array | None, histogram: Array, sums: Array) -> int:
    height, width, channels = pixels.shape
    bins = histogram.shape[1]
    own: Array
    if pixels.dtype == np.uint8 and weights is None and pixels.size <= _SMALL:
        shifted = pixels.reshape(-1, channels) + _offsets(channels)
        own = np.bincount(shifted.reshape(-1), minlength=channels * 256).reshape(channels, 256)
    elif pixels.dtype == np.uint8 and weights is None and channels in (1, 3):
        from PIL import Image

        mode = "L" if channels == 1 else "RGB"
        image = Image.frombuffer(mode, (width, height), np.ascontiguousarray(pixels), "raw", mode, 0, 1)
        own = np.array(image.histogram(), np.int64).reshape(channels, 256)
    else:
        flat = pixels.reshape(-1, channels)
        own = np.zeros(histogram.shape, np.int64)
        for c in range(channels):
            if weights is None:
                own[c] = np.bincount(flat[:, c], minlength=bins)
            else:
                np.add.at(own[c], flat[:, c], weights.reshape(-1).astype(np.int64))
    histogram += own
    sums[:] = own @ _powers(bins)
    return height * width if weights is None else int(own[0].sum())


_SMALL = 10_000  # samples; below it NumPy's bincount is faster than Pillow's histogram (8 us against 57)


@cache
def _offsets(channels: int) -> Array:
    """Where each channel's 256 bins begin."""
    return np.arange(channels) * 256


@cache
def _powers(bins: int) -> Array:
    """Values and their squares (bins,2)."""
    values = np.arange(bins, dtype=np.int64)
    return np.stack([values, values * values], axis=1)
