"""The options that a statistics file records."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from normcli.options.images import DecodeOptions
from normcli.options.stats import StatsOptions

if TYPE_CHECKING:
    from normcli.runs.masks import PixelMask
    from normcli.runs.sample import SamplePlan


def decode_settings(options: DecodeOptions) -> dict[str, Any]:
    """Return the decode options that change what the numbers mean; `max_pixels` only limits which files are used."""
    settings = asdict(options.part(DecodeOptions))
    del settings["max_pixels"]
    return settings


def settings_of(options: StatsOptions, plan: "SamplePlan | None", mask: "PixelMask | None") -> dict[str, Any]:
    """Return everything that changes what the numbers mean, as the statistics file records it."""
    settings = {
        **decode_settings(options),
        "max_value": options.white_level,
        "nan": options.nan,
        "group_by": options.group_by,
    }
    if (part := options.part_of) is not None:
        settings["shard"] = {"of": part[1], "parts": [part[0]]}
    if plan is not None:
        settings["sample"] = plan.settings()
    if mask is not None:
        settings.update(mask.settings())
    if options.weight != "pixel":
        settings["weight"] = options.weight
    return settings
