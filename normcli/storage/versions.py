"""Marks that change when a file does: size, times, or the version that a server gives it."""

import os
import time

from normcli.storage.paths import is_remote

RECENT = 2_000_000_000  # ns: FAT stores times in steps of 2 s, other file systems of 1 s down to 4 ms

FileStamp = tuple[int, int]  # size in bytes and modification time in ns


def stamp_of(handle: int) -> FileStamp:
    """Return size and time of an open file; also to be asked after a read, since a write in place shows only there."""
    status = os.fstat(handle)
    return status.st_size, status.st_mtime_ns


def fingerprint(path: str) -> str:
    """Return what changes with a file: size and time, or the version that a server gives it; "" if it is missing."""
    if is_remote(path):
        from normcli.storage import remote

        return remote.fingerprint(path)
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def version(path: str) -> str:
    """Return a mark that every later write to a local file changes; "" if the file is too recent to be trusted.

    Size, time of the content, and time of the inode, which also tells of files that were swapped, or written and
    dated back. A file written just now can be written again within the same tick of its clock, and then has the
    same times with other bytes (git calls it racily clean): it has no version yet.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return ""
    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    return "" if newest > time.time_ns() - RECENT else f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
