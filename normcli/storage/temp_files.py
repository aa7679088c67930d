"""Names of unfinished files, and the removal of those that a killed run left.

A name contains a checksum of the machine (its boot and process namespace) and the number of the process that writes,
so that the next run for the same output knows which files nobody is writing any more; those of other machines are
left alone.
"""

import os
import time
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

from normcli import platforms

PARTIAL = ".normcli-partial"
_STALE = 86400  # seconds after which a file is stale where processes cannot be asked for


def temporary_name(path: Path) -> Path:
    """Return a new name in the folder of `path` for what is not finished."""
    return path.with_name(f"{_start(path)}{os.getpid()}-{os.urandom(4).hex()}{PARTIAL}")


def remove_stale(path: Path) -> None:
    """Remove what earlier runs left of `path` when they were killed."""
    start = _start(path)
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not (entry.name.startswith(start) and entry.name.endswith(PARTIAL)):
                continue
            number = entry.name[len(start) :].partition("-")[0]
            if number.isdigit() and int(number) != os.getpid() and _is_stale(int(number), entry):
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108


def _is_stale(process: int, entry: "os.DirEntry[str]") -> bool:
    exists = platforms.process_exists(process)
    if exists is None:  # Windows, which also removes no file that is open
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE
    return not exists


def _start(path: Path) -> str:
    return f".{path.name[:180]}.{_machine()}-"


@cache
def _machine() -> str:
    return f"{zlib.crc32(platforms.machine_identity().encode()):08x}"
