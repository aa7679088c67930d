"""Statistics as tables that fit the terminal: aligned text or Rich, never a number cut off.

Where a table is too wide, complete columns are dropped, the least important first; then it is stacked:
one block of "name value" lines for each row.
"""

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from normcli.cli.build import folded, printable, say
from normcli.cli.messages import document, is_colorful, is_unicode, terminal_width, write
from normcli.errors import UsageError, unknown
from normcli.options.printing import SummaryOptions
from normcli.summary import GroupSummary, Summary
from normcli.summary.remarks import CONVENTIONS

BLOCKS = " ▁▂▃▄▅▆▇█"
NARROW = 92  # columns; below them a table has no sparkline
_SPARKLINE = 32  # characters
_HUES = {"R": "bright_red", "G": "bright_green", "B": "bright_blue"}
_SHOWN_PERCENTILES = ("1", "50", "99")
_GAP = 2  # columns between two of a table
_DECIMALS = 4


def bars(counts: Sequence[float], blocks: str = BLOCKS) -> str:
    """Return a histogram in block characters; every column that holds a pixel shows.

    >>> bars([0, 1, 50, 100])
    ' ▁▄█'
    """
    top = max(counts) or 1
    return "".join(blocks[0 if n == 0 else max(1, int(n * 8 // top))] for n in counts)


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        title: heading.
        cells: one text for each row.
        left: align to the left; numbers are aligned to the right.
        drop: the higher, the sooner the column goes where the table is too wide; 0 stays.
        bold: emphasize.
        styles: Rich style of each cell; () for none.
    """

    title: str
    cells: Sequence[str]
    left: bool = False
    drop: int = 0
    bold: bool = False
    styles: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Return the characters of the widest cell."""
        return max(len(self.title), *map(len, self.cells), 0)

    def padded(self, text: str) -> str:
        """Return a cell's text with the spaces that align it."""
        return text.ljust(self.width) if self.left else text.rjust(self.width)


class Table(NamedTuple):
    """Columns of equal length; the first names the rows."""

    columns: Sequence[Column] = ()

    @classmethod
    def of(cls, header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
        """Return a table of rows; the first column is aligned to the left, the others to the right."""
        return cls([Column(title, [row[i] for row in rows], left=i == 0) for i, title in enumerate(header)])

    @property
    def width(self) -> int:
        """Return the characters of a line."""
        return sum(column.width for column in self.columns) + _GAP * (len(self.columns) - 1)

    def fitted(self, width: int | None) -> "Table":
        """Return the table without the columns that do not fit into a width; None is any width."""
        columns = list(self.columns)
        while width is not None and Table(columns).width > width:
            droppable = [column for column in columns if column.drop]
            if not droppable:
                break
            columns.remove(max(droppable, key=lambda column: column.drop))
        return Table(columns)


def print_table(table: Table) -> None:
    """Print a table to stdout, fitted to its width: by Rich where there is color, else as aligned text."""
    width = terminal_width(sys.stdout)
    if not is_colorful(sys.stdout) or not is_unicode(sys.stdout):
        sys.stdout.write("".join(f"{line}\n" for line in lines_of(table, width)))
        return
    fitted = table.fitted(width)
    if width is not None and fitted.width > width:
        sys.stdout.write("".join(f"{line}\n" for line in _stacked(fitted)))
    else:
        _print_rich(fitted)


def lines_of(table: Table, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a table as aligned text, fitted to a width."""
    fitted = table.fitted(width)
    if width is not None and fitted.width > width:
        yield from _stacked(fitted)
        return
    rows = [[column.title for column in fitted.columns]]
    rows += [[column.cells[i] for column in fitted.columns] for i in range(len(fitted.columns[0].cells))]
    for row in rows:
        cells = [column.padded(cell) for cell, column in zip(row, fitted.columns, strict=True)]
        yield (" " * _GAP).join(cells).rstrip()


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of rows under their header, the first of them, fitted to the terminal."""
    yield from lines_of(Table.of(rows[0], rows[1:]), terminal_width(sys.stdout))


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header to stdout."""
    print_table(Table.of(header, rows))


def _stacked(table: Table) -> Iterator[str]:
    first, *others = table.columns
    width = max((len(column.title) for column in others), default=0)
    for i, name in enumerate(first.cells):
        yield f"{first.title} {name}".strip()
        yield from (f"  {column.title:<{width}}  {column.cells[i]}" for column in others)


def _print_rich(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(
        file=sys.stdout, markup=False, highlight=False, emoji=False, width=max(table.width + 4, 20), color_system="auto"
    )
    rich_table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    # padded here: Rich does not justify text that may overflow, and numbers must never be cut
    for column in table.columns:
        rich_table.add_column(Text(column.padded(column.title)), no_wrap=True, overflow="ignore")
    for i in range(len(table.columns[0].cells)):
        cells = []
        for column in table.columns:
            text = Text(column.padded(printable(column.cells[i])), style="bold" if column.bold else "")
            if column.styles:
                text.stylize(column.styles[i])
            cells.append(text)
        rich_table.add_row(*cells)
    console.print(rich_table)


def decimals_for(values: Iterable[float | None]) -> int:
    """Return the decimals that show four digits of the smallest number below 0.01, and four in any other case.

    >>> decimals_for([0.4870, 0.2772]), decimals_for([0.0061, 0.0043]), decimals_for([0.0])
    (4, 6, 4)
    """
    sizes = [abs(v) for v in values if v is not None and v != 0 and math.isfinite(v)]
    smallest = min(sizes, default=1.0)
    return _DECIMALS if smallest >= 0.01 else min(9, 3 - math.floor(math.log10(smallest)))


def number(value: float | None, decimals: int = _DECIMALS) -> str:
    """Return a statistic with some decimals, or four digits where they would hide it; "-" for None.

    >>> number(0.13251), number(1234567.0), number(0.00001234), number(None), number(0.0061, 6)
    ('0.1325', '1234567.0000', '1.234e-05', '-', '0.006100')
    """
    if value is None:
        return "-"
    if value != 0 and abs(value) < 10.0 ** (1 - decimals) and abs(value) < 0.001:
        return f"{value:.4g}"
    if abs(value) >= 1e7:
        return f"{value:.6e}"
    return f"{value:.{decimals}f}"


def numbers(values: Sequence[float | None], decimals: int = _DECIMALS) -> str:
    """Return numbers side by side."""
    return " ".join(number(value, decimals) for value in values)


def show_summary(
    summary: Summary, printing: SummaryOptions, *, json: bool = False, plot: bool = False, group: str | None = None
) -> None:
    """Print a summary as the options ask: a table, the statistics file, or code or config for another tool.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    if group is not None and (printing.json or printing.format == "json"):
        document({"group": group, **summary.group(group).to_dict()})
    elif group is not None and printing.format in (None, "table"):
        print_group(summary, group, printing.convention)
    elif json or printing.json or printing.format == "json":
        if printing.convention not in (None, "pooled_population"):
            raise UsageError("`convention` cannot be combined with `json`: the statistics file holds every convention")
        write(summary.to_json())
    elif printing.format in (None, "table"):
        print_summary(summary if printing.convention is None else in_convention(summary, printing.convention))
        if plot:
            from normcli.cli.plots import plotted

            write("\n" + "".join(line + "\n" for line in plotted(summary)))
    else:
        from normcli.constants import exporters

        digits = exporters.digits_of(printing.format, printing.digits)
        write(exporters.export(summary, printing.format, printing.convention, group=group, digits=digits))
        if (note := exporters.format_note(summary, printing.format, printing.convention, group=group)) is not None:
            say(f"note: {note}")


def check_printing(printing: SummaryOptions, output: Path | None = None) -> None:
    """Check names and combinations before the work.

    Raises:
        UsageError: unknown names, or two results for one stdout.
    """
    if printing.format is not None:
        from normcli.constants.exporters import FORMAT_CHOICES, unknown_format

        if printing.format not in FORMAT_CHOICES:
            raise unknown_format(printing.format)
    if printing.convention is not None and printing.convention not in CONVENTIONS:
        raise unknown("convention", printing.convention, CONVENTIONS)
    if (printing.json or str(output) == "-") and printing.format not in (None, "json"):
        raise UsageError("`json` cannot be combined with `format`")
    if str(printing.report) == "-" and (printing.json or str(output) == "-" or printing.format is not None):
        raise UsageError("`report` - cannot be combined with `json`, `format` or `output` -: one stdout")


def in_convention(summary: Summary, convention: str) -> Summary:
    """Return the summary with mean and std of another convention on top.

    Raises:
        UsageError: unknown convention, or one that these statistics do not hold.
    """
    from normcli.constants.exporters.values import mean_and_std

    name, mean, std = mean_and_std(summary, convention)
    return summary.replace(mean=mean, std=std, convention=name)


def print_summary(summary: Summary, *, groups: bool = True) -> None:
    """Print a summary to stdout: channels, conventions, groups and composition."""
    separator = " · " if is_colorful(sys.stdout) and is_unicode(sys.stdout) else "; "
    _print_line(separator.join(_headline(summary)), "bold")
    print_table(_channels(summary))
    _print_method(summary)
    if summary.unit == "image":  # the std of a vector's one value is 0
        write("\n")
        print_table(_conventions(summary, summary.channels))
    if groups and summary.groups:
        write("\n")
        print_table(_groups(summary))
    write("\n")
    _print_line("found: " + separator.join(_composition(summary)), "dim")


def _print_line(text: str, style: str) -> None:
    """Print a line of words, folded at spaces where the terminal is narrower."""
    lines = folded(text, terminal_width(sys.stdout))
    start, end = {"bold": ("\x1b[1m", "\x1b[0m"), "dim": ("\x1b[2m", "\x1b[0m")}[style]
    color = is_colorful(sys.stdout)
    write("".join(f"{start}{line}{end}\n" if color else f"{line}\n" for line in lines))


def _headline(summary: Summary) -> list[str]:
    images = summary.count_text(summary.images)
    pixels = [] if summary.unit == "vector" and not isinstance(summary.pixels, list) else [summary.pixels_text]
    return [images, *pixels, summary.convention_text]


def _channels(summary: Summary) -> Table:
    decimals = decimals_for([*summary.mean, *summary.std])

    def cells(values: Sequence[float | None]) -> list[str]:
        return [number(value, decimals) for value in values]

    columns = [
        Column("channel", summary.channels, left=True),
        Column("mean", cells(summary.mean), bold=True),
        Column("std", cells(summary.std), bold=True),
        Column("min", cells(summary.min), drop=1),
        *_percentiles(summary, decimals),
        Column("max", cells(summary.max), drop=1),
        *([Column("invalid", [f"{n:,.10g}" for n in summary.invalid], drop=1)] if summary.invalid else ()),
    ]
    return Table([*columns, *_sparklines(summary)])


def _percentiles(one: Summary | GroupSummary, decimals: int) -> Iterator[Column]:
    """Yield the columns of percentiles: those that were asked for, with the bounds of their errors, or three."""
    details = one.percentile_details
    if details is None or not details["requested"]:
        names: Sequence[str] = _SHOWN_PERCENTILES
    else:
        names = details["requested"]
    for name in names:
        values = one.percentiles[name]
        errors = (details or {}).get("error", {}).get(name, [0] * len(values))
        cells = [
            number(v, decimals) + (f"+-{_rounded_up(e)}" if e else "") for v, e in zip(values, errors, strict=True)
        ]
        yield Column(name if name == "iqr" else f"{name}%", cells, drop=0 if details and details["requested"] else 2)


def _rounded_up(error: float) -> str:
    """Return a bound with two digits, not below it."""
    from decimal import ROUND_UP, Context

    return f"{Context(prec=2, rounding=ROUND_UP).create_decimal_from_float(error):.1e}"


def _sparklines(summary: Summary) -> Iterator[Column]:
    """Yield the column of histograms, where there is color and room for it."""
    width = terminal_width(sys.stdout)
    wide = width is None or width >= NARROW
    if (
        summary.max_value is None
        or "mixture" in summary.settings
        or not (wide and is_colorful(sys.stdout) and is_unicode(sys.stdout))
    ):
        return
    from normcli.summary.distribution import columns as histogram_columns

    shapes = histogram_columns(summary, _SPARKLINE)
    styles = [_HUES.get(name, "") for name in summary.channels]
    yield Column(f"0{'1'.rjust(_SPARKLINE - 1)}", [bars(shape) for shape in shapes], left=True, drop=3, styles=styles)


def _conventions(summary: Summary | GroupSummary, channels: Sequence[str]) -> Table:
    known = [v["std"] for v in summary.conventions.values() if v["std"] is not None]
    decimals = decimals_for([value for row in known for value in row])
    rows = []
    for name, values in summary.conventions.items():
        std = values["std"]
        cells = ["-"] * len(channels) if std is None else [number(v, decimals) for v in std]
        rows.append([name.replace("_", " "), *cells])
    return Table.of(["std by convention", *channels], rows)


def print_group(summary: Summary, name: str, convention: str | None = None) -> None:
    """Print the statistics of one group to stdout: channels and conventions.

    Raises:
        UsageError: no such group or convention.
    """
    from normcli.constants.exporters.values import mean_and_std

    group = summary.group(name)
    named, mean, std = mean_and_std(summary, convention, group=name)
    decimals = decimals_for([*mean, *std])
    images = summary.count_text(group.images)
    described = f"{named.replace('_', ' ')}, {summary.units_text}"
    _print_line(f"{printable(name)}: {images}, {group.pixels_text}; {described}", "bold")
    rows = [("mean", mean), ("std", std)]
    columns = [Column(title, [number(v, decimals) for v in row]) for title, row in rows]
    percentiles = _percentiles(group, decimals)
    print_table(Table([Column("channel", summary.channels, left=True), *columns, *percentiles]))
    _print_method(group)
    if summary.unit == "image":
        write("\n")
        print_table(_conventions(group, summary.channels))


def _print_method(one: Summary | GroupSummary) -> None:
    """Print the method of the percentiles requested."""
    if (details := one.percentile_details) is not None:
        exact = "exact" if details["exact"] else "+- bounds the error of values known to 8 significant bits"
        _print_line(f"percentiles: {details['method']}, {exact}", "dim")


def _groups(summary: Summary) -> Table:
    rows = [
        [printable(name), f"{group.images:,}", numbers(group.mean), numbers(group.std)]
        for name, group in summary.groups.items()
    ]
    return Table.of(["group", f"{summary.unit}s", "mean", "std"], rows)


def _composition(summary: Summary) -> list[str]:
    counts = summary.composition
    names = {"mode": {"1": "bilevel"}}  # Pillow's name reads as a number
    parts = [
        ", ".join(
            f"{names.get(kind, {}).get(name, name)}{suffix} {count:,}"
            for name, count in sorted(counts[kind].items(), key=lambda e: -e[1])
        )
        for kind, suffix in (("format", ""), ("mode", ""), ("depth", "-bit"))
    ]
    return [part for part in parts if part]
