"""The real command, as a subprocess or in this process."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
# for `subprocess`: `normcli apply` of this checkout
APPLY = [sys.executable, "-m", "normcli", "apply"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Outcome(NamedTuple):
    """A command run in this process.

    Attributes:
        code: its exit code.
        out, err: what it printed.
    """

    code: int
    out: str
    err: str

    @property
    def statistics(self) -> dict[str, Any] | None:
        """Return the statistics file on stdout; None if there is none."""
        try:
            document = json.loads(self.out)
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    @property
    def is_error(self) -> bool:
        """Return True for an error of one line, with nothing on stdout."""
        line = self.err.removesuffix("\n")
        return self.code != 0 and line.startswith("normcli: ") and "\n" not in line and not self.out

    def __str__(self) -> str:
        return f"exit {self.code}: {' '.join((self.err or self.out).split())[:400]}"


def run_here(*arguments: Any) -> Outcome:
    """Run `normcli …` in this process: 20 ms, of 500 in a subprocess."""
    from normcli.cli.main import run

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, out, err = sys.unraisablehook, io.StringIO(), io.StringIO()
    logger = logging.getLogger("normcli")
    level, logs = logger.level, list(logger.handlers)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        logger.setLevel(level)
        logger.handlers[:] = logs
    return Outcome(code, out.getvalue(), err.getvalue())
