"""docs/conventions.md: every command shown is run again, and prints what the page says.

`python tests/test_conventions_doc.py` writes the page anew.
"""

import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conventions.md"
_TIMES = re.compile(r", [\d.]+ s, [\d,.]+ images/s$", re.MULTILINE)  # of the closing line
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def rerun(text: str, data: Path) -> str:
    """The page with every command's output as it is now; stdout, then stderr, and the exit code if not 0."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "imagenet-300").symlink_to(data / "imagenet-300")
        (folder / "sample_data").symlink_to(ROOT / "sample_data")
        with tarfile.open(data / "mnist-test.tar") as archive:
            archive.extractall(folder / "mnist-test", filter="data")
        return _BLOCK.sub(lambda block: f"```console\n{_session(block.group(1), folder)}```", text)


def _session(block: str, folder: Path) -> str:
    out = ""
    for line in block.splitlines():
        if not line.startswith("$ normcli "):
            continue
        command = [sys.executable, "-m", "normcli", *shlex.split(line)[2:]]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)
        printed = _TIMES.sub("", done.stdout + done.stderr).rstrip("\n")
        out += f"{line}\n{printed}\n" + (f"$ echo $?\n{done.returncode}\n" if done.returncode else "")
        out = out.replace("\n\n$", "\n$")
    return out.replace(f"{folder}/", "")


def test_the_page_shows_what_the_commands_print(shared_data: Path) -> None:
    text = PAGE.read_text()
    assert rerun(text, shared_data) == text


def test_every_dialect_and_convention_is_on_the_page() -> None:
    from normcli.constants.exporters import EXPORTERS
    from normcli.summary.remarks import CONVENTIONS

    text = PAGE.read_text()
    assert [name for name in (*EXPORTERS, *CONVENTIONS) if f"`{name}`" not in text] == []


if __name__ == "__main__":
    PAGE.write_text(rerun(PAGE.read_text(), ROOT.parent / "shared" / "data"))
    sys.exit(pytest.main([__file__, "-q"]))
