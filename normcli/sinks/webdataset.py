"""WebDataset shards as they are written; reading them is reading a `tar`.

Members in order, no owner and no time: the same images give the same bytes.
"""

import os
from collections.abc import Sequence
from typing import Any

from normcli import platforms
from normcli.errors import InputError
from normcli.sources.tar import BLOCK, END, parse_header
from normcli.storage import write_all
from normcli.storage.byte_sources import read_at


class TarShardWriter:
    """A shard under way: samples one after the other, then the two end-of-archive blocks.

    Args:
        path: temporary; whoever calls puts it under its name.

    Attributes:
        size: bytes so far.
    """

    def __init__(self, path: str) -> None:
        self._handle = platforms.open_binary(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.size = 0

    def after(self, size: int) -> int:
        """How large the shard would be with so many bytes more."""
        return self.size + size + len(END) * 2

    def add(self, parts: Sequence[Any], name: str, label: str | None, shape: tuple[int, ...]) -> dict[str, int]:
        """Write what `sample` packed; give where its array begins, behind the header of KEY.npy."""
        at = self.size + memoryview(parts[0]).nbytes
        self.size += write_all(self._handle, parts)
        return {"offset": at}

    def close(self, *, whole: bool) -> int:
        """Close the file; where it is to be a `whole` archive, with its end and durably. Give its size."""
        try:
            if whole:
                self.size += write_all(self._handle, [END, END])
                os.fsync(self._handle)
        finally:
            os.close(self._handle)
        return self.size


def key_of(name: str) -> str:
    """The key of a WebDataset sample: its readers take the first dot of a file's name for the key's end.

    >>> key_of("cat/v1.0/a.b.jpg")
    'cat/v1.0/a_b_jpg'
    """
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.replace(".", "_")


def sample(key: str, array: Sequence[Any], label: str | None) -> list[Any]:
    """One image as the members KEY.npy and, where there is a label, KEY.cls: buffers, the first a header alone."""
    size = sum(memoryview(part).nbytes for part in array)
    parts = [_header(f"{key}.npy", size), *array, bytes(-size % BLOCK)]
    if label is not None:
        text = label.encode()
        parts += [_header(f"{key}.cls", len(text)), text, bytes(-len(text) % BLOCK)]
    return parts


def array_at(path: str, offset: int, size: int) -> Any:
    """Read the array of a sample that `TarShardWriter` wrote, where it told that it lies.

    Raises:
        InputError: missing, or something else lies there.
    """
    import numpy as np

    from normcli.storage.npy_format import parse_npy_header

    name = os.path.basename(path)  # noqa: PTH119
    try:
        head = read_at(path, offset - BLOCK, BLOCK)
        kind, claimed = parse_header(head, offset - BLOCK)
        found = parse_npy_header(data := read_at(path, offset, size))
        if (kind, claimed) != (b"0", size) or found.fortran:
            raise InputError("damaged", "another member lies where its array was")
        return np.frombuffer(data, found.dtype, offset=found.start).reshape(found.shape)
    except InputError as error:
        raise InputError(error.reason, f"{name}: {error.message}") from None
    except (ValueError, TypeError) as error:
        raise InputError("damaged", f"{name}: {' '.join(str(error).split())}") from None


def _header(name: str, size: int) -> bytes:
    from tarfile import GNU_FORMAT, TarInfo

    info = TarInfo(name)
    info.size, info.mode = size, 0o644
    # names of more than 100 bytes, and of any bytes: GNU's long names are the one way that every reader knows
    return info.tobuf(GNU_FORMAT, "utf-8", "surrogateescape")
