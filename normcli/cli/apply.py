"""normcli apply: every image mapped, as arrays or files, reversibly."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normcli.cli import options as o
from normcli.errors import UsageError

if TYPE_CHECKING:
    from normcli.pipeline.apply.inverse import Restored
    from normcli.pipeline.apply.verifying import Verified

app = typer.Typer(add_completion=False)

MAP, FILES, WAY = "How pixels are mapped", "What is written", "Checks and the way back"


@app.command()
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
    mean: Annotated[str | None, typer.Option(metavar="R,G,B", help="The mean, range 0-1.", rich_help_panel=MAP)] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="The std, range 0-1.", rich_help_panel=MAP)] = None,
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
            metavar="npy|npz|stack|safetensors|png|png16|tiff", help="Arrays or files.", rich_help_panel=FILES
        ),
    ] = "npy",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|float16|float64|uint8", help="float32; uint8 is quantized.", rich_help_panel=FILES
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="chw|hwc", help="chw for arrays.", rich_help_panel=FILES)
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
    progress: o.Progress = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Map every image: [0,1], [-1,1], by the dataset's mean and std, or each by its own.

    normcli apply photos/ -o arrays --stats stats.json

    normcli apply photos/ -o arrays --scheme signed --to stack --resize 256 --center-crop 224

    normcli apply arrays --inverse -o back

    normcli apply photo.jpg --scheme unit -o - > photo.npy
    """
    from normcli.cli import render
    from normcli.pipeline.records import jsonl

    if list_:
        _list()
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
    if inverse or (verify and output is None):
        _only(context, "--inverse" if inverse else "--verify of a folder", _INVERSE if inverse else _VERIFY)
        return _of_a_folder(
            sources, files, output, inverse, to, force, workers, engine, progress, failures, json, quiet
        )
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
        "range": o.white(range),
        "nan": nan,
    }
    if str(output) == "-" or sources == ["-"]:
        _only(context, "one image", {*mapping, *_ONE})
        return _one(sources or [], files, output, mapping, force)
    from normcli.pipeline.apply import applying

    with _telling(output, quiet), render.progress(progress, quiet) as step, jsonl(failures) as fail:
        result = applying.apply(
            *(sources or ()),
            out=output if output is not None else Path(),
            names=names,
            files=files,
            include=include or (),
            exclude=exclude or (),
            follow_symlinks=follow_symlinks,
            resume=resume,
            force=force,
            skip_existing=skip_existing,
            dry_run=dry_run,
            engine=engine,
            workers=workers,
            on_error=on_error,
            max_errors=max_errors,
            on_failure=None if fail is None else lambda failure: fail(failure.record()),
            on_progress=None if step is None else lambda done: step(done.inputs, done.bytes),
            **mapping,
        )
    if json and not verify:
        render.write(_json(result))
    elif dry_run:
        render.write(f"{result['images']} images, {result['bytes']} bytes\n")
    if not quiet:
        _say(result, output, dry_run)
    code = 3 if result["failed"] else 0
    if verify and not dry_run:
        return _verify(str(output), workers, engine, progress, json, quiet) or code
    return code


@contextmanager
def _telling(output: Path | None, quiet: bool) -> Iterator[None]:
    """Say how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if output is not None and not quiet and any(output.glob(".normcli-partial/journal-*")):
            from normcli.cli import render

            render.say(f"interrupted: the same command with --resume goes on in {output}")
        raise


_RUN = {"sources", "workers", "engine", "progress", "quiet", "verbose", "log_file", "debug"}
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


def _of_a_folder(
    sources: list[str] | None,
    files: Any,
    output: Path | None,
    inverse: bool,
    to: str,
    force: bool,
    workers: int,
    engine: str,
    progress: str,
    failures: Path | None,
    json: bool,
    quiet: bool,
) -> int:
    """--inverse and --verify: SOURCE is what apply wrote."""
    from normcli.cli import render
    from normcli.pipeline.records import jsonl

    if files is not None or sources is None or len(sources) != 1:
        raise UsageError("give one SOURCE: a folder that normcli apply wrote")
    if not inverse:
        return _verify(sources[0], workers, engine, progress, json, quiet)
    if output is None or str(output) == "-":
        raise UsageError("--inverse writes files: give -o DIR")
    from normcli.pipeline.apply import inverse as way_back

    with render.progress(progress, quiet) as step, jsonl(failures) as fail:
        found = way_back.inverse(
            sources[0],
            output,
            to=None if to == "npy" else to,
            force=force,
            engine=engine,
            workers=workers,
            on_failure=None if fail is None else lambda failure: fail(failure.record()),
            on_progress=None if step is None else lambda done: step(done.inputs, done.bytes),
        )
    if json:
        render.write(_json(vars(found)))
    if not quiet:
        _say_restored(found, output)
    return 3 if found.failed else 0


def _one(sources: list[str], files: Any, output: Path | None, mapping: dict[str, Any], force: bool) -> int:
    """One image to stdout, or one from stdin."""
    if len(sources) != 1 or files is not None:
        raise UsageError("-o - writes one image: give one SOURCE")
    if output is None:
        raise UsageError("nowhere to write: give -o -")
    if str(output) == "-" and sys.stdout.isatty():
        raise UsageError("this would write binary data to the terminal: redirect it, as in -o - > image.npy")
    from normcli.pipeline.apply import single

    if str(output) != "-" and output.is_dir():
        raise UsageError(f"{output} is a folder: from stdin comes one image, name a file")
    o.refuse_outputs(output, force=force)
    data = sys.stdin.buffer.read() if sources == ["-"] else None
    parts = single.apply_one(sources[0], data, **mapping)
    if str(output) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    else:
        assert output is not None
        single.save(output, parts)
    return 0


def _verify(out: str, workers: int, engine: str, progress: str, json: bool, quiet: bool) -> int:
    from normcli.cli import render
    from normcli.pipeline.apply import verifying

    with render.progress(progress, quiet) as step:
        found = verifying.verify(
            out,
            workers=workers,
            engine=engine,
            on_progress=None if step is None else lambda done: step(done.inputs, done.bytes),
        )
    if json:
        channels = [vars(channel) for channel in found.channels]
        render.write(_json({**vars(found), "channels": channels, "sound": found.sound}))
    else:
        _print_verified(found)
    for name, message in found.problems[:20]:
        render.say(f"{name}: {message}")
    if len(found.problems) > 20:
        render.say(f"and {len(found.problems) - 20} more")
    if not quiet and not found.sound:
        what = f"{len(found.problems)} files are not as they were written" if found.problems else "mean and std are not"
        render.say(f"verify: failed: {what}" + ("" if found.problems else f" 0 and 1 within {found.tolerance:g}"))
    return 0 if found.sound else 1


def _print_verified(found: "Verified") -> None:
    from normcli.cli import render

    rows = [["channel", "mean", "std", "min", "max"]]
    for c in found.channels:
        rows.append([c.name, f"{c.mean:.3e}" if found.expected else f"{c.mean:.6f}", *_six(c.std, c.min, c.max)])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        render.write("  ".join(cells).rstrip() + "\n")
    said = ""
    if found.expected and not found.problems:
        said = f", mean 0 and std 1 within {found.tolerance:g}: {'yes' if found.sound else 'NO'}"
    render.write(f"{found.images} images read again{said}\n")


def _six(*values: float) -> list[str]:
    return [f"{value:.6f}" for value in values]


def _say(result: dict[str, Any], output: Path | None, dry_run: bool) -> None:
    """What was done, and everything about it that deserves a word."""
    from normcli.cli import render
    from normcli.pipeline.apply.constants import suspicious_numbers
    from normcli.summary.words import reasons

    settings, constants = result["settings"], result["constants"]
    if constants is not None:
        mean, std = (" ".join(f"{v:.4f}" for v in constants[key]) for key in ("mean", "std"))
        render.say(f"mean {mean}, std {std} ({constants['origin']}; {constants['convention'].replace('_', ' ')})")
        if (wrong := suspicious_numbers(constants)) is not None:
            render.say(f"note: {wrong}")
    verb = "would write" if dry_run else "wrote"
    before = result.get("reused", 0)
    shape = f" {tuple(result['stack'])}" if "stack" in result else ""
    where = "" if dry_run else f" to {output}"
    render.say(
        f"{verb} {_images(result['images'] - before)}{where}{f', {before:,} were done before' if before else ''}: "
        f"{settings['to']} {settings['dtype']}{shape}, {result['bytes'] / 1e6:,.1f} MB"
    )
    if result["failed"]:
        render.say(
            f"note: {sum(result['failed'].values())} failed: {reasons(result['failed'])} (--failures FILE lists them)"
        )
    if result["skipped"]:
        render.say(f"note: {sum(result['skipped'].values())} skipped: {reasons(result['skipped'])}")
    if result["clipped"]:
        share = 100 * result["clipped"] / result["values"]
        render.say(f"note: {result['clipped']:,} values clipped, {share:.3g}% (they cannot be restored)")
    if result.get("changed"):
        render.say("note: images changed after mean and std were computed of them; run it again")
    if result["looks_normalized"]:
        render.say(
            f"note: {result['looks_normalized']} float images lie within [-5,5] with both signs: "
            "were they normalized before?"
        )
    widths: dict[str, int] = {}
    for kind, count in result["kinds"].items():
        wide = kind.split(" x ")[0]
        widths[wide] = widths.get(wide, 0) + count
    if len(widths) > 1:
        kinds = ", ".join(f"{count} of {wide}" for wide, count in widths.items())
        render.say(f"note: arrays of different numbers of channels: {kinds} (--color rgb or gray makes them one)")
    if result["found"]:
        render.say(f"note: {result['found']} were there before and are not described in the manifest")


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _say_restored(found: "Restored", output: Path) -> None:
    from normcli.cli import render
    from normcli.summary.words import reasons

    render.say(f"restored {found.images:,} images to {output}, {found.exact:,} bit for bit")
    for why, count in found.why_not.items():
        render.say(f"note: {count} not exact: {why}")
    if found.failed:
        render.say(f"note: {sum(found.failed.values())} failed: {reasons(dict(found.failed))}")


def _list() -> None:
    """Print schemes with their settings, presets with their sources, outputs."""
    from normcli.cli import render
    from normcli.pipeline.apply.outputs import KINDS
    from normcli.pipeline.apply.transforms import catalog

    schemes, presets = catalog()

    lines = ["schemes (--scheme NAME:SETTINGS, settings as key=value or in order)"]
    for name, defaults, said in schemes:
        settings = ",".join(f"{key}={_shown(value)}" for key, value in defaults.items())
        lines += [f"  {name}{':' + settings if settings else ''}", f"      {said}"]
    lines += ["", "presets (--preset NAME, range 0-1, RGB)"]
    for name, found in presets.items():
        mean, std = (" ".join(map(repr, values)) for values in (found.mean, found.std or ()))
        lines.append(f"  {name:<20} mean {mean}  std {std}")
        lines.append(f"  {'':<20} {found.convention.replace('_', ' ')}; {found.source}")
        if found.seen:
            lines.append(f"  {'':<20} often copied, and wrong: {found.seen}")
    lines += ["", "outputs (--to NAME)"]
    lines += [f"  {name:<12} {kind.help}" for name, kind in KINDS.items()]
    render.write("\n".join(lines) + "\n")


def _shown(value: Any) -> str:
    return (
        ",".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1) + "\n"


def _numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(f"--{name} {text!r}: give numbers, as in .485,.456,.406") from None


def _pair(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    values = _numbers("clip", text) or ()
    if len(values) != 2:
        raise UsageError(f"--clip {text!r}: give LO,HI, as in 0,1")
    return values[0], values[1]
