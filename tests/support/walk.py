"""List the files of normcli that one command enters: `python -m tests.support.walk stats photos -o s.json`.

A file is entered when a function in it is called, in any thread; importing a module does not count.
"""

import contextlib
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = str(Path(__file__).parents[2] / "normcli") + "/"


def is_import(frame: FrameType | None) -> bool:
    """Return True if a module of normcli is being imported further up the stack."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(PACKAGE):
            return True
        frame = frame.f_back
    return False


def files_entered(arguments: list[str]) -> list[str]:
    """Run a command in this process; return the files in the order in which they are entered."""
    from normcli.cli.main import run

    entered: dict[str, None] = {}

    def on_call(frame: FrameType, event: str, _: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGE) and not is_import(frame):
            entered.setdefault(path.removeprefix(PACKAGE))

    threading.setprofile(on_call)
    sys.setprofile(on_call)
    with contextlib.suppress(SystemExit):
        run(arguments)
    sys.setprofile(None)
    threading.setprofile(None)
    return list(entered)


if __name__ == "__main__":
    for name in files_entered(sys.argv[1:]):
        sys.stdout.write(f"{name}\n")
