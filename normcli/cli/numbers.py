"""Numbers on the command line: rows of them after --mean and --std, pairs after --clip."""

import re

from normcli.errors import UsageError

_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_NUMBERS = rf"{_NUMBER}(,{_NUMBER})*,?"
ROWS = frozenset(["--mean", "--std"])


def parse_values(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers of --mean or --std.

    Raises:
        UsageError: something that is not a number.
    """
    from normcli.constants.parse_config import as_written

    return tuple(number.value for number in as_written(option, text))


def parse_pair(option: str, text: str) -> tuple[float, float]:
    """Return the two numbers of LO,HI.

    Raises:
        UsageError: not two numbers.
    """
    values = parse_values(option, text)
    if len(values) != 2:
        raise UsageError(f"`{option}`: must be LO,HI, as in 0,1, not {text!r}")
    return values[0], values[1]


def join_rows(arguments: list[str]) -> list[str]:
    """Return arguments with the numbers after --mean and --std made one; a list with commas is one by itself.

    >>> join_rows(["s.json", "--mean", ".4", "-.1", "--std", ".2,.3", "2024"])
    ['s.json', '--mean=.4 -.1', '--std=.2,.3', '2024']
    """
    out: list[str] = []
    row: list[str] = []
    for at, argument in enumerate(arguments):
        # -0 is --null; after .2,.3 the list is complete, and 2024 a folder
        complete = len(row) == 2 and "," in row[1] and not row[1].endswith(",")
        if row and not complete and argument != "-0" and re.fullmatch(_NUMBERS, argument):
            row.append(argument)
            continue
        out += _row(row)
        row = []
        if argument == "--":
            return [*out, *arguments[at:]]
        if argument in ROWS:
            row = [argument]
        else:
            out.append(argument)
    return out + _row(row)


def _row(row: list[str]) -> list[str]:
    return [f"{row[0]}={' '.join(row[1:])}"] if len(row) > 1 else row
