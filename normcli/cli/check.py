"""normcli check: which convention do these constants follow?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normcli import platforms
from normcli.cli.build import NumberRows, command
from normcli.options.compare import CheckOptions
from normcli.options.printing import JsonOptions, PageOptions, TerminalOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normcli.constants.identify import CheckResult
    from normcli.constants.parse_config import Number
    from normcli.report import Gallery


def check(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|SOURCE...",
            help="Statistics file, - for stdin; or folders, images, archives, tables and arrays, which are counted.",
            callback=platforms.expand_globs,
        ),
    ],
    *,
    options: CheckOptions,
    page: PageOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Find the convention, range and channel order that constants match, and whether to use them.

    Exit 0 when they fit these images, 1 when they do not or something is in the wrong place.

    normcli check stats.json --mean .485 .456 .406 --std .229 .224 .225

    normcli check photos/ --preset imagenet --resize 256 --center-crop 224

    normcli check stats.json --config preprocessor_config.json --report page.html
    """
    from normcli.cli.inputs import check_page, counting
    from normcli.cli.messages import document, write_lines
    from normcli.runs.compare import check_summary, constants_of, one_for_all, summary_of

    paths = sources[0] if len(sources) == 1 else sources
    if options.config is not None and str(options.config).endswith(".json"):
        from normcli.constants.features import is_feature_file

        if is_feature_file(options.config):
            return _check_features(paths, options, page, printing, terminal)
    mean, std, _ = constants_of(options)
    check_page(page, json=printing.json)
    galleries: dict[int, Gallery] | None = None if page.report is None else {}
    with counting(options, terminal, paths, galleries=galleries) as options:
        summary = summary_of(paths, options)
        result = check_summary(summary, paths, options)
    if options.config is not None:
        mean, std = one_for_all(mean, len(result.mean)), std and one_for_all(std, len(result.mean))
    if galleries is not None and page.report is not None:
        from normcli.cli import pages
        from normcli.constants.identify import describe_verdict
        from normcli.report.checks import render_check

        text = render_check(
            summary,
            result,
            mean,
            std,
            title=", ".join(map(pages.title_of, sources)),
            name=options.preset or (Path(options.config).name if options.config is not None else "given constants"),
            sentence=describe_verdict(result, options.tolerance),
            gallery=galleries.get(id(summary)),
            origin=pages.origin_of(),
        )
        pages.write_page(page.report, text, quiet=terminal.quiet)
    if str(page.report) == "-":
        pass  # the page is the output
    elif printing.json:
        document(result.to_dict())
    else:
        write_lines(_lines(result, mean, std, options.tolerance, summary.channels))
    return 0 if result.fits else 1


def _check_features(
    paths: str | list[str], options: CheckOptions, page: PageOptions, printing: JsonOptions, terminal: TerminalOptions
) -> int:
    """Check statistics by feature, of LeRobot or openpi."""
    from normcli.cli.inputs import counting, print_features
    from normcli.errors import UsageError
    from normcli.options.compare import CountedOptions
    from normcli.runs.compare import check_features

    if page.report is not None:
        raise UsageError("`report` draws images: it cannot be combined with statistics by feature")
    config = str(options.config)
    with counting(options, terminal, paths) as options:
        result = check_features(paths, config, options.part(CountedOptions))
    return print_features(result, config, json=printing.json)


def _lines(
    result: "CheckResult",
    mean: "Sequence[Number]",
    std: "Sequence[Number] | None",
    tolerance: float,
    channels: "Sequence[str]",
) -> "Iterator[str]":
    from normcli.cli import tables
    from normcli.constants.identify import describe_verdict

    yield describe_verdict(result, tolerance)
    rows = [
        [
            "channel",
            "given mean",
            "here",
            "shift/std",
            *(["given std", "here", "ratio"] if std and result.ratio else []),
        ]
    ]
    letters = result.order.split(" or ")[0]
    names = list(letters)
    if len(letters) != len(mean):
        names = list(channels) if len(channels) == len(mean) else [str(c + 1) for c in range(len(mean))]
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


def _six(value: float) -> str:
    return f"{value:.6g}"


def _four(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".replace("-0.0000", "0.0000")


app = command(check, cls=NumberRows)
