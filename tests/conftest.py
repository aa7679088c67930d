"""Fixtures of many tests: the real command as a subprocess, small images, the shared data."""

import logging
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normcli.platforms import usable_cpus
from tests.support import needs
from tests.support.cluster import cluster, many  # noqa: F401 - fixtures
from tests.support.command import ROOT, Run
from tests.support.faults import undisturbed  # noqa: F401
from tests.support.images import encoded, photograph
from tests.support.incremental import files_of_long_ago, mixed  # noqa: F401
from tests.support.servers import bucket, no_waiting, server  # noqa: F401

# a shell that runs the tests in its background has SIGINT ignored, and what is ignored is inherited
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the workers of `-n auto`: two a core, since tests wait for commands, servers and disks."""
    return 2 * usable_cpus()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for each thing to install for the skipped tests; pytest's -rs prints one for each place."""
    skipped = terminalreporter.stats.get("skipped", [])
    counts = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in needs.merged(counts).items():
        terminalreporter.line(f"skipped {count}: {reason}")


@pytest.fixture(autouse=True)
def level_of_messages() -> Iterator[None]:
    """Restore the level of messages, which a command that a test runs in this process sets."""
    logger = logging.getLogger("normcli")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `normcli …` in a folder of its own; stdout and stderr are bytes."""

    def call(*arguments: Any, **options: Any) -> "subprocess.CompletedProcess[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
        command = [sys.executable, "-m", "normcli", *map(os.fspath, map(_text, arguments))]
        return subprocess.run(
            command, capture_output=True, cwd=options.pop("cwd", tmp_path), env=environment, timeout=120, **options
        )

    return call


def _text(argument: Any) -> Any:
    return argument if isinstance(argument, str | bytes | os.PathLike) else str(argument)


@pytest.fixture
def shared_data() -> Path:
    """The real images beside the checkout."""
    return needs.data()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small images of several kinds in two class folders."""
    root = tmp_path / "images"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}.jpg").write_bytes(encoded(photograph(seed=i + len(name)), "JPEG", quality=90))
        (root / name / "gray.png").write_bytes(encoded(photograph(channels=1, seed=3)))
        deep = photograph(channels=1, seed=5).astype(np.uint16) * 200
        (root / name / "deep.png").write_bytes(encoded(deep))
    return root


@pytest.fixture(params=["tar", "parquet"])
def sink(request: pytest.FixtureRequest) -> str:
    """A kind of output that is written as shards."""
    if request.param == "parquet":
        needs.module("pyarrow")
    return str(request.param)


@pytest.fixture
def four_classes(tmp_path: Path) -> Path:
    """Twenty images of five sizes in four classes, one gray; and a broken one."""
    folder = tmp_path / "photos"
    for number in range(20):
        path = folder / ["ant", "bee", "cat", "dog"][number % 4] / f"{number:02d}.v1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photograph(20 + number % 5, 30, 1 if number == 7 else 3, seed=number)))
    (folder / "bee/05b.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder
