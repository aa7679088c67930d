"""normcli diff: compare two statistics files, or the images of sources."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from normcli.cli.build import command, printable, say
from normcli.errors import UsageError
from normcli.options.compare import DiffOptions
from normcli.options.printing import JsonOptions, PageOptions, TerminalOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normcli.constants.compare import Difference
    from normcli.report import Gallery


def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Statistics file, - for stdin; or a SOURCE of `stats`, which is counted.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Statistics file or SOURCE to compare with A.")],
    max_shift: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Exit 1 when a mean moved by more than X standard deviations of A, or a std changed by more "
            "than that share (0.01 is 1%).",
        ),
    ] = None,
    *,
    options: DiffOptions,
    page: PageOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Compare two statistics files or sources: the changes from A to B.

    Per channel: how far the mean moved in standard deviations of A, the ratio of the stds, how far a pixel moves
    on average (Wasserstein-1, in the units of the mean), and how much the histograms differ (Jensen-Shannon, in
    bits: 0 alike, 1 disjoint). Then what the images are: formats, modes, groups, settings. A SOURCE is counted with
    the settings of the file on the other side.

    normcli diff july.json august.json --max-shift 0.01 && train.sh

    normcli diff train/ val/ --report page.html
    """
    from normcli.cli.inputs import check_page, counting
    from normcli.constants.compare import diff as compare
    from normcli.runs.compare import compared

    if max_shift is not None and not max_shift >= 0:
        raise UsageError(f"`max_shift`: must be 0 or more, such as 0.01, not {max_shift}")
    if a == b == "-":
        raise UsageError("only one of A and B can be stdin")
    check_page(page, json=printing.json)
    galleries: dict[int, Gallery] | None = None if page.report is None else {}
    with counting(options, terminal, a, b, galleries=galleries) as options:
        first, second = compared(a, b, options)
    difference = compare(first, second)
    if galleries is not None and page.report is not None:
        from normcli.cli import pages
        from normcli.report.differences import render_diff

        text = render_diff(
            first,
            second,
            difference,
            titles=(pages.title_of(a), pages.title_of(b)),
            max_shift=max_shift,
            galleries=(galleries.get(id(first)), galleries.get(id(second))),
            origin=pages.origin_of(),
        )
        pages.write_page(page.report, text, quiet=terminal.quiet)
    if str(page.report) != "-":
        _print(difference, max_shift, json=printing.json)
    if max_shift is not None and difference.exceeds(max_shift):
        distance = "from a constant channel" if difference.distance is None else f"{difference.distance:.4g}"
        say(f"normcli diff: drift {distance} exceeds --max-shift {max_shift:g}")
        return 1
    return 0


def _print(difference: "Difference", max_shift: float | None, *, json: bool) -> None:
    """Print a difference as tables or JSON."""
    from normcli.cli import messages

    if json:
        gate = {} if max_shift is None else {"max_shift": max_shift, "passed": not difference.exceeds(max_shift)}
        messages.document({**difference.to_dict(), **gate})
    else:
        messages.write_lines(lines_of(difference))


def lines_of(difference: "Difference") -> "Iterator[str]":
    """Yield a difference as the lines of its tables."""
    from normcli.cli import tables

    if difference.identical:
        yield "the same images, the same settings"
    rows = [["channel", "mean A", "mean B", "shift/std", "std A", "std B", "ratio", "W1", "JS bits"]]
    for c, name in enumerate(difference.channels):
        means, stds = map(tables.number, difference.mean[c]), map(tables.number, difference.std[c])
        shift, ratio = _signed(difference.shift[c]), _ratio(difference.ratio[c])
        distances = tables.number(difference.w1[c]), tables.number(difference.js[c])
        rows.append([name, *means, shift, *stds, ratio, *distances])
    yield from tables.aligned(rows)
    changes = [
        [k, _cell(a), _cell(b)] for part in (difference.counts, difference.composition) for k, (a, b) in part.items()
    ]
    if changes:
        yield ""
        yield from tables.aligned([["changed", "A", "B"], *changes])
    if difference.settings:
        yield ""
        pairs = difference.settings.items()
        settings = [[k, *("none" if value is None else str(value) for value in pair)] for k, pair in pairs]
        yield from tables.aligned([["setting", "A", "B"], *settings])
        yield "note: A and B were counted with different settings, which also cause differences"
    if factor := _common_factor(difference):
        yield f"note: B is {factor} A in every channel: the same range in other units?"
    if difference.groups:
        yield ""
        yield from tables.aligned([["group", "images A", "images B", "shift/std", "ratio"], *_group_rows(difference)])


def _common_factor(difference: "Difference") -> str:
    """Return the factor that all means and stds of two files differ by, as text; "" without one."""
    ratios = [t / s for pair in (difference.mean, difference.std) for s, t in pair if s > 0 and t > 0]
    for level in (255, 257, 4095, 65535):
        for factor, text in ((level, f"{level} times"), (1 / level, f"1/{level} of")):
            if len(ratios) == 2 * len(difference.std) and all(abs(r / factor - 1) < 0.01 for r in ratios):
                return text
    return ""


def _group_rows(difference: "Difference") -> "Iterator[list[str]]":

    for name, group in difference.groups.items():
        shift = " ".join(map(_signed, group.shift or ())) or "-"
        ratio = " ".join(map(_ratio, group.ratio or ())) or "-"
        yield [printable(name), *(f"{n:,}" for n in group.images), shift, ratio]


def _signed(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:+.4f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


app = command(diff)
