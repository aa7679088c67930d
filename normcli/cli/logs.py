"""What `-v` and `--log-file` show: the records that the parts of the house leave with `logging`."""

import logging
import sys
from pathlib import Path

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_LOGGER = logging.getLogger("normcli")


def show(verbosity: int) -> None:
    """Write records to stderr: warnings always, with -v what was chosen, with -vv every detail.

    That kernels are being compiled, seconds of silence once a machine, is said on any terminal.
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


def keep(path: Path) -> None:
    """Append every record to a file, one line each with UTC time and level.

    Raises:
        OutputError: it cannot be opened.
    """
    import time

    from normcli.errors import OutputError

    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"cannot write --log-file {path}: {(error.strerror or str(error)).lower()}") from None
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    _LOGGER.addHandler(handler)
