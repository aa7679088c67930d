"""Machine code of kernels on disk: complete files of this very machine that nobody else can write."""

import hashlib
import importlib.util
import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from normcli import platforms

log = logging.getLogger("normcli.kernels")
_FOLDER_VARIABLE = "NUMBA_CACHE_DIR"
_STALE, _OLD = 3600, 365 * 86400  # seconds after which the next write removes a temporary file, or any file


def folder() -> Path | None:
    """Return the folder of the code: in $NUMBA_CACHE_DIR, else in the user's cache folder; None without a home."""
    if parent := os.environ.get(_FOLDER_VARIABLE):
        return Path(parent, "normcli")
    caches = platforms.cache_folder()
    return None if caches is None else caches / "normcli"


def contains(name: str) -> bool:
    """Return whether there is code of that name, of whatever machine and version."""
    place = folder()
    try:
        return place is not None and any(entry.startswith(f"{name}-") for entry in os.listdir(place))  # noqa: PTH208
    except OSError:
        return False


def path_of(name: str, depends: bytes) -> Path | None:
    """Return the file of a kernel's code, named by what it depends on; Numba's version and settings are added."""
    place = folder()
    settings = sorted(
        item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] != _FOLDER_VARIABLE
    )
    key = hashlib.sha256(b"\0".join((depends, _numba_version(), str(settings).encode()))).hexdigest()
    return None if place is None else place / f"{name}-{key[:24]}.o"


def _numba_version() -> bytes:
    """Return the version of Numba, which is not imported for that; empty where it has none."""
    spec = importlib.util.find_spec("numba")
    if spec is None or spec.origin is None:
        raise ImportError("it is not installed")
    version = Path(spec.origin).with_name("_version.py")
    return version.read_bytes() if version.exists() else b""


def read(path: Path) -> bytes | None:
    """Return what `write` wrote; None where it is absent, damaged, or another user could have written it.

    LLVM ends the process over damaged code, or runs it: hence the checksum, which covers the file's name as well.
    """
    try:
        if not _is_private(os.lstat(path.parent), stat.S_ISDIR):
            log.info("%s: not used: other users may write it", path.parent)
            return None
        # a link may lead anywhere, and a FIFO would be waited for
        handle = platforms.open_binary(path, os.O_RDONLY | platforms.NOFOLLOW | platforms.NONBLOCK)
    except OSError:
        return None
    try:
        if not _is_private(os.fstat(handle), stat.S_ISREG):
            log.info("%s: not used: not a regular file, or other users may write it", path)
            return None
        with open(handle, "rb", closefd=False) as file:
            data = file.read()
    except OSError:
        return None
    finally:
        os.close(handle)
    if _checksum(path, data[32:]) != data[:32]:
        log.info("%s: not used: damaged", path)
        return None
    return data[32:]


def write(path: Path, code: bytes) -> None:
    """Write code to its file atomically; where that fails, the next run compiles again."""
    import tempfile

    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(os.lstat(path.parent), stat.S_ISDIR):
            return
        _remove_old(path.parent)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(_checksum(path, code) + code)
            platforms.make_readable(handle)  # root's serves every user
        os.replace(temporary, path)  # noqa: PTH105
        temporary = None
    except OSError as error:
        log.info("compiled code cannot be written to %s: %s", path.parent, error.strerror)
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108


def _is_private(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Return whether a file or folder is of this kind, and only this user and root may write it."""
    return is_kind(status.st_mode) and platforms.is_private(status)


def _checksum(path: Path, code: bytes) -> bytes:
    return hashlib.sha256(os.fsencode(path.name) + b"\0" + code).digest()


def _remove_old(place: Path) -> None:
    """Remove what killed processes left, and code of a year ago: its versions are gone."""
    now = time.time()
    for entry in os.scandir(place):
        if now - entry.stat(follow_symlinks=False).st_mtime > (_STALE if entry.name.startswith(".") else _OLD):
            with suppress(OSError):
                os.unlink(entry.path)  # noqa: PTH108
