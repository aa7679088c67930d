"""One array of a Zarr: its metadata, and regions of it, chunk by chunk.

A chunk without a file has the fill value. The chunks of a shard are read at their places in its file.
"""

import math
import threading
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.sources.chunk_codecs import LARGEST_CHUNK, Array, Chain, Sharding, chain_of_2, chain_of_3, decode
from normcli.sources.chunked import region
from normcli.sources.zarr_files import Files

_LARGEST_INDEX = 1 << 26  # bytes, of 4 million chunks in a shard
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_ABSENT = (1 << 64) - 1


class ZarrArray(NamedTuple):
    """An array, as its metadata describes it.

    Attributes:
        files: the folder, zip or server of its chunks.
        path: of the array among them, "" for the root.
        shape: of the array.
        chunks: lengths of the chunks; of those in a shard.
        fill: value of chunks without a file.
        chain: codecs of a chunk.
        shards: lengths of the shards; those of the chunks without shards.
        sharding: arrangement of chunks in a shard; None without shards.
        prefix: of the names of chunks.
        separator: between the numbers of a chunk.
    """

    files: Files
    path: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    fill: int | float
    chain: Chain
    shards: tuple[int, ...]
    sharding: Sharding | None
    prefix: str
    separator: str

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Return the type of samples, in the order of bytes of the machine."""
        return np.dtype(self.chain.dtype).newbyteorder("=")

    def region(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Array:
        """Read a region.

        Raises:
            InputError: a chunk that is damaged or a bomb, or a server that does not answer.
            MissingExtraError: a codec without its library.
            Exception: those of decoders on damaged data.
        """
        return region(start, stop, self.chunks, self.dtype, self._chunk)

    def _chunk(self, chunk: tuple[int, ...]) -> Any:
        data = self._chunk_bytes(chunk)
        return self.fill if data is None else decode(data, self.chain, self.chunks)

    def _chunk_bytes(self, chunk: tuple[int, ...]) -> bytes | None:
        if self.sharding is None:
            return self.files.read(self._key(chunk))
        counts = [n // m for n, m in zip(self.shards, self.chunks, strict=True)]
        shard = tuple(i // n for i, n in zip(chunk, counts, strict=True))
        index = _index(self, self._key(shard), counts)
        if index is None:
            return None
        offset, size = (int(n) for n in index[tuple(i % n for i, n in zip(chunk, counts, strict=True))])
        if offset == size == _ABSENT:
            return None
        if size > 2 * LARGEST_CHUNK:
            raise InputError("damaged", f"the index of a shard has a chunk of {size:,} bytes")
        return self.files.read_range(self._key(shard), offset, size)

    def _key(self, chunk: tuple[int, ...]) -> str:
        name = self.separator.join([*([self.prefix] if self.prefix else []), *map(str, chunk)]) or "0"
        return f"{self.path}/{name}" if self.path else name


class _LastIndex(threading.local):
    """The index of the shard that this thread read last."""

    def __init__(self) -> None:
        self.key: Any = None
        self.index: Array | None = None


_last = _LastIndex()


def _index(array: ZarrArray, key: str, counts: list[int]) -> Array | None:
    """Return offsets and sizes (..., 2) of the chunks in a shard; None for a shard without a file."""
    name = array.files, key
    if _last.key != name:
        _last.key, _last.index = None, _read_index(array, key, counts)
        _last.key = name
    return _last.index


def _read_index(array: ZarrArray, key: str, counts: list[int]) -> Array | None:
    assert array.sharding is not None
    total = array.files.size(key)
    if total is None:
        return None
    size = 16 * prod(counts)
    whole = size + (4 if array.sharding.checksum else 0)
    if whole > total:
        raise InputError("truncated", "a shard is cut short: it has no index")
    data = array.files.read_range(key, total - whole if array.sharding.at_end else 0, whole)
    if array.sharding.checksum:
        data = decode(data, Chain((("crc32c", {}),), "u1", (0,)), (size,)).tobytes()
    return np.frombuffer(data, "<u8").reshape(*counts, 2)


def array_of(files: Files, path: str, metadata: Mapping[str, Any]) -> ZarrArray:
    """Return an array by its metadata.

    Raises:
        InputError: damaged, of another type than numbers, or in a form that is not read.
    """
    shape = _lengths(metadata.get("shape"), "shape", 0)
    try:
        dtype = np.dtype(metadata["dtype"] if "dtype" in metadata else metadata["data_type"])
    except (TypeError, KeyError, ValueError, SyntaxError):
        raise InputError("unsupported", "an array whose samples are not numbers") from None
    if dtype.kind not in "uifb" or dtype.itemsize > 8:
        raise InputError("unsupported", f"an array of {dtype}, not of numbers of up to 64 bits")
    fill = _fill(metadata.get("fill_value"), dtype)
    if metadata.get("zarr_format") == 3 or "codecs" in metadata:
        return _array_of_3(files, path, metadata, shape, dtype, fill)
    chunks = _lengths(metadata.get("chunks"), "chunks", 1, len(shape))
    separator = metadata.get("dimension_separator") or "."
    chain = chain_of_2(metadata, dtype, len(shape))
    return _validate(ZarrArray(files, path, shape, chunks, fill, chain, chunks, None, "", separator))


def _array_of_3(
    files: Files,
    path: str,
    metadata: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: "np.dtype[Any]",
    fill: int | float,
) -> ZarrArray:
    grid, names = metadata.get("chunk_grid"), metadata.get("chunk_key_encoding")
    if not isinstance(grid, dict) or not isinstance(grid.get("configuration"), dict) or not isinstance(names, dict):
        raise InputError("damaged", "its metadata has no lengths of chunks")
    if grid.get("name") != "regular" or metadata.get("storage_transformers"):
        raise InputError("unsupported", "chunks of different lengths, or transformed storage, which are not read")
    shards = _lengths(grid["configuration"].get("chunk_shape"), "chunks", 1, len(shape))
    chain, sharding = chain_of_3(metadata.get("codecs"), dtype, len(shape))
    is_default = names.get("name") == "default"
    settings = names.get("configuration")
    separator = (settings if isinstance(settings, dict) else {}).get("separator", "/" if is_default else ".")
    chunks = shards if sharding is None else sharding.chunks
    prefix = "c" if is_default else ""
    return _validate(ZarrArray(files, path, shape, chunks, fill, chain, shards, sharding, prefix, separator))


def _validate(array: ZarrArray) -> ZarrArray:
    size = prod(array.chunks) * array.dtype.itemsize
    if size > LARGEST_CHUNK:
        raise InputError("bomb", f"chunks of {size:,} bytes, more than {LARGEST_CHUNK:,}")
    if array.separator not in (".", "/"):
        raise InputError("damaged", f"its metadata separates the numbers of chunks by {str(array.separator)[:20]!r}")
    if any(n % m for n, m in zip(array.shards, array.chunks, strict=True)):
        raise InputError(
            "damaged", f"shards of shape {array.shards} do not consist of complete chunks of {array.chunks}"
        )
    if 16 * prod(n // m for n, m in zip(array.shards, array.chunks, strict=True)) > _LARGEST_INDEX:
        raise InputError("bomb", f"shards of {array.shards} have too many chunks of {array.chunks}")
    return array


def _lengths(value: Any, name: str, least: int, axes: int | None = None) -> tuple[int, ...]:
    numbers: Iterator[Any] = iter(value) if isinstance(value, list) else iter(())
    lengths = tuple(n for n in numbers if type(n) is int and least <= n < 1 << 62)
    if not isinstance(value, list) or len(lengths) != len(value) or len(lengths) != (axes or len(lengths)):
        what = "lengths of chunks" if name == "chunks" else "shape"
        raise InputError("damaged", f"its metadata has no {what}")
    return lengths


def _fill(value: Any, dtype: "np.dtype[Any]") -> int | float:
    """Return the value of chunks without a file.

    Raises:
        InputError: it is not of the type of the array.
    """
    try:
        if isinstance(value, str) and value.startswith("0x"):
            bits = int(value, 16).to_bytes(dtype.itemsize, "little")
            return float(np.frombuffer(bits, dtype.newbyteorder("<"))[0])
        number = _SPECIAL.get(value, value) if isinstance(value, str) else value
        if dtype.kind == "f" and isinstance(number, int | float):
            with np.errstate(over="ignore"):
                return float(np.array(number).astype(dtype))
        if isinstance(number, bool | int | float) and dtype.type(number) == number:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    if value is None:
        return 0
    raise InputError("damaged", f"its fill value {str(value)[:40]!r} is not of type {dtype}")
