"""normcli apply: normalize every image, into arrays or files, reversibly."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normcli.cli.build import NumberRows, Sources, check_stdout, command, refuse_with, say
from normcli.cli.messages import FirstFailure, Stopwatch, as_json, progress, warn_failed, write
from normcli.errors import UsageError
from normcli.options.apply import ApplyOptions
from normcli.options.printing import FailureListOptions, JsonOptions, ListOptions, TerminalOptions
from normcli.storage import check_outputs, read_path_list

if TYPE_CHECKING:
    from normcli.runs.apply import ApplyResult

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
    from normcli.runs import apply as run
    from normcli.runs.stats import expected
    from normcli.storage import jsonl_writer

    watch = Stopwatch()
    files = read_path_list(paths.files_from, null=paths.null)
    if not sources and files is None:
        raise UsageError("SOURCE or `files_from` is required (see: normcli apply --help)")
    if output is None and not options.dry_run:
        raise UsageError("`output` is required: -o DIR, or -o - for one image")
    check_stdout(failures=lists.failures)
    check_outputs(lists.failures, force=options.force)
    if str(output) == "-" or sources == ["-"]:
        return _one(sources or [], files is not None, output, options)
    first = FirstFailure()
    bar = progress(terminal, total=lambda: None if files else expected(sources or ()))
    with _interruption(output, terminal), bar as step, jsonl_writer(lists.failures) as fail:
        result = run.apply(
            sources or [],
            str(output or "."),
            options.replace(
                files=files,
                on_failure=first.then(fail),
                on_progress=step,
            ),
        )
    if printing.json:
        write(as_json(result.to_dict()))
    elif options.dry_run:
        write(f"{result.images} image{'s' * (result.images != 1)}, {result.bytes} bytes\n")
    if terminal.quiet:
        warn_failed(result.failed)
    else:
        _show(result, output, options.dry_run, watch, first)
    return 6 if result.failed.get("remote") else 3 if result.failed else 0


# options without a meaning for one image
_FOR_MANY = (
    *("include", "exclude", "follow_symlinks", "open_options", "resume", "skip_existing", "dry_run", "shard_size"),
    *("max_failures", "no_suffix", "no_sync", "failures", "json"),
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
    """Print the way to resume an interrupted run."""
    try:
        yield
    except KeyboardInterrupt:
        if output is not None and not terminal.quiet and any(output.glob(".normcli-partial/checkpoint-*")):
            from normcli.cli.build import say

            say(f"interrupted: run the same command with --resume to continue in {output}")
        raise


app = command(apply, cls=NumberRows, arrays=True)


def _constants_line(constants: Mapping[str, Any], scheme: str) -> str:
    """Return the line of text on the constants of a run."""
    origin, convention = constants["origin"], constants["convention"].replace("_", " ")
    if scheme == "nyul":
        rows = ["[" + " ".join(f"{v:.4f}" for v in row) + "]" for row in constants["landmarks"]["standard"]]
        return f"landmarks {', '.join(rows)} ({origin})"
    mean, std = (" ".join(f"{v:.4f}" for v in constants[key]) for key in ("mean", "std"))
    described = origin if origin == "given" else f"{origin}; {convention}"
    return f"mean {mean}, std {std}{' of L*a*b*' if scheme == 'reinhard' else ''} ({described})"


def _show(result: "ApplyResult", output: Path | None, dry_run: bool, watch: Stopwatch, first: FirstFailure) -> None:
    """Print the constants, notes, and the closing line of a run of apply."""
    from normcli.runs.build_transform import suspicious_numbers
    from normcli.sinks import holds_volumes

    constants = result.constants
    if constants is not None:
        say(_constants_line(constants, result.settings["scheme"]))
        divides = any("uint" in kind for kind in result.kinds)  # others are in their units, such as HU
        if divides and (wrong := suspicious_numbers(constants)) is not None:
            say(f"note: {wrong}")
    for note in _notes(result):
        say(f"note: {note}")
    first.show()
    reused = result.reused
    settings = result.settings
    details = [f"{settings['to']} {settings['dtype']}"]
    if result.stack is not None:
        details[0] += f" {result.stack}"
    if result.shards:
        details.append(f"{len(result.shards):,} shard{'s' * (len(result.shards) != 1)}")
    if 0 < reused < result.images:
        details.insert(0, f"{reused:,} more done before")
    details.append(f"{result.bytes / 1e6:,.1f} MB")
    complete = reused == result.images and not dry_run
    outcome = "would write" if dry_run else f"already complete: {output}" if complete else f"wrote {output}"
    noun = "volume" if holds_volumes(result.settings) else "image"
    watch.closing(outcome, result.images - (0 if complete else reused), *details, noun=noun)


def _notes(result: "ApplyResult") -> Iterator[str]:
    """Yield the notes on a run of apply."""
    from normcli.summary.remarks import inputs, reasons

    if result.failed:
        failed = inputs(sum(result.failed.values()))
        yield f"{failed} failed: {reasons(dict(result.failed))} (--failures FILE lists them)"
    if result.skipped:
        yield f"skipped {inputs(sum(result.skipped.values()))}: {reasons(dict(result.skipped))}"
    if result.clipped:
        share = 100 * result.clipped / result.values
        yield f"{result.clipped:,} values clipped, {share:.3g}% (they cannot be restored)"
    if result.invalid:
        fill, to = result.settings["fill"], result.settings["to"]
        kept = "mapped like all others" + ", or missing if out of a valid range of CF" * (to in ("hdf5", "zarr"))
        done = f"{kept} (--fill V or nan writes another value)" if fill == "keep" else f"written as {fill}"
        yield f"{result.invalid:,} invalid samples {done}"
    if result.changed:
        yield "images changed after mean and std were computed; run it again"
    if result.looks_normalized:
        yield (
            f"{result.looks_normalized:,} float images have values of both signs within [-5,5]: "
            "were they normalized before?"
        )
    if count := result.remarks.get("above-range"):
        yield (
            f"{count:,} float images have values far above the range 0-1 of the constants: "
            "are they of range 0-255? (--max-value 255)"
        )
    if 0 < result.images == result.remarks.get("low-range"):
        yield "16-bit images that never exceed 4095: is this 12-bit data? (--max-value 4095)"
    if count := result.remarks.get("nodata"):
        yield f"{count:,} images with samples of the GDAL nodata value, which count and were mapped (--nodata tag)"
    if count := result.remarks.get("sidecar"):
        yield (
            f"{count:,} rasters with a GDAL file next to them (.msk, or nodata or scale in .aux.xml), which is not "
            "read: their pixels were mapped as stored"
        )
    widths: dict[str, int] = {}
    for kind, count in result.kinds.items():
        width = kind.split(" x ")[0]
        widths[width] = widths.get(width, 0) + count
    if len(widths) > 1:
        kinds = ", ".join(f"{count:,} with {width}" for width, count in widths.items())
        yield f"arrays have different numbers of channels: {kinds} (--color rgb or gray makes them equal)"
    if result.existing:
        yield f"{result.existing:,} existed before this run and are not described in the manifest"
