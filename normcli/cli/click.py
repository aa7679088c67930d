"""Imports of Typer's private copy of Click (below 0.29), in one place."""

from typer._click import Command, Context, HelpFormatter, Parameter
from typer._click.core import ParameterSource
from typer._click.exceptions import BadParameter, ClickException
from typer._click.globals import get_current_context

__all__ = [
    "BadParameter",
    "ClickException",
    "Command",
    "Context",
    "HelpFormatter",
    "Parameter",
    "ParameterSource",
    "get_current_context",
]
