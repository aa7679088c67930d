"""The normalizers nearest to Y where none fits, and where they depart."""

from collections.abc import Iterator

import numpy as np

from normcli.tensor.identify.known import normalized
from normcli.tensor.identify.laws import STATISTICS, Epsilon
from normcli.tensor.identify.names import titles
from normcli.tensor.identify.partition import channel_axes, usual_partitions
from normcli.tensor.identify.precision import round_to, ulps
from normcli.tensor.identify.readings import Pair, known_readings
from normcli.tensor.identify.results import Near, format_title
from normcli.tensor.normalizers.views import Array

_COUNT = 3


def nearest(pair: Pair, weight: Array | None, bias: Array | None) -> list[Near]:
    """Return the nearest normalizers, the first with the smallest difference."""
    candidates = {near.title: near for near in sorted(_candidates(pair, weight, bias), key=lambda near: -near.error)}
    return sorted(candidates.values(), key=lambda near: (near.error, "layout" not in near.title))[:_COUNT]


def _candidates(pair: Pair, weight: Array | None, bias: Array | None) -> Iterator[Near]:
    shape = pair.x.shape
    readings = [r for r in known_readings(pair, weight, bias) if r.rounding == "once"]
    statistics = [s for s in STATISTICS if s.name in ("std", "rms") and s.centered == (s.name == "std")]
    eps = Epsilon(1e-5, 1e-5, "inside")
    for partition in usual_partitions(shape, channel_axes(len(shape), None)):
        if partition.rows(pair.x).shape[1] < 2:
            continue
        for statistic in statistics:
            if statistic.variance == "unbiased":
                continue
            normal = normalized(pair, partition, statistic, eps)
            for reading in readings:
                title = format_title(titles(partition, shape, statistic, eps)[0])
                near = _near(pair, f"{title} eps=1e-05", reading.apply(normal, pair.dtype))
                if near is not None:
                    yield near


def _near(pair: Pair, title: str, expected: Array) -> Near | None:
    usable = np.isfinite(pair.y) & np.isfinite(expected)
    if not usable.any():
        return None
    with np.errstate(all="ignore"):
        gaps = np.where(usable, np.abs(pair.y - expected), 0.0)
        level = np.sqrt(np.mean(np.square(pair.y[usable])))
        tolerance = 4.0 * ulps(round_to(np.maximum(np.abs(pair.y), level), pair.dtype), pair.dtype)
    apart = usable & (gaps > tolerance)
    first = np.unravel_index(int(apart.argmax()), gaps.shape)
    worst = np.unravel_index(int(gaps.argmax()), gaps.shape)
    return Near(
        title=title,
        error=float(np.sqrt(np.mean(np.square(gaps[usable]))) / level) if level else np.inf,
        share=float(1.0 - np.count_nonzero(apart) / np.count_nonzero(usable)),
        first=tuple(map(int, first)),
        worst=tuple(map(int, worst)),
        y=float(pair.y[worst]),
        expected=float(expected[worst]),
    )
