"""The page of `diff`: two datasets side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from normcli.constants.compare import Difference
from normcli.report import figures
from normcli.report.axis import Axis, nice_ticks, value_axis
from normcli.report.environment import Origin, render
from normcli.report.page import constants_text, swatch
from normcli.report.pictures import Gallery
from normcli.report.sizes import SizeFigures, size_figures
from normcli.summary import Summary

_GROUPS_DRAWN = 60
_KINDS = ("format", "mode", "depth")
_NOTED = {
    "alpha": "alpha channel",
    "transparent": "transparent pixels",
    "exif": "EXIF",
    "rotated": "EXIF orientation",
    "icc": "ICC profile",
    "multi_frame": "several frames",
    "damaged": "damaged",
    "cmyk": "CMYK",
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two datasets.

    Attributes:
        letter: "A" or "B".
        title: name of its file or source.
        summary: its statistics.
        constants: mean and std to copy.
        swatch: its mean color; "" where it has none.
        gallery: its pictures, if its images were read.
        sizes: figures of its image sizes, likewise.
    """

    letter: str
    title: str
    summary: Summary
    constants: str
    swatch: str
    gallery: Gallery | None
    sizes: SizeFigures | None


@dataclass(frozen=True, kw_only=True)
class ChannelPair:
    """One channel of both datasets: name, color, mean and std as positions, and the change from A to B."""

    name: str
    hue: str
    first: dict[str, float]
    second: dict[str, float]
    means: tuple[float, float]
    stds: tuple[float, float]
    shift: float | None
    ratio: float | None
    w1: float
    js: float


@dataclass(frozen=True, kw_only=True)
class SharePair:
    """A property of images: its percentage of each dataset, and both counts."""

    label: str
    percents: tuple[float, float]
    counts: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class GroupPair:
    """A group that changed: images on both sides, and the shift of each channel with its position."""

    name: str
    images: tuple[int, int]
    shifts: list[tuple[float, float | None]]
    ratio: list[float | None]


def render_diff(
    first: Summary,
    second: Summary,
    difference: Difference,
    *,
    titles: tuple[str, str],
    max_shift: float | None = None,
    galleries: tuple[Gallery | None, Gallery | None] = (None, None),
    origin: Origin | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        first: the statistics of A.
        second: the statistics of B.
        difference: the changes from the first to the second.
        titles: names of their files or sources.
        max_shift: the limit of a gate; None where there is none.
        galleries: pictures of the sides whose images were read.
        origin: date and command.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    axis = value_axis([first, second])
    groups, group_axis = _group_pairs(difference)
    return render(
        "diff",
        title=f"{titles[0]} → {titles[1]}",
        origin=origin,
        sides=list(_sides((first, second), titles, galleries)),
        difference=difference,
        pairs=list(_channel_pairs(first, second, difference, axis)),
        axis=axis,
        histograms=figures.pairs_of_histograms(first, second),
        shares=_share_pairs(first, second),
        groups=groups[:_GROUPS_DRAWN],
        group_count=len(groups),
        group_axis=group_axis,
        max_shift=max_shift,
        passed=max_shift is None or not difference.exceeds(max_shift),
    )


def _sides(
    summaries: tuple[Summary, Summary], titles: tuple[str, str], galleries: tuple[Gallery | None, Gallery | None]
) -> Iterator[Side]:
    facts = [None if gallery is None else gallery.facts for gallery in galleries]
    for i, summary in enumerate(summaries):
        own, other = facts[i], facts[1 - i]
        yield Side(
            letter="AB"[i],
            title=titles[i],
            summary=summary,
            constants=constants_text(summary),
            swatch=swatch(summary),
            gallery=galleries[i],
            sizes=None if own is None else size_figures(own, other or own),
        )


def _channel_pairs(first: Summary, second: Summary, difference: Difference, axis: Axis) -> Iterator[ChannelPair]:
    for c, name in enumerate(difference.channels):
        yield ChannelPair(
            name=name,
            hue=figures.second_hue(name, c, len(difference.channels)),
            first=figures.mark(axis, first.mean[c], first.std[c]),
            second=figures.mark(axis, second.mean[c], second.std[c]),
            means=difference.mean[c],
            stds=difference.std[c],
            shift=difference.shift[c],
            ratio=difference.ratio[c],
            w1=difference.w1[c],
            js=difference.js[c],
        )


def _share_pairs(first: Summary, second: Summary) -> dict[str, list[SharePair]]:
    """Return formats, modes, depths and properties of images on both sides; only kinds that occur."""
    out: dict[str, list[SharePair]] = {}
    for kind in _KINDS:
        counts: list[dict[str, int]] = [s.composition.get(kind) or {} for s in (first, second)]
        label = "{}-bit" if kind == "depth" else "{}"
        names = sorted({*counts[0], *counts[1]}, key=lambda name: -max(c.get(name, 0) for c in counts))
        out[kind] = [
            _share(label.format(name), counts[0].get(name, 0), counts[1].get(name, 0), first, second) for name in names
        ]
    properties = [
        _share(label, first.composition.get(key) or 0, second.composition.get(key) or 0, first, second)
        for key, label in _NOTED.items()
        if first.composition.get(key) or second.composition.get(key)
    ]
    return {kind: rows for kind, rows in {**out, "with": properties}.items() if rows}


def _share(label: str, one: int, other: int, first: Summary, second: Summary) -> SharePair:
    percents = (100 * one / (first.images or 1), 100 * other / (second.images or 1))
    return SharePair(label=label, percents=percents, counts=(one, other))


def _group_pairs(difference: Difference) -> tuple[list[GroupPair], Axis]:
    """Return the groups that changed, the largest shift first; groups of one side come last."""
    known = [abs(s) for group in difference.groups.values() for s in group.shift or () if s is not None]
    limit = max(known, default=0.0) * 1.1 or 1.0
    ticks = {f"{tick:+.3g}": 50 + 50 * tick / limit for tick in nice_ticks(-limit, limit, 4)}
    axis = Axis(low=-limit, high=limit, ticks={label.replace("+0", "0"): at for label, at in ticks.items()})

    def largest(group: Any) -> float:
        return max((abs(s) for s in group.shift or () if s is not None), default=-1.0)

    ranked = sorted(difference.groups.items(), key=lambda entry: (-largest(entry[1]), entry[0]))
    rows = [
        GroupPair(
            name=name,
            images=group.images,
            shifts=[(axis.at(s or 0.0), s) for s in group.shift or ()],
            ratio=list(group.ratio or ()),
        )
        for name, group in ranked
    ]
    return rows, axis
