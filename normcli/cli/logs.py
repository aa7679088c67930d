"""Logging of the command line: `--verbose`, `--log-file` and `--debug`."""

import logging
import sys
from pathlib import Path

from normcli.errors import OutputError
from normcli.options.printing import TerminalOptions

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_LOGGER = logging.getLogger("normcli")


def configure(terminal: TerminalOptions) -> None:
    """Send log records where the options ask for.

    Raises:
        OutputError: the log file cannot be opened.
    """
    _log_to_stderr(terminal.verbose)
    if terminal.log_file is not None:
        _log_to_file(terminal.log_file)


def _log_to_stderr(verbosity: int) -> None:
    """Write warnings always, settings and timings with -v, details with -vv.

    Compiling kernels takes seconds, once a machine: a terminal shows that record in any case.
    """
    _LOGGER.setLevel(logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("normcli: %(message)s"))
    least = _LEVELS[min(verbosity, 2)]
    terminal = sys.stderr is not None and sys.stderr.isatty()
    handler.addFilter(
        lambda record: (
            record.levelno >= least
            or (terminal and record.levelno >= logging.INFO and record.name == "normcli.kernels")
        )
    )
    _LOGGER.handlers[:] = [handler]


def _log_to_file(path: Path) -> None:
    """Append every record to a file, one line each with UTC time and level."""
    import time

    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"cannot write --log-file {path}: {(error.strerror or str(error)).lower()}") from None
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    _LOGGER.addHandler(handler)
