"""`normcli stats python:MODULE:NAME` counts the samples of a Python object as `normcli stats` counts their files."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from tests.support.command import run_here

MODULE = """
import numpy as np

ARRAYS = list(np.load("arrays.npy"))

class Labeled:
    def __len__(self):
        return len(ARRAYS)

    def __getitem__(self, index):
        if index == 3:
            raise KeyError("row 3 is gone")
        return {"depth": ARRAYS[index], "label": index % 2}

def generator():
    yield from ARRAYS

def broken():
    raise ValueError("no disk\\nhere")

def four():
    yield np.zeros((4, 4, 3), np.uint8)

class Space:
    dataset = ARRAYS

mapping = {"train": ARRAYS}
number = 5
"""

names = (f"samples_{n}" for n in itertools.count())  # a module is imported once in a process


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = next(names)
    arrays = np.random.default_rng(5).integers(0, 256, (12, 9, 8, 3), np.uint8)
    np.save(tmp_path / "arrays.npy", arrays)
    (tmp_path / "folder").mkdir()
    for i, array in enumerate(arrays):
        np.save(tmp_path / "folder" / f"{i:02d}.npy", array)
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_wrong.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield f"python:{name}"
    sys.path[:] = before


@pytest.mark.parametrize("name", ["ARRAYS", "generator", "Space.dataset"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_state_is_that_of_the_folder(name: str, workers: int, module: str) -> None:
    expected = normcli.stats("folder", include="*.npy")
    summary = normcli.stats(f"{module}:{name}", workers=workers)
    assert summary.to_json() == expected.to_json()
    parts = [normcli.stats(f"{module}:{name}", shard=(part, 3)) for part in (1, 2, 3)]
    assert normcli.merge(parts).state == expected.state


def test_a_sample_that_raises_is_counted_under_its_key(module: str) -> None:
    failures: list[normcli.Failure] = []
    for group_by in (None, "label"):
        source = normcli.source(f"{module}:Labeled", key="depth")
        summary = normcli.stats(source, on_failure=failures.append, group_by=group_by)
        assert (summary.images, summary.failed) == (11, 1)
        assert [(one.key, one.reason) for one in failures] == [(f"{module}:Labeled/3", "dataset")]
        assert sorted(summary.groups) == (["0", "1"] if group_by else [])
        failures.clear()
    with pytest.raises(normcli.NormcliError, match="row 3 is gone"):
        normcli.stats(source, max_failures=0)


def test_the_command(module: str, tmp_path: Path) -> None:
    done = run_here("stats", f"{module}:generator", "-o", "s.json")
    assert done.code == 0, done.err
    assert normcli.load("s.json").to_json() == normcli.stats("folder", include="*.npy").to_json()
    done = run_here("stats", f"{module}:Labeled", "-O", "key=depth", "--json")
    assert done.code == 3
    done = run_here("stats", f"{module}:Labeled")
    assert done.code == 2 and ":Labeled: samples have depth, label: choose the image (-O key=NAME)" in done.err
    (tmp_path / "paths.txt").write_text(f"{module}:generator\n")
    done = run_here("stats", "--files-from", "paths.txt")
    assert done.code == 4 and "no such file" in done.err  # a list of paths runs no code


ERRORS = {
    "{0}:nothing": "has no 'nothing'",
    "{0}:mapping": "of type dict",
    "{0}:number": "of type int",
    "{0}:broken": "raised ValueError: no disk here",
    "{0}:four": ":four: an array of shape (4, 4, 3) may be hwc or chw: choose one (`open_options` layout=chw)",
    "{0}_wrong:x": "raised ModuleNotFoundError: No module named 'no_such_library'",
    "python:no_such_module:x": "no module 'no_such_module'",
    "python:os.path.nothing:x": "no module 'os.path.nothing'",
    "python:samples": "must be python:MODULE:NAME",
    "python::x": "must be python:MODULE:NAME",
    "python:a b:x": "must be python:MODULE:NAME",
    "samples:make": "requires its prefix: python:samples:make",
}


@pytest.mark.parametrize("source", ERRORS)
def test_an_error_is_one_line(source: str, module: str) -> None:
    with pytest.raises(normcli.NormcliError) as caught:
        normcli.stats(source.format(module))
    assert ERRORS[source] in str(caught.value) and "\n" not in str(caught.value)


REFUSED: list[dict[str, Any]] = [
    {"engine": "processes"},
    {"engine": "dask"},
    {"incremental": True, "output": "x.json"},
    {"resume": True, "output": "x.json"},
    {"sample": 3},
    {"margin": 0.1},
    {"mask_dir": "folder"},
    {"include": "*.png"},
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda options: next(iter(options)))
def test_what_its_samples_cannot_have_is_named(options: dict[str, Any], module: str) -> None:
    with pytest.raises(normcli.UsageError, match=f"`{next(iter(options))}`.* cannot be combined with python:"):
        normcli.stats(f"{module}:ARRAYS", **options)
    assert not os.path.exists("x.json")  # noqa: PTH110


def test_apply_names_the_other_way(module: str) -> None:
    with pytest.raises(normcli.UsageError, match=r"normcli\.transform"):
        normcli.apply(f"{module}:ARRAYS", "out", scheme="unit")
    assert not Path("out").exists()
