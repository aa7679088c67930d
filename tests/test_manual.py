"""The man page and the completion scripts are those of the commands' present help, and completion is light."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from normcli.cli.main import COMMANDS
from tests.support import needs
from tests.support.command import ROOT, Run


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    specification = importlib.util.spec_from_file_location("manual", ROOT / "docs" / "manual.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_they_are_up_to_date(manual: ModuleType) -> None:
    stale = [name for name, text in manual.build().items() if (ROOT / "docs" / name).read_text() != text]
    assert stale == [], "run: python docs/manual.py"


def test_every_command_and_its_options_are_in_the_page(manual: ModuleType) -> None:
    page = manual.build()["normcli.1"]
    assert [name for name in COMMANDS if f".SS normcli {name}" not in page] == []
    for option in ("max\\-shift", "preset", "report", "format", "plot"):
        assert f"\\-\\-{option}" in page


def test_man_reads_the_page_without_a_warning() -> None:
    needs.program("groff")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z", str(ROOT / "docs" / "normcli.1")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("normcli di", ["diff"]),
        ("normcli show x --format torchv", ["torchvision"]),
        ("normcli show x --convention root", ["root_mean_image_variance"]),
        ("normcli check x --preset mnist", ["mnist", "mnist-copied"]),
    ],
)
def test_completion(words: str, expected: list[str], run: Run) -> None:
    environment = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_NORMCLI_COMPLETE": "complete_bash"}
    done = run(env=environment)
    assert done.stdout.decode().split() == expected


def test_completing_and_showing_load_nothing_heavy(tmp_path: Path) -> None:
    heavy = "numpy", "numba", "PIL", "jinja2", "tqdm"
    code = f"""
import sys
from normcli.cli.main import run
file = {str(ROOT / "sample_data" / "expected.json")!r}
for words in (["show", file], ["show", file, "--plot"], ["show", file, "--format", "toml"],
              ["check", file, "--preset", "clip"], ["diff", file, file]):
    run(words)
    print([m for m in {heavy} if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert lines == ["[]"] * 5, done.stderr
