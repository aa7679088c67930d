"""Checks of commands before they work: lists of paths, and files that would be overwritten."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from normcli.cli.build import require_with, say
from normcli.cli.messages import Stopwatch, warn_failures
from normcli.options.compare import CountedOptions
from normcli.options.field import info_of
from normcli.options.shared import TerminalOptions

if TYPE_CHECKING:
    from normcli.summary import Summary

O = TypeVar("O", bound=CountedOptions)  # noqa: E741


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
    from normcli.cli.messages import progress
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
