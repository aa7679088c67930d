"""Commands made from functions: each field of a parameter's group of options becomes a command-line option.

def show(file: Annotated[Path, ...], printing: SummaryOptions, terminal: TerminalOptions) -> int: ...
app = command(show)
"""

import gc
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO, Union, get_args, get_origin

import typer
from typer.models import OptionInfo

from normcli import platforms
from normcli.cli import click, completion, numbers
from normcli.cli.help import Command, show_hidden
from normcli.errors import UsageError
from normcli.options.field import Option, Options
from normcli.options.printing import TerminalOptions

VARIABLE = "NORMCLI_CONFIG"  # names the file; so it sets no option, as `config` of `check`
_NAMES = ("normcli.toml", "pyproject.toml")

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Folders, images, archives, tables, arrays; local or URL.",
        show_default=False,
        callback=platforms.expand_globs,
    ),
]
PANELS = (
    *("Constants", "Input", "Decoding", "Counting", "Estimates", "Normalization", "Output files", "Run", "Output"),
)
TERMINAL_NAMES = frozenset(option.name for option in TerminalOptions.declared.values())
# option -> how its text becomes the value that its class takes
_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "mean": numbers.parse_values,
    "std": numbers.parse_values,
    "clip": numbers.parse_pair,
}


_LONGEST_LINE = 5000  # on stderr: a path may have 4,096 bytes


def _print_all(ctx: typer.Context, asked: bool) -> None:
    if asked:
        show_hidden(ctx.command)
        sys.stdout.write(f"{ctx.get_help()}\n")
        raise typer.Exit


_HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[
        bool, typer.Option("--help-all", is_eager=True, callback=_print_all, help="Show all options and exit.")
    ],
    default=False,
)


class NumberRows(Command):
    """A command whose --mean and --std take as many numbers as follow them: .5 .5 .5 as well as .5,.5,.5."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if numbers.ROWS.isdisjoint(args) else numbers.join_rows(args))


def command(
    function: Callable[..., int],
    *,
    cls: type[Command] | None = None,
    name: str | None = None,
    quick: bool = False,
    arrays: bool = False,
) -> typer.Typer:
    """Return an app of one command that a function describes.

    Args:
        function: takes Typer's annotated arguments and groups of options; its docstring is the help.
        cls: class of the command.
        name: command by which environment variables are named; by default the function's name.
        quick: nothing that it runs writes to the log: it is set up only where an option asks for it.
        arrays: it always computes with NumPy, which is imported before the command's own modules import it: further
            down, its calls cross an end of CPython's stack chunks of 16 KB, each of them mapped and unmapped anew,
            750 times for `stats` and 1,500 for `apply`.
    """
    name = name or function.__name__
    hints = inspect.get_annotations(function, eval_str=False)
    groups = {name: hint for name, hint in hints.items() if _is_group(hint)}
    signature = inspect.signature(function)
    plain = [p.replace(annotation=hints[n]) for n, p in signature.parameters.items() if n not in groups]
    for parameter in plain:
        _name_variables(name, parameter)
    pairs = [pair for group in groups.values() for pair in _parameters(name, group)]
    options = [parameter for _, parameter in sorted(pairs, key=lambda pair: PANELS.index(pair[0]))]
    if any(option.hidden for group in groups.values() for option in group.declared.values()):
        options.append(_HELP_ALL)

    def run(**values: Any) -> int:
        reject_empty(click.get_current_context())
        if arrays:
            import numpy  # noqa: F401
        if not gc.isenabled():
            gc.freeze()  # no module is garbage
            gc.enable()
        objects = {name: _make(group, values) for name, group in groups.items()}
        for group in objects.values():
            if isinstance(group, TerminalOptions) and (not quick or group.verbose or group.log_file is not None):
                configure_log(group)
        return function(**{p.name: values[p.name] for p in plain}, **objects)

    ordered = sorted([*plain, *options], key=lambda p: p.default is not inspect.Parameter.empty)
    run.__doc__ = _joined(function.__doc__ or "")
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in ordered}
    app = typer.Typer(add_completion=False)
    app.command(name=function.__name__.strip("_"), cls=cls or Command)(run)
    return app


def reject_empty(context: click.Context) -> None:
    """Reject empty values, as of -o "$OUT" where that is not set: an empty path would be the current folder.

    Raises:
        UsageError: an empty argument, or an option without a value.
    """
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")  # as text: Typer makes paths of it later
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            argument = (parameter.metavar or parameter.name or "").rstrip(".")
            name = argument if parameter.param_type_name == "argument" else f"`{parameter.name}`"
            raise UsageError(f"{name}: must not be empty (an unset shell variable?)")


def _joined(text: str) -> str:
    """Return a text with one line for each paragraph: the help wraps them to the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Options)


def _make(group: type[Options], values: dict[str, Any]) -> Options:
    """Return the options object of the values on the command line."""
    keywords = {}
    for option in group.declared.values():
        if option.name not in values:
            continue
        value = values[option.name]
        if value is None and _is_tuple(option):
            value = ()
        elif value is not None and option.name in _PARSERS and str not in get_args(option.type):
            value = _PARSERS[option.name](option.name, value)
        keywords[option.name] = value
    if issubclass(group, TerminalOptions):
        keywords |= {
            name: value for name, value in _top_options().items() if keywords.get(name) in (None, False, 0, "auto")
        }
        terminal = object.__new__(group)
        vars(terminal).update(keywords)  # unchecked: Typer has parsed them
        return terminal
    return group(**keywords)


def _top_options() -> dict[str, Any]:
    """Return the terminal options before the command's name."""
    context = click.get_current_context(silent=True)
    return {} if context is None else context.find_root().obj or {}


def _is_tuple(option: Option) -> bool:
    return isinstance(option.default, tuple)


def _parameters(function: str, group: type[Options]) -> Iterator[tuple[str, inspect.Parameter]]:
    """Yield the keyword parameters that Typer turns into options, each with its heading in the help."""
    for option in group.declared.values():
        if not option.cli:
            continue
        kind, settings = _kind(option)
        default = None if _is_tuple(option) else option.default
        yield (
            heading_of(option),
            inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[
                    kind, typer.Option(*flags_of(option), **{**settings, **_shared(function, option)})
                ],
                default=default,
            ),
        )


def _shared(function: str, option: Option) -> dict[str, Any]:
    show_default = option.default not in (None, False, (), 0) and "default" not in option.help
    return {
        "help": option.help.replace("[", "\\["),
        "show_default": show_default,
        "rich_help_panel": heading_of(option),
        "hidden": option.hidden,
        "envvar": variables_of(function, option.name),
        "show_envvar": False,
    }


def heading_of(option: Option) -> str:
    """Return the heading in the help above an option: its own, or that of the class that declares it."""
    return option.panel or str(option.owner.panel)


def _name_variables(command: str, parameter: inspect.Parameter) -> None:
    """Add environment variables to an option that a function declares by itself."""
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
    return [own] if shared == VARIABLE or of_tensor else [own, shared]


def flags_of(option: Option) -> tuple[str, ...]:
    """Return an option's names on the command line."""
    return option.flags or (f"--{option.name.replace('_', '-')}",)


def _kind(option: Option) -> tuple[Any, dict[str, Any]]:
    """Return the type that Typer parses, and the settings that depend on it."""
    if option.name == "verbose":
        return int, {"count": True, "metavar": ""}
    if option.default is False:
        return bool, {}
    settings: dict[str, Any] = {"metavar": option.metavar}
    if option.choices:
        return option.type, {"case_sensitive": False, "metavar": option.metavar or "|".join(option.choices)}
    if option.complete:
        values = option.complete if isinstance(option.complete, tuple) else completion.TABLES[option.complete]
        settings["autocompletion"] = completion.completer(values)
    if _is_tuple(option):
        return list[str] | None, settings
    plain = _plain_type(option.type)
    return (plain if option.default is not None else plain | None), settings


def _plain_type(hint: Any) -> Any:
    """Return the type that Typer parses: int, float or Path if the hint allows no other, else str."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = {part for part in parts if part is not type(None)}
    if kinds in ({int}, {float}, {Path}):
        return kinds.pop()
    if kinds == {int, float}:
        return float
    return str


def require_with(companion: str, present: bool, *names: str) -> None:
    """Check that options on the command line have the companion that they require.

    In the environment and in configuration files such options are allowed: those are for many commands.

    Args:
        companion: the option that they require, for the error.
        present: True if that is there.
        names: names of the options.

    Raises:
        UsageError: an option without its companion.
    """
    for name in names:
        if not present and _is_on_command_line(name):
            raise UsageError(f"`{name}` requires {companion}")


def refuse_with(what: str, *names: str) -> None:
    """Check that no option on the command line would be ignored.

    Args:
        what: the option that they cannot be combined with, for the error.
        names: names of the options.

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


def printable(text: str) -> str:
    r"""Make a name safe to print: control characters and bytes that are no text are escaped.

    >>> print(printable("a\tb"), printable("caf\udce9"))
    a\tb caf\udce9
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(line: str) -> None:
    """Write one line to stderr; bytes of file names that are no text are escaped."""
    encoding = sys.stderr.encoding or "utf-8"
    text = printable(line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 1] + "…")
    text = "\n".join(folded(text, terminal_columns(sys.stderr)))
    sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def folded(text: str, width: int | None) -> list[str]:
    """Return the lines of a text that is broken at spaces alone; those below a name continue below its text.

    Args:
        text: a sentence, or a name and its text, two or more spaces apart.
        width: columns; None is any width.

    >>> folded("note: skipped 1 input: 1 excluded", 20)
    ['note: skipped 1', 'input: 1 excluded']
    >>> folded("  tiff  tifffile not installed", 20)
    ['  tiff  tifffile not', '        installed']
    """
    if width is None or len(text) <= width:
        return [text]
    import textwrap

    name = re.match(r"\s*(\S+\s{2,})?", text)
    indent = " " * (name.end() if name is not None and name.end() < width // 2 else 0)
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def terminal_columns(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None if it has none, and for a file or a pipe, where a sentence is one line."""
    if not stream.isatty():
        return None
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # of a notebook, or a test
        return None


def configure_log(terminal: TerminalOptions) -> None:
    """Send log records to stderr and to the log file of the options.

    Raises:
        OutputError: the log file cannot be opened.
    """
    _log_to_stderr(terminal.verbose)
    if terminal.log_file is not None:
        from normcli.cli.log_file import append_log

        append_log(terminal.log_file)


def _log_to_stderr(verbosity: int) -> None:
    """Write warnings always, settings and timings with -v, details with -vv.

    Compiling kernels takes seconds, once a machine: a terminal shows that record in any case.
    """
    import logging  # 3 ms, which `show` spares

    from normcli.cli.log_format import LogFormatter

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("normcli: %(message)s"))
    least = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    terminal = sys.stderr is not None and sys.stderr.isatty()
    handler.addFilter(
        lambda record: (
            record.levelno >= least
            or (terminal and record.levelno >= logging.INFO and record.name == "normcli.kernels")
        )
    )
    logger = logging.getLogger("normcli")
    logger.setLevel(logging.DEBUG)
    logger.handlers[:] = [handler]


def find_config() -> Path | None:
    """Return the configuration file in force; None if there is none.

    Raises:
        UsageError: NORMCLI_CONFIG names a file that does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        path = Path(named)
        if named and not path.is_file():
            raise UsageError(f"{VARIABLE}: {named} does not exist")
        return path if named else None
    try:
        here = Path.cwd()
    except OSError:  # the current folder was removed
        return None
    for folder in (here, *here.parents):
        for name in _NAMES:
            path = folder / name
            if path.is_file() and (name == "normcli.toml" or b"tool.normcli" in read_config(path)):
                return path
    return None


def read_config(path: Path) -> bytes:
    """Return the bytes of a configuration file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None


def has_defaults() -> bool:
    """Return True if the environment or a configuration file may set options."""
    return any(name.startswith("NORMCLI_") for name in os.environ) or find_config() is not None
