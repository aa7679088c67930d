"""How results look: tables on a terminal, plain lines through a pipe, progress on stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from normcli.errors import UsageError, unknown
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS, remarks

if TYPE_CHECKING:
    from normcli.report import Gallery

_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHOWN_PERCENTILES = ("1", "50", "99")
_ANSI = {"R": "\x1b[31m", "G": "\x1b[32m", "B": "\x1b[34m"}
_ANSI_END = "\x1b[0m"
_HUES = {"R": "red", "G": "green", "B": "blue"}


def colorful(stream: IO[str]) -> bool:
    """Say whether a stream takes colour: a terminal, unless NO_COLOR is set or it is dumb; or FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    r"""Make a name safe to print: control characters and bytes that are no text are escaped.

    >>> print(printable("a\tb"), printable("caf\udce9"))
    a\tb caf\udce9
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def number(value: float | None) -> str:
    """A statistic in four decimals, or four digits where that would hide it; "-" where there is none.

    >>> number(0.13251), number(1234567.0), number(0.00001234), number(None)
    ('0.1325', '1234567.0000', '1.234e-05', '-')
    """
    if value is None:
        return "-"
    if value != 0 and (abs(value) < 0.001 or abs(value) >= 1e7):
        return f"{value:.4g}" if abs(value) < 1e7 else f"{value:.6e}"
    return f"{value:.4f}"


def result(
    summary: Summary, *, json: bool, form: str | None = None, convention: str | None = None, plot: bool = False
) -> None:
    """Print a summary as asked for: a table, the statistics file, or in another tool's words.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    if json or form == "json":
        if form not in (None, "json"):
            raise UsageError("--json is --format json: give one of them")
        if convention not in (None, "pooled_population", "pooled-population"):
            raise UsageError('the statistics file holds every convention under "conventions": drop --convention')
        write(summary.to_json())
    elif form in (None, "table"):
        if convention is not None:
            summary = in_convention(summary, convention)
        table(summary)
        if plot:
            write("\n" + "".join(line + "\n" for line in plotted(summary)))
    else:
        from normcli.constants import exporters

        write(exporters.export(summary, form, convention))
        if (note := exporters.format_note(summary, form, convention)) is not None:
            say(f"note: {note}")


def page(
    path: Path,
    summary: Summary,
    title: str,
    gallery: "Gallery | None" = None,
    failures: Sequence[dict[str, Any]] = (),
) -> None:
    """Write the page of `--report`, whole or not at all; "-" is stdout.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OutputError: it cannot be written.
    """
    from normcli import report, storage

    text = report.render_page(summary, title=title, gallery=gallery, failures=failures)
    if str(path) == "-":
        write(text)
    else:
        storage.write_file(path, text.encode("utf-8", "backslashreplace"))


def check_form(json: bool, form: str | None, convention: str | None) -> None:
    """Refuse unknown names of `--format` and `--convention` before the work.

    Raises:
        UsageError: unknown names.
    """
    if form is not None:
        from normcli.constants.exporters import FORMAT_CHOICES

        if form not in FORMAT_CHOICES:
            raise unknown("format", form, FORMAT_CHOICES)
    if convention is not None and convention.replace("-", "_") not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    if json and form not in (None, "json"):
        raise UsageError("--json is --format json: give one of them")


def in_convention(summary: Summary, convention: str) -> Summary:
    """The same summary with mean and std of another convention on top.

    Raises:
        UsageError: unknown convention, or one that these statistics do not hold.
    """
    from dataclasses import replace

    from normcli.constants.exporters.values import mean_and_std

    name, mean, std = mean_and_std(summary, convention)
    return replace(summary, mean=mean, std=std, convention=name)


def plotted(summary: Summary, lines: int = 8) -> Iterator[str]:
    """Each channel's histogram as `lines` lines of block characters, over its range."""
    from normcli.summary.distribution import ceiling, columns

    raw = summary.max_value is None
    known = [v for v in (*summary.min, *summary.max) if v is not None]
    low, high = (min(known), max(known)) if raw and known else (0.0, None)
    width = 64
    shapes = columns(summary, width, low, high if high is None or high > low else low + 1)
    color = colorful(sys.stdout)
    for c, (name, shape) in enumerate(zip(summary.channels, shapes, strict=True)):
        top = ceiling([shape])
        peak = f"peak {max(shape) / sum(shape):.1%} of pixels{', cut off' if max(shape) > top else ''}"
        yield f"{name}  mean {number(summary.mean[c])}  std {number(summary.std[c])}  {peak}"
        hue = _ANSI.get(name, "") if color else ""
        for line in range(lines - 1, -1, -1):
            cells = "".join(_cell(n / top * lines - line, n > 0 and line == 0) for n in shape)
            yield f"   {hue}{cells.rstrip()}{_ANSI_END if hue else ''}"
        left, right = f"{low:g}", "1" if high is None else f"{high:g}"
        at = summary.mean[c] if high is None else (summary.mean[c] - low) / ((high - low) or 1)
        axis = ["─"] * width
        axis[max(0, min(int(at * width), width - 1))] = "┴"
        yield f"   {''.join(axis)}"
        yield f"   {left}{right.rjust(width - len(left))}"
        if c + 1 < len(shapes):
            yield ""


def _cell(height: float, some: bool) -> str:
    eighths = max(0, min(8, int(height * 8)))
    return _BLOCKS[max(eighths, int(some))]


def table(summary: Summary, *, groups: bool = True) -> None:
    """Print a summary to stdout: with rich on a terminal, else as aligned plain text."""
    if colorful(sys.stdout):
        _rich_table(summary, groups)
    else:
        sys.stdout.write("".join(line + "\n" for line in _plain_lines(summary, groups)))


def _headline(summary: Summary) -> str:
    parts = [f"{summary.images:,} image{'s' * (summary.images != 1)}", f"{summary.pixels:,} pixels"]
    parts.append(summary.convention_text)
    return " · ".join(parts)


def _channel_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    header = ["channel", "mean", "std", "min", *(f"{p}%" for p in _SHOWN_PERCENTILES), "max"]
    rows = []
    for c, name in enumerate(summary.channels):
        middle = [number(summary.percentiles[p][c]) for p in _SHOWN_PERCENTILES]
        values = [number(summary.mean[c]), number(summary.std[c]), number(summary.min[c]), *middle]
        rows.append([name, *values, number(summary.max[c])])
    return header, rows


def _convention_rows(summary: Summary) -> list[list[str]]:
    rows = []
    for name, values in summary.conventions.items():
        std = values["std"]
        shown = ["-"] * len(summary.channels) if std is None else [number(v) for v in std]
        rows.append([name.replace("_", " "), *shown])
    return rows


def _group_rows(summary: Summary) -> list[list[str]]:
    return [
        [printable(name), f"{group.images:,}", _triple(group.mean), _triple(group.std)]
        for name, group in summary.groups.items()
    ]


def _triple(values: Iterable[float]) -> str:
    return " ".join(number(v) for v in values)


def _formats(summary: Summary) -> str:
    found = summary.composition
    parts = [
        ", ".join(f"{name}{suffix} {count:,}" for name, count in sorted(found[kind].items(), key=lambda e: -e[1]))
        for kind, suffix in (("format", ""), ("mode", ""), ("depth", "-bit"))
    ]
    return " · ".join(part for part in parts if part)


def _plain_lines(summary: Summary, groups: bool) -> Iterator[str]:
    yield _headline(summary).replace(" · ", "; ")
    header, rows = _channel_rows(summary)
    yield from aligned([header, *rows])
    yield ""
    yield from aligned([["std by convention", *summary.channels], *_convention_rows(summary)])
    if groups and summary.groups:
        yield ""
        yield from aligned([["group", "images", "mean", "std"], *_group_rows(summary)])
    yield ""
    yield f"found: {_formats(summary).replace(' · ', '; ')}"


def aligned(rows: list[list[str]]) -> Iterator[str]:
    """Columns two spaces apart: the first to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def bars(counts: Sequence[float]) -> str:
    """A histogram in block characters; every column that holds a pixel shows.

    >>> bars([0, 1, 50, 100])
    ' ▁▄█'
    """
    top = max(counts) or 1
    return "".join(_BLOCKS[0 if n == 0 else max(1, int(n * 8 // top))] for n in counts)


def _rich_table(summary: Summary, groups: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from normcli.summary.distribution import columns as histogram_columns

    console = Console(markup=False, highlight=False, emoji=False)
    console.print(Text(_headline(summary), style="bold"), soft_wrap=True)
    header, rows = _channel_rows(summary)
    columns = max(16, min(48, console.width - 12 - 10 * len(header)))
    shapes = None if summary.max_value is None else histogram_columns(summary, columns)
    channels = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(header):
        channels.add_column(title, justify="left" if i == 0 else "right", no_wrap=True)
    if shapes:
        channels.add_column(f"0{'1'.rjust(columns - 1)}", no_wrap=True)
    for i, row in enumerate(rows):
        cells = [Text(cell) for cell in row]
        cells[1].stylize("bold")
        cells[2].stylize("bold")
        if shapes:
            cells.append(Text(bars(shapes[i]), style=_HUES.get(row[0], "white")))
        channels.add_row(*cells)
    console.print(channels)
    by_convention = Table("std by convention", *summary.channels, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in _convention_rows(summary):
        by_convention.add_row(*map(Text, row))
    console.print(by_convention)
    if groups and summary.groups:
        by_group = Table("group", "images", "mean", "std", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in _group_rows(summary):
            by_group.add_row(*map(Text, row))
        console.print(by_group)
    console.print(Text(_formats(summary), style="dim"), soft_wrap=True)


def columns(header: list[str], rows: list[list[str]]) -> None:
    """Print rows under a header to stdout: with rich on a terminal, else as aligned plain text."""
    if not colorful(sys.stdout):
        sys.stdout.write("".join(line + "\n" for line in aligned([header, *rows])))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, name in enumerate(header):  # names fold where the terminal is narrow
        made.add_column(Text(name), justify="right" if 0 < i < 5 else "left", no_wrap=i > 0)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    Console(file=sys.stdout).print(made)


def warn(summary: Summary) -> None:
    """Write every warning and remark to stderr, one line each."""
    for line in remarks(summary):
        say(f"note: {line}")


def say(line: str) -> None:
    """Write one line to stderr, whatever bytes a file name in it holds."""
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


Step = Callable[[int, int], None]


@contextmanager
def progress(
    setting: str, quiet: bool, noun: str = "img", total: Callable[[], int | None] = lambda: None
) -> Iterator[Step | None]:
    """Give a function that takes inputs and bytes done: a bar on a terminal, a plain line every 30 s off it.

    Args:
        setting: "auto", "always" or "never".
        quiet: with "auto", show nothing.
        noun: what is counted.
        total: how many inputs there are, or None; asked only for a bar, which then tells the time that is left.
    """
    if setting not in ("auto", "always", "never"):
        raise UsageError(f"progress {setting!r}: choose from auto, always, never")
    if setting == "never" or (quiet and setting == "auto"):
        yield None
    elif setting == "always" or sys.stderr.isatty():
        with _bar(noun, total()) as step:
            yield step
    else:
        yield _every_30_seconds(noun)


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


def document(keys: dict[str, Any]) -> None:
    """Write a JSON object to stdout, one line a key."""
    import json

    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in keys.items())
    write("{\n" + ",\n".join(lines) + "\n}\n")


def write(text: str) -> None:
    """Write data to stdout."""
    sys.stdout.write(text)
