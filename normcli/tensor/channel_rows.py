"""Statistics of each channel of a tensor, read by blocks of samples."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normcli.tensor.activations import MomentSums
from normcli.tensor.files import Array


@dataclass(frozen=True)
class ChannelRow:
    """Statistics of one channel, over its finite elements; NaN without any.

    Attributes:
        mean: mean.
        std: population.
        min: smallest.
        max: largest.
        nan, inf: numbers of elements.
    """

    mean: float
    std: float
    min: float
    max: float
    nan: int
    inf: int

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, with None for NaN and infinity."""
        values = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def channel_rows(blocks: Iterator[Array], axis: int, channels: int) -> list[ChannelRow]:
    """Return the statistics of each channel.

    Args:
        blocks: of samples, all with the axes of the tensor.
        axis: of the channels.
        channels: their number.
    """
    sums = MomentSums(channels)
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for block in blocks:
        rows = np.moveaxis(block, axis, 0).reshape(channels, -1).astype(np.float64)
        finite = np.isfinite(rows)
        low = np.minimum(low, rows.min(axis=1, where=finite, initial=np.inf))
        high = np.maximum(high, rows.max(axis=1, where=finite, initial=-np.inf))
        sums.add(rows)
    known = sums.count > 0
    with np.errstate(all="ignore"):
        std = np.sqrt(sums.m2 / np.maximum(sums.count, 1))
    columns = (np.where(known, column, np.nan).tolist() for column in (sums.mean, std, low, high))
    return [ChannelRow(*row) for row in zip(*columns, sums.nan.tolist(), sums.inf.tolist(), strict=True)]
