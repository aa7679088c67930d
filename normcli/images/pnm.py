"""PBM, PGM, PPM, PAM and PFM: every maxval, exactly as stored.

Pillow scales each maxval to 8 or 16 bits and rounds, and reads neither PAM nor 16-bit or float color.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.images.convert import Decoded, check_size, from_levels
from normcli.options.shared import DecodeOptions

_NUMBER = re.compile(rb"(?:[ \t\r\n\v\f]|#[^\r\n]*[\r\n])*([0-9]+)")
_SCALE = re.compile(rb"[ \t\r\n\v\f]*([-+0-9.eE]+)[ \t\r\n\v\f]")
_COMMENT = re.compile(rb"#[^\r\n]*")
_SPACE = b" \t\r\n\v\f"
_PAM_LINE = re.compile(rb"[ \t]*(?:#[^\n]*|(\w+)[ \t]*([^\n]*?)[ \t\r]*|)\n")
_OTHER = re.compile(rb"[^0-9 \t\r\n\v\f]")
_LONGEST_HEADER = 1 << 16
# tuple type of a PAM -> colors and whether alpha follows
_TUPLE_TYPES = {
    b"BLACKANDWHITE": (1, False),
    b"GRAYSCALE": (1, False),
    b"RGB": (3, False),
    b"BLACKANDWHITE_ALPHA": (1, True),
    b"GRAYSCALE_ALPHA": (1, True),
    b"RGB_ALPHA": (3, True),
}


class _Header(NamedTuple):
    width: int
    height: int
    samples: int
    maxval: int
    start: int
    tuple_type: bytes | None = None  # of a PAM, which may leave it out


def is_pnm(data: bytes) -> bool:
    """Return True if a file opens as one of the Netpbm formats or PFM."""
    return data[:1] == b"P" and data[1:2] in _MAGIC and data[2:3] in _WHITE


_MAGIC = frozenset(bytes([c]) for c in b"1234567Ff")
_WHITE = frozenset(bytes([c]) for c in _SPACE + b"#")


def decode(data: bytes, reading: DecodeOptions) -> Decoded:
    """Decode the first image of a file.

    Raises:
        InputError: damaged, cut short or too large.
    """
    kind = data[1:2]
    if kind in b"Ff":
        return _floats(data, reading)
    header = _pam_header(data) if kind == b"7" else _header(data, kind)
    check_size(header.width, header.height, reading)
    if not 1 <= header.maxval <= 65535:
        raise InputError("damaged", f"its maxval is {header.maxval}, not 1 to 65535")
    if header.samples < 1 or header.width * header.height * header.samples > 4 * reading.max_pixels:
        raise InputError(
            "bomb",
            f"{header.samples} bands of {header.width} x {header.height}, none or more than four times --max-pixels",
        )
    read = {b"1": _plain_bits, b"2": _plain, b"3": _plain, b"4": _packed_bits}.get(kind, _binary)
    levels, end = read(data, header)
    if header.maxval not in (255, 65535) and (highest := int(levels.max())) > header.maxval:
        raise InputError("damaged", f"a sample of {highest} is above the maxval of {header.maxval}")
    levels = levels.reshape(header.height, header.width, header.samples)
    notes = ["multi-frame"] if is_pnm(data[end : end + 3]) else []
    return _decoded(levels, header, notes)


def _decoded(levels: np.ndarray[Any, Any], header: _Header, notes: list[str]) -> Decoded:
    kind = header.tuple_type or b""
    colors, alpha = _TUPLE_TYPES.get(kind, (header.samples, False))
    if colors + alpha != header.samples:
        raise InputError("damaged", f"{header.samples} bands of the tuple type {kind.decode('latin-1')}")
    rgb = "bands3" if header.tuple_type == b"" else "RGB"  # OpenCV writes BGR, without a type
    mode = {1: "L", 3: rgb}.get(colors, f"bands{colors}") + ("A" if alpha else "")
    depth = header.maxval.bit_length()
    if mode == "L" and header.maxval in (1, 65535):
        mode = "1" if header.maxval == 1 else "I"  # as Pillow names them
    elif header.maxval == 65535:
        mode += ";16"
    pixels, full_scale = from_levels(levels, header.maxval)
    return Decoded(pixels, "PPM", mode, depth, has_alpha=alpha, notes=notes, full_scale=full_scale)


def _header(data: bytes, kind: bytes) -> _Header:
    numbers, at = [], 2
    for _ in range(2 if kind in b"14" else 3):
        match = _NUMBER.match(data, at, at + _LONGEST_HEADER)
        if match is None or len(match[1]) > 9:
            raise InputError("damaged", "its header is damaged: a number of the size or the maxval is missing")
        numbers.append(int(match[1]))
        at = match.end()
    if data[at : at + 1] not in _WHITE:
        reason = "truncated" if at >= len(data) else "damaged"
        raise InputError(reason, "its header ends without white space")
    return _Header(numbers[0], numbers[1], 3 if kind in b"36" else 1, 1 if kind in b"14" else numbers[2], at + 1)


def _pam_header(data: bytes) -> _Header:
    fields: dict[bytes, bytes] = {}
    at = data.find(b"\n", 0, _LONGEST_HEADER) + 1
    while 0 < at < _LONGEST_HEADER and (match := _PAM_LINE.match(data, at, at + _LONGEST_HEADER)):
        at = match.end()
        if match[1] == b"ENDHDR":
            break
        if match[1]:
            fields[match[1]] = match[2] if match[1] != b"TUPLTYPE" else (fields.get(match[1], b"") + b" " + match[2])
    else:
        raise InputError("damaged", "its header is damaged: no ENDHDR")
    try:
        width, height, samples, maxval = (int(fields[key]) for key in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError):
        raise InputError("damaged", "its header is damaged: WIDTH, HEIGHT, DEPTH and MAXVAL must be numbers") from None
    return _Header(width, height, samples, maxval, at, fields.get(b"TUPLTYPE", b"").strip())


def _span(data: bytes, start: int, size: int) -> memoryview:
    if len(data) - start < size:
        raise InputError("truncated", f"cannot be decoded: {max(0, len(data) - start)} of {size} bytes of pixels")
    return memoryview(data)[start : start + size]


def _binary(data: bytes, header: _Header) -> tuple[np.ndarray[Any, Any], int]:
    dtype = np.dtype("u1" if header.maxval < 256 else ">u2")
    size = header.width * header.height * header.samples * dtype.itemsize
    levels = np.frombuffer(_span(data, header.start, size), dtype)
    return levels.astype(dtype.newbyteorder("="), copy=False), header.start + size


def _packed_bits(data: bytes, header: _Header) -> tuple[np.ndarray[Any, Any], int]:
    row = (header.width + 7) // 8
    packed = np.frombuffer(_span(data, header.start, row * header.height), np.uint8).reshape(header.height, row)
    bits = np.unpackbits(packed, axis=1, count=header.width)
    return 1 - bits, header.start + row * header.height  # 1 is black


def _plain_bits(data: bytes, header: _Header) -> tuple[np.ndarray[Any, Any], int]:
    count = header.width * header.height
    digits = _COMMENT.sub(b"", data[header.start :]).translate(None, _SPACE)[:count]
    if len(digits) < count:
        raise InputError("truncated", f"cannot be decoded: {len(digits)} of {count} pixels")
    bits = np.frombuffer(digits, np.uint8) - 48
    if bits.max() > 1:
        raise InputError("damaged", "a pixel is neither 0 nor 1")
    return 1 - bits, len(data)


def _plain(data: bytes, header: _Header) -> tuple[np.ndarray[Any, Any], int]:
    count = header.width * header.height * header.samples
    text = _COMMENT.sub(b"", data[header.start :])
    other = _OTHER.search(text)  # what other programs leave behind the samples
    text = text[: other.start()] if other else text
    levels = np.fromstring(text, np.int64, sep=" ") if text.strip() else np.empty(0, np.int64)
    if levels.size < count:
        raise InputError("damaged" if other else "truncated", f"cannot be decoded: {levels.size} of {count} samples")
    levels = levels[:count]
    if int(levels.max()) > 65535 or int(levels.min()) < 0:
        raise InputError("damaged", f"a sample is above the maxval of {header.maxval}")
    return levels.astype(np.uint8 if header.maxval < 256 and int(levels.max()) < 256 else np.uint16), len(data)


def _floats(data: bytes, reading: DecodeOptions) -> Decoded:
    """Decode a PFM: float32 in raw units, rows from below; the sign of its scale is the order of the bytes."""
    numbers, at = [], 2
    for _ in range(2):
        match = _NUMBER.match(data, at, at + _LONGEST_HEADER)
        if match is None or len(match[1]) > 9:
            raise InputError("damaged", "its header is damaged: no width and height")
        numbers.append(int(match[1]))
        at = match.end()
    scale = _SCALE.match(data, at, at + _LONGEST_HEADER)
    try:
        order = "<" if scale is not None and float(scale[1]) < 0 else ">"
        valid = scale is not None and float(scale[1]) != 0
    except ValueError:
        valid = False
    if not valid or scale is None:
        raise InputError("damaged", "its header is damaged: no scale")
    width, height = numbers
    check_size(width, height, reading)
    samples = 3 if data[1:2] == b"F" else 1
    values = np.frombuffer(_span(data, scale.end(), width * height * samples * 4), order + "f4")
    pixels = np.ascontiguousarray(values.reshape(height, width, samples)[::-1], dtype=np.float32)
    return Decoded(pixels, "PPM", "F" if samples == 1 else "RGB;float32", 32)
