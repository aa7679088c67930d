"""Counts of images of which a sample may be valid in one channel and not in another: each channel by itself."""

import math
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.tally.floats import Floats, sum_floats
from normcli.tally.integers import CountedImage, ImageMoments, Integers, count_one, image_values

Array = np.ndarray[Any, Any]


def count_valid(
    bucket: Integers | Floats, pixels: Array, weights: Array | None, valid: Array, nan: str
) -> CountedImage:
    """Add one image of which every channel counts only its valid samples; return its counts, with its moments.

    Args:
        bucket: that of the image.
        pixels: (H,W,C) of the bucket's dtype.
        weights: (H,W) of the same integer dtype, or None.
        valid: bool (H,W,C), at least one of them True.
        nan: treatment of a valid NaN or infinity: "error" or "skip".

    Raises:
        InputError: NaN where `nan` is "error", or no valid sample that counts; the bucket is then unchanged.
    """
    if isinstance(bucket, Floats):
        return _count_floats(bucket, pixels, valid, nan)
    own = bucket.bins()
    each, rows, invalid = [], [], []
    for c in range(bucket.channels):
        mask = valid[:, :, c]
        of_mask = None if weights is None else weights[mask][None]
        weight, sums = count_one(pixels[:, :, c][mask][None, :, None], of_mask, own[c : c + 1])
        each.append(weight)
        rows.append(sums)
        every = mask.size if weights is None else int(weights.sum(dtype=np.int64))
        invalid.append(every - weight)
    if not any(each):
        raise InputError("transparent", "every valid pixel is fully transparent, so --alpha weight leaves none")
    counted, sums = bucket.count_histogram(own, np.concatenate(rows), invalid)
    return CountedImage(counted, sums, own, moments=moments_of(counted, sums, own, bucket.unit))


def moments_of(counted: Array, sums: Array, own: Array, unit: int) -> ImageMoments:
    """Return mean, std and range of an image by its weights (C), sums (C,2) and histogram; NaN without a sample."""
    mean, std, *_ = image_values(counted[None], sums[None], unit)
    ends = [np.flatnonzero(row)[[0, -1]].astype(float).tolist() if row.any() else [math.nan] * 2 for row in own]
    low, high = map(list, zip(*ends, strict=True))
    mean, std = (np.where(counted > 0, row[0], math.nan).tolist() for row in (mean, std))
    return ImageMoments(counted.tolist(), mean, std, low, high)


def _count_floats(bucket: Floats, pixels: Array, valid: Array, nan: str) -> CountedImage:
    finite = np.isfinite(pixels)
    ignored = np.count_nonzero((valid & ~finite).any(axis=2))
    if ignored and nan == "error":
        raise InputError("not-finite", f"{ignored} pixels are NaN or infinite (--nan skip leaves them out)")
    usable = valid & finite
    if not usable.any():
        raise InputError("not-finite", "no pixel is finite")
    own = np.zeros_like(bucket.histogram)
    extremes = np.full((bucket.channels, 2), math.nan)
    weights, total, squares = [], [], []
    for c in range(bucket.channels):
        column = pixels[:, :, c][usable[:, :, c]][None, :, None]
        weight, sums, of_squares, ends = sum_floats(column, own[c : c + 1])
        weights.append(weight)
        total += sums
        squares += of_squares
        extremes[c] = ends[0] if weight else math.nan
    invalid = (valid.shape[0] * valid.shape[1] - valid.sum(axis=(0, 1))).tolist()
    not_finite = (valid & ~finite).sum(axis=(0, 1)).tolist()
    return bucket.count_sums(weights, (invalid, not_finite), own, total, squares, extremes)


def nothing_valid() -> InputError:
    """Return the error for an image of which nothing counts."""
    return InputError("nodata", "no sample is valid (all are nodata, masked or transparent)")
