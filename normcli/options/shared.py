"""Options that several commands share: inputs, decoding, values, workers, failures, output on the terminal."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from normcli.options.field import (
    ENGINES,
    Options,
    option,
    parse_alpha,
    parse_engine,
    parse_level,
    parse_limit,
    parse_name,
    parse_pairs,
    parse_paths,
    parse_size,
    parse_texts,
    python_only,
)

Color = Literal["auto", "rgb", "gray", "native"]
MAX_PIXELS = 178_956_970  # Pillow's own limit: 2 GiB / 4 bytes / 3 channels


@dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """Selection of inputs from the sources."""

    panel = "Input"

    include: str | Iterable[str] = option(
        "Read only files that match GLOB instead of those with a known image extension. Repeatable.",
        (),
        metavar="GLOB",
        parse=partial(parse_texts, "include"),
    )
    exclude: str | Iterable[str] = option(
        "Skip paths that match GLOB. Repeatable.", (), metavar="GLOB", parse=partial(parse_texts, "exclude")
    )
    follow_symlinks: bool = option("Follow symbolic links to folders; each folder is visited once.", False)
    max_file_size: int | str | None = option(
        "Fail files larger than SIZE, such as 500MB, before reading them (default: no limit).",
        metavar="SIZE",
        parse=partial(parse_size, "max_file_size"),
    )
    open_options: Mapping[str, str] | Iterable[str] = option(
        "Set an option that only one container knows, such as column=image (parquet, CSV, npz) or layout=nchw (npy). "
        "Repeatable; `normcli list formats` prints them.",
        (),
        metavar="KEY=VALUE",
        flags=("-O", "--open-option"),
        complete="open_options",
        parse=parse_pairs,
    )


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(Options):
    """Conversion of bytes to pixels; recorded in statistics files, and equal wherever two are merged."""

    panel = "Decoding"

    color: Color = option(
        "Convert images to a color mode. auto: keep the channels of each file, with palettes expanded, and count gray "
        "as R = G = B where there are RGB images; rgb: gray and RGB as three channels, fail others; gray: one channel "
        "(ITU-R 601-2); native: as auto, but fail a mix of gray and RGB.",
        "auto",
    )
    alpha: str = option(
        "Treat an alpha channel. drop: ignore it; composite:COLOR: draw the image over COLOR; weight: weight "
        "pixels by their alpha; keep: use it as one more channel.",
        "drop",
        metavar="drop|composite:COLOR|weight|keep",
        complete=("drop", "composite:white", "composite:black", "weight", "keep"),
        parse=parse_alpha,
    )
    strict: bool = option("Fail damaged images that still decode instead of using and counting them.", False)
    max_pixels: int = option(
        "Fail images with more than N pixels, before decoding them.", MAX_PIXELS, metavar="N", minimum=1
    )
    resize: int | None = option(
        "Resize the shorter side to N pixels (bilinear, antialiased, as torchvision does).", metavar="N", minimum=1
    )
    center_crop: int | None = option("Crop N x N pixels from the center, after --resize.", metavar="N", minimum=1)


@dataclass(frozen=True, kw_only=True)
class ValueOptions(Options):
    """Meaning of sample values."""

    panel = "Decoding"

    max_value: int | Literal["auto"] | None = option(
        "Value that maps to 1.0 in 16-bit and float images, such as 4095 for 12-bit data (default: 65535 for 16-bit "
        "images; float images keep their values).",
        metavar="N",
        parse=parse_level,
    )
    nan: Literal["error", "skip"] = option(
        "Treat images with NaN or infinite values. error: fail them; skip: ignore those pixels.", "error"
    )


@dataclass(frozen=True, kw_only=True)
class PathOptions(Options):
    """Further inputs, named one by one."""

    files: Iterable[str] | None = python_only(
        "Further paths, read lazily and taken literally (no brace ranges); their folders are part of the names."
    )


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """Workers and engine."""

    panel = "Run"

    workers: int = option(
        "Number of workers; 0 is one per usable CPU.", 0, metavar="N", flags=("-j", "--workers"), minimum=0
    )
    engine: str = option(
        "Run work serially, in threads, in processes, or on a Dask cluster (dask starts one here; dask:ADDRESS uses a "
        "running one); auto measures and chooses. Results are identical for all engines.",
        "auto",
        metavar="auto|serial|threads|processes|dask[:ADDRESS]",
        complete=ENGINES,
        parse=parse_engine,
    )
    on_progress: Callable[[Any], None] | None = python_only(
        "Called after every batch with an object that has `inputs` and `bytes`, the numbers of that batch."
    )


@dataclass(frozen=True, kw_only=True)
class FailureOptions(Options):
    """Policy for inputs that fail."""

    panel = "Run"

    max_failures: str | int | None = option(
        "Abort when more than N, or N%, of the inputs fail; 0 aborts at the first (default: no limit).",
        metavar="N|N%",
        parse=parse_limit,
    )
    on_failure: Callable[[Any], None] | None = python_only(
        "Called with a `Failure` for every input that is not used, in order."
    )


@dataclass(frozen=True, kw_only=True)
class ListOptions(Options):
    """Paths that are read from a file."""

    panel = "Input"

    files_from: str | None = option(
        "Read further paths from FILE, or - for stdin, one per line; with -0, separated by NUL (find -print0).",
        metavar="FILE",
    )
    null: bool = option(
        "Paths in --files-from are separated by NUL (find -print0).", False, flags=("-0", "--null"), hidden=True
    )


@dataclass(frozen=True, kw_only=True)
class FailureListOptions(Options):
    """File that lists failures."""

    panel = "Output"

    failures: Path | None = option("Write inputs that failed or were skipped to FILE, as JSON lines.", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class SummaryOptions(Options):
    """Printed form of statistics."""

    panel = "Output"

    json: bool = option("Print the statistics file instead of a table.", False)
    format: str | None = option(
        "Print mean and std as code or config of another tool, such as torchvision, timm, albumentations, csv or env; "
        "`normcli list exporters` prints all.",
        metavar="NAME",
        complete="formats",
    )
    convention: str | None = option(
        "Convention to print: pooled_population (default), pooled_sample, mean_of_image_stds, "
        "mean_of_image_sample_stds or root_mean_image_variance.",
        metavar="NAME",
        complete="conventions",
        parse=parse_name,
    )
    digits: int | None = option(
        "Significant digits of --format (default: 4 in code, all in csv, yaml, toml, env, json and kaldi; 0: all).",
        metavar="N",
        minimum=0,
    )
    report: Path | None = option("Write a self-contained HTML report; - is stdout.", metavar="PAGE.html")


@dataclass(frozen=True, kw_only=True)
class PerImageOptions(Options):
    """Files that `stats` writes in addition to statistics."""

    panel = "Output"

    per_image: Path | None = option("Write every image's own statistics to FILE, as JSON lines.", metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class JsonOptions(Options):
    """Machine-readable result."""

    panel = "Output"

    json: bool = option("Print the result as one JSON object.", False)


@dataclass(frozen=True, kw_only=True)
class PageOptions(Options):
    """The result as a page."""

    panel = "Output"

    report: Path | None = option("Write the result as a self-contained HTML page; - is stdout.", metavar="PAGE.html")
    force: bool = option("Overwrite an existing page.", False, flags=("-f", "--force"))


@dataclass(frozen=True, kw_only=True)
class TerminalOptions:
    """Messages, progress and logging: the same for every command, and of the command line alone."""

    panel = "Output"

    quiet: bool = option(
        "Suppress progress and notes; failures and errors are still printed.",
        False,
        flags=("-q", "--quiet"),
        hidden=True,
    )
    progress: Literal["auto", "always", "never"] = option(
        "Show progress on stderr: on a terminal (auto), always or never.", "auto", hidden=True
    )
    verbose: int = option(
        "Log settings and timings to stderr; -vv adds details.", 0, flags=("-v", "--verbose"), hidden=True
    )
    log_file: Path | None = option("Append the log to FILE.", metavar="FILE", hidden=True)
    debug: bool = option("Print the traceback of an error.", False, hidden=True)


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Files that `merge` subtracts and writes."""

    panel = "Output"

    minus: tuple[Path, ...] = option(
        "Subtract FILE, which must be contained in the sum. Repeatable.", (), metavar="FILE", parse=parse_paths
    )
    output: Path | None = option("Write the statistics file; - is stdout.", metavar="FILE", flags=("-o", "--output"))
    json: bool = option("Print the statistics file instead of a table.", False)
    force: bool = option(
        "Overwrite existing output; merge although settings differ or the same images come twice, and record that.",
        False,
        flags=("-f", "--force"),
    )
