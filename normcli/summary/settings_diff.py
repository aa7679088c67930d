"""Settings of two runs compared, and the one sentence that names their differences."""

from collections.abc import Collection, Mapping
from typing import Any

Differences = dict[str, tuple[Any, Any]]


def differing_settings(a: Mapping[str, Any], b: Mapping[str, Any], *, ignore: Collection[str] = ()) -> Differences:
    """Return the settings whose values differ, each with the value of `a` and that of `b`, in order of name.

    A missing setting counts as None.

    >>> differing_settings({"resize": 256, "color": "rgb"}, {"color": "rgb"})
    {'resize': (256, None)}
    """
    keys = sorted({*a, *b} - {*ignore})
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def describe_differences(differences: Differences, *, first: str = "is", second: str = "and") -> str:
    """Return differences as one sentence part, for an error message.

    Args:
        differences: from `differing_settings`.
        first: word before the first value.
        second: word before the second value.

    >>> describe_differences({"resize": (256, None)}, first="was", second="now")
    'resize was 256, now none'
    >>> describe_differences({"resize": (256, None)})
    'resize is 256 and none'
    """
    comma = "" if second == "and" else ","
    parts = (f"{key} {first} {_text(a)}{comma} {second} {_text(b)}" for key, (a, b) in differences.items())
    return "; ".join(parts)


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
