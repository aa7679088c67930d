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

# elements that are summed around one pivot, and the share of them that the pivot is the mean of
BLOCK = 8192
SHARE = 32

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


@kernel({"contract"})
def affine_rows(x, y, first, mean, scale, shift):  # type: ignore[no-untyped-def]
    """Compute y = (x - mean) * scale + shift, rounded once.

    Args:
        x: rows to read, (R, L).
        y: rows to write, of the shape of x.
        first: number of row 0 in the complete tensor.
        mean: one number for every row of the complete tensor, float64; so scale and shift.
        scale: as mean.
        shift: as mean.
    """
    for r in range(x.shape[0]):
        m, a, b = mean[first + r], scale[first + r], shift[first + r]
        for i in range(x.shape[1]):
            y[r, i] = (np.float64(x[r, i]) - m) * a + b


@kernel()
def erf_rows(x, y):  # type: ignore[no-untyped-def]
    """Write the error function of every element of x (R, L), float64, into y."""
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            y[r, i] = math.erf(x[r, i])


@kernel({"contract"})
def normalize_rows(x, y, first, weight, bias, eps, centered, outside, head):  # type: ignore[no-untyped-def]
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
    """
    period, parts = weight.shape
    length, last = x.shape[1], x.shape[0] - 1
    if last < 0:
        return
    pivot, following = _pivot(x[0]), _pivot(x[min(1, last)])
    for r in range(x.shape[0]):
        row, out, p = x[r], y[r], (first + r) % period
        mean, low = 0.0, 0.0
        if centered:
            ahead = _pivot(x[min(r + 2, last)])
            mean, low, m2 = _moments(row, pivot)
            pivot, following = following, ahead
        else:
            m2 = _sums(row[:head], 0.0)[1]
        scale = 1.0 / (np.sqrt(m2 / head) + eps) if outside else 1.0 / np.sqrt(m2 / head + eps)
        if parts == length:
            rest = -low * scale
            for i in range(length):  # two fused products, 7% less than four steps
                out[i] = ((np.float64(row[i]) - mean) * scale + rest) * weight[p, i] + bias[p, i]
        else:
            span = length // parts
            for k in range(parts):
                a = scale * weight[p, k]
                b = bias[p, k] - low * a
                part, target = row[k * span : (k + 1) * span], out[k * span : (k + 1) * span]
                for i in range(span):
                    target[i] = (np.float64(part[i]) - mean) * a + b
