"""Rows of PNG: from filtered to samples (PNG specification, section 9), many images of one size at once."""

import numpy as np

from normcli.kernels.kernel import device_function, kernel


@device_function()
def _paeth(filtered, left, up, corner):  # type: ignore[no-untyped-def]
    """Return the sample whose filter is Paeth's: 0 to 255 as int32."""
    p, q = up - corner, left - corner
    a, b, c = abs(p), abs(q), abs(p + q)
    near = left if a <= b and a <= c else up if b <= c else corner
    return (np.int32(filtered) + near) & np.int32(255)


@kernel()
def unfilter(rows, pixels, channels):  # type: ignore[no-untyped-def]
    """Fill in the samples of 8-bit images.

    Args:
        rows: uint8 (B,H,1+S), each a filter from 0 to 4 and S filtered samples.
        pixels: uint8 (B,H,S), set to the samples.
        channels: number of interleaved channels.
    """
    for n in range(rows.shape[0]):
        for y in range(rows.shape[1]):
            kind, row, out = rows[n, y, 0], rows[n, y, 1:], pixels[n, y]
            above = pixels[n, y - 1 if y else 0]
            first = y == 0  # the row above is then 0
            if kind == 0 or (kind == 2 and first):
                for i in range(out.size):
                    out[i] = row[i]
            elif kind == 1 or (kind == 4 and first):  # without a row above Paeth's predictor is the sample on the left
                for i in range(out.size):
                    left = out[i - channels] if i >= channels else np.uint8(0)
                    out[i] = np.uint8(np.int32(row[i]) + left & 255)
            elif kind == 2:
                for i in range(out.size):
                    out[i] = np.uint8(np.int32(row[i]) + above[i] & 255)
            elif kind == 3:
                for i in range(out.size):
                    left = np.int64(out[i - channels]) if i >= channels else 0
                    up = 0 if first else np.int64(above[i])
                    out[i] = np.uint8(np.int64(row[i]) + (left + up) // 2 & 255)
            elif channels == 3:  # at once: each waits for its own sample on the left
                r = g = b = r_ = g_ = b_ = np.int32(0)  # on the left, and above that
                for i in range(0, out.size // 3 * 3, 3):
                    ur, ug, ub = np.int32(above[i]), np.int32(above[i + 1]), np.int32(above[i + 2])
                    r, g, b = _paeth(row[i], r, ur, r_), _paeth(row[i + 1], g, ug, g_), _paeth(row[i + 2], b, ub, b_)
                    out[i], out[i + 1], out[i + 2] = np.uint8(r), np.uint8(g), np.uint8(b)
                    r_, g_, b_ = ur, ug, ub
            else:
                for c in range(channels):
                    r = r_ = np.int32(0)
                    for i in range(c, out.size, channels):
                        ur = np.int32(above[i])
                        r = _paeth(row[i], r, ur, r_)
                        out[i] = np.uint8(r)
                        r_ = ur
