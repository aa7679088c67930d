"""Arithmetic without rounding: square roots of fractions, floats as fixed-point integers, run-length coding."""

import math
from collections.abc import Iterable
from fractions import Fraction

FLOAT_BITS = 1074  # every finite float64 is a multiple of 2^-1074


def sqrt_fraction(square: Fraction) -> float:
    """Return the square root of a fraction, correctly rounded to float64.

    >>> sqrt_fraction(Fraction(1, 4)), sqrt_fraction(Fraction(2)) == math.sqrt(2)
    (0.5, True)
    """
    return sqrt_ratio(square.numerator, square.denominator)


def sqrt_ratio(numerator: int, denominator: int) -> float:
    """Return the square root of a quotient of integers, which may have common factors, correctly rounded to float64."""
    if numerator <= 0:
        return 0.0
    # scale so that the integer root has at least 64 bits; a sticky last bit marks a remainder
    bits = denominator.bit_length() - numerator.bit_length()
    shift = max(0, (bits + 130) // 2)
    scaled, remainder = divmod(numerator << (2 * shift), denominator)
    integer = math.isqrt(scaled)
    inexact = remainder != 0 or integer * integer != scaled
    return (2 * integer + inexact) / (1 << (shift + 1))


def to_fixed_point(value: float) -> int:
    """Convert a finite float to fixed point: an integer number of 2^-1074, exactly.

    >>> to_fixed_point(0.5) == 1 << 1073
    True
    """
    numerator, denominator = value.as_integer_ratio()
    return numerator << (FLOAT_BITS + 1 - denominator.bit_length())  # the denominator is a power of two


def trailing_zeros(number: int) -> int:
    """Return the exponent of 2 in an integer other than 0.

    >>> trailing_zeros(40), trailing_zeros(-3)
    (3, 0)
    """
    return (number & -number).bit_length() - 1


def nearest_quotient(numerator: int, denominator: int, shift: int = 0) -> int:
    """Return the integer nearest to numerator * 2^shift / denominator; of two, the greater one.

    >>> nearest_quotient(7, 2), nearest_quotient(3, 1, -1), nearest_quotient(3, 4, 2)
    (4, 2, 3)
    """
    if shift >= 0:
        numerator <<= shift
    else:
        denominator <<= -shift
    return (2 * numerator + denominator) // (2 * denominator)


def run_length_encode(counts: Iterable[int]) -> list[int]:
    """Encode a histogram as a short list, in which a negative number -k means k zeros.

    >>> run_length_encode([0, 0, 0, 5, 0, 7])
    [-3, 5, -1, 7]
    """
    out: list[int] = []
    zeros = 0
    for count in counts:
        if count == 0:
            zeros += 1
            continue
        if zeros:
            out.append(-zeros)
            zeros = 0
        out.append(count)
    return out


def run_length_decode(runs: Iterable[int], size: int) -> list[int]:
    """Decode the list of `run_length_encode`, padded with zeros to `size` bins.

    >>> run_length_decode([-3, 5, -1, 7], 8)
    [0, 0, 0, 5, 0, 7, 0, 0]

    Raises:
        ValueError: more than `size` bins, or an entry that is not an integer.
    """
    out: list[int] = []
    for count in runs:
        if type(count) is not int or -count > size:
            raise ValueError(f"not a bin count: {count!r}")
        if count < 0:
            out += [0] * -count
        else:
            out.append(count)
    if len(out) > size:
        raise ValueError(f"{len(out)} bins where {size} were expected")
    return out + [0] * (size - len(out))
