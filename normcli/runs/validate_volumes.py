"""Validation of the records of volumes in a manifest, which may come from anywhere."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from normcli.runs.validate_manifest import is_count, is_finite, is_hexadecimal

Record = dict[str, Any]
_MOST_ARRAYS = 100_000


def find_invalid_volume_key(record: Record) -> str | None:
    """Return the first key of a container's record that is missing or invalid; None for a valid record."""
    if not isinstance(record.get("header", ""), str):
        return "header"
    checks: dict[str, Callable[[Any], bool]] = {
        "bytes": is_count,
        "exact": lambda v: isinstance(v, bool),
        "digest": is_hexadecimal,
        "arrays": lambda v: isinstance(v, list) and 0 < len(v) <= _MOST_ARRAYS,
    }
    invalid_key = next((key for key, check in checks.items() if not check(record.get(key))), None)
    return invalid_key or next((key for key in map(_invalid_key, record["arrays"]) if key is not None), None)


def _invalid_key(array: Any) -> str | None:
    if not isinstance(array, dict):
        return "arrays"
    shape = array.get("shape")
    if not (isinstance(shape, list) and len(shape) >= 2 and all(is_count(n) and n > 0 for n in shape)):
        return "shape"
    channel = array.get("channel")
    if channel is not None and not (is_count(channel) and channel < len(shape)):
        return "channel"
    wide = 1 if channel is None else shape[channel]
    numbers = ("scale", "shift", *(["outside"] if "outside" in array else []))
    checks: dict[str, Callable[[Any], bool]] = {
        "path": lambda v: isinstance(v, str) and ".." not in v.split("/") and not v.startswith("/") and "\0" not in v,
        "dtype": _dtype,
        "stored": _dtype,
        "channels": lambda v: isinstance(v, list) and len(v) == wide and all(isinstance(one, str) for one in v),
        **dict.fromkeys(numbers, lambda v: isinstance(v, list) and len(v) == wide and all(map(is_finite, v))),
        "missing": lambda v: isinstance(v, list) and all(map(_number_text, v)),
        "background": _number_text,
        "packing": _packing,
        **dict.fromkeys(("values", "clipped", "kept", "invalid"), is_count),
        "exact": lambda v: isinstance(v, bool),
    }
    if not isinstance(array.get("level", False), bool):
        return "level"
    invalid_key = next((key for key, check in checks.items() if not check(array.get(key))), None)
    if invalid_key is None and 0 in array["scale"]:
        return "scale"
    same_size = invalid_key is not None or np.dtype(array["dtype"]).itemsize == np.dtype(array["stored"]).itemsize
    return invalid_key if same_size else "stored"


def _packing(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _packed(one) if isinstance(one, dict) else isinstance(one, str | int | float | list) for one in value.values()
    )


def _packed(value: Record) -> bool:
    """Return True for a typed attribute."""
    values, shape = value.get("values"), value.get("shape")
    return (
        _dtype(value.get("dtype"))
        and isinstance(values, list)
        and all(map(_number_text, values))
        and isinstance(shape, list)
        and all(map(is_count, shape))
        and math.prod(shape) == len(values)
    )


def _dtype(value: Any) -> bool:
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str) and dtype.kind in "uifb" and dtype.itemsize <= 8


def _number_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) < 400 and (float(value) is not None)
    except ValueError:
        return False
