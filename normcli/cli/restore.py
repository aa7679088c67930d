"""normcli restore: write the original images again from the output of apply."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normcli.cli.build import check_stdout, command, say
from normcli.cli.messages import FirstFailure, Stopwatch, as_json, progress, warn_failed, write
from normcli.errors import UsageError
from normcli.options.apply import RestoreOptions
from normcli.options.printing import FailureListOptions, JsonOptions, TerminalOptions
from normcli.storage import check_outputs

if TYPE_CHECKING:
    from normcli.runs.restore import RestoreResult


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
    """Restore the original images from the output of `apply`, bit for bit where it has every level.

    normcli restore arrays -o photos-again
    """
    from normcli.runs import restore as run
    from normcli.storage import jsonl_writer

    watch = Stopwatch()
    if output is None or str(output) == "-":
        raise UsageError("`output` is required: -o DIR")
    check_stdout(failures=lists.failures)
    check_outputs(lists.failures, force=options.force)
    first = FirstFailure()
    with progress(terminal) as step, jsonl_writer(lists.failures) as fail:
        result = run.restore(
            folder,
            str(output),
            options.replace(
                on_failure=first.then(fail),
                on_progress=step,
            ),
        )
    if printing.json:
        write(as_json(vars(result)))
    if terminal.quiet:
        warn_failed(dict(result.failed))
    else:
        _show(result, output, watch, first)
    return 3 if result.failed else 0


app = command(restore, arrays=True)


def _show(result: "RestoreResult", output: Path, watch: Stopwatch, first: FirstFailure) -> None:
    """Print the reasons for inexact images, and the closing line of a run of restore."""
    if result.geometry:
        say(f"note: the images stay as apply mapped them ({result.geometry}); a geometry cannot be undone")
    for reason, count in result.inexact.items():
        say(f"note: {count:,} not exact: {reason}")
    warn_failed(dict(result.failed))
    first.show()
    watch.closing(f"wrote {output}", result.images, f"{result.exact:,} bit for bit", noun=result.unit)
