"""Precision of number types: units in the last place, and the numbers that a rounded one can come from."""

from typing import Any

import numpy as np

from normcli.tensor.normalizers.views import Array, cast

# significant bits, and the exponent of the smallest subnormal
_FORMATS = {"float16": (11, -24), "bfloat16": (8, -133), "float32": (24, -149), "float64": (53, -1074)}


def ulps(y: Array, dtype: np.dtype[Any]) -> Array:
    """Return the unit in the last place of every number.

    >>> (ulps(np.array([1.0, 0.75, 0.0]), np.dtype(np.float16)) * 2.0**24).tolist()
    [16384.0, 8192.0, 1.0]
    """
    bits, lowest = _FORMATS[dtype.name]
    exponent = np.frexp(y)[1]
    return np.ldexp(1.0, np.where(y == 0, lowest, np.maximum(exponent - bits, lowest)))


def unit_roundoff(dtype: np.dtype[Any]) -> float:
    """Return the unit roundoff of arithmetic for a result of a type: float32 at least."""
    return 2.0**-53 if dtype == np.float64 else 2.0**-24


def is_half(dtype: np.dtype[Any]) -> bool:
    """Return true for float16 and bfloat16."""
    return dtype.name in ("float16", "bfloat16")


def round_to(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return float64 numbers rounded to a type, as float64."""
    with np.errstate(all="ignore"):
        return cast(np.asarray(values, np.float64), dtype).astype(np.float64)


def _step_up(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return the distance from numbers of a type to the next larger one: half an ulp from a negative power of two."""
    steps = ulps(values, dtype)
    return np.where(np.frexp(values)[0] == -0.5, np.maximum(0.5 * steps, 2.0 ** _FORMATS[dtype.name][1]), steps)


def bounds_before_rounding(low: Array, high: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return the range of the numbers that round into [low, high]; empty, low > high, where no number of the type is.

    >>> low, high = bounds_before_rounding(np.array([0.9996]), np.array([1.0001]), np.dtype(np.float16))
    >>> low.tolist(), high.tolist()
    ([0.999755859375], [1.00048828125])
    """
    with np.errstate(all="ignore"):
        first, last = round_to(low, dtype), round_to(high, dtype)
        first = np.where(first < low, first + _step_up(first, dtype), first)
        last = np.where(last > high, last - _step_up(-last, dtype), last)
        return first - 0.5 * _step_up(-first, dtype), last + 0.5 * _step_up(last, dtype)


def distance_in_ulps(y: Array, expected: Array, dtype: np.dtype[Any]) -> Array:
    """Return the distance of every number from the expected one, in ulps of the larger."""
    with np.errstate(all="ignore"):
        gap = np.abs(y - expected) / ulps(np.maximum(np.abs(y), np.abs(expected)), dtype)
    return np.where(y == expected, 0.0, gap)
