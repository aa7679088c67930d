"""The checkpoint of `stats --resume`: counts so far, by which a killed run resumes.

One line a second or so: the items, and their exact counts. A line is used again only where the listing
has the same items, unchanged, in the same order; so files that were added, removed or changed in between are counted
as if there had been no checkpoint.
"""

import base64
import hashlib
import json
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from normcli.errors import UsageError
from normcli.runs.checkpoint import SCHEMA, CheckpointLog, Entry, inflate
from normcli.runs.count import PartialResult
from normcli.runs.loop import Replay
from normcli.sources import Item, Skipped
from normcli.summary.settings_diff import describe_differences, differing_settings

_SECONDS = 1.0  # of work between two lines: what a kill loses


class _Line(NamedTuple):
    """A line of the log: its offset, the number of its items and their digest."""

    offset: int
    inputs: int
    items: str


class StatsCheckpoint:
    """An open checkpoint.

    Args:
        path: its file; made where it is missing.
        settings: everything that the counts depend on; they must be those of the checkpoint.

    Raises:
        UsageError: a checkpoint of other settings.
        OutputError: it cannot be written.
        NormcliError: another run is writing it.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self._log = CheckpointLog(path)
        self._lines: dict[bytes, list[_Line]] = {}
        self._pending, self._marks, self._since = PartialResult(), list[bytes](), time.monotonic()
        try:
            self._read(json.loads(json.dumps(dict(settings))))
        except BaseException:
            self._log.close()
            raise

    def close(self) -> None:
        """Close the checkpoint; it stays for a later run."""
        self._log.close()

    def remove(self) -> None:
        """Remove the checkpoint: the run is complete."""
        self._log.close()
        Path(self._log.path).unlink(missing_ok=True)

    def _read(self, settings: dict[str, Any]) -> None:
        head: Entry | None = None
        for number, (offset, entry) in enumerate(self._log.entries()):
            if number == 0:
                head = {} if entry is None else entry
                _check(head, settings, self._log.path)
            elif entry is not None and _is_valid(entry):
                line = _Line(offset, entry["inputs"], entry["items"])
                self._lines.setdefault(bytes.fromhex(entry["first"]), []).append(line)
        if head is None:
            self._log.begin({"settings": settings})

    def skip_done(self, items: Iterator[Item | Skipped]) -> Iterator[Item | Skipped | Replay[PartialResult]]:
        """Replace the items that a line is of by the line's result."""
        ahead: deque[tuple[Item | Skipped, bytes]] = deque()

        def fill(count: int) -> bool:
            while len(ahead) < count and (item := next(items, None)) is not None:
                ahead.append((item, _mark(item)))
            return len(ahead) >= count

        while fill(1):
            match = None
            for line in self._lines.get(ahead[0][1], ()):
                if fill(line.inputs) and _digest([ahead[i][1] for i in range(line.inputs)]) == line.items:
                    match = line
                    break
            if match is None:
                yield ahead.popleft()[0]
            else:
                for _ in range(match.inputs):
                    ahead.popleft()
                yield Replay(partial(self._load, match.offset))

    def _load(self, offset: int) -> PartialResult:
        entry = self._log.read(offset)
        try:
            assert entry is not None, "the line was checked when the log was opened"
            return PartialResult.from_state(json.loads(inflate(base64.b64decode(entry["counts"]))))
        except Exception as error:  # its checksum is right and its counts are not: no write that was cut short
            raise UsageError(
                f"{self._log.path} is damaged ({type(error).__name__}); delete it to start again"
            ) from None

    def on_submit(self, batch: list[Item | Skipped]) -> list[bytes]:
        """Return the digests of a batch's items, before any of it is read."""
        return [_mark(item) for item in batch]

    def record(self, token: list[bytes] | None, result: PartialResult) -> None:
        """Record the result of a batch: pending for a second, then written."""
        if token is None or not all(failure.is_lasting for failure in result.failures):
            self.flush()
            return
        marks, self._marks = self._marks, []  # a signal may interrupt the addition, and the end of the run flushes
        self._pending.add(result)
        self._marks = marks + token
        if time.monotonic() - self._since >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the pending results."""
        marks, self._marks = self._marks, []
        if marks:
            counts = base64.b64encode(zlib.compress(json.dumps(self._pending.state()).encode(), 1)).decode()
            first, items = marks[0].hex(), _digest(marks)
            self._log.append({"inputs": len(marks), "first": first, "items": items, "counts": counts})
            self._log.flush(durable=True)
        self._pending, self._since = PartialResult(), time.monotonic()


def _mark(item: Item | Skipped) -> bytes:
    """Return a digest of an item's name, version and label."""
    load = item.load if isinstance(item, Item) else None
    version = load.fingerprint() if load is not None and hasattr(load, "fingerprint") else ""
    label = item.label if isinstance(item, Item) else item.reason
    text = f"{item.key}\0{version}\0{label}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).digest()


def _digest(marks: list[bytes]) -> str:
    return hashlib.blake2b(b"".join(marks), digest_size=16).hexdigest()


def _is_valid(entry: Entry) -> bool:
    """Return True for an entry that names its items."""
    first, inputs = entry.get("first"), entry.get("inputs")
    if not (type(inputs) is int and 0 < inputs < 1 << 32 and isinstance(entry.get("items"), str)):
        return False
    try:
        return isinstance(first, str) and bool(bytes.fromhex(first))
    except ValueError:
        return False


def _check(head: Entry, settings: dict[str, Any], path: str) -> None:
    earlier = head.get("settings")
    if head.get("schema") != SCHEMA or not isinstance(earlier, dict):
        raise UsageError(f"{path}: damaged, or not a checkpoint that this normcli reads; delete it to start again")
    if differences := differing_settings(earlier, settings):
        changes = describe_differences(differences, first="was", second="now")
        raise UsageError(f"{path}: checkpoint of a run with other settings: {changes}; delete it to start again")
