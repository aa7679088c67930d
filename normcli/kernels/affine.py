"""The map that the kernels of `mapping` evaluate: one scale and one shift per channel."""

from collections.abc import Sequence
from typing import NamedTuple

Values = tuple[float, ...]


class Affine(NamedTuple):
    """y = x*scale + shift, per channel; evaluated in float64 and rounded once.

    >>> half = Affine((0.5,), (-1.0,))
    >>> half.inverse()
    Affine(scale=(2.0,), shift=(2.0,))
    """

    scale: Values
    shift: Values

    def inverse(self) -> "Affine":
        """Return the inverse affine: x = (y - shift) / scale."""
        pairs = zip(self.scale, self.shift, strict=True)
        return Affine(tuple(1.0 / s for s in self.scale), tuple(-b / s + 0.0 for s, b in pairs))

    def take(self, channels: Sequence[int]) -> "Affine":
        """Return the same map of other channels: reordered, or one repeated."""
        return Affine(tuple(self.scale[c] for c in channels), tuple(self.shift[c] for c in channels))

    def of_levels(self, scales: Sequence[tuple[float, float]]) -> "Affine":
        """Return this map of the values level * scale + offset as a map of the levels, by (scale, offset) per channel.

        >>> Affine((2.0,), (1.0,)).of_levels([(0.5, 3.0)])
        Affine(scale=(1.0,), shift=(7.0,))
        """
        rows = list(zip(self.scale, self.shift, scales, strict=True))
        return Affine(tuple(s * scale for s, _, (scale, _) in rows), tuple(s * o + t for s, t, (_, o) in rows))
