"""Help as plain text: each name before its text, or above it on a terminal below 80 columns.

Typer's own help takes Rich, whose import is 60% of the time of `normcli --help`, and its tables cut long words.
"""

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

from normcli.cli import click

_WIDE = 80  # columns from which on texts have a column of their own
_WIDEST = 120  # columns; longer lines are hard to read
_NAMES = 26  # columns of the longest name that has its text on the same line
_INDENT = 6
_HEADING = "\x1b[1m"
_NAME = "\x1b[1;36m"
_END = "\x1b[0m"


class Command(TyperCommand):
    """A command whose help loses no letter on any terminal; --help-all prints its hidden options too."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        show_hidden(self)
        return super().shell_complete(ctx, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        # Typer puts braces around required arguments: {FILE...}
        return [piece.removeprefix("{").removesuffix("}") for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_help(self, ctx, formatter)


class CommandGroup(TyperGroup):
    """A group of commands whose help loses no letter on any terminal."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_help(self, ctx, formatter)


def has_hidden(command: click.Command) -> bool:
    """Return True if --help prints not all of the options."""
    return any(getattr(parameter, "hidden", False) and getattr(parameter, "help", None) for parameter in command.params)


def show_hidden(command: click.Command) -> None:
    """Make help and completion show the hidden options as well, except those without a text."""
    for parameter in command.params:
        if getattr(parameter, "help", None):
            vars(parameter)["hidden"] = False


def write_help(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the help of a command or group, fitted to the terminal, with color where it has color."""
    from normcli.cli.messages import is_colorful

    ctx.color = is_colorful(sys.stdout)
    columns = shutil.get_terminal_size((_WIDE, 24)).columns
    width = min(columns, _WIDEST)
    usage = " ".join(["Usage:", ctx.command_path, *command.collect_usage_pieces(ctx)])
    lines = [*_wrapped(usage, width)]
    paragraphs = (command.help or "").split("\n\n")
    for paragraph in paragraphs:
        if not is_example(paragraph):
            lines += ["", *_wrapped(paragraph, width)]
    examples = [paragraph for paragraph in paragraphs if is_example(paragraph)]
    if examples:
        lines += ["", _styled("Examples:", _HEADING, ctx)]
        lines += [line for example in examples for line in _wrapped(example, width, 2, _INDENT)]
    for title, rows in _sections(command, ctx).items():
        lines += ["", _styled(f"{title}:", _HEADING, ctx)]
        longest = max(len(name) for name, _ in rows)
        indent = min(longest, _NAMES) + 4 if columns >= _WIDE else _INDENT
        for name, text in rows:
            choices = _wrapped(name.replace("|", "| "), width, 2)  # a list that is too long is broken after a bar
            names, texts = [line.replace("| ", "|") for line in choices], list(_wrapped(text, width, indent))
            if columns >= _WIDE and len(names[-1]) <= indent - 2 and texts:
                texts[0] = _styled(names.pop().ljust(indent), _NAME, ctx) + texts[0][indent:]
            lines += [*(_styled(part, _NAME, ctx) for part in names), *texts]
    if has_hidden(command):
        more = f"`{ctx.command_path} --help-all` lists further options, also -q, -v, --progress and --log-file."
        lines += ["", *_wrapped(more, width)]
    formatter.write("".join(f"{line}\n" for line in lines))


def is_example(paragraph: str) -> bool:
    """Return True if a paragraph of a command's help is a command line."""
    return paragraph.lstrip().startswith(("normcli ", "find "))


def _styled(text: str, style: str, ctx: click.Context) -> str:
    return f"{style}{text}{_END}" if ctx.color else text


def _sections(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Return names and texts by heading, in the order of Typer's help: arguments, options by panel, commands."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in sorted(command.get_params(ctx), key=lambda one: one.name != "help"):
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
            sections.setdefault(panel, []).append(record)
    if isinstance(command, TyperGroup):
        for name in command.list_commands(ctx):
            one = command.get_command(ctx, name)
            panel = getattr(one, "rich_help_panel", None)
            text = "" if one is None else (one.help or "").split("\n\n")[0]
            sections.setdefault(panel if isinstance(panel, str) else "Commands", []).append((name, text))
    return {title: rows for title, rows in sections.items() if rows}


def _wrapped(text: str, width: int, indent: int = 0, below: int | None = None) -> Iterator[str]:
    """Yield lines of at most `width` columns, broken at spaces alone; Rich's escape of a bracket is undone.

    The first has `indent` spaces, those below it `below`, by default as many.
    """
    first, rest = " " * indent, " " * (indent if below is None else below)
    plain = " ".join(text.split()).replace("\\[", "[")
    yield from textwrap.wrap(
        plain, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
