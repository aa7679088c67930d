"""Completion scripts of bash, zsh and fish, in place of Typer's, and the values that options complete.

Typer's scripts lose `--option=value` in every shell and `KEY=VALUE` in bash, and its script for zsh completes nothing
on the first Tab when zsh loads it from its function path.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import get_args

from normcli.cli import click

# readline splits words at = and : as well, so the words come from the line, and what readline has split off is cut
_BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]/} option='' split='' index
    local typed=${line##*[[:space:]]}
    [[ $typed == -*=* ]] && option=${typed%%%%=*}=
    [[ -n $breaks ]] && split=${typed%%"${typed##*[$breaks]}"}
    COMPREPLY=( $(env _TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \
                  %(autocomplete_var)s=complete_fish "$1" | cut -f 1) )
    for index in "${!COMPREPLY[@]}"; do
        COMPREPLY[index]=$option${COMPREPLY[index]}
        COMPREPLY[index]=${COMPREPLY[index]#"$split"}
    done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=:] ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
"""
_ZSH = """
#compdef %(prog_name)s

%(complete_func)s() {
  local line="${words[1,$CURRENT]}"
  if [[ $PREFIX == -*=* ]]; then
    IPREFIX="$IPREFIX${PREFIX%%%%=*}="
    PREFIX="${PREFIX#*=}"
  fi
  eval $(env _TYPER_COMPLETE_ARGS="$line" %(autocomplete_var)s=complete_zsh %(prog_name)s)
}

if [[ $funcstack[1] == _%(prog_name)s ]]; then  # loaded from the function path by the first Tab
  %(complete_func)s "$@"
else
  compdef %(complete_func)s %(prog_name)s
fi
"""
_FISH = """
function _%(prog_name)s_complete
    set -lx %(autocomplete_var)s complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION $argv[1]
    set -lx _TYPER_COMPLETE_ARGS (commandline -cp)
    set -l option (string match -r -- '^-[^=]*=' (commandline -ct))
    %(prog_name)s | string replace -r '^' -- "$option"
    return $pipestatus[1]
end

complete --command %(prog_name)s --no-files --arguments '(_%(prog_name)s_complete get-args)' \
    --condition '_%(prog_name)s_complete is-args'
"""


def _description(text: str) -> str:
    """Return a help text as one line, which shells show next to a completion; the escape of a bracket is undone.

    Typer renders it with Rich, which takes longer to import than all the rest, and breaks it at 80 columns: shells
    take the second line for another value.
    """
    return text.replace("\\[", "[")


click.completion_scripts.update(bash=_BASH, zsh=_ZSH, fish=_FISH)
click.completion_classes._sanitize_help_text = _description
Values = tuple[str, ...] | Callable[[], Iterator[str]]


def completer(values: Values) -> Callable[[str], list[str]]:
    """Return a completion function for these values, or for those that a function yields; case is ignored."""

    def complete(incomplete: str) -> list[str]:
        known = values if isinstance(values, tuple) else values()
        return [value for value in known if value.lower().startswith(incomplete.lower())]

    return complete


def list_completer(values: Values) -> Callable[[str], list[str]]:
    """Return a function that completes the last value of a list with commas."""
    complete_one = completer(values)

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{value}" for value in complete_one(last)]

    return complete


def presets() -> Iterator[str]:
    """Yield the names of published constants."""
    from normcli.constants.presets import PRESETS

    yield from PRESETS


def conventions() -> Iterator[str]:
    """Yield the names of conventions."""
    from normcli.summary.remarks import CONVENTIONS

    yield from CONVENTIONS


def formats() -> Iterator[str]:
    """Yield the names of --format."""
    from normcli.constants.exporters import FORMAT_CHOICES

    yield from FORMAT_CHOICES


def schemes() -> Iterator[str]:
    """Yield the names of schemes."""
    from normcli.schemes import SCHEMES

    yield from SCHEMES


def normalizers() -> Iterator[str]:
    """Yield the names of normalizers."""
    from normcli.tensor import catalog

    yield from (name for name, _, _ in catalog.rows())


def layouts() -> Iterator[str]:
    """Yield the orders of axes of tensors."""
    from normcli.tensor.normalizers.views import Layout

    yield from get_args(Layout)


def open_options() -> Iterator[str]:
    """Yield KEY=VALUE of every open option with choices, and KEY= of the others."""
    from normcli.sources import describe_formats

    options = (option for row in describe_formats() for option in row.options)
    yield from sorted({f"{option.name}={value}" for option in options for value in option.choices or ("",)})


TABLES = {
    "presets": presets,
    "conventions": conventions,
    "formats": formats,
    "schemes": schemes,
    "open_options": open_options,
}
"""The functions that `option(complete=NAME)` names."""


def groups(incomplete: str) -> list[str]:
    """Return the groups of the statistics file on the command line that begin like this.

    The words come from the variable of the scripts: while the last option has no value, Click parses no argument.
    """
    import json
    import shlex

    names: set[str] = set()
    with suppress(OSError, ValueError, KeyError, TypeError):
        words = shlex.split(os.environ.get("_TYPER_COMPLETE_ARGS", ""))
        for file in filter(os.path.isfile, words):
            names.update(json.loads(Path(file).read_text(encoding="utf-8"))["groups"])
    return sorted(name for name in names if name.startswith(incomplete))
