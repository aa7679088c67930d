"""Commands made from functions: a parameter whose type is a group of options becomes one command-line option a field.

def show(file: Annotated[Path, ...], printing: SummaryOptions, terminal: TerminalOptions) -> int: ...
app = command(show)
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.models import OptionInfo

from normcli import platforms
from normcli.cli import click, config, numbers
from normcli.cli.messages import configure_log
from normcli.cli.narrow_help import Command
from normcli.errors import UsageError
from normcli.options.field import Options, choices_of, info_of
from normcli.options.printing import TerminalOptions

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Folders, images, archives, tables, arrays; local or URL.",
        show_default=False,
        callback=platforms.expand_globs,
    ),
]
StatisticsFile = Annotated[Path, typer.Argument(metavar="FILE", help="Statistics file; - is stdin.")]

PANELS = (
    *("Constants", "Input", "Decoding", "Counting", "Estimates", "Normalization", "Output files", "Run", "Output"),
)
_EPILOG = "Every command also takes -q, -v, --progress, --log-file and --debug: see normcli --help."
TERMINAL_NAMES = frozenset(f.name for f in fields(TerminalOptions))
# option -> how its text becomes the value that its class takes
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "mean": numbers.parse_values,
    "std": numbers.parse_values,
    "clip": numbers.parse_pair,
}


class NumberRows(Command):
    """A command whose --mean and --std take as many numbers as follow them: .5 .5 .5 as well as .5,.5,.5."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, numbers.joined(args))


def command(function: Callable[..., int], *, cls: type[Command] | None = None, name: str | None = None) -> typer.Typer:
    """Return an app of one command that a function describes.

    Args:
        function: takes Typer's annotated arguments and groups of options; its docstring is the help.
        cls: class of the command.
        name: command by which environment variables are named; by default the function's name.
    """
    name = name or function.__name__
    hints = typing.get_type_hints(function, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if _is_group(hint)}
    signature = inspect.signature(function)
    plain = [p.replace(annotation=hints[n]) for n, p in signature.parameters.items() if n not in groups]
    for parameter in plain:
        _name_variables(name, parameter)
    pairs = [pair for group in groups.values() for pair in _parameters(name, group)]
    options = [parameter for _, parameter in sorted(pairs, key=lambda pair: PANELS.index(pair[0]))]

    def run(**values: Any) -> int:
        objects = {name: _make(group, values) for name, group in groups.items()}
        for group in objects.values():
            if isinstance(group, TerminalOptions):
                configure_log(group)
        return function(**{p.name: values[p.name] for p in plain}, **objects)

    ordered = sorted([*plain, *options], key=lambda p: p.default is not inspect.Parameter.empty)
    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in ordered}
    app = typer.Typer(add_completion=False)
    has_terminal = TerminalOptions in groups.values()
    app.command(name=function.__name__.strip("_"), cls=cls or Command, epilog=_EPILOG if has_terminal else None)(run)
    return app


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Options)


def _make(group: type[Options], values: dict[str, Any]) -> Options:
    """Return the options object of the values that the command line gave."""
    keywords = {}
    hints = typing.get_type_hints(group)
    for f in fields(group):
        if f.name not in values:
            continue
        value = values[f.name]
        if value is None and _is_tuple(f):
            value = ()
        elif value is not None and f.name in _PARSERS and str not in get_args(hints[f.name]):
            value = _PARSERS[f.name](f.name, value)
        keywords[f.name] = value
    if issubclass(group, TerminalOptions):
        keywords |= {
            name: value for name, value in _top_options().items() if keywords.get(name) in (None, False, 0, "auto")
        }
    return group(**keywords)


def _top_options() -> dict[str, Any]:
    """Return the terminal options that stand before the command's name."""
    context = click.get_current_context(silent=True)
    return {} if context is None else context.find_root().obj or {}


def _is_tuple(f: "Field[Any]") -> bool:
    return isinstance(f.default, tuple)


def _parameters(function: str, group: type[Options]) -> Iterator[tuple[str, inspect.Parameter]]:
    """Yield the keyword parameters that Typer turns into options, each with its heading in the help."""
    hints = typing.get_type_hints(group)
    for f in fields(group):
        if not info_of(f).cli:
            continue
        kind, settings = _kind(group, f, hints[f.name])
        default = None if _is_tuple(f) or f.default is MISSING else f.default
        yield (
            panel_of(group, f),
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[kind, typer.Option(*flags_of(f), **{**settings, **_shared(function, group, f)})],
                default=default,
            ),
        )


def _shared(function: str, group: type[Options], f: "Field[Any]") -> dict[str, Any]:
    info = info_of(f)
    show_default = f.default not in (None, False, (), 0) and "default" not in info.help
    return {
        "help": info.help.replace("[", "\\["),
        "show_default": show_default,
        "rich_help_panel": panel_of(group, f),
        "hidden": info.hidden,
        "envvar": variables_of(function, f.name),
        "show_envvar": False,
    }


def panel_of(group: type[Options], f: "Field[Any]") -> str:
    """Return the help's heading of an option: its own, or that of the class that defines it."""
    owner = next(cls for cls in group.__mro__ if f.name in inspect.get_annotations(cls))
    return info_of(f).panel or str(getattr(owner, "panel", Options.panel))


def _name_variables(command: str, parameter: inspect.Parameter) -> None:
    """Let the environment set an option that a function declares by itself."""
    for declared in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(declared, OptionInfo) and declared.envvar is None:
            declared.envvar = variables_of(command, parameter.name)
            declared.show_envvar = False


def variables_of(command: str, name: str) -> list[str]:
    """Return the environment variables that set an option, the more specific one first.

    >>> variables_of("stats", "workers"), variables_of("tensor", "seed")
    (['NORMCLI_STATS_WORKERS', 'NORMCLI_WORKERS'], ['NORMCLI_TENSOR_SEED'])
    """
    shared = f"NORMCLI_{name.upper()}"
    own = f"NORMCLI_{command.strip('_').upper()}_{name.upper()}"
    # a setting of a normalizer is not that of images, though they share names such as `preset`
    of_tensor = command == "tensor" and name not in TERMINAL_NAMES
    return [own] if shared == config.VARIABLE or of_tensor else [own, shared]


def flags_of(f: "Field[Any]") -> tuple[str, ...]:
    """Return an option's names on the command line."""
    return info_of(f).flags or (f"--{f.name.replace('_', '-')}",)


def _kind(group: type[Options], f: "Field[Any]", hint: Any) -> tuple[Any, dict[str, Any]]:
    """Return the type that Typer parses, and the settings that depend on it."""
    info = info_of(f)
    if f.name == "verbose":
        return int, {"count": True, "metavar": ""}
    if f.default is False:
        return bool, {}
    settings: dict[str, Any] = {"metavar": info.metavar}
    choices = choices_of(group).get(f.name)
    if choices is not None:
        return hint, {"case_sensitive": False, "metavar": "|".join(choices)}
    if info.complete:
        settings["autocompletion"] = _completer(info.complete)
    if _is_tuple(f):
        return list[str] | None, settings
    plain = _plain_type(hint)
    return (plain if f.default is not None else plain | None), settings


def _plain_type(hint: Any) -> Any:
    """Return int, float or Path where a value can be nothing else, and str where it is parsed later."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = {part for part in parts if part is not type(None)}
    if kinds in ({int}, {float}, {Path}):
        return kinds.pop()
    if kinds == {int, float}:
        return float
    return str


def _completer(values: str | tuple[str, ...]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        known = values if isinstance(values, tuple) else tuple(_table(values))
        return [value for value in known if value.startswith(incomplete)]

    return complete


def _table(name: str) -> Iterator[str]:
    """Yield the names of a table: presets, conventions, formats."""
    if name == "presets":
        from normcli.constants.presets import PRESETS

        yield from PRESETS
    elif name == "conventions":
        from normcli.summary.remarks import CONVENTIONS

        yield from CONVENTIONS
    else:
        from normcli.constants.exporters import FORMAT_CHOICES

        yield from FORMAT_CHOICES


def require_with(companion: str, present: bool, *names: str) -> None:
    """Check that no option stands on the command line that has no effect without another one.

    In the environment and in configuration files it may stand: those are for many commands.

    Args:
        companion: what the options require, for the error.
        present: whether that is there.
        names: of the options.

    Raises:
        UsageError: an option without its companion.
    """
    for name in names:
        if not present and _is_on_command_line(name):
            raise UsageError(f"`{name}` requires {companion}")


def refuse_with(what: str, *names: str) -> None:
    """Check that no option stands on the command line that would be ignored.

    Args:
        what: what the options cannot be combined with, for the error.
        names: of the options.

    Raises:
        UsageError: one of them.
    """
    for name in names:
        if _is_on_command_line(name):
            raise UsageError(f"`{name}` cannot be combined with {what}")


def _is_on_command_line(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is click.ParameterSource.COMMANDLINE


def check_stdout(**paths: Path | None) -> None:
    """Check that no list of records goes to stdout, which carries the result.

    Raises:
        UsageError: "-" for a file of records.
    """
    for name, path in paths.items():
        if str(path) == "-":
            raise UsageError(f"`{name}` requires a file: stdout carries the result")
