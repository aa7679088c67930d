"""Nyul and Udupa's histogram standardization: percentiles of a case are mapped to landmarks of the training cases.

Nyul, Udupa and Zhang, "New variants of a method of MRI scale standardization" (IEEE TMI 19(2), 2000), section II, as
TorchIO's HistogramStandardization computes it: landmarks are averages over cases, from 0 to 100.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError, UsageError
from normcli.kernels.affine import Values

Array = np.ndarray[Any, Any]
_TOP = 100.0  # of the standard scale


def percents(lo: float, hi: float) -> tuple[float, ...]:
    """Return the percentages of the landmarks: both ends and the deciles.

    >>> percents(1, 99)
    (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)

    Raises:
        UsageError: ends that are no percentages outside of the deciles.
    """
    if not (0 <= lo < 10 and 90 < hi <= 100):
        raise UsageError(f"`scheme`: nyul requires 0 <= LO < 10 and 90 < HI <= 100, not {lo:g},{hi:g}")
    return float(lo), *(float(p) for p in range(10, 100, 10)), float(hi)


def train(cases: Iterable[tuple[str, Values]]) -> Values:
    """Return the landmarks of one channel: percentiles of every case, scaled to 0-100 by its ends, averaged.

    Args:
        cases: names, and percentiles by `percents`.

    Raises:
        UsageError: a case whose ends are equal.
    """
    rows = []
    for name, row in cases:
        width = row[-1] - row[0]
        if not width > 0:
            raise UsageError(
                f"`scheme` nyul: the lowest and highest percentile of {name or 'an image'} are equal (`nodata` 0, or "
                "a mask, leaves its background out)"
            )
        rows.append([_TOP * (value - row[0]) / width for value in row])
    return tuple(np.mean(rows, axis=0).tolist())


class Segments(NamedTuple):
    """A map that is linear between the percentiles of each channel, and beyond them as in the outermost segments.

    Attributes:
        knots: (C,11), rising, in the values of the pixels.
        landmarks: (C,11), the values at the knots.
        least: a segment that is narrower has the value of its start.
    """

    knots: Array
    landmarks: Array
    least: float

    def __call__(self, levels: Array) -> Array:
        """Map levels (…,C); return float64."""
        out = np.empty(levels.shape)
        for c, (knots, landmarks) in enumerate(zip(self.knots, self.landmarks, strict=True)):
            width = np.diff(knots)
            slope = np.diff(landmarks) / np.where(width < self.least, np.inf, width)
            offset = landmarks[:-1] - slope * knots[:-1]
            x = levels[..., c].astype(np.float64)
            segment = np.searchsorted(knots[1:-1], x, side="right")
            out[..., c] = x * slope[segment] + offset[segment]
        return out


class Landmarks(NamedTuple):
    """The landmarks of training cases, and the percentiles of the cases to map.

    Attributes:
        standard: landmarks per channel.
        cases: by name, percentiles per channel, in the units of the statistics; empty where each image is a case.
    """

    standard: tuple[Values, ...]
    cases: dict[str, tuple[Values, ...]]

    def record(self) -> dict[str, Any]:
        """Return the object for the manifest."""
        cases = {name: [list(row) for row in rows] for name, rows in self.cases.items()}
        return {"standard": [list(row) for row in self.standard], **({"cases": cases} if cases else {})}

    def of_case(self, name: str) -> tuple[Values, ...]:
        """Return the percentiles of a case.

        Raises:
            InputError: it was not counted.
        """
        if name not in self.cases:
            raise InputError("changed", f"its case {name!r} is new since the inputs were counted")
        return self.cases[name]
