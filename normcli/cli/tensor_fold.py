"""normcli tensor fold: norms folded into the weights next to them."""

from typing import Annotated

import typer

from normcli.cli.build import say
from normcli.options.printing import JsonOptions, TerminalOptions
from normcli.options.tensor import FoldOptions


def fold(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="File of the weights, such as net.pt or net.safetensors.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="OUT", help="File to write, .pt or .safetensors.", rich_help_panel="Output"
        ),
    ],
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Overwrite an existing output file.", rich_help_panel="Output")
    ] = False,
    *,
    options: FoldOptions,
    printing: JsonOptions,
    terminal: TerminalOptions,
) -> int:
    """Fold norms into the weights next to them, in float64, and print the largest change of the output.

    normcli tensor fold net.pt --pair conv1:bn1 --pair layer1.0.conv1:layer1.0.bn1 -o folded.pt

    normcli tensor fold net.pt --auto --verify outputs.npz -o folded.pt

    normcli tensor fold net.pt --pair input:conv1 --stats stats.json --input-range 0-255 --unpadded conv1 -o folded.pt

    normcli tensor fold block.safetensors --pair ln1:attn.q,attn.k,attn.v --pair ln2:mlp.fc1 -o folded.safetensors
    """
    from normcli.cli import messages, tables
    from normcli.tensor import files
    from normcli.tensor.folding.fold import fold as run

    (path,) = files.output_paths([checkpoint], output, force)
    rows = run(checkpoint, path, options)
    if printing.json:
        document = {"schema": "normcli/fold/1", "input": checkpoint, "output": path}
        messages.document({**document, "pairs": [row.to_dict() for row in rows]})
    else:
        header = ["pair", "fold", "largest change", "of output", "bound", "proven"]
        cells = [
            [row.pair, row.kind, f"{row.change:.2g}", f"{row.relative:.2g}", f"{row.bound:.2g}", "yes" * row.proven]
            for row in rows
        ]
        tables.columns(header, cells)
    for row in rows:
        if row.pad_value is not None:
            say(f"{row.pair}: pad with {', '.join(f'{value:.9g}' for value in row.pad_value)}")
    if not terminal.quiet:
        say(f"wrote {path}: {len(rows):,} pair{'s' * (len(rows) != 1)}, checked on {rows[0].checked_on}")
    return 0
