"""normcli verify: what apply wrote, read again."""

from dataclasses import replace
from typing import Annotated

import typer

from normcli.cli.build import command
from normcli.options.apply import VerifyOptions
from normcli.options.printing import JsonOptions, TerminalOptions

_PROBLEMS_SHOWN = 20


def verify(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder that `normcli apply` wrote.")],
    *,
    options: VerifyOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Read the output of `apply` again, check every file, and print mean and std per channel.

    Exit 0 when all files are as they were written and mean and std are what the scheme promises, 1 when not.

    normcli verify arrays
    """
    from normcli.cli import results
    from normcli.cli.messages import say, write
    from normcli.cli.progress import progress
    from normcli.runs import verify as run

    with progress(terminal) as step:
        result = run.verify(folder, replace(options, on_progress=step))
    if printing.json:
        channels = [vars(channel) for channel in result.channels]
        write(results.as_json({**vars(result), "channels": channels, "sound": result.sound}))
    else:
        results.show_verified(result)
    for name, message in result.problems[:_PROBLEMS_SHOWN]:
        say(f"{name}: {message}")
    if len(result.problems) > _PROBLEMS_SHOWN:
        say(f"and {len(result.problems) - _PROBLEMS_SHOWN} more")
    if not terminal.quiet and not result.sound:
        problem = f"mean and std are not 0 and 1 within {result.tolerance:g}"
        if result.problems:
            problem = f"{len(result.problems)} files are not as they were written"
        say(f"verify: failed: {problem}")
    return 0 if result.sound else 1


app = command(verify)
