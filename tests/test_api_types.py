"""The Python API as a type checker sees it: choices that do not exist are rejected before anything runs."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support import needs
from tests.support.command import ROOT

WRONG = {
    'normcli.stats("x", color="grey")': "color",
    'normcli.stats("x", weight="pixels")': "weight",
    'normcli.stats("x", include=3)': "include",
    'normcli.stats("x", no_such_option=1)': "no_such_option",
    'normcli.apply("x", "y", to="numpy")': "to",
    'normcli.apply("x", "y", dtype="float23")': "dtype",
    'normcli.transform("unit", output_layout="hcw")': "_WithScheme",
}
RIGHT = (
    'normcli.stats("x", color="gray", weight="pixel", include="*.png")',
    'normcli.stats(["x", "y"], include=["*.png"]).mean',
    'normcli.apply("x", "y", to="tar", dtype="float16")',
    'normcli.transform("unit", output_layout="hwc")',
)


def test_a_choice_that_does_not_exist_is_rejected_by_mypy(tmp_path: Path) -> None:
    needs.module("mypy")
    program = tmp_path / "program.py"
    program.write_text("import normcli\n\n" + "\n".join([*WRONG, *RIGHT]) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    lines = {int(number): text for number, text in re.findall(r"program\.py:(\d+): error: (.*)", done.stdout)}
    assert sorted(lines) == list(range(3, 3 + len(WRONG))), done.stdout
    for number, name in enumerate(WRONG.values(), 3):
        assert f'"{name}"' in lines[number]
