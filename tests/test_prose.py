"""The language of the code and of the help: the rules of the style that can be counted."""

import ast
import importlib
import re
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from normcli.cli import main
from normcli.options import apply, shared, stats
from normcli.options.field import Options, choices_of, info_of

PACKAGE = Path(__file__).parent.parent / "normcli"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# past participles that are no nouns; as names of values they leave out what was found, given or kept
PARTICIPLES = frozenset(
    [
        "asked",
        "begun",
        "believed",
        "broken",
        "called",
        "chosen",
        "come",
        "done",
        "drawn",
        "fallen",
        "forgotten",
        "found",
        "gathered",
        "given",
        "gone",
        "held",
        "kept",
        "lost",
        "made",
        "meant",
        "moved",
        "refused",
        "said",
        "seen",
        "sent",
        "settled",
        "shown",
        "spoken",
        "taken",
        "told",
        "understood",
        "wanted",
        "written",
    ]
)
RELATIVE = re.compile(r"^(What|Where|Whether|How|Which|That|As|When|Who)\b")
GROUPS = [group for module in (apply, shared, stats) for group in vars(module).values()]
OPTION_GROUPS = [group for group in GROUPS if isinstance(group, type) and issubclass(group, Options)]


def docstrings(source: str) -> Iterator[str]:
    """Yield the first line of every docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text.splitlines()[0]


def bindings(source: str) -> Iterator[str]:
    """Yield every local name that is bound in a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    lines = [line for path in SOURCES for line in docstrings(path.read_text())]
    relative = [line for line in lines if RELATIVE.match(line)]
    assert len(relative) <= 0.02 * len(lines), relative


def test_names_of_values_are_nouns() -> None:
    names = [(path.name, name) for path in SOURCES for name in bindings(path.read_text())]
    participles = [pair for pair in names if pair[1] in PARTICIPLES]
    assert len(participles) <= 0.005 * len(names), (len(participles), len(names), participles)


def test_the_counts_see_what_they_forbid() -> None:
    source = 'def f():\n    """Where it stands."""\n    found = 1\n'
    assert [line for line in docstrings(source) if RELATIVE.match(line)] == ["Where it stands."]
    assert list(bindings(source)) == ["found"] and "found" in PARTICIPLES


def helps() -> Iterator[tuple[str, str]]:
    """Yield every option of every command with its help."""
    for name in main.COMMANDS:
        command = typer.main.get_command(importlib.import_module(main.COMMANDS[name]).app)
        for parameter in command.params:
            text = getattr(parameter, "help", None)
            if text and parameter.name != "help":
                yield f"{name} --{parameter.name}", text


@pytest.mark.parametrize(("option", "text"), list(helps()), ids=lambda value: value if value.startswith("-") else "")
def test_help_is_a_sentence(option: str, text: str) -> None:
    assert len(text.split()) >= 4, (option, text)
    assert text.endswith((".", ")")) and not re.match(r"(Of|That|What|Which|Then|Also)\b", text), (option, text)


@pytest.mark.parametrize("group", OPTION_GROUPS, ids=lambda group: group.__name__)
def test_help_names_every_choice_and_the_default(group: type[Options]) -> None:
    choices = choices_of(group)
    hints = typing.get_type_hints(group)
    for f in fields(group):
        info = info_of(f)
        if not info.cli:
            continue
        for choice in choices.get(f.name, ()):
            shown = "|".join(choices[f.name])
            assert choice in info.help or choice in shown, (f.name, choice)
        optional = f.default is None and type(None) in typing.get_args(hints[f.name])
        assert not optional or info.help, f.name
