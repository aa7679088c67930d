"""The record of a run under way: after a kill, what is whole in it is believed.

Its lines carry a checksum. The folder it lies in vanishes when the run is complete.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from normcli import platforms, storage
from normcli.errors import UsageError
from normcli.runs.manifest import FILES, NAME, check_same_settings, read
from normcli.runs.names import WORK
from normcli.runs.validate_manifest import find_invalid_key, find_invalid_shard_key
from normcli.sinks.record import decode_name
from normcli.sinks.sink import FinishedShard, Record
from normcli.sinks.stack import ARRAY


class ApplyCheckpoint:
    """The record of a run under way, in a folder that vanishes when the run is complete.

    Args:
        out: the output folder.
        head: what must be the same for the run to be resumed.

    Attributes:
        work: the folder for unfinished files; on the same file system as what they become.
        shards: those that earlier runs have finished, by number.
    """

    def __init__(self, out: str, head: Record) -> None:
        self.out, self.head = out, head
        self.work = os.path.join(out, WORK)  # noqa: PTH118
        self._done: dict[str, tuple[str, int, int]] = {}  # file, place in it, shard
        self.shards: dict[int, FinishedShard] = {}
        self._sharded = "shard_size" in head["settings"]
        self._begun: int | None = None  # shards from this number were made anew since the manifest was written
        self._held: dict[str, IO[bytes]] = {}
        self._kept: dict[str, Record] = {}
        self._file: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def open(self, *, resume: bool) -> None:
        """Take the output folder for this run alone; with `resume`, find what earlier runs have done.

        Raises:
            UsageError: another run is writing here, or what is resumed had other settings.
            OutputError: the folder cannot be made.
        """
        fresh = not os.path.exists(self.work)  # noqa: PTH110
        try:
            self._open(resume)
        except BaseException as error:
            self.close()
            if fresh:
                shutil.rmtree(self.work, ignore_errors=True)
                with suppress(OSError):
                    os.rmdir(self.out)  # noqa: PTH106
            if isinstance(error, OSError):
                storage.raise_output_error(self.out, error)
            raise

    def _open(self, resume: bool) -> None:
        os.makedirs(self.work, exist_ok=True)  # noqa: PTH103
        self._lock = open(os.path.join(self.work, "lock"), "wb")  # noqa: PTH118, PTH123, SIM115
        if not platforms.lock_file(self._lock):
            raise UsageError(f"another normcli is writing to {self.out}")
        numbers = sorted(int(name[8:]) for name in self._names() if name.startswith("journal-"))
        if resume:
            for number in numbers:
                self._recall(self._name(number))
            if self.head["settings"]["to"] != "stack":
                self._recall_manifest()
            elif ARRAY not in self._names():
                # the rows that the journals tell of are gone: were these kept, a second kill would leave them
                # beside a stack that has been begun anew
                self._done.clear()
                for number in numbers:
                    os.unlink(self._name(number))  # noqa: PTH108
        for name in self._names():
            if name.startswith("file-") or (not resume and name != "lock"):
                os.unlink(os.path.join(self.work, name))  # noqa: PTH108, PTH118
        if not resume:  # it would describe files that are written anew
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.out, NAME))  # noqa: PTH108, PTH118
        self._file = open(self._name(numbers[-1] + 1 if resume and numbers else 0), "wb")  # noqa: PTH123, SIM115
        self._write(self.head)

    def _names(self) -> list[str]:
        return [path.name for path in Path(self.work).iterdir()]

    def _name(self, number: int) -> str:
        return os.path.join(self.work, f"journal-{number}")  # noqa: PTH118

    def _recall(self, path: str) -> None:
        file = self._held[path] = open(path, "rb")  # noqa: PTH123, SIM115
        at = 0
        waiting: list[tuple[str, int]] = []  # of a shard that is not finished
        for number, line in enumerate(file):
            record = _checked(line)
            if record is None:  # torn by the kill
                break
            if number == 0:
                check_same_settings(self.out, record, self.head)
            elif self._flaw(record) is not None:  # of no run of ours
                break
            elif "restart_from" in record:
                self._forget(record["restart_from"])
            elif "finished_shard" in record:
                number = record["finished_shard"]
                self._done.update({name: (path, place, number) for name, place in waiting})
                self.shards[number] = FinishedShard(len(waiting), record["bytes"], record["last"])
                waiting.clear()
            elif self._sharded:
                waiting.append((decode_name(record, "name"), at))
            elif "error" not in record:
                self._done[decode_name(record, "name")] = (path, at, 0)
            at += len(line)

    def _flaw(self, record: Record) -> str | None:
        if "restart_from" in record or "finished_shard" in record:
            return find_invalid_shard_key(record)
        return find_invalid_key(record, self.head["settings"])

    def _forget(self, first: int) -> None:
        """Shards from this one on were begun anew: what was known of them is true no longer."""
        self._done = {name: place for name, place in self._done.items() if place[2] < first}
        self.shards = {number: found for number, found in self.shards.items() if number < first}
        self._begun = first if self._begun is None else min(first, self._begun)

    def _recall_manifest(self) -> None:
        path = os.path.join(self.out, NAME)  # noqa: PTH118
        if not os.path.exists(path):  # noqa: PTH110
            return
        head, records = read(self.out)
        check_same_settings(self.out, head, self.head)
        if self._sharded:
            self._recall_shards(head, records)
            return
        for record in records:
            if "error" not in record:
                self._kept[decode_name(record, "name")] = record

    def _recall_shards(self, head: Record, records: Iterator[Record]) -> None:
        sizes = [shard["bytes"] for shard in head.get("shards", ())]
        known = sizes if self._begun is None else sizes[: self._begun]
        counts = [0] * len(known)
        for record in records:
            if (number := record["shard"]) < len(known):
                self._kept[decode_name(record, "name")] = record
                counts[number] += 1
        for number, size in enumerate(known):
            found = FinishedShard(counts[number], size, number == len(sizes) - 1)
            self.shards.setdefault(number, found)

    def done(self, name: str) -> Record | None:
        """What an earlier run recorded for an output that it wrote."""
        if (found := self._done.get(name)) is not None:
            path, at, _ = found
            file = self._held[path]
            file.seek(at)
            return _checked(file.readline())
        return self._kept.get(name)

    def add(self, records: Iterable[Record]) -> None:
        """Note what is done; it is believed after a kill.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            for record in records:
                self._write(record)
            assert self._file is not None
            self._file.flush()
        except OSError as error:
            storage.raise_output_error(self.out, error)

    def _write(self, record: Record) -> None:
        assert self._file is not None
        text = json.dumps(record).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))

    def records(self) -> Iterator[Record]:
        """Every input's record of this run, in order."""
        assert self._file is not None
        self._file.flush()
        with open(self._file.name, "rb") as file:  # noqa: PTH123
            next(file)
            for line in file:
                record = json.loads(line[9:-1])
                if "name" in record:  # the others tell of shards
                    yield record

    def finish(self, head: Record, records: Iterator[Record], *, fold: bool) -> None:
        """Write the manifest and remove the folder of unfinished files.

        Args:
            head: what is said of the whole run.
            records: one for every input that was tried.
            fold: write a map that records share once.

        Raises:
            OutputError: it cannot be written.
        """
        path = os.path.join(self.out, NAME)  # noqa: PTH118
        body, temporary = (os.path.join(self.work, f"file-{part}") for part in ("records", "manifest"))  # noqa: PTH118
        maps: dict[str, int] = {}
        try:
            with open(body, "wb") as file:  # noqa: PTH123
                between = b""
                for record in records:
                    if fold and "map" in record:
                        record["map"] = maps.setdefault(json.dumps(record["map"]), len(maps))
                    file.write(between + json.dumps(record).encode())
                    between = b",\n"
                file.write(b"\n]}\n" if between else b"]}\n")
            with open(temporary, "wb") as file, open(body, "rb") as lines:  # noqa: PTH123
                file.write(b"{\n")
                shared = {"maps": [json.loads(text) for text in maps]} if fold else {}
                for key, value in {**head, **shared}.items():
                    file.write(f"{json.dumps(key)}: {json.dumps(value)},\n".encode())
                file.write(FILES.encode())
                shutil.copyfileobj(lines, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105
        except OSError as error:
            storage.raise_output_error(path, error)
        storage.sync_folders({self.out})
        self.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def close(self, *, forget: bool = False) -> None:
        """Let the folder go; with `forget`, leave nothing of this run behind."""
        for file in (self._file, self._lock, *self._held.values()):
            if file is not None:
                with suppress(OSError):
                    file.close()
        if forget:
            shutil.rmtree(self.work, ignore_errors=True)
            with suppress(OSError):  # not empty: it was not ours alone
                os.rmdir(self.out)  # noqa: PTH106


def _checked(line: bytes) -> Record | None:
    text = line[9:-1]
    try:
        sound = line.endswith(b"\n") and int(line[:8], 16) == zlib.crc32(text)
        found = json.loads(text) if sound else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def is_up_to_date(path: str, size: int, source: str) -> bool:
    """Whether an output is there, of its size, and its source has not changed since.

    Args:
        path: of the output.
        size: in bytes.
        source: key of the input: a file, or a container and a member, whose file it is that counts.
    """
    try:
        written = os.stat(path)  # noqa: PTH116
    except OSError:
        return False
    return written.st_size == size and not changed_since(source, written.st_mtime_ns)


def changed_since(source: str, time: int) -> bool:
    """Whether the file that a key leads to is newer; not known of servers, whose files are taken as they were."""
    if storage.is_remote(source):
        return False
    while source:
        try:
            return os.stat(source).st_mtime_ns > time  # noqa: PTH116
        except FileNotFoundError:
            return False
        except (OSError, ValueError):  # a member, whatever its name: its archive
            source = source.rpartition("/")[0]
    return True
