"""Counts of one image that comes in blocks: the same bits as of the complete image, in the memory of a block."""

import math
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.tally.floats import Floats, sum_floats
from normcli.tally.integers import CountedImage, Integers, count_one, sums_of
from normcli.tally.valid import moments_of, nothing_valid

Array = np.ndarray[Any, Any]


class BlockCounts:
    """The counts of one image so far; `finish` adds it to its bucket.

    Args:
        bucket: an empty one of the image's kind, for the shape of its histogram.
        nan: treatment of a valid NaN or infinity: "error" or "skip".
    """

    def __init__(self, bucket: Integers | Floats, nan: str) -> None:
        self._nan = nan
        channels = bucket.channels
        self._histogram: Array = np.zeros_like(bucket.histogram)
        self._weights, self._invalid, self._not_finite = ([0] * channels for _ in range(3))
        self._total, self._squares = [0] * channels, [0] * channels
        self._extremes: Array = np.full((channels, 2), math.nan)
        self._pixels_not_finite = 0

    def add(self, pixels: Array, weights: Array | None, valid: Array | None) -> None:
        """Add one block.

        Args:
            pixels: (H,W,C) of the bucket's dtype.
            weights: (H,W) of the same integer dtype, or None.
            valid: bool (H,W,C), True where a sample counts; None where all do.
        """
        if pixels.dtype.kind == "f":
            self._add_floats(pixels, valid)
            return
        every = pixels.shape[0] * pixels.shape[1] if weights is None else int(weights.sum(dtype=np.int64))
        if valid is None or valid.all():
            count_one(pixels, weights, self._histogram)
            return
        for c in range(pixels.shape[2]):
            mask = valid[:, :, c]
            of_mask = None if weights is None else weights[mask][None]
            weight, _ = count_one(pixels[:, :, c][mask][None, :, None], of_mask, self._histogram[c : c + 1])
            self._invalid[c] += every - weight

    def _add_floats(self, pixels: Array, valid: Array | None) -> None:
        finite = np.isfinite(pixels)
        usable = finite if valid is None else finite & valid
        not_finite = ~finite if valid is None else valid & ~finite
        self._pixels_not_finite += int(np.count_nonzero(not_finite.any(axis=2)))
        for c in range(pixels.shape[2]):
            column = pixels[:, :, c][usable[:, :, c]][None, :, None]
            weight, total, squares, ends = sum_floats(column, self._histogram[c : c + 1])
            self._weights[c] += weight
            self._total[c] += total[0]
            self._squares[c] += squares[0]
            if weight:
                self._extremes[c] = np.fmin(self._extremes[c, 0], ends[0, 0]), np.fmax(self._extremes[c, 1], ends[0, 1])
            self._not_finite[c] += int(np.count_nonzero(not_finite[:, :, c]))
            self._invalid[c] += 0 if valid is None else int(np.count_nonzero(~valid[:, :, c]))

    def finish(self, bucket: Integers | Floats) -> CountedImage:
        """Add the image to its bucket; return its counts, with its moments.

        Raises:
            InputError: NaN where `nan` is "error", or no valid sample that counts; the bucket is then unchanged.
        """
        if isinstance(bucket, Floats):
            if self._pixels_not_finite and self._nan == "error":
                raise InputError(
                    "not-finite", f"{self._pixels_not_finite} pixels are NaN or infinite (--nan skip leaves them out)"
                )
            if not any(self._weights):
                raise nothing_valid() if any(self._invalid) else InputError("not-finite", "no pixel is finite")
            left_out = self._invalid, self._not_finite
            return bucket.count_sums(
                self._weights, left_out, self._histogram, self._total, self._squares, self._extremes
            )
        if not self._histogram.any():
            raise nothing_valid()
        sums: Array = np.array([sums_of(row) for row in self._histogram], dtype=object)
        counted, sums = bucket.count_histogram(self._histogram, sums, self._invalid)
        return CountedImage(
            counted, sums, self._histogram, moments=moments_of(counted, sums, self._histogram, bucket.unit)
        )
