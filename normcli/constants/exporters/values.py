"""The two numbers per channel that a exporter says, and where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from normcli.errors import UsageError, unknown
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS

DEFAULT = "pooled_population"


@dataclass(frozen=True, kw_only=True)
class DatasetConstants:
    """Mean and std of a dataset in one convention; range 0-1 for integer images, else raw units.

    Attributes:
        mean, std: per channel.
        channels: ["R", "G", "B"], ["L"], …
        max_value: value of full intensity as stored: 255, 65535; None for raw units.
        convention: "pooled_population", …
        images, pixels: how many they were computed from.
        resize, center_crop: the geometry they were computed after, or None.
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

    @classmethod
    def of(cls, summary: Summary, convention: str = DEFAULT) -> "DatasetConstants":
        """Take the constants of one convention from a summary.

        Raises:
            UsageError: unknown convention, or one that these statistics do not hold.
        """
        mean, std = mean_and_std(summary, convention)
        geometry: dict[str, Any] = {k: summary.settings.get(k) for k in ("resize", "center_crop")}
        return cls(
            mean=mean,
            std=std,
            channels=summary.channels,
            max_value=summary.depth,
            convention=convention,
            images=summary.images,
            pixels=summary.pixels,
            **geometry,
        )

    @property
    def description(self) -> str:
        """What the numbers are: convention, number of images, geometry."""
        after = [f"resize {self.resize}"] if self.resize else []
        after += [f"center crop {self.center_crop}"] if self.center_crop else []
        geometry = f" after {', '.join(after)}" if after else ""
        many = f"{self.images} image{'s' * (self.images != 1)}"
        return f"{self.convention.replace('_', ' ')} over {many}{geometry}"

    @property
    def channel_order(self) -> str:
        """The channels in words: "RGB", "L", "5 bands"."""
        return "".join(self.channels) if len(self.channels) < 5 else f"{len(self.channels)} bands"

    @property
    def range(self) -> str:
        """The range that mean and std are in."""
        return "raw units" if self.max_value is None else "range 0-1"

    @property
    def stored_range(self) -> str:
        """The range of the values as stored."""
        return "raw units" if self.max_value is None else f"range 0-{self.max_value}"

    def stored(self, values: Sequence[float]) -> list[float]:
        """Bring values from 0-1 to the range of the pixels as stored."""
        return [value * (self.max_value or 1) for value in values]

    def require_nonzero_std(self, exporter: str) -> None:
        """Stop before a exporter says something that divides by zero.

        Raises:
            UsageError: a channel with std 0.
        """
        flat = [name for name, std in zip(self.channels, self.std, strict=True) if std == 0]
        if flat:
            raise UsageError(
                f"constant channel, std 0: {', '.join(flat)}: {exporter} would divide by zero "
                "(json, yaml, csv and env print it as it is)"
            )


def mean_and_std(summary: Summary, convention: str) -> tuple[list[float], list[float]]:
    """Mean and std of a summary in one convention.

    Raises:
        UsageError: unknown convention, or one that these statistics do not hold.
    """
    convention = convention.replace("-", "_")
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    if convention == DEFAULT:
        return summary.mean, summary.std
    found = summary.conventions.get(convention)
    mean, std = (found.get("mean"), found.get("std")) if found else (None, None)
    if mean is None or std is None:
        raise UsageError(f"these statistics hold no {convention.replace('_', ' ')}; compute them again from the images")
    return mean, std
