"""Schemes of `schemes.curves` in a run: their constants, and the pixels of one image through them."""

import logging
from collections.abc import Mapping
from math import isnan
from typing import Any

import numpy as np

from normcli import images, schemes
from normcli.errors import StatisticsFileError, UsageError
from normcli.options.printing import parse_percentiles
from normcli.runs.count import NO_LABEL
from normcli.runs.transform import MapConstants, Transform
from normcli.schemes.nyul import Landmarks, percents, train
from normcli.summary import Summary
from normcli.summary.summary import channel_names

Array = np.ndarray[Any, Any]
log = logging.getLogger("normcli.apply")


def map_by_curve(
    transform: Transform,
    pixels: Array,
    source: tuple[int, ...],
    scales: tuple[tuple[float, float], ...],
    valid: Array | None,
    case: str | None,
) -> tuple[Array, float, float]:
    """Return the pixels (H,W,C) of the result, in floats, and the range that a quantized result covers.

    Args:
        transform: of a scheme of `CURVES`, with its constants.
        pixels: as stored.
        source: the channel of the pixels for each channel of the result.
        scales: as `Transform.map` takes them.
        valid: as `Transform.map` takes it.
        case: as `Transform.map` takes it.

    Raises:
        InputError: an image that the scheme cannot map.
    """
    curve = _curve(transform, pixels, source, scales, valid, case)
    out = np.empty((*pixels.shape[:2], len(source)), "f4" if transform.dtype == "float32" else "f8")
    low, high = np.inf, -np.inf
    for rows in images.row_slices(out):
        mapped = curve(_values(pixels[rows], source, scales))
        low, high = min(low, float(mapped.min())), max(high, float(mapped.max()))
        out[rows] = mapped
    return (out, 0.0, 1.0) if transform.scheme == "reinhard" else (out, low, high)


def _curve(
    transform: Transform,
    pixels: Array,
    source: tuple[int, ...],
    scales: tuple[tuple[float, float], ...],
    valid: Array | None,
    case: str | None,
) -> schemes.Curve:
    settings, constants = dict(transform.settings), transform.constants
    assert constants is not None, "constants are resolved before images are mapped"
    white = {"uint8": 255.0, "uint16": 65535.0}.get(pixels.dtype.name)
    if transform.max_value is not None and pixels.dtype != np.uint8:
        white = float(transform.max_value)
    if transform.scheme == "reinhard":
        every = _values(pixels, source, ()).reshape(-1, len(source))
        seen = every if valid is None else every[valid[:, :, list(source)].all(axis=2).reshape(-1)]
        image = schemes.Image(channel_names(len(source)), white, pixels=seen)
        numbers = {"mean": constants.mean, "std": constants.std, "zero_std": transform.zero_std}
        return schemes.SCHEMES["reinhard"](image, **settings, **numbers)  # type: ignore[no-any-return]
    landmarks = constants.landmarks
    assert landmarks is not None
    if landmarks.cases:
        unit = (white or 1.0) if not scales else float(transform.max_value or 1)
        # a channel of which no sample of the case is valid has no percentiles
        rows = [[0.0 if isnan(v) else v * unit for v in row] for row in landmarks.of_case(case or NO_LABEL)]
    else:
        rows = _own_percentiles(pixels, scales, valid, percents_of(settings))
    rows = rows if len(rows) == len(source) else [rows[c] for c in source]
    image = schemes.Image(channel_names(len(source)), white)
    numbers = {"landmarks": landmarks.standard, "percentiles": rows}
    return schemes.SCHEMES["nyul"](image, **settings, **numbers)  # type: ignore[no-any-return]


def _values(pixels: Array, source: tuple[int, ...], scales: tuple[tuple[float, float], ...]) -> Array:
    """Return the levels of each channel of the result, in the units of the scales where there are some."""
    levels = pixels if source == tuple(range(pixels.shape[2])) else pixels[:, :, list(source)]
    if not scales:
        return levels
    factors, offsets = np.array([scales[c] for c in source]).T
    return np.asarray(levels * factors + offsets)


def _own_percentiles(
    pixels: Array, scales: tuple[tuple[float, float], ...], valid: Array | None, of: tuple[float, ...]
) -> list[list[float]]:
    """Return the percentiles of each channel of an image, of its valid samples."""
    values = _values(pixels, tuple(range(pixels.shape[2])), scales)
    rows = []
    for c in range(values.shape[2]):
        column = values[:, :, c].reshape(-1) if valid is None else values[:, :, c][valid[:, :, c]]
        rows.append(np.percentile(column.astype(np.float64), of).tolist() if column.size else [0.0] * len(of))
    return rows


def percents_of(settings: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the percentages of the landmarks of scheme nyul, by its settings."""
    every = {**schemes.settings("nyul"), **settings}
    return percents(every["lo"], every["hi"])


def counting_options(scheme: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `stats` that a scheme of this name and these settings requires.

    Raises:
        UsageError: nyul of images, which need statistics of training images.
    """
    settings = {**schemes.settings(scheme), **settings}
    if scheme == "reinhard":
        return {"color": color_of(settings)}
    if settings["over"] == "image":
        raise UsageError("`scheme` nyul:over=image requires `stats` with a group for each image (stats --group-by .+)")
    return {"group_by": "label", "percentiles": percents_of(settings), "exact_percentiles": True}


def color_of(settings: Mapping[str, Any]) -> str:
    """Return the color mode of the statistics that scheme reinhard requires."""
    return "lab-tissue" if settings.get("mask") == "tissue" else "lab"


def with_curve(constants: MapConstants, summary: Summary, transform: Transform) -> MapConstants:
    """Return the constants of a scheme of `CURVES`, by those of the statistics for any scheme.

    Raises:
        UsageError: statistics of pixels in other units, without groups, or of a constant case.
    """
    settings = dict(transform.settings)
    if transform.scheme == "reinhard":
        color = color_of(settings)
        if summary.settings["color"] != color:
            raise UsageError(f"`scheme` reinhard requires statistics in L*a*b* (stats --color {color})")
        return constants._replace(channels=("R", "G", "B"), dtypes=(), scales=None, pooled=False)
    cases = percentiles_of_cases(summary, percents_of(settings))
    standard = [train((name, rows[c]) for name, rows in cases.items()) for c in range(len(summary.channels))]
    return constants._replace(landmarks=Landmarks(tuple(standard), {}), dtypes=(), scales=None, pooled=False)


def percentiles_of_cases(summary: Summary, of: tuple[float, ...]) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Return by group its percentiles, one row per channel, in the units of the summary.

    Raises:
        UsageError: no groups.
        StatisticsFileError: groups without counts.
    """
    names = parse_percentiles(of)
    if not summary.groups:
        raise UsageError(
            "`scheme` nyul requires statistics with a group for each case (stats --group-by label --exact-percentiles "
            f"--percentiles {','.join(names)})"
        )
    method = (summary.percentile_details or {}).get("method", "linear")
    extended = summary.with_percentiles(of, method=method)
    if not all(set(names) <= set(group.percentiles) for group in extended.groups.values()):
        raise StatisticsFileError("the state of these statistics is damaged: no counts of a group")
    if not all((group.percentile_details or {}).get("exact") for group in extended.groups.values()):
        log.warning(
            "percentiles of these cases are within 1/128 of their values (count with `exact_percentiles` and "
            "`percentiles` %s)",
            ",".join(names),
        )
    return {
        name: tuple(tuple(row) for row in zip(*(group.percentiles[percent] for percent in names), strict=True))
        for name, group in extended.groups.items()
    }


def with_cases(constants: MapConstants, summary: Summary, transform: Transform) -> MapConstants:
    """Return the constants of scheme nyul with the percentiles of the cases to map, where it maps by them."""
    settings = {**schemes.settings("nyul"), **dict(transform.settings)}
    assert constants.landmarks is not None
    if settings["over"] == "image":
        return constants
    cases = percentiles_of_cases(summary, percents_of(settings))
    return constants._replace(landmarks=constants.landmarks._replace(cases=cases))
