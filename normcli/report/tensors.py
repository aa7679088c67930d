"""The page of `tensor compare`: several normalizers, applied to the same activations."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normcli.report.axis import Axis, nice_ticks
from normcli.report.environment import Origin, render
from normcli.report.figures import labeled_cuts
from normcli.summary.distribution import ceiling

if TYPE_CHECKING:
    from normcli.tensor.channel_rows import ChannelRow
    from normcli.tensor.compare import ComparisonRow
    from normcli.tensor.profile import TensorProfile

_LEVELS = 8  # colors to each side of zero


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A map of samples and channels.

    Attributes:
        columns, rows: its size in cells.
        paths: level -> SVG path of all cells of that color; levels are -8 to 8, or "none" for no finite element.
        label: for screen readers.
    """

    columns: int
    rows: int
    paths: dict[str, str]
    label: str


@dataclass(frozen=True, kw_only=True)
class TensorFigure:
    """One tensor: the input, or the result of one normalizer.

    Attributes:
        name: of the normalizer with its settings.
        mean, std, min, max: over all finite elements.
        line: corners of the histogram's steps.
        cuts: columns higher than the box: position, and their share of all elements as text.
        axis: of values.
        marks: mean and one std to both sides, as positions.
        zero: the position of 0 on the axis; None where it lies outside.
        means, stds: maps by sample and channel.
        gap: root mean square and largest difference between train and eval mode.
        nan, inf: numbers of elements.
        channels: statistics of each channel, where they were asked for.
    """

    name: str
    mean: float
    std: float
    min: float
    max: float
    line: list[tuple[float, float]]
    cuts: list[tuple[float, str]]
    axis: Axis
    marks: dict[str, float]
    zero: float | None
    means: Heat
    stds: Heat
    gap: tuple[float, float] | None
    nan: int
    inf: int
    channels: "Sequence[ChannelRow]" = ()

    @property
    def area(self) -> list[tuple[float, float]]:
        """Return the corners of the closed shape below the line."""
        return [*self.line, (100.0, 100.0), (0.0, 100.0)]


def render_comparison(
    name: str,
    rows: "Sequence[ComparisonRow]",
    profiles: "Sequence[TensorProfile]",
    *,
    shape: Sequence[int] = (),
    layout: str = "",
    origin: Origin | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        name: of the input.
        rows: the input, then every result.
        profiles: of each row.
        shape: of the input.
        layout: of the input; "" where it was not given.
        origin: date and command.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    limits = [_limits(profiles[:1]), _limits(profiles[1:] or profiles[:1])]
    figures = [_figure(row, one, limits[min(i, 1)]) for i, (row, one) in enumerate(zip(rows, profiles, strict=True))]
    return render(
        "comparison",
        title=name,
        origin=origin,
        figures=figures,
        limits=limits,
        shape=" × ".join(f"{n:,}" for n in shape),
        layout=layout,
        has_maps=profiles[0].samples * profiles[0].channels > 1,
        samples=profiles[0].samples,
        channels=profiles[0].channels,
        is_averaged=profiles[0].samples > figures[0].means.rows or profiles[0].channels > figures[0].means.columns,
    )


def _limits(profiles: "Sequence[TensorProfile]") -> tuple[float, float]:
    """Return the values with the strongest color: of means, and how far stds are from 0."""
    return _largest(m for one in profiles for row in one.means for m in row), _largest(
        s for one in profiles for row in one.stds for s in row
    )


def _largest(values: Iterator[float]) -> float:
    return max((abs(v) for v in values if math.isfinite(v)), default=0.0) or 1.0


def _figure(row: "ComparisonRow", one: "TensorProfile", limits: tuple[float, float]) -> TensorFigure:
    span = one.high - one.low
    ticks = {f"{tick:.4g}": 100 * (tick - one.low) / span for tick in nice_ticks(one.low, one.high, 4)}
    axis = Axis(low=one.low, high=one.high, ticks=ticks)
    top = ceiling([[float(count) for count in one.histogram]]) or 1.0
    total = sum(one.histogram) or 1
    cuts = {at: count / total for at, count in enumerate(one.histogram) if count > top}
    line = []
    for at, count in enumerate(one.histogram):
        y = 100 - 100 * min(count / top, 1.0)
        line += [(100 * at / len(one.histogram), y), (100 * (at + 1) / len(one.histogram), y)]
    mean, std = (v if math.isfinite(v) else 0.0 for v in (row.mean, row.std))
    return TensorFigure(
        name=row.name,
        mean=row.mean,
        std=row.std,
        min=row.min,
        max=row.max,
        line=line,
        cuts=list(labeled_cuts(cuts, len(one.histogram))),
        axis=axis,
        marks={"mean": axis.at(mean), "low": axis.at(mean - std), "high": axis.at(mean + std)},
        zero=axis.at(0.0) if one.low <= 0 <= one.high else None,
        means=_heat(one.means, limits[0], f"Mean of each sample and channel after {row.name}"),
        stds=_heat(one.stds, limits[1], f"Standard deviation of each sample and channel after {row.name}"),
        gap=row.gap,
        nan=row.nan,
        inf=row.inf,
        channels=row.channels,
    )


def _heat(values: list[list[float]], limit: float, label: str) -> Heat:
    paths: dict[str, list[str]] = {}
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            level = str(round(_LEVELS * value / limit)) if math.isfinite(value) else "none"
            paths.setdefault(level, []).append(f"M{x} {y}h1v1h-1z")
    joined = {level: "".join(parts) for level, parts in sorted(paths.items())}
    return Heat(columns=len(values[0]) if values else 0, rows=len(values), paths=joined, label=label)
