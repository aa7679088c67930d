"""Files of a Zarr by their keys: in a folder, local or remote, or in a zip; nothing is unpacked."""

import os
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from normcli.errors import InputError
from normcli.sources.listing import ZARR_MARKERS
from normcli.sources.zip import ZipMember, walk_directory
from normcli.storage.files import FileStamp, is_remote, read, read_at
from normcli.storage.reader import Reader

_ARCHIVES = (".zip", ".ozx")
_MOST_MEMBERS = 500_000  # 300 bytes each
_LARGEST_MEMBER = 1 << 30


def is_archive(source: str) -> bool:
    """Return True for the name of a zipped Zarr."""
    return source.lower().endswith(_ARCHIVES)


class Files(NamedTuple):
    """The files below a folder or in a zip.

    Attributes:
        root: path or address, without a final slash.
        stamp: of a local zip; None otherwise.
        zipped: `root` is a zip.
        prefix: of the names in the zip: "" or a folder's name and a slash.
        listing: number of the listing; a thread's decoded chunks are not used for another, since files may change.
    """

    root: str
    stamp: FileStamp | None = None
    zipped: bool = False
    prefix: str = ""
    listing: int = 0

    def read(self, key: str, limit: int | None = None) -> bytes | None:
        """Return the bytes of a file; None if there is none.

        Raises:
            InputError: unreadable, larger than `limit`, or a damaged archive.
        """
        if self.zipped:
            member = _directory(self).get(self.prefix + key)
            if member is None:
                return None
            if limit is not None and member.size > limit:
                raise InputError("too-large", f"{key}: {member.size:,} bytes, more than {limit:,}")
            return b"" if member.size == 0 else member()
        path = f"{self.root}/{key}"
        try:
            return read(path, limit=limit)
        except InputError as error:
            if error.reason == "empty":
                return b""
            if error.message.startswith("no such file") or (error.reason == "not-a-file" and os.path.isdir(path)):  # noqa: PTH112
                return None
            raise

    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes; None if there is none.

        Raises:
            InputError: a server that does not answer.
        """
        if self.zipped:
            member = _directory(self).get(self.prefix + key)
            return None if member is None else member.size
        try:
            if not is_remote(self.root):
                return os.stat(f"{self.root}/{key}").st_size  # noqa: PTH116
            with Reader(f"{self.root}/{key}") as reader:
                return reader.size
        except FileNotFoundError:
            return None
        except InputError as error:
            if error.reason == "missing":
                return None
            raise

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Return some bytes of a file.

        Raises:
            InputError: it ends before, or is unreadable.
        """
        if not self.zipped:
            return read_at(f"{self.root}/{key}", offset, size)
        member = _directory(self)[self.prefix + key]
        if member.method == 0 and offset + size <= member.size:
            header = read_at(self.root, member.at, 30, self.stamp)
            names = sum(struct.unpack_from("<HH", header, 26))
            return read_at(self.root, member.at + 30 + names + offset, size, self.stamp)
        data = member()[offset : offset + size]
        if len(data) < size:
            raise InputError("truncated", f"{key} ends early")
        return data

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders in one folder, sorted.

        Raises:
            InputError: unreadable.
        """
        if self.zipped:
            start = self.prefix + (path and path + "/")
            below = (name[len(start) :] for name in _directory(self) if name.startswith(start))
            return sorted({name.partition("/")[0] for name in below if "/" in name})
        folder = f"{self.root}/{path}".rstrip("/")
        if is_remote(folder):
            from normcli.storage import remote

            try:
                entries_of = list(remote.entries(folder + "/"))
            except InputError as error:
                what = f"the groups in {path or 'it'} cannot be listed (-O variable=PATH): {error.message}"
                raise InputError(error.reason, what) from None
            return sorted(entry.path.rstrip("/").rpartition("/")[2] for entry in entries_of if entry.folder)
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def open_files(source: str) -> Files:
    """Return the files of a Zarr.

    Raises:
        InputError: missing, or a damaged archive.
    """
    root = source.rstrip("/" + os.sep)
    if not is_archive(root):
        if not is_remote(root) and not os.path.isdir(root):  # noqa: PTH112
            raise InputError("missing", "no such folder")
        return Files(root, listing=time.monotonic_ns())
    with Reader(root) as reader:
        files = Files(root, reader.stamp, zipped=True, listing=time.monotonic_ns())
    names = _directory(files)
    if any(name in names for name in ZARR_MARKERS):
        return files
    tops = {name.partition("/")[0] for name in names}  # a folder that was zipped with its own name
    return files._replace(prefix=tops.pop() + "/") if len(tops) == 1 else files


class _Members(threading.local):
    """The members of the zip that this thread read last."""

    def __init__(self) -> None:
        self.key: Any = None
        self.members: dict[str, ZipMember] = {}


_last = _Members()


def _directory(files: Files) -> dict[str, ZipMember]:
    key = os.getpid(), files.root, files.stamp
    if _last.key != key:
        _last.members = dict(_members(files.root, files.stamp))
        _last.key = key
    return _last.members


def _members(path: str, stamp: FileStamp | None) -> Iterator[tuple[str, ZipMember]]:
    with Reader(path) as reader:
        if reader.stamp != stamp:
            raise InputError("changed", "it changed while it was read")
        for number, entry in enumerate(walk_directory(reader)):
            if number >= _MOST_MEMBERS:
                raise InputError("bomb", f"more than {_MOST_MEMBERS:,} members (unzip it)")
            if entry.flags & 0x2041 or entry.method not in (0, 8) or (entry.method == 0 and entry.packed != entry.size):
                raise InputError("unsupported", f"{entry.name[:80]} is encrypted, or packed by method {entry.method}")
            sizes = entry.method, entry.packed, entry.size, entry.checksum
            yield entry.name, ZipMember(path, entry.at, *sizes, entry.raw, _LARGEST_MEMBER, stamp)
