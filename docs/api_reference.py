"""Build the reference of the Python API from the docstrings of the public names of normcli.

`python docs/manual.py` writes it to docs/api.md. Griffe parses the docstrings.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import griffe

import normcli

SECTIONS = {
    "Images": ("stats", "count", "Counter", "apply", "transform", "restore", "verify", "verify_statistics", "source"),
    "Statistics": ("Summary", "load", "merge", "diff", "check", "check_features"),
    "Tensors": ("list_tensors", "activation_stats", "merge_states", "mix_states", "fold"),
    "Errors": (
        "NormcliError",
        "UsageError",
        "StatisticsFileError",
        "NoInputError",
        "OutputError",
        "RemoteError",
        "InputError",
        "MissingExtraError",
        "TensorError",
    ),
}
INTRODUCTION = """\
# Python API

Made by `python docs/manual.py` from the docstrings; do not edit by hand.

Every command has a function of the same name, and every option is a keyword: `--group-by` is `group_by=`. Importing
normcli imports nothing heavy. The functions of `normcli.tensor.normalizers` are described in
[Normalizers](normalizers.md), the keys of a `Summary` in [Statistics file](statistics-file.md).
"""


def build() -> str:
    """Return the page."""
    return "\n".join([INTRODUCTION, *_index(), *_bodies()]).rstrip() + "\n"


def _index() -> Iterator[str]:
    yield "| name | what it does |"
    yield "|---|---|"
    for names in SECTIONS.values():
        for name in names:
            yield f"| [`{name}`](#{name.lower()}) | {_cell(_parts(getattr(normcli, name))[0])} |"


def _bodies() -> Iterator[str]:
    for heading, names in SECTIONS.items():
        yield f"\n## {heading}"
        for name in names:
            yield from _class(name) if inspect.isclass(getattr(normcli, name)) else _function(name, 3)


def _function(name: str, level: int, owner: Any = normcli) -> Iterator[str]:
    """Yield the lines of a function or method: heading, signature, description, sections."""
    function = getattr(owner, name)
    yield f"\n{'#' * level} {name}\n"
    yield f"```py\n{_signature(function, name if owner is normcli else f'{owner.__name__}.{name}')}\n```\n"
    yield from _description(function)


def _class(name: str) -> Iterator[str]:
    kind = getattr(normcli, name)
    yield f"\n### {name}\n"
    bases = [base.__name__ for base in kind.__bases__ if base is not object]
    if issubclass(kind, Exception):
        yield f"Bases: {', '.join(f'`{base}`' for base in bases)}. Exit code {kind.exit_code}.\n"
    yield from _description(kind)
    members = {key: value for key, value in vars(kind).items() if not key.startswith("_") and _documented(value)}
    for member, value in members.items():
        if isinstance(value, property):
            yield f"\n#### {member}\n"
            yield from _description(value)
        else:
            yield from _function(member, 4, kind)


def _documented(value: Any) -> bool:
    return isinstance(value, property | classmethod | staticmethod) or inspect.isfunction(value)


def _signature(function: Callable[..., Any], name: str) -> str:
    """Return the signature, without types; the keywords of options as `**options`.

    >>> _signature(normcli.load, "load")
    'load(path)'
    """
    shown = []
    star = False
    for parameter in inspect.signature(function).parameters.values():
        keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if keyword and not star:
            star = True
            shown.append("*")
        default = "" if parameter.default is inspect.Parameter.empty else f"={_value(parameter.default)}"
        if parameter.name not in ("self", "cls"):
            shown.append(parameter.name + default)
    line = f"{name}({', '.join(shown)})"
    if len(line) <= 88:
        return line
    positional = shown[: shown.index("*")] if "*" in shown else shown
    keywords = shown[len(positional) + 1 :]
    return f"{name}(\n    {', '.join([*positional, '*'])},\n" + "".join(f"    {word},\n" for word in keywords) + ")"


def _value(default: Any) -> str:
    """Return a default value as ruff would write it, with double quotes."""
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _parts(item: Any) -> tuple[str, list[griffe.DocstringSection]]:
    """Return the first line of a docstring, and its sections."""
    text = inspect.getdoc(item) or ""
    sections = griffe.Docstring(text, parser="google").parse(warnings=False)
    return text.partition("\n")[0], sections


def _description(item: Any) -> Iterator[str]:
    _, sections = _parts(item)
    for section in sections:
        kind, value = section.kind.value, section.value
        if kind == "text":
            yield _text(value) + "\n"
        elif kind in ("parameters", "attributes"):
            yield "| parameter | meaning |" if kind == "parameters" else "| attribute | meaning |"
            yield "|---|---|"
            yield from (f"| `{row.name}` | {_cell(row.description)} |" for row in value)
            yield ""
        elif kind == "returns":
            yield "Returns: " + " ".join(_cell(row.description) for row in value) + "\n"
        elif kind == "raises":
            yield "| raises | if |"
            yield "|---|---|"
            yield from (f"| `{row.annotation}` | {_cell(row.description)} |" for row in value)
            yield ""
        elif kind == "examples":
            yield "```pycon\n" + "\n".join(_doctest(text) for _, text in value) + "\n```\n"


def _text(text: str) -> str:
    """Return the text of a docstring, with its doctests in fences."""
    return re.sub(
        r"((?:^>>> .*\n?)(?:^(?!\n).+\n?)*)", lambda m: f"```pycon\n{_doctest(m[1])}\n```\n", text, flags=re.M
    )


def _doctest(text: str) -> str:
    return re.sub(r"  # doctest: .*", "", text).rstrip()


def _cell(text: str) -> str:
    """Return a text on one line, for the cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
