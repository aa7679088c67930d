"""normcli stats: exact per-channel statistics of an image dataset."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normcli.cli import numbers
from normcli.cli import options as o
from normcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from normcli.report import Gallery
    from normcli.runs.file_cache import Changes
    from normcli.runs.partial_result import Failure

app = typer.Typer(add_completion=False)


@app.command()
def stats(
    sources: o.Sources = None,
    output: o.Output = None,
    json: o.Json = False,
    format_: o.Format = None,
    convention: o.Convention = None,
    files_from: o.FilesFrom = None,
    null: o.Null = False,
    include: o.Include = None,
    exclude: o.Exclude = None,
    follow_symlinks: o.FollowSymlinks = False,
    column: o.Column = None,
    layout: o.Layout = "auto",
    by: Annotated[
        str | None,
        typer.Option(metavar="folder|REGEX", help="Also by class folder, or by a match in the path."),
    ] = None,
    color: o.Color = "auto",
    alpha: o.Alpha = "drop",
    cmyk: o.Cmyk = "rgb",
    resize: o.Resize = None,
    center_crop: o.CenterCrop = None,
    range: o.Range = "auto",
    nan: o.Nan = "error",
    integrity: o.Integrity = "basic",
    max_pixels: o.MaxPixels = 178_956_970,
    max_file_bytes: o.MaxFileBytes = None,
    on_error: o.OnError = "skip",
    max_errors: o.MaxErrors = None,
    failures: o.Failures = None,
    report: o.Report = None,
    per_image: Annotated[Path | None, o.PER_IMAGE] = None,
    stamp: Annotated[bool, o.STAMP] = False,
    weight: o.Weight = "pixel",
    mask_dir: o.MaskDir = None,
    ignore_value: o.IgnoreValue = None,
    sample: o.Sample = None,
    tolerance: o.Tolerance = None,
    confidence: o.Confidence = 0.99,
    seed: o.Seed = 0,
    shard: o.Shard = None,
    resume: o.Resume = False,
    ledger: o.Ledger = False,
    update: o.Update = None,
    workers: o.Workers = 0,
    engine: o.Engine = "auto",
    scheduler: o.Scheduler = None,
    progress: o.Progress = "auto",
    force: o.Force = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Exact per-channel mean and std of an image dataset.

    normcli stats photos/ -o stats.json

    normcli stats train/ --resize 256 --center-crop 224 --json

    find . -name '*.png' -print0 | normcli stats --files-from - -0
    """
    from normcli.cli import tables
    from normcli.runs import stats
    from normcli.runs.records import jsonl

    files = o.paths_from(files_from, null)
    if not sources and files is None:
        raise UsageError("nothing to read: give a SOURCE or --files-from")
    to_stdout = json or str(output) == "-"
    journal = _beside(output, "resume", "journal") if resume else None
    ledgers = _ledgers(output, update, ledger, force)
    o.refuse_stdout(failures=failures, per_image=per_image)
    tables.check_form(to_stdout, format_, convention)
    o.one_on_stdout(report, to_stdout, format_)
    resumed = journal is not None and journal.exists()  # then an output is that run's own
    own = resumed or (update is not None and _same(output, update))
    o.refuse_outputs(*(() if own else (output,)), failures, per_image, report, force=force)
    gathered = None if report is None else _Gathered()
    found: list[Changes] = []
    bar = tables.progress(progress, quiet, total=lambda: None if files else stats.expected(sources or ()))
    with bar as step, jsonl(failures) as fail, jsonl(per_image) as image:
        summary = stats.stats(
            *(sources or ()),
            files=files,
            include=include or (),
            exclude=exclude or (),
            follow_symlinks=follow_symlinks,
            column=column,
            layout=layout,
            shard=shard,
            color=color,
            alpha=alpha,
            cmyk=cmyk,
            integrity=integrity,
            max_pixels=max_pixels,
            max_file_bytes=max_file_bytes,
            resize=resize,
            center_crop=center_crop,
            range=numbers.white(range),
            nan=nan,
            by=by,
            engine=engine,
            scheduler=scheduler,
            workers=workers,
            weight=weight,
            mask_dir=mask_dir,
            ignore_value=ignore_value,
            sample=sample,
            tolerance=tolerance,
            confidence=confidence,
            seed=seed,
            resume=journal,
            ledger=ledgers[0] if ledgers else None,
            update=update,
            on_error=on_error,
            max_errors=max_errors,
            on_failure=_both(fail, gathered),
            on_gallery=None if gathered is None else gathered.take,
            on_image=image,
            on_update=found.append,
            on_progress=None if step is None else lambda done: step(done.inputs, done.bytes),
        )
    if stamp:
        summary.provenance["stamp"] = _stamp()
    if output is not None and str(output) != "-":
        summary.save(output)
        if ledgers:
            from normcli.runs.file_cache_format import settle

            settle(*ledgers)
        if journal is not None:
            journal.unlink(missing_ok=True)
    if report is not None and gathered is not None:
        title = ", ".join(Path(source).name or source for source in sources or ("images",))
        tables.page(report, summary, title, gathered.gallery, gathered.failures)
    if str(report) != "-" and (to_stdout or format_ is not None or not (quiet and (output or report))):
        tables.result(summary, json=to_stdout, form=format_, convention=convention)
    if not quiet:
        for changes in found:
            _tell(changes)
        tables.warn(summary)
    if summary.failures.get("remote"):
        return 6
    return 3 if summary.failed else 0


class _Gathered:
    """What a page shows besides the summary; the failures are bounded, their counts are in the summary."""

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


def _both(
    write: "Callable[[dict[str, Any]], None] | None", gathered: _Gathered | None
) -> "Callable[[Failure], None] | None":
    """What is called with every failure: the lines of --failures, the page, both or neither."""
    takers = [taker for taker in (write, gathered and gathered.fail) if taker]
    if not takers:
        return None

    def call(failure: "Failure") -> None:
        record = failure.record()
        for taker in takers:
            taker(record)

    return call


def _beside(output: Path | None, option: str, kind: str) -> Path:
    if output is None or str(output) == "-":
        raise UsageError(f"--{option} keeps its {kind} beside the output: give -o FILE")
    return output.with_name(f"{output.name}.{kind}")


def _same(output: Path | None, other: Path) -> bool:
    return output is not None and output.exists() and other.exists() and output.samefile(other)


def _ledgers(output: Path | None, update: Path | None, ledger: bool, force: bool) -> tuple[Path, Path] | None:
    """Where a ledger is written, and its name once the statistics stand beside it.

    Raises:
        UsageError: no output to lie beside, one would be overwritten, or an update would leave a stale one.
    """
    in_place = update is not None and _same(output, update)
    if not ledger:
        if in_place:
            raise UsageError(f"{output}: its ledger would no longer fit it: add --ledger, or give another -o")
        return None
    name = _beside(output, "ledger", "ledger")
    if not in_place:
        o.refuse_outputs(name, force=force)
    return name.with_name(name.name + ".next"), name


def _tell(changes: "Changes") -> None:
    from normcli.cli import tables

    kept, new, changed, gone, again = changes
    more = f", {again} read again (too recent to tell, or failed before)" if again else ""
    tables.say(f"{kept} kept, {new} new, {changed} changed, {gone} gone{more}")
    if gone and new and not kept:
        tables.say("note: nothing was kept: name the sources as in the run before (photos and ./photos are two names)")


def _stamp() -> dict[str, Any]:
    import platform
    import shlex
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "host": platform.node(), "command": shlex.join(["normcli", *sys.argv[1:]])}
