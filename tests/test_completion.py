"""Shell completion: every choice of every option, and the scripts in real bash, zsh and fish."""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from normcli.cli import click
from normcli.cli.main import COMMANDS, app
from tests.support import needs
from tests.support.command import ENVIRONMENT, ROOT

SCRIPTS = ROOT / "docs" / "completion"
TOP: Any = typer.main.get_command(app)


def parameters() -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, the context and the parameter of every option and argument of every command."""
    top = typer.Context(TOP, info_name="normcli", resilient_parsing=True)
    for name in COMMANDS:
        command = TOP.get_command(top, name)
        context = typer.Context(command, info_name=name, parent=top, resilient_parsing=True)
        yield from ((name, context, parameter) for parameter in command.params)
        for inner in command.list_commands(context) if name == "tensor" else ():
            below = command.get_command(context, inner)
            yield from ((f"{name} {inner}", context, parameter) for parameter in below.params)


def literals(metavar: str) -> set[str]:
    """Return the alternatives of a metavar that are values, not names of values.

    >>> sorted(literals("drop|composite:COLOR|weight|N%|dask[:ADDRESS]"))
    ['composite:', 'dask', 'drop', 'weight']
    """
    parts = (re.sub(r"\[.*|(?<=:)[A-Z]+$", "", part) for part in metavar.split("|"))
    return {part for part in parts if re.fullmatch(r"[a-z][\w-]*:?|[A-Z]{2,5}(?<=C)|NC[DHWL]*", part)}


def offered(context: click.Context, parameter: Any, incomplete: str = "") -> list[str]:
    return [str(item.value) for item in parameter.shell_complete(context, incomplete)]


def test_every_choice_is_offered() -> None:
    tried, wrong = 0, []
    for path, context, parameter in parameters():
        choices = literals(parameter.metavar or "") if "|" in (parameter.metavar or "") else set()
        if choices:
            tried += 1
            found = offered(context, parameter)
            if missing := [c for c in choices if not any(value.startswith(c) for value in found)]:
                wrong.append((path, parameter.name, missing))
            assert all(offered(context, parameter, c) for c in choices - set(missing))
    assert wrong == [] and tried > 60


def test_every_setting_of_a_normalizer_offers_its_choices() -> None:
    from normcli.tensor.normalizers import NORMALIZERS
    from normcli.tensor.normalizers.registry import describe

    found = {(path, p.name): offered(context, p) for path, context, p in parameters() if path.startswith("tensor ")}
    tried = 0
    for name, normalizer in NORMALIZERS.items():
        for setting in describe(normalizer).settings:
            if setting.choices:
                assert found[f"tensor {name.replace('_', '-')}", setting.name] == list(setting.choices)
                tried += 1
    assert tried > 40


@pytest.mark.parametrize(
    ("path", "name", "incomplete", "expected"),
    [
        ("apply", "scheme", "con", ["contrast"]),
        ("apply", "preset", "mnist", ["mnist", "mnist-copied"]),
        ("apply", "zero_std", "e", ["error", "eps:"]),
        ("stats", "open_options", "column", ["column=", "columns="]),
        ("stats", "open_options", "layout=nch", ["layout=nchw"]),
        ("stats", "format", "torchv", ["torchvision"]),
        ("verify", "engine", "da", ["dask"]),
        ("list", "table", "exp", ["exporters"]),
        ("tensor compare", "normalizers", "batch_norm,group-n", ["batch_norm,group-norm"]),
        ("tensor compare", "layout", "NCD", ["NCDHW"]),
        ("tensor group-norm", "preset", "ke", ["keras"]),
    ],
)
def test_values_of_open_sets(path: str, name: str, incomplete: str, expected: list[str]) -> None:
    (found,) = (
        offered(context, p, incomplete) for where, context, p in parameters() if (where, p.name) == (path, name)
    )
    assert found == expected


@dataclass
class Terminal:
    """A shell on a pseudo-terminal; Ctrl-T prints the line that is being edited, and clears it."""

    handle: int

    def read(self, pattern: bytes) -> bytes:
        """Read until a pattern; return its first group."""
        text, end = b"", time.monotonic() + 60
        while (match := re.search(pattern, text)) is None:
            ready, _, _ = select.select([self.handle], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {pattern!r} in {text!r}"
            text += os.read(self.handle, 65536)
        return match[1]

    def tab(self, line: str) -> str:
        """Type a line and Tab; return the completed line, once the shell has printed its next prompt."""
        os.write(self.handle, line.encode() + b"\t\x14")
        return self.read(rb"LINE<([^<>]*)>[^@]*@@ ").decode()


_IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# what a login would set up: the completion, and a key that prints the line
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "PS1='@@ '; bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; source {scripts}/normcli.bash; "
        "show() {{ printf 'LINE<%s>\\n' \"$READLINE_LINE\"; READLINE_LINE=; }}; "
        "bind -x '\"\\C-t\": show'; echo REA''DY\n",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "PS1='@@ '; fpath=({scripts} $fpath); autoload -Uz compinit; compinit -u -D; "
        'show() {{ zle -I; print -r -- "LINE<$BUFFER>"; BUFFER= }}; zle -N show; bindkey "^T" show; '
        "bindkey '^I' complete-word; echo REA''DY\n",
    ),
}
TYPED = [
    ("normcli sh", "normcli show "),  # the first Tab loads zsh's function
    ("normcli stats photos --alp", "normcli stats photos --alpha "),
    ("normcli show stats.json --format torchv", "normcli show stats.json --format torchvision "),
    ("normcli show stats.json --format=torchv", "normcli show stats.json --format=torchvision "),
    ("normcli stats photos --alpha=composite:w", "normcli stats photos --alpha=composite:white "),
    ("normcli stats photos -O layout=nch", "normcli stats photos -O layout=nchw "),
    ("normcli show stats.json --group val/l", "normcli show stats.json --group val/lake "),
    ("normcli tensor group-norm x.npy --preset ke", "normcli tensor group-norm x.npy --preset keras "),
    ("normcli stats ph", "normcli stats photos/"),
    ("normcli diff st", "normcli diff stats.json "),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `normcli`, a folder and a statistics file."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "normcli"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m normcli "$@"\n')
    program.chmod(0o755)
    (tmp_path / "photos").mkdir()
    shutil.copy(ROOT / "sample_data" / "expected.json", tmp_path / "stats.json")
    return tmp_path


def environment(place: Path) -> dict[str, str]:
    return {**ENVIRONMENT, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "TERM": "dumb", "COLUMNS": "200"}


@pytest.mark.parametrize("shell", SHELLS)
def test_tab(shell: str, place: Path) -> None:
    program = needs.program(shell)
    command, settings = SHELLS[shell]
    handle, end = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", _IN_TERMINAL, program, *command[1:]],
        cwd=place,
        env=environment(place),
        start_new_session=True,
        stdin=end,
        stdout=end,
        stderr=end,
    )
    os.close(end)
    terminal = Terminal(handle)
    try:
        os.write(handle, settings.format(scripts=shlex.quote(str(SCRIPTS))).encode())
        terminal.read(rb"(READY)\r?\n[^@]*@@ ")
        for typed, expected in TYPED:
            assert terminal.tab(typed) == expected
    finally:
        os.close(handle)
        child.kill()
        child.wait()


def test_fish_offers_the_same(place: Path) -> None:
    program = needs.program("fish")
    some = TYPED[2:8]
    lines = "; ".join(f"complete -C {shlex.quote(typed)}; echo END" for typed, _ in some)
    done = subprocess.run(
        [program, "--no-config", "-c", f"source {shlex.quote(str(SCRIPTS / 'normcli.fish'))}; {lines}"],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = [block.split("\t")[0].strip() for block in done.stdout.split("END\n")][:-1]
    for (typed, expected), answer in zip(some, answers, strict=True):
        assert typed[: typed.rindex(" ") + 1] + answer == expected.rstrip()


def test_install_completion_installs_these_scripts(place: Path) -> None:
    for shell, script in (("bash", "normcli.bash"), ("zsh", "_normcli"), ("fish", "normcli.fish")):
        done = subprocess.run(
            [str(place / "bin" / "normcli"), "--show-completion", shell],
            env={**environment(place), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout.strip()) == (0, (SCRIPTS / script).read_text().strip())


@pytest.mark.parametrize("shell", ["fish", "zsh"])
def test_a_description_is_one_line_and_needs_no_rich(shell: str, place: Path) -> None:
    variables = {"_NORMCLI_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "normcli"],
        env={**environment(place), "COLUMNS": "80", **variables, "_TYPER_COMPLETE_ARGS": "normcli stats --ma"},
        capture_output=True,
        text=True,
    )
    pattern = r"(--ma[\w-]+)\t.+" if shell == "fish" else r"\W*?\"(--ma[\w-]+)\":\".+"
    lines = [re.fullmatch(pattern, line.removeprefix("_arguments '*: :((")) for line in done.stdout.splitlines()]
    assert [line and line[1] for line in lines] == [
        "--max-file-size",
        "--max-value",
        "--max-pixels",
        "--mask-dir",
        "--margin",
        "--max-failures",
    ]
    assert "typer.core" in done.stderr and "rich." not in done.stderr
