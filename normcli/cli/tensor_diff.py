"""normcli tensor diff: the difference of two tensors, element by element."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from normcli.cli import completion
from normcli.cli.build import printable
from normcli.options.printing import JsonOptions, TerminalOptions

if TYPE_CHECKING:
    from normcli.tensor.difference import FileDifference, Gap, TensorDifference

_LAYOUT = typer.Option(
    metavar="NCHW|NHWC|…",
    help="Order of the axes, for the differences of each channel.",
    autocompletion=completion.completer(completion.layouts),
)
_ROWS = 24  # channels, or tensors, that a table shows


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Tensor file: FILE, or FILE:KEY for one tensor of several.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Tensor file to compare with A; tensors are paired by key.")],
    layout: Annotated[str | None, _LAYOUT] = None,
    rtol: Annotated[
        float, typer.Option(metavar="X", help="Relative tolerance: |a - b| may be up to atol + rtol * |b|.")
    ] = 1e-5,
    atol: Annotated[float, typer.Option(metavar="X", help="Absolute tolerance, as in numpy.allclose.")] = 1e-8,
    equal_nan: Annotated[bool, typer.Option("--equal-nan", help="Accept NaN in both as equal.")] = False,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest amount of memory for tensors, such as 2G.")
    ] = None,
    *,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Compare two tensors element by element: largest and rms difference, ulp, cosine, NaN, and where they differ.

    Exit code: 0 where every element is within the tolerance; 1 beyond it, or where shapes or keys differ.

    normcli tensor diff torch.npy onnx.npy --rtol 1e-4

    normcli tensor diff before.safetensors after.safetensors --json

    normcli tensor diff a.npy b.npy --layout NCHW
    """
    from normcli.cli import messages
    from normcli.cli.tensor import parse_limit, without_numpy_warnings
    from normcli.tensor.difference import Tolerance, diff_files

    tolerance = Tolerance(rtol=rtol, atol=atol, equal_nan=equal_nan)
    with without_numpy_warnings():
        difference = diff_files(a, b, layout=layout, tolerance=tolerance, memory_limit=parse_limit(memory_limit))
    if printing.json:
        messages.document({"schema": "normcli/tensor-diff/1", "a": a, "b": b, **difference.to_dict()})
    else:
        messages.write_lines(lines_of(difference))
    return 0 if difference.close else 1


def lines_of(difference: "FileDifference") -> Iterator[str]:
    """Yield a difference as lines of text."""
    from normcli.cli import tables

    if len(difference.tensors) == 1:
        yield from _lines_of_one(difference.tensors[0])
    elif difference.tensors:
        apart = sorted(difference.tensors, key=lambda t: (t.close, -t.total.max_abs if t.total else -math.inf))
        header = ["tensor", *_HEADER, "beyond"]
        yield from tables.aligned([header, *(_tensor_row(tensor) for tensor in apart[:_ROWS])])
        if len(apart) > _ROWS:
            yield f"… {len(apart):,} tensors; these differ most"
        close = sum(tensor.close for tensor in apart)
        yield f"{close:,} of {len(apart):,} tensors are within the tolerance"
    for side, names in zip("BA", difference.missing, strict=True):
        for name in names:
            yield f"only in {side}: {printable(name) or 'a tensor without a name'}"


_HEADER = ("max abs", "rms", "max ulp", "cosine", "NaN A", "NaN B", "inf A", "inf B")


def _cells(gap: "Gap") -> list[str]:
    from normcli.cli import tables

    ulp = "-" if math.isnan(gap.max_ulp) else f"{gap.max_ulp:,.0f}" if gap.max_ulp >= 10 else f"{gap.max_ulp:.2g}"
    cosine = "-" if math.isnan(gap.cosine) else f"{gap.cosine:.9f}"
    return [tables.number(gap.max_abs), tables.number(gap.rms), ulp, cosine, *(f"{n:,}" for n in (*gap.nan, *gap.inf))]


def _tensor_row(tensor: "TensorDifference") -> list[str]:
    if tensor.total is None:
        return [printable(tensor.name), *["-"] * len(_HEADER), "shapes differ"]
    return [printable(tensor.name), *_cells(tensor.total), f"{tensor.total.beyond:,}"]


def _lines_of_one(tensor: "TensorDifference") -> Iterator[str]:
    from normcli.cli import tables

    (shape, other), (dtype, other_dtype) = tensor.shapes, tensor.dtypes
    if tensor.total is None:
        yield f"shapes differ: {shape} and {other}"
        return
    total = tensor.total
    kinds = dtype if dtype == other_dtype else f"{dtype} and {other_dtype}"
    counts = f"{total.unequal:,} of {total.count:,} elements differ, {total.beyond:,} beyond the tolerance"
    yield f"{shape} {kinds}: {counts}"
    rows = [["", *_HEADER, "beyond"], ["all", *_cells(total), f"{total.beyond:,}"]]
    order = sorted(range(len(tensor.channels)), key=lambda c: -tensor.channels[c].max_abs)[:_ROWS]
    rows += [
        [f"channel {c}", *_cells(tensor.channels[c]), f"{tensor.channels[c].beyond:,}"]
        for c in (sorted(order) if len(tensor.channels) <= _ROWS else order)
    ]
    yield from tables.aligned(rows)
    if len(tensor.channels) > _ROWS:
        yield f"… {len(tensor.channels):,} channels; these differ most"
    for label, place in (
        ("first difference", tensor.first),
        ("first beyond the tolerance", tensor.first_beyond),
        ("largest difference", tensor.worst),
    ):
        if place is not None:
            here, there = (str(v) if isinstance(v, int) else f"{v:.9g}" for v in (place.a, place.b))
            yield f"{label}: [{','.join(map(str, place.index))}], {here} in A, {there} in B"
