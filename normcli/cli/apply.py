"""normcli apply: every image normalized, as arrays or files, reversibly."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from normcli.cli.build import NumberRows, Sources, check_stdout, command, refuse_with
from normcli.cli.inputs import check_outputs, paths_from
from normcli.cli.messages import Stopwatch
from normcli.errors import UsageError
from normcli.options.apply import ApplyOptions
from normcli.options.printing import FailureListOptions, JsonOptions, ListOptions, TerminalOptions

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="DIR",
        help="Folder to write; - is stdout, for one image.",
        envvar=["NORMCLI_APPLY_OUTPUT", "NORMCLI_OUTPUT"],
        show_envvar=False,
        rich_help_panel="Output",
    ),
]


def apply(
    sources: Sources = None,
    output: Output = None,
    *,
    options: ApplyOptions,
    paths: ListOptions,
    lists: FailureListOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Normalize every image: to [0,1], to [-1,1], by the dataset's mean and std, or each by its own.

    normcli apply photos/ -o arrays --stats stats.json

    normcli apply photos/ -o arrays --scheme signed --to stack --resize 256 --center-crop 224

    normcli apply 'train-{000..146}.tar' -o shards --stats stats.json --to tar --shard-size 1GB

    normcli apply photo.jpg --scheme unit -o - > photo.npy
    """
    from normcli.cli import results
    from normcli.cli.messages import write
    from normcli.cli.progress import progress
    from normcli.runs import apply as run
    from normcli.runs.records import jsonl
    from normcli.runs.stats import expected

    watch = Stopwatch()
    files = paths_from(paths)
    if not sources and files is None:
        raise UsageError("SOURCE or `files_from` is required")
    if output is None and not options.dry_run:
        raise UsageError("`output` is required: -o DIR, or -o - for one image")
    check_stdout(failures=lists.failures)
    check_outputs(lists.failures, force=options.force)
    if str(output) == "-" or sources == ["-"]:
        return _one(sources or [], files is not None, output, options)
    bar = progress(terminal, total=lambda: None if files else expected(sources or ()))
    with _interruption(output, terminal), bar as step, jsonl(lists.failures) as fail:
        result = run.apply(
            sources or [],
            str(output or "."),
            replace(
                options,
                files=files,
                on_failure=None if fail is None else lambda failure: fail(failure.record()),
                on_progress=step,
            ),
        )
    if printing.json:
        write(results.as_json(result.to_dict()))
    elif options.dry_run:
        write(f"{result.images} images, {result.bytes} bytes\n")
    if terminal.quiet:
        results.warn_failed(result.failed)
    else:
        results.show_apply(result, output, options.dry_run, watch)
    return 6 if result.failed.get("remote") else 3 if result.failed else 0


# options without a meaning for one image
_FOR_MANY = (
    *("include", "exclude", "follow_symlinks", "open_options", "resume", "skip_existing", "dry_run", "shard_size"),
    *("max_failures", "no_suffix", "failures", "json"),
)


def _one(sources: list[str], listed: bool, output: Path | None, options: ApplyOptions) -> int:
    """Map one image to stdout, or one from stdin to a file.

    Raises:
        UsageError: several images, no output, or a terminal that would get binary data.
    """
    import sys

    from normcli.runs import apply_one

    if len(sources) != 1 or listed:
        raise UsageError("`output` - requires one SOURCE: it writes one image")
    if output is None:
        raise UsageError("`output` is required: -o -, or -o FILE for one image from stdin")
    refuse_with("one image (`output` - or SOURCE -)", *_FOR_MANY)
    if str(output) == "-" and sys.stdout.isatty():
        raise UsageError("`output` - would write binary data to the terminal; redirect it: -o - > image.npy")
    if str(output) != "-" and output.is_dir():
        raise UsageError(f"{output}: is a folder; one image from stdin requires a file name")
    check_outputs(output, force=options.force)
    data = sys.stdin.buffer.read() if sources == ["-"] else None
    parts = apply_one.apply_one(sources[0], data, options)
    if str(output) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    else:
        apply_one.save(output, parts)
    return 0


@contextmanager
def _interruption(output: Path | None, terminal: TerminalOptions) -> Iterator[None]:
    """Print how an interrupted run is resumed."""
    try:
        yield
    except KeyboardInterrupt:
        if output is not None and not terminal.quiet and any(output.glob(".normcli-partial/checkpoint-*")):
            from normcli.cli.messages import say

            say(f"interrupted: run the same command with --resume to continue in {output}")
        raise


app = command(apply, cls=NumberRows)
