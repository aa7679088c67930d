"""The axis of pixel values: its ends, and its ticks at round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from normcli.summary import Summary
from normcli.summary.distribution import distribution

_OUTLYING = 4.0  # an axis ends before values that are so many times farther away than 98% of all


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The scale of pixel values.

    Attributes:
        low, high: values at both ends.
        is_open: (left, right): values beyond an end count in the outermost column.
        ticks: label -> position.
    """

    low: float
    high: float
    is_open: tuple[bool, bool] = (False, False)
    ticks: dict[str, float]

    def at(self, value: float) -> float:
        """Return the position of a value, within the box."""
        return clamp(100 * (value - self.low) / (self.high - self.low))


def within_unit(summary: Summary) -> bool:
    """Return True if 0 is black and 1 white: integer images, or floats within these bounds."""
    known = [v for v in (*summary.min, *summary.max) if v is not None]
    if summary.max_value is not None:
        return min(known, default=0.0) >= 0
    return bool(known) and min(known) >= 0 and max(known) <= 1


def value_axis(summaries: Sequence[Summary]) -> Axis:
    """Return the scale of values: 0 to 1, or of raw values their extent; less where a few are far from all others."""
    low, high = _extent(summaries)
    is_open = (False, False)
    inner = _bulk(summaries)
    if inner is not None:
        left, right = inner
        spread = right - left
        if spread > 0 and high - right > _OUTLYING * spread:
            high, is_open = _nice_end(right + 0.25 * spread), (is_open[0], _extent(summaries, exact=True)[1] > right)
        if spread > 0 and left - low > _OUTLYING * spread:
            low, is_open = -_nice_end(-(left - 0.25 * spread)), (True, is_open[1])
    return Axis(low=low, high=high, is_open=is_open, ticks=_ticks(low, high, is_open))


def _ticks(low: float, high: float, is_open: tuple[bool, bool]) -> dict[str, float]:
    """Return labels and their positions; at an open end the label is the end of the axis."""
    ticks = {f"{tick:.4g}": 100 * (tick - low) / (high - low) for tick in nice_ticks(low, high, 5)}
    if is_open[0]:
        ticks = {f"≤ {low:.4g}": 0.0, **{label: at for label, at in ticks.items() if at > 15}}
    if is_open[1]:
        ticks = {**{label: at for label, at in ticks.items() if at < 85}, f"≥ {high:.4g}": 100.0}
    return ticks


def _extent(summaries: Sequence[Summary], *, exact: bool = False) -> tuple[float, float]:
    """Return 0 and just above 1, so that columns are 8-bit levels; or both ends of the values in raw units."""
    if not exact and all(within_unit(s) for s in summaries):
        return 0.0, 256 / 255
    known = [v for s in summaries for v in (*s.min, *s.max) if v is not None]
    if not known:
        known = [value for s in summaries for row in distribution(s) for value, _ in (row[0], row[-1])]
    low, high = min(known), max(known)
    return low, high if high > low else low + max(1.0, abs(low) / 1000)


def _bulk(summaries: Sequence[Summary]) -> tuple[float, float] | None:
    """Return values that 98% of each channel's pixels are between; None for 8 bits, whose range is their scale."""
    if all(s.max_value == 255 for s in summaries):
        return None
    rows = [s.percentiles.get(p) for s in summaries for p in ("1", "99")]
    values = [v for row in rows for v in row or ()]
    return (min(values), max(values)) if values else None


def _nice_end(value: float) -> float:
    """Return a round number at or above a value.

    >>> _nice_end(0.057), _nice_end(180.0), _nice_end(-3.3)
    (0.06, 200.0, -3.0)
    """
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))))
    for fraction in (1.0, 0.5, 0.2, 0.1):
        end = math.ceil(value / (step * fraction) - 1e-9) * step * fraction
        if end <= value + 0.12 * abs(value):
            return float(f"{end:.6g}") + 0.0
    return value


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return round numbers from low to high, about `count` of them.

    >>> nice_ticks(0, 1, 5), nice_ticks(0, 0.023, 4)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.01, 0.02])
    """
    if not high > low or not math.isfinite(high - low):
        return [low]
    rough = (high - low) / count
    if rough == 0:  # the smallest number of all, divided
        return [low]
    exponent = math.floor(math.log10(rough))
    step = next(
        (m * 10.0**exponent for m in (1, 2, 2.5, 5) if m * 10.0**exponent >= rough * 0.999), 10.0 ** (exponent + 1)
    )
    first = math.ceil(low / step - 1e-9)
    ticks = [round((first + i) * step, 2 - exponent) + 0.0 for i in range(3 * count)]
    return [tick for tick in ticks if tick <= high + 1e-9 * (high - low)] or [low]


def clamp(percent: float) -> float:
    """Return a position within the box, 0 to 100."""
    return max(0.0, min(100.0, percent))
