"""Help for terminals below 80 columns, where the tables of Typer's help would cut long words."""

import shutil
import textwrap
from collections.abc import Iterator

from typer.core import TyperCommand, TyperGroup

from normcli.cli import click

_WIDE = 80  # columns from which on no word of any help is cut (test_terminal)
_INDENT = 6


def is_narrow() -> bool:
    """Return True if the terminal is too narrow for tables with three columns of text."""
    return shutil.get_terminal_size((_WIDE, 24)).columns < _WIDE


class Command(TyperCommand):
    """A command whose help loses no letter on a narrow terminal."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if is_narrow():
            write_help(self, ctx, formatter)
        else:
            super().format_help(ctx, formatter)


class CommandGroup(TyperGroup):
    """A group of commands whose help loses no letter on a narrow terminal."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if is_narrow():
            write_help(self, ctx, formatter)
        else:
            super().format_help(ctx, formatter)


def write_help(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the help of a command or group as plain text."""
    width = shutil.get_terminal_size((_WIDE, 24)).columns
    usage = " ".join(["Usage:", ctx.command_path, *command.collect_usage_pieces(ctx)])
    lines = [*_wrapped(usage, width)]
    for paragraph in (command.help or "").split("\n\n"):
        lines += ["", *_wrapped(paragraph, width)]
    for title, rows in _sections(command, ctx).items():
        lines += ["", f"{title}:"]
        for name, text in rows:
            lines += [*_wrapped(name, width, 2), *_wrapped(text, width, _INDENT)]
    if command.epilog:
        lines += ["", *_wrapped(command.epilog, width)]
    formatter.write("".join(f"{line}\n" for line in lines))


def _sections(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Return names and texts by heading, in the order of Typer's help: arguments, options by panel, commands."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for parameter in command.get_params(ctx):
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


def _wrapped(text: str, width: int, indent: int = 0) -> Iterator[str]:
    """Yield lines of at most `width` columns, broken at spaces alone; Rich's escape of a bracket is undone."""
    space = " " * indent
    plain = " ".join(text.split()).replace("\\[", "[")
    yield from textwrap.wrap(
        plain, width, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
    )
