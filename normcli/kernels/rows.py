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
from normcli.kernels.lines import LINE_BYTES, elements_to_line, order_stores, prefetch, store_line

# elements that are summed around one pivot, and the share of them that the pivot is the mean of
BLOCK = 8192
SHARE = 32

# bytes of a row up to which the next one is read while one is written: both fit into the L2 cache
NEAR = 256 << 10

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


@kernel()
def row_moments(x, mean, low, m2):  # type: ignore[no-untyped-def]
    """Write mean, its cut-off rest and sum of squared deviations of every row of x (R, L) into three arrays (R)."""
    last = x.shape[0] - 1
    if last < 0:
        return
    pivot, following = _pivot(x[0]), _pivot(x[min(1, last)])
    for r in range(x.shape[0]):
        ahead = _pivot(x[min(r + 2, last)])
        mean[r], low[r], m2[r] = _moments(x[r], pivot)
        pivot, following = following, ahead


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
def affine_rows(x, y, first, mean, scale, shift, line):  # type: ignore[no-untyped-def]
    """Compute y = (x - mean) * scale + shift, rounded once.

    Args:
        x: rows to read, (R, L).
        y: rows to write, of the shape of x.
        first: number of row 0 in the complete tensor.
        mean: one number for every row of the complete tensor, float64; so scale and shift.
        scale: as mean.
        shift: as mean.
        line: room for results of the type of y that bypass the cache; empty where they do not.
    """
    for r in range(x.shape[0]):
        i = first + r
        _affine_row(x[r], y[r], mean[i], scale[i], shift[i], line, x[r, line.size :])
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
def batch_rows(x, y, first, stop, scale, shift, eps, mean, low, m2, line):  # type: ignore[no-untyped-def]
    """Normalize channels by their statistics over all samples, each while it is still in the cache.

    Args:
        x: samples to read, (N, C, L).
        y: samples to write, of the shape of x.
        first: first channel.
        stop: channel after the last.
        scale: one number for every channel, float64; so shift.
        shift: as scale.
        eps: added to the variance.
        mean: takes the mean of every channel of every sample, (N, C); so low its cut-off rest, m2 the squares.
        low: as mean.
        m2: as mean.
        line: as in affine_rows.
    """
    samples, length = x.shape[0], x.shape[2]
    for c in range(first, stop):
        for n in range(samples):
            mean[n, c], low[n, c], m2[n, c] = _moments(x[n, c], _pivot(x[n, c]))
        center, rest, variance = _merged(c, length, mean, low, m2)
        a, b = _scaled(variance, rest, eps, scale[c], shift[c])
        for n in range(samples):
            _affine_row(x[n, c], y[n, c], center, a, b, line, x[n, min(c + 1, stop - 1)])
    if line.size:
        order_stores()


@kernel()
def erf_rows(x, y):  # type: ignore[no-untyped-def]
    """Write the error function of every element of x (R, L), float64, into y."""
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            y[r, i] = math.erf(x[r, i])


@kernel({"contract"})
def normalize_rows(x, y, first, weight, bias, eps, centered, outside, head, line, table):  # type: ignore[no-untyped-def]
    """Normalize every row of x (R, L) by its own statistics, while it is still in the cache.

    Args:
        x: rows to read, (R, L).
        y: rows to write, of the shape of x.
        first: number of row 0 in the complete tensor; weight and bias repeat after weight.shape[0] rows.
        weight: (P, M), float64 or float32; each number applies to L / M neighbors of a row.
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
    last, batch, bypass = rows - 1, table.shape[1], line.size > 0
    piece = line.size if bypass else length
    if last < 0:
        return
    span = length if parts == length else length // parts
    near = length * x.itemsize <= NEAR
    pivot, following = _pivot(x[0]), _pivot(x[min(1, last)])
    start = 0
    while start < rows:
        stop = min(start + batch, rows)
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
        for r in range(start, stop):
            row, out, p = x[r], y[r], (first + r) % period
            mean, low, scale = table[0, r - start], table[1, r - start], table[2, r - start]
            rest = -low * scale
            coming = x[min(r + batch, last)] if near else row
            for k in range(length // span):
                a = scale * weight[p, k]
                b = bias[p, k] - low * a
                i, end = k * span, (k + 1) * span
                while i < end:
                    after = min(i + piece, end)
                    part, target = row[i:after], out[i:after]
                    if bypass:
                        target = line[: after - i]
                    if parts == length:
                        w, s = weight[p, i:after], bias[p, i:after]
                        for j in range(part.size):  # two fused products, 7% less than four steps
                            target[j] = ((np.float64(part[j]) - mean) * scale + rest) * w[j] + s[j]
                    else:
                        for j in range(part.size):
                            target[j] = (np.float64(part[j]) - mean) * a + b
                    if bypass:
                        _send(target, out[i:after], coming[i:])
                    i = after
        start = stop
    if bypass:
        order_stores()
