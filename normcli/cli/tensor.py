"""normcli tensor: any in-network normalizer on saved tensors.

The subcommands are made from the normalizers themselves: options from the signature, help from the docstring.
"""

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normcli.cli import click, completion
from normcli.cli.build import command, has_defaults, say
from normcli.cli.help import CommandGroup
from normcli.errors import UsageError, unknown
from normcli.options.printing import TerminalOptions

if TYPE_CHECKING:
    from normcli.tensor.normalizers import Normalizer
    from normcli.tensor.normalizers.registry import Description, Setting

# commands that are no normalizers -> module and function
TOOLS = {
    "compare": ("normcli.cli.tensor_compare", "compare"),
    "diff": ("normcli.cli.tensor_diff", "diff"),
    "identify": ("normcli.cli.tensor_identify", "identify"),
    "list": ("normcli.cli.tensor_list", "list_"),
    "fold": ("normcli.cli.tensor_fold", "fold"),
    "stats": ("normcli.cli.tensor_stats", "stats"),
    "merge": ("normcli.cli.tensor_merge", "merge"),
    "mix": ("normcli.cli.tensor_merge", "mix"),
}
NORMALIZER, STATE, RUN, OUTPUT = "The normalizer", "Running statistics", "Run", "Output"


class TensorCommands(CommandGroup):
    """The commands of the normalizers, each made when it is asked for; the registry needs NumPy but no Numba."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return command_of(cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in TOOLS:
            from normcli.tensor.normalizers import NORMALIZERS

            known = [name.replace("_", "-") for name in NORMALIZERS]
            if (normalizer := args[0].replace("_", "-")) not in known:
                raise unknown("normalizer or command", normalizer, [*TOOLS, *known])
        name, subcommand, rest = super().resolve_command(ctx, args)
        if subcommand is not None and not ctx.resilient_parsing and has_defaults():
            from normcli.cli.defaults import of_tensor_command

            ctx.default_map = {str(name): of_tensor_command(args[0].replace("_", "-"), subcommand)}
        return name, subcommand, rest


def names() -> list[str]:
    """Return the names of the commands: the tools, and the normalizers in the order of their families."""
    from normcli.tensor import catalog

    return [*TOOLS, *(name for name, _, _ in catalog.rows())]


def command_of(name: str) -> click.Command | None:
    """Return a command; None for an unknown name."""
    if name in TOOLS:
        module, function = TOOLS[name]
        return typer.main.get_command(command(getattr(importlib.import_module(module), function), name="tensor"))
    from normcli.tensor.normalizers import NORMALIZERS

    one = NORMALIZERS.get(name.replace("-", "_"))
    return None if one is None else _command(one)


app = typer.Typer(cls=TensorCommands, add_completion=False, invoke_without_command=True)


@app.callback()
def tensor(context: typer.Context) -> None:
    """Apply a normalizer of neural networks to saved tensors.

    normcli list normalizers

    normcli tensor list net.pt

    normcli tensor group-norm x.npy --layout NCHW --groups 8 -o y.npy

    normcli tensor batch-norm batch-*.npy --layout NCHW -o out/ --save-state bn.npz

    normcli tensor batch-norm x.npy --layout NCHW --mode eval --state bn.npz -o y.npy
    """
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit


def _command(one: "Normalizer") -> click.Command:
    """Make the command of one normalizer."""
    from normcli.tensor.catalog import FAMILIES
    from normcli.tensor.normalizers.registry import describe

    text = describe(one)

    def normalize(*, terminal: TerminalOptions, **values: Any) -> int:
        return _normalize_files(one, text, values, terminal)

    parameters = [*_files(one), *map(_setting, text.settings), *_statistics(one), *_resources()]
    normalize.__name__ = one.name
    normalize.__doc__ = _help(text)
    normalize.__signature__ = inspect.Signature([*parameters, _TERMINAL])  # type: ignore[attr-defined]
    normalize.__annotations__ = {p.name: p.annotation for p in (*parameters, _TERMINAL)}
    group_command = typer.main.get_command(command(normalize, name="tensor"))
    group_command.name = one.name.replace("_", "-")
    group_command.rich_help_panel = FAMILIES[one.family]  # type: ignore[attr-defined]
    return group_command


def _help(text: "Description") -> str:
    titles = (title for title in ("Formula", "Axes", "State", "Torch", "Paper") if title in text.sections)
    return "\n\n".join([text.summary, *(f"{title}: {text.sections[title]}".replace("[", "\\[") for title in titles)])


def _parameter(name: str, annotation: Any, option: Any, default: Any = None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=Annotated[annotation, option], default=default)


_TERMINAL = inspect.Parameter("terminal", inspect.Parameter.KEYWORD_ONLY, annotation=TerminalOptions)


def _option(
    *flags: str, help: str, panel: str, metavar: str | None = None, choices: tuple[str, ...] | None = None
) -> Any:
    return typer.Option(
        *flags,
        help=help,
        metavar=metavar,
        show_default=False,
        show_envvar=False,
        rich_help_panel=panel,
        autocompletion=_completer(tuple(choices)) if choices else None,
    )


def _completer(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a function that completes these choices; nothing is prepared before a shell asks."""
    return lambda incomplete: completion.completer(choices)(incomplete)


def _setting(setting: "Setting") -> inspect.Parameter:
    """Make an option without a default: a preset has to know which options were set."""
    from normcli.tensor.normalizers.registry import format_default

    kind: Any = str if setting.kind == "file" else setting.kind
    metavar = {"file": "FILE", int: "N", float: "X", str: "TEXT", bool: None}[setting.kind]
    text = _sentence(setting.help)
    if setting.choices:
        choices = "|".join(setting.choices)
        metavar = choices if len(choices) <= 24 else setting.name.upper()
        text += f" ({', '.join(setting.choices)})" if len(choices) > 24 and setting.choices[0] not in text else ""
    if setting.required:
        text += " [required]"
    elif setting.default not in (None, False) and "[default" not in text:
        text += f" [default: {format_default(setting.default)}]"
    flag = f"--{setting.name.replace('_', '-')}"
    option = _option(flag, help=text.replace("[", "\\["), panel=NORMALIZER, metavar=metavar, choices=setting.choices)
    return _parameter(setting.name, kind | None, option)


def _sentence(text: str) -> str:
    """Return the description of a parameter as a sentence; a default in brackets stays behind it.

    >>> _sentence("number of groups [default: 32]")
    'Number of groups. [default: 32]'
    """
    body, bracket, default = text.partition(" [default")
    return body[:1].upper() + body[1:] + "." * (not body.endswith(".")) + bracket + default


def _files(one: "Normalizer") -> list[inspect.Parameter]:
    """Make the parameters for inputs and outputs."""
    inputs = typer.Argument(
        metavar="IN...",
        help="Files and folders of tensors: .npy, .npz, .safetensors, .pt, .index.json; FILE:KEY for one tensor, "
        "'FILE:*.weight' for some of them, of which the rest passes through unchanged; - is stdin (.npy). "
        "Several files are a sequence of batches, and so are the tensors of one file, in natural order: b2 before b10.",
        show_default=False,
    )
    output = _option(
        "-o", "--output", metavar="OUT", panel=OUTPUT, help="Output file; a folder for several IN; - is stdout."
    )
    force = _option("-f", "--force", panel=OUTPUT, help="Overwrite output files that exist.")
    least = _option(
        metavar="N",
        panel=RUN,
        help="Normalize only the tensors of a file that have N or more axes; the rest passes through unchanged."
        + " [default: 2]".replace("[", "\\[") * (one.family == "weight"),
    )
    parameters = [
        _parameter("inputs", list[str], inputs, inspect.Parameter.empty),
        _parameter("output", str | None, output),
        _parameter("force", bool, force, False),
        _parameter("min_rank", int | None, least),
    ]
    if one.vjp is not None:
        text = "Write the gradients dx, dweight, … for this cotangent in place of the result; one for each IN."
        parameters.append(_parameter("grad", list[str] | None, _option(metavar="DY", panel=OUTPUT, help=text)))
    if one.statistics is not None:
        names = " and ".join(one.statistic_names)
        text = f"Write the statistics of IN to FILE: {names}, in float64."
        parameters.append(_parameter("save_statistics", str | None, _option(metavar="FILE", panel=OUTPUT, help=text)))
    if one.presets:
        text = "Framework whose default settings to use."
        preset = _option(metavar="|".join(one.presets), panel=NORMALIZER, help=text, choices=tuple(one.presets))
        parameters.append(_parameter("preset", str | None, preset))
    return parameters


def _statistics(one: "Normalizer") -> list[inspect.Parameter]:
    """Make the parameters for running statistics."""
    if not one.state:
        return []
    state = _option(
        "--state",
        metavar="FILE",
        panel=STATE,
        help="Start from the running statistics in FILE; FILE:PREFIX, such as net.pt:layer1.0.bn1., is a layer of a "
        "checkpoint with its weight and bias.",
    )
    save = _option(
        "--save-state",
        metavar="FILE",
        panel=STATE,
        help="Write the statistics after the last IN to FILE; after --state FILE:PREFIX, a copy of the checkpoint.",
    )
    parameters = [
        _parameter("state", str | None, state),
        _parameter("save_state", str | None, save),
        _parameter("momentum", str | None, typer.Option(hidden=True)),
    ]
    if one.exact is not None or "update_rate" in one.settings:
        text = (
            "Compute exact statistics over all IN together in place of the moving average (precise batch norm)."
            if one.exact is not None
            else "Compute the mean of the statistics of every IN in place of the moving average (precise batch norm)."
        )
        recompute = _option("--recompute-state", panel=STATE, help=text)
        parameters.append(_parameter("recompute_state", bool, recompute, False))
    return parameters


def _resources() -> list[inspect.Parameter]:
    limit = _option(metavar="SIZE", panel=RUN, help="Largest amount of memory for tensors, such as 500M or 2G.")
    threads = _option(
        "-j", "--threads", metavar="N", panel=RUN, help="Number of threads; 0 is one per usable processor (default)."
    )
    return [_parameter("memory_limit", str | None, limit), _parameter("threads", int, threads, 0)]


def _normalize_files(one: "Normalizer", text: "Description", values: dict[str, Any], terminal: TerminalOptions) -> int:
    """Normalize the files of a command line."""
    from normcli.tensor.job import Job, run_job

    if values.pop("momentum", None) is not None:
        raise UsageError(
            "--momentum is ambiguous: the weight of the new value in torch (0.1), of the old one in Keras and flax "
            "(0.99); use --update-rate, the weight of the new value"
        )
    if values["output"] == "-" and sys.stdout.isatty():
        raise UsageError("stdout is a terminal (use -o FILE, or a pipe)")
    if values["threads"] < 0:
        raise UsageError(f"--threads: must be 0 (one per CPU) or more, not {values['threads']}")
    settings = {s.name: values[s.name] for s in text.settings if values[s.name] is not None}
    arrays = {s.name for s in text.settings if s.kind == "file"}
    job = Job(
        normalizer=one.name,
        inputs=values["inputs"],
        output=values["output"],
        settings={name: value for name, value in settings.items() if name not in arrays},
        parameters={name: value for name, value in settings.items() if name in arrays},
        preset=values.get("preset"),
        state=values.get("state"),
        save_state=values.get("save_state"),
        save_statistics=values.get("save_statistics"),
        recompute_state=values.get("recompute_state", False),
        grad=values.get("grad") or (),
        min_rank=values["min_rank"],
        memory_limit=parse_limit(values["memory_limit"]),
        threads=values["threads"] or None,
        force=values["force"],
        stdin=sys.stdin.buffer,
        stdout=sys.stdout.buffer,
    )
    with without_numpy_warnings():
        report = run_job(job)
    for line in report.lines:
        if not terminal.quiet or line.startswith("warning: "):
            say(line)
    return 0 if report.complete else 3


@contextmanager
def without_numpy_warnings() -> Iterator[None]:
    """Suppress NumPy's warnings of overflow and empty means: the notes count values that are not finite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def parse_limit(size: str | None) -> int | None:
    """Return a size such as 2G in bytes."""
    if size is None:
        return None
    from normcli.options.field import parse_size

    return parse_size("memory_limit", size)
