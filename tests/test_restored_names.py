"""Names of restored files and of outputs that are images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.runs import manifest
from normcli.runs.names import SuffixCollisions
from tests.support import needs
from tests.support.command import Run
from tests.support.images import encoded, photograph


def put(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "JPEG" if path.suffix == ".jpg" else "TIFF" if path.suffix.startswith(".tif") else "PNG"
    path.write_bytes(encoded(photograph(20, 30, seed=seed), kind))


def names(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "normcli.json"
    } - {"stats.json"}


@pytest.mark.parametrize("to", ["npy", "npz", "stack", "safetensors", "tar", "parquet", "tiff"])
def test_a_folder_of_png_and_its_restored_copy_are_equal(run: Run, tmp_path: Path, to: str) -> None:
    if to == "parquet":
        needs.module("pyarrow")
    for seed, name in enumerate(("a.png", "cat/b.PNG", "cat/x.y.png", "dog/a.png")):
        put(tmp_path / "in" / name, seed)
    normcli.apply(tmp_path / "in", tmp_path / "out", scheme="signed", to=to)  # type: ignore[arg-type]
    assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 4
    assert names(tmp_path / "back") == names(tmp_path / "in")
    for name in names(tmp_path / "in"):
        one, other = (np.asarray(Image.open(tmp_path / folder / name)) for folder in ("in", "back"))
        assert np.array_equal(one, other)
    again = run("restore", "out", "-o", "back", "--force")
    assert again.returncode == 0 and b"suffix" not in again.stderr
    # `diff -r` of a folder of this program's PNG with its restored copy is empty
    normcli.apply(tmp_path / "back", tmp_path / "again", scheme="unit", to=to)  # type: ignore[arg-type]
    normcli.restore(tmp_path / "again", tmp_path / "third")
    for name in names(tmp_path / "back"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "third" / name).read_bytes(), name


def test_other_formats_take_the_suffix_of_the_restored_file(run: Run, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.jpg", "b.tiff", "c.png", "c.jpg", "d.png/e.png", "d.jpg", "f.jpg.jpg", "g.png")):
        put(tmp_path / "in" / name, seed)
    assert run("apply", "in", "-o", "out", "-s", "signed").returncode == 0
    done = run("restore", "out", "-o", "back")
    assert done.returncode == 0 and done.stderr.count(b"keep the suffix") == 1
    expected = {"a.png", "b.png", "c.png.png", "c.jpg.png", "d.png/e.png", "d.jpg.png", "f.jpg.png", "g.png"}
    assert names(tmp_path / "back") == expected
    assert run("restore", "out", "-o", "tif", "--to", "tiff").returncode == 0
    assert {"a.tif", "b.tiff", "g.tif"} <= names(tmp_path / "tif")


def test_images_drop_the_suffix_of_their_source_unless_names_collide(run: Run, tmp_path: Path) -> None:
    for seed, name in enumerate(("a.jpg", "b.png", "c.png", "c.jpg", "d.png/e.png", "d.jpg", "f.jpg.jpg", "f.jpg")):
        put(tmp_path / "in" / name, seed)
    done = run("apply", "in", "-o", "out", "-s", "signed", "--to", "png")
    assert done.returncode == 0 and done.stderr.count(b"keep the suffix") == 1
    kept = {"c.png.png", "c.jpg.png", "d.jpg.png", "f.jpg.jpg.png", "f.jpg.png"}
    assert names(tmp_path / "out") == {"a.png", "b.png", "d.png/e.png", *kept}
    assert {record["name"] for record in manifest.read(tmp_path / "out")[1]} >= {"a", "b", "c.png", "d.png/e"}
    assert normcli.verify(tmp_path / "out").is_valid
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    resumed = run("apply", "in", "-o", "out", "-s", "signed", "--to", "png", "--resume")
    assert resumed.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")} == before
    assert run("apply", "in", "-o", "bare", "-s", "signed", "--to", "tiff", "--no-suffix").returncode == 2


def test_no_two_names_become_one() -> None:
    every = [stem + one + two for stem in ("a", "b/a") for one in ("", ".png", ".jpg") for two in ("", ".tif", ".PNG")]
    for skipped in range(len(every)):
        some = every[skipped:]
        collisions = SuffixCollisions()
        for name in some:
            collisions.add(name)
        assert len({collisions.shorten(name) + ".png" for name in some}) == len(some)
        assert len({collisions.restore(name, "x.png", ".png") for name in some}) == len(some)
