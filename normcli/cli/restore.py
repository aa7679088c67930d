"""normcli restore: the original images from what apply wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from normcli.cli.build import check_stdout, command
from normcli.cli.inputs import check_outputs
from normcli.cli.messages import Stopwatch
from normcli.errors import UsageError
from normcli.options.apply import RestoreOptions
from normcli.options.printing import FailureListOptions, JsonOptions, TerminalOptions


def restore(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder that `normcli apply` wrote.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder to write the images to.")
    ] = None,
    *,
    options: RestoreOptions,
    lists: FailureListOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Restore the original images from the output of `apply`, bit for bit where it holds every level.

    normcli restore arrays -o photos-again
    """
    from normcli.cli import results
    from normcli.cli.messages import write
    from normcli.cli.progress import progress
    from normcli.runs import restore as run
    from normcli.runs.records import jsonl

    watch = Stopwatch()
    if output is None or str(output) == "-":
        raise UsageError("`output` is required: -o DIR")
    check_stdout(failures=lists.failures)
    check_outputs(lists.failures, force=options.force)
    with progress(terminal) as step, jsonl(lists.failures) as fail:
        result = run.restore(
            folder,
            str(output),
            replace(
                options,
                on_failure=None if fail is None else lambda failure: fail(failure.record()),
                on_progress=step,
            ),
        )
    if printing.json:
        write(results.as_json(vars(result)))
    if terminal.quiet:
        results.warn_failed(dict(result.failed))
    else:
        results.show_restored(result, output, watch)
    return 3 if result.failed else 0


app = command(restore)
