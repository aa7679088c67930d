"""The language of the code and of the help: the rules of the style that can be counted."""

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from normcli.cli import main, tensor
from normcli.cli.click import Context
from normcli.options import apply, printing, shared, stats
from normcli.options.field import Options, choices_of, options_of
from tests.support.command import ROOT

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
# a first line that leaves out its subject, or says nothing until it is read twice
RELATIVE = re.compile(
    r"^(What|Where|Whether|How|Which|That|As|When|Who|Why|Of|For|To|By|With|From|If|Then|Also|Does|Is|Are|In|On|At|Its)\b"
    r"|^(Return|Yield|Print|Write|Take|Restore|Add|Read|Remove|Run|Record|Check) (what|whether|how|who|where|why)\b"
    r"|, as (they|it|given|far|before)\b"
)
# the imperatives that docstrings of functions begin with
VERBS = frozenset(
    re.findall(
        r"\w+",
        """
    Accept Adapt Add Append Apply Average Begin Blend Build Call Cancel Center Check Choose Clip Close Combine
    Commit Compare Complete Compute Consume Continue Convert Copy Correct Count Create Decode Decorrelate
    Describe Divide Do Draw Drop Encode End Escape Estimate Expand Find Finish Flush Fold Force Identify Ignore
    Import Inflate Insert Keep Leave Limit List Load Lock Log Look Make Map Mark Match Merge Mix Move Multiply
    Normalize Open Pack Parse Prefix Print Process Pull Put Raise Read Rebuild Record Redirect Reduce Register
    Reject Remove Rename Render Replace Request Require Reserve Resize Resolve Restore Return Round Run Scale
    Send Serialize Set Show Skip Split Squash Standardize Start Stop Store Subtract Sum Suppress Survey Take
    Turn Undo Unlock Update Validate View Visit Wait Walk Warn Whiten Wrap Write Yield
    """,
    )
)
# words of the first edition, each with a plain one in its place: next to, continue, in flight, abort, be, print, return
AVOIDED = re.compile(
    r"\b(besides?|go(es)? with|go(es)? on|going on|under way|brok(e|en) off|breaks? off|lies?|lying|stands?|standing"
    r"|stood|says?|said|saying|tells?|told|telling|gives?|gave|giving|settled?|settles|refused?|refuses|refusing|whole|hostile"
    r"|believed?|believes|a bit|mine|ours|doors?|house)\b(?!-)",
    re.IGNORECASE,
)
BRITISH = re.compile(
    r"\b(colour|centres?\b|grey|behaviour|honour|neighbour|favour|(normal|optim|serial|initial|standard)is(e|ing))",
    re.IGNORECASE,
)
MOST_AVOIDED = 20  # lines of all: room for a sense that the pattern does not know
# texts in which an avoided word has its other sense, or is a name of someone else
ALLOWED = ("by a bit of its av1C box", 'nearest("grey"')
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
GROUPS = [group for module in (apply, printing, shared, stats) for group in vars(module).values()]
OPTION_GROUPS = [group for group in GROUPS if isinstance(group, type) and issubclass(group, Options)]


def docstrings(source: str) -> Iterator[tuple[str, str]]:
    """Yield kind and first line of every docstring; a kind is "function", "class" or "module"."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
                yield kind, text.splitlines()[0]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield every line of a docstring, a comment or a text of several words, with its number."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def avoided(line: str) -> list[str]:
    """Return the words of a line that the style avoids."""
    for text in ALLOWED:
        line = line.replace(text, "")
    line = re.sub(r"`[^`]*`|https?:\S+", "", line)  # names and addresses
    return [match[0] for pattern in (AVOIDED, BRITISH) for match in pattern.finditer(line)]


def bindings(source: str) -> Iterator[str]:
    """Yield every local name that is bound in a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    yield inner.id


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    lines = [(path.name, *pair) for path in SOURCES for pair in docstrings(path.read_text(encoding="utf-8"))]
    wrong = [
        (name, line)
        for name, kind, line in lines
        if RELATIVE.search(line) or (kind == "function" and line.split()[0].strip(",.:;") not in VERBS)
    ]
    assert len(wrong) <= 0.01 * len(lines), wrong


def test_words_to_avoid() -> None:
    wrong = []
    for path in (*SOURCES, *PAGES):
        text = path.read_text(encoding="utf-8")
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines = texts(text) if path.suffix == ".py" else enumerate(prose.splitlines(), 1)
        wrong += [(f"{path.name}:{number}", avoided(line), line.strip()) for number, line in lines if avoided(line)]
    assert len(wrong) <= MOST_AVOIDED, wrong


def test_names_of_values_are_nouns() -> None:
    names = [(path.name, name) for path in SOURCES for name in bindings(path.read_text())]
    participles = [pair for pair in names if pair[1] in PARTICIPLES]
    assert len(participles) <= 0.005 * len(names), (len(participles), len(names), participles)


def test_the_counts_see_what_they_forbid() -> None:
    source = 'def f():\n    """Where it stands."""\n    found = 1  # it lies\n'
    assert [line for _, line in docstrings(source) if RELATIVE.search(line)] == ["Where it stands."]
    assert RELATIVE.search("Return what is kept.") and RELATIVE.search("A name, as given.")
    assert list(bindings(source)) == ["found"] and "found" in PARTICIPLES
    assert [avoided(line) for _, line in texts(source)] == [["stands"], ["lies"]]
    assert (
        avoided("a colour of normalised pixels") == ["colour", "normalise"] and avoided("a stand-in for `house`") == []
    )


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command, those of the normalizers too."""
    for name, module in main.COMMANDS.items():
        yield name, typer.main.get_command(importlib.import_module(module).app)
    for name in tensor.names():
        yield f"tensor {name}", tensor.command_of(name)


def faults_of_help(parameter: Any, context: Context) -> Iterator[str]:
    """Yield the faults of a help text: no sentence of four words, no default, no choices."""
    text = parameter.help or ""
    if len(text.split()) < 4:
        yield "under four words"
    if not (text.endswith((".", ")", "]")) and text[:1].isupper()):
        yield "no sentence"
    if re.match(r"(Of|That|What|Which|Then|Also)\b", text) or avoided(text):
        yield f"words to avoid: {avoided(text)}"
    if parameter.param_type_name == "option":
        record = parameter.get_help_record(context)[1]
        has_default = parameter.default not in (None, False, 0, "", ()) and not parameter.required
        if has_default and "default" not in record:
            yield "no default"
        shown = f"{text} {parameter.metavar or ''}"
        yield from (f"no choice {choice}" for choice in getattr(parameter.type, "choices", ()) if choice not in shown)


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_help_is_a_sentence_that_names_default_and_choices(name: str, command: Any) -> None:
    context = Context(command)
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    faults = {p.name: (found, p.help) for p in shown if (found := list(faults_of_help(p, context)))}
    assert faults == {}


@pytest.mark.parametrize("group", OPTION_GROUPS, ids=lambda group: group.__name__)
def test_help_names_every_choice_and_the_default(group: type[Options]) -> None:
    choices = choices_of(group)
    for f in options_of(group):
        if f.cli and f.name in choices:
            assert f.default is not None or "default" in f.help, f.name
            shown = f"{f.help} {'|'.join(choices[f.name])}"
            assert all(choice in shown for choice in choices[f.name]), f.name


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in ("api.md", "options.md")], ids=lambda page: page.name
)
def test_prose_of_pages_is_wrapped(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = [line for line in text.splitlines() if not re.match(r" *\||\[[^]]+\]: ", line)]  # tables and addresses
    assert [line for line in prose if len(line) > 120] == []
