"""Validation of records of a manifest or a checkpoint: every key that is used, and its type.

A manifest comes with a dataset, from anywhere: a name in it must not lead out of its folder, and nothing in it may
end a run otherwise than by one line.
"""

import base64
import math
import os
from collections.abc import Callable
from typing import Any

from normcli.sinks import DTYPES, OUTPUT_KINDS, holds_volumes

Record = dict[str, Any]
# the place of an image in the file that it was packed into
_PLACE = {
    **dict.fromkeys(("stack", "hdf5", "zarr"), ("row",)),
    "tar": ("shard", "offset"),
    "parquet": ("shard", "group", "row"),
}
_PIXELS = {"uint8", "uint16", "float32", "float64"}


def find_invalid_head_key(head: Record) -> str | None:
    """Return the first key of a manifest's head that is missing or invalid; None for a valid head."""
    settings = head.get("settings")
    if not isinstance(settings, dict):
        return "settings"
    checks: dict[str, Callable[[Any], bool]] = {
        "to": lambda v: isinstance(v, str) and v in OUTPUT_KINDS,
        "dtype": lambda v: v in (*DTYPES, "uint16"),
        "output_layout": lambda v: v in ("chw", "hwc"),
        "alpha": lambda v: isinstance(v, str),
        "nan": lambda v: isinstance(v, str),
        "scheme": lambda v: isinstance(v, str),
        "fill": lambda v: v is None or _fill(v),
    }
    invalid_key = next((key for key, check in checks.items() if not check(settings.get(key))), None)
    if invalid_key is not None:
        return invalid_key
    if not (head.get("constants") is None or isinstance(head["constants"], dict)):
        return "constants"
    shards = head.get("shards", [])
    if not (isinstance(shards, list) and all(map(_shard, shards))):
        return "shards"
    for key, check in _COUNTS.items():
        if key in head and not check(head[key]):
            return key
    maps = head.get("maps", [])
    if not (isinstance(maps, list) and all(isinstance(one, dict) for one in maps)):
        return "maps"
    return None


def find_invalid_key(record: Any, settings: Record) -> str | None:
    """Return the first key of a record that is missing or invalid; None for a valid record.

    >>> find_invalid_key({"name": "../../etc/cron.d/x", "found": True}, {})
    'name'
    """
    if not isinstance(record, dict):
        return "a record"
    names = _names(record)
    if names is None:
        return "name"
    if "error" in record:  # its name leads to no file
        return None if isinstance(record["error"], str) else "error"
    if not all(map(_inside, names)):
        return "name"
    if record.get("found"):
        return None
    if holds_volumes(settings):
        from normcli.runs.validate_volumes import find_invalid_volume_key

        return find_invalid_volume_key(record)
    shape = record.get("shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(is_count(n) and 0 < n < 1 << 31 for n in shape)):
        return "shape"
    checks: dict[str, Callable[[Any], bool]] = {
        "dtype": lambda v: isinstance(v, str) and v in _PIXELS,
        "map": lambda v: isinstance(v, dict) and _map(v, shape[2]),
        "exact": lambda v: isinstance(v, bool),
        "bytes": is_count,
        "digest": is_hexadecimal,
    }
    invalid_key = next((key for key, check in checks.items() if not check(record.get(key))), None)
    if invalid_key is not None:
        return invalid_key
    if not (is_count(record.get("orientation", 1)) and 1 <= record.get("orientation", 1) <= 8):
        return "orientation"
    invalid = record.get("invalid")
    if invalid is not None and not (
        isinstance(invalid, list) and all(map(is_count, invalid)) and len(invalid) == len(record["map"]["channels"])
    ):
        return "invalid"
    return next((key for key in _PLACE.get(settings["to"], ()) if not is_count(record.get(key))), None)


def find_invalid_shard_key(record: Record) -> str | None:
    """Return the first invalid key of a checkpoint's line of a shard; None for a valid one."""
    if "restart_from" in record:
        return None if is_count(record["restart_from"]) else "restart_from"
    invalid_key = next((key for key in ("finished_shard", "bytes") if not is_count(record.get(key))), None)
    return invalid_key or (None if isinstance(record.get("last"), bool) else "last")


def _names(record: Record) -> list[str] | None:
    """Return the name as text and, if it is not UTF-8, as decoded bytes; None if it is neither."""
    text, raw = record.get("name"), record.get("name_b64")
    if not isinstance(text, str):
        return None
    if raw is None:
        return [text]
    try:
        return [os.fsdecode(base64.b64decode(raw, validate=True))] if isinstance(raw, str) else None
    except ValueError:
        return None


def _inside(name: str) -> bool:
    """Return True if a name does not lead out of the folder it is appended to."""
    absolute = name.startswith("/") or os.path.isabs(name) or os.path.splitdrive(name)[0] != ""  # noqa: PTH117
    return name != "" and "\0" not in name and not absolute and ".." not in name.replace(os.sep, "/").split("/")


def _shard(shard: Any) -> bool:
    if not (isinstance(shard, dict) and isinstance(shard.get("name"), str) and _inside(shard["name"])):
        return False
    return is_count(shard.get("images")) and is_count(shard.get("bytes"))


def _map(entry: Record, wide: int) -> bool:
    channels, source = entry.get("channels"), entry.get("source")
    if not (isinstance(channels, list) and channels and all(isinstance(c, str) for c in channels)):
        return False
    if not (isinstance(source, list) and all(map(is_count, source)) and {*source} == {*range(min(wide, 1 << 16))}):
        return False  # every channel of the original is in the file: a shape of 10^6 channels takes no memory
    rows = (entry.get("scale"), entry.get("shift"), *([entry["outside"]] if "outside" in entry else []))
    if not all(isinstance(row, list) and all(map(is_finite, row)) for row in rows):
        return False
    if len(channels) != len(source) or any(len(row) != len(source) for row in rows):
        return False
    restore = entry.get("restore")
    return restore is None or (isinstance(restore, dict) and all(is_finite(restore.get(k)) for k in ("scale", "shift")))


def _fill(value: Any) -> bool:
    """Return True for "keep", "nan" or a finite number as text."""
    try:
        return value == "keep" or (isinstance(value, str) and not math.isinf(float(value)))
    except ValueError:
        return False


def is_count(value: Any) -> bool:
    """Return True for an integer from 0 to 2^63 - 1."""
    return type(value) is int and 0 <= value < 1 << 63


def is_finite(value: Any) -> bool:
    """Return True for a finite number."""
    return type(value) in (int, float) and abs(value) < 1e308 and math.isfinite(value)


def _counter(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_count, value.values()))


def is_hexadecimal(value: Any) -> bool:
    """Return True for hexadecimal digits."""
    try:
        return isinstance(value, str) and int(value, 16) >= 0
    except ValueError:
        return False


# what a finished run's head counts
_COUNTS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("images", "bytes", "values", "clipped", "invalid", "exact", "found", "looks_normalized"), is_count
    ),
    **dict.fromkeys(("failed", "skipped", "kinds"), _counter),
    "digest": is_hexadecimal,
    "complete": lambda v: isinstance(v, bool),
    "stack": lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_count, v)),
    "classes": lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v),
}
