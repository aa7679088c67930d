"""Tables in a terminal: numbers are never cut off, at any width, with color and without."""

import gc
import importlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from normcli.cli import main, tensor
from normcli.cli.click import Context
from normcli.cli.tables import Column, Table, lines_of
from tests.support import needs
from tests.support.command import ROOT

_NUMBERS = itertools.count()
WIDTHS = (60, 80, 100, 120, 200)


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A statistics file of a few images, and its mean as the table shows it."""
    import normcli

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    path = folder.parent / "stats.json"
    normcli.stats(folder, output=path, group_by="folder", force=True)
    return path


def shown_numbers(statistics: Path) -> list[str]:
    import normcli

    summary = normcli.Summary.load(statistics)
    return [f"{value:.4f}" for value in (*summary.mean, *summary.std)]


@pytest.fixture
def terminal() -> Iterator[list[str]]:
    """A tmux server of its own: the beginning of its command lines."""
    server = [needs.program("tmux"), "-L", f"normcli-{os.getpid()}-{next(_NUMBERS)}"]
    yield server
    subprocess.run([*server, "kill-server"], capture_output=True)


def screen(tmux: list[str], width: int, command: str) -> str:
    """Return the screen of a terminal of some width after a command."""
    signal = f"{' '.join(tmux)} wait-for -S done"
    size = ["-x", str(width), "-y", "100"]
    subprocess.run([*tmux, "new-session", "-d", *size, f"{command}; {signal}; sleep 60"], check=True)
    subprocess.run([*tmux, "wait-for", "done"], check=True, timeout=60)
    shown = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True)
    return shown.stdout


@pytest.mark.parametrize("color", ["", "NO_COLOR=1 ", "TERM=dumb ", "LC_ALL=C PYTHONIOENCODING=ascii "])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_number_is_whole_at_every_width(terminal: list[str], statistics: Path, width: int, color: str) -> None:
    shown = screen(terminal, width, f"{color}{sys.executable} -m normcli show {statistics}")
    assert "…" not in shown
    for number in shown_numbers(statistics):
        assert re.search(rf"\b{re.escape(number)}\b", shown), (number, shown)


def test_a_narrow_terminal_breaks_no_word(terminal: list[str], statistics: Path) -> None:
    normcli = f"{sys.executable} -m normcli"
    (statistics.parent / "text.png").write_text("no image")
    commands = (
        f"{normcli} check stats.json --preset imagenet",
        f"{normcli} check stats.json --mean .5 .5 .5 --std .5 .5",
        f"{normcli} stats photos0 text.png > /dev/null",
        f"{normcli} apply photos0 text.png -o out --dry-run",
    )
    line = f"cd {statistics.parent}; {'; '.join(commands)}"
    piped = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    words = {word for word in f"{piped.stdout} {piped.stderr}".split() if re.fullmatch(r"[\w:(),;.-]+", word)}
    timed = {word for word in words if re.search(r"\d|/s", word)}
    shown = screen(terminal, 60, f"export PYTHONPATH={ROOT}; unset COLUMNS; {line}")
    assert {"advice:", "failed:"} <= words and words - timed <= set(shown.split())
    assert all(len(line) <= 60 for line in shown.splitlines())


def test_forced_color_in_a_file_is_not_cut(statistics: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "normcli", "show", str(statistics)],
        capture_output=True,
        text=True,
        check=True,
        env={"FORCE_COLOR": "1", "PATH": ""},
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert "\x1b[" in done.stdout and all(number in plain for number in shown_numbers(statistics))


def test_a_narrow_table_drops_columns_and_then_stacks() -> None:
    table = Table(
        [
            Column("channel", ["R", "G"], left=True),
            Column("mean", ["0.4870", "0.4602"]),
            Column("max", ["1", "1"], drop=1),
        ]
    )
    assert list(lines_of(table)) == ["channel    mean  max", "R        0.4870    1", "G        0.4602    1"]
    assert list(lines_of(table, 16)) == ["channel    mean", "R        0.4870", "G        0.4602"]
    assert list(lines_of(table, 10)) == ["channel R", "  mean  0.4870", "channel G", "  mean  0.4602"]


def test_a_plot_fits_a_narrow_terminal(
    statistics: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns, width in (("60", 35), ("80", 67)):
        monkeypatch.setenv("COLUMNS", columns)
        assert main.run(["show", str(statistics), "--plot"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "   0" + "1".rjust(width - 4) and max(map(len, lines)) <= int(columns)


def test_16_bit_values_show_their_digits(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 400, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 100, np.uint16)).save(tmp_path / "b.png")
    done = subprocess.run(
        [sys.executable, "-m", "normcli", "stats", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert f"{250 / 65535:.6f}" in done.stdout and f"{150 / 65535:.6f}" in done.stdout


def test_the_mode_of_bilevel_images_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("1", (4, 4)).save(tmp_path / "a.png")
    assert main.run(["stats", str(tmp_path), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 image; 16 pixels; pooled population, range 0-1, L"
    assert lines[-1] == "found: PNG 1; bilevel 1; 1-bit 1"


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Yield every command with its context: the top one, those below it, and those of tensor."""
    top = typer.main.get_command(main.app)
    yield "normcli", top, Context(top, info_name="normcli")
    for name in main.COMMANDS:
        command = typer.main.get_command(importlib.import_module(main.COMMANDS[name]).app)
        yield name, command, Context(command, info_name=f"normcli {name}")
    for name in ("compare", "batch-norm", "group-norm", "evo-norm", "zca-whitening"):
        one = tensor.command_of(name)
        assert one is not None
        yield f"tensor {name}", one, Context(one, info_name=f"normcli tensor {name}")


@pytest.mark.parametrize(("command", "context"), [pair for _, *pair in commands()], ids=[n for n, *_ in commands()])
@pytest.mark.parametrize("width", [40, 60, 80, 130])
def test_the_help_loses_no_letter(
    width: int, command: Any, context: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = command.get_help(context) or capsys.readouterr().out
    words = set(text.replace("|", " ").split())  # a list of choices is broken after a bar
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            missing = {word for part in record for word in re.split(r"[|\s]+", part.replace("\\[", "["))} - words
            assert not missing, (parameter.name, missing)
    assert all(len(line) <= width or " " not in line.strip() for line in text.splitlines()), text


@pytest.mark.parametrize("width", [60, 120])
def test_examples_have_a_heading_and_an_indent(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    one = {name: (command, context) for name, command, context in commands()}["merge"]
    text = one[0].get_help(one[1]) or capsys.readouterr().out
    block = text.split("\n\nExamples:\n")[1].split("\n\n")[0].splitlines()
    last = ["  normcli merge robot.json:0.7 simulation.json:0.3 -o mixture.json"]
    if width == 60:
        last = ["  normcli merge robot.json:0.7 simulation.json:0.3 -o", "      mixture.json"]
    assert block[:2] == [
        "  normcli merge shard-*.json -o all.json",
        "  normcli merge all.json --minus broken.json -o rest.json",
    ]
    assert block[2:] == last


@pytest.mark.parametrize("arguments", [[], ["tensor"], ["restore", "-h"]])
def test_the_help_ends_its_last_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.endswith(".\n") and "{" not in shown.splitlines()[0]


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}], ids=["plain", "color"])
def test_the_help_needs_no_rich_and_color_changes_no_letter(variables: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "normcli", "show", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "COLUMNS": "100", **variables},
    )
    assert ("\x1b[1m" in done.stdout) is bool(variables)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert re.search(r"\n  -f, --force +Overwrite an existing report\.\n", plain)
    assert "typer.core" in done.stderr and "rich" not in done.stderr


def test_a_command_collects_garbage(statistics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gc.disable()  # as the console script does until modules are imported
    try:
        assert main.run(["show", str(statistics)]) == 0
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
