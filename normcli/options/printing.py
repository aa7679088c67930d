"""Options of what commands print and list: tables, exports, records, the terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from normcli.options.field import Options, option, parse_name, parse_paths


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


class FailureListOptions(Options):
    """File that lists failures."""

    panel = "Output"

    failures: Path | None = option("Write inputs that failed or were skipped to FILE, as JSON lines.", metavar="FILE")


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
        "mean_of_image_sample_stds, root_mean_image_variance or pooled_within_images.",
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


class PerImageOptions(Options):
    """Files that `stats` writes in addition to statistics."""

    panel = "Output"

    per_image: Path | None = option("Write every image's own statistics to FILE, as JSON lines.", metavar="FILE")


class JsonOptions(Options):
    """Machine-readable result."""

    panel = "Output"

    json: bool = option("Print the result as one JSON object.", False)


class PageOptions(Options):
    """The result as a page."""

    panel = "Output"

    report: Path | None = option("Write the result as a self-contained HTML page; - is stdout.", metavar="PAGE.html")
    force: bool = option("Overwrite an existing page.", False, flags=("-f", "--force"))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)  # unchecked: made of what Typer has parsed
class TerminalOptions(Options):
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
