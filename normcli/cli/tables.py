"""How results look: tables on a terminal, plain lines through a pipe, progress on stderr."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from normcli.cli.messages import printable, say, write
from normcli.errors import UsageError, unknown
from normcli.options.printing import SummaryOptions
from normcli.summary import Summary
from normcli.summary.remarks import CONVENTIONS

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


def show_summary(summary: Summary, printing: SummaryOptions, *, json: bool = False, plot: bool = False) -> None:
    """Print a summary as the options ask: a table, the statistics file, or code or config for another tool.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    if json or printing.json or printing.format == "json":
        if printing.convention not in (None, "pooled_population"):
            raise UsageError("`convention` cannot be combined with `json`: the statistics file holds every convention")
        write(summary.to_json())
    elif printing.format in (None, "table"):
        table(summary if printing.convention is None else in_convention(summary, printing.convention))
        if plot:
            write("\n" + "".join(line + "\n" for line in plotted(summary)))
    else:
        from normcli.constants import exporters

        write(exporters.export(summary, printing.format, printing.convention))
        if (note := exporters.format_note(summary, printing.format, printing.convention)) is not None:
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


def check_printing(printing: SummaryOptions, output: Path | None = None) -> None:
    """Check names and combinations before the work.

    Raises:
        UsageError: unknown names, or two results for one stdout.
    """
    if printing.format is not None:
        from normcli.constants.exporters import FORMAT_CHOICES

        if printing.format not in FORMAT_CHOICES:
            raise unknown("format", printing.format, FORMAT_CHOICES)
    if printing.convention is not None and printing.convention not in CONVENTIONS:
        raise unknown("convention", printing.convention, CONVENTIONS)
    if (printing.json or str(output) == "-") and printing.format not in (None, "json"):
        raise UsageError("`json` cannot be combined with `format`")
    printing.check(output)


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
