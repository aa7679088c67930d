"""Chunks of Zarr and HDF5: the chain of codecs of an array, and decoding within a bound.

A chunk has a fixed number of bytes, so that one that expands to more is a bomb, which is found before its memory is
taken. Codecs are those of numcodecs, save pickle and others that run code.
"""

import contextlib
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normcli import late_imports
from normcli.errors import InputError

Array = np.ndarray[Any, Any]
Codec = tuple[str, Mapping[str, Any]]

LARGEST_CHUNK = 1 << 28  # bytes
_PACKED = frozenset({"blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4"})
_SAME_SIZE = frozenset({"shuffle", "delta", "bitround"})
_CHECKSUMS = frozenset({"crc32", "adler32", "fletcher32", "crc32c"})
_FILTERS = _SAME_SIZE | _CHECKSUMS | {"fixedscaleoffset", "packbits", "quantize", "astype"}
_DTYPES = ("dtype", "astype", "encode_dtype", "decode_dtype")  # settings of filters
_MOST_CODECS = 8
_CHECKSUM_BYTES = 64  # more than those of all checksums
_LARGEST_WINDOW = 1 << 27  # of xz -9: 65 MB
_ZSTD_BLOCK = 1 << 17  # a compressed block is at most of so many bytes
_HARMLESS = 1 << 26


class Chain(NamedTuple):
    """The codecs of chunks, in the order of decoding.

    Attributes:
        codecs: names and settings.
        dtype: of the samples as they are stored.
        order: of the axes as they are stored.
    """

    codecs: tuple[Codec, ...]
    dtype: str
    order: tuple[int, ...]


class Sharding(NamedTuple):
    """Chunks in one file, with an index of their places.

    Attributes:
        chunks: lengths of the inner chunks.
        at_end: of the file is the index; else at its start.
        checksum: of 4 bytes follows the index.
    """

    chunks: tuple[int, ...]
    at_end: bool
    checksum: bool


def chain_of_2(metadata: Mapping[str, Any], dtype: "np.dtype[Any]", axes: int) -> Chain:
    """Return the codecs of an array of Zarr 2.

    Raises:
        InputError: codecs that are not read, or damaged metadata.
    """
    filters = metadata.get("filters") or []
    compressor = metadata.get("compressor")
    if not isinstance(filters, list):
        raise InputError("damaged", "its metadata has filters that are not a list")
    codecs = [compressor, *reversed(filters)] if compressor else filters[::-1]
    order = range(axes)[::-1] if metadata.get("order") == "F" else range(axes)
    return Chain(_validate([_codec(one, "id") for one in codecs]), dtype.str, tuple(order))


def chain_of_3(codecs: Any, dtype: "np.dtype[Any]", axes: int) -> tuple[Chain, Sharding | None]:
    """Return the codecs of an array of Zarr 3, and the arrangement of its chunks in shards.

    Raises:
        InputError: codecs that are not read, or damaged metadata.
    """
    order, chain = tuple(range(axes)), list[Codec]()
    entries = [_codec(one, "name") for one in codecs] if isinstance(codecs, list) else []
    for name, settings in entries:
        if name == "sharding_indexed":
            if len(entries) > 1:
                raise InputError("unsupported", "shards with another codec around them, which are not read")
            return _sharding(settings, dtype, axes)
        if name == "transpose":
            axes_of = settings.get("order")
            if not isinstance(axes_of, list) or sorted(axes_of, key=str) != list(range(axes)):
                raise InputError("damaged", f"its codec transpose has the order {str(axes_of)[:60]}")
            order = tuple(order[i] for i in axes_of)
        elif name in ("bytes", "endian"):
            if dtype.itemsize > 1:
                little = settings.get("endian", "little") == "little"
                dtype = dtype.newbyteorder("<" if little else ">")
        else:
            chain.insert(0, (name, settings))
    if not any(name in ("bytes", "endian") for name, _ in entries):
        raise InputError("damaged", "its metadata has no bytes codec")
    if dtype.byteorder == ">" and any(name in _FILTERS - _CHECKSUMS - {"shuffle"} for name, _ in chain):
        raise InputError("unsupported", "filters of samples in big-endian order, which are not read")
    return Chain(_validate(chain), dtype.str, order), None


def _sharding(settings: Mapping[str, Any], dtype: "np.dtype[Any]", axes: int) -> tuple[Chain, Sharding]:
    codecs = settings.get("index_codecs")
    index = [_codec(one, "name") for one in codecs] if isinstance(codecs, list) else []
    chunks = settings.get("chunk_shape")
    chain, inner = chain_of_3(settings.get("codecs"), dtype, axes)
    if inner is not None:
        raise InputError("unsupported", "shards in shards, which are not read")
    names = [name for name, _ in index]
    if names not in (["bytes"], ["bytes", "crc32c"]) or index[0][1].get("endian", "little") != "little":
        raise InputError("unsupported", f"shards with an index of codecs {', '.join(names)[:60]}, which are not read")
    if not isinstance(chunks, list) or len(chunks) != axes or not all(type(n) is int and n > 0 for n in chunks):
        raise InputError("damaged", "its metadata has no lengths of the chunks in a shard")
    return chain, Sharding(tuple(chunks), settings.get("index_location", "end") == "end", len(index) == 2)


def _codec(entry: Any, key: str) -> Codec:
    if isinstance(entry, str):
        entry = {key: entry}
    name = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise InputError("damaged", "its metadata has a codec without a name")
    settings = entry.get("configuration", {}) if key == "name" else {k: v for k, v in entry.items() if k != key}
    return name.removeprefix("numcodecs."), settings if isinstance(settings, dict) else {}


def _validate(codecs: list[Codec]) -> tuple[Codec, ...]:
    """Check the names of codecs, and the types that they may ask for.

    Raises:
        InputError: codecs that are not read: some of numcodecs, such as pickle, run code.
    """
    for name, settings in codecs:
        if name not in _PACKED | _FILTERS:
            raise InputError("unsupported", f"compressed by the codec {name[:60]}, which is not read")
        for key in _DTYPES:
            try:
                kind = np.dtype(settings.get(key) or "u1").kind
            except (TypeError, ValueError, SyntaxError):
                kind = "O"
            if kind not in "uifb":
                raise InputError("unsupported", f"its codec {name} has samples of {str(settings[key])[:60]}")
    if len(codecs) > _MOST_CODECS or sum(name in _PACKED for name, _ in codecs) > 1:
        raise InputError("unsupported", "chunks that are compressed twice, which are not read")
    return tuple(codecs)


def decode(data: bytes, chain: Chain, shape: tuple[int, ...]) -> Array:
    """Decode a chunk to an array of the shape of chunks, in the order of bytes in which it is stored.

    Raises:
        InputError: damaged, or of more bytes than its shape has.
        MissingExtraError: numcodecs is not installed.
        Exception: those of decoders on damaged data.
    """
    dtype = np.dtype(chain.dtype)
    size = prod(shape) * dtype.itemsize
    plain = all(name in _PACKED | _CHECKSUMS or _keeps_size(name, settings) for name, settings in chain.codecs)
    most = size + _CHECKSUM_BYTES if plain else min(8 * size + _CHECKSUM_BYTES, LARGEST_CHUNK)
    value: Any = data
    for name, settings in chain.codecs:
        value = _UNPACK[name](bytes(value), settings, most) if name in _UNPACK else _unfilter(name, settings, value)
    flat = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.ascontiguousarray(value).ravel()
    if flat.nbytes != size:
        raise InputError("damaged", f"a chunk has {flat.nbytes:,} bytes, but its shape has {size:,}")
    return flat.view(dtype).reshape([shape[i] for i in chain.order]).transpose(np.argsort(chain.order))


def _keeps_size(name: str, settings: Mapping[str, Any]) -> bool:
    return name in _SAME_SIZE and settings.get("astype") in (None, settings.get("dtype"))


def _unfilter(name: str, settings: Mapping[str, Any], value: Any) -> Any:
    return _numcodecs().get_codec({"id": name, **settings}).decode(value)


def _numcodecs() -> Any:
    return late_imports.required("numcodecs", ".zarr", "zarr")


def _bomb(most: int) -> InputError:
    return InputError("bomb", f"a chunk expands to more than the {most:,} bytes of its shape")


@cache
def _libdeflate() -> Any:
    """Return the decoder of imagecodecs, which takes a fourth of the time of zlib; None if it cannot be used."""
    try:
        return late_imports.library("imagecodecs").deflate_decode
    except Exception:  # absent, or it cannot be loaded: zlib returns the same bytes
        return None


def _inflate(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    if data[:1] == b"\x78" and (faster := _libdeflate()) is not None:
        with contextlib.suppress(Exception):  # damaged, or of more bytes: zlib shows which
            return bytes(faster(data, out=most))
    parts, left = [], most
    while data:
        inflater = zlib.decompressobj(47)  # gzip or zlib, by the first bytes
        part = inflater.decompress(data, left + 1)
        left -= len(part)
        if left < 0:
            raise _bomb(most)
        if not inflater.eof:
            raise InputError("truncated", "a chunk is cut short")
        parts.append(part)
        data = inflater.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _bunzip2(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    import bz2

    return _at_once(bz2.BZ2Decompressor(), data, most)


def _unxz(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    import lzma

    if settings.get("format", 1) not in (lzma.FORMAT_XZ, lzma.FORMAT_ALONE):
        raise InputError("unsupported", "compressed by lzma without a header, which is not read")
    return _at_once(lzma.LZMADecompressor(memlimit=_LARGEST_WINDOW), data, most)


def _at_once(inflater: Any, data: bytes, most: int) -> bytes:
    out: bytes = inflater.decompress(data, most + 1)
    if len(out) > most:
        raise _bomb(most)
    if not inflater.eof:
        raise InputError("truncated", "a chunk is cut short")
    return out


def _unblosc(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    size, _, length = struct.unpack_from("<III", data, 4)
    if length > len(data):  # the decoder takes the header's word for the bytes that it reads
        raise InputError("truncated", "a chunk is cut short")
    if size > most:
        raise _bomb(most)
    out: bytes = _numcodecs().blosc.decompress(data)
    return out


def _unlz4(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    if struct.unpack_from("<I", data)[0] > most:
        raise _bomb(most)
    out: bytes = _numcodecs().lz4.decompress(data)
    return out


def _unzstd(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    least, largest = zstd_bounds(data)
    if least > most or largest > max(4 * most, _HARMLESS):
        raise _bomb(most)
    out: bytes = bytes(_numcodecs().zstd.decompress(data))
    return out


def zstd_bounds(data: bytes) -> tuple[int, int]:
    """Return the bytes that frames of Zstandard expand to at least and at most, by the headers of frames and blocks.

    Format: RFC 8878, sections 3.1.1 and 3.1.2.

    Raises:
        struct.error: cut short.
    """
    at = least = largest = 0
    while at < len(data):
        magic, descriptor = struct.unpack_from("<IB", data, at)
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # skippable
            at += 8 + int(struct.unpack_from("<I", data, at + 4)[0])
            continue
        if magic != 0xFD2FB528:
            raise InputError("damaged", "a chunk is not compressed by Zstandard")
        single = descriptor >> 5 & 1
        length = (single, 2, 4, 8)[descriptor >> 6]
        at += 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
        content = int.from_bytes(data[at : at + length], "little") + (256 if length == 2 else 0)
        at += length
        count_of_frame, unknown, last = 0, 0, 0
        while not last:
            header = int.from_bytes(data[at : at + 3], "little")
            if at + 3 > len(data):
                raise InputError("truncated", "a chunk is cut short")
            last, kind, count = header & 1, header >> 1 & 3, header >> 3
            at += 3 + (1 if kind == 1 else count)
            count_of_frame += count if kind < 2 else 0
            unknown += _ZSTD_BLOCK if kind >= 2 else 0
        at += 4 * (descriptor >> 2 & 1)
        least += max(content, count_of_frame)
        largest += content if length else count_of_frame + unknown
    return least, largest


def _check_crc32c(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    google_crc32c = late_imports.required("google_crc32c", ".zarr", "zarr", "google-crc32c")
    if len(data) < 4 or struct.unpack("<I", data[-4:])[0] != google_crc32c.value(data[:-4]):
        raise InputError("damaged", "the checksum of a chunk is wrong")
    return data[:-4]


def _check_fletcher(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    words = np.frombuffer(data[:-4] + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    places = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    sums = [int(part) % 65535 for part in (words.sum(), (words * places).sum())]
    sums_of_file = struct.unpack("<HH", data[-4:])
    if [one % 65535 for one in sums_of_file] != sums:
        raise InputError("damaged", "the checksum of a chunk is wrong")
    return data[:-4]


def _unshuffle(data: bytes, settings: Mapping[str, Any], most: int) -> bytes:
    size = settings.get("elementsize", 4)
    if type(size) is not int or not 0 < size <= 64:
        raise InputError("damaged", f"a filter shuffle of elements of {str(size)[:20]} bytes")
    end = len(data) - len(data) % size  # what is left, such as a checksum, stays as it is
    planes = np.frombuffer(data, np.uint8, end).reshape(size, -1)
    if size not in (2, 4, 8):
        return planes.T.tobytes() + data[end:]
    out: Array = planes[0].astype(f"<u{size}")  # ten times as fast as the transpose
    for i in range(1, size):
        out |= planes[i].astype(out.dtype) << out.dtype.type(8 * i)
    return out.tobytes() + data[end:]


_UNPACK: dict[str, Callable[[bytes, Mapping[str, Any], int], bytes]] = {
    "gzip": _inflate,
    "zlib": _inflate,
    "bz2": _bunzip2,
    "lzma": _unxz,
    "blosc": _unblosc,
    "lz4": _unlz4,
    "zstd": _unzstd,
    "crc32c": _check_crc32c,
    "fletcher32": _check_fletcher,
    "shuffle": _unshuffle,
}
