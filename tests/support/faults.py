"""One small run of each command, for tests that disturb it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from normcli.storage.atomic import PARTIAL
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

COMMANDS = {
    "stats": ["stats", "in", "-o", "made/s.json", "-q"],
    "apply": ["apply", "in", "-o", "made/out", "-s", "unit", "-q"],
    "tensor": ["tensor", "batch-norm", "x.npy", "--layout", "NCHW", "-o", "made/y.npy", "-q"],
}


class Case(NamedTuple):
    """A folder with images and a tensor, and a `made` for results."""

    folder: Path
    command: list[str]

    def run(self, *before: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MARKER": str(self.folder / "marker")}
        environment |= options.pop("env", {})
        program = ["-m", "normcli"] if not before else [str(ROOT / "tests/support/injected.py"), *before]
        return subprocess.run(
            [sys.executable, *program, *self.command, *options.pop("more", [])],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            cwd=self.folder,
            env=environment,
            timeout=60,
        )

    def results(self) -> dict[str, bytes]:
        """Return the files under final names: none that is hidden, or in the folder of unfinished ones."""
        made = self.folder / "made"
        found = [p.relative_to(made) for p in sorted(made.rglob("*")) if p.is_file()]
        hidden = [p for p in found if any(part.startswith(".") for part in p.parts)]
        return {str(p): (made / p).read_bytes() for p in found if p not in hidden}

    def leftovers(self) -> list[str]:
        return sorted(p.name for p in (self.folder / "made").rglob("*") if p.name.endswith(PARTIAL) and p.is_file())

    def whole(self, expected: dict[str, bytes]) -> None:
        """Assert that every file under a final name is that of an undisturbed run."""
        for name, data in self.results().items():
            assert data == expected[name], f"{name} is partial"

    def completes(self, expected: dict[str, bytes]) -> None:
        """Assert that the same command, resumed if asked, leaves the results of an undisturbed run."""
        if self.results() == expected:  # little was enough
            return
        resumed = ["--resume"] if self.command[0] == "apply" and (self.folder / "made/out").exists() else []
        done = self.run(more=resumed)
        assert done.returncode == 0, done.stderr
        assert self.results() == expected and self.leftovers() == []


def filled(folder: Path) -> Path:
    (folder / "in").mkdir(parents=True)
    (folder / "made").mkdir()
    for i in range(6):
        (folder / f"in/{i}.png").write_bytes(encoded(photograph(24, 32, seed=i)))
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(6, 4, 5, 3)).astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    out = {}
    for name, command in COMMANDS.items():
        case = Case(filled(tmp_path_factory.mktemp(name)), command)
        assert case.run().returncode == 0
        out[name] = case.results()
    return out
