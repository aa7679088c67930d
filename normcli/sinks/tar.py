"""Write WebDataset shards, and read one array of them back; `sources.tar` reads complete shards.

Members are in order, without owner and time: the same images make the same bytes.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from normcli import platforms
from normcli.errors import InputError
from normcli.sinks.sink import Array, SpilledPart, part_size
from normcli.sources.tar_headers import BLOCK, END, parse_header
from normcli.storage import write_all
from normcli.storage.files import read_at
from normcli.storage.npy import parse_npy_header


class TarShardWriter:
    """A tar that is being written: samples one after the other, then the two end-of-archive blocks.

    Args:
        path: temporary; the caller renames it.

    Attributes:
        size: bytes so far.
    """

    def __init__(self, path: str) -> None:
        self._handle = platforms.open_binary(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.size = 0

    def after(self, size: int) -> int:
        """Return the size of the shard with so many bytes more."""
        return self.size + size + len(END) * 2

    def add(self, parts: Sequence[Any], name: str, label: str | None, shape: tuple[int, ...]) -> dict[str, int]:
        """Write the result of `pack_sample`; return the offset of its array, after the header of KEY.npy."""
        at = self.size + part_size(parts[0])
        for part in parts:
            self.size += write_all(self._handle, part.pieces() if isinstance(part, SpilledPart) else [part])
        return {"offset": at}

    def close(self, *, complete: bool) -> int:
        """Close the file, a complete archive with its end and durably; return its size."""
        try:
            if complete:
                self.size += write_all(self._handle, [END, END])
                os.fsync(self._handle)
        finally:
            os.close(self._handle)
        return self.size


def sample_key(name: str) -> str:
    """Return the key of a WebDataset sample, whose readers take the first dot of a file's name for the key's end.

    >>> sample_key("cat/v1.0/a.b.jpg")
    'cat/v1.0/a_b_jpg'
    """
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.replace(".", "_")


def pack_sample(key: str, array: Sequence[Any], label: str | None) -> list[Any]:
    """Return an image as the members KEY.npy and, if it has a label, KEY.cls: buffers, the first a header alone."""
    size = sum(memoryview(part).nbytes for part in array)
    parts = [_header(f"{key}.npy", size), *array, bytes(-size % BLOCK)]
    if label is not None:
        text = label.encode()
        parts += [_header(f"{key}.cls", len(text)), text, bytes(-len(text) % BLOCK)]
    return parts


def read_array(path: str, offset: int, size: int) -> Array:
    """Read the array of a sample that `TarShardWriter` wrote, at the offset that it returned.

    Raises:
        InputError: missing, or other data is there.
    """
    try:
        head = read_at(path, offset - BLOCK, BLOCK)
        kind, claimed = parse_header(head, offset - BLOCK)
        header = parse_npy_header(data := read_at(path, offset, size))
        if (kind, claimed) != (b"0", size) or header.fortran:
            raise InputError("damaged", "another member is in the place of its array")
        return np.frombuffer(data, header.dtype, offset=header.start).reshape(header.shape)
    except InputError as error:
        raise InputError(error.reason, f"{os.path.basename(path)}: {error.message}") from None  # noqa: PTH119
    except (ValueError, TypeError) as error:
        raise InputError("damaged", f"{os.path.basename(path)}: {' '.join(str(error).split())}") from None  # noqa: PTH119


def _header(name: str, size: int) -> bytes:
    from tarfile import GNU_FORMAT, TarInfo

    info = TarInfo(name)
    info.size, info.mode = size, 0o644
    # names of more than 100 bytes, and of any bytes: GNU's long names are the one way that every reader knows
    return info.tobuf(GNU_FORMAT, "utf-8", "surrogateescape")
