"""Small files that a kernel reads, many in one call: the same bytes, or left to the usual way, as files read alone."""

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normcli.kernels import kernel
from normcli.kernels.files import read_files
from normcli.kernels.kernel import Kernel
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.runs import read_small
from normcli.runs.count import PartialResult, WorkerOptions, count_batch
from normcli.sources import Item, Skipped, read
from normcli.storage.files import FileBytes
from tests.support import needs
from tests.support.images import encoded, photograph

if read_small._functions() is None:
    needs.skip(needs.LINUX)

MOST = 3000
# names below a folder; `None` is a missing file
CONTENTS: dict[str, bytes | None] = {
    "0.png": b"first",
    "1.png": b"\0" * 100,
    "empty.png": b"",
    "largest.png": b"x" * MOST,
    "larger.png": b"x" * (MOST + 1),
    "name with \n and é.png": b"name",
    "missing.png": None,
    "last.png": b"last",
}


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Return a function that switches the kernel on or off."""

    functions = read_small._functions()
    monkeypatch.setattr(read_small, "_alone", 1 << 60)  # the kernel pays from the first file on

    def switch(is_on: bool) -> None:
        monkeypatch.setattr(read_small, "_functions", lambda: functions if is_on else None)

    return switch


def contents_of(paths: list[str], limit: int | None = None) -> list[bytes | None]:
    return list(read_small.read_small_files([Item(path, FileBytes(path, limit)) for path in paths], MOST))


def opened() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in CONTENTS.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("0.png")
    (tmp_path / "dangling.png").symlink_to("nothing")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    Path(os.fsdecode(os.fsencode(tmp_path / "not utf-8 ") + b"\xff.png")).write_bytes(b"raw name")
    return tmp_path


@pytest.mark.parametrize("limit", [None, 4, 100])
def test_bytes_as_of_files_read_alone(folder: Path, limit: int | None, together: Callable[[bool], None]) -> None:
    special = ["/dev/zero", "/dev/null", "/proc/version", f"{folder}/a\0b", f"{folder}/0.png/inside", "", "\ud800"]
    paths = sorted(map(str, folder.iterdir()))
    handles = opened()
    for order in (paths, paths[::-1], *([path] for path in special), [*special, *paths], [*paths, *special], paths * 9):
        together(False)
        expected = contents_of(order, limit)
        together(True)
        assert contents_of(order, limit) == expected
    assert opened() == handles


def test_what_is_no_local_file_is_left_out(together: Callable[[bool], None], tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"0")
    item = Item("0", FileBytes(str(tmp_path / "0")))
    others: list[Item | Skipped] = [
        Skipped("s", "hidden", ""),
        Item("u", FileBytes("http://x.invalid/y")),
        Item("b", lambda: b""),
    ]
    together(True)
    assert list(read_small.read_small_files([item, *others, item], MOST)) == [b"0", None, None, None, b"0"]
    assert list(read_small.read_small_files(others, MOST)) == [None] * len(others)


def test_relative_paths(folder: Path, together: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    together(True)
    assert contents_of(["0.png", "./last.png"]) == [b"first", b"last"]


def test_more_bytes_than_the_buffer(
    tmp_path: Path, together: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_small, "_BUFFER", 2500)
    paths = [str(tmp_path / f"{i}") for i in range(9)]
    for i, path in enumerate(paths):
        Path(path).write_bytes(bytes([i]) * (1000 if i % 2 else 700))
    together(True)
    assert contents_of(paths) == [Path(path).read_bytes() for path in paths]


# what a function of the system does to the file, once, before the real one runs, or what it returns in its place
Change = Callable[[Path], int | None]


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _cut(path: Path) -> None:
    os.truncate(path, 2)


def _write_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("name", ["open", "statx", "read"])
@pytest.mark.parametrize(
    "change", [_grow, _cut, _write_in_place, lambda _: -1], ids=["grows", "is cut", "is written", "call fails"]
)
def test_a_file_that_changes_is_read_alone(
    name: str, change: Change, tmp_path: Path, together: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{i}" for i in range(3)]
    for path in paths:
        path.write_bytes(b"01234" * 20)
    together(True)
    functions: Any = read_small._functions()
    place = ("open", "statx", "read", "close").index(name)
    kind: Any = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 6)
    real, calls = kind(int(functions[place])), []

    def changed(*arguments: int) -> int:
        calls.append(arguments)
        if len(calls) == 1 and (result := change(paths[0])) is not None:
            return result
        return int(real(*arguments))

    callback = kind(changed)

    address: Any = ctypes.cast(callback, ctypes.c_void_p).value
    patched = np.where(np.arange(4) == place, address, functions)
    monkeypatch.setattr(read_small, "_functions", lambda: patched)
    handles = opened()
    assert contents_of([str(path) for path in paths]) == [path.read_bytes() for path in paths]
    assert calls
    assert opened() == handles


def test_no_descriptor_is_left(folder: Path, together: Callable[[bool], None]) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    together(True)
    contents_of([f"{folder}/0.png"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert contents_of([f"{folder}/0.png", f"{folder}/last.png"]) == [None, None]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("functions", [None, np.zeros(4, np.int64)], ids=["another system", "no kernel"])
def test_elsewhere_every_file_is_read_alone(
    functions: Any, folder: Path, together: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    together(True)
    monkeypatch.setattr(read_small, "_functions", lambda: functions)
    monkeypatch.setattr(read_files, "_failed", True)
    assert contents_of([f"{folder}/0.png", f"{folder}/empty.png"]) == [b"first", None]


def test_a_batch_has_the_same_counts_and_failures(tmp_path: Path, together: Callable[[bool], None]) -> None:
    for i in range(70):
        (tmp_path / f"{i:02}.png").write_bytes(encoded(photograph(9, 8, seed=i)))
    (tmp_path / "05.png").write_bytes(b"")
    (tmp_path / "06.png").unlink()
    (tmp_path / "06.png").symlink_to("07.png")
    shutil.copy(tmp_path / "08.png", tmp_path / "missing.png")
    items = list(read([str(tmp_path)], InputOptions(max_file_size="600")))
    (tmp_path / "missing.png").unlink()
    counted: list[PartialResult] = []
    for is_on in (False, True):
        together(is_on)
        counted.append(count_batch(WorkerOptions(DecodeOptions()), items))
    assert counted[0].state() == counted[1].state()
    assert counted[0].failures


def test_the_first_kernel_is_loaded_once_all_have_lost_what_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def one() -> None: ...

    def other() -> None: ...

    monkeypatch.setattr(kernel, "has_code", lambda _: True)
    monkeypatch.setattr(kernel, "_lost", {})
    monkeypatch.setattr(kernel, "_engines", [])
    first, second = Kernel(one, set()), Kernel(other, set())
    assert not first.is_worth_loading(0.02)
    assert not second.is_worth_loading(0.002)
    assert not second.is_worth_loading(0.02)
    assert second.is_worth_loading(0.026)
    assert first.is_worth_loading(0.02)
    monkeypatch.setattr(kernel, "_lost", {})
    monkeypatch.setattr(kernel, "_engines", ["LLVM is there"])
    assert not first.is_worth_loading(0.002)
    assert first.is_worth_loading(0.004)


def test_no_kernel_is_compiled_for_what_others_have_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def function() -> None: ...

    monkeypatch.setattr(kernel, "has_code", lambda _: False)
    monkeypatch.setattr(kernel, "_lost", {"another": 1.0})
    assert not Kernel(function, set()).is_worth_loading(0.1)
    assert Kernel(function, set()).is_worth_loading(0.2)


def test_no_memory_for_the_buffer(
    folder: Path, together: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(map(str, folder.iterdir()))
    together(False)
    expected = contents_of(paths)
    together(True)
    monkeypatch.setattr(read_small, "_BUFFER", 1 << 60)
    assert contents_of(paths) == expected
