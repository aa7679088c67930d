"""Reinhard's color transfer: mean and std of L*, a* and b* of an image become those of a target.

Reinhard et al., "Color transfer between images" (IEEE CG&A 21(5), 2001), equations 10 and 11, in CIE L*a*b* as
StainTools, HistomicsTK and torchstain compute it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.kernels.affine import Affine
from normcli.kernels.lab import BRIGHTEST_TISSUE, lab_of, rgb_of

Array = np.ndarray[Any, Any]
_AT_ONCE = 1 << 16  # pixels whose L*a*b* is computed together


class ColorTransfer(NamedTuple):
    """A map of RGB by an affine in L*a*b*; the result is limited to 0-1.

    Attributes:
        affine: of L*, a* and b*.
        white: level of full intensity.
    """

    affine: Affine
    white: float

    def __call__(self, levels: Array) -> Array:
        """Map levels (…,3) of RGB; return float64 from 0 to 1."""
        lab = lab_of(levels, self.white)
        return rgb_of(lab * np.array(self.affine.scale) + np.array(self.affine.shift))


def moments(pixels: Array, white: float, *, tissue: bool) -> tuple[list[float], list[float]]:
    """Return mean and population std of L*, a* and b* of RGB pixels (N,3).

    Args:
        pixels: levels.
        white: level of full intensity.
        tissue: count pixels with an L* below 80 only.

    Raises:
        InputError: no pixel counts.
    """
    count = 0
    origin, total, squares = np.zeros(3), np.zeros(3), np.zeros(3)
    for lab in _blocks(pixels, white):
        counted = lab[lab[:, 0] < BRIGHTEST_TISSUE] if tissue else lab
        if not count and len(counted):
            origin = counted[0]  # sums of differences: those of a constant image are 0
        count += len(counted)
        total += (counted - origin).sum(axis=0)
        squares += np.square(counted - origin).sum(axis=0)
    if not count:
        raise InputError("no-tissue", "no pixel has an L* below 80 (mask=none counts all)")
    mean = total / count
    return (origin + mean).tolist(), np.sqrt(np.maximum(squares / count - mean * mean, 0)).tolist()


def _blocks(pixels: Array, white: float) -> Iterator[Array]:
    return (lab_of(pixels[start : start + _AT_ONCE], white) for start in range(0, len(pixels), _AT_ONCE))
