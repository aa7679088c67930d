"""normcli show: print a statistics file."""

from pathlib import Path
from typing import Annotated

import typer

from normcli.cli import options as o
from normcli.errors import UsageError

app = typer.Typer(add_completion=False)


@app.command()
def show(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A statistics file; - is stdin.")] = None,
    json: o.Json = False,
    format_: o.Format = None,
    convention: o.Convention = None,
    plot: o.Plot = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the statistics file instead.")
    ] = False,
    report: o.Report = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Print a statistics file, or export its mean and std to another tool.

    normcli show stats.json

    normcli show stats.json --format torchvision --convention mean_of_image_stds

    normcli stats photos/ --json | normcli show - --plot
    """
    from normcli.cli import tables
    from normcli.summary import SCHEMA_FILE, Summary
    from normcli.summary.remarks import incomplete_merge

    if schema:
        tables.write(SCHEMA_FILE.read_text(encoding="utf-8"))
        return 0
    if file is None:
        raise UsageError("FILE is required (or --schema)")
    tables.check_form(json, format_, convention)
    o.refuse_outputs(report, force=force)
    o.one_on_stdout(report, json, format_)
    summary = Summary.load(file)
    if report is not None:
        tables.page(report, summary, "stdin" if str(file) == "-" else file.name)
        if not json and format_ is None and not plot:
            return 0
    tables.result(summary, json=json, form=format_, convention=convention, plot=plot)
    if quiet:
        return 0
    if not json and format_ in (None, "table"):
        tables.warn(summary)
    else:
        for remark in incomplete_merge(summary):
            tables.say(f"note: {remark}")
    return 0
