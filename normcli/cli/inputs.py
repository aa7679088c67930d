"""Checks of commands before they work: lists of paths, and files that would be overwritten."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from normcli.cli.build import require_with, say
from normcli.cli.messages import Stopwatch, warn_failures
from normcli.errors import UsageError
from normcli.options.compare import CountedOptions
from normcli.options.field import options_of
from normcli.options.printing import PageOptions, TerminalOptions
from normcli.storage import check_outputs

if TYPE_CHECKING:
    from normcli.constants.features import FeatureCheck
    from normcli.report import Gallery
    from normcli.summary import Summary

O = TypeVar("O", bound=CountedOptions)  # noqa: E741


def check_page(page: PageOptions, *, json: bool) -> None:
    """Check a page before the work.

    Raises:
        UsageError: two results for one stdout, or a file that exists.
        OutputError: a file that cannot be written.
        MissingExtraError: jinja2 is not installed.
    """
    if str(page.report) == "-" and json:
        raise UsageError("`report` - cannot be combined with `json`: one stdout")
    require_with("`report`", page.report is not None, "force")
    check_outputs(page.report, force=page.force)
    if page.report is not None:
        from normcli.report import require_jinja2

        require_jinja2()


@contextmanager
def counting(
    options: O, terminal: TerminalOptions, *given: str | list[str], galleries: "dict[int, Gallery] | None" = None
) -> Iterator[O]:
    """Yield the options with which `check` and `diff` count sources: with a bar, and a line for each at the end.

    Args:
        options: for counting.
        terminal: progress and notes.
        given: every path, or list of sources.
        galleries: takes the pictures of every source that is counted, by the `id` of its summary; None for no pictures.

    Raises:
        UsageError: an option for counting on the command line, with statistics files alone.
    """
    from normcli.runs.compare import is_source

    counted = [one for one in given if not isinstance(one, str) or is_source(one)]
    names = [f.name for f in options_of(CountedOptions) if f.cli]
    require_with("a SOURCE: a statistics file is counted already", bool(counted), *names)
    if not counted:
        yield options
        return
    from normcli.cli.messages import progress
    from normcli.runs.stats import expected

    sources = [source for one in counted for source in ([one] if isinstance(one, str) else one)]
    names_left = iter(one if isinstance(one, str) else f"{len(one)} sources" for one in counted)
    watches, lines = [Stopwatch()], []
    pictures: list[Gallery] = []

    def take(summary: "Summary") -> None:
        if galleries is not None:
            galleries[id(summary)] = pictures.pop()
        lines.append((watches[-1].line(f"counted {next(names_left)}", summary.images, noun=summary.unit), summary))
        watches.append(Stopwatch())

    with progress(terminal, total=lambda: expected(sources)) as step:
        on_gallery = None if galleries is None else pictures.append
        yield options.replace(on_progress=step, on_statistics=take, on_gallery=on_gallery)
    for line, summary in lines:
        if not terminal.quiet:
            say(line)
        warn_failures(summary)


def print_features(result: "FeatureCheck", path: str, *, json: bool) -> int:
    """Print a check of statistics by feature; return the exit code: 1 if a value is wrong."""
    from normcli.cli.messages import document, write_lines

    if json:
        document(result.to_dict())
    else:
        verdict = "agrees with these frames" if result.is_right else "does not describe these frames"
        write_lines([f"{path} {verdict}", *result.lines])
    return 0 if result.is_right else 1
