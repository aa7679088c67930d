"""normcli merge: add statistics files without loss, or subtract some."""

from pathlib import Path
from typing import Annotated

import typer

from normcli.cli import options as o

app = typer.Typer(add_completion=False)


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Statistics files to add.")],
    minus: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Subtract this statistics file; its images must be part of the sum."),
    ] = None,
    output: o.Output = None,
    json: o.Json = False,
    force: Annotated[
        bool,
        typer.Option(
            "-f",
            "--force",
            help="Overwrite FILE; merge although settings differ or the same images come twice, and record that.",
        ),
    ] = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Add statistics files without loss.

    The result is bit for bit what one pass over all the images gives. Exit 3 when it is incomplete: inputs failed,
    parts are missing, or conflicts were forced.

    normcli merge shard-*.json -o all.json

    normcli merge all.json --minus broken.json -o rest.json
    """
    from normcli.cli import tables
    from normcli.summary import merge as add

    o.refuse_outputs(output, force=force)
    summary = add(*files, minus=minus or (), force=force)
    if output is not None and str(output) != "-":
        summary.save(output)
    if json or str(output) == "-":
        tables.write(summary.to_json())
    elif output is None or not quiet:
        tables.table(summary)
    if not quiet:
        tables.warn(summary)
    return 0 if summary.complete else 3
