"""A newcomer who follows one command through the code reads a bounded number of files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import normcli
from normcli.tensor import normalizers as nn
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

# command -> the most files that it enters, as `python -m tests.support.walk` lists them
WALKS = {"stats": 26, "apply": 30, "tensor": 12}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("walk")
    (folder / "photos").mkdir()
    for i in range(40):
        (folder / "photos" / f"{i}.jpg").write_bytes(encoded(photograph(400, 500, seed=i), "JPEG"))
    np.save(folder / "x.npy", np.random.default_rng(0).random((8, 64, 14, 14), np.float32))
    photos, numbers, x = (str(folder / name) for name in ("photos", "s.json", "x.npy"))
    normcli.stats(photos, output=numbers)
    nn.group_norm(np.load(x), layout="NCHW", groups=32)  # a kernel that is compiled enters more files
    threads = ["--engine", "threads", "-j", "2"]
    return {
        "stats": ["stats", photos, "-o", str(folder / "new.json"), *threads],
        "apply": ["apply", photos, "-o", str(folder / "out"), "--scheme", "contrast", "--stats", numbers, *threads],
        "tensor": ["tensor", "group-norm", x, "--layout", "NCHW", "--groups", "32", "-o", str(folder / "y.npy")],
    }


def walk(arguments: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.walk", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if line.endswith(".py")]


@pytest.mark.parametrize("command", WALKS)
def test_a_walk_is_short(command: str, arguments: dict[str, list[str]]) -> None:
    files = walk(arguments[command])
    assert f"cli/{command}.py" in files and "kernels/kernel.py" in files
    assert len(files) <= WALKS[command], files


def test_the_walk_sees_an_error(tmp_path: Path) -> None:
    assert {"cli/show.py", "summary/file.py", "errors.py"} <= set(walk(["show", str(tmp_path / "absent.json")]))
