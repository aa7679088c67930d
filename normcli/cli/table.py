"""Numbers as text, and tables that fit the terminal: aligned text or Rich, never a number cut off.

Where a table is too wide, whole columns go, the least important first; where even that is not enough, it is stacked:
one block of "name value" lines for each row.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from normcli.cli.messages import printable

_GAP = 2
_DECIMALS = 4


@dataclass(frozen=True)
class Column:
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
        """Characters of the widest cell."""
        return max(len(self.title), *map(len, self.cells), 0)

    def padded(self, text: str) -> str:
        """Return a cell's text with the spaces that align it."""
        return text.ljust(self.width) if self.left else text.rjust(self.width)


@dataclass(frozen=True)
class Table:
    """Columns of equal length; the first names the rows."""

    columns: Sequence[Column] = field(default_factory=list)

    @classmethod
    def of(cls, header: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
        """Return a table of rows; the first column is aligned to the left, the others to the right."""
        return cls([Column(title, [row[i] for row in rows], left=i == 0) for i, title in enumerate(header)])

    @property
    def width(self) -> int:
        """Characters of a line."""
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


def is_colorful(stream: TextIO) -> bool:
    """Return True for a terminal, unless NO_COLOR is set or it is dumb, and wherever FORCE_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_unicode(stream: TextIO) -> bool:
    """Return True where a stream can show block characters."""
    try:
        "▁█─".encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def terminal_width(stream: TextIO) -> int | None:
    """Return the columns of a terminal, or of COLUMNS; None for a file or a pipe, which take any width."""
    if stream.isatty() or os.environ.get("COLUMNS", "").isdecimal():
        return shutil.get_terminal_size((80, 24)).columns
    return None


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
