"""Statistics as tables: channels, conventions, groups, and what the images are."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from normcli.cli.messages import document, printable, say, write
from normcli.cli.plot import HUES, bars, plotted
from normcli.cli.table import (
    Column,
    Table,
    aligned,
    columns,
    decimals_for,
    is_colorful,
    is_unicode,
    number,
    numbers,
    print_table,
    terminal_width,
)
from normcli.errors import UsageError, unknown
from normcli.options.printing import SummaryOptions
from normcli.summary import GroupSummary, Summary
from normcli.summary.remarks import CONVENTIONS

__all__ = ["aligned", "bars", "check_printing", "columns", "number", "print_summary", "show_summary"]

_SHOWN_PERCENTILES = ("1", "50", "99")
_SPARKLINE = 32  # characters
_NARROW = 92  # below this width, the sparkline goes


def show_summary(
    summary: Summary, printing: SummaryOptions, *, json: bool = False, plot: bool = False, group: str | None = None
) -> None:
    """Print a summary as the options ask: a table, the statistics file, or code or config for another tool.

    Raises:
        UsageError: unknown names, or options that contradict each other.
    """
    if group is not None and (printing.json or printing.format == "json"):
        document({"group": group, **vars(summary.group(group))})
    elif group is not None and printing.format in (None, "table"):
        print_group(summary, group, printing.convention)
    elif json or printing.json or printing.format == "json":
        if printing.convention not in (None, "pooled_population"):
            raise UsageError("`convention` cannot be combined with `json`: the statistics file holds every convention")
        write(summary.to_json())
    elif printing.format in (None, "table"):
        print_summary(summary if printing.convention is None else in_convention(summary, printing.convention))
        if plot:
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
    from normcli.constants.exporters.values import mean_and_std

    name, mean, std = mean_and_std(summary, convention)
    return replace(summary, mean=mean, std=std, convention=name)


def print_summary(summary: Summary, *, groups: bool = True) -> None:
    """Print a summary to stdout: channels, conventions, groups, and what the images are."""
    separator = " · " if is_colorful(sys.stdout) and is_unicode(sys.stdout) else "; "
    _print_line(separator.join(_headline(summary)), "bold")
    print_table(_channels(summary))
    write("\n")
    print_table(_conventions(summary, summary.channels))
    if groups and summary.groups:
        write("\n")
        print_table(_groups(summary))
    write("\n")
    _print_line("found: " + separator.join(_composition(summary)), "dim")


def _print_line(text: str, style: str) -> None:
    """Print a line of words, folded at spaces where the terminal is narrower."""
    import textwrap

    width = terminal_width(sys.stdout)
    lines = [text] if width is None else textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    start, end = {"bold": ("\x1b[1m", "\x1b[0m"), "dim": ("\x1b[2m", "\x1b[0m")}[style]
    color = is_colorful(sys.stdout)
    write("".join(f"{start}{line}{end}\n" if color else f"{line}\n" for line in lines))


def _headline(summary: Summary) -> list[str]:
    images = f"{summary.images:,} image{'s' * (summary.images != 1)}"
    return [images, f"{summary.pixels:,} pixels", summary.convention_text]


def _channels(summary: Summary) -> Table:
    decimals = decimals_for([*summary.mean, *summary.std])

    def cells(values: Sequence[float | None]) -> list[str]:
        return [number(value, decimals) for value in values]

    columns = [
        Column("channel", summary.channels, left=True),
        Column("mean", cells(summary.mean), bold=True),
        Column("std", cells(summary.std), bold=True),
        Column("min", cells(summary.min), drop=1),
        *(Column(f"{p}%", cells(summary.percentiles[p]), drop=2) for p in _SHOWN_PERCENTILES),
        Column("max", cells(summary.max), drop=1),
    ]
    return Table([*columns, *_sparklines(summary)])


def _sparklines(summary: Summary) -> Iterator[Column]:
    """Yield the column of histograms, where there is color and room for it."""
    width = terminal_width(sys.stdout)
    wide = width is None or width >= _NARROW
    if summary.max_value is None or not (wide and is_colorful(sys.stdout) and is_unicode(sys.stdout)):
        return
    from normcli.summary.distribution import columns as histogram_columns

    shapes = histogram_columns(summary, _SPARKLINE)
    styles = [HUES.get(name, "") for name in summary.channels]
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
    images = f"{group.images:,} image{'s' * (group.images != 1)}"
    described = f"{named.replace('_', ' ')}, {'raw units' if summary.range == 'raw' else 'range 0-1'}"
    _print_line(f"{printable(name)}: {images}, {group.pixels:,} pixels; {described}", "bold")
    rows = [("mean", mean, 0), ("std", std, 0), *((f"{p}%", group.percentiles[p], 2) for p in _SHOWN_PERCENTILES)]
    columns = [Column(title, [number(v, decimals) for v in row], drop=drop) for title, row, drop in rows]
    print_table(Table([Column("channel", summary.channels, left=True), *columns]))
    write("\n")
    print_table(_conventions(group, summary.channels))


def _groups(summary: Summary) -> Table:
    rows = [
        [printable(name), f"{group.images:,}", numbers(group.mean), numbers(group.std)]
        for name, group in summary.groups.items()
    ]
    return Table.of(["group", "images", "mean", "std"], rows)


def _composition(summary: Summary) -> list[str]:
    counts = summary.composition
    parts = [
        ", ".join(f"{name}{suffix} {count:,}" for name, count in sorted(counts[kind].items(), key=lambda e: -e[1]))
        for kind, suffix in (("format", ""), ("mode", ""), ("depth", "-bit"))
    ]
    return [part for part in parts if part]
