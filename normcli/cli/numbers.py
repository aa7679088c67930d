"""Numbers on the command line: rows of them after --mean and --std, pairs after --clip."""

from normcli.errors import UsageError


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
