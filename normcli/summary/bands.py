"""Names, scales and offsets of bands, as the tags of rasters have them: the composition counts images by them.

Stored values are counted, so that counts stay integers; a scale and an offset apply to the numbers that are printed.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from normcli.errors import StatisticsFileError, UsageError

if TYPE_CHECKING:
    from normcli.summary.conventions import Convention
    from normcli.summary.summary import Summary
    from normcli.tally import ImageMoments

_NAMES, _SCALE = "names:", "scale:"
_COLORS = {"red": "R", "green": "G", "blue": "B", "alpha": "A", "gray": "L", "grey": "L"}
_ALIKE = 2  # kinds of bands that an error names


class Scale(NamedTuple):
    """The value of a stored level: level * factor + offset."""

    factor: Fraction
    offset: Fraction

    def __call__(self, level: float | Fraction) -> Fraction:
        return Fraction(level) * self.factor + self.offset


def named_bands(notes: Mapping[str, int], images: int, settings: Mapping[str, Any], default: list[str]) -> list[str]:
    """Return the names of the channels that all images share.

    Args:
        notes: number of images by note, of those that have so many channels.
        images: number of images with so many channels.
        settings: of the run.
        default: the names of channels without tags.

    Raises:
        UsageError: the names differ between images.
    """
    kinds = {tuple(note[len(_NAMES) :].split(",")): count for note, count in notes.items() if note.startswith(_NAMES)}
    kinds = {names: count for names, count in kinds.items() if len(names) == len(default) and count > 0}
    if len(kinds) > 1 and _is_by_number(settings):
        return str(settings["bands"]).split(",")[: len(default)]
    if len(kinds) > 1:
        raise UsageError(_differ("band names", {",".join(names): count for names, count in kinds.items()}, _BY_NAME))
    if not kinds or sum(kinds.values()) < images:
        return default
    (names,) = kinds
    colors = [_COLORS.get(name.lower(), "") for name in names]
    return colors if all(colors) and len({*colors}) == len(colors) else list(names)


_BY_NAME = "`bands` selects them by name, or by number whatever their names"
_NONE = "`scale_offset` none counts values as stored; values counts scaled ones"


def _common_scales(notes: Mapping[str, int], images: int) -> "tuple[Scale, ...]":
    """Return the scale and offset of each channel.

    Raises:
        UsageError: they differ between images.
    """
    kinds = {note: count for note, count in notes.items() if count > 0}
    others = images - sum(kinds.values())
    if len(kinds) > 1 or others > 0:
        raise UsageError(_differ("scale and offset", kinds | ({"none": others} if others > 0 else {}), _NONE))
    return parse_scales(next(iter(kinds)))


def to_levels(summary: "Summary", mean: Sequence[float], std: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return mean and std of a summary in stored levels, as tools see them that read the samples without the tags.

    Raises:
        UsageError: a negative scale, which no std undoes.
    """
    of = _divided(scales_of(summary.composition), len(summary.channels), summary.max_value)
    for name, scale in zip(summary.channels, of, strict=True):
        if scale.factor < 0:
            raise UsageError(f"channel {name} has a negative scale, which constants of stored values cannot undo")
    means = [float((Fraction(m) - scale.offset) / scale.factor) for m, scale in zip(mean, of, strict=True)]
    return means, [float(Fraction(s) / scale.factor) for s, scale in zip(std, of, strict=True)]


def check_same_bands(kinds: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Reject images without common names or scales of bands, before the last of them is read.

    Args:
        kinds: an image of each kind of notes on its bands, between spaces.
        settings: of the run.

    Raises:
        UsageError: naming two of them.
    """
    scales: dict[str, str] = {}
    names: dict[int, dict[str, str]] = {}  # by their number
    for text, key in kinds.items():
        notes = text.split()
        scales.setdefault(next((note[len(_SCALE) :] for note in notes if note.startswith(_SCALE)), "none"), key)
        for note in notes:
            if note.startswith(_NAMES):
                names.setdefault(note.count(","), {}).setdefault(note[len(_NAMES) :], key)
    if len(scales) > 1:
        raise UsageError(_two("scale and offset", scales, _NONE))
    for same in names.values():
        if len(same) > 1 and not _is_by_number(settings):
            raise UsageError(_two("band names", same, _BY_NAME))


def _two(what: str, kinds: Mapping[str, str], remedy: str) -> str:
    (first, a), (second, b) = list(kinds.items())[:2]
    return f"{what} differ between images: {first} in {a}, {second} in {b} ({remedy})"


def _is_by_number(settings: Mapping[str, Any]) -> bool:
    return all(part.isdecimal() for part in str(settings.get("bands") or "").split(","))


def parse_scales(text: str) -> tuple[Scale, ...]:
    """Return the scales of a note.

    >>> parse_scales("0.0001*x-0.1,1.0*x+0.0")[0](1001)
    Fraction(1, 10000)

    Raises:
        StatisticsFileError: not the text of scales.
    """
    scales = []
    for part in text.split(","):
        match = re.fullmatch(r"([-+.e0-9]{1,30})\*x([-+][-+.e0-9]{1,30})", part)
        try:
            scales.append(Scale(*map(Fraction, match.groups())) if match else None)
        except ValueError:
            scales.append(None)
    known = [scale for scale in scales if scale is not None and scale.factor]
    if len(known) < len(scales):
        raise StatisticsFileError("the state of these statistics is damaged: a scale that is none")
    return tuple(known)


def scales_of(composition: Mapping[str, Any]) -> tuple[Scale, ...]:
    """Return the scales that the composition of a summary records; () where samples are values."""
    kinds = composition.get("scale")
    return parse_scales(next(iter(kinds))) if isinstance(kinds, dict) and kinds else ()


def _differ(what: str, kinds: Mapping[str, int], remedy: str) -> str:
    first = sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0]))[:_ALIKE]
    texts = (f"{text} ({count:,} image{'s' * (count != 1)})" for text, count in first)
    return f"{what} differ between images: {' and '.join(texts)} ({remedy})"


def apply_scales(summary: "Summary") -> None:
    """Turn the numbers of a summary from stored levels to the units of its scales, divided by the max_value if set.

    Raises:
        UsageError: the scales differ between images.
        StatisticsFileError: a note that is no scale, or of another number of channels.
    """
    summary.max_value = summary.settings["max_value"]
    summary.range = "raw" if summary.max_value is None else "0-1"
    scales = _common_scales(summary.composition["scale"], summary.images)
    of = _divided(scales, len(summary.channels), summary.max_value)
    summary.mean, summary.std = _each(summary.mean, of), _spreads(summary.std, of)
    summary.min, summary.max = _ends(summary.min, summary.max, of)
    summary.percentiles = _percentiles(summary.percentiles, of)
    summary.conventions = _conventions(summary.conventions, of)
    summary.groups = {
        name: group.replace(
            mean=_each(group.mean, of),
            std=_spreads(group.std, of),
            percentiles=_percentiles(group.percentiles, of),
            conventions=_conventions(group.conventions, of),
        )
        for name, group in summary.groups.items()
    }


def scaled_percentiles(
    rows: list[list[float]], notes: Mapping[str, int], images: int, max_value: int | None
) -> list[list[float]]:
    """Return percentiles of stored levels in the units of the scales.

    Args:
        rows: one row for each percentage p, and then one for each 100 - p.
        notes: number of images by note.
        images: number of all images.
        max_value: that of the settings.
    """
    of = channel_scales(notes, images, len(rows[0]), max_value)
    half = len(rows) // 2
    return [
        [_one((low if scale.factor > 0 else high)[c], scale) for c, scale in enumerate(of)]
        for low, high in zip(rows[:half], rows[half:], strict=True)
    ]


def channel_scales(notes: Mapping[str, int], images: int, count: int, max_value: int | None) -> list[Scale]:
    """Return the scale of each of `count` channels; the others are the arguments of `scaled_percentiles`."""
    kinds = {note[len(_SCALE) :]: number for note, number in notes.items() if note.startswith(_SCALE)}
    return _divided(_common_scales(kinds, images), count, max_value)


def scaled_moments(
    moments: "ImageMoments", scales: Sequence[tuple[float, float]], max_value: int | None
) -> "ImageMoments":
    """Return one image's moments in the units of its scales, divided by the max_value if set."""
    of = _divided(tuple(Scale(Fraction(repr(s)), Fraction(repr(o))) for s, o in scales), len(scales), max_value)
    low, high = _ends(moments.low, moments.high, of)
    return moments._replace(mean=_each(moments.mean, of), std=_spreads(moments.std, of), low=low, high=high)


def _divided(scales: "tuple[Scale, ...]", count: int, max_value: int | None) -> "list[Scale]":
    if len(scales) == 1 < count:
        scales *= count  # gray as color
    if len(scales) != count:
        raise StatisticsFileError("the state of these statistics is damaged: scales of other channels")
    return [Scale(scale.factor / (max_value or 1), scale.offset / (max_value or 1)) for scale in scales]


def _ends(low: Iterable[Any], high: Iterable[Any], of: "Sequence[Scale]") -> tuple[list[Any], list[Any]]:
    ends = list(zip(_each(low, of), _each(high, of), of, strict=True))
    return (
        [first if scale.factor > 0 else last for first, last, scale in ends],
        [last if scale.factor > 0 else first for first, last, scale in ends],
    )


def _percentiles(rows: Mapping[str, list[Any]], scales: Sequence[Scale]) -> dict[str, list[Any]]:
    """Return percentiles in the units of the scales; a negative scale turns the order of values."""
    turned = {p: f"{100 - float(p):g}" for p in rows}
    sources = ([p if scale.factor > 0 else turned[p] for scale in scales] for p in rows)
    return {
        p: [_one(rows[source][c], scale) for c, (source, scale) in enumerate(zip(of, scales, strict=True))]
        for p, of in zip(rows, sources, strict=True)
    }


def _conventions(conventions: "Mapping[str, Convention]", scales: Sequence[Scale]) -> "dict[str, Convention]":
    """Return mean and std of every convention in the units of the scales."""
    return {
        name: {
            "mean": None if values["mean"] is None else _each(values["mean"], scales),
            "std": None if values["std"] is None else _spreads(values["std"], scales),
        }
        for name, values in conventions.items()
    }


def _each(values: Iterable[Any], scales: Sequence[Scale]) -> list[Any]:
    return [_one(value, scale) for value, scale in zip(values, scales, strict=True)]


def _spreads(values: Iterable[Any], scales: Sequence[Scale]) -> list[Any]:
    return [_one(value, Scale(abs(scale.factor), Fraction(0))) for value, scale in zip(values, scales, strict=True)]


def _one(value: Any, scale: "Scale") -> Any:
    return value if value is None or value != value else float(scale(value))
