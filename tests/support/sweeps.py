"""Image files of every combination that a library writes, each with its values as an array."""

import io
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.images import decode
from normcli.options.shared import DecodeOptions

Array = np.ndarray[Any, Any]
DAMAGED = "not an image that normcli reads, or its header is damaged"


class Sample(NamedTuple):
    """One file.

    Attributes:
        name: of the combination.
        data: the bytes.
        values: (H,W,C) as they must be read, alpha as the last channel where there is one.
        white: the value that maps to 1.0; None for raw units.
        alpha: the last channel is an alpha.
    """

    name: str
    data: bytes
    values: Array
    white: int | None
    alpha: bool = False


def outcome(sample: Sample) -> str:
    """Decode a sample; return "right", "refused", or the difference."""
    try:
        image = decode(sample.data, DecodeOptions(alpha="keep" if sample.alpha else "drop"))
    except InputError as error:
        healthy = error.reason in ("unsupported", "max-value") and DAMAGED not in error.message
        return "refused" if healthy else f"wrong words: {error.reason}: {error.message}"
    pixels = image.pixels
    white = image.full_scale or {"uint8": 255, "uint16": 65535}.get(pixels.dtype.name)
    if pixels.shape != sample.values.shape:
        return f"wrong shape: {pixels.shape}"
    if (white is None) != (sample.white is None):
        return f"wrong scale: {white}"
    if white is None or sample.white is None:
        same = np.array_equal(pixels.astype("f8"), sample.values.astype("f8"), equal_nan=True)
    else:
        same = np.array_equal(pixels.astype("i8") * sample.white, sample.values.astype("i8") * white)
    return "right" if same else f"wrong values: {pixels.reshape(-1)[:3]} for {sample.values.reshape(-1)[:3]}"


def judge(samples: Iterable[Sample]) -> tuple[Counter[str], list[str]]:
    """Count right and rejected samples; return the wrong ones by name."""
    counts: Counter[str] = Counter()
    wrong = []
    for sample in samples:
        result = outcome(sample)
        kind = result if result in ("right", "refused") else "wrong"
        counts[kind] += 1
        if kind == "wrong":
            wrong.append(f"{sample.name}: {result}")
    return counts, wrong


def values(shape: tuple[int, ...], dtype: str, bits: int | None = None, seed: int = 0) -> Array:
    """Return random values of a dtype over its range, or of so many bits."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(3, 50, shape).astype(kind)
    if kind.kind == "c":
        return (rng.normal(3, 50, shape) + 1j * rng.normal(3, 50, shape)).astype(kind)
    info = np.iinfo(kind)
    low, high = (0, (1 << bits) - 1) if bits else (int(info.min), int(info.max))
    return rng.integers(
        max(low, -(1 << 53)), min(high, 1 << 53), shape, dtype=kind if kind.itemsize < 8 else "i8", endpoint=True
    ).astype(kind)


# ---------------------------------------------------------------- TIFF

TIFF_AXES: dict[str, tuple[Any, ...]] = {
    "dtype": ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8"),
    "bands": (1, 2, 3, 4, 5),
    "byteorder": ("<", ">"),
    "compression": (None, "lzw", "zlib", "packbits", "zstd", "lzma"),
    "predictor": (False, True),
    "planarconfig": ("contig", "separate"),
    "tile": (None, (16, 16)),
    "bigtiff": (False, True),
    "photometric": ("miniswhite", "minisblack", "rgb"),
}
TIFF_BITS = tuple(range(1, 16))


def tiffs(every: int = 1) -> Iterator[Sample]:
    """Yield every combination of the axes that tifffile writes, or every n-th of them."""
    for number, chosen in enumerate(itertools.product(*TIFF_AXES.values())):
        if number % every == 0 and (sample := _tiff(**dict(zip(TIFF_AXES, chosen, strict=True)))) is not None:
            yield sample


def _tiff(dtype: str, bands: int, photometric: str, predictor: bool, **how: Any) -> Sample | None:
    import tifffile

    if (photometric == "rgb" and bands < 3) or (predictor and how["compression"] is None):
        return None
    if bands == 1 and how["planarconfig"] == "separate":
        return None
    stored = values((20, 24, bands), dtype, seed=bands)
    written = stored[:, :, 0] if bands == 1 else stored
    if how["planarconfig"] == "separate":
        written = np.ascontiguousarray(np.moveaxis(stored, 2, 0))
    if bands == 1:
        how.pop("planarconfig")
    buffer = io.BytesIO()
    try:
        tifffile.imwrite(buffer, written, photometric=photometric, predictor=predictor, metadata=None, **how)
    except (ValueError, NotImplementedError, TypeError, KeyError):
        return None
    name = f"tiff {dtype} x {bands} {photometric} predictor={predictor} {how}"
    kind = np.dtype(dtype)
    white = {"u1": 255, "u2": 65535}.get(dtype)
    meant = stored
    if photometric == "miniswhite" and kind.kind == "u":
        meant = np.iinfo(kind).max - stored
    elif photometric == "miniswhite":
        return Sample(name, buffer.getvalue(), np.full((1, 1, 1), np.nan), None)  # must be refused
    return Sample(name, buffer.getvalue(), meant, white, photometric == "rgb" and bands == 4)


def tiffs_of_bits() -> Iterator[Sample]:
    """Yield TIFFs of 1 to 15 bits a sample, one and three bands, either order, packed or compressed."""
    import tifffile

    axes = itertools.product(TIFF_BITS, (1, 3), "<>", (None, "lzw"), ("miniswhite", "minisblack", "rgb"))
    for bits, bands, order, compression, photometric in axes:
        if (photometric == "rgb") != (bands == 3):
            continue
        stored = values((20, 24, bands), "u1" if bits <= 8 else "u2", bits, seed=bits)
        buffer = io.BytesIO()
        how: dict[str, Any] = {"byteorder": order, "compression": compression, "photometric": photometric}
        if bits not in (8, 16):
            how["bitspersample"] = bits
        try:
            tifffile.imwrite(buffer, stored if bands == 3 else stored[:, :, 0], metadata=None, **how)
        except (ValueError, NotImplementedError, TypeError, KeyError):
            continue
        data = buffer.getvalue()
        if compression is None and order == ">" and bits not in (8, 16):  # tifffile 2026.3 packs swapped bytes
            rows = b"".join(_packed(row.reshape(-1, 1), bits) for row in stored)
            with tifffile.TiffFile(io.BytesIO(data)) as file:
                (start,), (size,) = file.pages[0].dataoffsets, file.pages[0].databytecounts
            assert size == len(rows)
            data = data[:start] + rows + data[start + size :]
        white = (1 << bits) - 1
        meant = white - stored.astype("i8") if photometric == "miniswhite" else stored
        yield Sample(f"tiff {bits} bits x {bands} {how}", data, meant, white)


# ---------------------------------------------------------------- PNG


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array: Array, depth: int, color: int, *chunks: bytes, interlace: bool = False) -> bytes:
    """Return a PNG of any depth (H,W,C); `chunks` are before the image data."""
    height, width = array.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlace:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(b"\0" + _packed(row, depth) for y, x, dy, dx in passes for row in array[y::dy, x::dx] if row.size)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlace))
    body = png_chunk(b"IHDR", head) + b"".join(chunks) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def _packed(row: Array, depth: int) -> bytes:
    if depth in (8, 16):
        return row.astype(">u2" if depth == 16 else "u1").tobytes()
    bits = row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1) & 1
    return np.packbits(bits.reshape(-1).astype("u1")).tobytes()


PNG_KINDS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}


def pngs() -> Iterator[Sample]:
    """Yield every depth and color type, plain and interlaced, with and without a transparent color."""
    for color, (samples, depths) in PNG_KINDS.items():
        for depth, interlace, keyed in itertools.product(depths, (False, True), (False, True)):
            if keyed and color in (4, 6):
                continue
            stored = values((19, 21, samples), "u2", depth, seed=depth)
            name = f"png color type {color} of {depth} bits interlace={interlace} tRNS={keyed}"
            white, meant, chunks = (1 << depth) - 1, stored, []
            opaque = np.full((19, 21, 1), white, "u2")
            key = stored[3, 3]
            hidden = (stored == key).all(axis=2, keepdims=True)
            if color == 3:
                palette = values((1 << depth, 3), "u1", seed=1)
                palette[:, 0] |= 1  # not gray
                palette[:, 1] &= 254
                chunks.append(png_chunk(b"PLTE", palette.tobytes()))
                white, meant = 255, palette[stored[:, :, 0]]
                opacity = values((1 << depth,), "u1", seed=2)
                if keyed:
                    chunks.append(png_chunk(b"tRNS", opacity.tobytes()))
                    meant = np.dstack([meant, opacity[stored[:, :, 0]]])
            elif keyed:
                chunks.append(png_chunk(b"tRNS", struct.pack(f">{samples}H", *key)))
                meant = np.dstack([stored, np.where(hidden, 0, opaque)])
            yield Sample(
                name, png(stored, depth, color, *chunks, interlace=interlace), meant, white, keyed or color in (4, 6)
            )


# ---------------------------------------------------------------- JPEG 2000, JPEG


def jpeg2000s() -> Iterator[Sample]:
    """Yield every precision that imagecodecs writes, signed and not, in a box and bare, of one to five components."""
    import imagecodecs

    axes = itertools.product(range(1, 17), (False, True), ("j2k", "jp2"), (1, 2, 3, 4, 5))
    for bits, signed, container, samples in axes:
        dtype = ("i" if signed else "u") + ("1" if bits <= 8 else "2")
        stored = values((20, 28, samples), "u2", bits, seed=bits)
        if signed:
            stored = (stored.astype("i4") - (1 << (bits - 1))).astype(dtype)
        stored = stored.astype(dtype)
        how: dict[str, Any] = {"level": 0, "reversible": True, "bitspersample": bits, "codecformat": container}
        if samples > 1:
            how |= {"planar": False, "colorspace": "srgb" if samples in (3, 4) else "gray", "mct": False}
        try:
            data = imagecodecs.jpeg2k_encode(stored if samples > 1 else stored[:, :, 0], **how)
            if not np.array_equal(imagecodecs.jpeg2k_decode(data).reshape(stored.shape), stored):
                continue
        except Exception:  # not a combination that it writes
            continue
        name = f"jpeg 2000 {bits} bits signed={signed} {container} x {samples}"
        yield Sample(name, bytes(data), stored, None if signed else (1 << bits) - 1, samples in (2, 4))


def jpegs() -> Iterator[Sample]:
    """Yield every precision that imagecodecs writes, lossy and lossless, gray and color."""
    import imagecodecs

    for bits, lossless, samples in itertools.product(range(2, 17), (False, True), (1, 3)):
        stored = values((24, 32, samples), "u1" if bits <= 8 else "u2", bits, seed=bits)
        stored = np.kron(stored[:3, :4], np.ones((8, 8, 1), stored.dtype))
        how: dict[str, Any] = {"bitspersample": bits, "lossless": lossless}
        try:
            data = imagecodecs.jpeg_encode(stored if samples > 1 else stored[:, :, 0], **how)
            meant = imagecodecs.jpeg_decode(data).reshape(stored.shape)
        except Exception:  # not a precision that it writes
            continue
        if lossless and samples == 1:
            assert np.array_equal(meant, stored)
        yield Sample(f"jpeg {bits} bits lossless={lossless} x {samples}", bytes(data), meant, (1 << bits) - 1)


# ---------------------------------------------------------------- PNM


def pnms(maxvals: Iterable[int]) -> Iterator[Sample]:
    """Yield PGM, PPM and PAM of these maxvals, plain and binary, and the bitmaps."""
    for maxval in maxvals:
        for magic, samples in ((2, 1), (3, 3), (5, 1), (6, 3), (7, 1), (7, 2), (7, 3), (7, 4)):
            stored = np.random.default_rng(maxval).integers(0, maxval, (5, 7, samples), endpoint=True)
            yield Sample(
                f"P{magic} x {samples} maxval {maxval}", pnm(magic, stored, maxval), stored, maxval, samples in (2, 4)
            )
    stored = values((5, 11, 1), "u1", 1)
    for magic in (1, 4):
        yield Sample(f"P{magic}", pnm(magic, 1 - stored, 1), stored, 1)


def pnm(magic: int, array: Array, maxval: int) -> bytes:
    """Return (H,W,C) as a file of one of the seven formats."""
    height, width, samples = array.shape
    if magic == 7:
        kinds = {1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"}
        size = f"WIDTH {width}\nHEIGHT {height}\nDEPTH {samples}\n"
        head = f"P7\n{size}MAXVAL {maxval}\nTUPLTYPE {kinds[samples]}\nENDHDR\n"
    else:
        head = f"P{magic}\n# a comment\n{width} {height}\n" + ("" if magic in (1, 4) else f"{maxval}\n")
    if magic in (1, 2, 3):
        body = "\n".join(" ".join(map(str, row)) for row in array.reshape(height, -1)).encode()
    elif magic == 4:
        body = np.packbits(array[:, :, 0].astype("u1"), axis=1).tobytes()
    else:
        body = array.astype("u1" if maxval < 256 else ">u2").tobytes()
    return head.encode() + body


SWEEPS: dict[str, Callable[[], Iterator[Sample]]] = {
    "tiff": tiffs,
    "tiff of 1 to 15 bits": tiffs_of_bits,
    "png": pngs,
    "jpeg 2000": jpeg2000s,
    "jpeg": jpegs,
    "pnm": lambda: pnms(range(1, 65536)),
}
