"""normcli show: print a statistics file."""

from pathlib import Path
from typing import Annotated

import typer

from normcli.cli import options as o

app = typer.Typer(add_completion=False)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A statistics file; - is stdin.")],
    json: o.Json = False,
    format_: o.Format = None,
    convention: o.Convention = None,
    plot: o.Plot = False,
    report: o.Report = None,
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Print a statistics file, or say it in another tool's words.

    normcli show stats.json

    normcli show stats.json --format torchvision --convention mean_of_image_stds

    normcli stats photos/ --json | normcli show - --plot
    """
    from normcli.cli import tables
    from normcli.summary import Summary

    tables.check_form(json, format_, convention)
    o.refuse_outputs(report, force=force)
    o.one_on_stdout(report, json, format_)
    summary = Summary.load(file)
    if report is not None:
        tables.page(report, summary, "stdin" if str(file) == "-" else file.name)
        if not json and format_ is None and not plot:
            return 0
    tables.result(summary, json=json, form=format_, convention=convention, plot=plot)
    if not quiet and not json and format_ in (None, "table"):
        tables.warn(summary)
    return 0
