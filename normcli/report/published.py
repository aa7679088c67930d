"""ImageNet's published constants next to a dataset's own."""

from dataclasses import dataclass

from normcli.constants.identify import check
from normcli.constants.presets import PRESETS
from normcli.errors import UsageError
from normcli.report.axis import Axis, nice_ticks
from normcli.report.figures import hue_of, mark
from normcli.summary import Summary

_IMAGENET = PRESETS["imagenet"]


@dataclass(frozen=True, kw_only=True)
class BesideRow:
    """One channel of the dataset, and the published constants for it.

    Attributes:
        name, hue: of the channel.
        own, published: positions of the mean and of one std to both sides.
        mean, std: of the dataset.
        published_mean, published_std: the constants.
        shift: the dataset's mean after normalizing with the constants.
        spread: the dataset's std after normalizing with the constants.
    """

    name: str
    hue: str
    own: dict[str, float]
    published: dict[str, float]
    mean: float
    std: float
    published_mean: float
    published_std: float
    shift: float
    spread: float


@dataclass(frozen=True, kw_only=True)
class BesideImageNet:
    """The figure: rows, their scale, and the verdict of `check`.

    Attributes:
        rows: one a channel.
        axis: of values.
        averaged: the constants are averages over R, G and B, for gray images.
        stds: the dataset's stds in the convention of ImageNet's; empty where unknown.
        advice: of `check`; "" where there is none.
    """

    rows: list[BesideRow]
    axis: Axis
    averaged: bool
    stds: list[float]
    advice: str


def beside_imagenet(summary: Summary) -> BesideImageNet | None:
    """Return the comparison for gray and RGB images in 0-1; None for other images, which ImageNet's do not concern."""
    names = summary.channels
    if summary.max_value is None or not (names[:3] == ["R", "G", "B"] or names[0] == "L"):
        return None
    means, stds = list(_IMAGENET.mean), list(_IMAGENET.std or ())
    if is_gray := names[0] == "L":
        means, stds = [sum(means) / 3], [sum(stds) / 3]
    axis = unit_axis()
    rows = []
    for c, (mean, std) in enumerate(zip(means, stds, strict=True)):
        row = BesideRow(
            name=names[c],
            hue=hue_of(names[c], c, len(names)),
            own=mark(axis, summary.mean[c], summary.std[c]),
            published=mark(axis, mean, std),
            mean=summary.mean[c],
            std=summary.std[c],
            published_mean=mean,
            published_std=std,
            shift=(summary.mean[c] - mean) / std,
            spread=summary.std[c] / std,
        )
        rows.append(row)
    same = summary.conventions.get(_IMAGENET.convention) or {}
    return BesideImageNet(
        rows=rows, axis=axis, averaged=is_gray, stds=(same.get("std") or [])[: len(rows)], advice=_advice(summary)
    )


def unit_axis() -> Axis:
    """Return the scale from 0 to 1."""
    return Axis(low=0.0, high=1.0, ticks={f"{tick:.4g}": 100 * tick for tick in nice_ticks(0, 1, 5)})


def _advice(summary: Summary) -> str:
    if len(summary.channels) != 3:
        return ""
    try:
        return check(summary, _IMAGENET.mean, _IMAGENET.std, preset="imagenet").advice
    except UsageError:
        return ""
