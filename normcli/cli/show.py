"""normcli show: print a statistics file."""

from pathlib import Path
from typing import Annotated

import typer

from normcli.cli import completion
from normcli.cli.build import command, require_with, say
from normcli.errors import UsageError
from normcli.options.printing import PercentileOptions, SummaryOptions, TerminalOptions
from normcli.storage import check_outputs


def show(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Statistics file; - is stdin.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="NAME",
            help="Print one group of --group-by.",
            rich_help_panel="Output",
            autocompletion=completion.groups,
        ),
    ] = None,
    plot: Annotated[
        bool,
        typer.Option("--plot", help="Draw each channel's histogram in the terminal.", rich_help_panel="Output"),
    ] = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON Schema of the statistics file.", rich_help_panel="Output"),
    ] = False,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Overwrite an existing report.", rich_help_panel="Output")
    ] = False,
    *,
    printing: SummaryOptions,
    percentiles: PercentileOptions,
    terminal: TerminalOptions,
) -> int:
    """Print a statistics file, or mean and std as code or config for another tool.

    normcli show stats.json

    normcli show stats.json --format torchvision --convention mean_of_image_stds

    normcli show stats.json --percentiles 0.5,99.5,iqr

    normcli stats photos/ --json | normcli show - --plot
    """
    from normcli.cli import messages, tables
    from normcli.summary import SCHEMA_FILE, Summary
    from normcli.summary.remarks import incompleteness

    if schema:
        messages.write(SCHEMA_FILE.read_text(encoding="utf-8"))
        return 0
    if file is None:
        raise UsageError("FILE is required, or `schema` (see: normcli show --help)")
    tables.check_printing(printing)
    require_with("`format`", printing.format is not None, "digits")
    require_with("`percentiles`", percentiles.percentiles is not None, "percentile_method")
    if plot and (printing.json or printing.format not in (None, "table")):
        raise UsageError("`plot` cannot be combined with `json` or `format`: it is drawn below the table")
    if group is not None and plot:
        raise UsageError("`group` cannot be combined with `plot`, which draws the complete dataset")
    if group is not None and printing.report is not None:
        raise UsageError("`group` cannot be combined with `report`, which shows every group")
    require_with("`report`", printing.report is not None, "force")
    check_outputs(printing.report, force=force)
    summary = Summary.load(file)
    if percentiles.percentiles is not None:
        summary = summary.with_percentiles(percentiles.percentiles, method=percentiles.percentile_method)
    if printing.report is not None:
        from normcli.cli import pages

        pages.write_summary_page(printing.report, summary, pages.title_of(str(file)), pages.origin_of(statistics=file))
        if not printing.json and printing.format is None and not plot:
            return 0
    tables.show_summary(summary, printing, plot=plot, group=group)
    if terminal.quiet:
        return 0
    if not printing.json and printing.format in (None, "table"):
        messages.warn(summary)
    else:
        for remark in incompleteness(summary):
            say(f"note: {remark}")
    return 0


app = command(show, quick=True)
