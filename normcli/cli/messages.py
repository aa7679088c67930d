"""Lines for people on stderr, data on stdout, the closing line, and the log."""

import logging
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli.errors import OutputError
from normcli.options.printing import TerminalOptions

if TYPE_CHECKING:
    from normcli.summary import Summary

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_LOGGER = logging.getLogger("normcli")


def printable(text: str) -> str:
    r"""Make a name safe to print: control characters and bytes that are no text are escaped.

    >>> print(printable("a\tb"), printable("caf\udce9"))
    a\tb caf\udce9
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def warn(summary: "Summary") -> None:
    """Write every warning and remark to stderr, one line each."""
    from normcli.summary.remarks import remarks

    for line in remarks(summary):
        say(f"note: {line}")


def warn_failures(summary: "Summary") -> None:
    """Write to stderr how many inputs failed and why; nothing where none did."""
    if summary.failed:
        from normcli.summary.remarks import reasons

        say(f"{summary.failed:,} input{'s' * (summary.failed != 1)} failed: {reasons(summary.failures)}")


def say(line: str) -> None:
    """Write one line to stderr, whatever bytes a file name in it holds."""
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def document(keys: dict[str, Any]) -> None:
    """Write a JSON object to stdout, one line a key."""
    import json

    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in keys.items())
    write("{\n" + ",\n".join(lines) + "\n}\n")


def write(text: str) -> None:
    """Write data to stdout."""
    sys.stdout.write(text)


class Stopwatch:
    """The time since a command began."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def closing(self, written: str, count: int, *details: str, noun: str = "image") -> None:
        """Write the closing line to stderr; the arguments are those of `line`."""
        say(self.line(written, count, *details, noun=noun))

    def line(self, written: str, count: int, *details: str, noun: str = "image") -> str:
        """Return the closing line.

        Args:
            written: what was written, such as "wrote stats.json"; "" where the result went to stdout.
            count: how many images.
            details: more about what was written, such as "npy float32".
            noun: the unit that is counted, in the singular.
        """
        seconds = max(time.perf_counter() - self._started, 1e-3)
        things = f"{count:,} {noun}{'s' * (count != 1)}"
        rate = count / seconds
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        parts = [things, *details, duration(seconds), f"{speed} {noun}s/s"]
        return f"{written}{': ' * bool(written)}{', '.join(parts)}"


def duration(seconds: float) -> str:
    """Return a time in the unit that people use for it.

    >>> duration(2.63), duration(75), duration(7384)
    ('2.6 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def configure_log(terminal: TerminalOptions) -> None:
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


class _LogFile(logging.FileHandler):
    """A log file; where it cannot be written any more, one line says so and the run goes on without it."""

    def handleError(self, record: logging.LogRecord) -> None:
        _LOGGER.removeHandler(self)
        with suppress(OSError):  # what is buffered cannot be written either
            self.close()
        error = sys.exception()
        say(f"note: cannot write --log-file {self.baseFilename}: {str(getattr(error, 'strerror', error)).lower()}")


def _log_to_file(path: Path) -> None:
    """Append every record to a file, one line each with UTC time and level."""
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"cannot write --log-file {path}: {(error.strerror or str(error)).lower()}") from None
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    _LOGGER.addHandler(handler)
