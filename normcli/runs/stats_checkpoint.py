"""The journal of a long run: what was counted so far, so that a killed run goes on where it was.

One line a second or so: a checksum, which items the line stands for, and their exact counts. A line that the
kill cut in half is dropped. A line is used again only where the listing holds the same items, unchanged, in the
same order; so files that came, went or changed in between are counted as if there had been no journal.
"""

import base64
import hashlib
import json
import os
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from normcli import platforms
from normcli.errors import NormcliError, OutputError, UsageError
from normcli.runs.partial_result import PartialResult
from normcli.sources import Item, Skipped
from normcli.storage import raise_output_error

SCHEMA = "normcli/journal/1"
_SECONDS = 1.0  # of work between two lines: what a kill loses
_NOT_KEPT = {"remote"}  # failures that another try may mend


class ReplayedBatch(NamedTuple):
    """A line of the journal in the place of the items it stands for."""

    path: str
    offset: int
    size: int
    inputs: int

    def result(self) -> PartialResult:
        """Read the line's counts."""
        with open(self.path, "rb") as file:  # noqa: PTH123
            file.seek(self.offset)
            line = _parsed(file.read(self.size))
        try:
            assert line is not None, "the line was checked when the journal was opened"
            return PartialResult.from_state(json.loads(zlib.decompress(base64.b64decode(line["counts"]))))
        except Exception as error:  # its checksum is right and its counts are not: nobody's write was cut short
            raise UsageError(f"{self.path} is damaged ({type(error).__name__}); delete it to start anew") from None


class StatsCheckpoint:
    """An open journal; use as a context manager.

    Args:
        path: its file; made where it is missing.
        settings: everything that the counts depend on; they must be those of the journal.

    Raises:
        UsageError: a journal of other settings.
        OutputError: it cannot be written.
        NormcliError: another run is writing it.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self._path = Path(path)
        try:
            self._file: IO[bytes] = open(platforms.open_binary(path, os.O_RDWR | os.O_CREAT), "r+b")  # noqa: SIM115, PTH123
        except OSError as error:
            raise_output_error(path, error)
        self._lines: dict[bytes, list[tuple[int, str, ReplayedBatch]]] = {}
        self._under_way: deque[list[bytes] | None] = deque()
        try:
            lock(self._file, self._path)
            self._read(json.loads(json.dumps(dict(settings))))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "StatsCheckpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self, settings: dict[str, Any]) -> None:
        """Index the good lines and cut off what follows the last of them."""
        at = 0
        for number, line in enumerate(self._file):
            found = _parsed(line)
            if number == 0:
                if not line.endswith(b"\n"):  # not even the first line was finished: an empty journal
                    break
                _check(found, settings, self._path)
            elif found is not None and _is_sound(found):
                first = bytes.fromhex(found["first"])
                place = ReplayedBatch(str(self._path), at, len(line), found["inputs"])
                self._lines.setdefault(first, []).append((found["inputs"], found["items"], place))
            if not line.endswith(b"\n"):
                break
            at += len(line)
        self._file.seek(at)
        self._file.truncate()
        if at == 0:
            self._append({"schema": SCHEMA, "settings": settings})

    def known(self, items: Iterator[Item | Skipped]) -> Iterator[Item | Skipped | ReplayedBatch]:
        """Put lines of the journal in the place of the items they stand for."""
        ahead: deque[tuple[Item | Skipped, bytes]] = deque()

        def fill(count: int) -> bool:
            while len(ahead) < count and (item := next(items, None)) is not None:
                ahead.append((item, _mark(item)))
            return len(ahead) >= count

        while fill(1):
            found = None
            for inputs, merge, place in self._lines.get(ahead[0][1], ()):
                if fill(inputs) and _sum(mark for _, mark in (ahead[i] for i in range(inputs))) == merge:
                    found = place
                    break
            if found is None:
                yield ahead.popleft()[0]
            else:
                for _ in range(found.inputs):
                    ahead.popleft()
                yield found

    def starts(self, batch: "list[Item | Skipped] | ReplayedBatch") -> None:
        """Note that a batch is under way, before any of it is read; results come in the same order."""
        self._under_way.append(None if isinstance(batch, ReplayedBatch) else [_mark(item) for item in batch])

    def keep(self, results: Iterator[PartialResult]) -> Iterator[PartialResult]:
        """Pass results on, writing them down line by line; what is pending when the run is broken off too."""
        pending, marks, since = PartialResult(), list[bytes](), time.monotonic()

        def write() -> None:
            nonlocal pending, marks, since
            if marks:
                counts = base64.b64encode(zlib.compress(json.dumps(pending.state()).encode(), 1)).decode()
                first, merge = marks[0].hex(), _sum(iter(marks))
                self._append({"inputs": len(marks), "first": first, "items": merge, "counts": counts})
            pending, marks, since = PartialResult(), [], time.monotonic()

        try:
            for done in results:
                of_batch = self._under_way.popleft()
                if of_batch is None or any(failure.reason in _NOT_KEPT for failure in done.failures):
                    write()
                else:
                    pending.add(done)
                    marks += of_batch
                    if time.monotonic() - since >= _SECONDS:
                        write()
                yield done
        finally:
            write()

    def _append(self, line: dict[str, Any]) -> None:
        text = json.dumps(line).encode()
        try:
            self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {(error.strerror or str(error)).lower()}") from error


def _mark(item: Item | Skipped) -> bytes:
    """What stands for an item: its name, and what would change with its bytes."""
    load = item.load if isinstance(item, Item) else None
    version = load.fingerprint() if load is not None and hasattr(load, "fingerprint") else ""
    label = item.label if isinstance(item, Item) else item.reason
    text = f"{item.key}\0{version}\0{label}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).digest()


def _sum(marks: Iterator[bytes]) -> str:
    merge = hashlib.blake2b(digest_size=16)
    for mark in marks:
        merge.update(mark)
    return merge.hexdigest()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None where the line is damaged or cut short."""
    checksum, space, text = line.rstrip(b"\n").partition(b" ")
    if not space or not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_sound(line: dict[str, Any]) -> bool:
    """Whether a line says which items it stands for."""
    first, inputs = line.get("first"), line.get("inputs")
    if not (
        type(inputs) is int and 0 < inputs < 1 << 32 and isinstance(first, str) and isinstance(line.get("items"), str)
    ):
        return False
    try:
        return bool(bytes.fromhex(str(first)))
    except ValueError:
        return False


def _check(found: dict[str, Any] | None, settings: dict[str, Any], path: Path) -> None:
    if found is None or found.get("schema") != SCHEMA:
        raise UsageError(f"{path} is damaged, or no journal that this normcli reads; delete it to start anew")
    theirs = found.get("settings")
    if not isinstance(theirs, dict):
        raise UsageError(f"{path} is damaged; delete it to start anew")
    for key in sorted({*settings, *theirs}):
        if settings.get(key) != theirs.get(key):
            raise UsageError(
                f"{path} is the journal of a run with other settings: {key} was {theirs.get(key)!r}, "
                f"now {settings.get(key)!r}; delete it to start anew"
            )


def lock(file: IO[bytes], path: Path) -> None:
    """Hold a file against other runs, as long as it is open.

    Raises:
        NormcliError: another run holds it.
    """
    if not platforms.lock_file(file):
        raise NormcliError(f"{path}: another run is writing it")
