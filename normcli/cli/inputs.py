"""Checks of commands before they work: lists of paths, and files that would be overwritten."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from normcli.cli.build import require_with
from normcli.cli.messages import Stopwatch, say, warn_failures
from normcli.errors import UsageError
from normcli.options.compare import CountedOptions
from normcli.options.field import info_of
from normcli.options.printing import ListOptions, TerminalOptions

if TYPE_CHECKING:
    from normcli.summary import Summary

O = TypeVar("O", bound=CountedOptions)  # noqa: E741


def paths_from(options: ListOptions) -> Iterator[str] | None:
    """Return the paths that `--files-from` lists, relative to the current folder; None without it.

    Raises:
        UsageError: the file cannot be read.
    """
    source = options.files_from
    if source is None:
        return None
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"`files_from`: cannot read {source}: {(error.strerror or '').lower()}") from None
    if options.null:
        return (os.fsdecode(path) for path in data.split(b"\0") if path)
    return (os.fsdecode(line) for line in (raw.rstrip(b"\r") for raw in data.split(b"\n")) if line.strip())


def check_outputs(*paths: Path | None, force: bool, besides: Path | None = None) -> None:
    """Check files before the work: none is overwritten without `force`, each can be written, and all differ.

    Args:
        paths: files to write; None and "-" are passed over.
        force: overwrite what exists.
        besides: an output that is checked elsewhere, and must differ from the others.

    Raises:
        UsageError: a file exists, its folder does not, or two outputs are one file.
        OutputError: a file cannot be written.
    """
    if all(path is None or str(path) == "-" for path in paths):
        return  # nothing to check: `show` does not load NumPy, which costs 60 ms, for that
    from normcli.runs.commit import check_output

    paths_so_far = set() if besides is None or str(besides) == "-" else {besides.resolve()}
    for path in paths:
        if path is None or str(path) == "-":
            continue
        if path.resolve() in paths_so_far:
            raise UsageError(f"{path}: two outputs cannot be one file")
        check_output(path, overwrite=force)
        if not path.exists() or path.is_file():
            paths_so_far.add(path.resolve())


@contextmanager
def counting(options: O, terminal: TerminalOptions, *given: str | list[str]) -> Iterator[O]:
    """Yield the options with which `check` and `diff` count sources: with a bar, and a line for each at the end.

    Args:
        options: for counting.
        terminal: progress and notes.
        given: every path, or list of sources.

    Raises:
        UsageError: an option for counting on the command line, with statistics files alone.
    """
    from normcli.runs.compare import is_source

    counted = [one for one in given if not isinstance(one, str) or is_source(one)]
    names = [f.name for f in fields(CountedOptions) if info_of(f).cli]
    require_with("a SOURCE: a statistics file is counted already", bool(counted), *names)
    if not counted:
        yield options
        return
    from normcli.cli.progress import progress
    from normcli.runs.stats import expected

    sources = [source for one in counted for source in ([one] if isinstance(one, str) else one)]
    names_left = iter(one if isinstance(one, str) else f"{len(one)} sources" for one in counted)
    watches, lines = [Stopwatch()], []

    def take(summary: "Summary") -> None:
        lines.append((watches[-1].line(f"counted {next(names_left)}", summary.images), summary))
        watches.append(Stopwatch())

    with progress(terminal, total=lambda: expected(sources)) as step:
        yield replace(options, on_progress=step, on_statistics=take)
    for line, summary in lines:
        if not terminal.quiet:
            say(line)
        warn_failures(summary)
