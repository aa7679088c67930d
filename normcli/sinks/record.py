"""Names in records: text where it is UTF-8, else its bytes."""

import base64
import os

from normcli import storage
from normcli.sinks.sink import Record


def name_fields(key: str, text: str) -> Record:
    """Return a name as JSON fields: as text, and its bytes under KEY_b64 where they are not UTF-8.

    >>> name_fields("name", "a.jpg")
    {'name': 'a.jpg'}
    """
    fields = storage.path_fields(text)
    return {key if field == "path" else f"{key}_b64": value for field, value in fields.items()}


def decode_name(record: Record, key: str) -> str:
    """Return the name that `name_fields` encoded, whatever its bytes."""
    if (raw := record.get(f"{key}_b64")) is not None:
        return os.fsdecode(base64.b64decode(raw))
    return str(record[key])


def output_shape(record: Record, layout: str) -> tuple[int, int, int]:
    """Return the shape of the array that was written for an image."""
    height, width, _ = record["shape"]
    if record.get("orientation", 1) >= 5:
        height, width = width, height
    count = len(record["map"]["channels"])
    return (count, height, width) if layout == "chw" else (height, width, count)
