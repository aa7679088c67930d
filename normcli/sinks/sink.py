"""The kinds of output, and the protocol of a sink: open, resume, add, finish.

A sink has two halves. Its writer is picklable and goes to the workers: it encodes one mapped image, and writes it
where images do not depend on each other. The sink itself stays in the process that started the run: it takes the
workers' results in the order of the inputs, and puts the outputs under their final names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from normcli.errors import UsageError, unknown
from normcli.kernels.affine import Affine

Array = np.ndarray[Any, Any]
Parts = Sequence[Any]  # buffers that make up one file, written one after the other
Record = dict[str, Any]

DTYPES = ("float32", "float16", "float64", "uint8")


@dataclass(frozen=True)
class OutputKind:
    """One value of `--to`.

    Attributes:
        help: one line.
        suffix: of the files; "" for the stack and for shards.
        dtypes: that it can hold, the default first.
        image: True for image files, which are interleaved and RGB, whatever arrays are.
        shard: suffix of the shards that hold many images each; "" for everything else.
    """

    help: str
    suffix: str
    dtypes: tuple[str, ...] = DTYPES
    image: bool = False
    shard: str = ""


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
    return dtype or kind.dtypes[0], layout or ("hwc" if kind.image else "chw"), "rgb" if kind.image else order


class EncodableImage(Protocol):
    """A mapped image, as far as sinks look at it."""

    @property
    def array(self) -> Array:
        """Return the values, C-contiguous."""

    @property
    def affine(self) -> Affine:
        """Return scale and shift per channel."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Return the names of the channels, in the order of `array`."""


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
        """Write one image and return what its record notes of the place.

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
    """The results of one batch, as far as sinks look at them.

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
    """The checkpoint of a run, as far as sinks look at it."""

    def add(self, records: Iterable[Record]) -> None:
        """Note finished work."""

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
        """Return whether the place of an image depends on all others."""

    def resume(self, finished: Mapping[int, FinishedShard], kept: int) -> list[Record]:
        """Keep what earlier runs finished; return the records to log.

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
        """Return what the manifest's head notes of so many images' outputs; complete after `finish`."""

    def finish(self, log: RecordLog) -> Iterator[Record]:
        """Put what is left under its final name, durably; return the manifest's records.

        Raises:
            OutputError: an output cannot be written.
        """

    def abandon(self) -> None:
        """Close files that are open, after an error."""
