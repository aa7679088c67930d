"""Exporters for biomedical images: nnU-Net, OME-Zarr and the BioImage Model Zoo."""

import json

from normcli.constants.exporters import quote
from normcli.constants.exporters.values import DatasetConstants

_COLORS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}


def nnunet(constants: DatasetConstants) -> str:
    """Write foreground intensities of a dataset_fingerprint.json: values as SimpleITK reads them, with percentiles."""
    low, high = (constants.rounded(constants.stored(row), 2) for row in constants.extremes("nnunet"))
    below, median, above = (
        constants.rounded(constants.stored(row), 2) for row in constants.percentiles("0.5", "50", "99.5")
    )
    properties = {
        str(c): {
            "max": high[c],
            "mean": constants.stored_mean[c],
            "median": median[c],
            "min": low[c],
            "percentile_00_5": below[c],
            "percentile_99_5": above[c],
            "std": constants.stored_std[c],
        }
        for c in range(len(constants.channels))
    }
    config = {"_comment": _comment(constants), "foreground_intensity_properties_per_channel": properties}
    return json.dumps(config, indent=4) + "\n"


def omero(constants: DatasetConstants) -> str:
    """Write the rendering window of each channel of OME-Zarr: stored values, from the percentile 0.5 to 99.5."""
    low, high = constants.extremes("omero")
    starts, ends = constants.percentiles("0.5", "99.5")
    lows, highs, starts, ends = (
        constants.rounded(constants.stored(row), 2)
        for row in (_from_zero(constants, low), _to_white(constants, high), starts, ends)
    )
    channels = [
        {
            "active": True,
            "color": _COLORS.get(name, "FFFFFF"),
            "label": name,
            "window": {"min": lows[c], "max": highs[c], "start": starts[c], "end": ends[c]},
        }
        for c, name in enumerate(constants.channels)
    ]
    statistics = {"_comment": _comment(constants), "mean": constants.stored_mean, "std": constants.stored_std}
    return json.dumps({"omero": {"channels": channels, "version": "0.4"}, "normcli": statistics}, indent=2) + "\n"


def bioimageio(constants: DatasetConstants) -> str:
    """Write preprocessing of a model RDF 0.5: scale_linear to 0-1, then fixed mean and variance."""
    constants.require_nonzero_std("bioimageio")
    scaling = (
        ""
        if constants.is_raw
        else f"""\
  - id: scale_linear
    kwargs: {{gain: {quote.real(1 / constants.max_value)}, offset: 0.0}}
"""
    )
    mean, std = ([quote.real(value) for value in row] for row in (constants.unit_mean, constants.unit_std))
    numbers = f"mean: [{', '.join(mean)}], std: [{', '.join(std)}], axis: channel"
    return f"""\
# {constants.description}
# bioimage.io model RDF 0.5: of an input tensor of pixels as stored, {constants.stored_range}, {constants.channel_order}
preprocessing:
  - id: ensure_dtype
    kwargs: {{dtype: float32}}
{scaling}\
  - id: fixed_zero_mean_unit_variance
    kwargs: {{{numbers}}}
"""


def _comment(constants: DatasetConstants) -> str:
    order = quote.one_line(constants.channel_order)
    return f"normcli: {constants.description}; pixels as stored, {constants.stored_range}, {order}"


def _from_zero(constants: DatasetConstants, low: list[float]) -> list[float]:
    """Return the lower ends of sliders: 0, or the smallest value in raw units."""
    return low if constants.is_raw else [min(0.0, value) for value in low]


def _to_white(constants: DatasetConstants, high: list[float]) -> list[float]:
    """Return the upper ends of sliders: the value that maps to 1.0, or the largest value in raw units."""
    return high if constants.is_raw else [max(1.0, value) for value in high]
