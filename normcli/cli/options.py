"""Options of `tensor`, whose commands are made from the normalizers' signatures."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from normcli.cli import logs
from normcli.options.printing import TerminalOptions

RUN, OUTPUT = "Run", "Output"
Quiet = Annotated[
    bool, typer.Option("-q", "--quiet", help="Suppress notes; errors are still printed.", rich_help_panel=OUTPUT)
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        callback=lambda count: _log(TerminalOptions(verbose=count), count),
        is_eager=True,
        metavar="",
        hidden=True,
        help="Log settings and timings to stderr; -vv adds details.",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=lambda path: path and _log(TerminalOptions(log_file=path), path),
        hidden=True,
        help="Append the log to FILE.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.", hidden=True)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=OUTPUT)]
T = TypeVar("T")


def _log(terminal: TerminalOptions, value: T) -> T:
    logs.configure(terminal)
    return value
