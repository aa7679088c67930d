"""Imports of Typer's private copy of Click (below 0.29), in one place."""

from typer import _completion_classes as completion_classes
from typer._click import Command, Context, HelpFormatter, Parameter
from typer._click.core import ParameterSource
from typer._click.exceptions import BadParameter, ClickException
from typer._click.globals import get_current_context
from typer._completion_shared import _completion_scripts as completion_scripts

__all__ = [
    "BadParameter",
    "ClickException",
    "Command",
    "Context",
    "HelpFormatter",
    "Parameter",
    "ParameterSource",
    "completion_classes",
    "completion_scripts",
    "get_current_context",
]
