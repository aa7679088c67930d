"""Kernels run whatever state their cache is in, without Numba where it holds them, and with bounds checked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, encoded, photograph

import normcli
from normcli import kernels
from normcli.tally import Tally

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


def count(package: Path, code: str = CODE, **environment: str) -> str:
    """Count three images with the package copied to a folder of its own; give what was printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
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
    assert len(list(folder.rglob("*.o"))) == 6
    return folder


def test_a_second_run_loads_no_numba(package: Path, cache: Path) -> None:
    """Every kernel stands alone, and the bits of what was kept are those of what was compiled."""
    code = CODE + "\nimport sys; print('numba' in sys.modules)"
    assert count(package, code, NUMBA_CACHE_DIR=str(cache)) == f"{EXPECTED} False\nFalse"


@pytest.mark.parametrize("damage", ["cut", "empty", "noise in checksum", "noise in code", "folder", "anyone's"])
def test_a_damaged_cache_is_compiled_anew(package: Path, cache: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    files = {path: path.read_bytes() for path in copy.rglob("*.o")}
    for path, data in files.items():
        if damage == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "noise in checksum":
            path.write_bytes(bytes(b ^ 0x5A for b in data[:32]) + data[32:])
        elif damage == "noise in code":
            path.write_bytes(data[:40] + bytes(b ^ 0x5A for b in data[40:400]) + data[400:])
        elif damage == "folder":
            path.unlink()
            path.mkdir()
        else:
            path.chmod(0o666)
    assert count(package, NUMBA_CACHE_DIR=str(copy)) == f"{EXPECTED} False"
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == files  # whole again
    assert not any(path.stat().st_mode & 0o022 for path in files)


@pytest.mark.parametrize("change", ["source", "setting"])
def test_what_code_depends_on_is_in_its_name(package: Path, cache: Path, tmp_path: Path, change: str) -> None:
    copy, other = tmp_path / "cache", tmp_path / "other"
    shutil.copytree(cache, copy)
    shutil.copytree(package, other)
    environment = {"NUMBA_CACHE_DIR": str(copy)}
    if change == "source":
        with (other / "normcli/kernels/pixels.py").open("a") as file:
            file.write("# changed")
    else:
        environment["NUMBA_LOOP_VECTORIZE"] = "0"
    assert count(other, **environment) == f"{EXPECTED} False"
    assert len(list(copy.rglob("*.o"))) == 12


def test_another_numba_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for version in ("1.0", "1.1"):
        (tmp_path / "_version.py").write_text(f"version = {version!r}")
        place = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr("importlib.util.find_spec", lambda _, place=place: place)
        kernels.cache.origin.cache_clear()
        names.add(kernels.cache.path_of("pixels.count_bytes", "some", "cpu"))
    kernels.cache.origin.cache_clear()
    assert len(names) == 2


def test_what_does_not_stand_alone_is_left_to_numba(package: Path, tmp_path: Path) -> None:
    """A Numba or an LLVM that leaves calls in the code: nothing is kept, everything is right."""
    code = (
        "from normcli.kernels import jit; jit._LIBM = set()\n"
        + CODE
        + "\nprint(normcli.kernels.tensors.normalize_rows._dispatcher is None)"
    )
    assert count(package, code, NUMBA_CACHE_DIR=str(tmp_path)) == f"{EXPECTED} False\nFalse"
    assert not list(tmp_path.rglob("*normalize_rows*"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pixels_at_an_odd_address(dtype: str) -> None:
    pixels = np.arange(5 * 7 * 3).reshape(5, 7, 3).astype(dtype)
    odd = np.frombuffer(b"." + pixels.tobytes(), np.uint8)[1:].view(dtype).reshape(pixels.shape)
    assert odd.ctypes.data % 2 and kernels.loaded(wait=True) is not None
    kernels.loaded("mapping", wait=True)
    tallies = Tally(), Tally()
    for tally, image in zip(tallies, (pixels, odd), strict=True):
        tally.count(image, moments=True)
    assert json.dumps(tallies[0].state()) == json.dumps(tallies[1].state())
    for to in ("float32", "float16"):
        change = normcli.transform("unit", dtype=to, range=None if dtype != "float32" else 255)
        assert np.array_equal(change(pixels), change(odd))


def test_arguments_that_a_kernel_cannot_walk_through() -> None:
    pixels = kernels.loaded(wait=True)
    assert pixels is not None
    with pytest.raises(ValueError, match="contiguous"):
        pixels.count_integers(np.zeros(8, np.uint16)[::2], np.zeros((1, 65536), np.int64), np.zeros((1, 2), np.int64))


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


def test_compiling_never_imports_scipy(tmp_path: Path) -> None:
    """Numba does where it is installed: 0.17 s, and its OpenBLAS asks for memory for ever under `ulimit -v`."""
    (tmp_path / "scipy").mkdir()
    (tmp_path / "scipy/__init__.py").write_text("import os; os._exit(99)")
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    command = [sys.executable, "-m", "normcli", "tensor", "layer-norm", "x.npy", "-o", "y.npy", "-q"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "NUMBA_CACHE_DIR": str(tmp_path / "c")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
