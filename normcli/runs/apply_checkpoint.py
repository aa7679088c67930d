"""The checkpoint of `apply`: records of complete outputs, by which a killed run resumes.

Every run appends to a log of its own; their folder, which also holds unfinished files, is removed when a run
completes.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from normcli import platforms, storage
from normcli.errors import OutputError, UsageError
from normcli.options.shared import GEOMETRY_WHERE_USED, DecodeOptions
from normcli.runs.checkpoint import CheckpointLog
from normcli.runs.manifest import FILES, NAME, SCHEMA, check_same_settings, read
from normcli.runs.masks import PixelMask
from normcli.runs.names import WORK
from normcli.runs.transform import Transform
from normcli.runs.validate_manifest import find_invalid_key, find_invalid_shard_key
from normcli.sinks.shards import ShardSize
from normcli.sinks.sink import FinishedShard, Record, decode_name
from normcli.sinks.stack import ARRAY

_LOG = "checkpoint-"
_LOG_NAME = _LOG + r"([0-9]{1,9})"


_TRANSFORM_SETTINGS = ("zero_std", "dtype", "output_layout", "channel_order", "max_value", "nan", "fill")


class MappingJob(Protocol):
    """The part of the job of images or of volumes that a manifest records."""

    @property
    def transform(self) -> Transform:
        """Return the mapping of the pixels."""

    @property
    def reading(self) -> DecodeOptions:
        """Return the options of decoding."""

    @property
    def orientation(self) -> str:
        """Return "apply" or "ignore"."""

    @property
    def to(self) -> str:
        """Return the kind of output."""

    @property
    def classes(self) -> dict[str, int] | None:
        """Return the number of every class, where a format has numbers."""

    @property
    def stacked(self) -> bool:
        """Return True if all images become one array of a container that others have for volumes."""

    @property
    def mask(self) -> PixelMask | None:
        """Return the masks."""


def head_of(work: MappingJob, no_suffix: bool, size: ShardSize | None) -> Record:
    """Return the settings and constants that must be equal for a run to be resumed."""
    transform, reading = work.transform, work.reading
    settings = {
        "scheme": transform.scheme,
        **dict(transform.settings),
        **{key: getattr(transform, key) for key in _TRANSFORM_SETTINGS},
        "clip": None if transform.clip is None else list(transform.clip),
        "to": work.to,
        "no_suffix": no_suffix,
        "orientation": work.orientation,
        **{key: getattr(reading, key) for key in ("color", "alpha", "nodata", "strict", "resize", "center_crop")},
        **{key: value for key in GEOMETRY_WHERE_USED if (value := getattr(reading, key)) is not None},
        **({} if size is None else {"shard_size": str(size)}),
        **({"stacked": True} if work.stacked else {}),
        **({} if work.mask is None else work.mask.settings()),
    }
    constants = transform.constants
    return {
        "schema": SCHEMA,
        "settings": settings,
        "constants": None if constants is None else constants.record(),
        **({} if work.classes is None else {"classes": list(work.classes)}),
    }


class ApplyCheckpoint:
    """The records of earlier runs on an output folder, and the log of this one.

    Args:
        out: the output folder.
        head: the settings that must be the same for the run to be resumed.

    Attributes:
        folder: of unfinished files; on the file system of the finished ones.
        shards: those that earlier runs have finished, by number.
    """

    def __init__(self, out: str, head: Record) -> None:
        self.out, self.head = out, head
        self.folder = os.path.join(out, WORK)  # noqa: PTH118
        self.shards: dict[int, FinishedShard] = {}
        self._done: dict[str, tuple[CheckpointLog, int, int]] = {}  # log, offset in it, shard
        self._of_manifest: dict[str, Record] = {}
        self._sharded = "shard_size" in head["settings"]
        self._first_rewritten: int | None = (
            None  # shards from this number were made anew since the manifest was written
        )
        self._earlier: list[CheckpointLog] = []
        self._log: CheckpointLog | None = None
        self._lock: IO[bytes] | None = None
        self._is_new = not os.path.lexists(out)

    def open(self, *, resume: bool) -> None:
        """Lock the output folder; with `resume`, read the records of earlier runs.

        Raises:
            UsageError: another run is writing here, or the run to resume had other settings.
            OutputError: the folder cannot be made.
        """
        fresh = not os.path.exists(self.folder)  # noqa: PTH110
        try:
            self._open(resume)
        except BaseException as error:
            self.close()
            if fresh:
                self._remove()
            if isinstance(error, OSError):
                storage.raise_output_error(self.out, error)
            raise

    def _open(self, resume: bool) -> None:
        storage.make_work_folder(self.folder)
        self._lock = open(os.path.join(self.folder, "lock"), "wb")  # noqa: PTH118, PTH123, SIM115
        if not platforms.lock_file(self._lock):
            raise UsageError(f"another normcli is writing to {self.out}")
        numbers = sorted(int(match[1]) for name in self._names() if (match := re.fullmatch(_LOG_NAME, name)))
        if resume:
            for number in numbers:
                self._read_log(self._path_of(number))
            if self.head["settings"]["to"] != "stack" and not self.head["settings"].get("stacked"):
                self._read_manifest()
            elif ARRAY not in self._names():
                # the rows that the logs name are gone: were these kept, a second kill would leave them next to a
                # stack that has been begun anew
                self._done.clear()
                self._close_earlier()
                for number in numbers:
                    os.unlink(self._path_of(number))  # noqa: PTH108
        for name in self._names():
            path = os.path.join(self.folder, name)  # noqa: PTH118
            if os.path.isdir(path):  # noqa: PTH112 - not of normcli
                shutil.rmtree(path)
            elif name.startswith("file-") or (not resume and name != "lock"):
                os.unlink(path)  # noqa: PTH108
        if not resume:  # it would describe files that are written anew
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.out, NAME))  # noqa: PTH108, PTH118
        self._log = CheckpointLog(self._path_of(numbers[-1] + 1 if resume and numbers else 0))
        self._log.begin(self.head)

    def _names(self) -> list[str]:
        return [path.name for path in Path(self.folder).iterdir()]

    def _path_of(self, number: int) -> str:
        return os.path.join(self.folder, f"{_LOG}{number}")  # noqa: PTH118

    def _read_log(self, path: str) -> None:
        log = CheckpointLog(path)
        self._earlier.append(log)
        waiting: list[tuple[str, int]] = []  # of a shard that is not finished
        for number, (offset, record) in enumerate(log.entries()):
            if record is None:  # what follows a damaged line may be of a shard that it began
                break
            if number == 0:
                check_same_settings(self.out, record, self.head)
            elif self._find_invalid_key(record) is not None:  # of no run of normcli
                break
            elif "restart_from" in record:
                self._forget_from(record["restart_from"])
            elif "finished_shard" in record:
                shard = record["finished_shard"]
                self._done.update({name: (log, place, shard) for name, place in waiting})
                self.shards[shard] = FinishedShard(len(waiting), record["bytes"], record["last"])
                waiting.clear()
            elif self._sharded:
                waiting.append((decode_name(record, "name"), offset))
            elif "error" not in record:
                self._done[decode_name(record, "name")] = (log, offset, 0)

    def _find_invalid_key(self, record: Record) -> str | None:
        if "restart_from" in record or "finished_shard" in record:
            return find_invalid_shard_key(record)
        return find_invalid_key(record, self.head["settings"])

    def _forget_from(self, first: int) -> None:
        """Drop the records of shards from this one on: they were started again."""
        self._done = {name: place for name, place in self._done.items() if place[2] < first}
        self.shards = {number: shard for number, shard in self.shards.items() if number < first}
        self._first_rewritten = first if self._first_rewritten is None else min(first, self._first_rewritten)

    def _read_manifest(self) -> None:
        path = os.path.join(self.out, NAME)  # noqa: PTH118
        if not os.path.exists(path):  # noqa: PTH110
            return
        head, records = read(self.out)
        check_same_settings(self.out, head, self.head)
        if self._sharded:
            self._read_shards(head, records)
            return
        for record in records:
            if "error" not in record:
                self._of_manifest[decode_name(record, "name")] = record

    def _read_shards(self, head: Record, records: Iterator[Record]) -> None:
        sizes = [shard["bytes"] for shard in head.get("shards", ())]
        valid = sizes if self._first_rewritten is None else sizes[: self._first_rewritten]
        counts = [0] * len(valid)
        for record in records:
            if (number := record["shard"]) < len(valid):
                self._of_manifest[decode_name(record, "name")] = record
                counts[number] += 1
        for number, size in enumerate(valid):
            shard = FinishedShard(counts[number], size, number == len(sizes) - 1)
            self.shards.setdefault(number, shard)

    def done(self, name: str) -> Record | None:
        """Return an earlier run's record of an output; None if there is none."""
        if (place := self._done.get(name)) is not None:
            log, offset, _ = place
            return log.read(offset)
        return self._of_manifest.get(name)

    def add(self, records: Iterable[Record]) -> None:
        """Append records to the log.

        Raises:
            OutputError: it cannot be written.
        """
        assert self._log is not None
        for record in records:
            self._log.append(record)
        self._log.flush()

    def records(self) -> Iterator[Record]:
        """Yield every input's record of this run, in order."""
        assert self._log is not None
        for number, (_, record) in enumerate(self._log.entries()):
            if number and record is not None and "name" in record:  # the others are of shards
                yield record

    def finish(self, head: Record, records: Iterator[Record], *, fold: bool) -> None:
        """Write the manifest and remove the folder of unfinished files.

        Args:
            head: the keys of the run as such.
            records: one for every input that was tried.
            fold: write a map that records share once.

        Raises:
            OutputError: it cannot be written.
        """
        path = os.path.join(self.out, NAME)  # noqa: PTH118
        body, temporary = (os.path.join(self.folder, f"file-{part}") for part in ("records", "manifest"))  # noqa: PTH118
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
        storage.remove_work_folder(self.folder)

    def close(self, *, forget: bool = False) -> None:
        """Unlock the folder; with `forget`, leave nothing of this run behind."""
        self._close_earlier()
        for file in (self._log, self._lock):
            if file is not None:
                with suppress(OSError, OutputError):
                    file.close()
        if forget:
            self._remove()

    def _remove(self) -> None:
        """Remove the unfinished files, and the output folder if this run made it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._is_new:
            with suppress(OSError):  # not empty: others use it as well
                os.rmdir(self.out)  # noqa: PTH106

    def _close_earlier(self) -> None:
        for log in self._earlier:
            with suppress(OSError):
                log.close()
        self._earlier.clear()


def is_up_to_date(path: str, size: int, source: str) -> bool:
    """Return True if an output exists, has its size, and is newer than its source.

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
    """Return True if the local file of a key is newer than `time`; files on servers count as unchanged."""
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
