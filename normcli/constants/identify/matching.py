"""`check`: compare constants with every hypothesis, and name those that explain them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

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
from normcli.constants.identify.publications import describe_preset, find_preset, suspect_typo
from normcli.constants.identify.result import CheckResult
from normcli.constants.parse_config import Number, number
from normcli.constants.presets import PRESETS
from normcli.errors import UsageError
from normcli.summary import Summary, SummarySource
from normcli.summary.remarks import CONVENTIONS
from normcli.summary.summary import as_summary

TOLERANCE = 0.1  # largest distance that is "close", in standard deviations

# thresholds of the judgment between hypotheses within the tolerance
_ORDER_FACTOR = 2.0  # another channel order at most this much farther: the order is uncertain
_DOCUMENTED_FACTOR = 1.5  # the stds of another convention nearer by this factor: a remark next to the documented one
_RIVAL_FACTOR, _RIVAL_MARGIN = 2.0, 0.005  # stds of another family within best * factor + margin rival the best
_RIVAL_ERRORS = 3.0  # or within this many standard errors of the mean of image stds
_MISTAKE_SHARE = 0.5  # of the tolerance: a mistake must explain the constants better than a clean hypothesis

FAMILIES = {
    "pooled_population": "pooled",
    "pooled_sample": "pooled",
    "mean_of_image_stds": "mean of per-image stds",
    "mean_of_image_sample_stds": "mean of per-image stds",
    "root_mean_image_variance": "within images",
    "pooled_within_images": "within images",
}


class _Constants(NamedTuple):
    """The constants to identify, with the dataset."""

    summary: Summary
    mean: Sequence[Number]
    std: Sequence[Number] | None
    preset: str  # name of published constants with these values, or ""

    def distance(self, hypothesis: Hypothesis) -> float:
        return distance_of(hypothesis, self.mean, self.std)


def check(
    summary: SummarySource,
    mean: Sequence[Number | float],
    std: Sequence[Number | float] | None = None,
    *,
    preset: str = "",
    tolerance: float = TOLERANCE,
) -> CheckResult:
    """Identify constants: the convention, range and channel order that they match.

    Args:
        summary: the dataset's statistics, or the path of their file.
        mean: per channel, as written; a float is compared as its shortest decimal.
        std: per channel, or None to compare only the means.
        preset: name of the published constants, if they were chosen by name.
        tolerance: distance within which constants are "close", in standard deviations.

    Returns:
        The verdict, the convention that was identified, and remarks.

    Raises:
        UsageError: a wrong number of values, or a std that is not positive.
        StatisticsFileError: a file that is missing or damaged.

    >>> import numpy as np
    >>> from normcli.summary import Summary
    >>> from normcli.tally import Tally
    >>> tally = Tally()
    >>> _ = tally.count(np.array([[[0], [255]]], np.uint8))
    >>> summary = Summary.of(tally, {"color": "auto", "alpha": "drop", "max_value": None}, {})
    >>> check(summary, [127.5], [127.5]).range, check(summary, [0.5], [0.25]).mistake
    ('0-255', 'std holds the variance: take its root')
    """
    summary = as_summary(summary)
    means, stds = _as_written(mean), None if std is None else _as_written(std)
    _check_values(summary, means, stds)
    constants = _Constants(summary, means, stds, preset or find_preset(means, stds))
    candidates = list(hypotheses(summary, stds is not None))
    clean = [h for h in candidates if not h.mistake]
    remarks = _missing_conventions(summary)
    exact = [h for h in clean if matches_digits(h, means, stds)]
    if exact:
        return _result(constants, "match", exact, remarks)
    near = sorted((h for h in clean if constants.distance(h) <= tolerance), key=constants.distance)
    if near:
        return _judge_near(constants, near, remarks)
    if stds is not None and all(s.value == 1 for s in stds):  # as Detectron2 writes "not divided"
        by_mean = check(summary, means, preset=constants.preset, tolerance=tolerance)
        if by_mean.fits:
            return replace(by_mean, remarks=["a std of 1 divides nothing: only the mean is compared", *by_mean.remarks])
    mistakes = [h for h in candidates if h.mistake]
    wrong = [h for h in mistakes if matches_digits(h, means, stds)][:1]
    wrong = wrong or find_misplaced(clean, means, stds)
    wrong = wrong or [h for h in mistakes if constants.distance(h) <= tolerance * _MISTAKE_SHARE][:1]
    if wrong:
        return _result(constants, "mistake", wrong, remarks)
    nearest = sorted(clean, key=constants.distance)[:1]
    typo = [] if constants.preset else suspect_typo(means, stds)
    return _result(constants, "none", nearest, [*remarks, *typo])


def _as_written(values: Sequence[Number | float]) -> list[Number]:
    return [v if isinstance(v, Number) else number(repr(float(v))) for v in values]


def _check_values(summary: Summary, mean: Sequence[Number], std: Sequence[Number] | None) -> None:
    count, names = len(summary.channels), " ".join(summary.channels)
    for what, row in (("mean", mean), ("std", std)):
        if row is not None and len(row) != count:
            values, channels = f"value{'s' * (len(row) != 1)}", f"channel{'s' * (count != 1)}"
            raise UsageError(f"`{what}`: {len(row)} {values} for {count} {channels} ({names})")
    for name, value in zip(summary.channels, std or (), strict=False):
        if not value.value > 0:
            raise UsageError(f"`std`: must be above 0 to divide by, not {value.value:g} ({name})")


def _judge_near(constants: _Constants, near: list[Hypothesis], remarks: list[str]) -> CheckResult:
    """Choose among hypotheses within the tolerance, or state that the data cannot decide."""
    documented = PRESETS[constants.preset].convention if constants.preset else ""
    of_publication = [h for h in near if h.convention == documented]
    best = (of_publication or near)[0]
    same = [h for h in near if h.order == best.order and h.range == best.range]
    reordered = [h for h in near if h.order != best.order][:1]
    if reordered and constants.distance(reordered[0]) > _ORDER_FACTOR * constants.distance(best):
        reordered = []
    if of_publication and documented in CONVENTIONS:
        return _judge_documented(constants, best, same, reordered, remarks)
    std = constants.std
    same.sort(key=lambda h: std_distance(h, std))
    best = same[0]
    family = FAMILIES[best.convention]
    limit = max(
        _RIVAL_FACTOR * std_distance(best, std) + _RIVAL_MARGIN, _RIVAL_ERRORS * sampling_error(constants.summary)
    )
    rivals = [h for h in same if FAMILIES[h.convention] != family and std_distance(h, std) <= limit]
    named = [h for h in same if FAMILIES[h.convention] == family and std_distance(h, std) <= limit]
    if std is None:  # the mean alone: every convention with this mean, which for images of one size are all
        nearest = mean_distance(near[0], constants.mean)
        named, rivals = [h for h in same if mean_distance(h, constants.mean) <= nearest + 1e-9], []
    if rivals:
        remarks = [*remarks, *_describe_error(constants.summary)]
    verdict = "uncertain" if rivals or reordered else "close"
    return _result(constants, verdict, named + rivals, remarks, reordered)


def _judge_documented(
    constants: _Constants, best: Hypothesis, same: list[Hypothesis], reordered: list[Hypothesis], remarks: list[str]
) -> CheckResult:
    """Identify by the convention that the publication documents; remark if another one is nearer to the data."""
    family = FAMILIES[best.convention]
    named = [h for h in same if FAMILIES[h.convention] == family]
    named.sort(key=lambda h: h.convention != best.convention)
    std = constants.std
    better = [h for h in same if std_distance(h, std) < std_distance(best, std) / _DOCUMENTED_FACTOR]
    if better:
        order = list(CONVENTIONS)  # of those about as near, the first
        nearest = min(better, key=lambda h: (round(std_distance(h, std), 2), order.index(h.convention)))
        nearer = nearest.convention.replace("_", " ")
        remarks = [
            *remarks,
            f"named by its publication; by the stds alone, {nearer} of these images is nearer",
            *_describe_error(constants.summary),
        ]
    return _result(constants, "uncertain" if reordered else "close", named, remarks, reordered)


def sampling_error(summary: Summary) -> float:
    """Return the relative standard error of the mean of image stds over another sample of as many images."""
    conventions = summary.conventions
    roots = (conventions.get("root_mean_image_variance") or {}).get("std")
    means = (conventions.get("mean_of_image_stds") or {}).get("std")
    if not roots or not means or summary.images < 1:
        return 0.0
    pairs = [(r, m) for r, m in zip(roots, means, strict=True) if m > 0]
    return max((math.sqrt(max(0.0, r * r - m * m) / summary.images) / m for r, m in pairs), default=0.0)


def _describe_error(summary: Summary) -> list[str]:
    error = sampling_error(summary)
    if not error:
        return []
    return [f"another {summary.images:,} images would move the mean of image stds by about {error:.1%}"]


def _missing_conventions(summary: Summary) -> list[str]:
    available = {name for name, _, _ in available_conventions(summary, True)}
    missing = [name.replace("_", " ") for name in CONVENTIONS if name not in available]
    return [f"these statistics contain no {', '.join(missing)}: not compared"] if missing else []


def _result(
    constants: _Constants,
    verdict: str,
    chosen: list[Hypothesis],
    remarks: list[str],
    reordered: Sequence[Hypothesis] = (),
) -> CheckResult:
    summary, mean, std = constants.summary, constants.mean, constants.std
    first = chosen[0]
    orders = list(dict.fromkeys(order_name(summary, h.order) for h in [*chosen, *reordered]))
    of_range = [h for h in chosen if h.range == first.range]
    distance = constants.distance(first)
    own_mean, own_std = first.own
    if verdict == "none":
        where = f"{first.convention.replace('_', ' ')}, {first.range}, {orders[0]}"
        remarks = [f"nearest, and shown above: {where}", *remarks]
    normalized = _normalized(constants, first)
    return CheckResult(
        verdict=verdict,
        conventions=[] if verdict == "none" else list(dict.fromkeys(h.convention for h in of_range)),
        range="" if verdict == "none" else first.range,
        order=" or ".join(orders),
        preset=constants.preset,
        mistake=first.mistake,
        distance=distance if math.isfinite(distance) else None,
        shift=[(v.value - m) / s if s else 0.0 for v, m, s in zip(mean, own_mean, own_std, strict=True)],
        ratio=None if std is None else [v.value / s if s else 0.0 for v, s in zip(std, own_std, strict=True)],
        mean=own_mean,
        std=own_std,
        normalized=normalized,
        remarks=[*remarks, *_far_from_one(constants, verdict, normalized), *describe_preset(constants.preset, verdict)],
        advice=_advice(constants, verdict, first),
    )


def _far_from_one(constants: _Constants, verdict: str, normalized: dict[str, list[float | None]]) -> list[str]:
    """Return a sentence where the images, once normalized, have a std far from 1, with the range that they have."""
    stds = [value for value in normalized["std"] if value is not None and value > 0]
    if constants.std is None or verdict == "mistake" or not stds or (min(stds) >= 0.5 and max(stds) <= 2):
        return []
    summary = constants.summary
    largest = max((value for value in summary.max if value is not None), default=0.0)
    low, high = (f"{value:.3g}" for value in (min(stds), max(stds)))
    text = low if low == high else f"{low} to {high}"
    units = "raw units" if summary.range == "raw" else f"range {summary.range}"
    return [f"normalized so, the std is {text}, not 1: these images are in {units}, up to {largest:.4g}"]


def _advice(constants: _Constants, verdict: str, hypothesis: Hypothesis) -> str:
    """Return advice: keep the constants, or the ones to use for a new model."""
    summary = constants.summary
    mean, std = (" ".join(f"{v:.4g}" for v in row) for row in (summary.mean, summary.std))
    own = f"mean {mean}, std {std}"
    if verdict == "mistake":
        return f"correct them; for a new model use {own}"
    pooled = FAMILIES.get(hypothesis.convention) == "pooled" and hypothesis.order == tuple(range(len(summary.channels)))
    if verdict in ("match", "close") and pooled:
        return f"use them; exactly these images have {own}" if verdict == "close" else "use them"
    return f"use them only with weights that were trained with them; for a new model use {own}"


def _normalized(constants: _Constants, hypothesis: Hypothesis) -> dict[str, list[float | None]]:
    """Return pooled mean and std, and the extremes, of this dataset once normalized by the constants."""
    summary, mean, std = constants.summary, constants.mean, constants.std

    def normalize(values: Sequence[float | None], shifted: bool = True) -> list[float | None]:
        out: list[float | None] = []
        for position, channel in enumerate(hypothesis.order):
            value = values[channel]
            divisor = std[position].value if std is not None else 1.0
            offset = mean[position].value if shifted else 0.0
            out.append(None if value is None else (value * hypothesis.factor - offset) / divisor)
        return out

    return {
        "mean": normalize(summary.mean),
        "std": normalize(summary.std, shifted=False),
        "min": normalize(summary.min),
        "max": normalize(summary.max),
    }


def describe_verdict(result: CheckResult, tolerance: float) -> str:
    """Return the verdict as a sentence."""
    off = "" if result.distance is None else f"distance {result.distance:.4f}"
    if result.verdict == "none":
        nearest = f"; the nearest hypothesis is at {off}" if off else ""
        return f"no match: not the mean and std of your images in any convention, range or order{nearest}"
    families = list(dict.fromkeys(FAMILIES[name] for name in result.conventions))
    one = [name.replace("_", " ") for name in result.conventions]
    detail = f" ({' or '.join(one)})" if len(families) == 1 else ""
    what = f"{' or '.join(families)}, {result.range}, {result.order}{detail}"
    if result.ratio is None:
        what = f"the mean (no std given), {result.range}, {result.order}"
    if result.verdict == "mistake":
        return f"mistake: {result.mistake}; otherwise {what}"
    if result.verdict == "match":
        return f"match: {what}; equal to the digits given"
    if result.verdict == "uncertain":
        return f"close to your data, but the convention is uncertain: {what}; {off}"
    return f"close to your data ({result.distance:.3f} std off, tolerance {tolerance:g}): {what}"
