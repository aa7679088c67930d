"""The kinds of output, and the protocol of a sink: open, resume, add, finish.

A sink has two halves. Its writer (`open_writer`) is picklable and goes to the workers: it encodes one mapped image,
and writes it where images do not depend on each other. The sink itself (`open_sink`) stays in the process that
started the run: it takes the workers' results in the order of the inputs, and puts the outputs under their final
names. A record names files as text where they are UTF-8, else by their bytes.
"""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from normcli import storage
from normcli.errors import UsageError, unknown
from normcli.kernels.affine import Affine

if TYPE_CHECKING:
    from normcli.sinks.shards import ShardSize


Array = np.ndarray[Any, Any]
Parts = Sequence[Any]  # buffers that make up one file, written one after the other
Record = dict[str, Any]
_PIECE = 4 << 20

DTYPES = ("float32", "float16", "float64", "uint8")
FLOATS = ("float32", "float64")


class OutputKind(NamedTuple):
    """One value of `--to`.

    Attributes:
        help: one line.
        suffix: of the files; "" for the stack and for shards.
        dtypes: types that it can store, the default first.
        image: True for image files, which are interleaved and RGB, unlike arrays.
        shard: suffix of the shards that hold many images each; "" for everything else.
        volume: True for containers of volumes, one for each that is read.
    """

    help: str
    suffix: str
    dtypes: tuple[str, ...] = DTYPES
    image: bool = False
    shard: str = ""
    volume: bool = False


OUTPUT_KINDS = {
    "npy": OutputKind("one .npy per image, in a tree that mirrors the source", ".npy"),
    "npz": OutputKind("one .npz per image: image, scale, shift", ".npz"),
    "stack": OutputKind("one memory-mappable stack.npy (N,C,H,W) and index.csv", ""),
    "safetensors": OutputKind("one .safetensors per image: image, scale and shift as metadata", ".safetensors"),
    "tar": OutputKind("WebDataset shards: shard-000000.tar, … of KEY.npy and KEY.cls", "", shard=".tar"),
    "parquet": OutputKind("shard-000000.parquet, … of name, label, array and shape", "", shard=".parquet"),
    "png": OutputKind("8-bit PNG files, the mapped range quantized", ".png", ("uint8",), True),
    "png16": OutputKind("16-bit PNG files, the mapped range quantized", ".png", ("uint16",), True),
    "tiff": OutputKind("TIFF files of float values as they are", ".tif", DTYPES, True),
    "nifti": OutputKind("one NIfTI per NIfTI, with its header", "", FLOATS, volume=True),
    "hdf5": OutputKind("one HDF5 per HDF5, NetCDF4 or NIfTI; of images, images.h5 (N,H,W,C)", "", FLOATS, volume=True),
    "zarr": OutputKind("one store per Zarr or NIfTI; of images, images.zarr (N,H,W,C)", "", FLOATS, volume=True),
}


def output_kind(name: str) -> OutputKind:
    """Return a kind of output by its name.

    Raises:
        UsageError: no such kind.
    """
    if name not in OUTPUT_KINDS:
        raise unknown("output", name, OUTPUT_KINDS)
    return OUTPUT_KINDS[name]


def resolve_output(to: str, dtype: str | None, layout: str | None, order: str | None) -> tuple[str, str, str | None]:
    """Return dtype, layout and channel order of an output, with defaults for those that the user leaves open.

    Raises:
        UsageError: this kind of output cannot hold them.
    """
    kind = output_kind(to)
    if dtype is not None and dtype not in kind.dtypes:
        raise UsageError(f"`dtype`: {to} holds {', '.join(kind.dtypes)}, not {dtype}")
    if kind.image and layout == "chw":
        raise UsageError(f"`output_layout` cannot be combined with `to` {to}: image files are interleaved")
    if kind.image and order == "bgr":
        raise UsageError(f"`channel_order` cannot be combined with `to` {to}: image files hold RGB")
    return (
        dtype or kind.dtypes[0],
        layout or ("hwc" if kind.image or kind.volume else "chw"),
        "rgb" if kind.image else order,
    )


class EncodableImage(Protocol):
    """The part of a mapped image that sinks use."""

    @property
    def array(self) -> Array:
        """Return the values, C-contiguous."""

    @property
    def affine(self) -> Affine:
        """Return scale and shift per channel."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of the channels, in the order of `array`."""


class SpilledPart(NamedTuple):
    """A part that a worker left in a file: the bytes that come next there, to be read in order, once.

    Attributes:
        file: at the first of the bytes.
        size: number of bytes.
    """

    file: IO[bytes]
    size: int

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes piece by piece."""
        left = self.size
        while left > 0:
            piece = self.file.read(min(left, _PIECE))
            if not piece:
                raise OSError(5, "a temporary file became shorter while it was read")
            left -= len(piece)
            yield piece


def part_size(part: Any) -> int:
    """Return the bytes of a part: of a buffer, or in a file."""
    return part.size if isinstance(part, SpilledPart) else memoryview(part).nbytes


class PackedImage(NamedTuple):
    """An image on its way to a shard.

    Attributes:
        parts: buffers; () where a worker left them in a file.
        name: of the output.
        label: its class.
        shape: of its array.
    """

    parts: Parts
    name: str
    label: str | None
    shape: tuple[int, ...]


class ImageEncoder(Protocol):
    """The half of a sink that workers call; picklable."""

    def encode(self, image: EncodableImage, key: str) -> Parts:
        """Return the content of one file, or the values of one row, as buffers.

        Args:
            image: the mapped image.
            key: the input's name, for errors.

        Raises:
            InputError: this kind of output cannot hold the image.
            UsageError: all images must have one shape, and this one has another.
        """


@runtime_checkable
class ImageWriter(ImageEncoder, Protocol):
    """An encoder that writes each image in the worker, where images do not depend on each other."""

    def write(self, parts: Parts, name: str, row: int) -> Record:
        """Write one image and return the keys of its record that name its place.

        Raises:
            InputError: its name is too long for a file.
            OutputError: it cannot be written.
        """


@runtime_checkable
class ImagePacker(ImageEncoder, Protocol):
    """An encoder whose images go back to the sink to be packed: their buffers are not used for the next one."""

    def pack(self, parts: Parts, name: str, label: str | None, shape: tuple[int, ...]) -> PackedImage:
        """Return the image as the shard will hold it."""


class MappedBatch(Protocol):
    """The part of a batch's results that sinks use.

    Attributes:
        records: one for every input that was tried; failed ones have the key "error".
        packed: images for shards, in the order of their records.
        piece: name of the file in which a worker left the parts of `packed`; None where they are in memory.
        sizes: bytes of every part in that file.
    """

    records: list[Record]
    packed: list[PackedImage]
    piece: str | None
    sizes: list[list[int]]


class FinishedShard(NamedTuple):
    """A shard of an earlier run.

    Attributes:
        records: of inputs in it, failed ones included.
        size: in bytes.
        last: it was closed because the inputs ended: it may have room.
    """

    records: int
    size: int
    last: bool


class RecordLog(Protocol):
    """The part of a run's checkpoint that sinks use."""

    def add(self, records: Iterable[Record]) -> None:
        """Record finished work."""

    def records(self) -> Iterator[Record]:
        """Return every input's record, in order."""


class Sink(Protocol):
    """The half of a sink that stays in the process of the run.

    Attributes:
        writer: the half that workers call.
        needs_every_input: the place of an image depends on all before it: a run ends when a server does not answer.
    """

    @property
    def writer(self) -> ImageEncoder:
        """Return the half that workers call."""

    @property
    def needs_every_input(self) -> bool:
        """Return True if the place of an image depends on all others."""

    def resume(self, finished: Mapping[int, FinishedShard], kept: int) -> list[Record]:
        """Keep the outputs of earlier runs; return the records to log.

        Args:
            finished: shards of earlier runs, by number.
            kept: so many of them, from the first, stay as they are.
        """

    def add(self, batch: MappedBatch) -> Iterator[Record]:
        """Take the results of a batch, and yield the records to log.

        Raises:
            OutputError: an output cannot be written.
        """

    def summary(self, images: int) -> Record:
        """Return the keys of the manifest's head for so many images; complete after `finish`."""

    def finish(self, log: RecordLog) -> Iterator[Record]:
        """Move unfinished outputs to their final names, durably; return the manifest's records.

        Raises:
            OutputError: an output cannot be written.
        """

    def abandon(self) -> None:
        """Close files that are open, after an error."""


def name_fields(key: str, text: str) -> Record:
    """Return a name as JSON fields: as text, and its bytes under KEY_b64 where they are not UTF-8.

    >>> name_fields("name", "a.jpg")
    {'name': 'a.jpg'}
    """
    fields = storage.path_fields(text)
    return {key if field == "path" else f"{key}_b64": value for field, value in fields.items()}


def decode_name(record: Record, key: str) -> str:
    """Return the name that `name_fields` encoded, which may have any bytes."""
    if (raw := record.get(f"{key}_b64")) is not None:
        return os.fsdecode(base64.b64decode(raw))
    return str(record[key])


def output_shape(record: Record, layout: str) -> tuple[int, int, int]:
    """Return the shape of the array that was written for an image."""
    height, width, _ = record["shape"]
    if record.get("orientation", 1) >= 5:
        height, width = width, height
    count = len(record["map"]["channels"])
    return (count, height, width) if layout == "chw" else (height, width, count)


def holds_volumes(settings: Mapping[str, Any]) -> bool:
    """Return True if an output has a container for each volume, and not the images of all in one."""
    return OUTPUT_KINDS[settings["to"]].volume and not settings.get("stacked")


def open_writer(to: str, *, out: str = "", partial: str = "", alpha: str = "drop", sync: bool = True) -> ImageEncoder:
    """Return the writer of a kind of output; that of a stack has no shape yet (`Stack.of_shape`).

    Args:
        to: kind of output.
        out: output folder.
        partial: folder for files that are being written, on the same file system.
        alpha: "keep" makes alpha a channel of image files.
        sync: wait until the disk holds each file; outputs of many images are synced in any case.
    """
    if to == "stack" or output_kind(to).volume:
        from normcli.sinks.stack import ARRAY, Stack

        return Stack(f"{partial}/{ARRAY}", 0, (), "float32", to)
    if output_kind(to).shard:
        from normcli.sinks.shards import ShardEncoder

        return ShardEncoder(to=to)
    from normcli.sinks.files import FileWriter

    return FileWriter(to=to, out=out, partial=partial, alpha=alpha, sync=sync)


def open_sink(
    writer: ImageEncoder,
    *,
    out: str,
    partial: str,
    dtype: str = "float32",
    size: "ShardSize | None" = None,
    head: Mapping[str, Any] | None = None,
) -> Sink:
    """Return the sink that a writer belongs to.

    Args:
        writer: from `open_writer`.
        out: output folder.
        partial: folder for files that are being written, on the same file system.
        dtype: of the arrays in shards.
        size: of shards; required for tar and parquet.
        head: of the manifest, which containers with attributes record.
    """
    if isinstance(writer, ImagePacker):
        from normcli.sinks.shards import ShardEncoder, ShardSink

        assert isinstance(writer, ShardEncoder) and size is not None
        return ShardSink(writer, out, partial, dtype=dtype, size=size)
    from normcli.sinks.files import FileSink, FileWriter
    from normcli.sinks.stack import Stack, StackSink

    if isinstance(writer, Stack):
        return StackSink(writer, out, partial, head or {})
    assert isinstance(writer, FileWriter)
    return FileSink(writer)


def read_array(to: str, out: str, record: Record, alpha: str, shape: tuple[int, ...]) -> Array:
    """Read one array back as it was written.

    Args:
        to: kind of output.
        out: output folder.
        record: of the image.
        alpha: "keep" where alpha was made a channel.
        shape: of the array by the record; a file of arrays with another one is not read.

    Raises:
        InputError: missing or damaged.
    """
    if to == "stack" or OUTPUT_KINDS[to].volume:
        from normcli.sinks import stack

        return stack.read_row(out, record["row"], to)
    if OUTPUT_KINDS[to].shard:
        from normcli.sinks import shards

        return shards.read_array(os.path.join(out, shards.shard_name(to, record["shard"])), to, record)  # noqa: PTH118
    from normcli.sinks import files

    path = os.path.join(out, decode_name(record, "name")) + OUTPUT_KINDS[to].suffix  # noqa: PTH118
    return files.read_file(to, path, alpha, shape)
