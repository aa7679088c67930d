"""Build the man page, the completion scripts and the reference of options from the commands' own help.

`python docs/manual.py` writes docs/normcli.1, docs/completion/, docs/options.md and, where griffe is installed (the
dependency group `docs`), docs/api.md; a test checks that they are up to date.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer._completion_shared import get_completion_script

from normcli import __version__
from normcli.cli.build import PANELS, TERMINAL_NAMES, flags_of, heading_of
from normcli.cli.defaults import VARIABLES
from normcli.cli.help import is_example, show_hidden
from normcli.cli.main import app
from normcli.options.apply import ApplyOptions, RestoreOptions, VerifyOptions
from normcli.options.field import Options, choices_of, options_of
from normcli.options.stats import StatsOptions

HERE = Path(__file__).parent
COMMANDS: dict[str, type[Options]] = {
    "stats": StatsOptions,
    "apply": ApplyOptions,
    "restore": RestoreOptions,
    "verify": VerifyOptions,
}
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


ENVIRONMENT = {
    "NORMCLI_OPTION": "default of an option for every command, such as NORMCLI_WORKERS=4",
    "NORMCLI_COMMAND_OPTION": "default of an option for one command, such as NORMCLI_STATS_WORKERS=4",
    **VARIABLES,
}
FILES = {
    "normcli.toml, pyproject.toml": "defaults of options, at the top or below [tool.normcli]; tables such as "
    "[stats] or [tool.normcli.stats] hold those of one command; the nearest file above the current folder is read, "
    "and `normcli env` prints it with the settings in force",
    "OUTPUT.checkpoint": "progress of `stats --resume`, removed when the run completes",
    "OUTPUT.cache": "per-file results of `stats --incremental`",
}


def build() -> dict[str, str]:
    """Return the text of every generated file by its path, relative to docs."""
    files = {"normcli.1": "\n".join(_page()) + "\n", "options.md": "\n".join(_options()) + "\n"}
    for shell, name in SHELLS.items():
        script = get_completion_script(prog_name="normcli", complete_var="_NORMCLI_COMPLETE", shell=shell)
        files[f"completion/{name}"] = script.rstrip("\n") + "\n"
    if importlib.util.find_spec("griffe") is not None:
        sys.path.insert(0, str(HERE))
        import api_reference

        files["api.md"] = api_reference.build()
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
    yield ".SH OPTIONS"
    for parameter in top.params:
        yield from _parameter(parameter, context)
    yield ".SH COMMANDS"
    for name in top.list_commands(context):
        command: Any = top.get_command(context, name)
        inner = typer.Context(command, info_name=name, parent=typer.Context(top, info_name="normcli"))
        words = " ".join(command.collect_usage_pieces(inner))
        yield f".SS normcli {_roff(name)} {_roff(words)}"
        yield from _description(_paragraphs(command.help))
        show_hidden(command)
        for parameter in command.params:
            if parameter.name not in TERMINAL_NAMES:  # they stand once, at the top
                yield from _parameter(parameter, inner)
    yield ".SH EXIT STATUS"
    for code, words in EXIT_CODES.items():
        yield f".TP\n.B {code}\n{_roff(words)}"
    yield ".SH ENVIRONMENT"
    for name, text in ENVIRONMENT.items():
        yield f".TP\n.B {name}\n{_roff(text)}"
    yield ".SH FILES"
    for name, text in FILES.items():
        yield f".TP\n.B {_roff(name)}\n{_roff(text)}"


def _options() -> Iterator[str]:
    """Yield the lines of the reference of options."""
    yield "# Options"
    yield ""
    yield "Made by `python docs/manual.py` from `normcli.options`; do not edit by hand."
    yield ""
    yield "The Python keyword is the name with underscores: `--group-by` is `group_by=`. The environment variable is"
    yield "`NORMCLI_GROUP_BY`, or `NORMCLI_STATS_GROUP_BY` for one command; the key in `[tool.normcli]` is `group_by`."
    yield "`--help` prints the options of daily use, and `--help-all` all of these."
    for command, group in COMMANDS.items():
        yield f"\n## normcli {command}"
        yield ""
        yield "| option | value | default | meaning |"
        yield "|---|---|---|---|"
        shown = [f for f in options_of(group) if f.cli]
        for f in sorted(shown, key=lambda f: PANELS.index(heading_of(f))):
            choices = choices_of(group).get(f.name)
            value = f.metavar or "|".join(choices or ())
            default = "" if f.default in (None, False, ()) else f"`{f.default}`"
            flags = " ".join(f"`{flag}`" for flag in flags_of(f))
            cells = [flags, *(cell.replace("|", "\\|") for cell in (value, default, f.help))]
            yield f"| {' | '.join(cells)} |"


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text or "") if part.strip()]


def _description(paragraphs: list[str]) -> Iterator[str]:
    """Yield paragraphs, and below them the examples as one block."""
    for text in paragraphs:
        if not is_example(text):
            yield f".PP\n{_roff(text)}"
    examples = [_roff(text) for text in paragraphs if is_example(text)]
    if examples:
        yield "\n".join([".PP", "Examples:", ".PP", ".RS", ".EX", *examples, ".EE", ".RE"])


def _parameter(parameter: Any, context: Any) -> Iterator[str]:
    record = parameter.get_help_record(context)
    if record is None:
        return
    name, words = record
    yield f".TP\n.B {_roff(' '.join(name.split()))}\n{_roff(' '.join(words.split()))}"


def _roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    text = re.sub(r"\|(?=\w{12})", r"|\\:", text)  # where a line of many long choices may break
    return "\\&" + text if text[:1] in (".", "'") else text


if __name__ == "__main__":
    for path, text in build().items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text)
