"""The values that each bin of a float histogram can contain."""

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_HALF = 1 << 15  # bins of either sign


@cache
def bin_bounds() -> tuple[Array, Array]:
    """Return the smallest and largest float64 of each bin (65536), in the order of values.

    A bin has the values whose nearest float32 has the same upper 16 bits. So a float64 may be just below the first
    float32 of its bin; halfway between two bins, the nearest float32 is the even one, which begins the farther bin.

    >>> from normcli.tally.floats import bins_of
    >>> low, high = bin_bounds()
    >>> one = int(bins_of(np.array([1.0]))[0])
    >>> float(low[one]), float(high[one]), int(bins_of(low[one])), int(bins_of(high[one])) == one
    (0.9999999701976776, 1.007812440395355, 49024, True)
    """
    first = np.arange(_HALF, dtype=np.uint32) << 16
    last = first | 0xFFFF

    def as_float(bits: Any) -> Array:
        with np.errstate(invalid="ignore"):  # some bit patterns are NaNs: their bins stay empty
            values: Array = bits.astype(np.uint32).view(np.float32).astype(np.float64)
        return values

    starts = (as_float(np.maximum(first, 1) - 1) + as_float(first)) / 2
    ends = np.append(starts[1:], np.inf)
    finite = np.isfinite(as_float(last))
    overflow = 2.0**128 - 2.0**103  # the nearest float32 of greater values is infinity
    starts = np.where(first == 0, 0.0, np.where(np.isfinite(as_float(first)), starts, overflow))
    ends = np.nextafter(np.where(np.isfinite(ends), ends, overflow), 0)
    ends = np.where(finite, ends, np.inf)
    return np.concatenate([-ends[::-1], starts]), np.concatenate([-starts[::-1], ends])
