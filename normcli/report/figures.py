"""Numbers of the pages' figures, as positions in percent.

Shapes are drawn in a box of 100 x 100 that the page stretches to any width; labels are text outside of it, so that
they stay readable on a narrow screen.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from normcli.report.axis import Axis, clamp, nice_ticks, value_axis
from normcli.summary import Summary
from normcli.summary.distribution import Level, ceiling, columns, distribution
from normcli.summary.remarks import CONVENTIONS

COLUMNS = 128
_GROUPS_DRAWN = 40
_OVERLAID = 4  # more channels than these get a small histogram each
_CUTS_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One channel's histogram.

    Attributes:
        name: the channel.
        hue: name of its color in the style sheet.
        line: corners (x, y) of the steps, y downwards; from the left end of the axis to the right.
        mean, low, high: positions of the mean and of one std to both sides.
        dataset: number of the dataset in a comparison, from 0.
    """

    name: str
    hue: str
    line: list[tuple[float, float]]
    mean: float
    low: float
    high: float
    dataset: int = 0

    @property
    def area(self) -> list[tuple[float, float]]:
        """Return the corners of the closed shape below the line."""
        return [*self.line, (100.0, 100.0), (0.0, 100.0)]


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Histograms on one scale.

    Attributes:
        shapes: one a channel, or one a dataset.
        axis: of values.
        shares: labels of the y axis -> position from the top.
        cuts: columns higher than the box: position, and their true height as text; empty text where there is no room.
        text: the cuts in words.
    """

    shapes: list[Shape]
    axis: Axis
    shares: dict[str, float]
    cuts: list[tuple[float, str]] = field(default_factory=list)
    text: str = ""


def histograms(summary: Summary) -> list[Histogram]:
    """Return one figure with all channels, or one a channel where these are many.

    Integer images of 8 bits have 128 columns of two levels each. Columns that are far higher than all others are cut.
    """
    axis = value_axis([summary])
    rows = _shares(summary, axis)
    channels = list(range(len(rows)))
    figures = [channels] if len(rows) <= _OVERLAID else [[c] for c in channels]
    return [
        _figure(axis, [_shape(summary, axis, c, rows[c]) for c in figure], [rows[c] for c in figure])
        for figure in figures
    ]


def pairs_of_histograms(first: Summary, second: Summary) -> list[Histogram]:
    """Return one figure a channel with both datasets on one scale."""
    axis = value_axis([first, second])
    datasets = [(summary, _shares(summary, axis)) for summary in (first, second)]
    out = []
    for c in range(len(first.channels)):
        rows = [shares[c] for _, shares in datasets]
        shapes = [_shape(summary, axis, c, shares[c], i) for i, (summary, shares) in enumerate(datasets)]
        out.append(_figure(axis, shapes, rows))
    return out


def _shares(summary: Summary, axis: Axis) -> list[list[float]]:
    """Return per channel the share of pixels in each column."""
    buckets = summary.state["buckets"]
    if all(bucket["dtype"] == "uint8" for bucket in buckets):
        rows = columns(summary, COLUMNS, axis.low, axis.high)
    else:
        is_float = any(bucket["dtype"] == "float" for bucket in buckets)
        width = None if is_float else 1 / (summary.max_value or 65535)
        rows = [_spread(levels, axis, width) for levels in distribution(summary)]
    return [[n / (sum(row) or 1) for n in row] for row in rows]


def _spread(levels: list[Level], axis: Axis, width: float | None) -> list[float]:
    """Return the weight of levels in each column, every level spread over the values that it covers.

    Counted at their lower ends, 1,638 levels in 128 columns make a comb: 12 levels in one column, 13 in the next.

    Args:
        levels: values and weights.
        axis: the scale.
        width: of a level; None for floats, which are known to 8 significant bits.
    """
    out = [0.0] * COLUMNS
    column = (axis.high - axis.low) / COLUMNS
    for value, weight in levels:
        extent = width if width is not None else math.ldexp(1.0, math.frexp(value)[1] - 8) if value else 0.0
        start = (value - (extent if value < 0 else 0.0) - axis.low) / column
        first = _column(start)
        last = _column(start + extent / column - 1e-9)
        if first == last:
            out[first] += weight
            continue
        for at in range(first, last + 1):
            left = start if at == first else at
            right = start + extent / column if at == last else at + 1
            out[at] += weight * (right - left) * column / extent
    return out


def _column(position: float) -> int:
    return int(max(0.0, min(position + 1e-9, COLUMNS - 1)))


@dataclass(frozen=True)
class _Row:
    """A row of shares that waits for the height of its figure."""

    shape: Shape
    shares: list[float]


def _shape(summary: Summary, axis: Axis, channel: int, shares: list[float], dataset: int = 0) -> _Row:
    mean, std, name = summary.mean[channel], summary.std[channel], summary.channels[channel]
    color = second_hue if dataset else hue_of
    marks = {"mean": axis.at(mean), "low": axis.at(mean - std), "high": axis.at(mean + std)}
    hue = color(name, channel, len(summary.channels))
    return _Row(Shape(name=name, hue=hue, line=[], dataset=dataset, **marks), shares)


def _figure(axis: Axis, rows: list[_Row], shares: list[list[float]]) -> Histogram:
    top = ceiling(shares) or 1.0
    shapes: list[Shape] = []
    cuts: dict[int, float] = {}
    words: list[str] = []
    for row in rows:
        line: list[tuple[float, float]] = []
        named: list[str] = []
        for at, share in enumerate(row.shares):
            y = 100 - 100 * min(share / top, 1)
            line += [(100 * at / COLUMNS, y), (100 * (at + 1) / COLUMNS, y)]
            if share > top:
                cuts[at] = max(cuts.get(at, 0.0), share)
                value = axis.low + (axis.high - axis.low) * at / COLUMNS
                named.append(f"{percent(share)} at {value:.3g}")
        if named:
            words.append(f"{row.shape.name}: {', '.join(named[:_CUTS_NAMED])}")
        shapes.append(_with_line(row.shape, line))
    return Histogram(
        shapes=shapes,
        axis=axis,
        shares={percent(tick): 100 - 100 * tick / top for tick in nice_ticks(0.0, top, 4)},
        cuts=list(labeled_cuts(cuts)),
        text="; ".join(words),
    )


def _with_line(shape: Shape, line: list[tuple[float, float]]) -> Shape:
    return Shape(**{**vars(shape), "line": line})


def labeled_cuts(cuts: dict[int, float], count: int = COLUMNS) -> Iterable[tuple[float, str]]:
    """Yield one mark for each run of neighboring columns that are cut, labeled with the highest of them.

    Args:
        cuts: column -> share of all elements.
        count: number of columns.
    """
    last_label = -100.0
    runs: list[list[int]] = []
    for at in sorted(cuts):
        if runs and at - runs[-1][-1] <= 2:
            runs[-1].append(at)
        else:
            runs.append([at])
    for run in runs:
        position = 100 * (run[0] + run[-1] + 1) / 2 / count
        has_room = position - last_label > 12
        yield position, percent(max(cuts[at] for at in run)) if has_room else ""
        last_label = position if has_room else last_label


def hue_of(name: str, channel: int, count: int) -> str:
    """Return the name of a channel's color in the style sheet; it never contains text of a file.

    >>> hue_of("R", 0, 3), hue_of("nir", 1, 2), hue_of("B8", 8, 13)
    ('R', 'c1', 'L')
    """
    if name in ("R", "G", "B", "A", "L"):
        return name
    return f"c{channel}" if count <= _OVERLAID else "L"


def second_hue(name: str, channel: int, count: int) -> str:
    """Return the color of a channel of the second dataset, which is never the gray of the first."""
    hue = hue_of(name, channel, count)
    return "c1" if hue == "L" else hue


def percent(share: float) -> str:
    """Return a share as text.

    >>> percent(0.0), percent(0.025), percent(0.5), percent(0.00031)
    ('0%', '2.5%', '50%', '0.031%')
    """
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.3g}%"


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
                "is_given": False,
                "explanation": CONVENTIONS.get(name, ""),
                "mean": numbers["mean"],
                "std": std,
                "dots": [100 * (s - low) / (high - low) for s in std],
            }
        )
    return rows


def groups(summary: Summary) -> list[dict[str, Any]]:
    """Return one row per group, from dark to bright, with mean and one std to both sides as positions."""
    axis = value_axis([summary])
    largest = max((group.images for group in summary.groups.values()), default=1) or 1
    rows = []
    for name, group in summary.groups.items():
        pairs = list(zip(group.mean, group.std, strict=True))
        marks = [mark(axis, m, s) for m, s in pairs]
        share = 100 * group.images / largest
        rows.append({"name": name, **vars(group), "marks": marks, "lightness": sum(group.mean), "share": share})
    return sorted(rows, key=lambda row: (row["lightness"], row["name"]))


def mark(axis: Axis, mean: float, std: float) -> dict[str, float]:
    """Return a mean and one std to both sides as positions."""
    return {"mean": axis.at(mean), "low": axis.at(mean - std), "high": axis.at(mean + std)}


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
        return clamp(50 + 50 * value / limit)

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
