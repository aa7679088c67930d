"""A run whose output is shards: packed here, in the order of the inputs, from what the workers mapped.

Where an image lies depends on every image before it. So a shard counts as done, for a run that is resumed, only
when it stands whole under its name; and only as long as nothing before it has changed.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normcli import storage
from normcli.errors import UsageError
from normcli.runs import manifest, outputs
from normcli.runs.apply_checkpoint import ApplyCheckpoint, is_up_to_date
from normcli.runs.manifest import Record, decode_name
from normcli.runs.map_batch import BatchResult, MapJob
from normcli.runs.names import InputLister
from normcli.sinks import webdataset
from normcli.sources import Skipped, parquet

DEFAULT = "1GB"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True)
class ShardSize:
    """How much a shard holds: so many images, or so many bytes; at least one image.

    >>> ShardSize.of("1000"), ShardSize.of("1.5GB").said
    (ShardSize(images=1000, bytes=None), '1500000000B')
    """

    images: int | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, setting: str | int) -> "ShardSize":
        """Read `--shard-size`.

        Raises:
            UsageError: neither a number of images nor of bytes.
        """
        text = str(setting)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
        unit = _UNITS.get(found[2].upper()) if found and found[2] else None
        if found and not found[2] and found[1].isdecimal() and int(found[1]):
            return cls(images=int(found[1]))
        if found and unit and (size := int(float(found[1]) * unit)):
            return cls(bytes=size)
        raise UsageError(f"shard-size {text!r}: give a number of images, or bytes with a unit: 1000, 500MB, 1GiB")

    @property
    def said(self) -> str:
        """The same in one way, for the manifest."""
        return str(self.images) if self.images is not None else f"{self.bytes}B"

    def full(self, images: int, after: int) -> bool:
        """Whether a shard of so many images takes no further one, which would make it `after` bytes large."""
        return images == self.images if self.images is not None else images > 0 and after > (self.bytes or 0)


def name_of(to: str, number: int) -> str:
    """The name of a shard."""
    return f"shard-{number:06d}{outputs.KINDS[to].shard}"


def numbers_of(labels: set[str] | None) -> dict[str, int] | None:
    """A number for every class, as torchvision's folders count them; None where all are numbers already.

    WebDataset's own decoder takes what is in a .cls for a number.

    >>> numbers_of({"dog", "cat"}), numbers_of({"7", "10"})
    ({'cat': 0, 'dog': 1}, None)
    """
    if labels is None or all(label.isascii() and label.isdecimal() for label in labels):
        return None
    return {label: number for number, label in enumerate(sorted(labels))}


class Packer:
    """Puts images into shards as they come, and tells the journal what is done.

    Args:
        work: what is written, and where.
        size: of a shard.
        journal: of this run.
        kept: so many shards stand from an earlier run.
    """

    def __init__(self, work: MapJob, size: ShardSize, journal: ApplyCheckpoint, kept: int) -> None:
        self._work, self._size, self._journal, self._kept = work, size, journal, kept
        self._number = 0
        self._records = self._images = 0  # of the shard under way
        self._writer: webdataset.TarShardWriter | parquet.ParquetShardWriter | None = None
        self._temporary = f"{work.folder}/file-shard"
        self.shards: list[Record] = []

    def take(self, done: BatchResult) -> Iterator[Record]:
        """Pack what a batch gave, up to an input whose server is silent; yield what the journal is to be told.

        Raises:
            OutputError: a shard cannot be written.
        """
        chunks = _chunks(self._work, done)
        for record in done.records:
            if self._number < self._kept:
                yield from self._pass(record)
                continue
            if record.get("error") == "remote":  # it may be there next time: nothing behind it has a place yet
                return
            if "error" not in record:
                parts = next(chunks)
                size = sum(memoryview(part).nbytes for part in parts)
                if self._writer is not None and self._size.full(self._images, self._writer.after(size)):
                    yield self._place(last=False)
                self._add(parts, record)
            record["shard"] = self._number
            self._records += 1
            yield record

    def _pass(self, record: Record) -> Iterator[Record]:
        """A record of a shard that stands."""
        self._records += 1
        self._images += "error" not in record
        yield record
        standing = self._journal.shards[self._number]
        if self._records == standing.records:
            yield self._placed(standing.size, last=standing.last)

    def _add(self, parts: Sequence[Any], record: Record) -> None:
        name = decode_name(record, "name")
        label = decode_name(record, "label") if "label" in record else None
        shape = manifest.output_shape(record, {"layout": self._work.transform.layout})
        try:
            if self._writer is None:
                dtype = self._work.transform.dtype
                of_tar = self._work.to == "tar"
                self._writer = (
                    webdataset.TarShardWriter(self._temporary)
                    if of_tar
                    else parquet.ParquetShardWriter(self._temporary, dtype)
                )
            record |= self._writer.add(parts, name, label, shape)
        except OSError as error:
            storage.raise_output_error(self._path(), error)
        self._images += 1

    def _path(self) -> str:
        return os.path.join(self._work.out, name_of(self._work.to, self._number))  # noqa: PTH118

    def _place(self, *, last: bool) -> Record:
        assert self._writer is not None
        writer, self._writer = self._writer, None
        try:
            size = writer.close(whole=True)
            os.replace(self._temporary, self._path())  # noqa: PTH105
        except OSError as error:
            storage.raise_output_error(self._path(), error)
        storage.sync_folders({self._work.out})
        return self._placed(size, last=last)

    def _placed(self, size: int, *, last: bool) -> Record:
        name = name_of(self._work.to, self._number)
        self.shards.append({"name": name, "images": self._images, "bytes": size})
        told = {"finished_shard": self._number, "bytes": size, "last": last}
        self._number += 1
        self._records = self._images = 0
        return told

    def finish(self) -> Iterator[Record]:
        """Close the last shard; remove those of an earlier run that had more of them."""
        if self._writer is not None:
            yield self._place(last=True)
        of_ours = re.compile(r"shard-(\d{6,})" + re.escape(outputs.KINDS[self._work.to].shard))
        for path in Path(self._work.out).iterdir():
            found = of_ours.fullmatch(path.name)
            if found and int(found[1]) >= self._number:
                path.unlink()

    def abandon(self) -> None:
        """Let go of the shard under way."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close(whole=False)


def _chunks(work: MapJob, done: BatchResult) -> Iterator[Sequence[Any]]:
    """The buffers of one image after the other, from memory or from the file where a worker left them."""
    if done.piece is None:
        yield from done.chunks
        return
    path = f"{work.folder}/{done.piece}"
    try:
        data = memoryview(Path(path).read_bytes())
        os.unlink(path)  # noqa: PTH108
    except OSError as error:
        storage.raise_output_error(path, error)
    at = 0
    for sizes in done.sizes:
        parts = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        yield parts


def kept(listed: InputLister, journal: ApplyCheckpoint, work: MapJob) -> int:
    """How many shards, from the first, are as this run would make them."""
    number = seen = 0
    behind: tuple[int, ...] = (-1,)
    for named_item in listed():
        if isinstance(named_item, Skipped):
            continue
        shard, known = journal.shards.get(number), journal.done(named_item.name)
        if shard is None or known is None or known.get("shard") != number:
            break
        path = os.path.join(work.out, name_of(work.to, number))  # noqa: PTH118
        if not is_up_to_date(path, shard.size, named_item.item.key):
            break
        if "error" not in known:
            place = tuple(known[key] for key in ("offset", "group", "row") if key in known)
            if place <= behind:
                break
            behind = place
        seen += 1
        if seen == shard.records:
            number, seen, behind = number + 1, 0, (-1,)
    else:
        return number
    # the last shard of an earlier run had room, and there is more to come
    return number - 1 if number and journal.shards[number - 1].last else number
