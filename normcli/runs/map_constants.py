"""Mean and std for contrast: from a statistics file, the user, or published constants."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normcli.errors import InputError, UsageError, unknown
from normcli.schemes import Values, preset
from normcli.summary import Summary
from normcli.summary.channels import channel_names

# what must be the same where statistics are made and used
_CONTRACT = ("color", "alpha", "resize", "center_crop", "max_value")
# settings of statistics in which every pixel of the images counts once; masks, weights and samples have their own
_PLAIN = {*_CONTRACT, "strict", "nan", "group_by"}


@dataclass(frozen=True, kw_only=True)
class MapConstants:
    """Mean and std per channel, and their origin.

    Attributes:
        mean, std: per channel, RGB; range 0-1, raw units for float images without `max_value`.
        channels: their names.
        origin: "statistics", "computed", "given" or "preset NAME".
        convention: what kind of mean and std.
        digest: of the images that statistics were made of, or None.
        images: how many those were.
        dtypes: of those images: "uint8", "uint16", "float"; empty where it is not known.
        pooled: every pixel counts once: mapped by these, the same images have mean 0 and std 1.
        low, high: percentiles of the dataset, where a scheme asked for them.
    """

    mean: Values
    std: Values
    channels: tuple[str, ...]
    origin: str
    convention: str
    digest: str | None = None
    images: int | None = None
    dtypes: tuple[str, ...] = ()
    pooled: bool = False
    low: Values | None = None
    high: Values | None = None

    def record(self) -> dict[str, Any]:
        """Return the object for the manifest."""
        values = {name: value for name, value in vars(self).items() if value not in (None, ())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def check(self, channels: int, dtype: str) -> None:
        """Check that the constants apply to an image's channels and depth.

        Raises:
            InputError: other channels, or another depth.
        """
        want = len(self.channels)
        repeated = (channels, want) in ((1, 3), (2, 4))
        if channels != want and not repeated:
            raise InputError(
                "channels",
                f"{_counted(channels, 'channel')}, and the mean and std are of {want} ({', '.join(self.channels)})",
            )
        if self.dtypes and dtype not in self.dtypes:
            words = {"uint8": "8-bit", "uint16": "16-bit", "float": "float"}
            raise InputError(
                "depth",
                f"{words[dtype]} pixels, and the statistics are of "
                f"{' and '.join(words[d] for d in self.dtypes)} images",
            )


def given(mean: Sequence[float], std: Sequence[float]) -> MapConstants:
    """Make constants of numbers that the user gives.

    Raises:
        UsageError: lengths that differ, or numbers that cannot be.
    """
    if len(mean) != len(std) or not mean:
        raise UsageError(f"`mean` has {len(mean)} values and `std` {len(std)}: both must have one per channel")
    if not all(map(math.isfinite, [*mean, *std])):
        raise UsageError("`mean` and `std`: must be finite numbers")
    if any(s < 0 for s in std):
        raise UsageError(f"`std`: must not be negative, not {', '.join(f'{s:g}' for s in std)}")
    names = channel_names(len(mean))
    return MapConstants(mean=tuple(mean), std=tuple(std), channels=names, origin="given", convention="as given")


def published(name: str) -> MapConstants:
    """Take published constants.

    Raises:
        UsageError: no such preset.
    """
    row = preset(name)
    assert row.std is not None  # those without are no constants of contrast
    constants = given(row.mean, row.std)
    return replace(constants, origin=f"preset {name}", convention=f"{row.convention}; {row.source}")


def of_summary(
    summary: Summary,
    convention: str = "pooled_population",
    *,
    origin: str = "statistics",
    percents: tuple[float, float] | None = None,
) -> MapConstants:
    """Take a statistics file's mean and std in one of its conventions.

    Args:
        summary: the statistics.
        convention: one of its conventions; dashes and underscores are alike.
        origin: "statistics" or "computed".
        percents: two percentages whose percentiles to take as well.

    Raises:
        UsageError: no such convention, or no std in it.
    """
    name = convention.replace("-", "_")
    if name not in summary.conventions:
        raise unknown("convention", name, summary.conventions)
    values = summary.conventions[name]
    mean, std = values["mean"], values["std"]
    if mean is None or std is None:
        raise UsageError(f"`convention`: these statistics have no std in {name}")
    low = high = None
    if percents is not None:
        from normcli.summary.conventions import percentiles

        low, high = (tuple(row) for row in percentiles(summary.tally, summary.settings, summary.channels, percents))
    found_dtypes = {str(bucket["dtype"]) for bucket in summary.state["buckets"]}
    return MapConstants(
        mean=tuple(mean),
        std=tuple(std),
        channels=tuple(summary.channels),
        origin=origin,
        convention=name,
        digest=summary.provenance.get("digest"),
        images=summary.images,
        dtypes=tuple(sorted(found_dtypes)),
        pooled=name == "pooled_population"
        and summary.settings["alpha"] != "weight"
        and set(summary.settings) <= _PLAIN,
        low=low,
        high=high,
    )


def check_contract(summary: Summary, settings: Mapping[str, Any], name: str) -> None:
    """Check that statistics were computed with the decode options they are used with.

    Args:
        summary: the statistics.
        settings: of this run: color, alpha, resize, center_crop, range.
        name: of the file, for the error.

    Raises:
        UsageError: settings that differ, each named with what to give.
    """
    differing = []
    for key in _CONTRACT:
        if key not in settings:
            continue
        theirs, ours = summary.settings.get(key), settings[key]
        if key == "color":  # gray is another mean; the others are told apart by the channels
            theirs, ours = ("gray" if value == "gray" else "auto" for value in (theirs, ours))
        if theirs != ours:
            differing.append((key.replace("_", "-"), theirs, ours))
    if differing:
        made = ", ".join(f"{key} {_said(theirs)}" for key, theirs, _ in differing)
        here = ", ".join(f"{key} {_said(ours)}" for key, _, ours in differing)
        raise UsageError(
            f"{name}: statistics were made with {made}, not with {here} (use the same options, or `mean` and `std`)"
        )


def suspicious_numbers(constants: Mapping[str, Any]) -> str | None:
    """Return a warning about a mean and std that the user gave; None if they look right.

    >>> suspicious_numbers({"origin": "given", "mean": [123.7], "std": [58.4]})
    'a mean of 123.7 and a std of 58.4 look like range 0-255; pixels are scaled to 0-1 first: divide both by 255'
    """
    mean, std = max(map(abs, constants["mean"])), max(constants["std"])
    if constants["origin"] != "given" or (mean <= 1 and std <= 1):
        return None
    return (
        f"a mean of {mean:g} and a std of {std:g} look like range 0-255; pixels are scaled to 0-1 first: "
        "divide both by 255"
    )


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
