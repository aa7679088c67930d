"""`python injected.py FAULT FUNCTION K WORD ARGUMENTS…`: normcli, with a fault at the K-th call of `os.FUNCTION`.

Only calls count whose path, or file descriptor's path, holds WORD; so the moment is the same in every run.
Faults: a signal's name, SIGINT+SIGINT, died (a worker process, once), files (no descriptor is left from the start).
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any


def place(arguments: tuple[Any, ...]) -> str:
    """Return the path of a call's first argument."""
    if not arguments or isinstance(arguments[0], str | bytes | os.PathLike):
        return os.fsdecode(arguments[0]) if arguments else ""
    try:
        return str(Path(f"/proc/self/fd/{arguments[0]}").readlink())
    except (OSError, TypeError):
        return ""


def inject(fault: str, name: str, k: int, word: str) -> None:
    from normcli.cli import main as cli

    true, parent, calls = getattr(os, name), os.getpid(), 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        if word in place(arguments):
            calls += 1
            if calls == k:
                act()
        return true(*arguments, **options)

    def act() -> None:
        if fault == "died":
            marker = Path(os.environ["MARKER"])
            if os.getpid() != parent and (word == "always" or not marker.exists()):
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return
        first, _, second = fault.partition("+")
        if second:  # while the first is being answered

            def answered(leave: Any = cli._leave_at_the_next) -> None:
                leave()
                os.kill(parent, getattr(signal, second))

            cli._leave_at_the_next = answered
        os.kill(parent, getattr(signal, first))

    setattr(os, name, call)


def main() -> None:
    fault, name, k, word = sys.argv[1:5]
    sys.argv[1:] = sys.argv[5:]
    sys.argv[0] = "normcli"
    from normcli.__main__ import _leave
    from normcli.cli.main import run

    if fault == "files":
        # what an interpreter needs to start is open; beyond it there are K more
        used = len(list(Path("/proc/self/fd").iterdir())) - 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + int(k), used + int(k)))
    else:
        inject(fault, name, int(k), word)
    _leave(run())


if __name__ == "__main__":
    main()
