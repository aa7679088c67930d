"""Imports made late, in worker threads: failed ones are reported by their reason, and absent libraries as absent."""

import ast
import io
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli import late_imports
from normcli.errors import MissingExtraError
from normcli.images import pillow
from tests.support import needs
from tests.support.command import ROOT
from tests.support.images import encoded, photograph


@pytest.fixture(autouse=True)
def unknown() -> Iterator[None]:
    """Forget between tests that pillow-heif is installed, or is not."""
    pillow._register_heif.cache_clear()
    yield
    pillow._register_heif.cache_clear()


# The first worker that imports a module fails when another one waits for it: run with the module, whether all later
# imports fail as well, and a command.
TWO_WORKERS = """
import sys, threading
import normcli
from normcli import late_imports

module, always, command, folder = sys.argv[1:]
first = []

def waits(thread):
    frame = sys._current_frames().get(thread.ident)
    while frame is not None:
        code, values = frame.f_code, frame.f_locals
        if (code.co_filename, code.co_name) == ("<frozen importlib._bootstrap>", "acquire"):
            if getattr(values.get("self"), "name", None) == module:
                return True
        if (code.co_filename, code.co_name) == (late_imports.__file__, "library"):
            return True
        frame = frame.f_back
    return False

class Failing:
    def __init__(self, loader):
        self.loader = loader
    def create_module(self, spec):
        return self.loader.create_module(spec)
    def exec_module(self, one):
        if not first or always == "always":
            if not first:
                first.append(threading.current_thread())
                while not any(waits(other) for other in threading.enumerate() if other is not first[0]):
                    pass
            raise MemoryError
        self.loader.exec_module(one)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != module:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = Failing(spec.loader)
                return spec

sys.meta_path.insert(0, Finder())
failures = []
options = {"engine": "threads", "workers": 2, "on_failure": failures.append}
try:
    if command == "stats":
        images = normcli.stats(folder, **options).images
    else:
        images = normcli.apply(folder, folder + "-out", scheme="unit", **options).images
except normcli.NoInputError:
    images = 0
assert module not in sys.modules or first, "the command does without it"
print(images, sorted({failure.message for failure in failures}), first != [])
"""


def deep_tiff() -> bytes:
    file = io.BytesIO()
    needs.module("tifffile").imwrite(file, np.zeros((8, 8, 3), np.uint16), photometric="rgb")
    return file.getvalue()


# module -> an image that imports it as it is decoded: by statements of ours, or by `library`
DECODING: dict[str, Callable[[], bytes]] = {
    "normcli.images.pillow": lambda: encoded(photograph(24, 32)),
    "normcli.images.pnm": lambda: b"P5 4 4 255 " + bytes(16),
    "tifffile": deep_tiff,
}


@pytest.mark.parametrize("always", ["once", "always"])
@pytest.mark.parametrize("module", [*DECODING])
@pytest.mark.parametrize("command", ["stats", "apply"])
def test_the_second_worker_reports_why_the_first_could_not_import(
    command: str, module: str, always: str, tmp_path: Path
) -> None:
    """It said that a name cannot be imported; now it imports the module itself, or fails for the same reason."""
    (tmp_path / "in").mkdir()
    for i in range(4):
        (tmp_path / f"in/{i}.png").write_bytes(DECODING[module]())
    call = [sys.executable, "-c", TWO_WORKERS, module, always, command, str(tmp_path / "in")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60)
    used = 0 if always == "always" else 3
    assert done.stdout == f"{used} ['not enough memory to decode it'] True\n", done.stderr


class FailingImports:
    """A finder by which the import of a library that is installed raises an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, library: str, error: BaseException) -> None:
        self.library, self.error = library, error
        for name in [name for name in sys.modules if name.partition(".")[0] == library]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [self, *sys.meta_path])

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return ModuleSpec(name, self) if name == self.library else None  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        raise self.error


BROKEN = "libthing.so.1: cannot open shared object file: No such file or directory"


PNG_16 = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x04\0\0\0\x04\x10\x02" + bytes(99)


def stats_of(name: str, data: bytes) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        (folder / name).write_bytes(data)
        return normcli.stats(folder / name, engine="serial")

    return run


def counted(folder: Path, **options: Any) -> normcli.Summary:
    (folder / "x.png").write_bytes(encoded(photograph(8, 8)))
    return normcli.stats(folder / "x.png", **options)


def volume(folder: Path) -> object:
    header = bytearray(struct.pack("<i", 348) + bytes(348))
    header[344:348] = b"n+1\0"
    return stats_of("x.nii", bytes(header))(folder)


# library -> what requires it
SITES: dict[str, Callable[[Path], object]] = {
    "tifffile": stats_of("x.png", PNG_16),
    "imagecodecs": stats_of("x.png", PNG_16),
    "pydicom": stats_of("x.dcm", bytes(128) + b"DICM" + bytes(400)),
    "pillow_heif": stats_of("x.heic", b"\0\0\0\x18ftypheic" + bytes(400)),
    "h5py": stats_of("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(400)),
    "pyarrow": stats_of("x.parquet", b"PAR1" + bytes(400) + b"PAR1"),
    "nibabel": volume,
    "av": stats_of("x.mp4", b"\0\0\0\x18ftypisom" + bytes(400)),
    "zstandard": stats_of("x.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(400)),
    "distributed": lambda folder: counted(folder, engine="dask"),
    "fsspec": lambda folder: normcli.stats("https://localhost/x.png"),
    "jinja2": lambda folder: counted(folder).report(folder / "page.html"),
    "matplotlib": lambda folder: counted(folder).plot(),
}


@pytest.mark.parametrize("error", [ImportError(BROKEN), MemoryError()], ids=["ImportError", "MemoryError"])
@pytest.mark.parametrize("library", SITES)
def test_a_library_that_cannot_be_loaded_is_not_absent(
    library: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FailingImports(monkeypatch, library, error)
    with pytest.raises((ImportError, MemoryError, normcli.NormcliError)) as raised:
        SITES[library](tmp_path)
    text = f"{raised.type.__name__}: {raised.value}"
    assert "pip install" not in text and not isinstance(raised.value, MissingExtraError), text
    assert ("libthing" if isinstance(error, ImportError) else "emory") in text, text


@pytest.mark.parametrize("library", SITES)
def test_a_library_that_is_absent_is_named_with_its_extra(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(normcli.NormcliError, match=r'pip install "normcli\[\w+\]"'):
        SITES[library](tmp_path)


def test_what_a_library_needs_is_not_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    FailingImports(monkeypatch, "thing", ModuleNotFoundError("No module named 'other'", name="other"))
    for load in (late_imports.optional, lambda name: late_imports.required(name, "it", "all")):
        with pytest.raises(ModuleNotFoundError, match="No module named 'other'"):
            load("thing")
    assert late_imports.optional("no_such_library") is None and late_imports.optional("os.no_such_module") is None


def test_no_import_is_made_under_a_lock_of_another() -> None:
    """A module that called `library` as it is imported would wait for a thread that waits for that module."""
    for path in (ROOT / "normcli").rglob("*.py"):
        tree = ast.parse(path.read_text())
        inner = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.Lambda)]
        within = {id(node) for function in inner for node in ast.walk(function)}
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in within]
        assert not [path for call in calls if ast.unparse(call.func).startswith("late_imports.")], path


# except ImportError, that a library is absent: of these it is right, or harmless
BROAD = {
    "images/jpeg.py",  # at the start: Pillow returns the same bits
    "storage/remote.py",  # fsspec's own, of which it looks at the cause
}


def test_no_failed_import_is_taken_for_absence() -> None:
    found = {
        str(path.relative_to(ROOT / "normcli"))
        for path in (ROOT / "normcli").rglob("*.py")
        if re.search(r"except ImportError\b", path.read_text())
    }
    assert found == BROAD


def test_the_lock_is_free_after_a_fork() -> None:
    """A thread that imports holds it while another one forks."""
    script = """
import os, sys, threading
from normcli import late_imports
held, done = threading.Event(), threading.Event()
def hold():
    with late_imports._lock:
        held.set()
        done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    late_imports.library("wave")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
done.set()
"""
    if not hasattr(os, "fork"):
        needs.skip(needs.LINUX)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr


def test_an_error_of_another_kind_is_its_own_reason() -> None:
    for statement in ("from os import nothing", "import os; os.nothing", "nothing", "1 / 0", "''.nothing"):
        with pytest.raises(Exception) as raised:
            exec(statement, {"__name__": __name__})
        assert late_imports.reason_of(raised.value) is raised.value, statement


def test_a_plugin_that_pillow_has_passed_over_is_imported_again(tmp_path: Path) -> None:
    """Pillow ignores an ImportError of a plugin, for as long as the process lives; a TIFF was then damaged."""
    (tmp_path / "x.tiff").write_bytes(encoded(photograph(8, 8), "TIFF"))
    script = """
import sys
from PIL import Image
import normcli
Image.init()
del Image.OPEN["TIFF"], sys.modules["PIL.TiffImagePlugin"]
print(normcli.stats(sys.argv[1]).images)
"""
    call = [sys.executable, "-c", script, str(tmp_path / "x.tiff")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1\n", done.stderr
