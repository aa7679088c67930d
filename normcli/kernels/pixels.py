"""Loops over the pixels of one image: histograms, sums, exact float sums.

Integers count in int64 inside one image only (2^63 / 65535^2 = 2.1 gigapixels); what is added up over images
is added up by the caller. All arrays are C-contiguous; pixels come flattened, channels interleaved.
"""

import numpy as np

from normcli.kernels.jit import kernel

# One bin for every exponent of a float64 and, from SHIFT on down, of the squares of very small ones; two sums
# in each: see `count_floats`.
EXPONENTS = 4096
SHIFT = 1300
_TINY = 2.0**-400  # below it a product of halves could fall under the smallest float64
_UP = 2.0**600


@kernel
def count_rgb8(pixels, histogram, sums):  # type: ignore[no-untyped-def]
    """Add an RGB image to a histogram; fill in its sums.

    Args:
        pixels: uint8 (H*W*3).
        histogram: int64 (3, 256), added to.
        sums: int64 (3, 2), set to the sum and the sum of squares of each channel.
    """
    # Four tables in turn: neighbours often have equal values, and a bin that was just written makes the
    # next read of it wait. 0.95 ns/pixel with four, 1.25 with one, 1.1 with eight (12 KiB fit the L1 cache).
    tables = np.zeros((12, 256), np.uint32)
    one = np.uint32(1)
    end = pixels.size - pixels.size % 12
    for i in range(0, end, 12):
        tables[0, pixels[i]] += one
        tables[1, pixels[i + 1]] += one
        tables[2, pixels[i + 2]] += one
        tables[3, pixels[i + 3]] += one
        tables[4, pixels[i + 4]] += one
        tables[5, pixels[i + 5]] += one
        tables[6, pixels[i + 6]] += one
        tables[7, pixels[i + 7]] += one
        tables[8, pixels[i + 8]] += one
        tables[9, pixels[i + 9]] += one
        tables[10, pixels[i + 10]] += one
        tables[11, pixels[i + 11]] += one
    for i in range(end, pixels.size):
        tables[i % 3, pixels[i]] += one
    for c in range(3):
        total = np.int64(0)
        squares = np.int64(0)
        for v in range(256):
            n = np.int64(tables[c, v]) + tables[c + 3, v] + tables[c + 6, v] + tables[c + 9, v]
            histogram[c, v] += n
            total += n * v
            squares += n * v * v
        sums[c, 0] = total
        sums[c, 1] = squares


@kernel
def count_gray8(pixels, histogram, sums):  # type: ignore[no-untyped-def]
    """Add a gray image to a histogram; fill in its sums: as `count_rgb8`, with one channel."""
    tables = np.zeros((4, 256), np.uint32)
    one = np.uint32(1)
    end = pixels.size - pixels.size % 4
    for i in range(0, end, 4):
        tables[0, pixels[i]] += one
        tables[1, pixels[i + 1]] += one
        tables[2, pixels[i + 2]] += one
        tables[3, pixels[i + 3]] += one
    for i in range(end, pixels.size):
        tables[0, pixels[i]] += one
    total = np.int64(0)
    squares = np.int64(0)
    for v in range(256):
        n = np.int64(tables[0, v]) + tables[1, v] + tables[2, v] + tables[3, v]
        histogram[0, v] += n
        total += n * v
        squares += n * v * v
    sums[0, 0] = total
    sums[0, 1] = squares


@kernel
def count_integers(pixels, histogram, sums):  # type: ignore[no-untyped-def]
    """Add an image of any depth and channels to a histogram; fill in its sums.

    Args:
        pixels: uint8 or uint16 (H*W*C).
        histogram: int64 (C, bins), added to.
        sums: int64 (C, 2), set to the sum and the sum of squares of each channel.
    """
    channels = histogram.shape[0]
    sums[:] = 0
    for i in range(pixels.size // channels):
        for c in range(channels):
            v = np.int64(pixels[i * channels + c])
            histogram[c, v] += 1
            sums[c, 0] += v
            sums[c, 1] += v * v


@kernel
def count_weighted(pixels, weights, histogram):  # type: ignore[no-untyped-def]
    """Add an image to a histogram, each pixel by its weight.

    Args:
        pixels: uint8 or uint16 (H*W*C).
        weights: uint8 or uint16 (H*W).
        histogram: int64 (C, bins), added to.
    """
    channels = histogram.shape[0]
    for i in range(weights.size):
        for c in range(channels):
            histogram[c, pixels[i * channels + c]] += weights[i]


@kernel
def count_floats(pixels, histogram, totals, squares, extremes):  # type: ignore[no-untyped-def]
    """Add up an image of floats without rounding, leaving out pixels with a NaN or an infinity.

    A float64 is an integer below 2^53 times a power of two. Integers of one exponent go into one bin, as two
    sums (high and low 26 bits) that cannot overflow before 2^36 pixels: nothing is ever rounded, so the
    result does not depend on any order.

    Args:
        pixels: float32 or float64 (H*W*C).
        histogram: int64 (C, 65536), added to: by the upper 16 bits of the value as float32, in order of value.
        totals: int64 (C, 4096, 2), added to: sums by SHIFT + exponent.
        squares: int64 (C, 4096, 2), added to: sums of squares by SHIFT + exponent.
        extremes: float64 (C, 2), lowered and raised to the smallest and largest value.

    Returns:
        The number of pixels used.
    """
    channels = totals.shape[0]
    used = np.int64(0)
    word = np.empty(1, np.float64)
    bits = word.view(np.int64)
    single = np.empty(1, np.float32)
    single_bits = single.view(np.uint32)
    for i in range(pixels.size // channels):
        finite = True
        for c in range(channels):
            finite &= np.isfinite(pixels[i * channels + c])
        if not finite:
            continue
        used += 1
        for c in range(channels):
            x = np.float64(pixels[i * channels + c])
            extremes[c, 0] = min(extremes[c, 0], x)
            extremes[c, 1] = max(extremes[c, 1], x)
            single[0] = x
            upper = np.int64(single_bits[0] >> 16)
            histogram[c, 0xFFFF - upper if upper >> 15 else upper | 0x8000] += 1
            # x = high + low with 26 bits each (Veltkamp), so that the three products are exact;
            # a float32 has 24 bits: its low part is zero
            shift = SHIFT
            y = x
            if abs(x) < _TINY:
                y = x * _UP
                shift = SHIFT - 1200  # twice 600
            scaled = y * 134217729.0
            high = scaled - (scaled - y)
            low = y - high
            for part in range(4):
                if part == 0:
                    word[0] = x
                elif part == 1:
                    word[0] = high * high
                elif low == 0.0:
                    break
                elif part == 2:
                    word[0] = 2.0 * high * low
                else:
                    word[0] = low * low
                exponent = (bits[0] >> 52) & 0x7FF
                mantissa = bits[0] & 0xFFFFFFFFFFFFF
                if exponent:
                    mantissa |= 0x10000000000000
                else:
                    exponent = 1  # subnormal: the same scale, no hidden bit
                sign = np.int64(1) - 2 * np.int64(word[0] < 0)
                into = totals if part == 0 else squares
                place = exponent + (SHIFT if part == 0 else shift)
                into[c, place, 0] += sign * (mantissa >> 26)
                into[c, place, 1] += sign * (mantissa & 0x3FFFFFF)
    return used


def warm() -> None:
    """Compile or load the kernels that nearly every run needs, on one pixel."""
    sums = np.zeros((3, 2), np.int64)
    count_rgb8(np.zeros(3, np.uint8), np.zeros((3, 256), np.int64), sums)
    count_gray8(np.zeros(1, np.uint8), np.zeros((1, 256), np.int64), sums[:1])
