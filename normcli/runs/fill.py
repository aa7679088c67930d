"""Invalid samples of a mapped image: they count in no statistic of it, and are written as `fill`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from normcli.errors import UsageError
from normcli.images.nodata import holds
from normcli.kernels.affine import Affine
from normcli.tally import Integers
from normcli.tally.valid import count_valid

if TYPE_CHECKING:
    from normcli.runs.transform import Finish

Array = np.ndarray[Any, Any]


def check_fill(fill: str, dtype: str) -> None:
    """Reject a fill value that the type of the output cannot hold.

    Raises:
        UsageError: naming both.
    """
    if fill != "keep" and not holds(np.dtype(dtype), float(fill)):
        raise UsageError(f"`fill`: {dtype} cannot hold {fill}")


def with_finite(pixels: Array, valid: Array | None) -> Array:
    """Return validity (H,W,C) that excludes NaN and infinity."""
    finite = np.isfinite(pixels)
    return finite if valid is None else finite & valid


def valid_histogram(pixels: Array, valid: Array) -> Array:
    """Return the histogram (C,bins) of the valid samples of an integer image."""
    bucket = Integers(pixels.shape[2], pixels.dtype.name)
    count_valid(bucket, pixels, None, valid, "error")
    return bucket.histogram


def valid_values(pixels: Array, valid: Array) -> Array:
    """Return the values (N,C) of a float image in float64, NaN where a sample is invalid."""
    return np.where(valid, pixels, np.nan).astype(np.float64).reshape(-1, pixels.shape[2])


def clipped_invalid(pixels: Array, valid: Array, source: tuple[int, ...], affine: Affine, finish: "Finish") -> int:
    """Return the number of invalid samples among those counted as clipped."""
    if pixels.dtype == np.uint8 and finish.clip is None:  # a table covers every level: nothing is counted
        return 0
    clipped = 0
    for j, (c, scale, shift) in enumerate(zip(source, *affine, strict=True)):
        with np.errstate(over="ignore", invalid="ignore"):
            y = pixels[:, :, c][~valid[:, :, c]].astype(np.float64) * scale + shift
        clipped += finish.channel(j)(y)[1]
    return clipped


def valid_is_finite(out: Array, valid: Array, source: tuple[int, ...], planar: bool) -> bool:
    """Return True if no valid sample of an output is NaN or infinite."""
    planes = ((out[j] if planar else out[:, :, j], valid[:, :, c]) for j, c in enumerate(source))
    return all(np.isfinite(plane[seen]).all() for plane, seen in planes)


def fill_invalid(out: Array, valid: Array, source: tuple[int, ...], fill: str, planar: bool) -> list[int]:
    """Write the fill value into the invalid samples of an output; return their number per channel."""
    counts = []
    for j, c in enumerate(source):
        hidden = ~valid[:, :, c]
        counts.append(int(np.count_nonzero(hidden)))
        if fill != "keep":
            (out[j] if planar else out[:, :, j])[hidden] = float(fill)
    return counts


def write_outside(
    out: Array,
    outside: Array,
    source: tuple[int, ...],
    value: float,
    planar: bool,
    scales: tuple[tuple[float, float], ...],
) -> tuple[tuple[float, ...], bool]:
    """Write 0, as the output represents it, where samples are outside of a mask.

    Args:
        out: the output; changed in place.
        outside: bool (H,W,C) by the channels of the pixels.
        source: the channel of the pixels that each channel of `out` is made from.
        value: 0 in the output.
        planar: `out` is (C,H,W).
        scales: (scale, offset) of each channel of the pixels; () where samples are values.

    Returns:
        The level of the samples outside, for each channel of `out`; True if no sample inside has the value 0 in the
        output, so that it identifies those outside.
    """
    apart = True
    for j, c in enumerate(source):
        plane = out[j] if planar else out[:, :, j]
        apart &= not (plane[~outside[:, :, c]] == value).any()
        plane[outside[:, :, c]] = value
    factors = scales or ((1.0, 0.0),) * outside.shape[2]
    return tuple(-factors[c][1] / factors[c][0] + 0.0 for c in source), bool(apart)


def without_filled(plane: Array, fill: str, count: int) -> Array | None:
    """Return the samples of a written channel without its invalid ones.

    Filled samples are equal, so it does not matter which of them are valid samples that have this value. Samples that
    were kept are known where they are NaN or infinite.

    Returns:
        The samples (N); None where there are fewer invalid ones than `count`.
    """
    flat = plane.reshape(-1)
    if fill == "keep" or np.isnan(float(fill)):
        same = ~np.isfinite(flat)
    else:
        same = flat == np.asarray(float(fill)).astype(flat.dtype)
    places = np.flatnonzero(same)[:count]
    return np.delete(flat, places) if len(places) == count else None
