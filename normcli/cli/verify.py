"""normcli verify: the output of apply read again, or the sources of a statistics file counted again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normcli.cli.build import command, require_with, say
from normcli.cli.messages import as_json, document, progress, write, write_lines
from normcli.errors import UsageError
from normcli.options.apply import VerifyOptions, VerifyStatisticsOptions
from normcli.options.printing import JsonOptions, TerminalOptions

if TYPE_CHECKING:
    from normcli.runs.verify import VerifyResult

_PROBLEMS_SHOWN = 20


def verify(
    target: Annotated[
        str, typer.Argument(metavar="FOLDER|STATS", help="Folder that `normcli apply` wrote, or a statistics file.")
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE...", help="Sources of the statistics file.", show_default=False),
    ] = None,
    *,
    options: VerifyStatisticsOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Check the output of `apply`, or check that a statistics file still describes its sources.

    FOLDER: read every file again and print mean and std per channel. STATS SOURCE...: count the sources again, with the
    settings of the file, and compare; STATS may be a stats.json of LeRobot or a norm_stats.json of openpi. Exit 0 when
    all is as it was, 1 when not.

    normcli verify arrays

    normcli verify stats.json photos/

    normcli verify robot/meta/stats.json robot/
    """
    if sources:
        if Path(target).is_dir():
            raise UsageError(f"{target} is a folder: SOURCE requires a statistics file before it")
        return _verify_statistics(target, sources, options, printing, terminal)
    if Path(target).is_file():
        raise UsageError(f"{target}: a statistics file requires SOURCE, the images that it describes")
    require_with("a SOURCE", False, "include", "exclude", "follow_symlinks", "max_file_size", "open_options")
    from normcli.runs import verify as run

    with progress(terminal) as step:
        result = run.verify(target, options.part(VerifyOptions).replace(on_progress=step))
    if printing.json:
        channels = [vars(channel) for channel in result.channels]
        write(as_json({**vars(result), "channels": channels, "valid": result.is_valid}))
    else:
        _show(result)
    for name, message in result.problems[:_PROBLEMS_SHOWN]:
        say(f"{name}: {message}")
    if len(result.problems) > _PROBLEMS_SHOWN:
        say(f"and {len(result.problems) - _PROBLEMS_SHOWN:,} more files")
    if not terminal.quiet and not result.is_valid:
        problem = f"mean and std are not 0 and 1 within {result.tolerance:g}"
        if result.problems:
            problem = f"{len(result.problems)} files are not as they were written"
        say(f"verify: failed: {problem}")
    return 0 if result.is_valid else 1


def _verify_statistics(
    target: str,
    sources: list[str],
    options: VerifyStatisticsOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    from normcli.cli.diff import lines_of
    from normcli.runs.stats import expected
    from normcli.runs.verify_statistics import verify_statistics
    from normcli.summary import Summary

    if (code := _verify_features(target, sources, options, printing, terminal)) is not None:
        return code
    summary = Summary.load(Path(target))
    with progress(terminal, total=lambda: expected(sources)) as step:
        difference = verify_statistics(summary, sources, options.replace(on_progress=step))
    if printing.json:
        document(difference.to_dict())
    elif difference.identical:
        write_lines([f"{target} describes these sources: {summary.count_text(summary.images)}"])
    else:
        write_lines(lines_of(difference))
    return 0 if difference.identical else 1


def _verify_features(
    target: str,
    sources: list[str],
    options: VerifyStatisticsOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int | None:
    """Compare statistics by feature with those of the sources; None for another kind of file."""
    from normcli.cli.inputs import print_features
    from normcli.constants.features import is_feature_file
    from normcli.options.compare import CountedOptions
    from normcli.runs.compare import check_features
    from normcli.runs.stats import expected

    if not Path(target).is_file() or not is_feature_file(target):
        return None
    with progress(terminal, total=lambda: expected(sources)) as step:
        result = check_features(sources, target, CountedOptions(**options.replace(on_progress=step).as_dict()))
    return print_features(result, target, json=printing.json)


app = command(verify, arrays=True)


def _show(result: "VerifyResult") -> None:
    """Print mean and std per channel, and a verdict on the promise of the scheme."""
    from normcli.cli.tables import Table, print_table

    rows = [
        [c.name, f"{c.mean:.3e}" if result.expected else f"{c.mean:.6f}", *_six(c.std, c.min, c.max)]
        for c in result.channels
    ]
    print_table(Table.of(["channel", "mean", "std", "min", "max"], rows))
    verdict = ""
    if result.expected and not result.problems:
        verdict = f", mean 0 and std 1 within {result.tolerance:g}: {'yes' if result.is_valid else 'NO'}"
    write_lines([f"{result.images:,} {result.unit}{'s' * (result.images != 1)} read again{verdict}"])


def _six(*values: float) -> list[str]:
    return [f"{value:.6f}" for value in values]
