"""normcli tensor stats: statistics of saved activations."""

from typing import Annotated, Literal

import typer

from normcli.cli import completion
from normcli.options.printing import JsonOptions, TerminalOptions


def stats(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="ACT...",
            help="Files of activations, quoted patterns and folders, in natural order; FILE:KEY for one tensor.",
            show_default=False,
        ),
    ],
    per: Annotated[
        Literal["tensor", "channel", "token"],
        typer.Option(
            metavar="tensor|channel|token",
            case_sensitive=False,
            help="Print a row for each tensor, or for each channel or token of all tensors together (default: tensor).",
            show_default=False,
        ),
    ] = "tensor",
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="NCHW|NHWC|…",
            help="Order of the axes.",
            autocompletion=completion.completer(completion.layouts),
        ),
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest amount of memory for tensors, such as 500M.")
    ] = None,
    *,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Show mean, rms, std, kurtosis, zeros, outliers, NaN and infinities of saved activations.

    normcli tensor stats activations/

    normcli tensor stats 'activations/b*.npy' --per channel --layout NCHW --json
    """
    from normcli.cli import messages, tables
    from normcli.options.field import parse_size
    from normcli.tensor.activations import activation_stats

    rows = activation_stats(names, per=per, layout=layout, memory_limit=parse_size("memory_limit", memory_limit))
    if printing.json:
        messages.document({"schema": "normcli/tensor-stats/1", "per": per, "rows": [row.to_dict() for row in rows]})
        return 0
    header = [per, "mean", "rms", "std", "kurtosis", "zeros", "max/median", "NaN", "inf"]
    cells = []
    for row in rows:
        numbers = (row.mean, row.rms, row.std, row.kurtosis)
        zeros = "-" if row.zeros is None else f"{row.zeros:.1%}"
        outliers = "-" if row.max_over_median is None else f"{row.max_over_median:.4g}"
        cells.append([row.name, *map(tables.number, numbers), zeros, outliers, f"{row.nan:,}", f"{row.inf:,}"])
    tables.columns(header, cells)
    return 0
