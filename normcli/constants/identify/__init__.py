"""What given constants are: which convention, range, channel order, or mistake, seen from a dataset's statistics.

Every convention in every range and order predicts the constants; what was given is compared with all of them.

    match      within the rounding of the digits given
    close      not these digits, yet within the tolerance: another split, subset, decoder or preprocessing
    uncertain  within the tolerance, and more than one convention or order explains it about as well
    mistake    this dataset's numbers in the wrong place: exchanged, repeated, variance for std, …
    none       no reading comes near

The distance is the largest, over channels, of |mean given - mean| / std and |log(std given / std)|.

"About as well" is judged by the data: the spread of the images' own stds, which is
sqrt(root_mean_image_variance^2 - mean_of_image_stds^2), says how far a mean of image stds over another sample
of as many images would lie. Published constants whose convention is documented settle what data cannot.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from normcli.constants.identify.hypotheses import (
    Hypothesis,
    available_conventions,
    distance_of,
    find_misplaced,
    hypotheses,
    matches_digits,
    mean_distance,
    order_name,
    std_distance,
)
from normcli.constants.parse_config import Number, number
from normcli.constants.presets import PRESETS
from normcli.errors import UsageError
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS

TOLERANCE = 0.1
FAMILIES = {
    "pooled_population": "pooled",
    "pooled_sample": "pooled",
    "mean_of_image_stds": "mean of per-image stds",
    "mean_of_image_sample_stds": "mean of per-image stds",
    "root_mean_image_variance": "root of the mean per-image variance",
}


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What constants were recognized as.

    Attributes:
        verdict: "match", "close", "uncertain", "mistake" or "none".
        conventions: the conventions that fit; several where the digits or the data do not tell them apart.
        range: "0-1", "0-255", "0-65535" or "raw units".
        order: "RGB", "BGR", …; "RGB or BGR" where they are too alike to tell.
        preset: name of the published constants with these values, or "".
        mistake: what is in the wrong place, in words, or "".
        distance: how far off, in the first convention named; None without any reading.
        shift: per channel in the order given, (given mean - mean) / std.
        ratio: per channel, given std / std; None where no std was given.
        mean, std: this dataset's own in that convention, range and order.
        normalized: pooled mean and std, and the range, of this dataset's pixels once normalized by the
            constants given: per channel in the order given.
        remarks: sentences.
    """

    verdict: str
    conventions: list[str] = field(default_factory=list)
    range: str = ""
    order: str = ""
    preset: str = ""
    mistake: str = ""
    distance: float | None = None
    shift: list[float] = field(default_factory=list)
    ratio: list[float] | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    normalized: dict[str, list[float | None]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Say whether the constants are this dataset's, in some convention, and not mistaken."""
        return self.verdict in ("match", "close", "uncertain")

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON object."""
        return {"schema": "normcli/check/1", **asdict(self)}


def check(
    summary: Summary,
    mean: Sequence[Number | float],
    std: Sequence[Number | float] | None = None,
    *,
    preset: str = "",
    tolerance: float = TOLERANCE,
) -> CheckResult:
    """Recognize constants against a dataset's statistics.

    Args:
        summary: the dataset.
        mean: per channel, as written; a float stands for its shortest decimal.
        std: per channel, or None: only the means are compared.
        preset: name of the published constants given, where they were given by name.
        tolerance: distance within which constants are "close".

    Raises:
        UsageError: wrong length, or std not positive.
    """
    mean, std = _as_written(mean), None if std is None else _as_written(std)
    _refuse(summary, mean, std)
    known = preset or _published(mean, std)
    every = list(hypotheses(summary, std is not None))
    clean = [r for r in every if not r.mistake]
    exact = [r for r in clean if matches_digits(r, mean, std)]
    remarks = _absent(summary)
    if exact:
        return _result(summary, mean, std, "match", exact, known, remarks)
    near = sorted((r for r in clean if distance_of(r, mean, std) <= tolerance), key=lambda r: distance_of(r, mean, std))
    if near:
        return _close(summary, mean, std, near, known, remarks)
    wrong = [r for r in every if r.mistake and matches_digits(r, mean, std)][:1]
    wrong = wrong or find_misplaced(clean, mean, std)
    wrong = wrong or [r for r in every if r.mistake and distance_of(r, mean, std) <= tolerance / 2][:1]
    if wrong:
        return _result(summary, mean, std, "mistake", wrong, known, remarks)
    best = sorted(clean, key=lambda r: distance_of(r, mean, std))[:1]
    return _result(summary, mean, std, "none", best, known, [*remarks, *_typo(mean, std, known)])


def _as_written(values: Sequence[Number | float]) -> list[Number]:
    return [v if isinstance(v, Number) else number(repr(float(v))) for v in values]


def _refuse(summary: Summary, mean: Sequence[Number], std: Sequence[Number] | None) -> None:
    count, names = len(summary.channels), " ".join(summary.channels)
    for what, row in (("mean", mean), ("std", std)):
        if row is not None and len(row) != count:
            raise UsageError(f"{len(row)} value{'s' * (len(row) != 1)} of {what} for {count} ({names}): give {count}")
    for name, value in zip(summary.channels, std or (), strict=False):
        if not value.value > 0:
            raise UsageError(f"std of {name} is {value.value:g}: a standard deviation to divide by is above 0")


def _close(
    summary: Summary,
    mean: Sequence[Number],
    std: Sequence[Number] | None,
    near: list[Hypothesis],
    known: str,
    remarks: list[str],
) -> CheckResult:
    """Among readings within the tolerance, say which, or that the data cannot tell."""
    documented = PRESETS[known].convention if known else ""
    order = [r for r in near if r.convention == documented] or near
    first = order[0]
    same = [r for r in near if r.order == first.order and r.range == first.range]
    turned = [r for r in near if r.order != first.order]
    unsure_order = bool(turned) and distance_of(turned[0], mean, std) <= 2 * distance_of(first, mean, std)
    if documented in CONVENTIONS and order is not near and FAMILIES[documented] == FAMILIES[first.convention]:
        named = [r for r in same if FAMILIES[r.convention] == FAMILIES[documented]]
        named.sort(key=lambda r: r.convention != documented)
        better = [r for r in same if std_distance(r, std) < std_distance(first, std) / 1.5]
        if better:
            nearer = better[0].convention.replace("_", " ")
            remarks = [
                *remarks,
                f"named by its publication; by the stds alone, {nearer} of these images lies nearer",
                *_reach(summary),
            ]
        verdict = "uncertain" if unsure_order else "close"
        return _result(summary, mean, std, verdict, named, known, remarks, turned[:1] if unsure_order else [])
    same.sort(key=lambda r: std_distance(r, std))
    best = same[0]
    limit = max(2 * std_distance(best, std) + 0.005, 3 * sampling_error(summary))
    rivals = [r for r in same if FAMILIES[r.convention] != FAMILIES[best.convention] and std_distance(r, std) <= limit]
    named = [r for r in same if FAMILIES[r.convention] == FAMILIES[best.convention]]
    if std is None:  # the mean alone: every convention with this mean, which for images of one size are all
        named, rivals = [r for r in same if mean_distance(r, mean) <= mean_distance(near[0], mean) + 1e-9], []
    unsure = bool(rivals) or unsure_order
    remarks = [*remarks, *_reach(summary)] if rivals else remarks
    verdict = "uncertain" if unsure else "close"
    return _result(summary, mean, std, verdict, named + rivals, known, remarks, turned[:1] if unsure_order else [])


def sampling_error(summary: Summary) -> float:
    """Relative standard error of the mean of image stds over another sample of as many images."""
    conventions = summary.conventions
    roots = (conventions.get("root_mean_image_variance") or {}).get("std")
    means = (conventions.get("mean_of_image_stds") or {}).get("std")
    if not roots or not means or summary.images < 1:
        return 0.0
    pairs = [(r, m) for r, m in zip(roots, means, strict=True) if m > 0]
    return max((math.sqrt(max(0.0, r * r - m * m) / summary.images) / m for r, m in pairs), default=0.0)


def _reach(summary: Summary) -> list[str]:
    error = sampling_error(summary)
    if not error:
        return []
    return [f"another {summary.images:,} images would move the mean of image stds by about {error:.1%}"]


def _published(mean: Sequence[Number], std: Sequence[Number] | None) -> str:
    """Name of the published constants with exactly these values, in either range and order."""
    for name, preset in PRESETS.items():
        if len(preset.mean) != len(mean) or (preset.std is None) != (std is None):
            continue
        for factor in (1.0, 255.0, 1 / 255):
            for step in (1, -1):
                values = zip((*preset.mean[::step], *(preset.std or ())[::step]), (*mean, *(std or ())), strict=True)
                if all(abs(p * factor - v.value) <= 1e-6 * abs(v.value) for p, v in values):
                    return name
    return ""


def _typo(mean: Sequence[Number], std: Sequence[Number] | None, known: str) -> list[str]:
    """Published constants of which all but one number are these."""
    if known or std is None or len(mean) < 3:
        return []
    for name, preset in PRESETS.items():
        if preset.std is None or len(preset.mean) != len(mean):
            continue
        rows = [("mean", v, p) for v, p in zip(mean, preset.mean, strict=True)]
        rows += [("std", v, p) for v, p in zip(std, preset.std, strict=True)]
        wrong = [(row, v.value, p) for row, v, p in rows if abs(v.value - p) > 1e-6]
        if len(wrong) == 1:
            row, value, right = wrong[0]
            return [f"{name} but for one {row}: {value:g} where it has {right:g}; mistyped?"]
    return []


def _absent(summary: Summary) -> list[str]:
    there = {name for name, _, _ in available_conventions(summary, True)}
    missing = [name.replace("_", " ") for name in CONVENTIONS if name not in there]
    return [f"these statistics hold no {', '.join(missing)}: not compared"] if missing else []


def _result(
    summary: Summary,
    mean: Sequence[Number],
    std: Sequence[Number] | None,
    verdict: str,
    chosen: list[Hypothesis],
    known: str,
    remarks: list[str],
    turned: list[Hypothesis] | None = None,
) -> CheckResult:
    first = chosen[0]
    orders = list(dict.fromkeys(order_name(summary, r.order) for r in [*chosen, *(turned or [])]))
    own_range = [r for r in chosen if r.range == first.range]
    distance = distance_of(first, mean, std)
    own_mean, own_std = first.own
    if verdict == "none":
        where = f"{first.convention.replace('_', ' ')}, {first.range}, {orders[0]}"
        remarks = [f"nearest, and shown above: {where}", *remarks]
    return CheckResult(
        verdict=verdict,
        conventions=[] if verdict == "none" else list(dict.fromkeys(r.convention for r in own_range)),
        range="" if verdict == "none" else first.range,
        order=" or ".join(orders),
        preset=known,
        mistake=first.mistake,
        distance=distance if math.isfinite(distance) else None,
        shift=[(v.value - m) / s if s else 0.0 for v, m, s in zip(mean, own_mean, own_std, strict=True)],
        ratio=None if std is None else [v.value / s if s else 0.0 for v, s in zip(std, own_std, strict=True)],
        mean=own_mean,
        std=own_std,
        normalized=_normalized(summary, mean, std, first),
        remarks=[*remarks, *_story(summary, known, verdict)],
    )


def _normalized(
    summary: Summary, mean: Sequence[Number], std: Sequence[Number] | None, reading: Hypothesis
) -> dict[str, list[float | None]]:
    """Pooled mean and std, and the extremes, of this dataset once normalized by the constants given."""

    def mapped(values: Sequence[float | None], shifted: bool = True) -> list[float | None]:
        out: list[float | None] = []
        for position, channel in enumerate(reading.order):
            value = values[channel]
            by = std[position].value if std is not None else 1.0
            moved = mean[position].value if shifted else 0.0
            out.append(None if value is None else (value * reading.factor - moved) / by)
        return out

    return {
        "mean": mapped(summary.mean),
        "std": mapped(summary.std, shifted=False),
        "min": mapped(summary.min),
        "max": mapped(summary.max),
    }


def _story(summary: Summary, known: str, verdict: str) -> list[str]:
    if not known:
        return []
    preset = PRESETS[known]
    what = preset.convention.replace("_", " ")
    lines = [f"published as {known}: {what}; {preset.source}"]
    if preset.seen:
        lines.append(f"a widely copied variant: {preset.seen}")
    if verdict == "none" and preset.convention != "fixed":
        lines.append(f"these images are not those of {known}, or were prepared otherwise")
    return lines
