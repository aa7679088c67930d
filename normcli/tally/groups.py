"""Counts of a group of images: sums alone, so that a thousand classes of 16-bit images stay small."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from normcli.tally.exact import FLOAT_BITS

Key = tuple[int, str, int]


class Sums:
    """Exact sums over the images of one bucket; attributes as the bucket's.

    Attributes:
        channels, dtype, unit: the bucket's.
        images: number of images.
        weight: number of pixels times `unit`.
        total: per channel, sum of values; of floats in units of 2^-1074.
        squares: per channel, sum of squares; of floats in units of 2^-2148.
    """

    def __init__(self, channels: int, dtype: str, unit: int) -> None:
        self.channels, self.dtype, self.unit = channels, dtype, unit
        self.images = self.weight = 0
        self.total = [0] * channels
        self.squares = [0] * channels

    def add(self, images: int, weight: int, total: list[int], squares: list[int], sign: int = 1) -> None:
        """Add images, or subtract them with sign -1."""
        self.images += sign * images
        self.weight += sign * weight
        for c in range(self.channels):
            self.total[c] += sign * total[c]
            self.squares[c] += sign * squares[c]

    def sums(self, channel: int) -> tuple[Fraction, Fraction]:
        """Return sum and sum of squares of a channel's values, weighted."""
        bits = FLOAT_BITS if self.dtype == "float" else 0
        return Fraction(self.total[channel], 1 << bits), Fraction(self.squares[channel], 1 << 2 * bits)

    def is_valid(self) -> bool:
        """Return True if these can be sums over images."""
        spread = all(self.weight * q >= t * t for t, q in zip(self.total, self.squares, strict=True))
        return spread and self.images >= 0 and self.weight >= self.images


class Group:
    """Sums of one group, by bucket."""

    def __init__(self) -> None:
        self.parts: dict[Key, Sums] = {}

    @property
    def images(self) -> int:
        """Return the number of images."""
        return sum(part.images for part in self.parts.values())

    def count(self, key: Key, weight: int, total: list[int], squares: list[int]) -> None:
        """Add one image."""
        self._part(key).add(1, weight, total, squares)

    def add(self, other: "Group", sign: int = 1) -> None:
        """Add another group's images, or subtract them; parts left empty are dropped."""
        for key, part in other.parts.items():
            own = self._part(key)
            own.add(part.images, part.weight, part.total, part.squares, sign)
            if own.images == 0 and not any(own.squares):
                del self.parts[key]

    def is_valid(self) -> bool:
        """Return True if these can be sums over images."""
        return all(part.is_valid() for part in self.parts.values())

    def _part(self, key: Key) -> Sums:
        if key not in self.parts:
            self.parts[key] = Sums(*key)
        return self.parts[key]

    def state(self) -> list[dict[str, Any]]:
        """Return the sums as JSON values; large integers as text."""
        return [
            {
                "channels": part.channels,
                "dtype": part.dtype,
                "unit": part.unit,
                "images": part.images,
                "weight": part.weight,
                "total": [str(v) for v in part.total],
                "squares": [str(v) for v in part.squares],
            }
            for _, part in sorted(self.parts.items())
        ]

    @classmethod
    def from_state(cls, state: list[Mapping[str, Any]]) -> "Group":
        """Rebuild from `state`."""
        group = cls()
        for entry in state:
            total, squares = [int(v) for v in entry["total"]], [int(v) for v in entry["squares"]]
            if not len(total) == len(squares) == entry["channels"] or entry["unit"] not in (1, 255, 65535):
                raise ValueError("a group's sums of another number of channels or weight")
            key = (len(total), str(entry["dtype"]), int(entry["unit"]))
            group._part(key).add(int(entry["images"]), int(entry["weight"]), total, squares)
        if group.images < 1:
            raise ValueError("a group without images")
        return group
