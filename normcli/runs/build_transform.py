"""Transforms made of what a user says: scheme, settings, and where the numbers come from."""

import os
from dataclasses import replace
from typing import Any

from normcli import schemes
from normcli.constants.presets import Preset
from normcli.errors import UsageError, unknown
from normcli.images import Reading
from normcli.runs import map_constants as numbers
from normcli.runs.map_constants import MapConstants
from normcli.runs.transform import Transform
from normcli.sinks import DTYPES
from normcli.summary import Summary


def transform(
    scheme: str = "contrast",
    *,
    stats: "str | os.PathLike[str] | Summary | None" = None,
    mean: tuple[float, ...] | list[float] | None = None,
    std: tuple[float, ...] | list[float] | None = None,
    preset: str | None = None,
    convention: str = "pooled_population",
    zero_std: str = "error",
    clip: tuple[float, float] | None = None,
    dtype: str = "float32",
    layout: str = "chw",
    order: str | None = None,
    color: str = "auto",
    range: int | None = None,
    nan: str = "error",
) -> Transform:
    """Make a picklable callable, array -> array, with the same bits as `normcli apply`.

    For a torch Dataset, `map`, or any loader: it takes (H,W) or (H,W,C) of uint8, uint16 or float, or a
    Pillow image in gray or RGB, and gives (C,H,W).

    >>> import numpy as np
    >>> to_signed = transform("signed")
    >>> to_signed(np.array([[[0, 255, 51]]], np.uint8)).ravel().tolist()
    [-1.0, 1.0, -0.6000000238418579]

    Args:
        scheme: name, or name:settings as in the command.
        stats: statistics file or `Summary`, for contrast and percentile:over=dataset.
        mean: per channel, range 0-1; with `std`.
        std: per channel, range 0-1; with `mean`.
        preset: name of published constants.
        convention: which of the statistics' conventions.
        zero_std: what a constant channel does: "error", "one" or "eps:X".
        clip: bounds for the result.
        dtype: "float32", "float16", "float64", or "uint8" for quantized.
        layout: "chw" or "hwc".
        order: "rgb" or "bgr"; "bgr" for caffe, else "rgb".
        color: "rgb" repeats gray into three channels, "gray" converts colour.
        range: level of full intensity of 16-bit and float images; None is 65535 and raw units.
        nan: "error" refuses images with NaN or infinity, "skip" lets them through.

    Raises:
        UsageError: settings that cannot be.
        StatisticsFileError: not a statistics file.
    """
    made = build_transform(
        scheme,
        zero_std=zero_std,
        clip=clip,
        dtype=dtype,
        layout=layout,
        order=order,
        color=color,
        range=range,
        nan=nan,
    )
    constants = resolve_constants(made, stats=stats, mean=mean, std=std, preset=preset, convention=convention)
    if constants is None and needs_statistics(made):
        raise UsageError(f"{scheme} needs numbers: give stats, mean and std, or preset")
    return replace(made, constants=constants)


def build_transform(
    scheme: str,
    *,
    zero_std: str = "error",
    clip: tuple[float, float] | None = None,
    dtype: str = "float32",
    layout: str = "chw",
    order: str | None = None,
    color: str = "auto",
    range: int | None = None,
    nan: str = "error",
) -> Transform:
    """Make a transform that has no constants yet.

    Raises:
        UsageError: settings that cannot be.
    """
    name, settings = schemes.parse(scheme)
    if schemes.least_std(zero_std) is not None and not schemes.divides(name):
        raise UsageError(f"{name} divides by no std: leave --zero-std out")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    order = order or ("bgr" if name == "caffe" else "rgb")
    for what, value, known in (("layout", layout, ("chw", "hwc")), ("order", order, ("rgb", "bgr"))):
        if value not in known:
            raise UsageError(f"{what} {value!r}: choose from {', '.join(known)}")
    if nan not in ("error", "skip"):
        raise UsageError(f"nan {nan!r}: choose from error, skip")
    if nan == "skip" and dtype == "uint8":
        raise UsageError("nan skip: uint8 cannot hold NaN; choose a float dtype")
    if range is not None and range < 1:
        raise UsageError(f"range must be a positive value such as 255, 4095 or 65535, not {range}")
    if clip is not None and not clip[0] < clip[1]:
        raise UsageError(f"clip {clip[0]:g},{clip[1]:g}: give LO,HI with LO < HI")
    Reading(color=color)  # refuses an unknown one
    return Transform(
        scheme=name,
        settings=tuple(sorted(settings.items())),
        zero_std=zero_std,
        clip=clip,
        dtype=dtype,
        layout=layout,
        order=order,
        color=color,
        range=range,
        nan=nan,
    )


def needs_statistics(made: Transform) -> bool:
    """Whether a transform works with numbers of the whole dataset."""
    return made.scheme == "contrast" or dict(made.settings).get("over") == "dataset"


def resolve_constants(
    made: Transform,
    *,
    stats: "str | os.PathLike[str] | Summary | None" = None,
    mean: tuple[float, ...] | list[float] | None = None,
    std: tuple[float, ...] | list[float] | None = None,
    preset: str | None = None,
    convention: str = "pooled_population",
    reading: Reading | None = None,
) -> MapConstants | None:
    """Take the numbers that a transform asks for from where the user says; None where nothing is said.

    Args:
        made: the transform.
        stats: statistics file or `Summary`.
        mean: with `std`.
        std: with `mean`.
        preset: name of published constants.
        convention: which of the statistics' conventions.
        reading: how this run reads images, held against how the statistics' images were read.

    Raises:
        UsageError: two answers, an answer nobody asked for, or statistics that do not fit.
    """
    answers = [name for name, value in (("stats", stats), ("mean", mean), ("preset", preset)) if value is not None]
    if (mean is None) != (std is None):
        raise UsageError("mean and std go together")
    if not needs_statistics(made):
        if answers:
            raise UsageError(f"{made.scheme} takes no {answers[0]}: it needs no numbers of the dataset")
        if convention.replace("-", "_") != "pooled_population":
            raise UsageError(f"{made.scheme} takes no convention: it needs no numbers of the dataset")
        if reading is not None and reading.alpha == "weight":
            raise UsageError(
                f"alpha weight weighs statistics, and {made.scheme} has none: choose drop, composite or keep"
            )
        return None
    if len(answers) > 1:
        raise UsageError(f"{' and '.join(answers)} are two answers to one question: give one")
    percents = percents_of(made)
    if percents is not None and answers and answers != ["stats"]:
        raise UsageError(f"percentile:over=dataset needs stats, not {answers[0]}")
    if convention.replace("-", "_") != "pooled_population" and answers and answers != ["stats"]:
        raise UsageError(f"convention {convention} chooses among a statistics file's, not {answers[0]}")
    if stats is not None:
        summary = stats if isinstance(stats, Summary) else Summary.load(os.fspath(stats))
        name = "statistics" if isinstance(stats, Summary) else os.fspath(stats)
        settings: dict[str, Any] = {"color": made.color, "max_value": made.range}
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
        (name, schemes.settings(name), (function.__doc__ or "").splitlines()[0].rstrip("."))
        for name, function in schemes.SCHEMES.items()
    ]
    return listed, schemes.PRESETS


def percents_of(made: Transform) -> tuple[float, float] | None:
    """The two percentages whose percentiles over the dataset a transform needs."""
    settings = {**schemes.settings(made.scheme), **dict(made.settings)}
    if settings.get("over") != "dataset":
        return None
    return settings["lo"], settings["hi"]
