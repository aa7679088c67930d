"""System calls that Linux, macOS and Windows do not share, behind functions that behave alike on all three.

Every function looks its call up in `os` when it runs; only what a platform lacks is decided once, at import.
"""

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")

IS_WINDOWS = os.name == "nt"
# without O_BINARY Windows ends a file at Ctrl-Z and writes "\r\n" for "\n"; without O_CLOEXEC a child inherits the file
_ALWAYS = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)  # without it the open of a FIFO waits for a writer, for ever
NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_HAS_PREAD, _HAS_PREADV, _HAS_PWRITE = (hasattr(os, name) for name in ("pread", "preadv", "pwrite"))
_LOCKED_BYTE = 0x7FFF0000  # Windows locks bytes, even against reading: one that no log reaches
_CANNOT_RESERVE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_position_locks = [threading.Lock() for _ in range(64)]  # by descriptor


def open_binary(path: str | Path, flags: int) -> int:
    """Open a file of bytes and return its descriptor; a file that is created gets the mode of `open`.

    Args:
        path: a local path.
        flags: of `os.open`, such as `os.O_WRONLY | os.O_CREAT`.

    Raises:
        OSError: as `os.open`.
    """
    return os.open(path, flags | _ALWAYS, 0o666)


def binary_flags(flags: int) -> int:
    """Return the flags with which `open_binary` opens a file."""
    return flags | _ALWAYS


def pread(handle: int, size: int, offset: int) -> bytes:
    """Read at most `size` bytes at `offset`, without use or change of the descriptor's position."""
    if _HAS_PREAD:
        return os.pread(handle, size, offset)
    return _at_offset(handle, offset, lambda: os.read(handle, size))


def pread_into(handle: int, buffer: memoryview, offset: int) -> int:
    """Read into a buffer from `offset`; return the number of bytes, 0 at the end of the file."""
    if _HAS_PREADV:
        return os.preadv(handle, [buffer], offset)
    data = pread(handle, min(len(buffer), 1 << 24), offset)  # a copy: 16 MiB at a time
    buffer[: len(data)] = data
    return len(data)


def pwrite(handle: int, data: Any, offset: int) -> int:
    """Write at `offset`; return the number of bytes that one call took."""
    if _HAS_PWRITE:
        return os.pwrite(handle, data, offset)
    return _at_offset(handle, offset, lambda: os.write(handle, data))


def _at_offset(handle: int, offset: int, action: Callable[[], T]) -> T:
    """Run an action with a descriptor's position at `offset`, one thread at a time; restore the position."""
    with _position_locks[handle % len(_position_locks)]:
        position = os.lseek(handle, 0, os.SEEK_CUR)
        os.lseek(handle, offset, os.SEEK_SET)
        try:
            return action()
        finally:
            os.lseek(handle, position, os.SEEK_SET)


def reserve(handle: int, size: int) -> None:
    """Set the size of a file and reserve disk space where the file system can, so that a full disk fails now.

    Raises:
        OSError: no room.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
            return
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
    with suppress(OSError):  # a pipe has no size
        os.ftruncate(handle, size)


def sync_file(path: str | Path) -> None:
    """Make the content of a file durable.

    Raises:
        OSError: it cannot be opened or written.
    """
    handle = open_binary(path, os.O_RDWR)  # Windows syncs only what is open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: str | Path) -> None:
    """Make renames into a folder durable, where the platform can: Windows opens no folder, and some servers fail."""
    with suppress(OSError):  # the rename is done
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_open(file: IO[bytes], path: Path, final: Path) -> None:
    """Rename a file that is open and locked, then close it; Windows renames no open file: there close it first.

    Raises:
        OSError: it cannot be renamed.
    """
    if IS_WINDOWS:
        file.close()
    path.replace(final)
    file.close()


def remove_open(file: IO[bytes], path: Path) -> None:
    """Remove a file that is open and locked, then close it; on Windows the other way round."""
    if IS_WINDOWS:
        with suppress(OSError):
            file.close()
    with suppress(OSError):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # a full disk: what was buffered cannot be written
        file.close()


def lock_file(file: IO[bytes]) -> bool:
    """Lock a file for this process until it is closed, without waiting.

    Returns:
        False where another process has locked it; True also on a file system without locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return _lock_byte(file.fileno())
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _lock_byte(handle: int) -> bool:
    """Lock one byte far behind the end of a file, as Windows does."""
    import importlib

    try:
        msvcrt: Any = importlib.import_module("msvcrt")
    except ModuleNotFoundError:
        return True
    try:
        _at_offset(handle, _LOCKED_BYTE, lambda: msvcrt.locking(handle, msvcrt.LK_NBLCK, 1))
    except PermissionError:
        return False
    except OSError:
        return True
    return True


def run_at_fork(*, before: Callable[[], None] | None = None, after_in_child: Callable[[], None] | None = None) -> None:
    """Call functions around every fork of this process, on platforms that fork."""
    if hasattr(os, "register_at_fork"):
        if before is not None:
            os.register_at_fork(before=before)
        if after_in_child is not None:
            os.register_at_fork(after_in_child=after_in_child)


def is_usual_linux() -> bool:
    """Return True for Linux of 64 bits on x86-64 or ARM."""
    return sys.platform == "linux" and sys.maxsize > 1 << 32 and os.uname().machine in ("x86_64", "aarch64")


def process_start_method() -> str:
    """Return the method to start worker processes: "fork" (10 ms) or "spawn" (250 ms).

    A fork copies locks that other threads hold: it is taken only while there are none, and only on Linux, since
    system libraries of macOS do not survive it.
    """
    import multiprocessing

    alone = sys.platform == "linux" and threading.active_count() == 1
    return "fork" if alone and "fork" in multiprocessing.get_all_start_methods() else "spawn"


def process_exists(number: int) -> bool | None:
    """Return True if a process of this machine runs; None on Windows, where the question would end it."""
    if not hasattr(os, "getuid"):
        return None
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


def machine_identity() -> str:
    """Return an identifier of this machine, its boot and its process namespace."""
    parts = [os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    return "|".join(parts)


def is_private(status: os.stat_result) -> bool:
    """Return True if nobody but this user and root may write a file or folder; always so on Windows, by its ACLs."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def cache_folder() -> Path | None:
    """Return the user's folder for caches of programs, by each platform's rule; None if there is no home.

    The rules of platformdirs, whose import would take 10 ms of the 35 in which a kernel is loaded.
    """
    home = os.path.expanduser("~")  # noqa: PTH111
    if IS_WINDOWS:
        return _absolute(os.environ.get("LOCALAPPDATA", "")) or _absolute(os.path.join(home, "AppData", "Local"))  # noqa: PTH118
    if os.environ.get("HOME") == "":
        return None
    default = ("Library", "Caches") if sys.platform == "darwin" else (".cache",)
    return _absolute(os.environ.get("XDG_CACHE_HOME", "")) or _absolute(os.path.join(home, *default))  # noqa: PTH118


def _absolute(path: str) -> Path | None:
    return Path(path) if os.path.isabs(path) else None  # noqa: PTH117


def expand_globs(paths: list[str] | None) -> list[str] | None:
    """Return paths with their wildcards expanded where the shell leaves that to programs, as those of Windows do.

    A path that exists, or that matches nothing, stays as it is.
    """
    if not IS_WINDOWS or paths is None:
        return paths
    from glob import glob, has_magic

    literal = [not has_magic(path) or os.path.exists(path) for path in paths]  # noqa: PTH110
    matches = [[] if plain else sorted(glob(path)) for path, plain in zip(paths, literal, strict=True)]  # noqa: PTH207
    return [name for path, names in zip(paths, matches, strict=True) for name in names or [path]]


def is_link(path: str | Path) -> bool:
    """Return True if a path is a symbolic link, or a junction of Windows; False if there is nothing."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    junction = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    return stat.S_ISLNK(status.st_mode) or (
        junction is not None and getattr(status, "st_reparse_tag", 0) == junction and IS_WINDOWS
    )


def make_readable(handle: int) -> None:
    """Make an open file readable by everybody and writable by its owner; on Windows its folder decides that."""
    if hasattr(os, "fchmod"):
        os.fchmod(handle, 0o644)


def replacement_hint(error: OSError) -> str:
    """Return the likely reason why a file could not be replaced, for the end of a message; "" if none is known."""
    if IS_WINDOWS and isinstance(error, PermissionError):
        return " (Windows replaces no file that a program has open)"
    return ""


def usable_cpus() -> int:
    """Return the number of processors that this process may use: affinity, capped by its cgroup's CPU quota.

    >>> usable_cpus() >= 1
    True
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:  # noqa: PTH123
            quota, period = file.read().split()[:2]
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return count
