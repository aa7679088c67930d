"""Mean and std as an exporter writes them, with the facts that its comment states."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from normcli.constants.exporters.quote import one_line
from normcli.errors import StatisticsFileError, UsageError, unknown
from normcli.options.shared import GEOMETRY, describe_geometry
from normcli.summary import GroupSummary, Summary
from normcli.summary.bands import to_levels
from normcli.summary.file import is_geometry
from normcli.summary.remarks import CONVENTIONS
from normcli.summary.shards import describe_shards
from normcli.summary.summary import channel_order, white_level


class DatasetConstants(NamedTuple):
    """Mean and std of a dataset in one convention, in 0-1 or, for float images without a max_value, in raw units.

    Attributes:
        mean, std: per channel.
        channels: ["R", "G", "B"], ["L"], …
        white_levels: by type of stored values, uint8, uint16 or float, the value that maps to 1.0; None for raw units.
        convention: "pooled_population", …
        images, pixels: their numbers; of pixels the greatest of any channel.
        resize, center_crop, interpolation, pad, like: the geometry they were computed after, as settings have it.
        subset: the part of the dataset that was counted, such as "part 1 of 4"; "" for all of it.
        digits: significant digits to write, or None for all.
        min, max: per channel; None where they are not known.
        valid_percent: share of the pixels that count, per channel.
        source, group: the summary, and the group of it, that have the percentiles.
        in_units: values are in the units of scale tags, as tools of volumes read them; False is of stored values.
    """

    mean: list[float]
    std: list[float]
    channels: list[str]
    white_levels: Mapping[str, int | None]
    convention: str
    images: int
    pixels: float
    resize: int | str | None = None
    center_crop: int | str | None = None
    interpolation: str | None = None
    pad: str | None = None
    like: str | None = None
    subset: str = ""
    digits: int | None = None
    min: Sequence[float | None] = ()
    max: Sequence[float | None] = ()
    valid_percent: Sequence[float] = ()
    source: Summary | None = None
    group: str | None = None
    in_units: bool = False

    @classmethod
    def of(
        cls,
        summary: Summary,
        convention: str | None = None,
        *,
        group: str | None = None,
        digits: int | None = None,
        in_units: bool = False,
    ) -> "DatasetConstants":
        """Take the constants of one convention, or of one group, from a summary.

        Raises:
            UsageError: unknown convention or group, or one that these statistics do not contain.
        """
        if digits is not None and digits < 1:
            raise UsageError(f"`digits`: must be at least 0 (all), not {digits}")
        one = summary if group is None else summary.group(group)
        name, mean, std = mean_and_std(summary, convention, group=group)
        if empty := [channel for channel, m in zip(summary.channels, mean, strict=True) if math.isnan(m)]:
            raise UsageError(f"channel {', '.join(empty)} has no valid pixel, so no mean and std to export")
        subset = [] if group is None else [f"group {group!a}"]
        levels = _white_levels(summary, group)
        if "mixture" in summary.settings:
            from normcli.summary.mixture import describe_mixture

            subset.append(f"weighted {describe_mixture(summary.settings)}")
        if "scale" in summary.composition:
            levels = dict.fromkeys(levels, summary.max_value if in_units else None)
            subset += ["in the units of scale and offset" if in_units else "in stored values, before scale and offset"]
            if not in_units:
                mean, std = to_levels(summary, mean, std)
        subset += [describe_shards(summary.shards)] if summary.shards is not None else []
        if summary.sample is not None and summary.sample["read"] < summary.sample["of"]:
            subset.append(f"a random sample of {summary.sample['of']:,}")
        return cls(
            mean=mean,
            std=std,
            channels=summary.channels,
            white_levels=levels,
            convention=name,
            images=one.images,
            pixels=max(one.pixels) if isinstance(one.pixels, list) else one.pixels,
            **{key: summary.settings.get(key) for key in GEOMETRY},
            subset=", ".join(subset),
            digits=digits,
            min=_known(summary, summary.min, group, in_units),
            max=_known(summary, summary.max, group, in_units),
            valid_percent=_valid_percent(summary),
            source=summary,
            group=group,
            in_units=in_units,
        )

    def percentiles(self, *names: str) -> list[list[float]]:
        """Return percentiles by name, per channel, in the range of `mean`: those of all pixels, linear.

        Raises:
            UsageError: pixels with weights for which they are not defined.
            StatisticsFileError: the state is damaged.
        """
        one = self._with_percentiles(names)
        return [_levels(self._summary, one.percentiles[name], self.in_units) for name in names]

    def _with_percentiles(self, names: Sequence[str]) -> Summary | GroupSummary:
        one: Summary | GroupSummary = self._summary if self.group is None else self._summary.group(self.group)
        if not set(names) <= set(one.percentiles):
            extended = self._summary.with_percentiles(names)
            one = extended if self.group is None else extended.group(self.group)
        if not set(names) <= set(one.percentiles):
            raise StatisticsFileError(f"the state of these statistics is damaged: no counts of group {self.group!a}")
        return one

    @property
    def _summary(self) -> Summary:
        assert self.source is not None, "constants of a summary"
        return self.source

    def extremes(self, exporter: str) -> tuple[list[float], list[float]]:
        """Return minima and maxima in the range of `mean`; of a group its percentiles 0 and 100, if these are exact.

        Raises:
            UsageError: one is not known.
        """
        if self.group is not None:
            details = self._with_percentiles(("0", "100")).percentile_details
            if details is None or not details["exact"]:
                raise UsageError(
                    f"{exporter}: minimum and maximum of a group are known to 8 significant bits (count with "
                    "`percentiles` 0,100 and `exact_percentiles`)"
                )
            low, high = self.percentiles("0", "100")
            return low, high
        low, high = ([v for v in row if v is not None] for row in (self.min, self.max))
        if len(low) < len(self.channels) or len(high) < len(self.channels):
            raise UsageError(f"{exporter}: minimum and maximum are unknown (after a subtraction)")
        return low, high

    @property
    def description(self) -> str:
        """Return convention, number of images and geometry as one line of text."""
        geometry = f" after {self.geometry}" if self.geometry else ""
        subset = f" ({self.subset})" if self.subset else ""
        unit = "image" if self.source is None else self.source.unit
        images = f"{self.images} {unit}{'s' * (self.images != 1)}"
        return one_line(f"{self.convention.replace('_', ' ')} over {images}{subset}{geometry}")

    @property
    def has_geometry(self) -> bool:
        """Return True if the images were resized or cropped, in a way that code can repeat."""
        return is_geometry({key: getattr(self, key) for key in GEOMETRY})

    @property
    def geometry(self) -> str:
        """Return the geometry as text; a resize that names no filter is bilinear."""
        return describe_geometry({key: getattr(self, key) for key in GEOMETRY})

    @property
    def channel_order(self) -> str:
        """Return the channels as text: "RGB", "L", "5 bands"; "5 components" of vectors."""
        return f"{len(self.channels)} components" if self.is_vector else channel_order(self.channels)

    @property
    def is_8bit(self) -> bool:
        """Return True if all images are of 8 bits, for which most tools have a scaling of their own."""
        return set(self.white_levels) == {"uint8"}

    @property
    def is_vector(self) -> bool:
        """Return True if these are constants of vectors."""
        return self.source is not None and self.source.unit == "vector"

    @property
    def is_raw(self) -> bool:
        """Return True if mean and std are in raw units."""
        return set(self.white_levels.values()) == {None}

    @property
    def max_value(self) -> int:
        """Return the stored value that maps to 1.0 in all images; 1 for raw units.

        Raises:
            UsageError: images of several depths have several.
        """
        if len({level or 1 for level in self.white_levels.values()}) > 1:
            raise UsageError(
                f"{self.depths} images have different stored ranges: {self._divisors} "
                "(torchvision, csv, yaml, toml and env scale each to 0-1; or count one depth alone)"
            )
        return next(iter(self.white_levels.values())) or 1

    @property
    def depths(self) -> str:
        """Return the depths of the images as text: "16-bit and float"."""
        names = {"uint8": "8-bit", "uint16": "16-bit", "float": "float"}
        return " and ".join(names[name] for name in self.white_levels)

    @property
    def _divisors(self) -> str:
        return ", ".join(f"{name} / {level}" for name, level in self.levels.items())

    @property
    def levels(self) -> dict[str, int]:
        """Return the divisor that scales the stored values of each type; of all types one where it is the same."""
        levels = {name: level or 1 for name, level in self.white_levels.items()}
        return levels if len({*levels.values()}) > 1 else {"stored values": next(iter(levels.values()))}

    @property
    def range(self) -> str:
        """Return the range of mean and std as text, with the divisors that a tool for 8 bits does not know."""
        if self.is_raw:
            return "raw units"
        return "range 0-1" if self.is_8bit else f"range 0-1 ({self._divisors})"

    @property
    def stored_range(self) -> str:
        """Return the range of the stored values as text."""
        return "raw units" if self.is_raw else f"range 0-{self.max_value}"

    def rounded(self, values: Sequence[float], extra: int = 0) -> list[float]:
        """Return values with `digits` significant digits, and some more."""
        return [v if self.digits is None else float(f"{v:.{self.digits + extra}g}") for v in values]

    @property
    def unit_mean(self) -> list[float]:
        """Return the mean in 0-1 or raw units, rounded to `digits`."""
        return self.rounded(self.mean)

    @property
    def unit_std(self) -> list[float]:
        """Return the std in 0-1 or raw units, rounded to `digits`."""
        return self.rounded(self.std)

    @property
    def stored_mean(self) -> list[float]:
        """Return the mean in the range of the stored pixels, rounded to `digits`."""
        return self.rounded(self.stored(self.mean), extra=2)  # 123.675 of 0-255 is as exact as 0.4850

    @property
    def stored_std(self) -> list[float]:
        """Return the std in the range of the stored pixels, rounded to `digits`."""
        return self.rounded(self.stored(self.std), extra=2)

    def stored(self, values: Sequence[float]) -> list[float]:
        """Scale values from 0-1 to the range of the stored pixels."""
        return [value * self.max_value for value in values]

    def affine(self) -> tuple[list[float], list[float]]:
        """Return scale and shift of stored pixels: y = x * scale + shift."""
        scale = [1 / std for std in self.stored(self.std)]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return scale, shift

    def require_8bit(self, exporter: str) -> None:
        """Raise an error where a tool reads every image as 8 bits.

        Raises:
            UsageError: images of more than 8 bits.
        """
        if not self.is_8bit:
            raise UsageError(
                f"{exporter}: its loader converts images to 8 bits, and these statistics are of {self.depths} images "
                "(use --format torchvision or albumentations, whose code scales them)"
            )

    def require_nonzero_std(self, exporter: str) -> None:
        """Raise an error before an exporter writes something that divides by zero.

        Raises:
            UsageError: a channel with std 0.
        """
        constant = [name for name, std in zip(self.channels, self.std, strict=True) if std == 0]
        if constant:
            raise UsageError(
                f"constant channel, std 0: {', '.join(constant)}: {exporter} would divide by zero "
                "(json, yaml, csv and env print it as it is)"
            )


def _white_levels(summary: Summary, group: str | None) -> dict[str, int | None]:
    every = summary.state.get("buckets", ())
    buckets = every if group is None else (summary.state.get("groups") or {}).get(group, every)
    types = {str(bucket.get("dtype")) for bucket in buckets} or {"float"}
    setting = summary.settings.get("max_value")
    return {name: white_level(name, setting) for name in ("uint8", "uint16", "float") if name in types}


def _levels(summary: Summary, row: list[float], in_units: bool) -> list[float]:
    """Return one value per channel in the units of mean and std: in stored levels where rasters have a scale."""
    return to_levels(summary, row, row)[0] if "scale" in summary.composition and not in_units else row


def _known(summary: Summary, row: list[float | None], group: str | None, in_units: bool) -> Sequence[float | None]:
    """Return minima or maxima in the units of mean and std; None for a group, and if one is not known."""
    known = [value for value in row if value is not None]
    return _levels(summary, known, in_units) if group is None and len(known) == len(row) else [None] * len(row)


def _valid_percent(summary: Summary) -> list[float]:
    invalid = summary.invalid or [0] * len(summary.channels)
    return [100 * n / (n + left_out) for n, left_out in zip(summary.pixels_of, invalid, strict=True)]


def mean_and_std(
    summary: Summary, convention: str | None = None, *, group: str | None = None
) -> tuple[str, list[float], list[float]]:
    """Return the name, mean and std of one convention of a summary or of a group.

    Args:
        summary: the statistics.
        convention: name, in which dashes and underscores are alike; None is that of the `mean` and `std`, which are
            pooled in groups.
        group: name of a group.

    Raises:
        UsageError: unknown convention or group, or one that these statistics do not contain.
    """
    one = summary if group is None else summary.group(group)
    own = summary.convention if group is None else "pooled_population"
    name = own if convention is None else convention.replace("-", "_")
    if name == own:
        return name, one.mean, one.std
    if name not in CONVENTIONS:
        raise unknown("convention", name, CONVENTIONS)
    numbers = one.conventions.get(name) or {}
    mean, std = numbers.get("mean"), numbers.get("std")
    if mean is None or std is None:
        raise UsageError(f"`convention`: these statistics contain no {name.replace('_', ' ')} (count the images again)")
    return name, mean, std
