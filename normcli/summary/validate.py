"""Checks of a statistics file: every key that is shown, of the type that it should have."""

import math
from collections.abc import Callable, Mapping
from typing import Any

REQUIRED_KEYS = (
    *("schema", "complete", "images", "failed", "skipped", "pixels", "channels", "max_value", "convention", "range"),
    *("channel_order", "mean", "std", "min", "max", "percentiles", "conventions", "composition", "failures", "skips"),
    *("shards", "forced", "settings", "provenance", "groups", "sample", "state"),
)


def find_invalid_key(document: Mapping[str, Any]) -> str | None:
    """Return the first key of the wrong type, length or value; None for a valid document.

    >>> find_invalid_key({"channels": ["L"], "mean": [0.5, 0.5]})
    'mean'
    """
    channels = document.get("channels")
    if not (isinstance(channels, list) and channels and all(isinstance(c, str) for c in channels)):
        return "channels"
    count = len(channels)
    checks: dict[str, Callable[[Any], bool]] = {
        "mean": lambda v: _row(v, count),
        "std": lambda v: _row(v, count),
        "min": lambda v: _row(v, count, gaps=True),
        "max": lambda v: _row(v, count, gaps=True),
        "images": _count,
        "failed": _count,
        "skipped": _count,
        "pixels": lambda v: _number(v) and v > 0,
        "complete": lambda v: isinstance(v, bool),
        "max_value": _max_value,
        "convention": lambda v: isinstance(v, str) and bool(v),
        "range": lambda v: v in ("0-1", "raw"),
        "channel_order": lambda v: isinstance(v, str) and bool(v),
        "percentiles": lambda v: _rows(v, count) and {"1", "50", "99"} <= set(v),
        "conventions": lambda v: isinstance(v, dict) and all(_convention(entry, count) for entry in v.values()),
        "composition": _composition,
        "failures": _counts,
        "skips": _counts,
        "shards": lambda v: v is None or _shards(v),
        "forced": lambda v: isinstance(v, list) and all(isinstance(entry, str) for entry in v),
        "settings": lambda v: isinstance(v, dict) and _settings(v),
        "provenance": lambda v: isinstance(v, dict),
        "groups": lambda v: isinstance(v, dict) and all(_group(entry, count) for entry in v.values()),
        "sample": lambda v: v is None or _sample(v, count),
        "state": lambda v: isinstance(v, dict) and isinstance(v.get("buckets"), list),
    }
    return next((key for key, check in checks.items() if key in document and not check(document[key])), None)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _max_value(value: Any) -> bool:
    return value is None or (_count(value) and value > 0)


def _row(value: Any, length: int, *, gaps: bool = False) -> bool:
    return isinstance(value, list) and len(value) == length and all(_number(v) or (gaps and v is None) for v in value)


def _rows(value: Any, length: int) -> bool:
    return isinstance(value, dict) and all(_row(row, length) for row in value.values())


def _convention(value: Any, length: int) -> bool:
    if not (isinstance(value, dict) and _row(value.get("mean"), length)):
        return False
    return "std" in value and (value["std"] is None or _row(value["std"], length))


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(_count(v) for v in value.values())


def _composition(value: Any) -> bool:
    if not (isinstance(value, dict) and {"mode", "depth", "format"} <= set(value)):
        return False
    return all(_count(v) or _counts(v) for v in value.values()) and all(
        isinstance(value[key], dict) for key in ("mode", "depth", "format")
    )


def _settings(value: Mapping[str, Any]) -> bool:
    return all(isinstance(value.get(key), str) for key in ("color", "alpha")) and (
        "max_value" in value and _max_value(value["max_value"])
    )


def _shards(value: Any) -> bool:
    if not isinstance(value, dict) or not _count(value.get("of")):
        return False
    parts = value.get("parts")
    if not (isinstance(parts, list) and all(_count(part) and 1 <= part <= value["of"] for part in parts)):
        return False
    return 0 < len(parts) == len(set(parts))


def _group(value: Any, length: int) -> bool:
    if not isinstance(value, dict):
        return False
    rows = all(_row(value.get(key), length) for key in ("mean", "std"))
    return rows and _count(value.get("images")) and _number(value.get("pixels"))


def _sample(value: Any, length: int) -> bool:
    if not (isinstance(value, dict) and _count(value.get("read")) and _count(value.get("of"))):
        return False
    return _number(value.get("confidence")) and all(
        value.get(key) is None or _intervals(value[key], length) for key in ("mean_interval", "std_interval")
    )


def _intervals(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(_row(pair, 2) for pair in value)
