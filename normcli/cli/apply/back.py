"""--verify and --inverse: SOURCE is what apply wrote."""

from pathlib import Path
from typing import Any

from normcli.cli import tables
from normcli.cli.apply import words
from normcli.errors import UsageError


def folder_of(sources: list[str] | None, files: Any) -> str:
    """The one folder that is checked or led back.

    Raises:
        UsageError: none, several, or a list of files.
    """
    if files is not None or sources is None or len(sources) != 1:
        raise UsageError("give one SOURCE: a folder that normcli apply wrote")
    return sources[0]


def inverse(
    source: str,
    output: Path | None,
    to: str | None,
    *,
    force: bool,
    runner: dict[str, Any],
    failures: Path | None,
    progress: str,
    json: bool,
    quiet: bool,
) -> int:
    """Restore the images and say how many came back exactly; give the exit code.

    Args:
        source: what apply wrote.
        output: folder for the images.
        to: "png" or "tiff"; None chooses.
        force: write into a folder that holds something.
        runner: engine, workers.
        failures: file for what cannot be restored.
        progress: "auto", "always" or "never".
        json: print the result as JSON.
        quiet: say nothing.

    Raises:
        UsageError: no folder to write to.
    """
    from normcli.runs import restore as way_back
    from normcli.runs.records import jsonl

    if output is None or str(output) == "-":
        raise UsageError("--inverse writes files: give -o DIR")
    with tables.progress(progress, quiet) as step, jsonl(failures) as fail:
        found = way_back.restore(
            source,
            output,
            to=to,
            force=force,
            on_failure=None if fail is None else lambda failure: fail(failure.record()),
            on_progress=None if step is None else lambda done: step(done.inputs, done.bytes),
            **runner,
        )
    if json:
        tables.write(words.as_json(vars(found)))
    if not quiet:
        words.restored(found, output)
    return 3 if found.failed else 0


def verify(out: str, *, runner: dict[str, Any], progress: str, json: bool, quiet: bool) -> int:
    """Read everything again and print mean and std per channel; give the exit code.

    Args:
        out: what apply wrote.
        runner: engine, workers.
        progress: "auto", "always" or "never".
        json: print the result as JSON.
        quiet: no word about what is wrong, but the files that are.
    """
    from normcli.runs import verify

    with tables.progress(progress, quiet) as step:
        found = verify.verify(
            out, on_progress=None if step is None else lambda done: step(done.inputs, done.bytes), **runner
        )
    if json:
        channels = [vars(channel) for channel in found.channels]
        tables.write(words.as_json({**vars(found), "channels": channels, "sound": found.sound}))
    else:
        words.verified(found)
    for name, message in found.problems[:20]:
        tables.say(f"{name}: {message}")
    if len(found.problems) > 20:
        tables.say(f"and {len(found.problems) - 20} more")
    if not quiet and not found.sound:
        what = f"{len(found.problems)} files are not as they were written" if found.problems else "mean and std are not"
        tables.say(f"verify: failed: {what}" + ("" if found.problems else f" 0 and 1 within {found.tolerance:g}"))
    return 0 if found.sound else 1
