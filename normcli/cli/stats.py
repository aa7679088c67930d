"""normcli stats: exact per-channel statistics of an image dataset."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli.cli.build import Sources, check_stdout, command, require_with
from normcli.cli.messages import FirstFailure, Stopwatch
from normcli.errors import UsageError
from normcli.options.printing import FailureListOptions, ListOptions, PerImageOptions, SummaryOptions, TerminalOptions
from normcli.options.stats import StatsOptions
from normcli.storage import check_outputs, read_path_list

if TYPE_CHECKING:
    from normcli.report import Gallery
    from normcli.runs.file_cache import Changes
    from normcli.summary import Summary


def stats(
    sources: Sources = None,
    *,
    options: StatsOptions,
    paths: ListOptions,
    lists: FailureListOptions,
    images: PerImageOptions,
    printing: SummaryOptions,
    terminal: TerminalOptions,
) -> int:
    """Compute exact per-channel mean and std of an image dataset.

    normcli stats photos/ -o stats.json

    normcli stats train/ --resize 256 --center-crop 224 --json

    find . -name '*.png' -print0 | normcli stats --files-from - -0
    """
    from normcli.cli import tables
    from normcli.cli.build import say
    from normcli.cli.messages import progress, warn, warn_failures
    from normcli.runs import stats as run
    from normcli.storage import jsonl_writer

    watch = Stopwatch()
    files = read_path_list(paths.files_from, null=paths.null)
    if not sources and files is None:
        raise UsageError("SOURCE or `files_from` is required (see: normcli stats --help)")
    output = None if options.output is None else Path(options.output)
    to_stdout = printing.json or str(output) == "-"
    check_stdout(failures=lists.failures, per_image=images.per_image)
    require_with("`sample` or `margin`", options.is_estimate, "seed", "confidence")
    require_with("`format`", printing.format is not None, "digits")
    with_method = options.percentiles is not None or options.exact_percentiles
    require_with("`percentiles`", with_method, "percentile_method")
    tables.check_printing(printing, output)
    check_outputs(lists.failures, images.per_image, printing.report, force=options.force, other=output)
    page = None if printing.report is None else _Page()
    first = FirstFailure()
    updates: list[Changes] = []
    resumed: list[int] = []
    existed = output is not None and output.is_file()
    bar = progress(terminal, total=lambda: None if files or options.exact_percentiles else run.expected(sources or ()))
    with (
        _interruption(output, options, terminal),
        bar as step,
        jsonl_writer(lists.failures) as fail,
        jsonl_writer(images.per_image) as image,
    ):
        summary = run.stats(
            sources or [],
            options.replace(
                files=files,
                on_failure=first.then(fail, None if page is None else page.fail),
                on_gallery=None if page is None else page.take,
                on_image=image,
                on_update=updates.append,
                on_resume=resumed.append,
                on_progress=step,
            ),
        )
    if page is not None and printing.report is not None:
        page.write(printing.report, summary, sources or [], output)
    printed = to_stdout or printing.format is not None or not (terminal.quiet and (output or printing.report))
    if str(printing.report) != "-" and printed:
        tables.show_summary(summary, printing, json=to_stdout)
    if terminal.quiet:
        warn_failures(summary)
    else:
        for changes in updates:
            _report_changes(changes)
        complete = existed and resumed == [summary.images + summary.failed + summary.skipped]
        for inputs in [] if complete else resumed:
            say(f"resumed: {inputs:,} inputs from {output}.checkpoint")
        warn(summary)
        first.show()
        watch.closing(_outcome(complete, output, printing.report), summary.images, noun=summary.unit)
    if summary.failures.get("remote"):
        return 6
    return 3 if summary.failed else 0


def _outcome(complete: bool, *outputs: Path | str | None) -> str:
    """Return the start of the closing line; "" where the result went to stdout."""
    names = [str(path) for path in outputs if path is not None and str(path) != "-"]
    verb = "already complete:" if complete else "wrote"
    return f"{verb} {' and '.join(names)}" if names else ""


@contextmanager
def _interruption(output: Path | None, options: StatsOptions, terminal: TerminalOptions) -> Iterator[None]:
    """Print the way to resume an interrupted run."""
    try:
        yield
    except KeyboardInterrupt:
        if not terminal.quiet:
            from normcli.cli.build import say

            can_resume = options.resume or options.incremental
            again = f": run the same command again to continue {output}" if can_resume else ""
            say(f"interrupted{again}")
        raise


class _Page:
    """Content of a report next to the summary; failures are bounded, their counts are in the summary."""

    def __init__(self) -> None:
        from normcli import report

        report.require_jinja2()
        self.failures: list[dict[str, Any]] = []
        self.gallery: Gallery | None = None
        self._room = report.FAILURES_SHOWN

    def take(self, gallery: "Gallery") -> None:
        self.gallery = gallery

    def fail(self, record: dict[str, Any]) -> None:
        if len(self.failures) < self._room:
            self.failures.append(record)

    def write(self, path: Path, summary: "Summary", sources: list[str], output: Path | None) -> None:
        from normcli.cli import pages

        title = ", ".join(pages.title_of(source) for source in sources or ("images",))
        origin = pages.origin_of(sources, output)
        pages.write_summary_page(path, summary, title, origin, self.gallery, self.failures)


def _report_changes(changes: "Changes") -> None:
    from normcli.cli.build import say

    reused, new, changed, removed, again = changes
    more = f", {again:,} read again (changed too recently, or failed before)" if again else ""
    say(f"files: {reused:,} reused, {new:,} new, {changed:,} changed, {removed:,} removed{more}")
    if removed and new and not reused:
        say("note: no cached file matched; source paths must be spelled as in the previous run")


app = command(stats, arrays=True)
