"""Transforms from options: scheme, settings, and the source of mean and std."""

import os
from dataclasses import replace
from typing import Any, cast

from normcli import schemes
from normcli.constants.presets import Preset
from normcli.errors import UsageError
from normcli.options.apply import ConstantsOptions, TransformOptions
from normcli.options.images import DecodeOptions
from normcli.runs import map_constants as numbers
from normcli.runs.map_constants import MapConstants
from normcli.runs.transform import Transform
from normcli.summary import Summary


def transform(scheme: str, options: TransformOptions) -> Transform:
    """Return a picklable callable, array -> array; see `normcli.transform`."""
    built = build_transform(scheme, options)
    constants = resolve_constants(built, options)
    if constants is None and needs_statistics(built):
        raise UsageError(f"`scheme` {scheme} requires `stats`, `mean` and `std`, or `preset`")
    return replace(built, constants=constants)


def build_transform(scheme: str, options: TransformOptions) -> Transform:
    """Return a transform that has no constants yet.

    Raises:
        UsageError: options that contradict each other.
    """
    name, settings = schemes.parse(scheme)
    if schemes.least_std(options.zero_std) is not None and not schemes.divides(name):
        raise UsageError(f"`zero_std` cannot be combined with `scheme` {name}, which divides by no std")
    return Transform(
        scheme=name,
        settings=tuple(sorted(settings.items())),
        zero_std=options.zero_std,
        clip=options.clip,
        dtype=options.dtype,
        output_layout=options.output_layout,
        channel_order=options.channel_order or ("bgr" if name == "caffe" else "rgb"),
        color=options.color,
        max_value=options.white_level,
        nan=options.nan,
    )


def needs_statistics(target: Transform) -> bool:
    """Return True if a transform requires statistics of the dataset."""
    return target.scheme == "contrast" or dict(target.settings).get("over") == "dataset"


def resolve_constants(
    target: Transform, options: ConstantsOptions, reading: DecodeOptions | None = None
) -> MapConstants | None:
    """Return the constants of the options for a transform; None if the options name none.

    Args:
        target: the transform.
        options: `stats`, `mean` and `std`, or `preset`.
        reading: how this run decodes images; compared with how the statistics' images were decoded.

    Raises:
        UsageError: two sources of constants, constants that are not used, or statistics that do not fit.
    """
    stats, mean, std, preset, convention = (
        options.stats,
        options.mean,
        options.std,
        options.preset,
        options.convention,
    )
    answers = [name for name, value in (("stats", stats), ("mean", mean), ("preset", preset)) if value is not None]
    if not needs_statistics(target):
        useless = [f"`{name}`" for name in answers]
        useless += ["`convention`"] if convention != "pooled_population" else []
        useless += ["`alpha` weight"] if reading is not None and reading.alpha == "weight" else []
        if useless:
            raise UsageError(f"{useless[0]} cannot be combined with `scheme` {target.scheme}, which uses no statistics")
        return None
    if len(answers) > 1:
        raise UsageError(f"`{answers[0]}` cannot be combined with `{answers[1]}`: both set mean and std")
    percents = percents_of(target)
    if percents is not None and answers and answers != ["stats"]:
        raise UsageError(f"`scheme` percentile:over=dataset requires `stats`, not `{answers[0]}`")
    if convention != "pooled_population" and answers and answers != ["stats"]:
        raise UsageError(f"`convention` {convention} requires `stats`, not `{answers[0]}`")
    if stats is not None:
        summary = stats if isinstance(stats, Summary) else Summary.load(os.fspath(cast("str", stats)))
        name = "statistics" if isinstance(stats, Summary) else os.fspath(cast("str", stats))
        settings: dict[str, Any] = {"color": target.color, "max_value": target.max_value}
        if reading is not None:
            settings |= {"alpha": reading.alpha, "resize": reading.resize, "center_crop": reading.center_crop}
        numbers.check_contract(summary, settings, name)
        return numbers.of_summary(summary, convention, percents=percents)
    if mean is not None and std is not None:
        return numbers.given(mean, std)
    return None if preset is None else numbers.published(preset)


def catalog() -> tuple[list[tuple[str, dict[str, Any], str]], dict[str, Preset]]:
    """Every scheme with its settings and first line of help, and every preset."""
    listed = [
        (name, schemes.settings(name), (function.__doc__ or "\n").splitlines()[0].rstrip("."))
        for name, function in schemes.SCHEMES.items()
    ]
    return listed, schemes.PRESETS


def percents_of(target: Transform) -> tuple[float, float] | None:
    """The two percentages whose percentiles over the dataset a transform needs."""
    settings = {**schemes.settings(target.scheme), **dict(target.settings)}
    if settings.get("over") != "dataset":
        return None
    return settings["lo"], settings["hi"]
