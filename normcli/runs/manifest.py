"""The manifest `normcli.json`: the record of a finished run.

A manifest is one JSON object; every file's record is a line of its own, so that a million of them are
written and read one at a time.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from normcli.errors import UsageError
from normcli.options.shared import GEOMETRY_WHERE_USED
from normcli.runs.names import MANIFEST, WORK
from normcli.runs.validate_manifest import find_invalid_head_key, find_invalid_key
from normcli.sinks.sink import Record
from normcli.summary.settings_diff import describe_differences, differing_settings

SCHEMA = "normcli/apply/1"
NAME = MANIFEST
FILES = '"files": [\n'


def read(out: str | Path) -> tuple[Record, Iterator[Record]]:
    """Read a manifest: its head, and its records one at a time.

    Raises:
        UsageError: no such folder, no manifest in it, or one that is damaged or of a newer schema.
    """
    path = Path(out) / NAME
    lines: list[bytes] = []
    try:
        with path.open("rb") as file:
            for line in file:
                if line == FILES.encode():
                    head = _head(path, b"".join(lines) + b'"files": []}')
                    return head, _records(path, file.tell(), head)
                lines.append(line)
    except FileNotFoundError:
        half = (Path(out) / WORK).exists()
        why = "an unfinished run (--resume completes it)" if half else f"no {NAME}: normcli apply did not write it"
        raise UsageError(f"{out}: {why}") from None
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    head = _head(path, b"".join(lines))  # written anew by another program, or cut short
    return head, (_unfolded(path, record, head) for record in head["files"])


def _records(path: Path, at: int, head: Record) -> Iterator[Record]:
    with path.open("rb") as file:
        file.seek(at)
        for line in file:
            if line == b"]}\n":
                return
            try:
                record = json.loads(line.rstrip(b",\n"))
            except (ValueError, RecursionError):
                break
            yield _unfolded(path, record, head)
    raise UsageError(f"{path}: damaged manifest")


def _unfolded(path: Path, record: Any, head: Record) -> Record:
    """Return a record with its map: a map that many records share is in the head, under its number."""
    if isinstance(record, dict) and type(record.get("map")) is int:
        maps = head.get("maps", [])
        record["map"] = maps[record["map"]] if 0 <= record["map"] < len(maps) else None
    invalid_key = find_invalid_key(record, head["settings"])
    if invalid_key is not None:
        raise UsageError(
            f"{path}: damaged manifest, {invalid_key!r} is missing, of the wrong type, or leads out of the folder"
        )
    return dict(record)


def _head(path: Path, text: bytes) -> Record:
    try:
        head = json.loads(text)
        schema = head["schema"]
        if not isinstance(head["settings"], dict) or not isinstance(head["files"], list):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UsageError(f"{path}: not a manifest of normcli apply, or damaged") from None
    if schema != SCHEMA:
        raise UsageError(f"{path}: schema {schema}, this normcli reads {SCHEMA}")
    invalid_key = find_invalid_head_key(head)
    if invalid_key is not None:
        raise UsageError(f"{path}: damaged manifest, {invalid_key!r} is missing or of the wrong type")
    return dict(head)


def check_same_settings(out: str, theirs: Record, ours: Record) -> None:
    """Check that a run to be resumed had the same settings.

    Raises:
        UsageError: naming the settings that differ.
    """
    if not isinstance(theirs.get("settings"), dict):
        raise UsageError(f"{out} holds a damaged checkpoint: --force starts anew")
    earlier = {key: theirs["settings"].get(key) for key in {*ours["settings"], *GEOMETRY_WHERE_USED}}
    changes = describe_differences(differing_settings(earlier, ours["settings"]), first="was", second="now")
    for key, change in (("constants", "other statistics"), ("classes", "other classes, whose numbers shift")):
        if not changes and theirs.get(key) != ours.get(key):
            changes = change
    if changes:
        raise UsageError(
            f"{out} was written with other settings: {changes} (use the same, `force`, or another `output`)"
        )
