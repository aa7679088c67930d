"""normcli apply: every image mapped, as arrays or files, reversibly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from normcli.cli import numbers
from normcli.cli import options as o
from normcli.errors import UsageError

app = typer.Typer(add_completion=False)

MAP, FILES, WAY = "How pixels are mapped", "What is written", "Checks and the way back"


@app.command(cls=numbers.Rows)
def apply(
    context: typer.Context,
    sources: o.Sources = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Folder to write; - is stdout, for one image."),
    ] = None,
    scheme: Annotated[
        str,
        typer.Option("-s", "--scheme", metavar="NAME[:SETTINGS]", help="--list shows them.", rich_help_panel=MAP),
    ] = "contrast",
    stats: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Mean and std from here; else they are computed first.", rich_help_panel=MAP),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="N...", help="The mean, one a channel, range 0-1.", rich_help_panel=MAP)
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="N...", help="The std, one a channel.", rich_help_panel=MAP)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Published constants: imagenet, …", rich_help_panel=MAP)
    ] = None,
    convention: Annotated[
        str, typer.Option(metavar="NAME", help="Which mean and std of the statistics.", rich_help_panel=MAP)
    ] = "pooled_population",
    zero_std: Annotated[
        str,
        typer.Option(metavar="error|one|eps:X", help="What a constant channel is divided by.", rich_help_panel=MAP),
    ] = "error",
    clip: Annotated[
        str | None, typer.Option(metavar="LO,HI", help="Clip the result, and count.", rich_help_panel=MAP)
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            metavar="npy|npz|stack|safetensors|tar|parquet|png|png16|tiff",
            help="Arrays, shards of arrays, or image files.",
            rich_help_panel=FILES,
        ),
    ] = "npy",
    shard_size: Annotated[
        str | None,
        typer.Option(metavar="N|BYTES", help="Of tar and parquet: 1000 images, or 1GB.", rich_help_panel=FILES),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|float16|float64|uint8", help="float32; uint8 is quantized.", rich_help_panel=FILES
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="chw|hwc", help="What is written; chw for arrays.", rich_help_panel=FILES)
    ] = None,
    order: Annotated[
        str | None, typer.Option(metavar="rgb|bgr", help="rgb; bgr for caffe.", rich_help_panel=FILES)
    ] = None,
    names: Annotated[
        str,
        typer.Option(metavar="full|stem", help="a.jpg becomes a.jpg.npy, or a.npy.", rich_help_panel=FILES),
    ] = "full",
    list_: Annotated[bool, typer.Option("--list", help="List schemes, presets and outputs.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything again; mean and std per channel.", rich_help_panel=WAY)
    ] = False,
    inverse: Annotated[
        bool,
        typer.Option("--inverse", help="SOURCE is such a folder: restore its images.", rich_help_panel=WAY),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run ended.", rich_help_panel=o.OUTPUT)
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Write only what is missing.", rich_help_panel=o.OUTPUT)
    ] = False,
    force: o.Force = False,
    dry_run: Annotated[
        bool,
        typer.Option("-n", "--dry-run", help="Map, write nothing; print count and bytes.", rich_help_panel=o.OUTPUT),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=o.OUTPUT)] = False,
    files_from: o.FilesFrom = None,
    null: o.Null = False,
    include: o.Include = None,
    exclude: o.Exclude = None,
    follow_symlinks: o.FollowSymlinks = False,
    column: o.Column = None,
    source_layout: Annotated[
        str,
        typer.Option(
            metavar="auto|nhwc|nchw|nhw|hwc|chw|hw",
            help="Axes of .npy and .npz that are read (--layout is what is written).",
            rich_help_panel=o.INPUT,
        ),
    ] = "auto",
    orientation: Annotated[
        str, typer.Option(metavar="apply|ignore", help="Turn images as their EXIF says.", rich_help_panel=o.IMAGES)
    ] = "apply",
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
    workers: o.Workers = 0,
    engine: o.Engine = "auto",
    scheduler: o.Scheduler = None,
    progress: o.Progress = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Map every image: [0,1], [-1,1], by the dataset's mean and std, or each by its own.

    normcli apply photos/ -o arrays --stats stats.json

    normcli apply photos/ -o arrays --scheme signed --to stack --resize 256 --center-crop 224

    normcli apply 'train-{000..146}.tar' -o shards --stats stats.json --to tar --shard-size 1GB

    normcli apply arrays --inverse -o back

    normcli apply photo.jpg --scheme unit -o - > photo.npy
    """
    from normcli.cli import tables
    from normcli.runs.records import jsonl

    if list_:
        from normcli.cli.apply import words

        words.catalogue()
        return 0
    files = o.paths_from(files_from, null)
    if not sources and files is None:
        raise UsageError("nothing to read: give a SOURCE or --files-from")
    if output is None and not dry_run and not verify:
        raise UsageError("nowhere to write: give -o DIR, or -o - for one image")
    o.refuse_stdout(failures=failures)
    o.refuse_outputs(failures, force=force)
    if dry_run and (verify or resume or skip_existing):
        raise UsageError("--dry-run writes and reads nothing: it does not go with --verify, --resume, --skip-existing")
    runner: dict[str, Any] = {"engine": engine, "workers": workers, "scheduler": scheduler}
    if inverse or (verify and output is None):
        _only(context, "--inverse" if inverse else "--verify of a folder", _INVERSE if inverse else _VERIFY)
        from normcli.cli.apply import back

        folder = back.folder_of(sources, files)
        shown: dict[str, Any] = {"runner": runner, "progress": progress, "json": json, "quiet": quiet}
        if not inverse:
            return back.verify(folder, **shown)
        return back.inverse(folder, output, None if to == "npy" else to, force=force, failures=failures, **shown)
    mapping: dict[str, Any] = {
        "scheme": scheme,
        "stats": stats,
        "mean": _numbers("mean", mean),
        "std": _numbers("std", std),
        "preset": preset,
        "convention": convention,
        "zero_std": zero_std,
        "clip": _pair(clip),
        "to": to,
        "dtype": dtype,
        "layout": layout,
        "order": order,
        "orientation": orientation,
        "color": color,
        "alpha": alpha,
        "cmyk": cmyk,
        "integrity": integrity,
        "max_pixels": max_pixels,
        "max_file_bytes": max_file_bytes,
        "resize": resize,
        "center_crop": center_crop,
        "range": numbers.white(range),
        "nan": nan,
    }
    if str(output) == "-" or sources == ["-"]:
        _only(context, "one image", {*mapping, *_ONE})
        from normcli.cli.apply import single

        return single.one(sources or [], files, output, mapping, force)
    from normcli.cli.apply import back, words
    from normcli.runs import apply

    with _telling(output, quiet), tables.progress(progress, quiet) as step, jsonl(failures) as fail:
        result = apply.apply(
            *(sources or ()),
            out=output if output is not None else Path(),
            names=names,
            files=files,
            include=include or (),
            exclude=exclude or (),
            follow_symlinks=follow_symlinks,
            column=column,
            source_layout=source_layout,
            shard_size=shard_size,
            resume=resume,
            force=force,
            skip_existing=skip_existing,
            dry_run=dry_run,
            on_error=on_error,
            max_errors=max_errors,
            on_failure=None if fail is None else lambda failure: fail(failure.record()),
            on_progress=None if step is None else lambda done: step(done.inputs, done.bytes),
            **runner,
            **mapping,
        )
    if json and not verify:
        tables.write(words.as_json(result))
    elif dry_run:
        tables.write(f"{result['images']} images, {result['bytes']} bytes\n")
    if not quiet:
        words.done(result, output, dry_run)
    code = 6 if result["failed"].get("remote") else 3 if result["failed"] else 0
    if verify and not dry_run:
        return back.verify(str(output), runner=runner, progress=progress, json=json, quiet=quiet) or code
    return code


@contextmanager
def _telling(output: Path | None, quiet: bool) -> Iterator[None]:
    """Say how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if output is not None and not quiet and any(output.glob(".normcli-partial/journal-*")):
            from normcli.cli import tables

            tables.say(f"interrupted: the same command with --resume goes on in {output}")
        raise


_RUN = {"sources", "workers", "engine", "scheduler", "progress", "quiet", "verbose", "log_file", "debug"}
_VERIFY = {*_RUN, "verify", "json"}
_INVERSE = {*_RUN, "inverse", "output", "to", "force", "failures", "json"}
_ONE = {*_RUN, "output", "force", "files_from"}


def _only(context: typer.Context, what: str, taken: set[str]) -> None:
    """Refuse options that would be ignored.

    Raises:
        UsageError: naming them.
    """
    given = {name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    ignored = sorted(given - taken)
    if ignored:
        options = ", ".join("--" + name.strip("_").replace("_", "-") for name in ignored)
        raise UsageError(f"{options} {'does' if len(ignored) == 1 else 'do'} not go with {what}")


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    return None if text is None else tuple(number.value for number in numbers.parse(name, text))


def _pair(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    values = _numbers("clip", text) or ()
    if len(values) != 2:
        raise UsageError(f"--clip {text!r}: give LO,HI, as in 0,1")
    return values[0], values[1]
