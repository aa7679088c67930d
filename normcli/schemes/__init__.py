"""Schemes of normalization: each maps an image by an affine, y = x*scale + shift per channel, or by a curve.

A scheme is one function of `maps` and one row of its table, which also parses `--scheme NAME:SETTINGS`.
"""

from normcli.kernels.affine import Affine, Values
from normcli.schemes.curves import CURVES, Curve
from normcli.schemes.maps import (
    OF_DATASET,
    PRESETS,
    SCHEMES,
    Image,
    catalog,
    divides,
    least_std,
    parse,
    percents,
    preset,
    scaled,
    settings,
    window,
)

__all__ = [
    "CURVES",
    "OF_DATASET",
    "PRESETS",
    "SCHEMES",
    "Affine",
    "Curve",
    "Image",
    "Values",
    "catalog",
    "divides",
    "least_std",
    "parse",
    "percents",
    "preset",
    "scaled",
    "settings",
    "window",
]
