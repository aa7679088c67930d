"""The schemes by name, their settings, and the published constants that `contrast` can use."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from normcli.constants.presets import PRESETS as PUBLISHED
from normcli.constants.presets import Preset
from normcli.errors import UsageError, unknown
from normcli.kernels.affine import Affine
from normcli.schemes import maps

SCHEMES: dict[str, Callable[..., Affine]] = {
    scheme.__name__: scheme
    for scheme in (
        *(maps.unit, maps.signed, maps.contrast, maps.caffe),
        *(maps.zscore, maps.minmax, maps.percentile, maps.robust, maps.gcn),
    )
}
ALIASES = {"standardize": "contrast"}
# the same affine for every image of a depth; the others depend on the image
OF_DATASET = frozenset({"unit", "signed", "contrast", "caffe"})
# parameters that are not settings: options of their own, or computed from the statistics
_NO_SETTINGS = {"contrast": {"mean", "std"}, "percentile": {"low", "high"}}


def settings(name: str) -> dict[str, Any]:
    """Return the settings of a scheme in `--scheme NAME:SETTINGS`, with their defaults, from its signature.

    >>> settings("zscore")
    {'per': 'channel', 'eps': 0.0}

    Raises:
        UsageError: no such scheme.
    """
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    others = _NO_SETTINGS.get(name, set()) | {"zero_std"}
    parameters = list(inspect.signature(SCHEMES[name]).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.name not in others}


def divides(name: str) -> bool:
    """Return True if a scheme divides by something that can be 0."""
    return "zero_std" in inspect.signature(SCHEMES[name]).parameters


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Parse "NAME" or "NAME:SETTINGS": values in the order of the settings, or setting=value.

    >>> parse("percentile:2,98"), parse("zscore:per=image"), parse("standardize")
    (('percentile', {'lo': 2.0, 'hi': 98.0}), ('zscore', {'per': 'image'}), ('contrast', {}))

    Raises:
        UsageError: no such scheme or setting, or a value of the wrong kind.
    """
    if not isinstance(text, str):
        raise UsageError(f"`scheme`: must be a name such as contrast, not {text!r:.60}")
    name, colon, rest = text.partition(":")
    name = ALIASES.get(name, name)
    defaults = settings(name)
    values: dict[str, Any] = {}
    parts = rest.split(",") if colon else []
    if isinstance(defaults.get("mean"), tuple) and len(parts) > 1 and "=" not in ",".join(parts[1:]):
        parts = [rest]  # caffe:1,2,3 and caffe:mean=1,2,3
    for position, part in enumerate(parts):
        key, equals, value = part.partition("=")
        if not equals:
            if position >= len(defaults):
                raise UsageError(f"`scheme`: {name} has {_count_of(defaults)}, not {len(parts)}: {text!r}")
            key, value = list(defaults)[position], part
        key = key.strip().replace("-", "_")
        if key not in defaults:
            if not defaults:
                raise UsageError(f"`scheme`: {name} has no settings")
            raise unknown(f"setting of {name}", key, defaults)
        values[key] = _value(name, key, value, defaults[key])
    for key, choices in (("over", ("image", "dataset")), ("per", ("channel", "image"))):
        if values.get(key, choices[0]) not in choices:
            raise UsageError(f"`scheme`: {key} of {name} must be one of {', '.join(choices)}, not {values[key]!r}")
    return name, values


def _count_of(settings: dict[str, Any]) -> str:
    if not settings:
        return "no settings"
    return f"{len(settings)} setting{'s' * (len(settings) > 1)} ({', '.join(settings)})"


def _value(name: str, key: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text.strip()
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"`scheme`: {key} of {name} must be a number, not {text!r}")
    if isinstance(default, tuple):
        if len(values) != len(default):
            raise UsageError(f"`scheme`: {key} of {name} must be {len(default)} numbers, not {len(values)}")
        return values
    return values[0]


# constants that `contrast` can use: in range 0-1 and the channel order of decoded images
PRESETS: dict[str, Preset] = {
    name: constants
    for name, constants in PUBLISHED.items()
    if constants.std is not None and constants.range == "0-1" and constants.order in ("RGB", "L")
}


def preset(name: str) -> Preset:
    """Return published constants by name.

    >>> preset("mnist").std
    (0.3081,)

    Raises:
        UsageError: no such preset.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]
