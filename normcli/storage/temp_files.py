"""Names of unfinished files, and the removal of those that a killed run left.

A name tells the machine (its boot and process namespace) and the process that writes, so that the next run for
the same output knows which files nobody is writing any more; those of other machines are left alone.
"""

import os
import zlib
from contextlib import suppress
from functools import cache
from pathlib import Path

PARTIAL = ".normcli-partial"


def temporary_name(path: Path) -> Path:
    """Give a new name beside `path` for what is not finished."""
    return path.with_name(f"{_start(path)}{os.getpid()}-{os.urandom(4).hex()}{PARTIAL}")


def remove_leftovers(path: Path) -> None:
    """Remove what earlier runs left of `path` when they were killed."""
    start = _start(path)
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not (entry.name.startswith(start) and entry.name.endswith(PARTIAL)):
                continue
            number = entry.name[len(start) :].partition("-")[0]
            if number.isdigit() and int(number) != os.getpid() and not _runs(int(number)):
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108


def _start(path: Path) -> str:
    return f".{path.name[:180]}.{_machine()}-"


@cache
def _machine() -> str:
    """A few characters that stand for this machine, since its boot, and the process numbers seen from here."""
    parts = [os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    return f"{zlib.crc32('|'.join(parts).encode()):08x}"


def _runs(number: int) -> bool:
    if not hasattr(os, "getuid"):  # Windows: a signal 0 would end it
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True
