"""normcli tensor merge and mix: running statistics of several runs."""

from typing import Annotated, Literal

import typer

from normcli.cli.build import say
from normcli.errors import UsageError
from normcli.options.printing import TerminalOptions

Output = Annotated[
    str, typer.Option("-o", "--output", metavar="OUT", help="File to write, in the format of the first.")
]
Force = Annotated[bool, typer.Option("-f", "--force", help="Overwrite an existing output file.")]


def merge(
    states: Annotated[
        list[str], typer.Argument(metavar="STATE...", help="States, or checkpoints with the same layers.")
    ],
    output: Output,
    elements: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Number of elements per channel behind each state (default: as --recompute-state records it).",
        ),
    ] = None,
    running_var: Annotated[
        Literal["unbiased", "biased"] | None,
        typer.Option(
            metavar="unbiased|biased",
            case_sensitive=False,
            help="Divisor of the running variances: unbiased, m - 1 (torch, default), or biased, m (Keras, flax).",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    *,
    terminal: TerminalOptions,
) -> int:
    """Pool the batch-norm statistics of shards of the data, as if they had been computed of all at once.

    normcli tensor merge shard0.npz shard1.npz -o all.npz

    normcli tensor merge rank0.pt rank1.pt --elements 20480,12800 -o net.pt
    """
    from normcli.tensor import files
    from normcli.tensor.states import merge_states

    counts = None
    if elements is not None:
        try:
            counts = [int(number) for number in elements.split(",")]
        except ValueError:
            raise UsageError(f"--elements must be numbers such as 20480,12800, not {elements!r}") from None
    (path,) = files.output_paths(states[:1], output, force)
    layers = merge_states(files.expand_patterns(states), path, elements=counts, running_var=running_var)
    if not terminal.quiet:
        say(f"wrote {path}: {layers:,} layer{'s' * (layers != 1)}")
    return 0


def mix(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="State or checkpoint of the source domain.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="State or checkpoint of the target domain.")],
    output: Output,
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X|PATTERN=X",
            help="Share of the target, 0 to 1, for all layers or those of a pattern such as 'layer1.*=0.1'; the last "
            "that matches counts. Repeatable. (default: 1, the statistics of the target)",
        ),
    ] = None,
    force: Force = False,
    *,
    terminal: TerminalOptions,
) -> int:
    """Mix the running statistics of two domains: alpha * target + (1 - alpha) * source.

    normcli tensor mix net.pt adapted.pt --alpha 0.3 -o mixed.pt

    normcli tensor mix net.pt adapted.pt --alpha 0.3 --alpha 'layer1.*=0' -o mixed.pt
    """
    from normcli.tensor import files
    from normcli.tensor.states import mix_states

    (path,) = files.output_paths([source], output, force)
    shares = mix_states(source, target, path, alpha=alpha or ["1"])
    if not terminal.quiet:
        say(f"wrote {path}: {len(shares):,} layer{'s' * (len(shares) != 1)}")
    return 0
