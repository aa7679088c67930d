"""The line of an error that the parser of the command line raises."""

import difflib
import re

from normcli.cli import click
from normcli.options.field import nearest


def describe_usage_error(error: click.ClickException) -> str:
    """Return one line: the command, the problem, and the nearest name or the command that prints the help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "normcli"
    text = " ".join(error.format_message().split()).removesuffix(".")
    if getattr(error, "possibilities", None):  # of an unknown option
        near = _nearest_option(error)
        text = f"{error.message}: did you mean {near}?" if near else error.message
    elif isinstance(error, click.BadParameter) and error.param is not None:
        rule = describe_value(error, error.param)
        text = text if rule is None else f"{_name_of(error.param)}: {rule}"
    return f"{command}: {text}" + ("" if "did you mean" in text else f" (see: {command} --help)")


def _nearest_option(error: click.ClickException) -> str | None:
    """Return the option that an unknown one is nearest to, if one is near without its dashes, which all have."""
    wrong = str(getattr(error, "option_name", "")).lstrip("-")
    known = {option.lstrip("-"): option for option in getattr(error, "possibilities", None) or ()}
    return next((known[name] for name in difflib.get_close_matches(wrong, known, 1)), None)


def describe_value(error: click.BadParameter, parameter: click.Parameter) -> str | None:
    """Return what a value must be, for choices, numbers and switches, and the nearest choice; None for others."""
    match = re.match(r"'(.*)' is not (one of|a valid int|a valid float|a valid boolean)", error.message, re.DOTALL)
    if match is None:
        return None
    value, kind = match.groups()
    choices = [str(choice) for choice in getattr(parameter.type, "choices", ())]
    listed = f"one of {', '.join(choices)}"
    rules = {"a valid int": "an integer", "a valid float": "a number", "a valid boolean": "true or false"}
    return f"must be {rules.get(kind) or listed}, not {value!r}{nearest(value, choices)}"


def _name_of(parameter: click.Parameter) -> str:
    return max(parameter.opts, key=len) if parameter.opts else str(parameter.name)
