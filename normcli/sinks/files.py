"""One file per image, in a tree that mirrors the source: .npy, .npz, .safetensors, PNG and TIFF.

Each is made as a list of buffers: an array goes to the file without being copied.
"""

import json
import math
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from normcli import images, storage
from normcli.errors import InputError
from normcli.images.encode import png, tiff
from normcli.kernels.affine import Affine
from normcli.options.shared import DecodeOptions
from normcli.sinks.sink import (
    OUTPUT_KINDS,
    Array,
    EncodableImage,
    FinishedShard,
    MappedBatch,
    Parts,
    Record,
    RecordLog,
    decode_name,
)
from normcli.storage.npy import npy_header, read_npy_header, write_npz
from normcli.storage.safetensors_format import read_safetensors_header, safetensors_header
from normcli.storage.seekable import SeekableFile

_PROCESS = os.urandom(4).hex()  # on a cluster, processes of one number may write into one folder


def temporary_name() -> str:
    """Return a name that no other writer in the same folder takes, in this process or on another machine."""
    return f"file-{_PROCESS}-{os.getpid()}-{threading.get_native_id()}"


class FileWriter(NamedTuple):
    """A writer of one file per image.

    Attributes:
        to: kind of output.
        out: output folder.
        partial: folder for files that are being written.
        alpha: "keep" makes alpha a channel.
        sync: wait until the disk holds each file.
    """

    to: str
    out: str = ""
    partial: str = ""
    alpha: str = "drop"
    sync: bool = True

    def encode(self, image: EncodableImage, key: str = "") -> Parts:
        """Return the content of one file as buffers.

        Raises:
            InputError: a PNG cannot hold these channels.
        """
        if not OUTPUT_KINDS[self.to].image:
            return encode_array(self.to, image.array, image.affine)
        count = len(image.channels)
        if self.to == "tiff":
            return tiff(image.array)
        if not png_holds(count, self.alpha):
            raise InputError("channels", f"PNG cannot hold {count} channels (--to tiff does)")
        return [png(image.array)]

    def write(self, parts: Parts, name: str, row: int) -> Record:
        """Write one file under its final name.

        Raises:
            InputError: its name is too long.
            OutputError: it cannot be written.
        """
        path = os.path.join(self.out, name) + OUTPUT_KINDS[self.to].suffix  # noqa: PTH118
        storage.atomic_write_buffers(f"{self.partial}/{temporary_name()}", path, parts, self.out, sync=self.sync)
        return {}


class FileSink:
    """Outputs of one file each, which the workers put under their final names."""

    needs_every_input = False

    def __init__(self, writer: FileWriter) -> None:
        self.writer = writer
        self._folders: set[str] = set()

    def resume(self, finished: Mapping[int, FinishedShard], kept: int) -> list[Record]:
        """Return nothing: each file is kept or written on its own."""
        return []

    def add(self, batch: MappedBatch) -> Iterator[Record]:
        """Yield the records, and remember their folders."""
        for record in batch.records:
            if "error" not in record and not record.get("found"):
                self._folders.add(os.path.dirname(decode_name(record, "name")))  # noqa: PTH120
            yield record

    def summary(self, images: int) -> Record:
        """Return nothing: every file has its own record."""
        return {}

    def finish(self, log: RecordLog) -> Iterator[Record]:
        """Make the names of the files durable, if the files themselves are."""
        folders = self._folders if self.writer.sync else set()
        storage.sync_folders({os.path.join(self.writer.out, folder) for folder in folders})  # noqa: PTH118
        return log.records()

    def abandon(self) -> None:
        """Do nothing: finished files stay."""


def png_holds(channels: int, alpha: str) -> bool:
    """Return True if a PNG can hold so many channels: gray and RGB, and one more that is alpha."""
    return channels in (1, 3) or (alpha == "keep" and channels in (2, 4))


def encode_array(to: str, array: Array, affine: Affine) -> list[Any]:
    """Return the content of one array file as buffers.

    Args:
        to: "npy", "npz" or "safetensors".
        array: the image, C-contiguous.
        affine: scale and shift per channel; npz and safetensors contain them next to the image.
    """
    return {"npy": _npy, "npz": _npz, "safetensors": _safetensors}[to](array, affine)


def read_file(to: str, path: str | Path, alpha: str, shape: tuple[int, ...] | None = None) -> Array:
    """Read one file back as the array that was written.

    Args:
        to: kind of output.
        path: of the file.
        alpha: "keep" where alpha was made a channel.
        shape: of the array by its record; None for any.

    Raises:
        InputError: missing, not such a file, or of another shape by its own header, before its values are read.
    """
    if OUTPUT_KINDS[to].image:
        keep = "keep" if alpha == "keep" and to != "tiff" else "drop"
        return images.decode(storage.read(path), DecodeOptions(alpha=keep)).pixels
    try:
        array = {"npy": _read_npy, "npz": _read_npz, "safetensors": _read_safetensors}[to](path, shape)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("missing", "no such file") from None
    except Exception as error:  # zipfile, json, struct and NumPy raise what they like on damaged files
        raise InputError("damaged", f"not the {to} file that was written: {' '.join(str(error).split())}") from None
    return np.asarray(array)


def _npy(array: Array, affine: Affine) -> list[Any]:
    return [npy_header(array.shape, array.dtype.str), array]


def _npz(array: Array, affine: Affine) -> list[Any]:
    parts: Any = _PartsFile()
    write_npz(parts, {"image": array, "scale": np.array(affine.scale), "shift": np.array(affine.shift)}, mode=0o644)
    return list(parts.parts())


class _PartsFile(SeekableFile):
    """A file that keeps the buffers it is given, without a copy; written parts may only be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[int, Any] = {}

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._at < self.size and memoryview(self._parts[self._at]).nbytes != size:
            raise ValueError("a part is replaced by one of its own size only")
        if size:
            self._parts[self._at] = data
        self._at += size
        self.size = max(self.size, self._at)
        return size

    def parts(self) -> list[Any]:
        """Return the buffers, in order."""
        return [self._parts[offset] for offset in sorted(self._parts)]


def _safetensors(array: Array, affine: Affine) -> list[Any]:
    metadata = {"scale": json.dumps(affine.scale), "shift": json.dumps(affine.shift)}
    return [safetensors_header({"image": (array.shape, array.dtype)}, metadata), array]


def _read_npy(path: str | Path, shape: tuple[int, ...] | None) -> Array:
    with Path(path).open("rb") as file:
        header = read_npy_header(file)
        return _values(file, header.dtype, header.shape, shape, os.fstat(file.fileno()).st_size - header.start)


def _read_npz(path: str | Path, shape: tuple[int, ...] | None) -> Array:
    with zipfile.ZipFile(path) as archive, archive.open("image.npy") as member:
        header = read_npy_header(member)
        _check_shape(header.shape, shape)
        size = math.prod(header.shape) * np.dtype(header.dtype).itemsize
        data = member.read(size + 1)  # the archive is not compressed, and another one expands no further than this
    if len(data) != size:
        raise ValueError(f"{len(data)} of {size} bytes")
    return np.frombuffer(data, header.dtype).reshape(header.shape)


def _read_safetensors(path: str | Path, shape: tuple[int, ...] | None) -> Array:
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        tensors, _ = read_safetensors_header(file, size)
        image = tensors["image"]
        if not image.readable:
            raise InputError("unsupported", f"safetensors of the dtype {image.dtype} are not read")
        file.seek(image.start)
        return _values(file, image.dtype, image.shape, shape, size - image.start)


def _values(
    file: IO[bytes], dtype: str, shape: tuple[int, ...], expected: tuple[int, ...] | None, available: int
) -> Array:
    """Return the values that follow in a file which has so many bytes more."""
    _check_shape(shape, expected)
    count = math.prod(shape)
    if count * np.dtype(dtype).itemsize > available:
        raise ValueError(f"{available} bytes for {count} values")
    return np.fromfile(file, dtype, count).reshape(shape)


def _check_shape(shape: tuple[int, ...], expected: tuple[int, ...] | None) -> None:
    if expected is not None and tuple(shape) != tuple(expected):
        raise InputError("damaged", f"is of shape {tuple(shape)}, and {tuple(expected)} was written")
