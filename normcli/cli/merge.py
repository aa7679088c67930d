"""normcli merge: add statistics files without loss, or subtract one."""

import re
from pathlib import Path
from typing import Annotated

import typer

from normcli import platforms
from normcli.cli.build import command
from normcli.cli.messages import Stopwatch
from normcli.errors import UsageError
from normcli.options.printing import MergeOptions, TerminalOptions
from normcli.storage import check_outputs


def merge(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Statistics files to add.", callback=platforms.expand_globs),
    ],
    *,
    options: MergeOptions,
    terminal: TerminalOptions,
) -> int:
    """Add statistics files without loss.

    The result is bit for bit that of one pass over all the images. Exit 3 when it is incomplete: inputs failed,
    parts are missing, or conflicts were forced.

    With FILE:WEIGHT the result is a weighted mixture of the datasets, whatever their sizes. It has no counts.

    normcli merge shard-*.json -o all.json

    normcli merge all.json --minus broken.json -o rest.json

    normcli merge robot.json:0.7 simulation.json:0.3 -o mixture.json
    """
    from normcli.cli import messages, tables
    from normcli.summary.sums import merge as add

    watch = Stopwatch()
    output = options.output
    check_outputs(output, force=options.force)
    names, weights = split_weights(files)
    summary = add(*names, minus=options.minus, force=options.force, weights=weights)
    if output is not None and str(output) != "-":
        summary.save(output)
    if options.json or str(output) == "-":
        messages.write(summary.to_json())
    elif output is None or not terminal.quiet:
        tables.print_summary(summary)
    if not terminal.quiet:
        messages.warn(summary)
        if output is not None and str(output) != "-":
            watch.closing(f"wrote {output}", summary.images, noun=summary.unit)
    return 0 if summary.complete else 3


def split_weights(files: list[str]) -> tuple[list[str], list[float] | None]:
    """Return the paths and the weights of FILE:WEIGHT; None if no file has one, or all of them exist as they are.

    Raises:
        UsageError: some files have a weight, and others none.
    """
    matches = [None if Path(file).exists() else re.fullmatch(_WEIGHTED, file) for file in files]
    pairs = [(match[1], float(match[2])) for match in matches if match is not None]
    if not pairs:
        return files, None
    if len(pairs) < len(files):
        bare = files[matches.index(None)]
        raise UsageError(f"{bare}: has no weight, and others have: FILE:WEIGHT is required for all of them, or none")
    return [path for path, _ in pairs], [weight for _, weight in pairs]


_WEIGHTED = r"(.+):([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"

app = command(merge, arrays=True)
