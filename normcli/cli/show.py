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
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Print a statistics file.

    normcli show stats.json

    normcli stats photos/ --json | normcli show -
    """
    from normcli.cli import render
    from normcli.summary import Summary

    summary = Summary.load(file)
    if json:
        render.write(summary.to_json())
        return 0
    render.table(summary)
    if not quiet:
        render.warn(summary)
    return 0
