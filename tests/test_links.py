"""Links inside an output folder, which may come from anybody: nothing outside of it is written or removed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from normcli.runs.names import WORK
from tests.support.command import Run
from tests.support.images import encoded, photograph
from tests.support.outputs import tree

Plant = Callable[[Path, Path], None]


def work_folder(out: Path, precious: Path) -> None:
    (out / WORK).symlink_to(precious)


def inside(name: str, *, hard: bool = False) -> Plant:
    """A link to a file, among the unfinished files."""

    def plant(out: Path, precious: Path) -> None:
        (out / WORK).mkdir()
        if hard:
            (out / WORK / name).hardlink_to(precious / "letter.txt")
        else:
            (out / WORK / name).symlink_to(precious / "letter.txt")

    return plant


def subfolder(out: Path, precious: Path) -> None:
    (out / "sub").symlink_to(precious)


PLANTS: dict[str, tuple[Plant, list[str]]] = {
    "work folder": (work_folder, ["--force"]),
    "work folder, resumed": (work_folder, ["--resume"]),
    "work folder, shards": (work_folder, ["--force", "--to", "tar"]),
    "lock": (inside("lock"), ["--force"]),
    "stack": (inside("stack.npy"), ["--resume", "--to", "stack"]),
    "stack, by a hard link": (inside("stack.npy", hard=True), ["--resume", "--to", "stack"]),
    "log": (inside("checkpoint-0"), ["--resume"]),
    "subfolder": (subfolder, ["--force"]),
    "subfolder, images": (subfolder, ["--force", "--to", "png", "--engine", "processes"]),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "in/sub").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"in/sub/{number}.png").write_bytes(encoded(photograph(8, 8, seed=number)))
    return tmp_path / "in"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "letter.txt").write_bytes(b"x" * 100)
    (folder / "file-1").write_bytes(b"y")
    return folder


@pytest.mark.parametrize("name", PLANTS)
def test_a_link_leads_no_output_elsewhere(name: str, run: Run, images: Path, precious: Path, tmp_path: Path) -> None:
    plant, options = PLANTS[name]
    (tmp_path / "out").mkdir()
    plant(tmp_path / "out", precious)
    before = tree(precious)
    done = run("apply", "in", "-o", "out", "-s", "unit", *options)
    assert done.returncode == 5 and done.stderr.count(b"\n") == 1 and b"is a link" in done.stderr, done.stderr
    assert tree(precious) == before


@pytest.mark.parametrize("plant", [work_folder, subfolder])
def test_restore_follows_no_link(plant: Plant, run: Run, images: Path, precious: Path, tmp_path: Path) -> None:
    assert run("apply", "in", "-o", "out", "-s", "unit").returncode == 0
    (tmp_path / "back").mkdir()
    plant(tmp_path / "back", precious)
    before = tree(precious)
    done = run("restore", "out", "-o", "back", "--force")
    assert done.returncode == 5 and b"is a link" in done.stderr, done.stderr
    assert tree(precious) == before


def test_an_output_folder_that_is_itself_a_link_is_the_users_own(run: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "out").symlink_to("large-disk")
    assert run("apply", "in", "-o", "out", "-s", "unit").returncode == 0
    assert (tmp_path / "large-disk/sub/0.png.npy").exists() and os.path.islink(tmp_path / "out")  # noqa: PTH114


def test_a_folder_among_unfinished_files_does_not_block_a_new_run(run: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / WORK / "checkpoint-x/deep").mkdir(parents=True)
    (tmp_path / "out" / WORK / "checkpoint-x/deep/file").touch()
    done = run("apply", "in", "-o", "out", "-s", "unit", "--force")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out" / WORK).exists()
