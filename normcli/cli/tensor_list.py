"""normcli tensor list: the tensors of a checkpoint."""

from typing import Annotated, Any

import typer

from normcli.cli.build import printable, say
from normcli.options.printing import JsonOptions, TerminalOptions


def list_(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Files of tensors; FILE:PREFIX. and 'FILE:*.weight' show some of their tensors.",
            show_default=False,
        ),
    ],
    headers: Annotated[
        bool, typer.Option("--headers", help="Show names, shapes and types alone, without reading the tensors.")
    ] = False,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest amount of memory for tensors, such as 500M.")
    ] = None,
    *,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """List the tensors of a file: name, shape, type, mean and std, and the number of NaN and infinite elements.

    normcli tensor list net.pt

    normcli tensor list net.safetensors:layer1. --json
    """
    from normcli.cli import messages, tables
    from normcli.options.field import parse_size
    from normcli.tensor import files
    from normcli.tensor.listing import list_tensors

    limit = parse_size("memory_limit", memory_limit)
    documents: list[dict[str, Any]] = []
    for name in files.expand_patterns(names):
        rows = list_tensors(name, statistics=not headers, memory_limit=limit)
        if printing.json:
            documents.append({"file": name, "tensors": [row.to_dict() for row in rows]})
            continue
        if len(names) > 1:
            messages.write(f"{printable(name)}\n")
        title = ["name", "shape", "dtype"] + ([] if headers else ["mean", "std", "NaN", "inf"])
        cells = []
        for row in rows:
            line = [
                row.name if row.in_state_dict else f"({row.name})",
                "x".join(map(str, row.shape)) or "scalar",
                row.dtype,
            ]
            if not headers:
                line += [tables.number(row.mean), tables.number(row.std), _count(row.nan), _count(row.inf)]
            cells.append(line)
        tables.columns(title, cells)
        if not terminal.quiet:
            size = sum(row.nbytes or 0 for row in rows)
            say(f"{name}: {len(rows):,} tensor{'s' * (len(rows) != 1)}, {size:,} bytes")
    if printing.json:
        messages.document({"schema": "normcli/tensor-list/1", "files": documents})
    return 0


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
