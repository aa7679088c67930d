"""Options of printing: tables, exports, records, the terminal."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from normcli.errors import UsageError
from normcli.options.field import Options, option, parse_name, parse_paths

PercentileMethod = Literal[
    "linear",
    "inverted_cdf",
    "averaged_inverted_cdf",
    "closest_observation",
    "interpolated_inverted_cdf",
    "hazen",
    "weibull",
    "median_unbiased",
    "normal_unbiased",
    "lower",
    "higher",
    "midpoint",
    "nearest",
]
PERCENTILE_METHODS: tuple[str, ...] = get_args(PercentileMethod)
_WEIGHTED_METHODS = ("inverted_cdf", "linear")
IQR = "iqr"  # the range between the quartiles
_MOST_PERCENTILES, _MOST_DECIMALS = 100, 20


def parse_percentiles(values: Any) -> tuple[str, ...]:
    """Return percentiles as the statistics file names them, each once.

    >>> parse_percentiles("0.5, q10,iqr"), parse_percentiles([50.0, "99.90"]), parse_percentiles(2.5)
    (('0.5', '10', 'iqr'), ('50', '99.9'), ('2.5',))

    Raises:
        UsageError: something else than numbers from 0 to 100, qN or iqr; or more than 100 of them.
    """
    items = values.split(",") if isinstance(values, str) else values
    items = items if isinstance(items, Iterable) else [items]
    names = dict.fromkeys(_percentile_name(item) for item in items)
    if len(names) > _MOST_PERCENTILES:
        raise UsageError(f"`percentiles`: {len(names)} are more than {_MOST_PERCENTILES}")
    return tuple(names)


def check_weights(weight: str, by_alpha: bool, method: str) -> None:
    """Check that percentiles are defined for pixels with weights.

    Args:
        weight: the unit that counts equally: "pixel", "image", "group" or "case".
        by_alpha: pixels count by their alpha.
        method: one of `PERCENTILE_METHODS`.

    Raises:
        UsageError: they are not.
    """
    if weight == "case" and method not in _WEIGHTED_METHODS:
        raise UsageError(
            f"`percentile_method`: {method} is not defined for cases of the same weight "
            f"(choose {' or '.join(_WEIGHTED_METHODS)})"
        )
    if weight not in ("pixel", "case"):
        raise UsageError(
            f"`percentiles` cannot be combined with `weight` {weight}: the histogram counts every pixel alike "
            "(count without `weight`)"
        )
    if by_alpha and method not in _WEIGHTED_METHODS:
        raise UsageError(
            f"`percentile_method`: {method} is not defined for pixels that count by their alpha "
            f"(choose {' or '.join(_WEIGHTED_METHODS)})"
        )


def _percentile_name(value: Any) -> str:
    from decimal import Decimal, InvalidOperation

    text = value.strip().lower() if isinstance(value, str) else repr(value)
    if text == IQR:
        return IQR
    try:
        number = Decimal(text.removeprefix("q") if isinstance(value, str) else repr(float(value)))
    except (InvalidOperation, TypeError, ValueError):
        raise UsageError(f"`percentiles`: {value!r} is neither a number from 0 to 100, qN nor iqr") from None
    if not (number.is_finite() and 0 <= number <= 100):
        raise UsageError(f"`percentiles`: {text} is not from 0 to 100")
    if number and number.adjusted() < -_MOST_DECIMALS:
        raise UsageError(f"`percentiles`: {text} has more than {_MOST_DECIMALS} decimals")
    return format(number.normalize(), "f").replace("-0", "0")


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
        "Convention to print, by default that of the file: pooled_population, pooled_sample, mean_of_image_stds, "
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


class PercentileOptions(Options):
    """Percentiles in addition to those of every statistics file."""

    panel = "Output"

    percentiles: str | Sequence[str | float] | None = option(
        "Compute these percentiles as well, from 0 to 100, such as 0.5,99.5; q10 is 10, and iqr the range between the "
        "quartiles. They replace 1, 50 and 99 in the table.",
        metavar="P[,P...]",
        parse=parse_percentiles,
    )
    percentile_method: PercentileMethod = option(
        f"Method of numpy.percentile by which --percentiles are computed: {', '.join(PERCENTILE_METHODS)}.",
        "linear",
        metavar="METHOD",
        hidden=True,
    )


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
