"""Numbers on the command line: rows of them behind --mean and --std, and levels."""

import re
from typing import TYPE_CHECKING

from typer import _click as click
from typer.core import TyperCommand

from normcli.errors import UsageError

if TYPE_CHECKING:
    from normcli.constants.parse_config import Number

_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_NUMBERS = re.compile(rf"{_NUMBER}(,{_NUMBER})*,?")
_ROWS = ("--mean", "--std")


class Rows(TyperCommand):
    """A command whose --mean and --std take as many numbers as follow them: .5 .5 .5 as well as .5,.5,.5."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined(args))


def joined(arguments: list[str]) -> list[str]:
    """Make one argument of the numbers that follow --mean and --std; a list with commas is one by itself.

    >>> joined(["s.json", "--mean", ".4", "-.1", "--std", ".2,.3", "2024"])
    ['s.json', '--mean=.4 -.1', '--std=.2,.3', '2024']
    """
    out: list[str] = []
    row: list[str] = []
    for at, argument in enumerate(arguments):
        # -0 is --null; after .2,.3 the list is complete, and 2024 a folder
        complete = len(row) == 2 and "," in row[1] and not row[1].endswith(",")
        if row and not complete and argument != "-0" and _NUMBERS.fullmatch(argument):
            row.append(argument)
            continue
        out += _row(row)
        row = []
        if argument == "--":
            return [*out, *arguments[at:]]
        if argument in _ROWS:
            row = [argument]
        else:
            out.append(argument)
    return out + _row(row)


def _row(row: list[str]) -> list[str]:
    return [f"{row[0]}={' '.join(row[1:])}"] if len(row) > 1 else row


def parse(option: str, text: str) -> "tuple[Number, ...]":
    """Read --mean or --std.

    Raises:
        UsageError: something in it is no number.
    """
    from normcli.constants import parse_config

    try:
        return parse_config.numbers([text])
    except UsageError as error:
        raise UsageError(f"--{option}: {error}; give numbers, as in .485,.456,.406 or .485 .456 .406") from None


def white(text: str) -> int | None:
    """Read `--range`.

    Raises:
        UsageError: neither "auto" nor a whole number.
    """
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"range {text!r}: give auto, 255, 4095, 65535 or another whole number") from None
