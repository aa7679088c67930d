"""Schemes of normalization: each maps an image by an affine, y = x*scale + shift per channel.

A scheme is one function of `maps` and one row of `registry`, which also parses `--scheme NAME:SETTINGS`.
"""

from normcli.kernels.affine import Affine, Values
from normcli.schemes.maps import (
    OF_DATASET,
    PRESETS,
    SCHEMES,
    Image,
    divides,
    least_std,
    parse,
    percents,
    preset,
    settings,
    window,
)

__all__ = [
    "OF_DATASET",
    "PRESETS",
    "SCHEMES",
    "Affine",
    "Image",
    "Values",
    "divides",
    "least_std",
    "parse",
    "percents",
    "preset",
    "settings",
    "window",
]
