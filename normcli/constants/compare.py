"""Differences between two sets of statistics: shift, spread, shape of the histogram, composition.

Per channel, from A to B:

    shift     (mean_B - mean_A) / std_A: how far the mean moved, in standard deviations of A
    ratio     std_B / std_A
    w1        Wasserstein-1 distance of the histograms: how far a pixel has to move on average, in the units
              of the mean (range 0-1)
    js        Jensen-Shannon divergence of the histograms in 256 columns, in bits: 0 alike, 1 disjoint
"""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from normcli import storage
from normcli.errors import UsageError
from normcli.summary import GroupSummary, SummarySource
from normcli.summary.distribution import Level, bin_levels, distribution
from normcli.summary.settings_diff import Differences, differing_settings
from normcli.summary.summary import as_summary

_COLUMNS = 256
_COUNTED = ("format", "mode", "depth")
_NOTED = ("alpha", "transparent", "exif", "rotated", "icc", "multi_frame", "damaged", "cmyk", "gray", "color")


@dataclass(frozen=True, kw_only=True)
class GroupDifference:
    """Changes of one group from A to B.

    Attributes:
        images: number of images in A and in B.
        shift: per channel, (mean_B - mean_A) / std_A; None where only one of them has the group.
        ratio: per channel, std_B / std_A; None likewise.
    """

    images: tuple[int, int]
    shift: list[float | None] | None = None
    ratio: list[float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Changes from A to B.

    Attributes:
        identical: both were computed from the same images, byte for byte, with the same settings.
        channels: names of the channels.
        mean, std: per channel, the pair of A and B.
        shift: per channel, (mean_B - mean_A) / std_A.
        ratio: per channel, std_B / std_A.
        w1: per channel, Wasserstein-1 distance in the units of the mean.
        js: per channel, Jensen-Shannon divergence in bits.
        distance: the largest |shift| or |ratio - 1|, which a gate compares; None where std_A is 0 and B differs.
        counts: images, pixels, failed and skipped that differ, as pairs.
        composition: counts that differ, as pairs, by "format:JPEG", "alpha", …
        groups: groups whose images, mean or std differ.
        settings: settings that differ, as pairs.
        page: returns the HTML page of this result with titles of A and B and the limit of a gate; None where the
            statistics are not at hand.
    """

    identical: bool
    channels: list[str]
    mean: list[tuple[float, float]]
    std: list[tuple[float, float]]
    shift: list[float | None]
    ratio: list[float | None]
    w1: list[float]
    js: list[float]
    distance: float | None
    counts: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    composition: dict[str, tuple[int, int]] = field(default_factory=dict)
    groups: dict[str, GroupDifference] = field(default_factory=dict)
    settings: Differences = field(default_factory=dict)
    page: "Callable[[Difference, tuple[str, str], float | None], str] | None" = field(
        default=None, repr=False, compare=False
    )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = asdict(replace(self, page=None))
        del values["page"]
        return {"schema": "normcli/diff/1", **values}

    def report(
        self, path: str | os.PathLike[str], *, titles: tuple[str, str] = ("", ""), max_shift: float | None = None
    ) -> None:
        """Write a self-contained HTML page, completely or not at all.

        Args:
            path: the file to write.
            titles: names of A and B; by default those of their files or sources.
            max_shift: the limit of a gate, which the page shows.

        Raises:
            UsageError: a result that no function of normcli returned.
            MissingExtraError: jinja2 is not installed.
            OutputError: the page cannot be written.
        """
        if self.page is None:
            raise UsageError("this result has no page: it was not returned by normcli.diff")
        storage.write_file(os.fspath(path), self.page(self, titles, max_shift).encode("utf-8", "backslashreplace"))

    def exceeds(self, limit: float) -> bool:
        """Return True if the distance is over a limit."""
        return self.distance is None or self.distance > limit


def diff(a: SummarySource, b: SummarySource) -> Difference:
    """Compare two sets of statistics, channel by channel.

    Args:
        a: summary or path of a statistics file.
        b: another one.

    Returns:
        The differences, from A to B.

    Raises:
        UsageError: different channels, one without a valid pixel, or raw units in one and range 0-1 in the other.
        StatisticsFileError: a file that is missing or damaged.

    >>> import numpy as np
    >>> from normcli.summary import Summary
    >>> from normcli.tally import Tally
    >>> tally = Tally()
    >>> _ = tally.count(np.array([[[0], [255]]], np.uint8))
    >>> summary = Summary.of(tally, {"color": "auto", "alpha": "drop", "max_value": None}, {})
    >>> difference = diff(summary, summary)
    >>> difference.identical, difference.shift, difference.exceeds(0.01)
    (True, [0.0], False)
    """
    a, b = as_summary(a), as_summary(b)
    if a.channels != b.channels:
        raise UsageError(f"channels differ: {' '.join(a.channels)} in A, {' '.join(b.channels)} in B")
    for side, one in (("A", a), ("B", b)):
        empty = [name for name, mean in zip(one.channels, one.mean, strict=True) if math.isnan(mean)]
        if empty:
            raise UsageError(f"channel {empty[0]} has no valid pixel in {side}, so no mean and std to compare")
    if a.range != b.range:
        raise UsageError(
            "one file is in raw units (float images), the other in range 0-1 (count both with the same `max_value`)"
        )
    shift, ratio = _shift_and_ratio(a.mean, a.std, b.mean, b.std)
    levels = list(zip(distribution(a), distribution(b), strict=True))
    counts = ("images", "pixels", "failed", "skipped")
    return Difference(
        identical=a.provenance.get("digest") == b.provenance.get("digest") and a.settings == b.settings,
        channels=a.channels,
        mean=list(zip(a.mean, b.mean, strict=True)),
        std=list(zip(a.std, b.std, strict=True)),
        shift=shift,
        ratio=ratio,
        w1=[wasserstein(p, q) for p, q in levels],
        js=[jensen_shannon(p, q) for p, q in levels],
        distance=_largest(shift, ratio),
        counts={k: (getattr(a, k), getattr(b, k)) for k in counts if getattr(a, k) != getattr(b, k)},
        composition=_changes(_flat(a.composition), _flat(b.composition)),
        groups=_group_differences(a.groups, b.groups),
        settings=differing_settings(a.settings, b.settings),
    )


def wasserstein(p: list[Level], q: list[Level]) -> float:
    """Compute the Wasserstein-1 distance of two distributions: the area between their cumulative curves.

    >>> wasserstein([(0.0, 1), (1.0, 1)], [(0.5, 3)])
    0.5
    """
    mass_p, mass_q = sum(w for _, w in p), sum(w for _, w in q)
    steps = sorted([(v, w / mass_p) for v, w in p] + [(v, -w / mass_q) for v, w in q])
    if [(v, w / mass_p) for v, w in p] == [(v, w / mass_q) for v, w in q]:
        return 0.0
    gap, parts = 0.0, []
    for (value, weight), (following, _) in pairwise(steps):
        gap += weight
        parts.append(abs(gap) * (following - value))
    return math.fsum(parts)


def jensen_shannon(p: list[Level], q: list[Level]) -> float:
    """Compute the Jensen-Shannon divergence in bits, over 256 columns that span both distributions.

    >>> jensen_shannon([(0.0, 1), (1.0, 1)], [(0.0, 2)]), jensen_shannon([(0.0, 1)], [(1.0, 5)])
    (0.31..., 1.0)
    """
    low, high = min(p[0][0], q[0][0]), max(p[-1][0], q[-1][0])
    # a range within 0-1 is cut at 8-bit levels, so that 8 and 16 bits compare
    low, high = (
        (0.0, 256 / 255)
        if low >= 0 and high <= 1
        else (low, high + (high - low or max(1.0, abs(high))) / (_COLUMNS - 1))
    )
    first, second = _shares(p, low, high), _shares(q, low, high)
    middle = [(x + y) / 2 for x, y in zip(first, second, strict=True)]
    return max(0.0, math.fsum(_surprise(first, middle) + _surprise(second, middle)) / 2)


def _shares(levels: list[Level], low: float, high: float) -> list[float]:
    mass = sum(weight for _, weight in levels)
    return [weight / mass for weight in bin_levels(levels, _COLUMNS, low, high)]


def _surprise(shares: list[float], middle: list[float]) -> list[float]:
    return [x * math.log2(x / m) for x, m in zip(shares, middle, strict=True) if x > 0]


def _shift_and_ratio(
    mean_a: list[float], std_a: list[float], mean_b: list[float], std_b: list[float]
) -> tuple[list[float | None], list[float | None]]:
    """Return shifts and ratios; None if the std of A is 0 and B differs, or one alone has no valid pixel."""
    shift: list[float | None] = []
    ratio: list[float | None] = []
    for m, s, n, t in zip(mean_a, std_a, mean_b, std_b, strict=True):
        if math.isnan(m) or math.isnan(n):
            same = math.isnan(m) and math.isnan(n)
            shift.append(0.0 if same else None)
            ratio.append(1.0 if same else None)
            continue
        shift.append((n - m) / s if s else 0.0 if n == m else None)
        ratio.append(t / s if s else 1.0 if t == s else None)
    return shift, ratio


def _largest(shift: list[float | None], ratio: list[float | None]) -> float | None:
    values = [*shift, *(None if r is None else r - 1 for r in ratio)]
    known = [abs(v) for v in values if v is not None]
    return max(known) if len(known) == len(values) else None


def _flat(composition: dict[str, Any]) -> dict[str, int]:
    flat = {f"{kind}:{k}": v for kind in _COUNTED for k, v in composition.get(kind, {}).items()}
    return flat | {word: composition[word] for word in _NOTED if composition.get(word)}


def _changes(a: dict[str, int], b: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {k: (a.get(k, 0), b.get(k, 0)) for k in sorted({*a, *b}) if a.get(k, 0) != b.get(k, 0)}


def _group_differences(a: dict[str, GroupSummary], b: dict[str, GroupSummary]) -> dict[str, GroupDifference]:
    if not (a and b):
        return {}
    out = {}
    for name in sorted({*a, *b}):
        one, other = a.get(name), b.get(name)
        if one == other:
            continue
        images = (one.images if one else 0, other.images if other else 0)
        if one and other:
            shift, ratio = _shift_and_ratio(one.mean, one.std, other.mean, other.std)
            out[name] = GroupDifference(images=images, shift=shift, ratio=ratio)
        else:
            out[name] = GroupDifference(images=images)
    return out
