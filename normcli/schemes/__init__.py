"""Schemes by name: `--scheme NAME:SETTINGS` read, and the published constants that `contrast` can use.

A scheme is one function of `maps` and one row here.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

from normcli.constants.presets import PRESETS as PUBLISHED
from normcli.constants.presets import Preset
from normcli.errors import UsageError, unknown
from normcli.kernels.affine import Affine, Values
from normcli.schemes import maps
from normcli.schemes.maps import Image, least_std

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
    "preset",
    "settings",
]

SCHEMES: dict[str, Callable[..., Affine]] = {
    scheme.__name__: scheme
    for scheme in (
        *(maps.unit, maps.signed, maps.contrast, maps.caffe),
        *(maps.zscore, maps.minmax, maps.percentile, maps.robust, maps.gcn),
    )
}
# the same affine for every image of a depth; the others look at the image
OF_DATASET = frozenset({"unit", "signed", "contrast", "caffe"})
# not given in --scheme NAME:SETTINGS: options of their own, or found from the statistics
_ELSEWHERE = {"contrast": {"mean", "std"}, "percentile": {"low", "high"}}


def settings(name: str) -> dict[str, Any]:
    """Settings that a scheme takes in `--scheme NAME:SETTINGS`, with their defaults, from its signature.

    >>> settings("zscore")
    {'per': 'channel', 'eps': 0.0}

    Raises:
        UsageError: no such scheme.
    """
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    elsewhere = _ELSEWHERE.get(name, set()) | {"zero_std"}
    parameters = list(inspect.signature(SCHEMES[name]).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.name not in elsewhere}


def divides(name: str) -> bool:
    """Whether a scheme divides by something that can be 0."""
    return "zero_std" in inspect.signature(SCHEMES[name]).parameters


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Read "NAME" or "NAME:SETTINGS": values in the order of the settings, or setting=value.

    >>> parse("percentile:2,98"), parse("zscore:per=image")
    (('percentile', {'lo': 2.0, 'hi': 98.0}), ('zscore', {'per': 'image'}))

    Raises:
        UsageError: no such scheme or setting, or a value of the wrong kind.
    """
    name, colon, rest = text.partition(":")
    known = settings(name)
    given: dict[str, Any] = {}
    words = rest.split(",") if colon else []
    if isinstance(known.get("mean"), tuple) and len(words) > 1 and "=" not in ",".join(words[1:]):
        words = [rest]  # caffe:1,2,3 and caffe:mean=1,2,3
    for position, word in enumerate(words):
        key, equals, value = word.partition("=")
        if not equals:
            if position >= len(known):
                raise UsageError(f"scheme {text!r}: {name} takes {', '.join(known) or 'no settings'}")
            key, value = list(known)[position], word
        key = key.strip().replace("-", "_")
        if key not in known:
            raise unknown(f"setting of {name}", key, known) if known else UsageError(f"{name} takes no settings")
        given[key] = _value(name, key, value, known[key])
    if given.get("over", "image") not in ("image", "dataset"):
        raise UsageError(f"over {given['over']!r}: choose from image, dataset")
    if given.get("per", "channel") not in ("channel", "image"):
        raise UsageError(f"per {given['per']!r}: choose from channel, image")
    return name, given


def _value(name: str, key: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text.strip()
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{name}: {key} must be a number, not {text!r}")
    if isinstance(default, tuple):
        if len(values) != len(default):
            raise UsageError(f"{name}: {key} must be {len(default)} numbers, not {len(values)}")
        return values
    return values[0]


# what `contrast` can use: constants in the range and order that images are in here
PRESETS: dict[str, Preset] = {
    name: found
    for name, found in PUBLISHED.items()
    if found.std is not None and found.range == "0-1" and found.order in ("RGB", "L")
}


def preset(name: str) -> Preset:
    """Find published constants by name.

    >>> preset("mnist").std
    (0.3081,)

    Raises:
        UsageError: no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
