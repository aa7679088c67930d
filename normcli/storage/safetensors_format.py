"""The .safetensors format: a JSON header, then the tensors as plain bytes.

Parsed and written here and not by its library, which maps files: so tensors larger than memory go by blocks. The
checks are the format's own: a header of at most 100 MB, tensors inside the file, without holes and overlaps.
"""

import json
import math
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

from normcli import late_imports
from normcli.errors import InputError, shortened

if TYPE_CHECKING:
    import numpy as np

_MAX_HEADER = 100_000_000

# name in the format -> name in NumPy, which has no bfloat16 of its own
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
# types of the format that NumPy lacks or that no command computes with -> bits of an element
_UNREAD = {
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
    "C64": 64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class TensorEntry(NamedTuple):
    """A tensor in a file.

    Attributes:
        dtype: type of the elements, as NumPy spells it, or "bfloat16"; one that cannot be read as the file spells it.
        shape: lengths of the axes.
        start: offset of the first element in the file.
        size: of all elements, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def readable(self) -> bool:
        """Return True if normcli reads elements of this type."""
        return self.dtype not in _UNREAD


def bfloat16() -> "np.dtype[Any]":
    """Return the dtype that NumPy itself lacks.

    Raises:
        MissingExtraError: ml_dtypes is not installed.
    """
    ml_dtypes = late_imports.required("ml_dtypes", "bfloat16", "safetensors")
    import numpy as np

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def read_safetensors_header(file: IO[bytes], size: int) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Read the tensors and the metadata from the header of a file.

    Args:
        file: open at its start.
        size: of the file, in bytes.

    Raises:
        InputError: the header is damaged, or its sizes are not those of the file.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        _reject(f"the header claims {length} bytes of a file of {size}")
    try:
        entries = json.loads(file.read(length).decode())
    except (ValueError, RecursionError) as error:
        _reject(f"the header is not JSON ({type(error).__name__})")
    if not isinstance(entries, dict):
        _reject("the header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _reject("its metadata is not a map of strings")
    spans = {name: _span(name, entry) for name, entry in entries.items()}
    end = 0
    for name, (start, stop, _, _) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if start != end:
            _reject(f"{shortened(name)!r} starts at {_text(start)}, not at {_text(end)}")
        end = stop
    if 8 + length + end != size:
        _reject(f"its tensors end at {_text(8 + length + end)}, the file at {size}")
    tensors = {
        name: TensorEntry(_DTYPES.get(code, code), shape, 8 + length + start, stop - start)
        for name, (start, stop, shape, code) in spans.items()
    }
    return tensors, metadata


def _span(name: str, entry: Any) -> tuple[int, int, tuple[int, ...], str]:
    """Return first and last offset, shape and dtype of a tensor."""
    try:
        code, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        _reject(f"the entry of {shortened(name)!r} is incomplete")
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        _reject(f"{shortened(name)!r} has the shape {_text(shape)} at {_text(start)} to {_text(stop)}")
    if not isinstance(code, str) or code not in (*_DTYPES, *_UNREAD):
        _reject(f"{shortened(name)!r} has the dtype {_text(code)}")
    if math.prod(shape) * _bits(code) != (stop - start) * 8:
        _reject(f"{shortened(name)!r} of shape {_text(shape)} {code} claims {_text(stop - start)} bytes")
    return start, stop, shape, code


def _text(value: Any) -> str:
    """Return a value of the header for a message: it may be a million numbers, or one of a million digits."""
    return shortened("a large number" if isinstance(value, int) and abs(value) >> 64 else repr(value))


def _bits(code: str) -> int:
    """Return the size of an element."""
    return _UNREAD.get(code) or (16 if code == "BF16" else int(_DTYPES[code][2:]) * 8)


def _reject(problem: str) -> NoReturn:
    raise InputError("damaged", f"not a valid safetensors file: {problem}")


def safetensors_header(
    tensors: Mapping[str, tuple[tuple[int, ...], "np.dtype[Any] | str"]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the bytes before the tensors.

    Args:
        tensors: name -> shape and dtype, in the order in which they follow; a text is the format's own dtype.
        metadata: strings by key.

    Raises:
        InputError: a dtype that the format lacks.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (shape, dtype) in tensors.items():
        code = dtype if isinstance(dtype, str) else _code(dtype)
        if code is None:
            raise InputError("unsupported", f"safetensors has no dtype {dtype} ({name})")
        start, end = end, end + math.prod(shape) * _bits(code) // 8
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _code(dtype: "np.dtype[Any]") -> str | None:
    return _NAMES.get("bfloat16" if dtype.name == "bfloat16" else dtype.newbyteorder("<").str)
