"""Values of single images and their sums over images: the conventions behind many published constants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class ImageMoments(NamedTuple):
    """Statistics of one image, per channel, in levels as stored.

    Attributes:
        weight: number of pixels, or the sum of their weights.
        mean: mean.
        std: population standard deviation.
        sample_std: the same with N-1, or None for a single pixel.
        low: smallest value.
        high: largest value.
    """

    weight: int
    mean: list[float]
    std: list[float]
    sample_std: list[float] | None
    low: list[float]
    high: list[float]


class CountedImage(NamedTuple):
    """One image as its bucket counted it: what its group counts as well.

    Attributes:
        weight: number of pixels, or the sum of their weights.
        sums: (C,2) sums of values and of squares, in the bucket's units.
        histogram: (C,bins) of the bucket; None where no group needs it.
        values: per-image values of float images; those of integer images follow from the sums.
        moments: mean, std and range, where they were asked for.
    """

    weight: int
    sums: Array
    histogram: Array | None
    values: "PerImage | None" = None
    moments: ImageMoments | None = None


@dataclass
class PerImage:
    """Sums over images of per-image values: the conventions behind many published constants.

    Every value is a float64, rounded once from exact integers, and stored as an integer multiple of 2^-bits.
    """

    channels: int
    bits: int
    images: int = 0
    sampled: int = 0  # images of two pixels and more: one pixel has no N-1 std
    mean: list[int] = field(default_factory=list)
    std: list[int] = field(default_factory=list)
    sample_std: list[int] = field(default_factory=list)
    variance: list[int] = field(default_factory=list)
    square: list[int] = field(default_factory=list)  # of the mean: what a std with equal weights needs

    SUMS = ("mean", "std", "sample_std", "variance", "square")

    def __post_init__(self) -> None:
        for name in self.SUMS:
            if not getattr(self, name):
                setattr(self, name, [0] * self.channels)

    def add(self, other: "PerImage", sign: int = 1) -> None:
        """Add the sums of other images, or subtract them with sign -1."""
        self.images += sign * other.images
        self.sampled += sign * other.sampled
        for name in self.SUMS:
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            setattr(self, name, [a + sign * b for a, b in pairs])

    def state(self) -> dict[str, Any]:
        """Return the sums as JSON values; large integers as text, which no reader rounds."""
        sums = {name: [str(v) for v in getattr(self, name)] for name in self.SUMS}
        return {"bits": self.bits, "images": self.images, "sampled": self.sampled, **sums}

    def is_valid(self, limit: int) -> bool:
        """Return True if these can be sums over images whose values stay below `limit`."""
        levels = self.images * limit << self.bits
        below = all(abs(v) <= levels for name in ("mean", "std") for v in getattr(self, name))
        spreads = all(v >= 0 for name in ("std", "sample_std", "variance") for v in getattr(self, name))
        return 0 <= self.sampled <= self.images and below and spreads

    @classmethod
    def from_state(cls, channels: int, bits: int, state: Mapping[str, Any]) -> "PerImage":
        """Rebuild from `state`."""
        sums = {name: [int(v) for v in state[name]] for name in cls.SUMS}
        if any(len(v) != channels for v in sums.values()) or state["bits"] != bits:
            raise ValueError("per-image sums of another number of channels or another scale")
        return cls(channels, bits, int(state["images"]), int(state["sampled"]), **sums)
