"""The profile of a tensor for a page: its histogram, and mean and std of each sample and channel."""

from dataclasses import dataclass

import numpy as np

from normcli.tensor.files import Array
from normcli.tensor.normalizers.views import channel_axis

BINS = 96
_SAMPLES, _CHANNELS = 12, 48  # most rows and columns of the map


@dataclass(frozen=True, kw_only=True)
class TensorProfile:
    """Histogram and map of one tensor, as a page draws them.

    Attributes:
        low, high: ends of the histogram: all finite elements, or nearly all where a few are far away.
        histogram: counts in equal bins from low to high; elements beyond them count in the outer bins.
        samples, channels: their numbers in the tensor.
        means, stds: by sample and channel; where there are many, averages of neighbors; NaN without a finite element.
    """

    low: float
    high: float
    histogram: list[int]
    samples: int
    channels: int
    means: list[list[float]]
    stds: list[list[float]]


def profile(y: Array, layout: str | None) -> TensorProfile:
    """Return the profile of a tensor.

    Args:
        y: any real tensor with samples on its first axis.
        layout: of its axes; None where it is unknown.
    """
    rows = _by_channel(y, layout).astype(np.float64)
    is_finite = np.isfinite(rows)
    rows[~is_finite] = np.nan
    finite = rows[is_finite]
    low, high = _ends(finite)
    counts = np.histogram(np.clip(finite, low, high), BINS, (low, high))[0]
    count = is_finite.sum(axis=2)
    with np.errstate(all="ignore"):
        means = np.nansum(rows, axis=2) / count  # NaN without a finite element
        stds = np.sqrt(np.nansum(np.square(rows - means[:, :, None]), axis=2) / count)
    return TensorProfile(
        low=low,
        high=high,
        histogram=counts.tolist(),
        samples=rows.shape[0],
        channels=rows.shape[1],
        means=_averaged(means).tolist(),
        stds=_averaged(stds).tolist(),
    )


def _by_channel(y: Array, layout: str | None) -> Array:
    """Return a tensor as (samples, channels, elements); as one sample of one channel where the layout is unknown."""
    if not y.size or (layout is None and y.ndim != 2):
        return y.reshape(1, 1, -1)
    by_channel = np.moveaxis(y, channel_axis(y, layout), 1)
    return by_channel.reshape(by_channel.shape[0], by_channel.shape[1], -1)


def _ends(finite: Array) -> tuple[float, float]:
    """Return both ends of a histogram: the extremes, unless 1% of the elements would fill most of the axis."""
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    near, far = (float(v) for v in np.quantile(finite, [0.005, 0.995]))
    margin = 1.5 * (far - near)
    low, high = max(low, near - margin), min(high, far + margin)
    width = high - low
    return (low, high) if width > 0 and np.isfinite(width / BINS) else (low - 0.5, low + 0.5)


def _averaged(values: Array) -> Array:
    """Return a map with at most 12 rows and 48 columns; each cell is the mean of its neighbors."""
    for axis, most in ((0, _SAMPLES), (1, _CHANNELS)):
        if values.shape[axis] > most:
            parts = np.array_split(values, most, axis=axis)
            values = np.stack([part.mean(axis=axis) for part in parts], axis=axis)
    return values
