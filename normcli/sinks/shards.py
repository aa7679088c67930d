"""Shards of many images each, packed in the order of the inputs from the images that the workers mapped.

The place of an image depends on every image before it. So a shard counts as finished, for a run that is resumed, only
when it is complete under its final name; and only as long as nothing before it has changed.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from normcli import storage
from normcli.errors import UsageError
from normcli.sinks.files import encode_array, temporary_name
from normcli.sinks.sink import (
    OUTPUT_KINDS,
    Array,
    EncodableImage,
    FinishedShard,
    MappedBatch,
    PackedImage,
    Parts,
    Record,
    RecordLog,
    SpilledPart,
    part_size,
)

if TYPE_CHECKING:
    from normcli.sinks.parquet import ParquetShardWriter
    from normcli.sinks.tar import TarShardWriter

DEFAULT = "1GB"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class ShardSize(NamedTuple):
    """The size of a shard: a number of images, or of bytes; at least one image.

    >>> ShardSize.of("1000"), str(ShardSize.of("1.5GB"))
    (ShardSize(images=1000, bytes=None), '1500000000B')
    """

    images: int | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, setting: str | int) -> "ShardSize":
        """Parse `--shard-size`.

        Raises:
            UsageError: neither a number of images nor of bytes.
        """
        text = str(setting)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
        unit = _UNITS.get(match[2].upper()) if match and match[2] else None
        if match and not match[2] and match[1].isdecimal() and int(match[1]):
            return cls(images=int(match[1]))
        if match and unit and (size := int(float(match[1]) * unit)):
            return cls(bytes=size)
        raise UsageError(
            f"`shard_size`: must be a number of images, or bytes with a unit, such as 1000, 500MB or 1GiB, not {text!r}"
        )

    def __str__(self) -> str:
        return str(self.images) if self.images is not None else f"{self.bytes}B"

    def full(self, images: int, after: int) -> bool:
        """Return True if a shard of so many images takes no further one, which would make it `after` bytes large."""
        return images == self.images if self.images is not None else images > 0 and after > (self.bytes or 0)


def shard_name(to: str, number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}{OUTPUT_KINDS[to].shard}"


class ShardEncoder(NamedTuple):
    """An encoder of images for shards; the sink packs them.

    Attributes:
        to: "tar" or "parquet".
    """

    to: str

    def encode(self, image: EncodableImage, key: str) -> Parts:
        """Return the content of a tar's member, or the values of a table's row."""
        return [image.array] if self.to == "parquet" else encode_array("npy", image.array, image.affine)

    def pack(self, parts: Parts, name: str, label: str | None, shape: tuple[int, ...]) -> PackedImage:
        """Return the image as the shard will hold it."""
        if self.to == "tar":
            from normcli.sinks.tar import pack_sample, sample_key

            parts = pack_sample(sample_key(name), parts, label)
        return PackedImage(parts, name, label, shape)


class ShardSink:
    """A sink that packs images into shards as they come.

    Args:
        writer: the half that workers call.
        out: output folder.
        partial: folder for files that are being written.
        dtype: of the arrays.
        size: of a shard.
    """

    needs_every_input = True

    def __init__(
        self,
        writer: ShardEncoder,
        out: str,
        partial: str,
        *,
        dtype: str,
        size: ShardSize,
    ) -> None:
        self.writer = writer
        self._out, self._partial, self._dtype, self._size = out, partial, dtype, size
        self._finished: Mapping[int, FinishedShard] = {}
        self._kept = 0
        self._number = 0
        self._records = self._images = 0  # of the open shard
        self._shard: TarShardWriter | ParquetShardWriter | None = None
        self._temporary = f"{partial}/file-shard"
        self._shards: list[Record] = []

    def resume(self, finished: Mapping[int, FinishedShard], kept: int) -> list[Record]:
        """Keep shards of earlier runs; return the records to log.

        Args:
            finished: shards of earlier runs, by number.
            kept: so many of them, from the first, stay as they are.
        """
        self._finished, self._kept = finished, kept
        return [{"restart_from": kept}]

    def add(self, batch: MappedBatch) -> Iterator[Record]:
        """Pack the images of a batch, up to an input whose server does not answer; yield the records to log.

        Raises:
            OutputError: a shard cannot be written.
        """
        images = read_spilled(batch, self._partial)
        for record in batch.records:
            if self._number < self._kept:
                yield from self._pass(record)
                continue
            if record.get("error") == "remote":  # it may be there next time: nothing behind it has a place yet
                return
            if "error" not in record:
                image = next(images)
                size = sum(map(part_size, image.parts))
                if self._shard is not None and self._size.full(self._images, self._shard.after(size)):
                    yield self._close(last=False)
                self._add(image, record)
            record["shard"] = self._number
            self._records += 1
            yield record

    def _pass(self, record: Record) -> Iterator[Record]:
        """Yield a record of a shard that stays as it is."""
        self._records += 1
        self._images += "error" not in record
        yield record
        shard = self._finished[self._number]
        if self._records == shard.records:
            yield self._next(shard.size, last=shard.last)

    def _add(self, image: PackedImage, record: Record) -> None:
        try:
            if self._shard is None:
                self._shard = self._open()
            record |= self._shard.add(image.parts, image.name, image.label, image.shape)
        except OSError as error:
            storage.raise_output_error(self._path(), error)
        self._images += 1

    def _open(self) -> "TarShardWriter | ParquetShardWriter":
        if self.writer.to == "tar":
            from normcli.sinks.tar import TarShardWriter

            return TarShardWriter(self._temporary)
        from normcli.sinks.parquet import ParquetShardWriter

        return ParquetShardWriter(self._temporary, self._dtype)

    def _path(self) -> str:
        return os.path.join(self._out, shard_name(self.writer.to, self._number))  # noqa: PTH118

    def _close(self, *, last: bool) -> Record:
        assert self._shard is not None
        shard, self._shard = self._shard, None
        try:
            size = shard.close(complete=True)
            os.replace(self._temporary, self._path())  # noqa: PTH105
        except OSError as error:
            storage.raise_output_error(self._path(), error)
        storage.sync_folders({self._out})
        return self._next(size, last=last)

    def _next(self, size: int, *, last: bool) -> Record:
        """Begin the next shard; return the record of the finished one."""
        self._shards.append({"name": shard_name(self.writer.to, self._number), "images": self._images, "bytes": size})
        record = {"finished_shard": self._number, "bytes": size, "last": last}
        self._number += 1
        self._records = self._images = 0
        return record

    def summary(self, images: int) -> Record:
        """Return name, images and bytes of every shard; complete after `finish`."""
        return {"shards": self._shards}

    def finish(self, log: RecordLog) -> Iterator[Record]:
        """Close the last shard; remove those of an earlier run that had more of them."""
        if self._shard is not None:
            log.add([self._close(last=True)])
        pattern = re.compile(r"shard-(\d{6,})" + re.escape(OUTPUT_KINDS[self.writer.to].shard))
        for path in Path(self._out).iterdir():
            match = pattern.fullmatch(path.name)
            if match and int(match[1]) >= self._number:
                path.unlink()
        return log.records()

    def abandon(self) -> None:
        """Close the open shard without its end."""
        if self._shard is not None:
            with suppress(OSError):
                self._shard.close(complete=False)


def read_array(path: str, to: str, record: Record) -> Array:
    """Read one array of a shard.

    Raises:
        InputError: missing or damaged.
    """
    if to == "parquet":
        from normcli.sinks import parquet

        return parquet.read_array(path, record["group"], record["row"])
    from normcli.sinks import tar

    return tar.read_array(path, record["offset"], record["bytes"])


class SpillFile:
    """A file of images' parts on their way to the sink: for another process, and where they would fill the memory.

    It need not outlive the run: it is not synced. It appears under its name when it is complete.

    Args:
        partial: folder for files that are being written.
        name: of the file.

    Attributes:
        sizes: of every image so far, the bytes of every part.
    """

    def __init__(self, partial: str, name: str) -> None:
        self.sizes: list[list[int]] = []
        self._temporary, self._path, self._name = f"{partial}/{temporary_name()}", f"{partial}/{name}", name

    def add(self, images: list[PackedImage]) -> int:
        """Append the parts of images that have not been added, and drop them from the list; return 0, the bytes left.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            with open(self._temporary, "ab" if self.sizes else "wb") as file:  # noqa: PTH123
                for i in range(len(self.sizes), len(images)):
                    file.writelines(memoryview(part).cast("B") for part in images[i].parts)
                    self.sizes.append([memoryview(part).nbytes for part in images[i].parts])
                    images[i] = images[i]._replace(parts=())
        except OSError as error:
            storage.raise_output_error(self._path, error)
        return 0

    def close(self) -> str:
        """Put the file under its name, and return that.

        Raises:
            OutputError: it cannot be renamed.
        """
        try:
            os.replace(self._temporary, self._path)  # noqa: PTH105
        except OSError as error:
            storage.raise_output_error(self._path, error)
        return self._name


def read_spilled(batch: MappedBatch, partial: str) -> Iterator[PackedImage]:
    """Yield the images of a batch, from memory or from the file where a worker left them.

    Raises:
        OutputError: the file cannot be read.
    """
    if batch.piece is None:
        yield from batch.packed
        return
    path = f"{partial}/{batch.piece}"
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            for image, sizes in zip(batch.packed, batch.sizes, strict=True):
                yield image._replace(parts=[SpilledPart(file, size) for size in sizes])
        os.unlink(path)  # noqa: PTH108
    except OSError as error:
        storage.raise_output_error(path, error)
