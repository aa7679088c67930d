"""Build the man page and the completion scripts from the commands' own help.

`python docs/manual.py` writes docs/normcli.1 and docs/completion/; a test holds them up to date.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer._completion_shared import get_completion_script

from normcli import __version__
from normcli.cli.main import app

HERE = Path(__file__).parent
SHELLS = {"bash": "normcli.bash", "zsh": "_normcli", "fish": "normcli.fish"}
EXIT_CODES = {
    0: "complete; for check and diff: they fit, nothing moved too far",
    1: "failed; for check and diff: no match, or over the limit",
    2: "wrong usage, or a file that is no statistics file",
    3: "the result is written, and some inputs failed",
    4: "no usable input",
    5: "the output could not be written",
    6: "a server did not answer; trying again may help",
    130: "interrupted (Ctrl-C); 143: terminated; 141: the reader closed the pipe",
}


def build() -> dict[str, str]:
    """Path, relative to docs, and text of every file."""
    files = {"normcli.1": "\n".join(_page()) + "\n"}
    for shell, name in SHELLS.items():
        script = get_completion_script(prog_name="normcli", complete_var="_NORMCLI_COMPLETE", shell=shell)
        files[f"completion/{name}"] = script.rstrip("\n") + "\n"
    return files


def _page() -> Iterator[str]:
    top: Any = typer.main.get_command(app)
    context = typer.Context(top)
    first, *rest = _paragraphs(top.help)
    yield f'.TH NORMCLI 1 "" "normcli {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"normcli \\- {_roff(first.rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield ".B normcli"
    yield "\\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]..."
    yield from _description(rest)
    yield ".SH COMMANDS"
    for name in top.list_commands(context):
        command: Any = top.get_command(context, name)
        inner = typer.Context(command, info_name=name, parent=typer.Context(top, info_name="normcli"))
        words = " ".join(command.collect_usage_pieces(inner))
        yield f".SS normcli {_roff(name)} {_roff(words)}"
        yield from _description(_paragraphs(command.help))
        for parameter in command.params:
            yield from _parameter(parameter, inner)
    yield ".SH EXIT STATUS"
    for code, words in EXIT_CODES.items():
        yield f".TP\n.B {code}\n{_roff(words)}"
    yield ".SH ENVIRONMENT"
    yield ".TP\n.B NO_COLOR, FORCE_COLOR\nno colour, or colour also off the terminal"


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text or "") if part.strip()]


def _description(paragraphs: list[str]) -> Iterator[str]:
    """Paragraphs; those that are commands as examples."""
    for text in paragraphs:
        if re.match(r"(normcli|find) ", text):
            yield f".PP\n.RS\n.EX\n{_roff(text)}\n.EE\n.RE"
        else:
            yield f".PP\n{_roff(text)}"


def _parameter(parameter: Any, context: Any) -> Iterator[str]:
    record = parameter.get_help_record(context)
    if record is None:
        return
    name, words = record
    yield f".TP\n.B {_roff(' '.join(name.split()))}\n{_roff(' '.join(words.split()))}"


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return "\\&" + text if text[:1] in (".", "'") else text


if __name__ == "__main__":
    for path, text in build().items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text)
