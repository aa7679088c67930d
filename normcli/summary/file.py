"""The statistics file: one JSON object, of which every key is checked for type, length and value when it is read."""

import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from normcli import storage
from normcli.errors import InputError, StatisticsFileError
from normcli.options.field import LIBRARIES, MAX_SHARDS, Color, is_plain_line

REQUIRED_KEYS = (
    *("schema", "complete", "images", "failed", "skipped", "pixels", "channels", "max_value", "convention", "range"),
    *("channel_order", "mean", "std", "min", "max", "percentiles", "conventions", "composition", "failures", "skips"),
    *("shards", "forced", "settings", "provenance", "groups", "sample", "inputs", "state"),
)
NO_DIGEST = "0" * 32  # of images that are not known
INPUT_COUNTS = ("composition", "failed", "skipped", "digest")  # of a tally's state, those of files instead of pixels

CHANNEL_NAME = r"[A-Za-z0-9_.+\[\]-]{1,128}"
CONVENTIONS_OF_MEAN = ("pooled_population", "equal_image_weights", "equal_group_weights", "equal_samples_per_case")
DTYPES = ("uint8", "uint16", "float")
# notes of which a composition has the number of images, always or where there are some; others are by a value
COUNTED_NOTES = ("alpha", "transparent", "exif", "rotated", "icc", "multi-frame", "damaged", "depth-reduced", "cmyk")
RARE_NOTES = (
    *("lossy-mask", "turned-mask", "bands", "mask-page", "unread-mask", "unread-nodata", "unread-scale"),
    *("missing-planes", "labels"),
)
_NESTED_NOTES = ("mode", "depth", "format", "names", "scale", "nodata")
_FORCED = r"settings\.[a-z_]+|shards|images"
_SIDES = r"[1-9][0-9]{0,7}x[1-9][0-9]{0,7}"
_RESIZE = rf"{_SIDES}|([1-9][0-9]{{0,7}},)?longest:[1-9][0-9]{{0,7}}"
_LEVEL = r"-?[0-9]{1,20}([.][0-9]{1,20})?(e[+-]?[0-9]{1,3})?"
_PAD = rf"{_LEVEL}(,{_LEVEL})*(:corner)?"
_PERCENTILE = r"iqr|[0-9]{1,3}(\.[0-9]{1,40})?"
_ABSENT = object()
_MAX_COUNT = 2**63 - 1


def find_invalid_key(document: Mapping[str, Any]) -> str | None:
    """Return the first key of the wrong type, length or value; None for a valid document.

    >>> find_invalid_key({"channels": ["L"], "mean": [0.5, 0.5]})
    'mean'
    """
    channels = document.get("channels")
    if not (isinstance(channels, list) and channels and all(map(_is_channel_name, channels))):
        return "channels"
    from normcli.summary.summary import channel_order  # which imports this module

    count = len(channels)
    gaps = 0 in pixels if isinstance(pixels := document.get("pixels"), list) else False
    checks: dict[str, Callable[[Any], bool]] = {
        "mean": lambda v: _row(v, count, gaps=gaps),
        "std": lambda v: _spreads(v, count, gaps=gaps),
        "min": lambda v: _row(v, count, gaps=True),
        "max": lambda v: _row(v, count, gaps=True),
        "images": _count,
        "failed": _count,
        "skipped": _count,
        "pixels": lambda v: _pixels(v, count),
        "invalid": lambda v: _row(v, count) and min(v) >= 0,
        "complete": lambda v: isinstance(v, bool),
        "max_value": _max_value,
        "convention": lambda v: v in CONVENTIONS_OF_MEAN,
        "range": lambda v: v in ("0-1", "raw"),
        "channel_order": lambda v: v == channel_order(channels),
        "percentiles": lambda v: _percentiles(v, count, gaps=gaps),
        "percentile_details": lambda v: _percentile_details(v, count),
        "conventions": lambda v: _conventions(v, count, gaps=gaps),
        "composition": _composition,
        "failures": _counts,
        "skips": _counts,
        "shards": lambda v: v is None or _shards(v),
        "forced": lambda v: isinstance(v, list) and all(_matches(_FORCED, entry) for entry in v),
        "settings": lambda v: isinstance(v, dict) and _settings(v),
        "provenance": _provenance,
        "groups": lambda v: isinstance(v, dict) and all(_group(entry, count) for entry in v.values()),
        "sample": lambda v: v is None or _sample(v, count),
        "inputs": _inputs,
        "state": _state,
    }
    invalid = next((key for key, check in checks.items() if key in document and not check(document[key])), None)
    return _contradiction(document) if invalid is None else invalid


def _contradiction(document: Mapping[str, Any]) -> str | None:
    """Return the key of a number that no values from `min` to `max` have; None where all can be.

    >>> _contradiction({"min": [0.0], "max": [1.0], "mean": [123.7], "std": [0.2]})
    'mean'
    """
    keys = ("min", "max", "mean", "std")
    for low, high, mean, std in zip(*(document.get(key, ()) for key in keys), strict=False):
        if None in (low, high, mean, std):
            continue
        slack = 1e-9 * (abs(low) + abs(high)) + 5e-324  # of roundings, by scales of bands
        if not low <= high:
            return "max"
        if not low - slack <= mean <= high + slack:
            return "mean"
        if not std <= (high - low) / 2 + slack:
            return "std"
    return None


def _matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_channel_name(value: Any) -> bool:
    """Return True for a plain word; the usual ones without the pattern, which takes 0.2 ms to compile."""
    return isinstance(value, str) and (
        (len(value) <= 64 and value.isascii() and value.isalnum()) or _matches(CHANNEL_NAME, value)
    )


def _is_identifier(value: Any) -> bool:
    """Return True for a name of lower-case letters, digits and underscores that begins with a letter."""
    return isinstance(value, str) and value.isascii() and value.isidentifier() and value.islower() and value[0] != "_"


def _number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer such as 10^400
        return False


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT


def _max_value(value: Any) -> bool:
    return value is None or (_count(value) and value > 0)


def _row(value: Any, length: int, *, gaps: bool = False) -> bool:
    return isinstance(value, list) and len(value) == length and all(_number(v) or (gaps and v is None) for v in value)


def _spreads(value: Any, length: int, *, gaps: bool = False) -> bool:
    return _row(value, length, gaps=gaps) and all(v is None or v >= 0 for v in value)


def _pixels(value: Any, length: int) -> bool:
    """Return True for a positive number, or one per channel, not all of which are 0."""
    if isinstance(value, list):
        return _row(value, length) and min(value) >= 0 < max(value)
    return _number(value) and value > 0


def _rows(value: Any, length: int, *, gaps: bool) -> bool:
    return isinstance(value, dict) and all(_row(row, length, gaps=gaps) for row in value.values())


def _conventions(value: Any, length: int, *, gaps: bool) -> bool:
    if not (isinstance(value, dict) and all(map(_is_identifier, value))):
        return False
    return all(_convention(entry, length, gaps=gaps) for entry in value.values())


def _convention(value: Any, length: int, *, gaps: bool) -> bool:
    if not (isinstance(value, dict) and _row(value.get("mean"), length, gaps=gaps)):
        return False
    return "std" in value and (value["std"] is None or _spreads(value["std"], length, gaps=gaps))


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(is_plain_line(name) and _count(v) for name, v in value.items())


def _composition(value: Any) -> bool:
    if not (isinstance(value, dict) and {"mode", "depth", "format"} <= set(value)):
        return False
    single = {note.replace("-", "_") for note in (*COUNTED_NOTES, *RARE_NOTES)} | {"gray", "color", "not_finite_pixels"}
    checks = {**dict.fromkeys(single, _count), **dict.fromkeys(_NESTED_NOTES, _counts)}
    return all(
        is_plain_line(name) and (checks[name](v) if name in checks else _count(v) or _counts(v))
        for name, v in value.items()
    )


def _settings(value: Mapping[str, Any]) -> bool:
    """Return True for settings that runs record: known ones by their own rule, others as plain values."""
    if not {"color", "alpha", "max_value"} <= set(value):
        return False
    checks: dict[str, Callable[[Any], bool]] = {
        "color": lambda v: v in get_args(Color),
        "alpha": lambda v: v in ("drop", "weight", "mask", "keep") or (is_plain_line(v) and v.startswith("composite:")),
        "strict": lambda v: isinstance(v, bool),
        **_GEOMETRY_CHECKS,
        "max_value": _max_value,
        "nan": lambda v: v in ("error", "skip"),
        "weight": lambda v: v in ("pixel", "image", "group", "case"),
        "mask": lambda v: isinstance(v, bool),
        "nodata": is_plain_line,
        "labels": is_plain_line,
        "sample": lambda v: isinstance(v, dict) and all(_plain(entry) for entry in v.values()),
        "shard": _shards,
    }
    return all(_is_identifier(name) and checks.get(name, _plain)(entry) for name, entry in value.items())


_GEOMETRY_CHECKS: dict[str, Callable[[Any], bool]] = {
    "resize": lambda v: _max_value(v) or _matches(_RESIZE, v),
    "center_crop": lambda v: _max_value(v) or _matches(_SIDES, v),
    "interpolation": lambda v: v in ("bicubic", "lanczos", "nearest"),
    "pad": lambda v: _matches(_PAD, v),
    "like": lambda v: v in LIBRARIES[1:],
}


def is_geometry(settings: Mapping[str, Any]) -> bool:
    """Return True if settings have a resize or a crop, and everything about it is as runs record it."""
    values = {key: settings[key] for key in _GEOMETRY_CHECKS if settings.get(key) is not None}
    return bool({"resize", "center_crop"} & set(values)) and all(
        _GEOMETRY_CHECKS[key](value) for key, value in values.items()
    )


def _plain(value: Any, depth: int = 0) -> bool:
    """Return True for null, a boolean, a number, one line of text, or a list or an object of these."""
    if isinstance(value, list):
        return depth < 3 and all(_plain(entry, depth + 1) for entry in value)
    if isinstance(value, dict):
        return depth < 3 and all(is_plain_line(name) and _plain(entry, depth + 1) for name, entry in value.items())
    return value is None or isinstance(value, bool) or _number(value) or is_plain_line(value)


def _provenance(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    stamp = value.get("stamp", {})
    texts = isinstance(stamp, dict) and all(isinstance(entry, str) for entry in stamp.values())
    return texts and all(is_plain_line(name) and is_plain_line(v) for name, v in value.items() if name != "stamp")


def _inputs(value: Any) -> bool:
    if not (isinstance(value, dict) and set(value) == set(INPUT_COUNTS)):
        return False
    *counts, digest = (value[name] for name in INPUT_COUNTS)
    return all(map(_counts, counts)) and _matches("[0-9a-f]{32}", digest)


def _state(value: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(value.get("buckets"), list) and value["buckets"]):
        return False
    return all(isinstance(bucket, dict) and bucket.get("dtype") in DTYPES for bucket in value["buckets"])


def _shards(value: Any) -> bool:
    if not isinstance(value, dict) or not _count(value.get("of")) or value["of"] > MAX_SHARDS:
        return False
    parts = value.get("parts")
    if not (isinstance(parts, list) and all(_count(part) and 1 <= part <= value["of"] for part in parts)):
        return False
    return 0 < len(parts) == len(set(parts))


def _group(value: Any, length: int) -> bool:
    if not isinstance(value, dict):
        return False
    pixels = value.get("pixels")
    gaps = isinstance(pixels, list) and 0 in pixels
    rows = _row(value.get("mean"), length, gaps=gaps) and _spreads(value.get("std"), length, gaps=gaps)
    parts = _percentiles(value.get("percentiles"), length, gaps=gaps)
    parts = parts and _conventions(value.get("conventions"), length, gaps=gaps)
    details = value.get("percentile_details", _ABSENT)
    parts = parts and (details is _ABSENT or _percentile_details(details, length))
    return rows and parts and _count(value.get("images")) and _pixels(pixels, length)


def _percentiles(value: Any, length: int, *, gaps: bool) -> bool:
    names = isinstance(value, dict) and all(map(_percentile, value))
    return names and _rows(value, length, gaps=gaps) and {"1", "50", "99"} <= set(value)


def _percentile(name: Any) -> bool:
    if isinstance(name, str) and name.isascii() and name.isdigit() and len(name) <= 3:
        return int(name) <= 100
    return _matches(_PERCENTILE, name) and (name == "iqr" or float(name) <= 100)


def _percentile_details(value: Any, length: int) -> bool:
    from normcli.options.printing import PERCENTILE_METHODS

    if not (isinstance(value, dict) and value.get("method") in PERCENTILE_METHODS):
        return False
    requested, exact, errors = value.get("requested"), value.get("exact"), value.get("error", {})
    if not (isinstance(requested, list) and all(map(_percentile, requested)) and isinstance(exact, bool)):
        return False
    return _rows(errors, length, gaps=False) and all(map(_percentile, errors)) and bool(errors) != exact


def _sample(value: Any, length: int) -> bool:
    if not (isinstance(value, dict) and _count(value.get("read")) and _count(value.get("of"))):
        return False
    return _number(value.get("confidence")) and all(
        value.get(key) is None or _intervals(value[key], length) for key in ("mean_interval", "std_interval")
    )


def _intervals(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(_row(pair, 2) for pair in value)


SCHEMA = "normcli/stats/2"
SCHEMA_FILE = Path(__file__).with_name("schema.json")


def read_document(path: str | Path) -> dict[str, Any]:
    """Read and check a statistics file, a pipe, or stdin as "-".

    Raises:
        StatisticsFileError: missing, not a statistics file, damaged, or of another schema.
    """
    stdin = str(path) == "-"
    try:
        data = sys.stdin.buffer.read() if stdin else storage.read_stream(path)
    except InputError as error:
        if os.path.isdir(path):  # noqa: PTH112
            raise StatisticsFileError(f"{path}: a folder, not a statistics file (normcli stats makes one)") from None
        raise StatisticsFileError(f"{path}: {error}") from None
    return parse_document(data, "stdin" if stdin else str(path))


def parse_document(text: str | bytes, name: str) -> dict[str, Any]:
    """Parse and check the text of a statistics file; `name` is for the errors.

    Raises:
        StatisticsFileError: not a statistics file, damaged, or of another schema.
    """
    try:
        document = json.loads(text, parse_constant=_reject_constant, parse_float=_finite_float)
    except (ValueError, RecursionError):
        raise StatisticsFileError(f"{name}: not a statistics file, or cut short (not JSON)") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or not schema.startswith("normcli/stats/"):
        raise StatisticsFileError(f"{name}: not a statistics file (no normcli schema)")
    if schema == "normcli/stats/1":
        raise StatisticsFileError(
            f"{name}: schema {schema} of an older normcli (recount: normcli stats SOURCE... -o FILE)"
        )
    if schema != SCHEMA:
        raise StatisticsFileError(f"{name}: schema {schema[:40]!a}, this normcli reads {SCHEMA} (update normcli)")
    missing = [key for key in REQUIRED_KEYS if key not in document]
    if missing:
        raise StatisticsFileError(f"{name}: damaged statistics file, {', '.join(missing)} missing")
    invalid = find_invalid_key(document)
    if invalid is not None:
        raise StatisticsFileError(f"{name}: damaged statistics file, {invalid!r} of the wrong type, length or value")
    return dict(document)


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _reject_constant(name: str) -> Any:
    raise ValueError(name)
