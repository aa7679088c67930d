"""The page of `check`: constants next to the dataset that they are to normalize."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from normcli.constants.identify import CheckResult
from normcli.constants.parse_config import Number
from normcli.report import figures
from normcli.report.axis import Axis, nice_ticks, value_axis
from normcli.report.environment import Origin, render
from normcli.report.page import constants_text
from normcli.report.pictures import Gallery
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS

_TONES = {
    "match": ("good", "✓"),
    "close": ("good", "≈"),
    "uncertain": ("unsure", "?"),
    "mistake": ("bad", "!"),
    "none": ("bad", "✗"),
}


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    """One channel in the order of the constants.

    Attributes:
        name, hue: of the channel.
        own, given: mean and std as positions; of the dataset in the identified convention, range and order.
        mean, std: the dataset's and the given ones, as pairs; std is None where none was given.
        shift, ratio: between them.
        normalized: mean and std as positions after normalizing with the constants.
        after: the dataset's mean, std, min and max after normalizing.
    """

    name: str
    hue: str
    own: dict[str, float]
    given: dict[str, float]
    mean: tuple[float, float]
    std: tuple[float, float] | None
    shift: float
    ratio: float | None
    normalized: dict[str, float]
    after: tuple[float | None, float | None, float | None, float | None]


def render_check(
    summary: Summary,
    result: CheckResult,
    mean: Sequence[Number],
    std: Sequence[Number] | None,
    *,
    title: str,
    name: str,
    sentence: str,
    gallery: Gallery | None = None,
    origin: Origin | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        summary: the dataset's statistics.
        result: of `check`.
        mean: the constants, as written.
        std: likewise; None where none was given.
        title: name of the dataset.
        name: of the constants: a preset, a config, or their digits.
        sentence: the verdict in words.
        gallery: pictures, if the images were read.
        origin: date and command.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    factor = _factor(result, summary)
    limit = _limit(result)
    axes = _axis(summary, factor), Axis(low=-limit, high=limit, ticks=_ticks(-limit, limit))
    return render(
        "check",
        title=f"{name} → {title}",
        origin=origin,
        s=summary,
        result=result,
        sentence=sentence,
        badge=_TONES.get(result.verdict, _TONES["uncertain"]),
        dataset=title,
        name=name,
        rows=list(_rows(summary, result, mean, std, axes)),
        axes=axes,
        conventions=_conventions(summary, result, std, factor),
        constants=constants_text(summary),
        gallery=gallery or Gallery(),
    )


def _rows(
    summary: Summary,
    result: CheckResult,
    mean: Sequence[Number],
    std: Sequence[Number] | None,
    axes: tuple[Axis, Axis],
) -> Iterator[CheckRow]:
    axis, normalized_axis = axes
    names = _names(summary, result, len(mean))
    after = [result.normalized.get(key) or [None] * len(mean) for key in ("mean", "std", "min", "max")]
    for c, value in enumerate(mean):
        given_std = std[c].value if std else 0.0
        own = (result.mean[c], result.std[c])
        values = (after[0][c], after[1][c], after[2][c], after[3][c])
        yield CheckRow(
            name=names[c],
            hue=figures.hue_of(names[c], c, len(names)),
            own=figures.mark(axis, own[0], own[1] if std else 0.0),
            given=figures.mark(axis, value.value, given_std),
            mean=(own[0], value.value),
            std=(own[1], given_std) if std else None,
            shift=result.shift[c],
            ratio=None if result.ratio is None else result.ratio[c],
            normalized=figures.mark(normalized_axis, values[0] or 0.0, values[1] or 0.0),
            after=values,
        )


def _names(summary: Summary, result: CheckResult, count: int) -> list[str]:
    letters = result.order.split(" or ")[0]
    if len(letters) == count:
        return list(letters)
    return list(summary.channels) if len(summary.channels) == count else [str(c) for c in range(count)]


def _factor(result: CheckResult, summary: Summary) -> float:
    """Return the factor from the dataset's values to the range of the constants."""
    high = result.range.removeprefix("0-")
    return float(high) if high.isdecimal() and summary.max_value is not None else 1.0


def _axis(summary: Summary, factor: float) -> Axis:
    """Return the dataset's scale of values in the range of the constants."""
    axis = value_axis([summary])
    high = 1.0 if summary.max_value is not None and not axis.is_open[1] else axis.high
    low, high = axis.low * factor, high * factor
    return Axis(low=low, high=high, ticks=_ticks(low, high))


def _ticks(low: float, high: float) -> dict[str, float]:
    return {f"{tick:.4g}": 100 * (tick - low) / (high - low) for tick in nice_ticks(low, high, 6)}


def _limit(result: CheckResult) -> float:
    """Return the end of the scale of normalized values: 3, or more where the constants are far off."""
    means, stds = (result.normalized.get(key) or [] for key in ("mean", "std"))
    ends = [abs(m) + s for m, s in zip(means, stds, strict=False) if m is not None and s is not None]
    return max(3.0, 1.1 * max(ends, default=0.0))


def _conventions(
    summary: Summary, result: CheckResult, std: Sequence[Number] | None, factor: float
) -> list[dict[str, Any]]:
    """Return the stds of each convention in the range and order of the constants, and the given ones first."""
    if not std:
        return []
    order = _order(summary, result, len(std))
    row_of_constants = {"name": "the constants", "explanation": "as given", "std": [v.value for v in std]}
    rows: list[dict[str, Any]] = [{**row_of_constants, "is_given": True, "fits": False}]
    for name, numbers in summary.conventions.items():
        own = numbers.get("std")
        if own is not None:
            stds = [factor * own[c] for c in order]
            texts = {"name": name.replace("_", " "), "explanation": CONVENTIONS.get(name, "")}
            rows.append({**texts, "std": stds, "is_given": False, "fits": name in result.conventions})
    values = [v for row in rows for v in row["std"]]
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.1 * high or 0.1
    low, high = low - margin, high + margin
    return [{**row, "dots": [100 * (v - low) / (high - low) for v in row["std"]]} for row in rows]


def _order(summary: Summary, result: CheckResult, count: int) -> list[int]:
    names = _names(summary, result, count)
    return [summary.channels.index(name) if name in summary.channels else c for c, name in enumerate(names)]
