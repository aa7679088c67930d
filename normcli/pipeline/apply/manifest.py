"""What was done: the manifest `normcli.json` of a finished run, and the journal of one that is under way.

A manifest is one JSON object; every file's record stands on a line of its own, so that a million of them are
written and read one at a time. The journal's lines carry a checksum: after a kill, what is whole is believed.
"""

import base64
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from normcli import storage
from normcli.errors import UsageError
from normcli.formats.stack import ARRAY
from normcli.pipeline.apply.naming import WORK
from normcli.pipeline.apply.soundness import flaw, flaw_of_head

SCHEMA = "normcli/apply/1"
NAME = "normcli.json"
STATISTICS = "stats.json"
Record = dict[str, Any]
_FILES = '"files": [\n'


def named(key: str, text: str) -> Record:
    """A name for JSON: as text, and its bytes under KEY_b64 where they are not UTF-8.

    >>> named("name", "a.jpg")
    {'name': 'a.jpg'}
    """
    fields = storage.path_fields(text)
    return {key if field == "path" else f"{key}_b64": value for field, value in fields.items()}


def text_of(record: Record, key: str) -> str:
    """The name that `named` wrote, any bytes in it."""
    if (raw := record.get(f"{key}_b64")) is not None:
        return os.fsdecode(base64.b64decode(raw))
    return str(record[key])


def written_shape(record: Record, settings: Record) -> tuple[int, int, int]:
    """Shape of the array that was written for an image."""
    height, width, _ = record["shape"]
    if record.get("orientation", 1) >= 5:
        height, width = width, height
    wide = len(record["map"]["channels"])
    return (wide, height, width) if settings["layout"] == "chw" else (height, width, wide)


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
                if line == _FILES.encode():
                    head = _head(path, b"".join(lines) + b'"files": []}')
                    return head, _records(path, file.tell(), head)
                lines.append(line)
    except FileNotFoundError:
        half = (Path(out) / WORK).exists()
        why = "an interrupted run (--resume completes it)" if half else f"no {NAME}: normcli apply did not write it"
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
    """A record with its map in it: one that many share stands in the head, and the record has its number."""
    if isinstance(record, dict) and type(record.get("map")) is int:
        maps = head.get("maps", [])
        record["map"] = maps[record["map"]] if 0 <= record["map"] < len(maps) else None
    wrong = flaw(record, head["settings"])
    if wrong is not None:
        raise UsageError(
            f"{path}: damaged manifest, {wrong!r} is missing, of the wrong type, or leads out of the folder"
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
    wrong = flaw_of_head(head)
    if wrong is not None:
        raise UsageError(f"{path}: damaged manifest, {wrong!r} is missing or of the wrong type")
    return dict(head)


class Journal:
    """The record of a run under way, in a folder that vanishes when the run is complete.

    Args:
        out: the output folder.
        head: what must be the same for the run to be resumed.

    Attributes:
        work: the folder for unfinished files; on the same file system as what they become.
    """

    def __init__(self, out: str, head: Record) -> None:
        self.out, self.head = out, head
        self.work = os.path.join(out, WORK)  # noqa: PTH118
        self._done: dict[str, tuple[str, int]] = {}
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
                storage.refuse(self.out, error)
            raise

    def _open(self, resume: bool) -> None:
        os.makedirs(self.work, exist_ok=True)  # noqa: PTH103
        self._lock = open(os.path.join(self.work, "lock"), "wb")  # noqa: PTH118, PTH123, SIM115
        if not _locked(self._lock):
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
        for number, line in enumerate(file):
            record = _checked(line)
            if record is None:  # torn by the kill
                break
            if number == 0:
                refuse_others(self.out, record, self.head)
            elif flaw(record, self.head["settings"]) is None and "error" not in record:
                self._done[text_of(record, "name")] = (path, at)
            at += len(line)

    def _recall_manifest(self) -> None:
        path = os.path.join(self.out, NAME)  # noqa: PTH118
        if not os.path.exists(path):  # noqa: PTH110
            return
        head, records = read(self.out)
        refuse_others(self.out, head, self.head)
        for record in records:
            if "error" not in record:
                self._kept[text_of(record, "name")] = record

    def done(self, name: str) -> Record | None:
        """What an earlier run recorded for an output that it wrote."""
        if (found := self._done.get(name)) is not None:
            path, at = found
            file = self._held[path]
            file.seek(at)
            return _checked(file.readline())
        return self._kept.get(name)

    def add(self, records: list[Record]) -> None:
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
            storage.refuse(self.out, error)

    def _write(self, record: Record) -> None:
        assert self._file is not None
        text = json.dumps(record).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))

    def records(self) -> Iterator[Record]:
        """Every record of this run, in order."""
        assert self._file is not None
        self._file.flush()
        with open(self._file.name, "rb") as file:  # noqa: PTH123
            next(file)
            for line in file:
                yield json.loads(line[9:-1])

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
                file.write(_FILES.encode())
                shutil.copyfileobj(lines, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105
        except OSError as error:
            storage.refuse(path, error)
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


def _locked(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _checked(line: bytes) -> Record | None:
    text = line[9:-1]
    try:
        sound = line.endswith(b"\n") and int(line[:8], 16) == zlib.crc32(text)
        found = json.loads(text) if sound else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def refuse_others(out: str, theirs: Record, ours: Record) -> None:
    """Refuse to go on with a run that had other settings.

    Raises:
        UsageError: naming the settings that differ.
    """
    if not isinstance(theirs.get("settings"), dict):
        raise UsageError(f"{out} holds a damaged journal: --force starts anew")
    differing = [
        f"{key.replace('_', '-')} {_said(theirs['settings'].get(key))} there and {_said(value)} here"
        for key, value in ours["settings"].items()
        if theirs["settings"].get(key) != value
    ]
    if not differing and theirs.get("constants") != ours.get("constants"):
        differing = ["other statistics"]
    if differing:
        raise UsageError(
            f"{out} was written with other settings: {'; '.join(differing)} (give the same, --force, "
            "or another --output)"
        )


def _said(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')


def occupied(out: str) -> str | None:
    """Say what stands in an output folder; None where it is empty or absent.

    Raises:
        UsageError: it is no folder.
    """
    try:
        names = sorted(path.name for path in Path(out).iterdir())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UsageError(f"{out} is a file: --output names a folder (for one image: -o - > {out})") from None
    except OSError as error:
        storage.refuse(out, error)
    if not names:
        return None
    if WORK in names:
        return "an interrupted run"
    return "a finished run" if NAME in names else f"{names[0]}{' and more' if len(names) > 1 else ''}"
