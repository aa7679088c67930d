"""The line of an error that the parser of the command line raises."""

import re

from normcli.cli import click
from normcli.options.field import nearest


def describe_usage_error(error: click.ClickException) -> str:
    """Return one line: the command, the problem, and the nearest name or the command that prints the help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "normcli"
    text = " ".join(error.format_message().split()).removesuffix(".")
    if near := getattr(error, "possibilities", None):  # of an unknown option: the nearest one first
        text = f"{error.message}: did you mean {near[0]}?"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        text = _describe_value(error, error.param) or text
    return f"{command}: {text}" + ("" if "did you mean" in text else f" (see: {command} --help)")


def _describe_value(error: click.BadParameter, parameter: click.Parameter) -> str | None:
    """Return the message for a value that is no choice or no number; None for other errors."""
    match = re.match(r"'(.*)' is not (one of|a valid int|a valid float)", error.message, re.DOTALL)
    if match is None:
        return None
    value, kind = match.groups()
    choices = [str(choice) for choice in getattr(parameter.type, "choices", ())]
    rule = {"a valid int": "an integer", "a valid float": "a number"}.get(kind, f"one of {', '.join(choices)}")
    name = max(parameter.opts, key=len) if parameter.opts else parameter.name
    return f"{name}: must be {rule}, not {value!r}{nearest(value, choices)}"
