"""normcli check: which convention do these constants follow?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normcli.cli import numbers
from normcli.cli.build import NumberRows, command
from normcli.errors import UsageError, unknown
from normcli.options.printing import CheckOptions, JsonOptions, TerminalOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normcli.constants.identify import CheckResult
    from normcli.constants.parse_config import Number


def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|SOURCE",
            help="Statistics file, - for stdin; or a folder or container, whose images are counted first.",
        ),
    ],
    *,
    options: CheckOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Find the convention, range and channel order that constants match.

    Exit 0 when they fit these images, 1 when they do not or something is in the wrong place.

    normcli check stats.json --mean .485 .456 .406 --std .229 .224 .225

    normcli check photos/ --preset imagenet

    normcli check stats.json --config preprocessor_config.json
    """
    from normcli.cli.inputs import statistics_of
    from normcli.cli.messages import document, write
    from normcli.constants.identify import check as identify

    means, stds, name = _constants(options)
    summary = statistics_of(file, quiet=terminal.quiet)
    try:
        result = identify(summary, means, stds, preset=name, tolerance=options.tolerance)
    except UsageError as error:
        if options.mean is not None:
            raise
        text = str(error).partition(" (give ")[0].replace("`", "")  # they were not given as --mean and --std
        raise UsageError(f"{options.preset or options.config}: {text}") from None
    if printing.json:
        document(result.to_dict())
    else:
        write("".join(line + "\n" for line in _lines(result, means, stds, options.tolerance)))
    return 0 if result.fits else 1


def _constants(options: CheckOptions) -> tuple["Sequence[Number]", "Sequence[Number] | None", str]:
    """Return the constants to check, from the one option that names them."""
    mean, std, preset, config = options.mean, options.std, options.preset, options.config
    if (mean is not None or std is not None) + (preset is not None) + (config is not None) != 1:
        raise UsageError("one of `mean` with `std`, `preset` and `config` is required: the constants to check")
    if preset is not None:
        from normcli.constants.presets import PRESETS

        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        published = PRESETS[preset]
        std_ = None if published.std is None else _numbers(published.std)
        return _numbers(published.mean), std_, preset
    if config is not None:
        return *_from_config(config), ""
    if mean is None:
        raise UsageError("`std` requires `mean`")
    return numbers.parse("mean", mean), None if std is None else numbers.parse("std", std), ""


def _numbers(values: "Sequence[float]") -> "tuple[Number, ...]":
    from normcli.constants.parse_config import number

    return tuple(number(repr(value)) for value in values)


def _from_config(path: Path) -> "tuple[Sequence[Number], Sequence[Number] | None]":
    from normcli.cli.messages import say
    from normcli.constants.parse_config import read_constants

    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    pairs = read_constants(text, str(path))
    if len(pairs) > 1:
        say(f"note: {path} contains {len(pairs)} different pairs; checking the one at {pairs[0].location}")
    return pairs[0].mean, pairs[0].std


def _lines(
    result: "CheckResult", mean: "Sequence[Number]", std: "Sequence[Number] | None", tolerance: float
) -> "Iterator[str]":
    from normcli.cli import tables

    yield _verdict(result, tolerance)
    rows = [["channel", "given mean", "here", "shift/std", *(["given std", "here", "ratio"] if std else [])]]
    letters = result.order.split(" or ")[0]
    names = list(letters) if len(letters) == len(mean) else [str(c + 1) for c in range(len(mean))]
    for c, value in enumerate(mean):
        row = [
            names[c],
            f"{value.value:.6g}",
            _six(result.mean[c]),
            f"{result.shift[c]:+.4f}".replace("-0.0000", "+0.0000"),
        ]
        if std and result.ratio:
            row += [f"{std[c].value:.6g}", _six(result.std[c]), f"{result.ratio[c]:.4f}"]
        rows.append(row)
    yield from tables.aligned(rows)
    yield "your images after normalizing with these constants:"
    yield from tables.aligned(
        [["", *names]] + [[key, *map(_four, values)] for key, values in result.normalized.items()]
    )
    for remark in result.remarks:
        yield f"note: {remark}"
    yield f"advice: {result.advice}"


def _verdict(result: "CheckResult", tolerance: float) -> str:
    from normcli.constants.identify import FAMILIES

    off = "" if result.distance is None else f"distance {result.distance:.4f}"
    if result.verdict == "none":
        nearest = f"; the nearest hypothesis is at {off}" if off else ""
        return f"no match: not the mean and std of your images in any convention, range or order{nearest}"
    families = list(dict.fromkeys(FAMILIES[name] for name in result.conventions))
    one = [name.replace("_", " ") for name in result.conventions]
    detail = f" ({' or '.join(one)})" if len(families) == 1 else ""
    what = f"{' or '.join(families)}, {result.range}, {result.order}{detail}"
    if result.ratio is None:
        what = f"the mean (no std given), {result.range}, {result.order}"
    if result.verdict == "mistake":
        return f"mistake: {result.mistake}; otherwise {what}"
    if result.verdict == "match":
        return f"match: {what}; equal to the digits given"
    if result.verdict == "uncertain":
        return f"close to your data, but the convention is uncertain: {what}; {off}"
    return f"close to your data ({result.distance:.3f} std off, tolerance {tolerance:g}): {what}"


def _six(value: float) -> str:
    return f"{value:.6g}"


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".replace("-0.0000", "0.0000")


app = command(check, cls=NumberRows)
