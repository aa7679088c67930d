"""Machine code kept from one run to the next: files that are whole, ours, and of this very machine."""

import hashlib
import importlib.util
import logging
import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

log = logging.getLogger("normcli.kernels")
_PLACE = "NUMBA_CACHE_DIR"


@cache
def folder() -> Path | None:
    """Where it is kept: $NUMBA_CACHE_DIR, else the user's cache folder; None where there is no home."""
    if given := os.environ.get(_PLACE):
        return Path(given, "normcli")
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(above, "normcli") if os.path.isabs(above) else None  # noqa: PTH117


def has(name: str) -> bool:
    """Say whether code of that name is kept, of whatever machine."""
    place = folder()
    try:
        return place is not None and any(entry.startswith(f"{name}-") for entry in os.listdir(place))  # noqa: PTH208
    except OSError:
        return False


@cache
def origin() -> str:
    """Everything that code depends on besides its kernel: sources, Numba's version and settings.

    Raises:
        ImportError: no Numba here.
    """
    spec = importlib.util.find_spec("numba")  # imports nothing
    if spec is None or spec.origin is None:
        raise ImportError("it is not installed")
    version = Path(spec.origin).with_name("_version.py")
    parts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    parts += [version.read_bytes() if version.exists() else b""]
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] != _PLACE)
    parts += [str(settings).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def path_of(name: str, *depends: str) -> Path | None:
    """File of a kernel's code, named by what it depends on."""
    place = folder()
    key = hashlib.sha256("\0".join((origin(), *depends)).encode()).hexdigest()
    return None if place is None else place / f"{name}-{key[:24]}.o"


def read(path: Path) -> bytes | None:
    """Give what `write` wrote; None where it is absent, damaged, or somebody else could have written it.

    LLVM ends the process over damaged code, or runs it: hence the checksum.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read()
    except OSError:
        return None
    if hasattr(os, "geteuid") and (found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022):
        log.info("%s is not only ours to write: not used", path)
        return None
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        log.info("%s is damaged: not used", path)
        return None
    return data[32:]


def write(path: Path, code: bytes) -> None:
    """Keep code, whole or not at all; where that cannot be, the next run compiles again."""
    import tempfile

    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_dir():
            path.rmdir()
        handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.chmod(temporary, stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        log.info("compiled code cannot be kept in %s: %s", path.parent, error.strerror)
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
