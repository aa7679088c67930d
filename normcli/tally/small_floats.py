"""Small images of floats, counted many at once with the same bits as one by one.

`Floats.count_sums` computes one image in integers of 1,100 bits, this module the same for a block: of sums of
quotients that are each rounded to an integer, the remainders suffice, and they fit in int64; roots are computed in
pairs of float64, and one that is too near to halfway between two float64 is left to integers.
"""

import math
from typing import Any

import numpy as np

from normcli.kernels.kernel import contiguous
from normcli.tally.exact import FLOAT_BITS, sqrt_ratio
from normcli.tally.floats import Floats
from normcli.tally.integers import PerImage

Array = np.ndarray[Any, Any]

_BITS = 46  # of the values as integers
_HALF = 23


def count_small_floats(bucket: Floats, block: Array) -> Array:
    """Add images (B,P,C) to a bucket; return which of them (B) are counted.

    Args:
        bucket: of C channels.
        block: of float32 or float64; P is at most 2^15.

    Returns:
        False for an image with NaN or infinity, or whose values have more than 46 bits between the largest of the
        block and the last bit of any: those are for `Floats.count`.
    """
    from normcli.kernels import histograms as loops

    images, pixels, channels = block.shape
    done: Array = np.zeros(images, np.int64)
    peak = max(float(block.max()), -float(block.min()))
    if not math.isfinite(peak):
        peak = float(np.abs(block[np.isfinite(block)]).max(initial=0))
    shift = _BITS - math.frexp(peak)[1]
    if not -450 < shift < 500:  # all that follows is an integer in units of 2^-1074
        return done.astype(bool)
    sums: Array = np.empty((images, channels, 4), np.int64)
    extremes: Array = np.empty((images, channels, 2))
    if not loops.sum_small_floats.try_call(contiguous(block), 2.0**shift, bucket.histogram, sums, extremes, done):
        return done.astype(bool)
    counted = done.astype(bool)
    if counted.any():
        _add(bucket, pixels, shift, sums[counted], extremes[counted])
    return counted


def _add(bucket: Floats, pixels: int, shift: int, sums: Array, extremes: Array) -> None:
    """Add images of `pixels` pixels to a bucket: sums (B,C,4) in units of 2^-shift, extremes (B,C,2)."""
    images = len(sums)
    several = images if pixels > 1 else 0
    one = PerImage(bucket.channels, FLOAT_BITS, images, [images] * bucket.channels, [several] * bucket.channels)
    one.scatter = [0] * bucket.channels
    unit = FLOAT_BITS - shift
    for c in range(bucket.channels):
        values = sums[:, c, 0]
        parts: list[list[int]] = sums[:, c].tolist()
        squares = [(aa << 2 * _HALF) + (ab << _HALF + 1) + bb for _, aa, ab, bb in parts]
        total, square = sum(row[0] for row in parts), sum(squares)
        spreads = [pixels * q - row[0] * row[0] for q, row in zip(squares, parts, strict=True)]
        spread = sum(spreads)
        bucket.weights[c] += images * pixels
        bucket.total[c] += total << unit
        bucket.squares[c] += square << 2 * unit
        for low, high in extremes[:, c].tolist():
            bucket.lowest[c].add_value(low + 0.0)
            bucket.highest[c].add_value(0.0 - high)
        fourth = 2 * pixels * pixels
        residues = np.array([s % fourth for s in spreads])
        fine = FLOAT_BITS - 2 * shift
        one.mean[c] = _rounded_sum(total, values, pixels, unit)
        one.square[c] = _rounded_sum(pixels * square - spread, (values % fourth) ** 2, pixels * pixels, fine)
        one.variance[c] = _rounded_sum(spread, residues, pixels * pixels, fine)
        one.scatter[c] = _rounded_sum(spread, residues, pixels, fine)
        one.std[c] = _sum_of(square_roots(spreads, pixels * pixels)) << unit >> _FRACTION
        if pixels > 1:
            one.sample_std[c] = _sum_of(square_roots(spreads, pixels * (pixels - 1))) << unit >> _FRACTION
    bucket.per_image.add(one)


def _rounded_sum(total: int, values: Array, divisor: int, shift: int) -> int:
    """Return the sum of `nearest_quotient(value, divisor, shift)`, by the sum of values and their remainders.

    Args:
        total: sum of the values.
        values: integers (B) that are the values modulo twice the divisor, which is below 2^31.
        divisor: positive.
        shift: 0 or more.

    >>> _rounded_sum(12, np.array([5, 7]), 3, 1)  # 10 / 3 and 14 / 3
    8
    """
    modulus = 2 * divisor
    rests = (values % modulus * pow(2, shift + 1, modulus) + divisor) % modulus
    return ((total << shift + 1) + len(values) * divisor - int(rests.sum())) // modulus


_FRACTION = 96  # bits after the point of a root's last bit: one of 1 / 2^15 has 53 from there on


def _sum_of(values: Array) -> int:
    """Return the sum of float64 (B) that are 0, or from 2^-40 to below 2^48, in units of 2^-96.

    >>> _sum_of(np.array([0.5, 2.0])) == 5 << 95
    True
    """
    total = 0
    for _ in range(_FRACTION // 32 + 1):
        whole = np.floor(values)
        total = (total << 32) + int(whole.astype(np.int64).sum())
        values = np.ldexp(values - whole, 32)
    return total


def square_roots(numerators: list[int], denominator: int) -> Array:
    """Return square roots (B) of integers over one below 2^31, each rounded once.

    >>> square_roots([8, 2], 2).tolist() == [2.0, 1.0]
    True
    """
    high = np.array([float(n) for n in numerators])
    low = np.array([float(n - int(h)) for n, h in zip(numerators, high.tolist(), strict=True)])
    quotient = high / denominator
    quotient_low = (_difference(high, quotient, np.full_like(high, denominator)) + low) / denominator
    root = np.sqrt(quotient)
    rest = np.divide(
        _difference(quotient, root, root) + quotient_low, 2 * root, out=np.zeros_like(root), where=root > 0
    )
    nearest = root + rest
    rest += root - nearest
    doubtful = np.abs(np.abs(rest) - np.spacing(nearest) / 2) <= np.ldexp(nearest, -90)
    # below a power of two, float64 are twice as near
    doubtful |= np.abs(np.abs(rest) - np.spacing(nearest) / 4) <= np.ldexp(nearest, -90)
    for i in np.flatnonzero(doubtful & (nearest > 0)).tolist():
        nearest[i] = sqrt_ratio(numerators[i], denominator)
    return np.asarray(nearest)


def _difference(value: Array, a: Array, b: Array) -> Array:
    """Return value - a*b, of which a*b is the nearest float64 or close to it, without the rounding of the product."""
    product = a * b
    a_high, b_high = (134217729.0 * x - (134217729.0 * x - x) for x in (a, b))
    a_low, b_low = a - a_high, b - b_high
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return np.asarray((value - product) - error)
