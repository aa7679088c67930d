"""The lines of the log on the command line."""

import logging

from normcli.errors import on_command_line


class LogFormatter(logging.Formatter):
    """A formatter that names options, where messages name parameters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return on_command_line(super().format(record))
