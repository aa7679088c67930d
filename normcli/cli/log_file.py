"""The log as a file, for --log-file."""

import logging
import sys
import time
from contextlib import suppress
from pathlib import Path

from normcli.cli.build import say
from normcli.cli.log_format import LogFormatter
from normcli.errors import OutputError

_LOGGER = logging.getLogger("normcli")


class _LogFile(logging.FileHandler):
    """A log file; if it cannot be written any more, one line reports that and the run continues without it."""

    def handleError(self, record: logging.LogRecord) -> None:
        _LOGGER.removeHandler(self)
        with suppress(OSError):  # what is buffered cannot be written either
            self.close()
        error = sys.exception()
        say(f"note: cannot write --log-file {self.baseFilename}: {str(getattr(error, 'strerror', error)).lower()}")


def append_log(path: Path) -> None:
    """Append every record to a file, one line each with UTC time and level.

    Raises:
        OutputError: the file cannot be opened.
    """
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"cannot write --log-file {path}: {(error.strerror or str(error)).lower()}") from None
    formatter = LogFormatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    _LOGGER.addHandler(handler)
