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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from normcli.dialects.reading import Number, number
from normcli.errors import UsageError
from normcli.presets import PRESETS
from normcli.summary import Summary
from normcli.summary.words import CONVENTIONS

TOLERANCE = 0.1
FAMILIES = {
    "pooled_population": "pooled",
    "pooled_sample": "pooled",
    "mean_of_image_stds": "mean of per-image stds",
    "mean_of_image_sample_stds": "mean of per-image stds",
    "root_mean_image_variance": "root of the mean per-image variance",
}
_COARSEST = 0.01  # fewer than two decimals say nothing


@dataclass(frozen=True, kw_only=True)
class Recognition:
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


@dataclass(frozen=True)
class _Reading:
    """One way to read constants: what they would be if this way were right."""

    convention: str
    range: str
    factor: float
    order: tuple[int, ...]
    mean: list[float]
    std: list[float]
    own: tuple[list[float], list[float]]  # the right mean and std in the range of `mean`
    mistake: str = ""


def check(
    summary: Summary,
    mean: Sequence[Number | float],
    std: Sequence[Number | float] | None = None,
    *,
    preset: str = "",
    tolerance: float = TOLERANCE,
) -> Recognition:
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
    readings = list(_readings(summary, std is not None))
    clean = [r for r in readings if not r.mistake]
    exact = [r for r in clean if _is_rounded(r, mean, std)]
    remarks = _absent(summary)
    if exact:
        return _result(summary, mean, std, "match", exact, known, remarks)
    near = sorted((r for r in clean if _distance(r, mean, std) <= tolerance), key=lambda r: _distance(r, mean, std))
    if near:
        return _close(summary, mean, std, near, known, remarks)
    wrong = [r for r in readings if r.mistake and _is_rounded(r, mean, std)][:1]
    wrong = wrong or _misplaced(clean, mean, std)
    wrong = wrong or [r for r in readings if r.mistake and _distance(r, mean, std) <= tolerance / 2][:1]
    if wrong:
        return _result(summary, mean, std, "mistake", wrong, known, remarks)
    best = sorted(clean, key=lambda r: _distance(r, mean, std))[:1]
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


def _orders(summary: Summary) -> list[tuple[int, ...]]:
    count = len(summary.channels)
    straight = tuple(range(count))
    if summary.channels[:3] == ["R", "G", "B"]:
        return [straight, (2, 1, 0, *straight[3:])]
    return [straight]


def _ranges(summary: Summary) -> dict[str, float]:
    if summary.depth is None:
        return {"raw units": 1.0}
    return {"0-1": 1.0, "0-255": 255.0} | ({f"0-{summary.depth}": float(summary.depth)} if summary.depth != 255 else {})


def _conventions(summary: Summary, with_std: bool) -> Iterator[tuple[str, list[float], list[float]]]:
    for name in CONVENTIONS:
        found = summary.conventions.get(name) or ({"mean": summary.mean, "std": summary.std} if "_pop" in name else {})
        mean, std = found.get("mean"), found.get("std")
        if mean is not None and (std is not None or not with_std):
            yield name, mean, std or summary.std


def _readings(summary: Summary, with_std: bool) -> Iterator[_Reading]:
    orders = _orders(summary)
    for convention, mean, std in _conventions(summary, with_std):
        for words, f in _ranges(summary).items():
            for order in orders:
                m, s = [f * mean[c] for c in order], [f * std[c] for c in order]
                where = (convention, words, f, order)
                yield _Reading(*where, m, s, (m, s))
                if not with_std:
                    continue
                inverse = [1 / v if v else math.inf for v in s]
                yield _Reading(*where, s, m, (m, s), "mean and std are exchanged")
                yield _Reading(*where, m, [v * v for v in s], (m, s), "std holds the variance: take its root")
                yield _Reading(*where, m, inverse, (m, s), "std holds 1/std, a scale")
                if f == 255:
                    small = [mean[c] for c in order], [std[c] for c in order]
                    yield _Reading(*where, m, small[1], (m, s), "mean is in 0-255, std in 0-1")
                    where_small = (convention, "0-1", 1.0, order)
                    yield _Reading(*where_small, small[0], s, small, "mean is in 0-1, std in 0-255")
                for other in orders:
                    if other != order:
                        text = f"mean is in the order {_letters(summary, order)}, std in {_letters(summary, other)}"
                        yield _Reading(*where, m, [f * std[c] for c in other], (m, s), text)


def _tolerances(values: Sequence[Number], factor: float) -> list[float]:
    """How far rounding may have moved each value, also where it was rounded in 0-1 and then multiplied."""
    coarse = _COARSEST * factor / 2
    units = [v.unit for v in values]
    if factor > 1:
        for digits in (3, 4, 5):
            if all(abs(round(v.value / factor, digits) - v.value / factor) <= v.unit / 2 / factor for v in values):
                units = [max(u, factor * 10.0**-digits) for u in units]
                break
    # 1e-6: numbers that went through float32
    return [min(max(u / 2, 1e-6 * abs(v.value)) * (1 + 1e-6), coarse) for u, v in zip(units, values, strict=True)]


def _is_rounded(reading: _Reading, mean: Sequence[Number], std: Sequence[Number] | None) -> bool:
    def fits(values: Sequence[Number], truth: list[float]) -> bool:
        allowed = _tolerances(values, reading.factor)
        return all(abs(v.value - t) <= a for v, t, a in zip(values, truth, allowed, strict=True))

    return fits(mean, reading.mean) and (std is None or fits(std, reading.std))


def _mean_distance(reading: _Reading, mean: Sequence[Number]) -> float:
    rows = zip(mean, reading.mean, reading.own[1], strict=True)
    return max((abs(v.value - m) / s if s else 0.0 if v.value == m else math.inf) for v, m, s in rows)


def _std_distance(reading: _Reading, std: Sequence[Number] | None) -> float:
    if std is None:
        return 0.0
    return max(
        abs(math.log(v.value / s)) if 0 < s < math.inf else math.inf for v, s in zip(std, reading.std, strict=True)
    )


def _distance(reading: _Reading, mean: Sequence[Number], std: Sequence[Number] | None) -> float:
    return max(_mean_distance(reading, mean), _std_distance(reading, std))


def _close(
    summary: Summary,
    mean: Sequence[Number],
    std: Sequence[Number] | None,
    near: list[_Reading],
    known: str,
    remarks: list[str],
) -> Recognition:
    """Among readings within the tolerance, say which, or that the data cannot tell."""
    documented = PRESETS[known].convention if known else ""
    order = [r for r in near if r.convention == documented] or near
    first = order[0]
    same = [r for r in near if r.order == first.order and r.range == first.range]
    turned = [r for r in near if r.order != first.order]
    unsure_order = bool(turned) and _distance(turned[0], mean, std) <= 2 * _distance(first, mean, std)
    if documented in CONVENTIONS and order is not near and FAMILIES[documented] == FAMILIES[first.convention]:
        named = [r for r in same if FAMILIES[r.convention] == FAMILIES[documented]]
        named.sort(key=lambda r: r.convention != documented)
        better = [r for r in same if _std_distance(r, std) < _std_distance(first, std) / 1.5]
        if better:
            nearer = better[0].convention.replace("_", " ")
            remarks = [
                *remarks,
                f"named by its publication; by the stds alone, {nearer} of these images lies nearer",
                *_reach(summary),
            ]
        verdict = "uncertain" if unsure_order else "close"
        return _result(summary, mean, std, verdict, named, known, remarks, turned[:1] if unsure_order else [])
    same.sort(key=lambda r: _std_distance(r, std))
    best = same[0]
    limit = max(2 * _std_distance(best, std) + 0.005, 3 * sampling_error(summary))
    rivals = [r for r in same if FAMILIES[r.convention] != FAMILIES[best.convention] and _std_distance(r, std) <= limit]
    named = [r for r in same if FAMILIES[r.convention] == FAMILIES[best.convention]]
    if std is None:  # the mean alone: every convention with this mean, which for images of one size are all
        named, rivals = [r for r in same if _mean_distance(r, mean) <= _mean_distance(near[0], mean) + 1e-9], []
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


def _misplaced(clean: list[_Reading], mean: Sequence[Number], std: Sequence[Number] | None) -> list[_Reading]:
    """Every number is one of this dataset's, at least half in their place, the rest elsewhere: say which."""
    for reading in clean:
        given = [("mean", mean), *([("std", std)] if std is not None else [])]
        truth = {"mean": reading.mean, "std": reading.std}
        wrong, right = [], 0
        for row, values in given:
            allowed = _tolerances(values, reading.factor)
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
            parts = (reading.convention, reading.range, reading.factor, reading.order)
            return [_Reading(*parts, reading.mean, reading.std, reading.own, "; ".join(wrong))]
    return []


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
    held = {name for name, _, _ in _conventions(summary, True)}
    missing = [name.replace("_", " ") for name in CONVENTIONS if name not in held]
    return [f"these statistics hold no {', '.join(missing)}: not compared"] if missing else []


def _letters(summary: Summary, order: Sequence[int]) -> str:
    names = [summary.channels[c] for c in order]
    return "".join(names) if len(names) < 5 else f"{len(names)} bands"


def _result(
    summary: Summary,
    mean: Sequence[Number],
    std: Sequence[Number] | None,
    verdict: str,
    readings: list[_Reading],
    known: str,
    remarks: list[str],
    turned: list[_Reading] | None = None,
) -> Recognition:
    first = readings[0]
    orders = list(dict.fromkeys(_letters(summary, r.order) for r in [*readings, *(turned or [])]))
    own_range = [r for r in readings if r.range == first.range]
    distance = _distance(first, mean, std)
    own_mean, own_std = first.own
    if verdict == "none":
        where = f"{first.convention.replace('_', ' ')}, {first.range}, {orders[0]}"
        remarks = [f"nearest, and shown above: {where}", *remarks]
    return Recognition(
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
    summary: Summary, mean: Sequence[Number], std: Sequence[Number] | None, reading: _Reading
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
