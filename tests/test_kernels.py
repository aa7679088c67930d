"""Kernels run whatever state Numba's cache is in, and with bounds checked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, encoded, photograph

CODE = """
import io, logging
import numpy as np
import normcli
from normcli import kernels
records = io.StringIO()
logging.basicConfig(stream=records, level=logging.DEBUG)
from normcli.tally import Tally
kernels.loaded(wait=True)
kernels.loaded("mapping", wait=True)
tally = Tally()
tally.count(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
tally.count(np.arange(48, dtype=np.uint16).reshape(4, 4, 3))
tally.count(np.arange(48, dtype=np.float32).reshape(4, 4, 3))
pixels = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
halves = normcli.transform("unit", dtype="float16")(pixels)
assert np.array_equal(halves, (pixels / 255).astype(np.float16).transpose(2, 0, 1))
floats = normcli.transform("unit")(pixels)
assert np.array_equal(floats, (pixels / 255).astype(np.float32).transpose(2, 0, 1))
if kernels.loaded("mapping") is not None:
    from normcli.normalizers import group_norm
    groups = group_norm(np.array([[1.0, 3.0, 5.0, 7.0]], np.float32), groups=2, eps=0)
    assert groups.tolist() == [[-1.0, 1.0, -1.0, 1.0]]
print([b.sums(0) for b in tally.buckets.values()], "not usable" in records.getvalue())
"""
EXPECTED = "[(360, 11160), (360, 11160), (Fraction(360, 1), Fraction(11160, 1))]"


def count(package: Path, **environment: str) -> str:
    """Count three images with the package copied to a folder of its own; give what was printed."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(package), **environment},
        timeout=300,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "normcli", root / "normcli", ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def cache(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    assert count(package, NUMBA_CACHE_DIR=str(folder)) == f"{EXPECTED} False"
    assert list(folder.rglob("*.nbc"))
    return folder


@pytest.mark.parametrize("damage", ["cut index", "cut code", "empty", "noise in index", "noise in code", "folder"])
def test_a_damaged_cache_is_compiled_anew(package: Path, cache: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    for path in [*copy.rglob("*.nbc"), *copy.rglob("*.nbi")]:
        kind = "code" if path.suffix == ".nbc" else "index"
        data = path.read_bytes()
        if damage == f"cut {kind}":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == f"noise in {kind}":
            path.write_bytes(data[:40] + bytes(b ^ 0x5A for b in data[40:400]) + data[400:])
        elif damage == "folder":
            path.unlink()
            path.mkdir()
    assert count(package, NUMBA_CACHE_DIR=str(copy)).startswith(EXPECTED)


def test_a_cache_that_cannot_be_written(package: Path) -> None:
    assert count(package, NUMBA_CACHE_DIR="/dev/null/nowhere").startswith(EXPECTED)


def test_bounds_are_kept(package: Path, tmp_path: Path) -> None:
    found = count(package, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert found.startswith(EXPECTED)


def test_the_kernels_are_right_as_plain_python(package: Path) -> None:
    assert count(package, NUMBA_DISABLE_JIT="1").startswith(EXPECTED)


def test_without_numba_every_depth_is_counted(package: Path, tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('not for this Python')")
    found = count(package, PYTHONPATH=f"{tmp_path}{os.pathsep}{package}")
    assert found == f"{EXPECTED} True"


def test_without_numba_a_normalizer_says_so(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('not for this Python')")
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    command = [sys.executable, "-m", "normcli", "tensor", "layer_norm", "x.npy", "--layout", "NC", "-o", "y.npy"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr == "normcli: normalizers need Numba, which does not work here: not for this Python\n"
    assert not (tmp_path / "y.npy").exists()


def test_a_small_run_loads_no_numba(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph()))
    code = f"import sys, normcli; normcli.stats({str(tmp_path)!r}); print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_the_command_never_imports_scipy(tmp_path: Path) -> None:
    """Numba does where it is installed: 0.17 s, and its OpenBLAS asks for memory for ever under `ulimit -v`."""
    (tmp_path / "scipy").mkdir()
    (tmp_path / "scipy/__init__.py").write_text("import os; os._exit(99)")
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    command = [sys.executable, "-m", "normcli", "tensor", "layer-norm", "x.npy", "-o", "y.npy", "-q"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
