"""Figures of image sizes: a map of widths and heights, and histograms on logarithmic scales."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from normcli.report.facts import STEPS, ImageFacts

Text = Callable[[float], str]  # of a value
Ticks = Callable[[float, float], dict[float, str]]  # values between two ends, with their labels

_RATIOS = {"1:1": 1.0, "4:3": 4 / 3, "16:9": 16 / 9, "3:1": 3.0}
_FEW_SIZES = 6  # a list is clearer than a map
_FEW_IMAGES = 8  # a histogram of fewer has columns of one image


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One column: position and width in percent, height in percent of the highest, and its meaning."""

    left: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A histogram on a logarithmic scale.

    Attributes:
        title: the quantity.
        bars: the columns that are not empty.
        ticks: label -> position.
        top: number of images in the highest column.
    """

    title: str
    bars: list[Bar]
    ticks: dict[str, float]
    top: int


@dataclass(frozen=True, kw_only=True)
class Circle:
    """Images of nearly one size: center and radius in percent of the map, and its meaning."""

    x: float
    y: float
    radius: float
    label: str


@dataclass(frozen=True, kw_only=True)
class SizeMap:
    """Widths to the right, heights upwards, both on one logarithmic scale.

    Attributes:
        circles: area by number of images, the largest first.
        x_ticks, y_ticks: label -> position from the left, and from the top.
        ratios: label, and both ends of the line of images with that aspect ratio: x1, y1, x2, y2.
    """

    circles: list[Circle]
    x_ticks: dict[str, float]
    y_ticks: dict[str, float]
    ratios: list[tuple[str, tuple[float, float, float, float]]]


@dataclass(frozen=True, kw_only=True)
class SizeFigures:
    """All figures of sizes; a part that would show one value is left out."""

    map: SizeMap | None
    histograms: list[Bars]


def size_figures(facts: ImageFacts, other: ImageFacts | None = None) -> SizeFigures:
    """Return the figures for the sizes of a set of images, on scales that also hold those of another set."""
    few = facts.images < _FEW_IMAGES and (other is None or other.images < _FEW_IMAGES)
    histograms = []
    for title, name, text, ticks in _HISTOGRAMS if not few else ():
        counts, beside = getattr(facts, name), {} if other is None else getattr(other, name)
        if len({*counts, *beside}) > 1:
            bins = [*counts, *beside]
            histograms.append(_bars(title, counts, (min(bins) - 1, max(bins) + 2), text, ticks))
    is_map = not few and other is None and facts.distinct_sizes > _FEW_SIZES
    return SizeFigures(map=_map(facts) if is_map else None, histograms=histograms)


def _bars(title: str, counts: dict[int, int], ends: tuple[int, int], text: Text, ticks: Ticks) -> Bars:
    low, high = ends
    top = max(counts.values())
    bars = []
    for step, count in counts.items():
        left, right = 2 ** ((step - 0.5) / STEPS), 2 ** ((step + 0.5) / STEPS)
        label = f"{text(left)} to {text(right)}: {count:,} image{'s' * (count != 1)}"
        place = 100 * (step - low) / (high - low)
        bars.append(Bar(left=place, width=100 / (high - low), height=100 * count / top, label=label))
    first, last = 2 ** ((low - 0.5) / STEPS), 2 ** ((high - 0.5) / STEPS)
    positions = {}
    for value, label in ticks(first, last).items():
        positions[label] = 100 * (STEPS * math.log2(value) + 0.5 - low) / (high - low)
    return Bars(title=title, bars=bars, ticks=_spaced(positions), top=top)


def _spaced(positions: dict[str, float], gap: float = 14.0) -> dict[str, float]:
    """Drop labels that would touch the one before."""
    out: dict[str, float] = {}
    for label, position in sorted(positions.items(), key=lambda entry: entry[1]):
        if not out or position - next(reversed(out.values())) >= gap:
            out[label] = position
    return out


def _ratio(value: float) -> str:
    return f"{value:.2g}:1" if value >= 1 else f"1:{1 / value:.2g}"


def _ratio_ticks(low: float, high: float) -> dict[float, str]:
    steps = {2.0**k: f"{2**k}:1" if k > 0 else f"1:{2**-k}" if k < 0 else "1:1" for k in range(-16, 17)}
    more = {3 / 4: "3:4", 4 / 3: "4:3", 2 / 3: "2:3", 3 / 2: "3:2"} if high / low < 4 else {}
    return {value: label for value, label in sorted({**steps, **more}.items()) if low <= value <= high}


def _decade_ticks(low: float, high: float) -> dict[float, str]:
    return {value: short(value) for value in _round_values(low, high)}


def _round_values(low: float, high: float) -> Iterator[float]:
    """Yield 1, 2 and 5 times the powers of ten between two values; only the powers where these are many."""
    factors = (1,) if high / low > 1e4 else (1, 3) if high / low > 300 else (1, 2, 5)
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for factor in factors:
            if low <= factor * 10.0**power <= high:
                yield factor * 10.0**power


def _map(facts: ImageFacts) -> SizeMap:
    bins = [b for pair in facts.grid for b in pair]
    low, high = min(bins) - 2, max(bins) + 2
    most = max(facts.grid.values())
    circles = []
    for (width, height), count in sorted(facts.grid.items(), key=lambda entry: (-entry[1], entry[0])):
        size = f"{short(2 ** (width / STEPS))} × {short(2 ** (height / STEPS))}"
        circles.append(
            Circle(
                x=100 * (width - low) / (high - low),
                y=100 - 100 * (height - low) / (high - low),
                radius=max(0.6, 100 / (high - low) * 1.1 * math.sqrt(count / most)),
                label=f"around {size}: {count:,} image{'s' * (count != 1)}",
            )
        )
    values = _round_values(2 ** (low / STEPS), 2 ** (high / STEPS))
    ticks = {f"{v:,.0f}": 100 * (STEPS * math.log2(v) - low) / (high - low) for v in values}
    return SizeMap(
        circles=circles,
        x_ticks=_spaced(ticks, 12),
        y_ticks={label: 100 - position for label, position in _spaced(ticks, 7).items()},
        ratios=list(_ratio_lines(facts, high - low)),
    )


def _ratio_lines(facts: ImageFacts, span: float) -> Iterator[tuple[str, tuple[float, float, float, float]]]:
    """Yield a line for each common aspect ratio that occurs, portrait and landscape."""
    names = set()
    for label, ratio in _RATIOS.items():
        for name, value in ((label, ratio), (":".join(reversed(label.split(":"))), 1 / ratio)):
            step = STEPS * math.log2(value)
            if name in names or not any(abs(step - b) <= 0.75 for b in facts.aspects):
                continue
            names.add(name)
            offset = 100 * step / span  # x - y, in percent of the map
            left, right = max(0.0, offset), min(100.0, 100.0 + offset)
            yield name, (left, 100 - (left - offset), right, 100 - (right - offset))


def short(value: float) -> str:
    """Return a number in three digits with a unit prefix.

    >>> short(500), short(12_345), short(2_000_000)
    ('500', '12.3k', '2M')
    """
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def bytes_text(value: float) -> str:
    """Return a number of bytes in decimal units.

    >>> bytes_text(812), bytes_text(110_000), bytes_text(3.2e9)
    ('812 B', '110 kB', '3.2 GB')
    """
    for limit, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit * 0.9995:
            return f"{value / limit:.3g} {suffix}"
    return f"{value:.3g} B"


_HISTOGRAMS: tuple[tuple[str, str, Text, Ticks], ...] = (
    ("Aspect ratio, width : height", "aspects", _ratio, _ratio_ticks),
    ("Pixels per image", "areas", short, _decade_ticks),
    ("Encoded size", "file_sizes", bytes_text, _decade_ticks),
)
