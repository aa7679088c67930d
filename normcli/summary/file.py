"""The statistics file: one JSON object, read with every key checked and written with one line per key."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normcli import storage
from normcli.errors import InputError, StatisticsFileError
from normcli.summary.validate import REQUIRED_KEYS, find_invalid_key

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


def to_text(document: Mapping[str, Any]) -> str:
    """Return a statistics file's text: one JSON object, one line per key, byte-identical for the same data."""
    lines = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in document.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _reject_constant(name: str) -> Any:
    raise ValueError(name)
