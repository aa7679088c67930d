"""normcli tensor compare: several normalizers on the same activations."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from normcli.cli import completion
from normcli.cli.build import say
from normcli.errors import UsageError
from normcli.options.printing import JsonOptions, PageOptions, TerminalOptions

if TYPE_CHECKING:
    from normcli.tensor.channel_rows import ChannelRow
    from normcli.tensor.compare import ComparisonRow
    from normcli.tensor.files import Array
    from normcli.tensor.profile import TensorProfile

_LAYOUT = typer.Option(
    metavar="NCHW|NHWC|…", help="Order of the axes.", autocompletion=completion.completer(completion.layouts)
)
_PER = typer.Option(
    metavar="tensor|channel",
    case_sensitive=False,
    help="Print a row for each tensor, or also one for each of its channels (default: tensor).",
    show_default=False,
)
_LIMIT = typer.Option(metavar="SIZE", help="Largest amount of memory for tensors, such as 2G.")


def compare(
    name: Annotated[str, typer.Argument(metavar="IN", help="A tensor: FILE or FILE:KEY.", show_default=False)],
    normalizers: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="NAME,...",
            autocompletion=completion.list_completer(completion.normalizers),
            help="Normalizers to compare; settings follow a colon: group_norm:groups=8. "
            "By default batch_norm, layer_norm, instance_norm, group_norm and rms_norm.",
            show_default=False,
        ),
    ] = None,
    layout: Annotated[str | None, _LAYOUT] = None,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Running statistics: show batch_norm and batch_renorm in train and eval mode, and their difference.",
        ),
    ] = None,
    per: Annotated[Literal["tensor", "channel"], _PER] = "tensor",
    memory_limit: Annotated[str | None, _LIMIT] = None,
    *,
    page: PageOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Show the effect of several normalizers on the same activations: statistics before, and after each.

    normcli tensor compare x.npy --layout NCHW --with batch_norm,layer_norm,group_norm:groups=8

    normcli tensor compare x.npy --layout NCHW --with batch_norm,batch_renorm --state bn.npz

    normcli tensor compare x.npy --layout NCHW --per channel

    normcli tensor compare x.npy --layout NCHW --report page.html
    """
    from normcli.cli import messages, tables
    from normcli.cli.inputs import check_page
    from normcli.cli.tensor import parse_limit, without_numpy_warnings
    from normcli.tensor.compare import compare as compare_normalizers

    requests = None
    if normalizers is not None:
        requests = [request.strip() for request in normalizers.split(",") if request.strip()]
        if not requests:
            raise UsageError("--with requires a normalizer")
    check_page(page, json=printing.json)
    drawing = None if page.report is None else _ComparisonPage(name, layout)
    with without_numpy_warnings():
        rows = compare_normalizers(
            name,
            requests,
            layout=layout,
            state=state,
            memory_limit=parse_limit(memory_limit),
            on_tensor=None if drawing is None else drawing.take,
            per_channel=per == "channel",
        )
    for text in _notes(name, rows) if not terminal.quiet else ():
        say(text)
    if drawing is not None and page.report is not None:
        drawing.write(page.report, rows, quiet=terminal.quiet)
        if str(page.report) == "-":
            return 0
    if printing.json:
        messages.document({"schema": "normcli/compare/1", "input": name, "rows": [row.to_dict() for row in rows]})
        return 0
    tables.columns(*_comparison_table(rows))
    return 0


def _notes(name: str, rows: "list[ComparisonRow]") -> Iterator[str]:
    """Yield a note for each kind of value that a result cannot be right for."""
    from normcli.tensor.job import describe_values

    for row in rows:
        subject = name if row is rows[0] else row.name
        yield from (f"note: {text}" for text in describe_values(subject, row.counts, row.size))


def _comparison_table(rows: "list[ComparisonRow]") -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of a comparison; channels follow their tensor."""
    from normcli.cli import tables

    gaps, counts = any(row.gap for row in rows), any(row.nonfinite for row in rows)
    header = ["", "mean", "std", "min", "max", *(["NaN", "inf"] if counts else []), "histogram"]
    header += ["train-eval: rms, max"] if gaps else []
    cells = []
    for row in rows:
        lines: list[tuple[str, ComparisonRow | ChannelRow]] = [(row.name, row)]
        lines += [(f"  channel {number}", channel) for number, channel in enumerate(row.channels)]
        histogram, gap = tables.bars(row.histogram), ""
        if row.gap is not None:
            gap = f"{tables.number(row.gap[0])}, {tables.number(row.gap[1])}"
        for name, one in lines:
            line = [name, *(tables.number(v) for v in (one.mean, one.std, one.min, one.max))]
            line += [f"{one.nan:,}", f"{one.inf:,}"] if counts else []
            line += [histogram if one is row else "", *([gap if one is row else ""] if gaps else [])]
            cells.append(line)
    return header, cells


class _ComparisonPage:
    """The page of a comparison: profiles of its tensors, taken while they are in memory."""

    def __init__(self, name: str, layout: str | None) -> None:
        self._name, self._layout = name, None if layout is None else layout.upper()
        self._profiles: list[TensorProfile] = []
        self._shape: tuple[int, ...] = ()

    def take(self, y: "Array") -> None:
        """Compute the profile of the tensor of one row."""
        from normcli.tensor.profile import profile

        self._shape = self._shape or y.shape
        self._profiles.append(profile(y, self._layout))

    def write(self, path: Path, rows: "list[ComparisonRow]", *, quiet: bool) -> None:
        """Write the page."""
        from normcli.cli import pages
        from normcli.report.tensors import render_comparison

        title = pages.title_of(self._name)
        text = render_comparison(
            title, rows, self._profiles, shape=self._shape, layout=self._layout or "", origin=pages.origin_of()
        )
        pages.write_page(path, text, quiet=quiet)
