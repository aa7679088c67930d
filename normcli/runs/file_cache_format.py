"""The file of a ledger: a line of JSON for every record, and a last line that ties them to their statistics file."""

import base64
import hashlib
import json
import os
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from normcli import platforms
from normcli.errors import InputError, OutputError, StatisticsFileError, UsageError
from normcli.runs.partial_result import Failure, PartialResult
from normcli.runs.stats_checkpoint import lock
from normcli.storage import raise_output_error, sync_folders
from normcli.storage.files import open_regular
from normcli.storage.temp_files import PARTIAL
from normcli.summary import Summary
from normcli.tally import Floats, Tally
from normcli.tally.serialize import from_bytes

SCHEMA = "normcli/ledger/1"
_LONGEST_LINE = 1 << 28
_LARGEST_STATE = 1 << 30
_LONGEST_END = 1 << 10
KEPT, REPLACED = 1, 2  # states of a record; 0 until something of the listing has its name


class CacheEntry(NamedTuple):
    """What is kept of a file, or of a container as a whole.

    Attributes:
        key: its name, as the listing gives it.
        version: what changes with it; None where it has to be read again in any case.
        counts: of one image, packed; or the state of a container's tally, deflated; None of a file that failed.
        channels: of one image.
        inputs: how many inputs a container has; None for a file.
        failures: inputs that were not used.
        kinds: a container's first image of each number of channels.
    """

    key: str
    version: list[Any] | None
    counts: bytes | None = None
    channels: int = 0
    inputs: int | None = None
    failures: list[Failure] = []  # noqa: RUF012
    kinds: Mapping[int, str] = {}

    def line(self) -> bytes:
        """Give the record as it stands in the file."""
        found: dict[str, Any] = {"key": self.key, "version": self.version}
        if self.counts is not None:
            found["counts"] = base64.b64encode(self.counts).decode()
        if self.channels:
            found["channels"] = self.channels
        if self.inputs is not None:
            found["inputs"] = self.inputs
        if self.failures:
            found["failures"] = [[f.key, f.stage, f.reason, f.message] for f in self.failures]
        if self.kinds:
            found["kinds"] = {str(channels): key for channels, key in sorted(self.kinds.items())}
        return json.dumps(found, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def of(cls, line: bytes) -> "CacheEntry":
        """Read what `line` gave.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: not such a line.
        """
        found = json.loads(line)
        counts = found.get("counts")
        failures = [Failure(*map(str, row)) for row in found.get("failures", [])]
        kinds = {int(channels): str(key) for channels, key in found.get("kinds", {}).items()}
        if "inputs" not in found and (counts is None) != (len(failures) == 1):
            raise ValueError("a file has counts, or a reason why it has none")
        return cls(
            str(found["key"]),
            found["version"],
            None if counts is None else base64.b64decode(counts, validate=True),
            int(found.get("channels", 0)),
            int(found["inputs"]) if "inputs" in found else None,
            failures,
            kinds,
        )

    def tally(self) -> Tally:
        """Give the counts.

        Raises:
            ValueError, LookupError, TypeError, AttributeError, ArithmeticError: damaged.
        """
        if self.counts is None:
            return self.replay().tally
        if self.inputs is None:
            return from_bytes(self.counts)
        inflate = zlib.decompressobj()
        try:
            state = inflate.decompress(self.counts, _LARGEST_STATE)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        return Tally.from_state(json.loads(state))

    def replay(self) -> PartialResult:
        """Give what is to be said of it again: its failures, without the counts of images."""
        replay = PartialResult(failures=list(self.failures), inputs=1 if self.inputs is None else self.inputs)
        replay.kinds = {self.channels: self.key} if self.channels else dict(self.kinds)
        for failure in self.failures:
            (replay.tally.skipped if failure.stage == "skip" else replay.tally.failed)[failure.reason] += 1
        return replay


def deflated(tally: Tally) -> bytes:
    """The state of a tally in few bytes."""
    return zlib.compress(json.dumps(tally.state(), separators=(",", ":")).encode(), 6)


def tie(summary: Summary) -> str:
    """What a ledger and its statistics file have in common: a digest of the settings and the exact counts."""
    text = json.dumps({"settings": summary.settings, "state": summary.state}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def beside(statistics: str | Path) -> Path:
    """The ledger of a statistics file."""
    path = Path(statistics)
    return path.with_name(path.name + ".cache")


def upcoming(statistics: str | Path) -> Path:
    """A ledger that waits for its statistics file to be written; then `settle` gives it its name."""
    path = beside(statistics)
    return path.with_name(path.name + ".next")


def settle(waiting: Path, ledger: Path) -> None:
    """Put the ledger that waits in the place of the one before.

    Two files cannot be renamed at once: until here a killed run leaves the old statistics with the old ledger, or
    the new ones with the new ledger under its waiting name, and `CacheReader` finds either.

    Raises:
        OutputError: it cannot be renamed.
    """
    try:
        waiting.replace(ledger)
    except OSError as error:
        raise_output_error(ledger, error)
    sync_folders({str(ledger.parent)})


class CacheWriter:
    """A ledger under way; it appears under its name when it is sealed.

    Args:
        path: its name.
        settings: everything that the counts depend on.

    Raises:
        OutputError: it cannot be written.
        NormcliError: another run is writing it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        # always the same name: what a killed run leaves is overwritten by the next
        self._partial = path.with_name(path.name + PARTIAL)
        try:
            handle = platforms.open_binary(self._partial, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_output_error(path, error)
        self._file: IO[bytes] = open(handle, "r+b", buffering=1 << 20)  # noqa: SIM115, PTH123
        try:
            lock(self._file, path)
            os.ftruncate(handle, 0)
        except OSError as error:
            self._file.close()
            raise_output_error(path, error)
        except BaseException:  # of another run: its file stays
            self._file.close()
            raise
        self._digest = hashlib.sha256()
        self._records = -1
        self.add(json.dumps({"schema": SCHEMA, "settings": settings}).encode() + b"\n")

    def add(self, line: bytes) -> None:
        """Write the line of a record.

        Raises:
            OutputError: it cannot be written.
        """
        self._digest.update(line)
        self._records += 1
        try:
            self._file.write(line)
        except OSError as error:
            raise_output_error(self._path, error)

    def seal(self, summary: Summary) -> None:
        """Tie the ledger to its statistics and put it under its name, durably.

        Raises:
            OutputError: it cannot be written.
        """
        last = {"records": self._records, "statistics": tie(summary), "digest": self._digest.hexdigest()}
        try:
            self._file.write(json.dumps(last).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            platforms.replace_open(self._file, self._partial, self._path)
        except OSError as error:
            raise_output_error(self._path, error)
        sync_folders({str(self._path.parent)})

    def abandon(self) -> None:
        """Leave nothing behind, unless it was sealed."""
        if not self._file.closed:
            platforms.remove_open(self._file, self._partial)


class CacheReader:
    """The ledger of a statistics file, open for looking things up: 25 bytes of memory a record.

    Args:
        statistics: path of the statistics file.
        settings: those of this run, which must be the ledger's.

    Raises:
        StatisticsFileError: no ledger, damaged, or that of other statistics.
        UsageError: made with other settings.
    """

    def __init__(self, statistics: str | Path, settings: Mapping[str, Any]) -> None:
        if str(statistics) == "-":
            raise UsageError("`incremental` requires a statistics file with its cache next to it")
        self.summary = Summary.load(statistics)
        self._file, self._name = _opened(Path(statistics), tie(self.summary))
        try:
            self._index(json.loads(json.dumps(settings)), str(statistics))
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _index(self, settings: dict[str, Any], statistics: str) -> None:
        """Check every line, and remember where which key stands."""
        digest, at = hashlib.sha256(), 0
        hashes, offsets = array("Q"), array("Q")
        line = self._file.readline(_LONGEST_LINE)
        self._check(line, settings, statistics)
        while following := self._file.readline(_LONGEST_LINE):
            digest.update(line)
            if at:
                hashes.append(_hash(self._parsed(line).key))
                offsets.append(at)
            at += len(line)
            line = following
        end = _object(line)
        if end.get("digest") != digest.hexdigest() or end.get("records") != len(offsets):
            raise self._damaged()
        offsets.append(at)
        order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable") if hashes else np.empty(0, np.int64)
        self._offsets = offsets
        self._order = array("Q", order.astype(np.uint64).tobytes())
        self._hashes = array("Q", np.frombuffer(hashes, np.uint64)[order].tobytes()) if hashes else hashes
        self.states = bytearray(len(order))

    def _check(self, first: bytes, settings: dict[str, Any], statistics: str) -> None:
        head = _object(first)
        schema, theirs = head.get("schema"), head.get("settings")
        if schema != SCHEMA or not isinstance(theirs, dict):
            if isinstance(schema, str) and schema.startswith("normcli/ledger/"):
                raise StatisticsFileError(f"{self._name}: schema {schema}, this normcli reads {SCHEMA}")
            raise self._damaged()
        for key in sorted({*settings, *theirs}):
            if settings.get(key) != theirs.get(key):
                raise UsageError(
                    f"{statistics} was made with other settings: {key} was {theirs.get(key)!r}, "
                    f"now {settings.get(key)!r}; --force counts everything again"
                )

    def _damaged(self) -> StatisticsFileError:
        return StatisticsFileError(f"{self._name} is damaged or cut short; --force counts everything again")

    def _parsed(self, line: bytes) -> CacheEntry:
        try:
            return CacheEntry.of(line)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._damaged() from None

    def line(self, number: int) -> bytes:
        """The line of a record, by its number."""
        start = self._offsets[number]
        return platforms.pread(self._file.fileno(), self._offsets[number + 1] - start, start)

    def find(self, key: str) -> Iterator[tuple[int, CacheEntry]]:
        """Give the records of a key that were not used yet, and their numbers."""
        wanted = _hash(key)
        at = bisect_left(self._hashes, wanted)
        while at < len(self._hashes) and self._hashes[at] == wanted:
            number = self._order[at]
            if not self.states[number] and (record := self._parsed(self.line(number))).key == key:
                yield number, record
            at += 1

    def subtract_stale(self) -> Tally:
        """The counts of what was kept: everything, without what was replaced or is gone.

        Raises:
            StatisticsFileError: the ledger does not fit its statistics.
        """
        kept = [state == KEPT for state in self.states]
        try:
            total = self.summary.tally
            if all(kept) or not _bounded(total):
                for number in (n for n, is_kept in enumerate(kept) if not is_kept):
                    total.add(self._parsed(self.line(number)).tally(), -1)
            else:  # beyond a bound nothing is known of the extremes: they are put together anew
                total = Tally()
                for number in (n for n, is_kept in enumerate(kept) if is_kept):
                    total.add(self._parsed(self.line(number)).tally())
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            if isinstance(error, StatisticsFileError):
                raise
            raise self._damaged() from None
        total.failed.clear()  # told again by what was kept, tried or listed
        total.skipped.clear()
        if not total.is_valid():
            raise self._damaged()
        return total


def _bounded(tally: Tally) -> bool:
    """Say whether more extremes were seen than a tally keeps."""
    floats = [bucket for bucket in tally.buckets.values() if isinstance(bucket, Floats)]
    return any(kept.bound is not None for bucket in floats for kept in (*bucket.lowest, *bucket.highest))


def _opened(statistics: Path, wanted: str) -> tuple[IO[bytes], str]:
    """The ledger that goes with a statistics file, and its name.

    Raises:
        StatisticsFileError: there is none.
    """
    problem = f"{beside(statistics)}: no such file; `normcli stats ... -o FILE --incremental` makes it"
    found = False
    for path in (beside(statistics), upcoming(statistics)):
        try:
            handle, (size, _) = open_regular(str(path))
        except InputError as error:
            if error.reason == "missing":
                continue
            raise StatisticsFileError(f"{path}: {error.message}") from None
        file = open(handle, "rb")  # noqa: SIM115, PTH123
        end = platforms.pread(handle, _LONGEST_END, max(0, size - _LONGEST_END))
        theirs = _object(end.rstrip(b"\n").rpartition(b"\n")[2]).get("statistics")
        if theirs == wanted:
            if path != beside(statistics):
                with suppress(OutputError):  # what a killed run could not finish; not where all is read-only
                    settle(path, beside(statistics))
            return file, str(beside(statistics))
        file.close()
        if not found and theirs is None:
            problem = f"{path} is damaged or cut short"
        elif not found:
            problem = f"{path} is not the ledger of {statistics}: one of them was written without the other"
        found = True
    raise StatisticsFileError(f"{problem}; --force counts everything again" if found else problem)


def _object(line: bytes) -> dict[str, Any]:
    """The object in a line; an empty one where there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
