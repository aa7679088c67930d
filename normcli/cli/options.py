"""Options that commands share, each defined once."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from normcli.errors import UsageError

INPUT, IMAGES, RUN, OUTPUT = "Input", "How images are read", "How it runs", "Output"

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...", help="Folders, images, archives, tables, arrays; local or URL.", show_default=False
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        "--files-from",
        metavar="FILE",
        help="Read further paths from FILE, or - for stdin.",
        rich_help_panel=INPUT,
    ),
]
Null = Annotated[
    bool,
    typer.Option("-0", "--null", help="Paths in --files-from end in NUL (find -print0).", rich_help_panel=INPUT),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Take these instead of the usual image suffixes.", rich_help_panel=INPUT),
]
Exclude = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Leave these out.", rich_help_panel=INPUT)]
FollowSymlinks = Annotated[
    bool,
    typer.Option("--follow-symlinks", help="Walk into linked folders, each once.", rich_help_panel=INPUT),
]
Column = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column or array with the images (parquet, CSV, npz).", rich_help_panel=INPUT),
]
Layout = Annotated[
    str,
    typer.Option(metavar="auto|nhwc|nchw|nhw|hwc|chw|hw", help="Axes of .npy and .npz arrays.", rich_help_panel=INPUT),
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Take the I-th of N parts (job arrays); merge adds them.", rich_help_panel=RUN),
]
Weight = Annotated[
    str,
    typer.Option(metavar="pixel|image|group", help="What weighs the same in mean and std.", rich_help_panel=IMAGES),
]
MaskDir = Annotated[
    Path | None,
    typer.Option(
        "--mask-dir", metavar="DIR", help="Masks laid out as the images; zero leaves out.", rich_help_panel=IMAGES
    ),
]
IgnoreValue = Annotated[
    float | None,
    typer.Option(metavar="V", help="Leave out pixels with V in every channel.", rich_help_panel=IMAGES),
]
SAMPLE = "Estimates"
Sample = Annotated[
    str | None,
    typer.Option("--sample", metavar="N|P%", help="Read only so many, chosen at random.", rich_help_panel=SAMPLE),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="T", help="Read until mean and std are known to +-T (full intensity is 1).", rich_help_panel=SAMPLE
    ),
]
Confidence = Annotated[
    float, typer.Option(metavar="C", help="That all intervals of an estimate hold.", rich_help_panel=SAMPLE)
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the random choice.", rich_help_panel=SAMPLE)]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Keep a journal beside -o, and go on where a killed run was.", rich_help_panel=RUN),
]
Ledger = Annotated[
    bool,
    typer.Option("--ledger", help="Keep what each file added beside -o, for a later --update.", rich_help_panel=RUN),
]
Update = Annotated[
    Path | None,
    typer.Option(
        metavar="OLD.json", help="Read only what is new or changed since; needs its --ledger.", rich_help_panel=RUN
    ),
]
Color = Annotated[
    str, typer.Option(metavar="auto|rgb|gray|native", help="Channels to work in.", rich_help_panel=IMAGES)
]
Alpha = Annotated[
    str,
    typer.Option(
        metavar="drop|composite:COLOR|weight|keep", help="What an alpha channel does.", rich_help_panel=IMAGES
    ),
]
Cmyk = Annotated[str, typer.Option(metavar="rgb|skip", help="What CMYK images become.", rich_help_panel=IMAGES)]
Integrity = Annotated[
    str,
    typer.Option(
        metavar="basic|strict",
        help="Use damaged images that still decode, and count them; or refuse them.",
        rich_help_panel=IMAGES,
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(metavar="N", help="Refuse larger images by their header.", rich_help_panel=IMAGES),
]
MaxFileBytes = Annotated[int | None, typer.Option(metavar="N", help="Refuse larger files.", rich_help_panel=IMAGES)]
Resize = Annotated[
    int | None,
    typer.Option(metavar="N", help="Resize the shorter side to N first (torchvision).", rich_help_panel=IMAGES),
]
CenterCrop = Annotated[
    int | None, typer.Option(metavar="N", help="Then cut N x N from the middle.", rich_help_panel=IMAGES)
]
Range = Annotated[
    str,
    typer.Option(
        "--range",
        metavar="auto|N",
        help="Full intensity of 16-bit and float images: 65535, 4095, 255.",
        rich_help_panel=IMAGES,
    ),
]
Nan = Annotated[
    str,
    typer.Option(metavar="error|skip", help="Refuse images with NaN, or skip those pixels.", rich_help_panel=IMAGES),
]
Workers = Annotated[
    int,
    typer.Option("-j", "--workers", metavar="N", help="0: one per usable processor.", rich_help_panel=RUN),
]
Engine = Annotated[
    str,
    typer.Option(metavar="auto|serial|threads|processes|dask", help="No choice changes a bit.", rich_help_panel=RUN),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A running Dask cluster, with --engine dask.", rich_help_panel=RUN),
]
OnError = Annotated[
    str,
    typer.Option(metavar="skip|fail", help="Go on without an input that fails, or stop.", rich_help_panel=RUN),
]
MaxErrors = Annotated[
    str | None,
    typer.Option(metavar="N|N%", help="Give up when more inputs fail.", rich_help_panel=RUN),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write the statistics file; - is stdout.", rich_help_panel=OUTPUT
    ),
]
Failures = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write inputs that failed or were skipped, as JSONL.", rich_help_panel=OUTPUT),
]
PER_IMAGE = typer.Option(metavar="FILE", help="Write each image's own statistics, as JSONL.", rich_help_panel=OUTPUT)
STAMP = typer.Option("--stamp", help="Also record time, host and command line.", rich_help_panel=OUTPUT)
Json = Annotated[
    bool, typer.Option("--json", help="Print the statistics file instead of a table.", rich_help_panel=OUTPUT)
]


def _formats(incomplete: str) -> list[str]:
    from normcli.constants.exporters import FORMAT_CHOICES

    return [name for name in FORMAT_CHOICES if name.startswith(incomplete)]


def _conventions(incomplete: str) -> list[str]:
    from normcli.summary.remarks import CONVENTIONS

    return [name for name in CONVENTIONS if name.startswith(incomplete)]


Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        autocompletion=_formats,
        help="Print mean and std in another tool's words: csv, yaml, toml, env, torchvision, albumentations, "
        "kornia, timm, fastai, keras, keras-rescaling, huggingface, opencv, mmcv, dali, onnx, kaldi; "
        "json is --json.",
        rich_help_panel=OUTPUT,
    ),
]
Convention = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=_conventions,
        help="The convention to print: pooled_population, pooled_sample, mean_of_image_stds, "
        "mean_of_image_sample_stds, root_mean_image_variance.",
        rich_help_panel=OUTPUT,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(metavar="PAGE.html", help="Write one self-contained page to look at.", rich_help_panel=OUTPUT),
]
Plot = Annotated[
    bool, typer.Option("--plot", help="Draw each channel's histogram in the terminal.", rich_help_panel=OUTPUT)
]
ReportJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of a table.", rich_help_panel=OUTPUT)
]
Progress = Annotated[str, typer.Option(metavar="auto|always|never", help="Progress on stderr.", rich_help_panel=OUTPUT)]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="No progress, no warnings; errors still show.", rich_help_panel=OUTPUT),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT)]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite what is there.", rich_help_panel=OUTPUT)]


def _verbosity(count: int) -> int:
    from normcli.cli import logs

    logs.show(count)
    return count


def _log_file(path: Path | None) -> Path | None:
    if path is not None:
        from normcli.cli import logs

        logs.keep(path)
    return path


# both take effect in their callbacks
Verbose = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        callback=_verbosity,
        is_eager=True,
        metavar="",
        show_default=False,
        help="Say what was chosen and how long it took; -vv every detail.",
        rich_help_panel=OUTPUT,
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", callback=_log_file, help="Append every record of the run to FILE.", rich_help_panel=OUTPUT
    ),
]


def paths_from(source: str | None, null: bool) -> Iterator[str] | None:
    """Give the paths that `--files-from` names, relative to the current folder.

    Raises:
        UsageError: the file cannot be read.
    """
    if source is None:
        if null:
            raise UsageError("-0 goes with --files-from")
        return None
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read --files-from {source}: {(error.strerror or '').lower()}") from None
    separator = b"\0" if null else b"\n"
    lines = (line if null else line.rstrip(b"\r") for line in data.split(separator))
    return (os.fsdecode(line) for line in lines if (line if null else line.strip()))


def one_on_stdout(report: Path | None, json: bool, form: str | None) -> None:
    """Refuse a page and something else on the same stdout.

    Raises:
        UsageError: `--report -` with --json, --format or -o -.
    """
    if str(report) == "-" and (json or form is not None):
        raise UsageError("--report - leaves no room for --json, --format or -o - on stdout")


def refuse_outputs(*paths: Path | None, force: bool) -> None:
    """Stop before the work where an output would be overwritten or cannot be written.

    Raises:
        UsageError: the file exists, its folder does not, or two outputs are one file.
        OutputError: the file cannot be written.
    """
    from normcli.runs.records import refuse_unwritable

    seen: set[Path] = set()
    for path in paths:
        if path is None or str(path) == "-":
            continue
        if path.is_file() and not force:
            raise UsageError(f"{path} exists (--force overwrites it)")
        if not path.parent.is_dir():
            raise UsageError(f"{path}: no folder {path.parent}")
        if path.resolve() in seen:
            raise UsageError(f"{path}: two outputs cannot be one file")
        if not path.exists() or path.is_file():
            seen.add(path.resolve())
        refuse_unwritable(path)


def refuse_stdout(**paths: Path | None) -> None:
    """Stop where records would be mixed with the result.

    Raises:
        UsageError: "-" for a file of records.
    """
    for name, path in paths.items():
        if str(path) == "-":
            raise UsageError(f"--{name.replace('_', '-')} needs a file: stdout carries the result")
