"""normcli tensor: any in-network normalizer on saved tensors.

The subcommands are made from the normalizers themselves: options from the signature, help from the docstring.
"""

import inspect
import json as jsons
import sys
from typing import Annotated, Any

import typer
from typer import _click as click
from typer.core import TyperGroup

from normcli.cli import options as o
from normcli.errors import UsageError

HOW, STATE = "The normalizer", "Running statistics"


class _Normalizers(TyperGroup):
    """Finds a normalizer's command by making it on demand; the registry needs NumPy but no Numba."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from normcli.tensor import catalog

        return ["compare", *(name.replace("_", "-") for name in catalog.names())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "compare":
            return super().get_command(ctx, cmd_name)
        from normcli.tensor import catalog

        return _command(catalog.entry(cmd_name)) if cmd_name.replace("-", "_") in catalog.names() else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] != "compare":
            from normcli.tensor import catalog

            catalog.entry(args[0])  # an unknown name is refused with the nearest one
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Normalizers, add_completion=False, invoke_without_command=True)


@app.callback()
def tensor(
    context: typer.Context,
    list_them: Annotated[bool, typer.Option("--list", help="List all normalizers, one a line.")] = False,
) -> None:
    """Apply a normalizer of neural networks to saved tensors.

    normcli tensor --list

    normcli tensor group-norm x.npy --layout NCHW --groups 8 -o y.npy

    normcli tensor batch-norm batch-*.npy --layout NCHW -o out/ --save-state bn.npz

    normcli tensor batch-norm x.npy --layout NCHW --mode eval --state bn.npz -o y.npy
    """
    if list_them:
        from normcli.tensor import catalog

        rows = [(name.replace("_", "-"), catalog.entry(name).summary) for name in catalog.names()]
        width = max(len(name) for name, _ in rows)
        sys.stdout.write("".join(f"{name:<{width}}  {summary}\n" for name, summary in rows))
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help())  # empty where rich has printed it already


def _command(entry: Any) -> click.Command:
    """Make the command of one normalizer."""

    def command(**given: Any) -> int:
        return _run(entry, given)

    parameters = [*_inputs(entry), *map(_setting, entry.settings), *_statistics(entry), *_resources()]
    ordered = sorted(parameters, key=lambda p: p.default is not p.empty)
    command.__doc__ = _help(entry)
    command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in ordered}
    single = typer.Typer(add_completion=False)
    single.command(name=entry.name.replace("_", "-"))(command)
    return typer.main.get_command(single)


def _help(entry: Any) -> str:
    told = [entry.summary]
    for title in ("Formula", "Axes", "State", "Torch", "Paper"):
        if title in entry.sections:
            told.append(f"{title}: {entry.sections[title]}".replace("[", "\\["))
    return "\n\n".join(told)


def _parameter(name: str, annotation: Any, option: Any, default: Any = None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=Annotated[annotation, option], default=default)


def _setting(setting: Any) -> inspect.Parameter:
    """Make an option; all are absent unless said, so that a preset can tell what was said."""
    kind = str if setting.kind == "file" else setting.kind
    metavar = {"file": "FILE", int: "N", float: "X", str: "TEXT", bool: None}[setting.kind]
    text = setting.help
    if setting.choices:
        words = "|".join(setting.choices)
        metavar = words if len(words) <= 24 else setting.name.upper()
        text += f" ({', '.join(setting.choices)})" if len(words) > 24 and setting.choices[0] not in text else ""
    if setting.required:
        text += " [required]"
    elif setting.default not in (None, False) and "[default" not in text:
        text += f" [default: {shown(setting.default)}]"
    option = typer.Option(
        f"--{setting.name.replace('_', '-')}",
        help=text.replace("[", "\\["),
        metavar=metavar,
        show_default=False,
        show_envvar=False,
        rich_help_panel=HOW,
    )
    return _parameter(setting.name, kind | None, option)


def shown(value: Any) -> str:
    """Write a default as it would be typed.

    >>> shown(1e-05), shown("train")
    ('1e-05', 'train')
    """
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inputs(entry: Any) -> list[inspect.Parameter]:
    made = [
        _parameter(
            "inputs",
            list[str],
            typer.Argument(
                metavar="IN...",
                help=".npy, .npz, .safetensors, .pt; FILE:KEY for one tensor of several; - is stdin (.npy). "
                "Several are a sequence of batches.",
                show_default=False,
            ),
            inspect.Parameter.empty,
        ),
        _parameter(
            "output",
            str | None,
            typer.Option(
                "-o",
                "--output",
                metavar="OUT",
                help="A file; a folder for several IN; - is stdout.",
                show_default=False,
                show_envvar=False,
                rich_help_panel=o.OUTPUT,
            ),
        ),
        _parameter(
            "force",
            bool,
            typer.Option("-f", "--force", help="Overwrite.", show_envvar=False, rich_help_panel=o.OUTPUT),
            False,
        ),
    ]
    if entry.differentiable:
        made.append(
            _parameter(
                "grad",
                list[str] | None,
                typer.Option(
                    metavar="DY",
                    help="Write the gradients for this cotangent, dx, dweight, …; one for each IN.",
                    show_default=False,
                    show_envvar=False,
                    rich_help_panel=o.OUTPUT,
                ),
            )
        )
    if entry.presets:
        made.append(
            _parameter(
                "preset",
                str | None,
                typer.Option(
                    metavar="|".join(entry.presets),
                    help="Whose defaults.",
                    show_default=False,
                    show_envvar=False,
                    rich_help_panel=HOW,
                ),
            )
        )
    return made


def _statistics(entry: Any) -> list[inspect.Parameter]:
    if not entry.stateful:
        return []
    made = [
        _parameter("state", str | None, _file("--state", "Start from these running statistics.")),
        _parameter("save_state", str | None, _file("--save-state", "Write the statistics after the last IN.")),
        _parameter("momentum", str | None, typer.Option(hidden=True)),
    ]
    if entry.recomputable:
        text = "Exact statistics over all IN together, not the moving average (precise batch norm)."
        made.append(
            _parameter(
                "recompute_state",
                bool,
                typer.Option("--recompute-state", help=text, show_envvar=False, rich_help_panel=STATE),
                False,
            )
        )
    return made


def _file(flag: str, text: str) -> Any:
    return typer.Option(flag, metavar="FILE", help=text, show_default=False, show_envvar=False, rich_help_panel=STATE)


def _resources() -> list[inspect.Parameter]:
    limit = typer.Option(
        metavar="SIZE", help="Most memory for tensors, such as 500M or 2G.", show_envvar=False, rich_help_panel=o.RUN
    )
    threads = typer.Option(
        "-j", "--threads", metavar="N", help="0: one per usable processor.", show_envvar=False, rich_help_panel=o.RUN
    )
    shared = {
        "quiet": (o.Quiet, False),
        "verbose": (o.Verbose, 0),
        "log_file": (o.LogFile, None),
        "debug": (o.Debug, False),
    }
    return [
        _parameter("memory_limit", str | None, limit),
        _parameter("threads", int, threads, 0),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in shared.items()
        ),
    ]


def _run(entry: Any, given: dict[str, Any]) -> int:
    """Do what one command line asks for."""
    from normcli.tensor.job import Job, run

    if given.pop("momentum", None) is not None:
        raise UsageError(
            "momentum has two senses: torch's is the weight of the new value (0.1), Keras's and flax's that of the "
            "old one (0.99): say --update-rate, the weight of the new value"
        )
    if given["output"] == "-" and sys.stdout.isatty():
        raise UsageError("stdout is a terminal: give -o FILE, or a pipe")
    said = {s.name: given[s.name] for s in entry.settings if given[s.name] is not None}
    arrays = {s.name for s in entry.settings if s.kind == "file"}
    if given["threads"] < 0:
        raise UsageError(f"threads must be 0 or more, got {given['threads']}")
    lines = run(
        Job(
            normalizer=entry.name,
            inputs=given["inputs"],
            output=given["output"],
            settings={name: value for name, value in said.items() if name not in arrays},
            parameters={name: value for name, value in said.items() if name in arrays},
            preset=given.get("preset"),
            state=given.get("state"),
            save_state=given.get("save_state"),
            recompute_state=given.get("recompute_state", False),
            grad=given.get("grad") or (),
            memory_limit=None if given["memory_limit"] is None else size(given["memory_limit"]),
            threads=given["threads"] or None,
            force=given["force"],
            stdin=sys.stdin.buffer,
            stdout=sys.stdout.buffer,
        )
    )
    if not given["quiet"]:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
    return 0


def size(text: str) -> int:
    """Read a number of bytes with a unit.

    >>> size("1G"), size("500MB"), size("0.5k")
    (1000000000, 500000000, 500)

    Raises:
        UsageError: not a size.
    """
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    plain = text.strip().upper().removesuffix("B")
    number, unit = (plain[:-1], plain[-1]) if plain[-1:] in ("K", "M", "G", "T") else (plain, "")
    try:
        found = int(float(number) * units[unit])
    except (ValueError, OverflowError):
        found = 0
    if found <= 0:
        raise UsageError(f"a size such as 500M or 2G is needed, got {text!r}")
    return found


@app.command()
def compare(
    given: Annotated[str, typer.Argument(metavar="IN", help="A tensor: FILE or FILE:KEY.", show_default=False)],
    requests: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="NAME,...",
            help="Normalizers; settings follow a colon: group_norm:groups=8.",
            show_default=False,
        ),
    ] = "batch_norm,layer_norm,instance_norm,group_norm,rms_norm",
    layout: Annotated[str | None, typer.Option(metavar="NCHW|NHWC|…", help="Order of the axes.")] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Show batch_norm and batch_renorm in train and eval mode, and their gap."),
    ] = None,
    memory_limit: Annotated[str | None, typer.Option(metavar="SIZE", help="Most memory, such as 2G.")] = None,
    json: o.Json = False,
    verbose: o.Verbose = 0,
    log_file: o.LogFile = None,
    debug: o.Debug = False,
) -> int:
    """Show what several normalizers do to the same activations: before, and after each.

    normcli tensor compare x.npy --layout NCHW --with batch_norm,layer_norm,group_norm:groups=8

    normcli tensor compare x.npy --layout NCHW --with batch_norm,batch_renorm --state bn.npz
    """
    from normcli.cli import tables
    from normcli.tensor.compare import compare as rows_of

    limit = None if memory_limit is None else size(memory_limit)
    wanted = [name.strip() for name in requests.split(",") if name.strip()]
    if not wanted:
        raise UsageError("--with names no normalizer")
    rows = rows_of(given, wanted, layout=layout, state=state, memory_limit=limit)
    if json:
        record = {"schema": "normcli/compare/1", "input": given, "rows": [row.record() for row in rows]}
        sys.stdout.write(jsons.dumps(record) + "\n")
        return 0
    header = ["", "mean", "std", "min", "max", "histogram"]
    cells = [
        [r.name, *(tables.number(v) for v in (r.mean, r.std, r.min, r.max)), tables.bars(r.histogram)] for r in rows
    ]
    if any(r.gap for r in rows):
        header.append("train-eval: rms, max")
        for row, line in zip(rows, cells, strict=True):
            line.append("" if row.gap is None else f"{tables.number(row.gap[0])}, {tables.number(row.gap[1])}")
    tables.columns(header, cells)
    return 0
