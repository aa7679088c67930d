"""Warnings, progress and the closing line on stderr, data on stdout.

Progress is a bar on a terminal or in a notebook, and a line every 30 s elsewhere.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from normcli.cli.build import folded, say, terminal_columns
from normcli.options.printing import TerminalOptions

if TYPE_CHECKING:
    from normcli.runs.count import Failure
    from normcli.summary import Summary


def warn(summary: "Summary") -> None:
    """Write every warning and remark to stderr, one line each."""
    from normcli.summary.remarks import remarks

    for line in remarks(summary):
        say(f"note: {line}")


class FirstFailure:
    """The first input of a run that failed, which a note names: --failures would take a second run."""

    def __init__(self) -> None:
        self._text = ""

    def then(self, *takers: Callable[[dict[str, Any]], None] | None) -> "Callable[[Failure], None]":
        """Return a callback for failures, which passes their records to those who take them."""

        def call(failure: "Failure") -> None:
            if not self._text and failure.stage != "skip":
                self._text = f"{failure.key}: {failure.message}"
            for take in filter(None, takers):
                take(failure.record())

        return call

    def show(self) -> None:
        """Write the note to stderr; nothing if no input failed."""
        if self._text:
            say(f"note: first failure: {self._text}")


def warn_failures(summary: "Summary") -> None:
    """Write to stderr the number of inputs that failed, by reason; nothing if none did."""
    if summary.failed:
        from normcli.summary.remarks import inputs, reasons

        say(f"{inputs(summary.failed)} failed: {reasons(summary.failures)}")


def document(keys: dict[str, Any]) -> None:
    """Write a JSON object to stdout, one line a key."""
    import json

    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in keys.items())
    write("{\n" + ",\n".join(lines) + "\n}\n")


def write(text: str) -> None:
    """Write data to stdout."""
    sys.stdout.write(text)


def write_lines(lines: Iterable[str]) -> None:
    """Write lines of text to stdout, broken at spaces where it is a terminal that is narrower."""
    width = terminal_columns(sys.stdout)
    write("".join(f"{part}\n" for line in lines for part in folded(line, width)))


def terminal_width(stream: TextIO) -> int | None:
    """Return the columns of a terminal, or of COLUMNS; None for a file or a pipe, which take any width."""
    if stream.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return terminal_columns(stream) or shutil.get_terminal_size((80, 24)).columns
    return None


def is_colorful(stream: TextIO) -> bool:
    """Return True for a terminal that is not dumb, unless NO_COLOR is set; with FORCE_COLOR for every stream."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_unicode(stream: TextIO) -> bool:
    """Return True if a stream can show block characters."""
    try:
        "▁█─".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


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
            written: the result, such as "wrote stats.json"; "" where the result went to stdout.
            count: number of images.
            details: the format, such as "npy float32".
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


Step = Callable[[int, int], None]


@contextmanager
def progress(
    terminal: TerminalOptions, noun: str = "img", total: Callable[[], int | None] = lambda: None
) -> Iterator[Callable[[Any], None] | None]:
    """Yield a callback for finished batches: a bar on a terminal, a line every 30 s elsewhere; None for no progress.

    Args:
        terminal: `progress` and `quiet`.
        noun: the unit that is counted.
        total: returns the number of inputs, or None; called only for a bar, which then shows the time that is left.
    """
    if terminal.progress == "never" or (terminal.quiet and terminal.progress == "auto"):
        yield None
    elif terminal.progress == "always" or sys.stderr.isatty():
        with _bar(noun, total()) as step:
            yield lambda batch: step(batch.inputs, batch.bytes)
    else:
        lines = _every_30_seconds(noun)
        yield lambda batch: lines(batch.inputs, batch.bytes)


def notebook_bar() -> Callable[[Any], None]:
    """Return a callback that shows finished batches as a bar in a notebook."""
    from tqdm.auto import tqdm

    bar = tqdm(unit=" img")

    def step(batch: Any) -> None:
        bar.update(batch.inputs)

    return step


@contextmanager
def _bar(noun: str, total: int | None) -> Iterator[Step]:
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # its watching thread would keep engines from forking
    megabytes = 0.0
    look: dict[str, Any] = {"mininterval": 0.5, "leave": False, "dynamic_ncols": True, "smoothing": 0.1}
    with tqdm(total=total, unit=f" {noun}", **look) as bar:

        def step(inputs: int, size: int) -> None:
            nonlocal megabytes
            megabytes += size / 1e6
            elapsed = bar.format_dict["elapsed"] or 1e-9
            bar.set_postfix_str(f"{megabytes / elapsed:.0f} MB/s", refresh=False)
            bar.update(inputs)

        yield step


def _every_30_seconds(noun: str) -> Step:
    started = last = time.monotonic()
    total = 0

    def step(inputs: int, size: int) -> None:
        nonlocal last, total
        total += inputs
        now = time.monotonic()
        if now - last >= 30:
            last = now
            say(f"{total:,} {noun} done, {total / (now - started):.0f}/s")

    return step


def warn_failed(failed: Mapping[str, int]) -> None:
    """Print the number of inputs that failed, by reason; nothing if none did."""
    if failed:
        from normcli.summary.remarks import inputs, reasons

        say(f"{inputs(sum(failed.values()))} failed: {reasons(dict(failed))}")


def as_json(value: Any) -> str:
    """Return a result as JSON, for stdout."""
    import json

    return json.dumps(value, indent=1) + "\n"
