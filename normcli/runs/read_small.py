"""Small files of a batch, many in one call of a kernel: each takes 2 us less than by the calls of Python."""

import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np

from normcli import platforms
from normcli.kernels.files import STATX_WORDS, read_files
from normcli.sources import Item, Skipped
from normcli.storage.files import READ_FLAGS, ByteRange, FileBytes, read_at, read_early

_TOGETHER = 64  # files of a call
_BUFFER = 1 << 20  # bytes of them; what does not fit is read alone
_GAP = 4096  # bytes between two members of a tar: padding, headers, a label
_SAVED = 2e-6  # seconds that the kernel saves for a file
_alone = 0  # files read without it; a count that threads lose only delays it


def read_small_files(batch: Sequence[Item | Skipped], most: int) -> Iterator[bytes | None]:
    """Yield the bytes of each item that is a local file, or a member of one, of at most so many; None for all others.

    None is also what comes of a file that cannot be read: its loader names the reason.
    """
    for start in range(0, len(batch), _TOGETHER):
        loads: list[Any] = [getattr(item, "load", None) for item in batch[start : start + _TOGETHER]]
        paths = [load.path if type(load) is FileBytes and load.is_local else "" for load in loads]
        contents = iter(_read_together([path for path in paths if path], most))
        members = _read_members(loads, most)
        for load, path, member in zip(loads, paths, members, strict=True):
            data = next(contents) if path else member
            if data is None or (path and load.limit is not None and len(data) > load.limit):
                data = read_early(load, most)
            yield data


def _read_members(loads: list[Any], most: int) -> list[bytes | None]:
    """Return the bytes of members of a tar that follow each other; None for all others, and where a reading failed."""
    found: list[bytes | None] = [None] * len(loads)
    start = 0
    for stop in range(1, len(loads) + 1):
        if stop < len(loads) and _is_next(loads[start], loads[stop - 1], loads[stop], most):
            continue
        if stop > start + 1:
            found[start:stop] = _read_run(loads[start:stop])
        start = stop
    return found


def _is_next(first: Any, last: Any, load: Any, most: int) -> bool:
    """Return True for a small member that one reading serves together with those from `first` to `last`."""
    if not (type(load) is type(first) is ByteRange and load.is_local):
        return False
    is_same_file = load.path == first.path and load.stamp == first.stamp
    is_near = 0 <= load.offset - last.end <= _GAP
    return is_same_file and is_near and load.end - first.offset <= _BUFFER and max(load.size, first.size) <= most


def _read_run(run: list[ByteRange]) -> Sequence[bytes | None]:
    first = run[0].offset
    try:
        data = read_at(run[0].path, first, run[-1].end - first, run[0].stamp)
    except Exception:  # each by itself names what is wrong
        return [None] * len(run)
    return [data[member.offset - first : member.end - first] for member in run]


def _read_together(paths: list[str], most: int) -> Iterable[bytes | None]:
    """Return the bytes of each file, None for one that should be read alone; all are, until a kernel pays."""
    global _alone
    functions = _functions()
    if functions is None or not paths or not read_files.is_worth_loading(_alone * _SAVED):
        _alone += len(paths)
        return repeat(None)
    try:
        return _read_by_kernel(functions, paths, most)
    except (UnicodeEncodeError, MemoryError):  # a path that is no text of the system's, or no room for the buffer
        return repeat(None)


def _read_by_kernel(functions: np.ndarray[Any, Any], paths: list[str], most: int) -> Iterable[bytes | None]:
    names = os.fsencode("\0".join((*paths, "")))
    buffer, sizes = np.empty(_BUFFER, np.uint8), np.zeros(len(paths), np.int64)
    status, flags = np.empty((2, STATX_WORDS), np.uint32), platforms.binary_flags(READ_FLAGS)
    arguments = (functions, flags, np.frombuffer(names, np.uint8), most, buffer, sizes, status)
    if names.count(b"\0") != len(paths) or not read_files.try_call(*arguments):
        return repeat(None)
    return list(_parts(buffer.data, sizes.tolist()))


def _parts(data: memoryview, sizes: list[int]) -> Iterator[bytes | None]:
    at = 0
    for size in sizes:
        yield data[at : at + size].tobytes() if size else None
        at += size


@cache
def _functions() -> np.ndarray[Any, Any] | None:
    """Return the addresses of four functions of the C library for `read_files`; None where a machine has others."""
    if not platforms.is_usual_linux():
        return None
    library = ctypes.CDLL(None)
    try:
        calls = [getattr(library, name) for name in ("open", "statx", "read", "close")]
    except AttributeError:
        return None
    return np.array([ctypes.cast(call, ctypes.c_void_p).value for call in calls], np.int64)
