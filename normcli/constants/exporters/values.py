"""Mean and std as an exporter writes them, with the facts that its comment states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from normcli.constants.exporters.quote import one_line
from normcli.errors import UsageError, unknown
from normcli.summary import Summary
from normcli.summary.channels import channel_order
from normcli.summary.remarks import CONVENTIONS
from normcli.summary.shards import describe_shards


@dataclass(frozen=True, kw_only=True)
class DatasetConstants:
    """Mean and std of a dataset in one convention, in 0-1 or, without a max_value, in raw units.

    Attributes:
        mean, std: per channel.
        channels: ["R", "G", "B"], ["L"], …
        max_value: the stored value that maps to 1.0: 255, 65535; None for raw units.
        convention: "pooled_population", …
        images, pixels: how many they were computed from.
        resize, center_crop: the geometry they were computed after, or None.
        subset: what was counted where that is not the complete dataset, such as "part 1 of 4"; else "".
        digits: significant digits to write, or None for all.
    """

    mean: list[float]
    std: list[float]
    channels: list[str]
    max_value: int | None
    convention: str
    images: int
    pixels: float
    resize: int | None = None
    center_crop: int | None = None
    subset: str = ""
    digits: int | None = None

    @classmethod
    def of(
        cls, summary: Summary, convention: str | None = None, *, group: str | None = None, digits: int | None = None
    ) -> "DatasetConstants":
        """Take the constants of one convention, or of one group, from a summary.

        Raises:
            UsageError: unknown convention or group, or one that these statistics do not contain.
        """
        if digits is not None and digits < 1:
            raise UsageError(f"`digits`: must be at least 1, not {digits}")
        name, mean, std = mean_and_std(summary, convention)
        subset = [describe_shards(summary.shards)] if summary.shards is not None else []
        constants = cls(
            mean=mean,
            std=std,
            channels=summary.channels,
            max_value=summary.max_value,
            convention=name,
            images=summary.images,
            pixels=summary.pixels,
            resize=summary.settings.get("resize"),
            center_crop=summary.settings.get("center_crop"),
            subset=", ".join(subset),
            digits=digits,
        )
        if group is None:
            return constants
        if name not in (summary.convention, "pooled_population"):
            raise UsageError(f"`group`: groups have pooled statistics only, not {name.replace('_', ' ')}")
        one = summary.group(group)
        return replace(
            constants,
            mean=one.mean,
            std=one.std,
            convention="pooled_population",
            images=one.images,
            pixels=one.pixels,
            subset=", ".join([f"group {group!a}", *subset]),
        )

    @property
    def description(self) -> str:
        """Return convention, number of images and geometry as one line of text."""
        steps = [f"resize {self.resize}"] if self.resize else []
        steps += [f"center crop {self.center_crop}"] if self.center_crop else []
        geometry = f" after {', '.join(steps)}" if steps else ""
        subset = f" ({self.subset})" if self.subset else ""
        images = f"{self.images} image{'s' * (self.images != 1)}"
        return one_line(f"{self.convention.replace('_', ' ')} over {images}{subset}{geometry}")

    @property
    def channel_order(self) -> str:
        """Return the channels as text: "RGB", "L", "5 bands"."""
        return channel_order(self.channels)

    @property
    def range(self) -> str:
        """Return the range of mean and std as text."""
        return "raw units" if self.max_value is None else "range 0-1"

    @property
    def stored_range(self) -> str:
        """Return the range of the stored values as text."""
        return "raw units" if self.max_value is None else f"range 0-{self.max_value}"

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
        return [value * (self.max_value or 1) for value in values]

    def affine(self) -> tuple[list[float], list[float]]:
        """Return scale and shift of stored pixels: y = x * scale + shift."""
        scale = [1 / std for std in self.stored(self.std)]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return scale, shift

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


def mean_and_std(summary: Summary, convention: str | None = None) -> tuple[str, list[float], list[float]]:
    """Return the name, mean and std of one convention of a summary; None is that of its `mean` and `std`.

    Dashes and underscores in the name are alike.

    Raises:
        UsageError: unknown convention, or one that these statistics do not contain.
    """
    name = summary.convention if convention is None else convention.replace("-", "_")
    if name == summary.convention:
        return name, summary.mean, summary.std
    if name not in CONVENTIONS:
        raise unknown("convention", name, CONVENTIONS)
    numbers = summary.conventions.get(name) or {}
    mean, std = numbers.get("mean"), numbers.get("std")
    if mean is None or std is None:
        raise UsageError(f"`convention`: these statistics contain no {name.replace('_', ' ')} (count the images again)")
    return name, mean, std
