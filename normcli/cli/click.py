"""The one place that imports what Typer (below 0.29) keeps private: its copy of Click."""

from typer._click import Command, Context, HelpFormatter
from typer._click.exceptions import ClickException
from typer._click.globals import get_current_context

__all__ = ["ClickException", "Command", "Context", "HelpFormatter", "get_current_context"]
