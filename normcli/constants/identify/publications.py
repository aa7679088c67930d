"""Remarks on constants by publications: presets of the same values, their convention, mistyped digits."""

from collections.abc import Sequence

from normcli.constants.parse_config import Number
from normcli.constants.presets import PRESETS

_SAME = 1e-6  # relative: numbers that went through float32


def find_preset(mean: Sequence[Number], std: Sequence[Number] | None) -> str:
    """Return the name of the published constants with exactly these values, in either range and order; "" if none."""
    for name, preset in PRESETS.items():
        if len(preset.mean) != len(mean) or (preset.std is None) != (std is None):
            continue
        for factor in (1.0, 255.0, 1 / 255):
            for step in (1, -1):
                pairs = zip((*preset.mean[::step], *(preset.std or ())[::step]), (*mean, *(std or ())), strict=True)
                if all(abs(p * factor - v.value) <= _SAME * abs(v.value) for p, v in pairs):
                    return name
    return ""


def describe_preset(name: str, verdict: str) -> list[str]:
    """Return remarks on published constants: convention and source; none for an empty name."""
    if not name:
        return []
    preset = PRESETS[name]
    lines = [f"published as {name}: {preset.convention.replace('_', ' ')}; {preset.source}"]
    if preset.seen:
        lines.append(f"a widely copied variant: {preset.seen}")
    if verdict == "none" and preset.convention != "fixed":
        lines.append(f"these images are not those of {name}, or were prepared otherwise")
    return lines


def suspect_typo(mean: Sequence[Number], std: Sequence[Number] | None) -> list[str]:
    """Return a remark if all numbers but one are those of published constants."""
    if std is None or len(mean) < 3:
        return []
    for name, preset in PRESETS.items():
        if preset.std is None or len(preset.mean) != len(mean):
            continue
        rows = [("mean", v, p) for v, p in zip(mean, preset.mean, strict=True)]
        rows += [("std", v, p) for v, p in zip(std, preset.std, strict=True)]
        wrong = [(row, v.value, p) for row, v, p in rows if abs(v.value - p) > _SAME]
        if len(wrong) == 1:
            row, value, right = wrong[0]
            return [f"{name} but for one {row}: {value:g} where it has {right:g}; mistyped?"]
    return []
