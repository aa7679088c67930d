"""Loops over the pixels of one image: histograms, sums, exact float sums.

Integers are counted in int64 inside one image only (2^63 / 65535^2 = 2.1 gigapixels); the caller adds up images.
All arrays are C-contiguous; pixels come flattened, channels interleaved.
"""

import numpy as np

from normcli.kernels.kernel import device_function, kernel

# One bin for every exponent of a float64 and, from SHIFT on down, of the squares of very small ones; two sums
# in each: see `count_floats`.
EXPONENTS = 4096
SHIFT = 1300
_TINY = 2.0**-400  # below it a product of halves could fall under the smallest float64
_UP = 2.0**600


@kernel()
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


@device_function()
def _add_pair(tables, rows, row, pair):  # type: ignore[no-untyped-def]
    """Add a pair of samples to a table; counts that are full move to the rows of both samples."""
    count = np.uint8(tables[row, pair] + np.uint32(1) & np.uint32(255))
    tables[row, pair] = count
    if count == np.uint8(0):
        rows[2 * row, pair & np.uint16(255)] += np.uint32(256)
        rows[2 * row + 1, pair >> np.uint16(8)] += np.uint32(256)


@kernel()
def count_bytes(pixels, pairs, histogram, sums, tables, rows):  # type: ignore[no-untyped-def]
    """Add an 8-bit image to a histogram; fill in its sums: same result as `count_integers`, twice as fast.

    Args:
        pixels: uint8 (H*W*C).
        pairs: uint16 (N,6), the same bytes again: `as_pairs(pixels)`.
        histogram: int64 (C, 256), added to; C is 1, 2, 3 or 4.
        sums: int64 (C, 2), set to the sum and the sum of squares of each channel.
        tables: uint8 (3, 65536), to work in.
        rows: uint32 (6, 256), to work in.
    """
    # One store a cycle is the limit, so one store counts two neighbors: 0.17 ns a sample of a photograph, where one
    # for each sample takes 0.26. In counts of 8 bits, the pairs that occur fit into the first cache, all into the
    # second; clearing the tables just before also loads them (0.24 ns without).
    channels = histogram.shape[0]
    tables[:] = 0
    rows[:] = 0
    if channels == 3:
        for i in range(pairs.shape[0]):
            _add_pair(tables, rows, 0, pairs[i, 0])
            _add_pair(tables, rows, 1, pairs[i, 1])
            _add_pair(tables, rows, 2, pairs[i, 2])
            _add_pair(tables, rows, 0, pairs[i, 3])
            _add_pair(tables, rows, 1, pairs[i, 4])
            _add_pair(tables, rows, 2, pairs[i, 5])
    else:
        for i in range(pairs.shape[0]):
            for j in range(6):
                _add_pair(tables, rows, j % 2, pairs[i, j])
    for i in range(12 * pairs.shape[0] // channels, pixels.size // channels):
        for c in range(channels):
            rows[c, pixels[i * channels + c]] += np.uint32(1)
    for row in range(3):
        first = rows[2 * row]
        for level in range(256):
            at = level * 256
            total = np.uint32(0)
            for other in range(256):
                total += np.uint32(tables[row, at + other])
            for other in range(256):
                first[other] += np.uint32(tables[row, at + other])
            rows[2 * row + 1, level] += total
    sums[:] = 0
    for row in range(6):
        c = row % channels
        once = squares = np.int64(0)
        for level in range(256):
            n = np.int64(rows[row, level])
            histogram[c, level] += n
            once += n * level
            squares += n * level * level
        sums[c, 0] += once
        sums[c, 1] += squares


@kernel()
def sum_images(pixels, sums):  # type: ignore[no-untyped-def]
    """Fill in the sums of every image of a block; none has more than 66,000 pixels.

    Args:
        pixels: uint8 (B,P,C).
        sums: int64 (B,C,2), set to the sum and the sum of squares of each channel.
    """
    count, size, channels = pixels.shape
    for i in range(count):
        if channels == 3:  # at once: 0.05 ns a sample, where one channel after the other takes three times as long
            r = g = b = rr = gg = bb = np.uint32(0)
            for j in range(size):
                x, y, z = np.uint32(pixels[i, j, 0]), np.uint32(pixels[i, j, 1]), np.uint32(pixels[i, j, 2])
                r += x
                g += y
                b += z
                rr += x * x
                gg += y * y
                bb += z * z
            sums[i, 0, 0], sums[i, 1, 0], sums[i, 2, 0] = r, g, b
            sums[i, 0, 1], sums[i, 1, 1], sums[i, 2, 1] = rr, gg, bb
        else:
            for c in range(channels):
                total = squares = np.uint32(0)
                for j in range(size):
                    x = np.uint32(pixels[i, j, c])
                    total += x
                    squares += x * x
                sums[i, c, 0], sums[i, c, 1] = total, squares


@kernel()
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


_NEGATIVE_ZERO = -(1 << 63)  # as float64 has it
_BLOCK = 1024  # pixels that stay in the cache
TABLES = 4  # of `count_signed`


@device_function()
def _all_whole(samples):  # type: ignore[no-untyped-def]
    """Return True if all samples are integers of 16 bits; -0 is none, and neither is NaN."""
    others = False
    for i in range(samples.size):  # without a branch, so that LLVM computes several at once
        x = np.float64(samples[i])
        is_whole = (np.floor(x) == x) & (x >= -32768.0) & (x <= 32767.0) & (x.view(np.int64) != _NEGATIVE_ZERO)
        others |= not is_whole
    return not others


@kernel()
def count_whole(pixels, tables, used):  # type: ignore[no-untyped-def]
    """Add an image of floats that are integers of 16 bits to tables; stop before the first block with another one.

    Args:
        pixels: float32 or float64 (H*W*C).
        tables: uint32 (C, 4, 65536), added to as by `count_signed`.
        used: int64 (1), set to the number of samples that were added.
    """
    channels = tables.shape[0]
    start = 0
    while start < pixels.size:
        used[0] = start
        stop = min(start + _BLOCK * channels, pixels.size)
        if not _all_whole(pixels[start:stop]):
            return
        _add_signed(pixels[start:stop], tables)
        start = stop
    used[0] = pixels.size


@device_function()
def _add_signed(samples, tables):  # type: ignore[no-untyped-def]
    """Add samples that are integers of 16 bits to tables, as `count_signed` does."""
    # equal neighbors, as in the air of a CT, go into different tables: a count waits for the last store of its own
    channels = tables.shape[0]
    count = samples.size // channels
    for c in range(channels):
        table = tables[c]
        for i in range(count // TABLES):
            for j in range(TABLES):  # an unsigned index is not checked for < 0
                table[j, np.uint64(np.int64(samples[(i * TABLES + j) * channels + c]) + 32768)] += np.uint32(1)
        for i in range(count // TABLES * TABLES, count):
            table[0, np.uint64(np.int64(samples[i * channels + c]) + 32768)] += np.uint32(1)


@kernel()
def count_signed(pixels, tables):  # type: ignore[no-untyped-def]
    """Add an image of integers with a sign to tables, whose sum is the histogram.

    Args:
        pixels: int16 (H*W*C), fewer than 2^32.
        tables: uint32 (C, 4, 65536), added to: each sample to one of the four, by its value + 32768.
    """
    start = 0
    while start < pixels.size:
        stop = min(start + _BLOCK * tables.shape[0], pixels.size)
        _add_signed(pixels[start:stop], tables)
        start = stop


@kernel()
def count_floats(pixels, histogram, totals, squares, extremes, used):  # type: ignore[no-untyped-def]
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
        used: int64 (3): the number of pixels used, added to; the smallest and largest exponent, as float64 stores it,
            of a value other than 0, lowered and raised.
    """
    channels = totals.shape[0]
    for i in range(pixels.size // channels):
        finite = True
        for c in range(channels):
            finite &= np.isfinite(pixels[i * channels + c])
        if not finite:
            continue
        used[0] += 1
        for c in range(channels):
            x = np.float64(pixels[i * channels + c])
            extremes[c, 0] = min(extremes[c, 0], x)
            extremes[c, 1] = max(extremes[c, 1], x)
            upper = np.int64(np.float32(x).view(np.uint32) >> np.uint32(16))
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
                    term = x
                elif part == 1:
                    term = high * high
                elif low == 0.0:
                    break
                elif part == 2:
                    term = 2.0 * high * low
                else:
                    term = low * low
                bits = np.float64(term).view(np.int64)
                exponent = (bits >> 52) & 0x7FF
                mantissa = bits & 0xFFFFFFFFFFFFF
                if exponent:
                    mantissa |= 0x10000000000000
                else:
                    exponent = np.int64(1)  # subnormal: the same scale, no hidden bit
                if part == 0 and mantissa:
                    used[1] = min(used[1], exponent)
                    used[2] = max(used[2], exponent)
                sign = np.int64(1) - 2 * np.int64(term < 0)
                into = totals if part == 0 else squares
                place = exponent + (SHIFT if part == 0 else shift)
                into[c, place, 0] += sign * (mantissa >> 26)
                into[c, place, 1] += sign * (mantissa & 0x3FFFFFF)


@kernel()
def sum_small_floats(pixels, scale, histogram, sums, extremes, exact):  # type: ignore[no-untyped-def]
    """Add up each image of a block of floats without rounding, as long as its values fit in 46 bits.

    Of an image with an integer m = value * scale for every value, |m| < 2^46 and m = 2^23 a + b with 0 <= b < 2^23,
    no sum of products of a and b leaves int64 before 2^15 pixels: 2.5 ns a sample, where `count_floats` takes 14.

    Args:
        pixels: float32 or float64 (B,P,C); P at most 2^15.
        scale: a power of two.
        histogram: int64 (C, 65536), added to as in `count_floats`, by the images that are exact.
        sums: int64 (B,C,4), set to the sums of m, a*a, a*b and b*b.
        extremes: float64 (B,C,2), set to the smallest and largest value.
        exact: int64 (B), set to 1 for an image whose values all fit, to 0 for any other one, of which nothing is set.
    """
    images, size, channels = pixels.shape
    for i in range(images):
        fits = True
        for j in range(size):
            for c in range(channels):
                y = np.float64(pixels[i, j, c]) * scale
                fits &= abs(y) < 70368744177664.0  # not of NaN
                fits &= (y + 6755399441055744.0) - 6755399441055744.0 == y  # 1.5 * 2^52 rounds to an integer
        exact[i] = fits
        if not fits:
            continue
        for c in range(channels):
            total = aa = ab = bb = np.int64(0)
            for j in range(size):
                m = np.int64(np.float64(pixels[i, j, c]) * scale)
                a, b = m >> 23, m & 0x7FFFFF
                total += m
                aa += a * a
                ab += a * b
                bb += b * b
            sums[i, c, 0], sums[i, c, 1], sums[i, c, 2], sums[i, c, 3] = total, aa, ab, bb
        for c in range(channels):
            low = high = np.float64(pixels[i, 0, c])
            for j in range(size):
                x = np.float64(pixels[i, j, c])
                low, high = min(low, x), max(high, x)
            extremes[i, c, 0], extremes[i, c, 1] = low, high
        for j in range(size):
            for c in range(channels):
                upper = np.int64(np.float32(pixels[i, j, c]).view(np.uint32) >> np.uint32(16))
                histogram[c, 0xFFFF - upper if upper >> 15 else upper | 0x8000] += 1
