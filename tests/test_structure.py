"""The shape of the code: small functions, thin packages, one name for one thing, options that are not copied by hand.

Each allow-list holds what does not fit yet; it may only shrink, and a row that is no longer needed fails the test.
"""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from normcli.cli.build import flags_of
from normcli.options.apply import ApplyOptions, RestoreOptions, VerifyOptions
from normcli.options.field import options_of
from normcli.options.printing import TerminalOptions
from normcli.options.stats import StatsOptions
from tests.support.command import ROOT

PARAMETERS = 12
LINES = 80
INIT_LINES = 80
FORWARDS = 5  # keywords `name=name` in one call
OPTIONS = 40  # at most, in the help of stats and of apply

# a normalizer's settings are its paper's: each is documented, and none is passed on in bulk
NORMALIZERS = "normcli/tensor/normalizers/"

LARGE_FUNCTIONS: set[str] = set()
LARGE_INITS: set[str] = set()
SAME_NAMES: set[str] = set()
FORWARDING: set[str] = set()
MANY_OPTIONS: set[str] = set()

Function = ast.FunctionDef | ast.AsyncFunctionDef


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "normcli").rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def parameters(function: Function) -> int:
    """Count parameters; `self` and `cls` are not ours to choose."""
    arguments = function.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def lines(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def forwards(tree: ast.Module) -> Iterator[ast.Call]:
    """Yield calls that pass more than a few values on by their own names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            same = [k for k in node.keywords if isinstance(k.value, ast.Name) and k.value.id == k.arg]
            if len(same) > FORWARDS:
                yield node


def test_no_function_is_too_large() -> None:
    found = {
        f"{path}: {function.name}"
        for path, tree in trees()
        for function in functions(tree)
        if lines(function) > LINES or (parameters(function) > PARAMETERS and not path.startswith(NORMALIZERS))
    }
    assert found == LARGE_FUNCTIONS


def test_a_package_re_exports_or_dispatches() -> None:
    inits = sorted((ROOT / "normcli").rglob("__init__.py"))
    found = {str(path.relative_to(ROOT)) for path in inits if len(path.read_text().splitlines()) > INIT_LINES}
    assert found == LARGE_INITS


def test_no_public_class_name_twice() -> None:
    names = Counter(
        node.name for _, tree in trees() for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"
    )
    assert {name for name, count in names.items() if count > 1} == SAME_NAMES


def test_no_options_are_forwarded_by_hand() -> None:
    found = {f"{path}: {ast.unparse(call.func)}" for path, tree in trees() for call in forwards(tree)}
    assert {row for row in found if not row.startswith(NORMALIZERS)} == FORWARDING


@pytest.mark.parametrize("command", ["stats", "apply"])
def test_the_help_is_short(command: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    call = [sys.executable, "-m", "normcli", command, "--help"]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    options = re.findall(r"^  (?:-\w, )?(--[a-z][a-z0-9-]*)", done.stdout, re.M)
    assert len(options) > 20
    assert len(options) <= OPTIONS or command in MANY_OPTIONS, options
    assert len(options) > OPTIONS or command not in MANY_OPTIONS


@pytest.mark.parametrize("command", ["stats", "apply", "restore", "verify"])
def test_help_all_prints_every_option(command: str) -> None:
    kind = {"stats": StatsOptions, "apply": ApplyOptions, "restore": RestoreOptions, "verify": VerifyOptions}[command]
    call = [sys.executable, "-m", "normcli", command, "--help-all"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60"}
    text = subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout
    fields = [f for f in (*options_of(kind), *options_of(TerminalOptions)) if f.cli]
    assert [f.name for f in fields if not re.search(rf"^  (?:-\w, )?{flags_of(f)[-1]}\b", text, re.M)] == []
    assert max(map(len, text.split("\n"))) <= 60 and "--help-all` lists" not in text


def test_the_measures_see_what_is_too_large() -> None:
    tree = ast.parse("def f(self, a, *, b): return g(a=a, b=b, c=c, d=d, e=e, f=f)\n")
    (function,) = functions(tree)
    assert (parameters(function), lines(function)) == (2, 1)
    assert [ast.unparse(call.func) for call in forwards(tree)] == ["g"]
    assert list(forwards(ast.parse("g(a=a, b=b, c=c, d=d, e=e, f=1)"))) == []
