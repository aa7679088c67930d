"""The summary of a tally: pooled and per-image conventions and percentiles, each rounded once, and the composition."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import NoInputError, UsageError
from normcli.summary.file import COUNTED_NOTES, INPUT_COUNTS, RARE_NOTES
from normcli.summary.summary import (
    GroupSummary,
    Summary,
    band_names,
    channel_names,
    channel_order,
    source_channels,
    white_level,
)
from normcli.tally import Bucket, Floats, Tally
from normcli.tally.exact import sqrt_fraction
from normcli.tally.floats import bin_values
from normcli.tally.groups import Group, Sums, levels_of

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

Convention = dict[str, list[float] | None]  # its mean and std


class Numbers(NamedTuple):
    """Every number of the statistics file that follows from the counts; the names are the file's."""

    pixels: int | float | list[int | float]
    invalid: list[int | float]
    max_value: int | None
    mean: list[float]
    std: list[float]
    min: list[float | None]
    max: list[float | None]
    percentiles: dict[str, list[float]]
    conventions: dict[str, Convention]


def shared_channels(tally: Tally, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of the channels that all images share; gray is used as R, G and B if any image has color.

    Raises:
        UsageError: no channels in common: 3 and 5 bands, or gray and RGB with color "native".
    """
    counts = sorted({bucket.channels for bucket in tally.buckets.values()})
    bands = tally.composition["bands"] > 0
    mixed = 0 < tally.composition["bands"] < tally.images  # some images are marked as RGB
    if len(counts) == 1:
        count = counts[0]
        if settings["color"] == "rgb":
            count = {1: 3, 2: 4}.get(count, count)
        known = (2, 4) if settings["alpha"] == "keep" else (1, 3)
        named = count in known and (not bands or (mixed and count == 3))
        names = list(channel_names(count) if named else band_names(count))
    elif not _are_compatible(counts, settings, bands):
        units, parts, advice = _mix(counts, tally.composition)
        raise UsageError(f"{units} of {' and '.join(map(str, counts))} {parts}s {advice}")
    else:
        names = list(channel_names(counts[-1]))
    if any(note.startswith("names:") for note in tally.composition):
        from normcli.summary.bands import named_bands

        images = sum(b.per_image.images for b in tally.buckets.values() if b.channels == counts[-1])
        return named_bands(tally.composition, images, settings, names)
    return names


def check_shared_channels(
    kinds: Mapping[int, str], settings: Mapping[str, Any], composition: Mapping[str, int]
) -> None:
    """Reject images without channels in common, before the last of them is read.

    Args:
        kinds: an image of each number of channels.
        settings: as in `shared_channels`.
        composition: number of images by note, as a tally has it.

    Raises:
        UsageError: naming two of them.
    """
    counts = sorted(kinds)
    if len(counts) > 1 and not _are_compatible(counts, settings, composition.get("bands", 0) > 0):
        few, many = counts[0], counts[-1]
        units, part, advice = _mix(counts, composition)
        what = f"{kinds[few]} has {few} {part}{'s' if few > 1 else ''}, {kinds[many]} has {many}"
        raise UsageError(f"{what}: such {units} {advice}")


def _are_compatible(counts: list[int], settings: Mapping[str, Any], bands: bool) -> bool:
    """Return True if images of several numbers of channels can be counted together: gray as color."""
    return counts in ([1, 3], [2, 4]) and settings["color"] != "native" and not bands


def _mix(counts: list[int], composition: Mapping[str, int]) -> tuple[str, str, str]:
    """Return the names of inputs and of their channels, and the problem of several numbers of these with its remedy."""
    units, part = "images", "channel"
    if composition.get("format:vectors", 0):
        are_alone = all(note == "format:vectors" for note in composition if note.startswith("format:"))
        units, part = ("vectors", "component") if are_alone else ("images and vectors", "channel")
        hint = "count those of one width at a time" if are_alone else "count one kind at a time"
    elif counts in ([1, 3], [2, 4]):
        hint = "`color` rgb repeats gray, `color` gray turns color into luma"
    else:
        hint = "`color` rgb counts gray and RGB images and fails the others; `include` selects those of one kind"
    return units, part, f"have no common mean and std ({hint})"


def describe(tally: Tally, settings: Mapping[str, Any], names: list[str]) -> Numbers:
    """Compute every number that the statistics file contains for a set of images.

    Args:
        tally: the counts; at least one image.
        settings: "max_value" is the value of full intensity of 16-bit and float images, or None.
        names: from `shared_channels`.
    """
    parts = parts_of_tally(tally, settings, names)
    count = range(len(names))
    numbers = [sum((part.pixels(c) for part in parts), Fraction(0)) for c in count]
    pooled = [_pooled([part.sums(c) for part in parts], numbers[c]) for c in count]
    levels = [part.white_level for part in parts]
    ranges = [_range(parts, c) for c in count]
    invalid = [_integer_if_possible(sum((part.invalid(c) for part in parts), Fraction(0))) for c in count]
    return Numbers(
        pixels=_pixels(numbers),
        invalid=invalid if any(invalid) else [],
        max_value=None if None in levels else max(level or 0 for level in levels),
        mean=[m for m, _, _ in pooled],
        std=[s for _, s, _ in pooled],
        min=[None if r is None else r[0] for r in ranges],
        max=[None if r is None else r[1] for r in ranges],
        percentiles=_percentiles(parts, len(names)),
        conventions=_every_convention(pooled, parts),
    )


def describe_group(group: Group, settings: Mapping[str, Any], names: list[str]) -> GroupSummary:
    """Compute the statistics of a group: pooled, by convention, and percentiles to 8 significant bits."""
    parts = parts_of_group(group, settings, names)
    numbers = [sum((part.pixels(c) for part in parts), Fraction(0)) for c in range(len(names))]
    pooled = [_pooled([part.sums(c) for part in parts], numbers[c]) for c in range(len(names))]
    return GroupSummary(
        images=group.images,
        pixels=_pixels(numbers),
        mean=[m for m, _, _ in pooled],
        std=[s for _, s, _ in pooled],
        percentiles=_percentiles(parts, len(names)),
        conventions=_every_convention(pooled, parts),
    )


def _every_convention(pooled: list[tuple[float, float, float | None]], parts: "list[Part]") -> dict[str, Convention]:
    mean = [m for m, _, _ in pooled]
    conventions: dict[str, Convention] = {
        "pooled_population": {"mean": mean, "std": [s for _, s, _ in pooled]},
        "pooled_sample": {"mean": mean, "std": _all_or_none([s for _, _, s in pooled])},
        **_image_conventions(parts, len(pooled)),
    }
    if all(part.bucket.per_image.scatter is not None for part in parts):
        conventions["pooled_within_images"] = {"mean": mean, "std": _within_images(parts, len(pooled))}
    return conventions


def _within_images(parts: "list[Part]", count: int) -> list[float] | None:
    """Return the root of the sum of squares within images over pixels less images; None if that is 0 everywhere."""
    std = []
    for c in range(count):
        freedom = sum((part.pixels(c) - part.images(c) for part in parts), Fraction(0))
        squares = sum((part.per_image("scatter", c, 2) for part in parts), Fraction(0))
        std.append(sqrt_fraction(squares / freedom) if freedom > 0 else math.nan)
    return None if all(map(math.isnan, std)) else std


def _pixels(numbers: list[Fraction]) -> int | float | list[int | float]:
    """Return the numbers of valid pixels: one where all channels have the same."""
    each = [_integer_if_possible(number) for number in numbers]
    return each[0] if len({*each}) == 1 else each


def _integer_if_possible(number: Fraction) -> int | float:
    return int(number) if number.denominator == 1 else float(number)


class Part:
    """The counts of one bucket by the channels that all images share, scaled so that the white level is 1."""

    def __init__(self, bucket: Bucket | Sums, white_level: int | None, names: list[str]) -> None:
        self.bucket, self.white_level, self.scale = bucket, white_level, white_level or 1
        self.source = source_channels(bucket.channels, len(names))
        self._weights = bucket.weights

    def pixels(self, channel: int) -> Fraction:
        return Fraction(self._weights[self.source[channel]], self.bucket.unit)

    def invalid(self, channel: int) -> Fraction:
        assert not isinstance(self.bucket, Sums), "groups do not count them"
        left_out = self.bucket.left_out if isinstance(self.bucket, Floats) else self.bucket.invalid
        return Fraction(left_out[self.source[channel]], self.bucket.unit)

    @property
    def is_short(self) -> bool:
        """Return True if the histogram is that of a group, to 8 significant bits."""
        return isinstance(self.bucket, Sums)

    def sums(self, channel: int) -> tuple[Fraction, Fraction]:
        """Return the scaled sums of values and of squares of one channel."""
        total, squares = self.bucket.sums(self.source[channel])
        unit = self.bucket.unit
        return Fraction(total) / (unit * self.scale), Fraction(squares) / (unit * self.scale**2)

    def values(self, bins: Any, channel: int, scale: int | None) -> Any:
        """Return the values of bins of the histogram: integers in units of 1/scale, or floats without a scale."""
        if isinstance(self.bucket, Sums):
            levels = levels_of(self.bucket.dtype)[bins]
        elif isinstance(self.bucket, Floats):
            low, high = self.bucket.range(self.source[channel]) or (-math.inf, math.inf)
            levels = np.clip(bin_values()[bins], low, high)
        else:
            levels = bins
        return levels / self.scale if scale is None else levels * (scale // self.scale)

    def per_image(self, name: str, channel: int, power: int = 1) -> Fraction:
        """Return the scaled sum over images of one per-image value; `power` is that of its unit."""
        sums = getattr(self.bucket.per_image, name)
        return Fraction(sums[self.source[channel]], self.scale**power << self.bucket.per_image.bits)

    def images(self, channel: int, name: str = "counted") -> int:
        """Return the number of images that have a valid pixel in a channel, or two: "sampled"."""
        return int(getattr(self.bucket.per_image, name)[self.source[channel]])


def parts_of_tally(tally: Tally, settings: Mapping[str, Any], names: list[str]) -> list[Part]:
    """Return the counts of each bucket."""
    return [Part(bucket, _white_level(bucket.dtype, settings), names) for bucket in tally.buckets.values()]


def parts_of_group(group: Group, settings: Mapping[str, Any], names: list[str]) -> list[Part]:
    """Return the counts of each bucket of a group."""
    return [Part(sums, _white_level(sums.dtype, settings), names) for sums in group.parts.values()]


def _white_level(dtype: str, settings: Mapping[str, Any]) -> int | None:
    """Return the stored value that maps to 1.0; None for raw units, and if numbers of stored levels are wanted."""
    return None if settings.get("stored") else white_level(dtype, settings["max_value"])


def _pooled(sums: list[tuple[Fraction, Fraction]], number: Fraction) -> tuple[float, float, float | None]:
    """Return mean, population std and sample std of one channel; NaN without a valid pixel."""
    if not number:
        return math.nan, math.nan, math.nan
    total = sum((s for s, _ in sums), Fraction(0))
    squares = sum((q for _, q in sums), Fraction(0))
    spread = squares - total * total / number
    sample = sqrt_fraction(spread / (number - 1)) if number > 1 else None
    return float(total / number), sqrt_fraction(spread / number), sample


def _image_conventions(parts: list[Part], count: int) -> dict[str, Convention]:
    def average(name: str, rounded: Callable[[Fraction], float], over: str = "counted", power: int = 1) -> list[float]:
        """Return the average over the images that have the value; NaN where none has."""
        out = []
        for c in range(count):
            images = sum(part.images(c, over) for part in parts)
            total = sum((part.per_image(name, c, power) for part in parts), Fraction(0))
            out.append(rounded(total / images) if images else math.nan)
        return out

    mean = average("mean", float)
    sample = average("sample_std", float, over="sampled")
    return {
        "mean_of_image_stds": {"mean": mean, "std": average("std", float)},
        "mean_of_image_sample_stds": {"mean": mean, "std": None if all(map(math.isnan, sample)) else sample},
        "root_mean_image_variance": {"mean": mean, "std": average("variance", sqrt_fraction, power=2)},
    }


def equal_images(tally: Tally, settings: Mapping[str, Any], names: list[str]) -> tuple[list[float], list[float]]:
    """Return mean and std with equal weights for all images, from averages over images of E[x] and E[x^2]."""
    parts = parts_of_tally(tally, settings, names)
    mean, std = [], []
    for c in range(len(names)):
        images = sum(part.images(c) for part in parts)
        if not images:
            mean.append(math.nan)
            std.append(math.nan)
            continue
        first = sum((part.per_image("mean", c) for part in parts), Fraction(0)) / images
        second = sum((part.per_image("variance", c, 2) + part.per_image("square", c, 2) for part in parts), Fraction(0))
        mean.append(float(first))
        std.append(sqrt_fraction(second / images - first * first))
    return mean, std


def equal_groups(groups: Sequence[tuple[list[float], list[float]]], count: int) -> tuple[list[float], list[float]]:
    """Return mean and std with equal weights for all groups that have them, from the mean and std of each."""
    mean, std = [], []
    for c in range(count):
        known = [(Fraction(means[c]), Fraction(stds[c])) for means, stds in groups if not math.isnan(means[c])]
        if not known:
            mean.append(math.nan)
            std.append(math.nan)
            continue
        average = sum((m for m, _ in known), Fraction(0)) / len(known)
        second = sum((m * m + s * s for m, s in known), Fraction(0)) / len(known)
        mean.append(float(average))
        std.append(sqrt_fraction(second - average * average))
    return mean, std


def _all_or_none(values: list[float | None]) -> list[float] | None:
    known = [v for v in values if v is not None]
    return known if len(known) == len(values) else None


def _range(parts: list[Part], channel: int) -> tuple[float, float] | None:
    counted = [part for part in parts if part.pixels(channel)]
    ranges = [part.bucket.range(part.source[channel]) for part in counted]
    scaled = [
        (Fraction(r[0]) / part.scale, Fraction(r[1]) / part.scale)
        for part, r in zip(counted, ranges, strict=True)
        if r is not None
    ]
    if not scaled or len(scaled) < len(ranges):
        return None
    return float(min(low for low, _ in scaled)), float(max(high for _, high in scaled))


def _percentiles(parts: list[Part], count: int, percents: Sequence[float] = PERCENTILES) -> dict[str, list[float]]:
    """Return percentiles, linear between neighbors in rank, as numpy.percentile's default.

    Exact for integer images; to 8 significant bits for float images, which are counted so.
    """
    floats = any(part.bucket.dtype == "float" for part in parts)
    scale = None if floats else math.lcm(*(part.scale for part in parts))
    unit = math.lcm(*(part.bucket.unit for part in parts))
    histograms = {part: part.bucket.histogram for part in parts}
    columns = []
    for c in range(count):
        values, counts = [], []
        for part in parts:
            row = histograms[part][part.source[c]]
            bins = np.flatnonzero(row)
            values.append(part.values(bins, c, scale))
            counts.append(row[bins] * (unit // part.bucket.unit))
        value, count_of = np.concatenate(values), np.concatenate(counts)
        order = np.argsort(value, kind="stable")
        columns.append((value[order], np.cumsum(count_of[order])))
    return {str(p): [float(_at(p, value, until, unit) / (scale or 1)) for value, until in columns] for p in percents}


def _at(percent: float, values: Any, until: Any, unit: int) -> Fraction | float:
    """Return the value at a percentage of ranks; `until` counts pixels up to each value, in parts of 1/unit."""
    if not len(until):
        return math.nan
    last = int(until[-1]) - 1
    rank = max(Fraction(percent) / 100 * (Fraction(last + 1, unit) - 1), Fraction(0))
    below = int(rank)
    low = Fraction(values[np.searchsorted(until, min(below * unit, last), side="right")].item())
    high = Fraction(values[np.searchsorted(until, min((below + 1) * unit, last), side="right")].item())
    return low + (high - low) * (rank - below)


def percentiles(
    tally: Tally, settings: Mapping[str, Any], names: list[str], percents: Sequence[float]
) -> list[list[float]]:
    """Return any percentiles of a set of images, per channel: one row for each of `percents`."""
    if not any(note.startswith("scale:") for note in tally.composition):
        return list(_percentiles(parts_of_tally(tally, settings, names), len(names), percents).values())
    from normcli.summary.bands import scaled_percentiles

    both = [*percents, *(100 - p for p in percents)]  # a negative scale turns the order of values
    rows = _percentiles(parts_of_tally(tally, {**settings, "stored": True}, names), len(names), both)
    return scaled_percentiles([rows[str(p)] for p in both], tally.composition, tally.images, settings["max_value"])


def composition_of(notes: Mapping[str, int], buckets: Iterable[Any]) -> dict[str, Any]:
    """Return the composition: a note such as "mode:RGB" becomes composition["mode"]["RGB"].

    Args:
        notes: number of images by note.
        buckets: the tally's buckets, for the number of gray and color images.
    """
    nested: dict[str, Any] = {"mode": {}, "depth": {}, "format": {}}
    for note in COUNTED_NOTES:
        nested[note.replace("-", "_")] = notes.get(note, 0)
    for note, count in sorted(notes.items()):
        kind, colon, value = note.partition(":")
        if colon:
            nested.setdefault(kind, {})[value] = count
    buckets = list(buckets)
    nested["gray"] = sum(b.per_image.images for b in buckets if b.channels < 3)
    nested["color"] = sum(b.per_image.images for b in buckets if b.channels >= 3)
    for note in RARE_NOTES:
        if notes.get(note):
            nested[note.replace("-", "_")] = notes[note]
    nested["not_finite_pixels"] = sum(max(getattr(b, "not_finite", (0,))) for b in buckets)
    return nested


# settings["weight"] -> the convention of `mean` and `std`
_CONVENTION_OF_WEIGHT = {
    "pixel": "pooled_population",
    "image": "equal_image_weights",
    "group": "equal_group_weights",
    "case": "equal_samples_per_case",
}


def build_summary(
    tally: Tally,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    shards: dict[str, Any] | None,
    forced: list[str],
) -> Summary:
    """Compute the statistics of a tally; the arguments are those of `Summary.of`.

    Raises:
        NoInputError: no image was counted.
        UsageError: the images have no channels in common.
    """
    if not tally.buckets:
        raise NoInputError("no usable image" + _reasons(tally))
    settings = dict(settings)
    shards = settings.pop("shard", None) or shards
    names = shared_channels(tally, settings)
    is_scaled = any(note.startswith("scale:") for note in tally.composition)
    levels = {**settings, "stored": True} if is_scaled else settings
    numbers = describe(tally, levels, names)
    groups = {name: describe_group(tally.groups[name], levels, names) for name in sorted(tally.groups)}
    weight = settings.get("weight", "pixel")
    if weight == "image":
        mean, std = equal_images(tally, levels, names)
        numbers = numbers._replace(mean=mean, std=std)
    elif weight in ("group", "case"):
        mean, std = equal_groups([(group.mean, group.std) for group in groups.values()], len(names))
        numbers = numbers._replace(mean=mean, std=std)
    raw = settings["max_value"] is None and all(bucket.dtype == "float" for bucket in tally.buckets.values())
    counts = tally.state()
    summary = Summary(
        complete=not tally.failed and shards is None and not forced,
        images=tally.images,
        failed=tally.failed.total(),
        skipped=tally.skipped.total(),
        channels=names,
        convention=_CONVENTION_OF_WEIGHT[weight],
        range="raw" if raw else "0-1",
        channel_order=channel_order(names),
        composition=composition_of(tally.composition, tally.buckets.values()),
        failures=counts["failed"],
        skips=counts["skipped"],
        shards=shards,
        forced=forced,
        settings=settings,
        provenance={**provenance, "digest": counts["digest"]},
        groups=groups,
        inputs={key: counts[key] for key in INPUT_COUNTS},
        state={key: value for key, value in counts.items() if key not in INPUT_COUNTS},
        **numbers._asdict(),
    )
    if is_scaled:
        from normcli.summary.bands import apply_scales

        apply_scales(summary)
    if weight == "case":
        from normcli.summary.percentiles import of_cases

        summary.percentiles = of_cases(summary, tally)
    return summary


def _reasons(tally: Tally) -> str:
    reasons = [f"{count} {reason}" for reason, count in sorted((tally.failed + tally.skipped).items())]
    return f" ({', '.join(reasons)})" if reasons else ""
