"""Loops over tensors: moments of rows, and the map `(x - mean) * scale + shift`.

A tensor comes as contiguous rows of one statistic each: a channel of a sample, a group, a token. Sums are
kept in float64 whatever the input, and nothing here depends on threads: a row is always cut into the same
blocks, and a block is always summed in the same order. `reassoc` only lets LLVM keep several partial sums
(a vector of them), in an order fixed when the kernel is compiled: 5x faster than one running sum.

The pivot of a row is computed two rows ahead. Its sums need it, and waiting for its elements to come from memory
took 100 ns a row: 2.0 ms for a layer_norm of (6272,1024) on one thread, and 1.5 since.
"""

import math

import numpy as np

from normcli.kernels.kernel import device_function, kernel
from normcli.kernels.lines import LINE_BYTES, elements_to_line, order_stores, prefetch, store_line, take_turn

# elements that are summed around one pivot, and the share of them that the pivot is the mean of
BLOCK = 8192
SHARE = 32

# bytes of a row up to which the next one is read while one is written: both fit into the L2 cache
NEAR = 256 << 10

# bytes that the cache of all processors keeps
CACHE_BYTES = 32 << 20

# bytes of rows that a thread takes at a time: a 16th of all, but not less than this; beyond CACHE_BYTES a 4th, because
# two threads disturb each other's readings ahead in memory: 100 MB by 128 KB each take 1.3 times as long
TURN_BYTES = 128 << 10

SUMS = {"reassoc", "contract"}


@device_function(SUMS)
def _sum(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(x.size):  # not range(start, stop): Numba would check for negative indices, 9x
        total += np.float64(x[i])
    return total


@device_function(SUMS)
def _sums(x, pivot):  # type: ignore[no-untyped-def]
    """Sum x - pivot and its square."""
    total, squares = 0.0, 0.0
    for i in range(x.size):
        z = np.float64(x[i]) - pivot
        total += z
        squares += z * z
    return total, squares


@device_function(SUMS)
def _pivot(x):  # type: ignore[no-untyped-def]
    """Compute the mean of the first 32nd of a block."""
    head = x[: (min(x.size, BLOCK) + SHARE - 1) // SHARE]
    return _sum(head) / head.size


@device_function()
def _moments(x, pivot):  # type: ignore[no-untyped-def]
    """Return the mean, the part of it beyond float64, and the sum of squared deviations of one row.

    Each block in one pass around a pivot, the mean of its first 32nd; that of the first block is given. So the
    pivot is never further than sqrt(32) std of the block from its mean, and the subtraction loses at most 6 of
    float64's 53 bits, whatever the data. Then Chan's merge, whose divisions are worth a block of 8,192. Two
    passes cost 1.4x.

    A mean of 1e4 std is rounded by 1e-12 std, more than a float32 step of results below 1e-5: so the rest
    that is cut off is kept, and goes into the shift of the affine map.
    """
    count, mean, low, m2 = 0.0, 0.0, 0.0, 0.0
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        n = np.float64(block.size)
        total, squares = _sums(block, pivot)
        if count == 0.0:
            mean = pivot
        apart = pivot - mean + (total / n - low)
        merged = count + n
        step = apart * (n / merged)
        moved = mean + step
        low += mean - moved + step
        mean = moved
        m2 += max(squares - total * (total / n), 0.0) + apart * apart * (count * n / merged)
        count = merged
        if start + BLOCK < x.size:
            pivot = _pivot(x[start + BLOCK :])
    return mean, low, m2


@device_function()
def _rows_of_a_turn(x):  # type: ignore[no-untyped-def]
    """Return the number of rows that a thread takes at a time."""
    size = x.size * x.itemsize
    size = max(size // 16, TURN_BYTES) if size <= CACHE_BYTES else size // 4
    return max(size // max(x.shape[1] * x.itemsize, 1), 1)


@kernel()
def row_moments(x, mean, low, m2, turns):  # type: ignore[no-untyped-def]
    """Write mean, its cut-off rest and sum of squared deviations of every row of x (R, L) into three arrays (R).

    Several threads may call it with the same arguments. `turns` (int64) starts with the number of rows that are taken.
    """
    rows, count = x.shape[0], _rows_of_a_turn(x)
    start = take_turn(turns, count)
    while start < rows:
        stop = min(start + count, rows)
        pivot, following = _pivot(x[start]), _pivot(x[min(start + 1, rows - 1)])
        for r in range(start, stop):
            ahead = _pivot(x[min(r + 2, rows - 1)])
            mean[r], low[r], m2[r] = _moments(x[r], pivot)
            pivot, following = following, ahead
        start = take_turn(turns, count)


@device_function()
def _send(line, target, ahead):  # type: ignore[no-untyped-def]
    """Copy results to their place, complete lines past the cache; for each, start to read one of `ahead`."""
    start, count = min(elements_to_line(target), target.size), LINE_BYTES // target.itemsize
    for i in range(start):
        target[i] = line[i]
    while start + count <= target.size:
        store_line(target, line, start)
        prefetch(ahead, start)
        start += count
    for i in range(start, target.size):
        target[i] = line[i]


@device_function()
def _aligned(line):  # type: ignore[no-untyped-def]
    """Return the part of 256, 512, ... elements that starts at a cache line: stores across two lines cost 4%."""
    start = elements_to_line(line)
    return line[start : start + line.size // 256 * 256]


@device_function({"contract"})
def _affine_row(x, y, mean, scale, shift, line, ahead):  # type: ignore[no-untyped-def]
    """Compute one row, by pieces that bypass the cache if `line` has room for them."""
    piece = line.size
    if not piece:
        for i in range(x.size):
            y[i] = (np.float64(x[i]) - mean) * scale + shift
        return
    for k in range((x.size + piece - 1) // piece):
        part, target = x[k * piece : (k + 1) * piece], y[k * piece : (k + 1) * piece]
        for i in range(part.size):
            line[i] = (np.float64(part[i]) - mean) * scale + shift
        _send(line, target, ahead[k * piece :])


@kernel({"contract"})
def affine_rows(x, y, turns, mean, scale, shift, line):  # type: ignore[no-untyped-def]
    """Compute y = (x - mean) * scale + shift, rounded once.

    Args:
        x: rows to read, (R, L).
        y: rows to write, of the shape of x.
        turns: the number of rows that are taken by all threads, and the number of row 0 in the complete tensor; int64.
        mean: one number for every row of the complete tensor, float64; so scale and shift.
        scale: as mean.
        shift: as mean.
        line: room for results of the type of y that bypass the cache; empty where they do not.
    """
    rows, count, first, line = x.shape[0], _rows_of_a_turn(x), turns[1], _aligned(line)
    start = take_turn(turns, count)
    while start < rows:
        for r in range(start, min(start + count, rows)):
            i = first + r
            _affine_row(x[r], y[r], mean[i], scale[i], shift[i], line, x[r, line.size :])
        start = take_turn(turns, count)
    if line.size:
        order_stores()


@device_function()
def _merged(c, length, mean, low, m2):  # type: ignore[no-untyped-def]
    """Merge the moments of a channel in all samples: the steps of `Moments.over(0)`, in the order of NumPy."""
    samples = mean.shape[0]
    center, squares, apart, rest = 0.0, 0.0, 0.0, 0.0
    for n in range(samples):
        center += mean[n, c]
        squares += m2[n, c]
    center /= samples
    for n in range(samples):
        distance = mean[n, c] - center + low[n, c]
        apart += distance * distance
        rest += distance
    return center, rest / samples, (squares + length * apart) / (samples * length)


@device_function()
def _scaled(variance, rest, eps, scale, shift):  # type: ignore[no-untyped-def]
    """Return the affine map of a channel, rounded as NumPy rounds each step."""
    a = scale / np.sqrt(variance + eps)
    return a, shift - rest * a


@kernel({"contract"})
def batch_rows(x, y, turns, scale, shift, eps, mean, low, m2, line):  # type: ignore[no-untyped-def]
    """Normalize channels by their statistics over all samples, each while it is still in the cache.

    Args:
        x: samples to read, (N, C, L).
        y: samples to write, of the shape of x.
        turns: the number of channels that are taken by all threads, int64.
        scale: one number for every channel, float64; so shift.
        shift: as scale.
        eps: added to the variance.
        mean: takes the mean of every channel of every sample, (N, C); so low its cut-off rest, m2 the squares.
        low: as mean.
        m2: as mean.
        line: as in affine_rows.
    """
    samples, channels, length = x.shape
    line = _aligned(line)
    c = take_turn(turns, 1)
    while c < channels:
        following = take_turn(turns, 1)
        for n in range(samples):
            mean[n, c], low[n, c], m2[n, c] = _moments(x[n, c], _pivot(x[n, c]))
        center, rest, variance = _merged(c, length, mean, low, m2)
        a, b = _scaled(variance, rest, eps, scale[c], shift[c])
        for n in range(samples):
            _affine_row(x[n, c], y[n, c], center, a, b, line, x[n, min(following, channels - 1)])
        c = following
    if line.size:
        order_stores()


@kernel()
def erf_rows(x, y):  # type: ignore[no-untyped-def]
    """Write the error function of every element of x (R, L), float64, into y."""
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            y[r, i] = math.erf(x[r, i])


@device_function()
def _row_statistics(x, start, stop, pivot, following, eps, centered, outside, head, table):  # type: ignore[no-untyped-def]
    """Write mean, its cut-off rest and the scale of rows into a table (3, B), and return the next two pivots."""
    last = x.shape[0] - 1
    for r in range(start, stop):
        mean, low = 0.0, 0.0
        if centered:
            ahead = _pivot(x[min(r + 2, last)])
            mean, low, m2 = _moments(x[r], pivot)
            pivot, following = following, ahead
        else:
            m2 = _sums(x[r][:head], 0.0)[1]
        scale = 1.0 / (np.sqrt(m2 / head) + eps) if outside else 1.0 / np.sqrt(m2 / head + eps)
        table[0, r - start], table[1, r - start], table[2, r - start] = mean, low, scale
    return pivot, following


@device_function({"contract"})
def _weighted_row(x, y, weight, bias, mean, low, scale, line, ahead):  # type: ignore[no-untyped-def]
    """Normalize one row with a weight and a bias for each element."""
    length, rest = x.size, -low * scale
    piece = line.size if line.size else length
    i = 0
    while i < length:
        after = min(i + piece, length)
        part, target, w, b = x[i:after], y[i:after], weight[i:after], bias[i:after]
        if line.size:
            target = line[: after - i]
        for j in range(part.size):  # two fused products, 7% less than four steps
            target[j] = ((np.float64(part[j]) - mean) * scale + rest) * w[j] + b[j]
        if line.size:
            _send(target, y[i:after], ahead[i:])
        i = after


@device_function({"contract"})
def _weighted_pairs(x, y, start, stop, weight, bias, table, line):  # type: ignore[no-untyped-def]
    """Compute rows as `_weighted_row` does, past the cache: a weight is converted to float64 once for two rows, 7%."""
    length, piece, batch, last = x.shape[1], line.size // 2, table.shape[1], x.shape[0] - 1
    for one in range(start, stop, 2):
        k, other = one - start, min(one + 1, stop - 1)  # the last row may be its own partner
        q = other - start
        mean, low, scale = table[0, k], table[1, k], table[2, k]
        mean2, low2, scale2 = table[0, q], table[1, q], table[2, q]
        rest, rest2 = -low * scale, -low2 * scale2
        ahead, ahead2 = x[min(one + batch, last)], x[min(other + batch, last)]
        i = 0
        while i < length:
            after = min(i + piece, length)
            part, part2, w, b = x[one, i:after], x[other, i:after], weight[i:after], bias[i:after]
            target, target2 = line[: after - i], line[piece : piece + after - i]
            for j in range(part.size):
                a, c = np.float64(w[j]), np.float64(b[j])
                target[j] = ((np.float64(part[j]) - mean) * scale + rest) * a + c
                target2[j] = ((np.float64(part2[j]) - mean2) * scale2 + rest2) * a + c
            _send(target, y[one, i:after], ahead[i:])
            _send(target2, y[other, i:after], ahead2[i:])
            i = after


@kernel({"contract"})
def normalize_rows(x, y, turns, weight, bias, eps, centered, outside, head, line, table):  # type: ignore[no-untyped-def]
    """Normalize every row of x (R, L) by its own statistics, while it is still in the cache.

    Args:
        x: rows to read, (R, L).
        y: rows to write, of the shape of x.
        turns: as in affine_rows.
        weight: (P, M), float64 or float32; row r uses row r % P, each number for L / M neighbors.
        bias: as weight.
        eps: added to the mean square, or to its root.
        centered: subtract the mean.
        outside: eps is added to the root (E2) and not under it (E1).
        head: number of first elements that the statistic is taken from.
        line: as in affine_rows.
        table: room for the statistics (3, B) of B rows, which are read before the first of them is written.
    """
    period, parts = weight.shape
    rows, length = x.shape
    line = _aligned(line)
    last, batch, first, span = rows - 1, table.shape[1], turns[1], length // parts
    near = length * x.itemsize <= NEAR
    pairs = near and parts == length and period == 1 and line.size > 0
    count = _rows_of_a_turn(x)
    start = take_turn(turns, count)
    while start < rows:
        stop = min(start + count, rows)
        pivot, following = 0.0, 0.0
        if centered:
            pivot, following = _pivot(x[start]), _pivot(x[min(start + 1, last)])
        while start < stop:
            end = min(start + batch, stop)
            pivot, following = _row_statistics(x, start, end, pivot, following, eps, centered, outside, head, table)
            if pairs:
                _weighted_pairs(x, y, start, end, weight[0], bias[0], table, line)
                start = end
            for r in range(start, end):
                k = r - start
                row, out, p = x[r], y[r], (first + r) % period
                mean, low, scale = table[0, k], table[1, k], table[2, k]
                ahead = x[min(r + batch, last)] if near else row
                if parts == length:
                    _weighted_row(row, out, weight[p], bias[p], mean, low, scale, line, ahead)
                    continue
                for g in range(parts):
                    a = scale * weight[p, g]
                    b = bias[p, g] - low * a
                    i, j = g * span, (g + 1) * span
                    _affine_row(row[i:j], out[i:j], mean, a, b, line, ahead[i:j])
            start = end
        start = take_turn(turns, count)
    if line.size:
        order_stores()
