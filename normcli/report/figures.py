"""Numbers of the page's figures, as positions in percent.

Shapes are drawn in a box of 100 x 100 that the page stretches to any width; labels are text outside of it, so that
they stay readable on a narrow screen.
"""

from dataclasses import dataclass
from typing import Any

from normcli.summary import Summary
from normcli.summary.distribution import ceiling, columns, distribution
from normcli.summary.remarks import CONVENTIONS

COLUMNS = 128
_GROUPS_DRAWN = 40


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One channel's histogram.

    Attributes:
        name: the channel.
        area: corners (x, y) of the steps, y downwards; the last two close the area at the bottom.
        mean, low, high: positions of the mean and of one std to both sides.
    """

    name: str
    area: list[tuple[float, float]]
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """All channels' histograms on one scale.

    Attributes:
        shapes: one a channel.
        ticks: label -> position on the axis of values.
        cut: columns higher than the box, by channel: the value they begin at and their share of pixels.
    """

    shapes: list[Shape]
    ticks: dict[str, float]
    cut: dict[str, list[tuple[str, float]]]


def histogram(summary: Summary) -> Histogram:
    """Return histograms in 128 columns, two 8-bit levels each; columns that are far too high are cut off and named."""
    low, high = bounds(summary)
    end = 256 / 255 if within_unit(summary) else high
    shares = [[n / sum(row) for n in row] for row in columns(summary, COLUMNS, low, end)]
    top = ceiling(shares)
    span, shapes = end - low, []
    cut: dict[str, list[tuple[str, float]]] = {}
    for c, (name, row) in enumerate(zip(summary.channels, shares, strict=True)):
        points = [(0.0, 100.0)]
        for at, share in enumerate(row):
            y = 100 - 100 * min(share / top, 1)
            points += [(100 * at / COLUMNS, y), (100 * (at + 1) / COLUMNS, y)]
            if share > top:
                cut.setdefault(name, []).append((f"{low + span * at / COLUMNS:.3g}", share))
        mean, std = summary.mean[c], summary.std[c]
        marks = (_clamp(100 * (v - low) / span) for v in (mean, mean - std, mean + std))
        middle, left, right = marks
        shapes.append(Shape(name=name, area=[*points, (100.0, 100.0)], mean=middle, low=left, high=right))
    ticks = {f"{low + (high - low) * i / 4:.4g}": 100 * (high - low) * i / 4 / span for i in range(5)}
    return Histogram(shapes=shapes, ticks=ticks, cut=cut)


def within_unit(summary: Summary) -> bool:
    """Return True if 0 is black and 1 white: integer images, or floats within these bounds."""
    known = [v for v in (*summary.min, *summary.max) if v is not None]
    if summary.max_value is not None:
        return min(known, default=0.0) >= 0
    return bool(known) and min(known) >= 0 and max(known) <= 1


def bounds(summary: Summary) -> tuple[float, float]:
    """Return both ends of the axis of values: 0 and 1, or the range of raw units."""
    if within_unit(summary):
        return 0.0, 1.0
    levels = distribution(summary)
    low, high = min(row[0][0] for row in levels), max(row[-1][0] for row in levels)
    return low, high if high > low else low + 1


def conventions(summary: Summary) -> list[dict[str, Any]]:
    """Return one row per convention: name, explanation, stds and their positions on an axis common to all rows."""
    available = {k: v for k, v in summary.conventions.items() if v.get("std") is not None}
    stds = [s for v in available.values() for s in (v["std"] or ())]
    if not stds:
        return []
    low, high = min(stds), max(stds)
    margin = 0.12 * (high - low) or 0.1 * high or 0.1
    low, high = low - margin, high + margin
    rows = []
    for name, numbers in available.items():
        std = numbers["std"] or []
        rows.append(
            {
                "name": name.replace("_", " "),
                "key": name,
                "words": CONVENTIONS.get(name, ""),
                "mean": numbers["mean"],
                "std": std,
                "dots": [100 * (s - low) / (high - low) for s in std],
            }
        )
    return rows


def groups(summary: Summary) -> list[dict[str, Any]]:
    """Return one row per group, from dark to bright, with mean and one std to both sides as positions."""
    low, high = bounds(summary)

    def at(value: float) -> float:
        return _clamp(100 * (value - low) / (high - low))

    rows = []
    for name, group in summary.groups.items():
        pairs = list(zip(group.mean, group.std, strict=True))
        marks = [{"mean": at(m), "low": at(m - s), "high": at(m + s)} for m, s in pairs]
        rows.append({"name": name, **vars(group), "marks": marks, "lightness": sum(group.mean) / len(pairs)})
    return sorted(rows, key=lambda row: (row["lightness"], row["name"]))


def groups_drawn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups that fit a figure: all, or the darkest and the brightest twenty."""
    if len(rows) <= _GROUPS_DRAWN:
        return rows
    return rows[: _GROUPS_DRAWN // 2] + rows[-_GROUPS_DRAWN // 2 :]


def composition(summary: Summary) -> dict[str, list[tuple[str, int, float]]]:
    """Return formats, modes and depths, each as label, count and percent; the most frequent first."""
    out = {}
    for kind in ("format", "mode", "depth"):
        counts: dict[str, int] = summary.composition.get(kind) or {}
        total = sum(counts.values()) or 1
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
        label = "{}-bit" if kind == "depth" else "{}"
        out[kind] = [(label.format(name), count, 100 * count / total) for name, count in ranked]
    return out


def mapped(summary: Summary, scale: list[float], shift: list[float], limit: float) -> list[dict[str, float]]:
    """Return the dataset's mean, mean ± std and range after a scheme, as positions on an axis from -limit to limit."""

    def at(value: float) -> float:
        return _clamp(50 + 50 * value / limit)

    rows = []
    for c, (k, b) in enumerate(zip(scale, shift, strict=True)):
        mean, std = k * summary.mean[c] + b, k * summary.std[c]
        ends = [k * v + b for v in (summary.min[c] or 0.0, 1.0 if summary.max[c] is None else summary.max[c] or 0.0)]
        rows.append(
            {
                "mean": mean,
                "std": std,
                "left": at(ends[0]),
                "right": at(ends[1]),
                "middle": at(mean),
                "low": at(mean - std),
                "high": at(mean + std),
                "from": ends[0],
                "to": ends[1],
            }
        )
    return rows


def _clamp(percent: float) -> float:
    return max(0.0, min(100.0, percent))
