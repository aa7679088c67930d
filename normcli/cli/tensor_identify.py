"""normcli tensor identify: the normalizer that maps one tensor to another."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from normcli.cli import completion
from normcli.options.printing import JsonOptions, TerminalOptions

if TYPE_CHECKING:
    from normcli.tensor.identify.results import Fit, Identification

_LAYOUT = typer.Option(
    metavar="NCHW|NHWC|…",
    help="Order of the axes; without it every axis that can be the channel's is tried.",
    autocompletion=completion.completer(completion.layouts),
)
_LIMIT = typer.Option(metavar="SIZE", help="Largest amount of memory for tensors, such as 2G.")


def identify(
    x: Annotated[str, typer.Argument(metavar="X", help="Input of the normalizer: FILE or FILE:KEY.")],
    y: Annotated[
        str, typer.Argument(metavar="Y", help="Output of the normalizer, of the same shape: FILE or FILE:KEY.")
    ],
    weight: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Scale of the affine (gamma). Without --weight and --bias, none is tried first; then both are solved "
            "for, which leaves open what they absorb.",
        ),
    ] = None,
    bias: Annotated[str | None, typer.Option(metavar="FILE", help="Shift of the affine (beta).")] = None,
    layout: Annotated[str | None, _LAYOUT] = None,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Running statistics, to identify batch_norm in eval mode; FILE:PREFIX, such as net.pt:bn1., is a "
            "layer of a checkpoint with its weight and bias.",
        ),
    ] = None,
    memory_limit: Annotated[str | None, _LIMIT] = None,
    *,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Identify the normalizer that maps X to Y: axes, groups, epsilon, variance, weight, order of rounding.

    A normalizer fits where every element of Y is within the rounding of its type. Where several fit alike, all are
    listed, with the input that would separate them; where none fits, the nearest, and where they depart.

    Exit code: 0 where one normalizer fits, with its axes and groups (settings that X and Y leave open are listed);
    1 where several fit, or none.

    normcli tensor identify x.npy y.npy --layout NCHW

    normcli tensor identify x.npy y.npy --weight gamma.npy --bias beta.npy --json
    """
    from normcli.cli import messages
    from normcli.cli.tensor import parse_limit, without_numpy_warnings
    from normcli.tensor.identify.files import identify_files

    with without_numpy_warnings():
        identification = identify_files(
            x, y, weight=weight, bias=bias, layout=layout, state=state, memory_limit=parse_limit(memory_limit)
        )
    if printing.json:
        document = {"schema": "normcli/identify/1", "x": x, "y": y, **identification.to_dict()}
        messages.document(document)
    else:
        messages.write_lines(lines_of(identification))
    return 0 if identification.verdict == "named" else 1


def lines_of(identification: "Identification") -> Iterator[str]:
    """Yield an identification as lines of text."""
    from normcli.cli import tables

    fits = identification.fits
    if identification.verdict == "none":
        yield "no normalizer maps X to Y"
    elif len(fits) > 1:
        yield "one normalizer fits, in several ways" if identification.verdict == "named" else "several normalizers fit"
    for fit in fits:
        yield fit.title
        yield from (f"  {name:<11} {text}" for name, text in _facts(fit))
    for setting in identification.open:
        yield f"open: {setting.setting}"
        yield from (f"  {value}" for value in setting.values)
        yield f"  to separate them: {setting.remedy}"
    if identification.nearest:
        yield from tables.aligned(
            [
                ["nearest", "rms error", "agree", "first apart", "worst", "Y", "expected"],
                *(
                    [
                        near.title,
                        f"{near.error:.2g}",
                        f"{near.share:.1%}",
                        _index(near.first),
                        _index(near.worst),
                        tables.number(near.y),
                        tables.number(near.expected),
                    ]
                    for near in identification.nearest
                ),
            ]
        )
    yield from (f"note: {remark}" for remark in identification.remarks)


def _index(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]"


def _facts(fit: "Fit") -> Iterator[tuple[str, str]]:
    """Yield the printed facts of a fit, each with its name."""
    from normcli.tensor.identify.results import format_eps, format_title

    if fit.eps is not None:
        yield "epsilon", format_eps(fit.eps)
    if fit.variance is not None:
        yield "variance", fit.variance
    yield "weight", fit.weight
    if fit.rounding is not None:
        yield "rounding", fit.rounding
    if fit.arithmetic != "float32 or more":
        yield "arithmetic", fit.arithmetic
    if fit.clipped:
        yield "then", "max(y, 0)"
    for name, values in fit.solved.items():
        numbers = values.ravel()
        text = " ".join(f"{value:.6g}" for value in numbers[:8])
        yield name, text + (f" … ({numbers.size:,} values)" if numbers.size > 8 else "")
    ulp, level_ulp, equal = fit.agreement
    if not math.isnan(equal):
        text = f"{equal:.4%} of the elements are equal"
        if ulp > 0:
            text += f", the others within {ulp:,.0f} ulp, {level_ulp:,.2g} ulp of the root mean square of Y"
        yield "agreement", text
    if len(fit.names) > 1:
        yield "same as", "; ".join(format_title(title) for title in fit.names[1:])
