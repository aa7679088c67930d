"""What many tests use: the real command as a subprocess, small images, the shared data."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
# a shell that runs the tests in its background has SIGINT ignored, and what is ignored is inherited
signal.signal(signal.SIGINT, signal.default_int_handler)
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


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
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(reason="no ../shared/data beside this checkout")
    return folder


def encoded(array: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    """An array (H,W) or (H,W,C) as an image file's bytes."""
    buffer = io.BytesIO()
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(height: int = 48, width: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    """A smooth uint8 picture with some grain: compresses and behaves like a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (5 + c + seed % 7) + y / (9 - c)) for c in range(channels)]
    picture = np.stack(waves, axis=2) + rng.normal(0, 12, (height, width, channels))
    return np.clip(picture, 0, 255).astype(np.uint8)


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
    """What apply writes as shards."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason='pyarrow is not installed: pip install "normcli[parquet]"')
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
