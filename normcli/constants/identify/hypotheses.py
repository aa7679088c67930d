"""Hypotheses on constants: their values in every convention, range and order, right or mistaken."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from normcli.constants.parse_config import Number
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS
from normcli.summary.summary import channel_order

_COARSEST = 0.01  # in 0-1: fewer than two decimals cannot identify anything
_FLOAT32 = 1e-6  # relative: numbers that went through float32


@dataclass(frozen=True)
class Hypothesis:
    """One explanation of constants, with the values that it predicts.

    Attributes:
        convention: "pooled_population", …
        range, factor: "0-255" and 255.
        order: the channel at each position.
        mean, std: the constants that it predicts.
        own: the correct mean and std of these channels, in the range of `mean`.
        mistake: the fault of constants that are equal to these; "" for none.
    """

    convention: str
    range: str
    factor: float
    order: tuple[int, ...]
    mean: list[float]
    std: list[float]
    own: tuple[list[float], list[float]]
    mistake: str = ""


def _orders(summary: Summary) -> list[tuple[int, ...]]:
    count = len(summary.channels)
    straight = tuple(range(count))
    if summary.channels[:3] == ["R", "G", "B"]:
        return [straight, (2, 1, 0, *straight[3:])]
    return [straight]


def _ranges(summary: Summary) -> dict[str, float]:
    if summary.range == "raw":
        return {"raw units": 1.0}
    own = {} if summary.max_value in (None, 255) else {f"0-{summary.max_value}": float(summary.max_value)}
    return {"0-1": 1.0, "0-255": 255.0} | own


def available_conventions(summary: Summary, with_std: bool) -> Iterator[tuple[str, list[float], list[float]]]:
    """Yield each convention that these statistics contain: name, mean, std."""
    for name in CONVENTIONS:
        pooled = {"mean": summary.mean, "std": summary.std} if name == summary.convention else {}
        numbers = summary.conventions.get(name) or pooled
        mean, std = numbers.get("mean"), numbers.get("std")
        if mean is not None and (std is not None or not with_std):
            yield name, mean, std or summary.std


def hypotheses(summary: Summary, with_std: bool) -> Iterator[Hypothesis]:
    """Yield every hypothesis; in each range and order the correct one first."""
    orders = _orders(summary)
    for convention, mean, std in available_conventions(summary, with_std):
        for range_, factor in _ranges(summary).items():
            for order in orders:
                m, s = [factor * mean[c] for c in order], [factor * std[c] for c in order]
                where = (convention, range_, factor, order)
                yield Hypothesis(*where, m, s, (m, s))
                if not with_std:
                    continue
                inverse = [1 / v if v else math.inf for v in s]
                yield Hypothesis(*where, s, m, (m, s), "mean and std are exchanged")
                yield Hypothesis(*where, m, [v * v for v in s], (m, s), "std holds the variance: take its root")
                yield Hypothesis(*where, m, inverse, (m, s), "std holds 1/std, a scale")
                if factor == 255:
                    small = [mean[c] for c in order], [std[c] for c in order]
                    yield Hypothesis(*where, m, small[1], (m, s), "mean is in 0-255, std in 0-1")
                    where_small = (convention, "0-1", 1.0, order)
                    yield Hypothesis(*where_small, small[0], s, small, "mean is in 0-1, std in 0-255")
                for other in orders:
                    if other != order:
                        text = f"mean is in the order {order_name(summary, order)}, std in {order_name(summary, other)}"
                        yield Hypothesis(*where, m, [factor * std[c] for c in other], (m, s), text)


def _tolerances(values: Sequence[Number], factor: float) -> list[float]:
    """Return the largest rounding error of each value, also if it was rounded in 0-1 and then multiplied."""
    coarse = _COARSEST * factor / 2
    units = [v.unit for v in values]
    if factor > 1:
        for digits in (3, 4, 5):
            if all(abs(round(v.value / factor, digits) - v.value / factor) <= v.unit / 2 / factor for v in values):
                units = [max(u, factor * 10.0**-digits) for u in units]
                break
    return [min(max(u / 2, _FLOAT32 * abs(v.value)) * (1 + 1e-6), coarse) for u, v in zip(units, values, strict=True)]


def matches_digits(hypothesis: Hypothesis, mean: Sequence[Number], std: Sequence[Number] | None) -> bool:
    """Return True if constants equal the prediction of a hypothesis, within the rounding of their digits."""

    def fits(values: Sequence[Number], truth: list[float]) -> bool:
        allowed = _tolerances(values, hypothesis.factor)
        return all(abs(v.value - t) <= a for v, t, a in zip(values, truth, allowed, strict=True))

    return fits(mean, hypothesis.mean) and (std is None or fits(std, hypothesis.std))


def mean_distance(hypothesis: Hypothesis, mean: Sequence[Number]) -> float:
    """Return the largest shift of a mean, in standard deviations."""
    rows = zip(mean, hypothesis.mean, hypothesis.own[1], strict=True)
    return max((abs(v.value - m) / s if s else 0.0 if v.value == m else math.inf) for v, m, s in rows)


def std_distance(hypothesis: Hypothesis, std: Sequence[Number] | None) -> float:
    """Return the largest |log(std / predicted std)|; 0 without std."""
    if std is None:
        return 0.0
    return max(
        abs(math.log(v.value / s)) if 0 < s < math.inf else math.inf for v, s in zip(std, hypothesis.std, strict=True)
    )


def distance_of(hypothesis: Hypothesis, mean: Sequence[Number], std: Sequence[Number] | None) -> float:
    """Return the distance of constants from a hypothesis: the larger of those of mean and std."""
    return max(mean_distance(hypothesis, mean), std_distance(hypothesis, std))


def find_misplaced(clean: list[Hypothesis], mean: Sequence[Number], std: Sequence[Number] | None) -> list[Hypothesis]:
    """Return a hypothesis of misplaced numbers: all are this dataset's, at least half in place."""
    for hypothesis in clean:
        rows = [("mean", mean), *([("std", std)] if std is not None else [])]
        truth = {"mean": hypothesis.mean, "std": hypothesis.std}
        wrong, right = [], 0
        for row, values in rows:
            allowed = _tolerances(values, hypothesis.factor)
            for c, (value, slack) in enumerate(zip(values, allowed, strict=True)):
                if abs(value.value - truth[row][c]) <= slack:
                    right += 1
                    continue
                homes = [
                    f"the {r} of channel {i + 1}"
                    for r, numbers in truth.items()
                    for i, t in enumerate(numbers)
                    if abs(value.value - t) <= slack
                ]
                wrong.append(f"the {row} of channel {c + 1} holds {homes[0]}" if homes else "")
        if wrong and all(wrong) and right >= len(wrong):
            parts = (hypothesis.convention, hypothesis.range, hypothesis.factor, hypothesis.order)
            return [Hypothesis(*parts, hypothesis.mean, hypothesis.std, hypothesis.own, "; ".join(wrong))]
    return []


def order_name(summary: Summary, order: Sequence[int]) -> str:
    """Return an order of channels as text: "RGB", "BGR", "5 bands"."""
    return channel_order([summary.channels[c] for c in order])
