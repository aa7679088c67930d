"""Kernels run with a cache in any state, without Numba's import where it has them, and with bounds checked."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.kernels import histograms, kernel, mapping
from normcli.kernels.kernel import Kernel
from normcli.tally import Tally
from normcli.tally.integers import tables
from normcli.tensor.normalizers import instance_norm, layer_norm, resources
from tests.support.command import ROOT
from tests.support.images import encoded, photograph

CODE = """
import io, logging
import numpy as np
import normcli
from normcli.kernels import histograms, mapping, rows
from normcli.kernels.kernel import Kernel
records = io.StringIO()
logging.basicConfig(stream=records, level=logging.DEBUG)
from normcli.tally import Tally
Kernel.is_due = lambda _: True
tally = Tally()
tally.count(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), moments=True)  # not with other small ones
tally.count(np.arange(48, dtype=np.uint16).reshape(4, 4, 3))
tally.count(np.arange(48, dtype=np.float32).reshape(4, 4, 3))
image = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
halves = normcli.transform("unit", dtype="float16")(image)
assert np.array_equal(halves, (image / 255).astype(np.float16).transpose(2, 0, 1))
floats = normcli.transform("unit")(image)
assert np.array_equal(floats, (image / 255).astype(np.float32).transpose(2, 0, 1))
assert histograms.count_bytes.is_loaded == mapping.affine.is_loaded
assert mapping.affine.is_loaded == mapping.look_up.is_loaded == histograms.count_floats.is_loaded
if mapping.affine.is_loaded:
    from normcli.tensor.normalizers import group_norm, views
    groups = group_norm(np.array([[1.0, 3.0, 5.0, 7.0]], np.float32), groups=2, eps=0)
    assert groups.tolist() == [[-1.0, 1.0, -1.0, 1.0]]
    wide = np.arange(600, dtype=np.float32).reshape(1, 600) % 7
    expected = group_norm(wide, groups=2)
    views.BYPASS_BYTES = 0
    assert np.array_equal(group_norm(wide, groups=2), expected)
print([b.sums(0) for b in tally.buckets.values()], "not usable" in records.getvalue())
"""
# one kernel, where what is tested holds for each alike: compiling all six takes 6 s
BYTES = """
import numpy as np
from normcli.kernels.kernel import Kernel
from normcli.tally import Tally
Kernel.is_due = lambda _: True
tally = Tally()
tally.count(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), moments=True)
print([b.sums(0) for b in tally.buckets.values()])
"""
EXPECTED = "[(360, 11160), (360, 11160), (Fraction(360, 1), Fraction(11160, 1))]"


def count(package: Path, code: str = CODE, **environment: str) -> str:
    """Count three images with the package copied to a folder of its own; return the output."""
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
    """Every kernel is stored by itself, and stored code has the bits of code that was just compiled."""
    code = CODE + "\nimport sys; print('numba' in sys.modules)"
    assert count(package, code, NUMBA_CACHE_DIR=str(cache)) == f"{EXPECTED} False\nFalse"


DAMAGES = ("cut", "empty", "noise in checksum", "noise in code", "folder", "anyone's")


@pytest.mark.parametrize("damages", [DAMAGES, *(pytest.param([d] * 6, marks=pytest.mark.campaign) for d in DAMAGES)])
def test_a_damaged_cache_is_compiled_anew(package: Path, cache: Path, tmp_path: Path, damages: list[str]) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    files = {path: path.read_bytes() for path in sorted(copy.rglob("*.o"))}
    for (path, data), damage in zip(files.items(), damages, strict=True):
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
        with (other / "normcli/kernels/histograms.py").open("a") as file:
            file.write("# changed")
    else:
        environment["NUMBA_LOOP_VECTORIZE"] = "0"
    assert count(other, BYTES, **environment) == "[(360, 11160)]"
    assert len(list(copy.rglob("*.o"))) == 7


def test_another_numba_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for version in ("1.0", "1.1"):
        (tmp_path / "_version.py").write_text(f"version = {version!r}")
        place = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr("importlib.util.find_spec", lambda _, place=place: place)
        names.add(kernel.code_path("histograms.count_bytes", b"some"))
    assert len(names) == 2


def test_a_package_in_an_archive_keeps_its_code_by_its_sources(package: Path, tmp_path: Path) -> None:
    """Code is named by the content of its sources, which are no files in an archive."""
    for turn in ("", "# changed"):
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            for path in package.rglob("*.py"):
                text = path.read_text() + (turn if path.name == "histograms.py" else "")
                archive.writestr(str(path.relative_to(package)), text)
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "c"), "PYTHONPATH": str(tmp_path / "p.zip")}
        assert count(tmp_path, BYTES, **environment) == "[(360, 11160)]"
    names = [path.name for path in (tmp_path / "c").rglob("*.o")]
    assert len(names) == 2 and all(name.startswith("histograms.count_bytes-") for name in names)


def test_what_does_not_stand_alone_is_left_to_numba(package: Path, tmp_path: Path) -> None:
    """A Numba or an LLVM that leaves calls in the code: nothing is kept, everything is right."""
    code = "from normcli.kernels import kernel; kernel._LIBC = set()\n" + CODE
    code += "print(rows.normalize_rows._dispatcher is None)"
    assert count(package, code, NUMBA_CACHE_DIR=str(tmp_path)) == f"{EXPECTED} False\nFalse"
    assert not list(tmp_path.rglob("*normalize_rows*"))


def test_a_kernel_that_cannot_be_compiled_beside_one_that_is_kept(package: Path, cache: Path, tmp_path: Path) -> None:
    """Numba stopped working after the first run, whose kernels load still."""
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    for path in copy.rglob("*.o"):
        if not path.name.startswith(("histograms.count_bytes", "mapping.affine")):
            path.unlink()
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba/__init__.py").write_text("raise ImportError('not for this NumPy')")
    spec = importlib.util.find_spec("numba")
    assert spec is not None and spec.origin is not None
    shutil.copy(Path(spec.origin).with_name("_version.py"), tmp_path / "numba")
    code = (
        CODE.replace("assert histograms.count_bytes.is_loaded ==", "assert True or")
        .replace("assert mapping.affine.is_loaded ==", "assert True or")
        .replace("if mapping.affine.is_loaded", "if False")
    )
    path_ = f"{tmp_path}{os.pathsep}{package}"
    assert count(package, code, PYTHONPATH=path_, NUMBA_CACHE_DIR=str(copy)) == f"{EXPECTED} True"


def test_code_of_another_kernel_is_not_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    kernel.write_code(tmp_path / "one.o", b"code")
    assert kernel.read_code(tmp_path / "one.o") == b"code"
    (tmp_path / "one.o").rename(tmp_path / "two.o")
    assert kernel.read_code(tmp_path / "two.o") is None


def test_a_name_and_its_code_are_told_apart(tmp_path: Path) -> None:
    """A checksum of their concatenation would be that of another name, whose end is the start of the code."""
    tmp_path.chmod(0o700)
    kernel.write_code(tmp_path / "a", rb"\0b")
    checksum = (tmp_path / "a").read_bytes()[:32]
    (tmp_path / r"a\0").write_bytes(checksum + b"b")
    (tmp_path / r"a\0").chmod(0o600)
    assert kernel.read_code(tmp_path / r"a\0") is None


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    kernel.write_code(tmp_path / "one.o", b"code")
    tmp_path.chmod(0o777)
    assert kernel.read_code(tmp_path / "one.o") is None
    kernel.write_code(tmp_path / "two.o", b"code")
    assert not (tmp_path / "two.o").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "device", "link to a folder"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    tmp_path.chmod(0o700)
    kernel.write_code(tmp_path / "one.o", b"code")
    path = tmp_path / "two.o"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    else:
        (tmp_path / "folder").mkdir()
        path.symlink_to({"link": "one.o", "device": "/dev/zero"}.get(kind, "folder"))
    assert kernel.read_code(path) is None
    kernel.write_code(path, b"other")
    assert kernel.read_code(path) == b"other" and kernel.read_code(tmp_path / "one.o") == b"code"


def test_what_killed_runs_and_old_versions_left_is_removed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    ages = {".killed": 2 * 3600, ".under-way": 60, "old.o": 400 * 86400, "younger.o": 300 * 86400}
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    kernel.write_code(tmp_path / "one.o", b"code")
    assert {path.name for path in tmp_path.iterdir()} == {".under-way", "younger.o", "one.o"}


@pytest.mark.parametrize(
    ("home", "xdg", "numba", "expected"),
    [
        ("/h", "", "", "/h/.cache/normcli"),
        ("/h", "/x", "", "/x/normcli"),
        ("/h", "relative", "", "/h/.cache/normcli"),
        ("/h", "/x", "n", "n/normcli"),
        ("", "", "", None),
    ],
)
def test_where_code_is_kept(
    home: str, xdg: str, numba: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", xdg), ("NUMBA_CACHE_DIR", numba)):
        monkeypatch.setenv(name, value)
    assert kernel.code_folder() == (None if expected is None else Path(expected))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pixels_at_an_odd_address(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.arange(5 * 7 * 3).reshape(5, 7, 3).astype(dtype)
    odd = np.frombuffer(b"." + image.tobytes(), np.uint8)[1:].view(dtype).reshape(image.shape)
    monkeypatch.setattr(Kernel, "is_due", lambda _: True)
    assert odd.ctypes.data % 2
    tallies = Tally(), Tally()
    for tally, each in zip(tallies, (image, odd), strict=True):
        tally.count(each, moments=True)
    assert json.dumps(tallies[0].state()) == json.dumps(tallies[1].state())
    for to in ("float32", "float16"):
        change = normcli.transform("unit", dtype=to, max_value=None if dtype != "float32" else 255)
        assert np.array_equal(change(image), change(odd))


def test_a_memory_map_is_an_array(tmp_path: Path) -> None:
    image = photograph()
    np.save(tmp_path / "x.npy", image)
    change = normcli.transform("unit")
    assert np.array_equal(change(np.load(tmp_path / "x.npy", mmap_mode="r")), change(image))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_bytes_are_counted_in_pairs_as_one_by_one(channels: int) -> None:
    """Check images of one value, whose pairs fill their counts many times, of few and of all values, and odd sizes."""
    rng = np.random.default_rng(channels)
    for pixels in (0, 1, 11, 12, 13, 40_000):
        for low, high in ((255, 256), (100, 103), (0, 256)):
            samples = rng.integers(low, high, pixels * channels).astype(np.uint8)
            one, other = ((np.ones((channels, 256), np.int64), np.ones((channels, 2), np.int64)) for _ in range(2))
            histograms.count_bytes(samples, kernel.as_pairs(samples), *one, *tables())
            histograms.count_integers(samples, *other)
            assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_arguments_that_a_kernel_cannot_take() -> None:
    histogram, sums = np.zeros((1, 65536), np.int64), np.zeros((1, 2), np.int64)
    with pytest.raises(ValueError, match="contiguous"):
        histograms.count_integers(np.zeros(8, np.uint16)[::2], histogram, sums)
    with pytest.raises(TypeError, match="str is neither an array nor a number"):
        histograms.count_integers("pixels", histogram, sums)
    with pytest.raises(OverflowError, match="64 bits"):
        mapping.affine(np.zeros(3, np.uint8), 1 << 63, *np.zeros((3, 3)), np.zeros(3), True)


@pytest.mark.parametrize("kind", [float, np.float32, np.float16, np.float64, Fraction, np.array])
def test_a_number_of_any_kind_is_that_number(kind: Any) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(layer_norm(x, eps=kind(0.25)), layer_norm(x, eps=0.25))
    assert not np.array_equal(layer_norm(x, eps=0.25), layer_norm(x, eps=0))
    assert np.array_equal(layer_norm(x, eps=1), layer_norm(x, eps=1.0))


@pytest.mark.parametrize("kind", ["Fortran", "gaps", "odd", "read-only"])
def test_results_that_kernels_cannot_write_to(kind: str) -> None:
    def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
        if kind == "Fortran":
            return np.empty(shape, dtype, "F")
        if kind == "gaps":
            return np.empty((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
        made = np.zeros(math.prod(shape) * dtype.itemsize + 1, np.uint8)[1:].view(dtype).reshape(shape)
        made.flags.writeable = kind != "read-only"
        return made

    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    with resources(allocate=allocate):
        if kind == "read-only":
            with pytest.raises(ValueError, match="read-only"):
                instance_norm(x, layout="NCHW")
            return
        found = instance_norm(x, layout="NCHW")
    assert np.array_equal(found, instance_norm(x, layout="NCHW"))


def test_a_cache_that_cannot_be_written(package: Path) -> None:
    assert count(package, BYTES, NUMBA_CACHE_DIR="/dev/null/nowhere") == "[(360, 11160)]"


def test_bounds_are_kept(package: Path, tmp_path: Path) -> None:
    found = count(package, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))
    assert found.startswith(EXPECTED)


def test_numba_alone_computes_the_same(package: Path, tmp_path: Path) -> None:
    assert count(package, NORMCLI_AOT="0", NUMBA_CACHE_DIR=str(tmp_path)) == f"{EXPECTED} False"
    assert not list(tmp_path.rglob("*.o"))


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("other", [-0.0, 0.5, 32768.0, -32769.0, math.nan, math.inf, -math.inf])
def test_integers_of_16_bits_are_counted_up_to_the_block_of_another_value(
    other: float, channels: int, dtype: type[np.floating[Any]]
) -> None:
    values = np.random.default_rng(3).integers(-32768, 32768, 3000 * channels).astype(dtype)
    for at in (None, 0, 1023 * channels, 1024 * channels, values.size - 1):
        pixels = values.copy()
        if at is not None:
            pixels[at] = other
        block = histograms._BLOCK * channels
        whole = values.size if at is None else at // block * block
        expected = [
            np.bincount(values[:whole][c::channels].astype(int) + 32768, minlength=65536) for c in range(channels)
        ]
        tables, used = np.zeros((channels, histograms.TABLES, 65536), np.uint32), np.zeros(1, np.int64)
        histograms.count_whole(pixels, tables, used)
        assert used[0] == whole and np.array_equal(tables.sum(axis=1), expected)
