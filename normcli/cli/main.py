"""The top command: finds commands on demand, and turns every way out of one into a line and an exit code."""

import errno
import importlib
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperCommand

from normcli.cli import click, defaults
from normcli.cli.build import flags_of, has_defaults, reject_empty, say
from normcli.cli.defaults import COMMANDS as COMMANDS
from normcli.cli.help import CommandGroup
from normcli.errors import NormcliError, UsageError, on_command_line, unknown
from normcli.options.printing import TerminalOptions


class _Terminated(KeyboardInterrupt):
    """SIGTERM: stop as for Ctrl-C, but exit 143."""


class _Commands(CommandGroup):
    """The top command: finds its subcommands by importing them on demand, and lists them without importing any."""

    _listing = False

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._listing = True  # making all commands takes 50 ms
        super().format_help(ctx, formatter)
        self._listing = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        if self._listing:
            return TyperCommand(cmd_name, help=summary_of(cmd_name))
        if cmd_name not in self.commands:
            command = typer.main.get_command(importlib.import_module(module).app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        if not ctx.resilient_parsing and has_defaults():
            ctx.default_map = {cmd_name: defaults.of_command(cmd_name, self.commands[cmd_name])}
        return self.commands[cmd_name]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            if args[0] in ("help", "version"):
                raise UsageError(f"unknown command {args[0]!r}: did you mean --{args[0]}?")
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # before typer turns it into exit 1
            _forget_stdout()
            return 141
        except _Terminated:
            return 143
        except KeyboardInterrupt:
            return 130


def summary_of(name: str) -> str:
    """Return the first paragraph of a command's help, from the text of its module."""
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    match = re.search(rf'^def {name}_?\(.*?"""(.+?)(?:\n\n|""")', text, re.MULTILINE | re.DOTALL)
    return "" if match is None else match[1]


app = typer.Typer(
    cls=_Commands,
    name="normcli",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from normcli import __version__

        sys.stdout.write(f"normcli {__version__}\n")
        raise typer.Exit


def _terminal_option(name: str) -> Any:
    """Return a Typer option of `TerminalOptions`; every command takes it after its name as well."""
    described = TerminalOptions.declared[name]
    choices = described.choices
    return typer.Option(
        *flags_of(described),
        help=described.help,
        metavar="|".join(choices) if choices else "" if name == "verbose" else described.metavar,
        envvar=f"NORMCLI_{name.upper()}",
        show_envvar=False,
        show_default=bool(choices),
        rich_help_panel="Every command",
        count=name == "verbose",
    )


@app.callback()
def _top(
    context: typer.Context,
    quiet: Annotated[bool, _terminal_option("quiet")] = False,
    verbose: Annotated[int, _terminal_option("verbose")] = 0,
    progress: Annotated[Literal["auto", "always", "never"], _terminal_option("progress")] = "auto",
    log_file: Annotated[Path | None, _terminal_option("log_file")] = None,
    debug: Annotated[bool, _terminal_option("debug")] = False,
    version: bool = typer.Option(
        False, "-V", "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Compute exact dataset mean and std, and normalize images and tensors.

    normcli stats photos/ -o stats.json

    normcli show stats.json
    """
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        raise typer.Exit
    reject_empty(context)
    if not quiet and has_defaults():
        for line in defaults.unknown_variables(context.invoked_subcommand):
            say(f"note: {line}")
    context.obj = {"quiet": quiet, "verbose": verbose, "progress": progress, "log_file": log_file, "debug": debug}


def _forget_stdout() -> None:
    """Redirect stdout to nothing, so that the interpreter's last flush does not fail on the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _replace_closed_streams() -> None:
    """Replace streams that were closed (`>&-`), which are None in Python: stdin is empty, writing to stdout fails."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # block characters on an ASCII stdout
    if sys.stdout is None:
        sys.stdout = open(os.devnull)  # noqa: PTH123, SIM115 - for reading, so that a result cannot vanish
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115


def _on_sigterm(signum: int, frame: FrameType | None) -> NoReturn:
    _leave_at_the_next()
    raise _Terminated


def _on_sigint(signum: int, frame: FrameType | None) -> NoReturn:
    _leave_at_the_next()
    raise KeyboardInterrupt


def _leave_at_the_next() -> None:
    """End the process at once when a second signal arrives while the first is being answered."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))


def _debugging(arguments: Sequence[str]) -> bool:
    return "--debug" in arguments


_SPARE = [bytes(4 << 20)]  # address space, never touched, for the line that reports that there is none left


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    """Ignore a lack of memory while something is tidied up: the error that led there has its line."""
    if found.exc_type is not MemoryError:
        sys.__unraisablehook__(found)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _on_sigterm)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in a shell's background it is ignored
        signal.signal(signal.SIGINT, _on_sigint)
    _replace_closed_streams()
    sys.unraisablehook = _unraisable
    try:
        code = app(arguments, prog_name="normcli", standalone_mode=False)
    except click.ClickException as error:
        from normcli.cli.usage_errors import describe_usage_error

        _complain(describe_usage_error(error))
        return 2
    except NormcliError as error:
        if _debugging(arguments):
            traceback.print_exc()
        short = shortage(error.__cause__) if error.__cause__ is not None and error.exit_code == 1 else None
        _complain(f"normcli: {short or on_command_line(_one_line(str(error)))}")
        return error.exit_code
    except SystemExit as end:  # of completion, which Click ends itself; 1 where nobody reads the help any more
        return 0 if end.code in (None, 0) else 1 if os.environ.get("_NORMCLI_COMPLETE") else 141
    except (BrokenPipeError, KeyboardInterrupt) as error:
        _forget_stdout()
        return 141 if isinstance(error, BrokenPipeError) else 143 if isinstance(error, _Terminated) else 130
    except OSError as error:  # what the commands did not foresee: closed or full stdout
        if _debugging(arguments):
            traceback.print_exc()
        if (short := shortage(error)) is not None:
            _complain(f"normcli: {short}")
            return 1
        if isinstance(error, FileNotFoundError) and not _has_current_folder():
            _complain("normcli: the current folder was removed: change to another one")
            return 1
        closed = isinstance(error, io.UnsupportedOperation) or error.errno == errno.EBADF  # `>&-`
        problem = "stdout is closed" if closed else _one_line(error.strerror or str(error)).lower()
        _complain(f"normcli: cannot write: {problem}")
        _forget_stdout()
        return 5
    except Exception as error:
        _SPARE.clear()
        reason = _reason_of(error)
        if _debugging(arguments):
            traceback.print_exc()
        if (short := shortage(reason)) is not None:
            _complain(f"normcli: {short}")
            return 1
        if isinstance(reason, ImportError):  # its disk fails, or the installation is not complete
            _complain(f"normcli: cannot load {reason.name or 'a module'}: {_one_line(str(reason))}")
            return 1
        _complain(f"normcli: internal error: {type(reason).__name__}: {_one_line(str(reason))} (--debug shows where)")
        return 1
    if code in (130, 143):
        # readers may still be inside a decoder or a slow file system: leave without waiting for them
        os._exit(code)
    return int(code or 0)


def _reason_of(error: Exception) -> Exception:
    late_imports = sys.modules.get("normcli.late_imports")  # where it is not loaded, no thread has imported anything
    return error if late_imports is None else late_imports.reason_of(error) or error


def shortage(error: BaseException) -> str | None:
    """Return the resource that the machine ran out of, if an error means that; else None.

    >>> shortage(RuntimeError("can't start new thread"))
    'no room for another thread (raise ulimit -v or -u, or use fewer --workers)'
    """
    text = str(error)
    loading = isinstance(error, ImportError)  # a library that does not find room, and NumPy's has 20 lines
    if isinstance(error, RuntimeError) and "start new thread" in text:
        return "no room for another thread (raise ulimit -v or -u, or use fewer --workers)"
    is_file_error = isinstance(error, OSError) and error.errno in (errno.ENFILE, errno.EMFILE)
    if is_file_error or (loading and "Too many open files" in text):
        return "too many open files (ulimit -n)"
    words = "failed to map|allocate memory|C-extensions failed|shared object file(?!: No such)"
    unloaded = (loading or isinstance(error, OSError)) and re.search(words, text)
    if isinstance(error, MemoryError) or unloaded or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "not enough memory (raise ulimit -v or the container's limit, or use fewer --workers)"
    return None


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())  # noqa: PTH109
    except OSError:
        return False


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _complain(line: str) -> None:
    try:
        from normcli.cli.build import say
    except (OSError, ImportError, MemoryError, SystemError):  # nothing is left, not even for one of normcli's modules
        with suppress(OSError):
            os.write(2, f"{line}\n".encode("ascii", "backslashreplace"))
        return
    with suppress(OSError, ValueError):  # stderr is full or closed: the exit code remains
        say(line)
