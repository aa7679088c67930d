"""normcli merge: add statistics files without loss, or subtract one."""

from typing import Annotated

import typer

from normcli import platforms
from normcli.cli.build import command
from normcli.cli.messages import Stopwatch
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

    normcli merge shard-*.json -o all.json

    normcli merge all.json --minus broken.json -o rest.json
    """
    from normcli.cli import messages, tables
    from normcli.summary.sums import merge as add

    watch = Stopwatch()
    output = options.output
    check_outputs(output, force=options.force)
    summary = add(*files, minus=options.minus, force=options.force)
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


app = command(merge)
