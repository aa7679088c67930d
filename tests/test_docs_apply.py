"""README.md and docs/apply.md run as written, block after block, beside a folder called photos."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import normcli
from normcli.schemes import SCHEMES
from normcli.sinks import OUTPUT_KINDS
from tests.support import needs
from tests.support.command import ROOT

TEXT = (ROOT / "docs/apply.md").read_text()
README = (ROOT / "README.md").read_text()


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of the blocks that a reader can run."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks(TEXT)


def run(language: str, block: str, folder: Path) -> bytes:
    """Run a block; it must succeed. Gives its stdout."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    if language == "bash":
        command = ["bash", "-euo", "pipefail", "-c", block]
    else:  # loaders that spawn import it
        (folder / "block.py").write_text(block)
        command = [sys.executable, "block.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, f"{block}\n{done.stderr.decode()}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "sample_data" / "odd", place / "photos")
    for block in (block for language, block in BLOCKS if language == "bash"):
        run("bash", block, place)
    return place


def test_the_shell_blocks_run(folder: Path) -> None:
    assert len(list((folder / "back").rglob("*.*"))) == 44
    assert (folder / "dawn.npy").read_bytes()[:6] == b"\x93NUMPY"
    assert (folder / "dawn.png").read_bytes()[:4] == b"\x89PNG"
    assert list((folder / "pngs/photos").rglob("*.png.npy"))


def test_the_torch_block_runs(folder: Path) -> None:
    needs.module("torch")
    (block,) = (block for language, block in BLOCKS if language == "python")
    told = 'print("batches", sum(1 for _ in DataLoader(Photos("photos"), batch_size=None)), type(batch).__name__)\n'
    photographs = len(list((folder / "photos").rglob("*.jpg")))
    assert photographs > 0
    assert run("python", block + told, folder) == f"batches {photographs} Tensor\n".encode()
    broken = block.replace("shape[0] == 3", "shape[0] == 4")
    assert broken != block
    with pytest.raises(AssertionError):
        run("python", broken, folder)


def test_the_torch_block_is_python_that_names_what_there_is() -> None:
    """Also where torch is missing: it compiles, and what it takes of normcli exists."""
    (block,) = (block for language, block in BLOCKS if language == "python")
    compile(block, "docs/apply.md", "exec")
    names = set(re.findall(r"\bnormcli\.(\w+)", block))
    assert names and names <= set(normcli.__all__)


def test_the_readmes_blocks_run(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sample_data" / "scenes", tmp_path / "photos")
    found = blocks(README)
    assert [language for language, _ in found] == ["bash", "bash", "python", "bash"]
    for language, block in found:
        if language == "bash":
            run(language, block, tmp_path)
    for folder in ("arrays", "cropped", "listed"):
        assert (tmp_path / folder / "normcli.json").exists()
    needs.module("torch")
    run(*found[2], tmp_path)


def test_the_readme_shows_what_the_commands_print(tmp_path: Path) -> None:
    """Of the sample scenes; `...` on a line of its own stands for any lines, as in a doctest."""
    shutil.copytree(ROOT / "sample_data" / "scenes", tmp_path / "photos")
    run("bash", "normcli stats photos -q -o stats.json", tmp_path)
    shown = re.findall(r"^```\n\$ (normcli [^\n]*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert [command.split()[1] for command, _ in shown] == ["show", "check"]
    for command, output in shown:
        printed = run("bash", command, tmp_path).decode()
        assert doctest.OutputChecker().check_output(output, printed, doctest.ELLIPSIS), printed
        assert not doctest.OutputChecker().check_output(output, printed.replace("0.4562", "0.4563"), doctest.ELLIPSIS)


def test_the_picture_shows_the_sample_scenes() -> None:
    summary = normcli.load(ROOT / "sample_data" / "expected.json")
    text = (ROOT / "docs/stats.svg").read_text().replace("&#160;", " ")
    assert "normcli stats sample_data/scenes" in text and f"{summary.images} images" in text
    for values in (summary.mean, summary.std, summary.conventions["mean_of_image_stds"]["std"] or []):
        assert [value for value in values if f"{value:.4f}" not in text] == []


def test_every_scheme_and_output_has_a_line() -> None:
    for name in [*SCHEMES, *OUTPUT_KINDS]:
        assert re.search(rf"^\| .*`{name}`", TEXT, re.MULTILINE), name
