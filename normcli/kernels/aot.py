"""Machine code kept from one run to the next: whole files of this very machine, that nobody else can write."""

import hashlib
import importlib.util
import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("normcli.kernels")
_PLACE = "NUMBA_CACHE_DIR"
_UNFINISHED, _OLD = 3600, 365 * 86400  # seconds after which a temporary file, or any, is removed by the next to write


def folder() -> Path | None:
    """Where it is kept: $NUMBA_CACHE_DIR, else the user's cache folder; None where there is no home."""
    if given := os.environ.get(_PLACE):
        return Path(given, "normcli")
    above = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(above):  # noqa: PTH117
        above = os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return Path(above, "normcli") if os.environ.get("HOME") != "" and os.path.isabs(above) else None  # noqa: PTH117


def has(name: str) -> bool:
    """Say whether code of that name is kept, of whatever machine and version."""
    place = folder()
    try:
        return place is not None and any(entry.startswith(f"{name}-") for entry in os.listdir(place))  # noqa: PTH208
    except OSError:
        return False


def path_of(name: str, depends: bytes) -> Path | None:
    """File of a kernel's code, named by what it depends on: Numba's version and settings too."""
    place = folder()
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] != _PLACE)
    key = hashlib.sha256(b"\\0".join((depends, _numba(), str(settings).encode()))).hexdigest()
    return None if place is None else place / f"{name}-{key[:24]}.o"


def _numba() -> bytes:
    """Version of Numba, which is not imported for that; nothing where it has none."""
    spec = importlib.util.find_spec("numba")
    if spec is None or spec.origin is None:
        raise ImportError("it is not installed")
    version = Path(spec.origin).with_name("_version.py")
    return version.read_bytes() if version.exists() else b""


def read(path: Path) -> bytes | None:
    """Give what `write` wrote; None where it is absent, damaged, or somebody else could have written it.

    LLVM ends the process over damaged code, or runs it: hence the checksum, which knows its file's name as well.
    """
    try:
        if not _is_ours(os.lstat(path.parent), stat.S_ISDIR):
            log.info("%s is not only ours to write: not used", path.parent)
            return None
        # a link may lead anywhere, and a FIFO would be waited for
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        if not _is_ours(os.fstat(handle), stat.S_ISREG):
            log.info("%s is no file, or not only ours to write: not used", path)
            return None
        with open(handle, "rb", closefd=False) as file:
            data = file.read()
    except OSError:
        return None
    finally:
        os.close(handle)
    if _checksum(path, data[32:]) != data[:32]:
        log.info("%s is damaged: not used", path)
        return None
    return data[32:]


def write(path: Path, code: bytes) -> None:
    """Keep code, whole or not at all; where that cannot be, the next run compiles again."""
    import tempfile

    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(os.lstat(path.parent), stat.S_ISDIR):
            return
        _tidy(path.parent)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(_checksum(path, code) + code)
            if hasattr(os, "fchmod"):  # root's may be read by all
                os.fchmod(handle, 0o644)
        os.replace(temporary, path)  # noqa: PTH105
        temporary = None
    except OSError as error:
        log.info("compiled code cannot be kept in %s: %s", path.parent, error.strerror)
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108


def _is_ours(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether a file or folder is of this kind, and of nobody's but this user's or root's to write."""
    if not is_kind(found.st_mode):
        return False
    return not hasattr(os, "geteuid") or (found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022)


def _checksum(path: Path, code: bytes) -> bytes:
    return hashlib.sha256(os.fsencode(path.name) + b"\\0" + code).digest()


def _tidy(place: Path) -> None:
    """Remove what killed processes left, and what has been here for a year: versions that are gone."""
    now = time.time()
    for entry in os.scandir(place):
        if now - entry.stat(follow_symlinks=False).st_mtime > (_UNFINISHED if entry.name.startswith(".") else _OLD):
            with suppress(OSError):
                os.unlink(entry.path)  # noqa: PTH108
