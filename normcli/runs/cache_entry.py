"""Entries of the file cache: the counts of one file, or of one container."""

import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from normcli.runs import checkpoint
from normcli.runs.count import Failure, PartialResult
from normcli.tally import Tally


class CacheEntry(NamedTuple):
    """The stored counts of a file, or of a complete container.

    Attributes:
        key: its name in the listing.
        version: a JSON text that changes with it; None where it has to be read again in any case.
        counts: of one image, serialized; or the state of a container's tally, deflated; None of a file that failed.
        channels: of one image.
        inputs: number of inputs of a container; None for a file.
        failures: inputs that were not used.
        kinds: a container's first image of each number of channels.
    """

    key: str
    version: str | None
    counts: bytes | None = None
    channels: int = 0
    inputs: int | None = None
    failures: list[Failure] = []  # noqa: RUF012
    kinds: Mapping[int, str] = {}

    def facts(self) -> str:
        """Return everything but key, version and counts as JSON."""
        facts: dict[str, Any] = {"counted": self.counts is not None}
        if self.channels:
            facts["channels"] = self.channels
        if self.inputs is not None:
            facts["inputs"] = self.inputs
        if self.failures:
            facts["failures"] = [[f.key, f.stage, f.reason, f.message] for f in self.failures]
        if self.kinds:
            facts["kinds"] = {str(channels): key for channels, key in sorted(self.kinds.items())}
        return json.dumps(facts, separators=(",", ":"))

    def replay(self) -> PartialResult:
        """Return the result to report again: failures, without the counts of images."""
        result = PartialResult(failures=[*self.failures], inputs=1 if self.inputs is None else self.inputs)
        result.kinds = {self.channels: self.key} if self.channels else dict(self.kinds)
        for failure in self.failures:
            (result.tally.skipped if failure.stage == "skip" else result.tally.failed)[failure.reason] += 1
        return result


class StoredEntry(NamedTuple):
    """A row: its number, the number of the run that wrote it, and the entry without its counts.

    Attributes:
        facts: the entry without key, version and counts: one object for many rows.
        is_counted: it has counts, which `CacheDatabase.tally` returns.
    """

    number: int
    run: int
    key: str
    version: str | None
    facts: CacheEntry
    is_counted: bool

    @property
    def entry(self) -> CacheEntry:
        """Return the entry, without its counts."""
        return self.facts._replace(key=self.key, version=self.version)


def deflate(tally: Tally) -> bytes:
    """Return the state of a tally in few bytes."""
    return zlib.compress(json.dumps(tally.state(), separators=(",", ":")).encode(), 6)


def inflate(data: bytes) -> Tally:
    """Rebuild a tally from the bytes of `deflate`.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: not such bytes.
    """
    return Tally.from_state(json.loads(checkpoint.inflate(data)))


@lru_cache(maxsize=64)  # nearly all files have the same
def _read_facts(text: str) -> tuple[bool, CacheEntry]:
    """Return True for an entry with counts, and an entry without key and version."""
    facts = json.loads(text)
    failures = [Failure(*map(str, row)) for row in facts.get("failures", [])]
    if "inputs" not in facts and facts["counted"] == bool(failures):
        raise ValueError("a file has counts, or a reason why it has none")
    entry = CacheEntry(
        "",
        None,
        channels=int(facts.get("channels", 0)),
        inputs=int(facts["inputs"]) if "inputs" in facts else None,
        failures=failures,
        kinds={int(channels): str(first) for channels, first in facts.get("kinds", {}).items()},
    )
    return bool(facts["counted"]), entry


def stored_entry(number: int, key: str, version: str | None, facts: str, run: int) -> StoredEntry:
    """Rebuild an entry from the columns of its row, without its counts.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: not such columns.
    """
    is_counted, entry = _read_facts(facts)
    return StoredEntry(number, run, key, version, entry, is_counted)
