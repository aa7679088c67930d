"""The .npy format: its header parsed without evaluating anything, and written as NumPy writes it; the .npz archive.

Format: `numpy.lib.format`, versions 1 to 3. NumPy itself is imported only to check a dtype: listing files needs none.
"""

import ast
import io
import re
import struct
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from normcli.errors import InputError

_MAGIC = b"\x93NUMPY"
_VERSIONS = {1: (10, "<H"), 2: (12, "<I"), 3: (12, "<I")}  # start of the text, type of its length
_MAX_TEXT = 10_000  # NumPy's own limit
MAX_HEADER = _MAX_TEXT + 12
_MAX_AXIS = 1 << 48
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip must hold a time; np.savez takes now, and no two runs give the same bytes


class ArrayHeader(NamedTuple):
    """The header of an array in a file.

    Attributes:
        dtype: type of the elements, as NumPy spells it, such as "<f4".
        fortran: the first axis varies fastest.
        shape: lengths of the axes.
        start: offset of the first element.
    """

    dtype: str
    fortran: bool
    shape: tuple[int, ...]
    start: int


def parse_npy_header(data: bytes | bytearray) -> ArrayHeader:
    """Parse the header at the start of an .npy.

    Args:
        data: the first `MAX_HEADER` bytes of the file, or all of a shorter one.

    Raises:
        InputError: not an .npy, damaged, cut short, or an array of objects or records.
    """
    start, length = _text_position(data)
    if len(data) < start + length:
        raise InputError("truncated", "the file is cut short inside its header")
    # Python 2 wrote long integers as 10L
    text = re.sub(r"(\d)L\b", r"\1", data[start : start + length].decode("latin-1").strip())
    try:
        entries = ast.literal_eval(text)
        dtype, fortran, shape = entries["descr"], bool(entries["fortran_order"]), tuple(entries["shape"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise InputError("damaged", "a damaged NumPy header") from None
    if not isinstance(dtype, str) or "O" in dtype:
        raise InputError("unsupported", "an array of objects or records, which would have to be unpickled")
    _check_dtype(dtype)
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < _MAX_AXIS for n in shape):
        raise InputError("damaged", "a damaged NumPy header")
    return ArrayHeader(dtype, fortran, shape, start + length)


def read_npy_header(file: IO[bytes]) -> ArrayHeader:
    """Read the header of an .npy from a file or pipe, up to the first element.

    Raises:
        InputError: as `parse_npy_header`.
    """
    head = file.read(12)
    start, length = _text_position(head)
    return parse_npy_header(head + file.read(max(0, start + length - len(head))))


def _text_position(head: bytes | bytearray) -> tuple[int, int]:
    """Return start and length of the header's text."""
    if head[:6] != _MAGIC or len(head) < 12:
        raise InputError("not-an-array", "not a NumPy file")
    if head[6] not in _VERSIONS or head[7]:
        raise InputError("unsupported", f"a NumPy file of version {head[6]}.{head[7]}; known are 1.0, 2.0 and 3.0")
    start, form = _VERSIONS[head[6]]
    (length,) = struct.unpack_from(form, head, 8)
    if length > _MAX_TEXT:
        raise InputError("damaged", f"a header of {length} bytes")
    return start, length


def _check_dtype(dtype: str) -> None:
    import numpy as np

    try:
        np.dtype(dtype)
    except Exception:  # NumPy parses it as Python: TypeError, ValueError, SyntaxError, …
        raise InputError("damaged", f"an array of unknown type {dtype[:40]!r}") from None


@lru_cache(maxsize=256)
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the bytes before the elements of an .npy in C order."""
    import numpy as np
    from numpy.lib import format as npy

    buffer = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def write_npz(target: Path | IO[bytes], arrays: Mapping[str, Any], *, mode: int) -> None:
    """Write an .npz, not compressed: the same bytes for the same arrays.

    Args:
        target: path or open file.
        arrays: key -> array, C-contiguous, or a tensor in a file whose `parts` gives its bytes piece by piece.
        mode: permissions of an extracted member.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            info = zipfile.ZipInfo(f"{key}.npy", _EPOCH)
            info.external_attr = mode << 16
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(npy_header(array.shape, array.dtype.str))
                for part in array.parts() if hasattr(array, "parts") else [bytes_of(array)]:
                    member.write(part)


def bytes_of(array: Any) -> memoryview:
    """Return the bytes of a C-contiguous array without copying them; a memoryview cannot cast an empty one."""
    import numpy as np

    return memoryview(array.reshape(-1).view(np.uint8))
