"""Walking folders: order, filters, links, odd files."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from normcli import sources as formats
from normcli.errors import InputError
from normcli.options.shared import InputOptions
from normcli.sources import Item, Skipped


def listed(*sources: Path, **settings: Any) -> tuple[list[str], dict[str, str]]:
    """Return keys of items, and reasons of skips by key."""
    entries = list(formats.read(map(str, sources), InputOptions(**settings)))
    items = [e.key for e in entries if isinstance(e, Item)]
    return items, {e.key: e.reason for e in entries if isinstance(e, Skipped)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.PNG", "b/1.jpg", "a/x/deep.webp", "top.tiff", "notes.md", ".hidden/h.png", "no_suffix"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    return tmp_path


def test_sorted_by_folder_and_name(tree: Path) -> None:
    items, skips = listed(tree)
    assert [os.path.relpath(p, tree) for p in items] == [
        "top.tiff", "a/x/deep.webp", "b/1.jpg", "b/2.PNG"
    ]  # fmt: skip
    assert {Path(k).name: v for k, v in skips.items()} == {
        "notes.md": "not-an-image-name",
        "no_suffix": "not-an-image-name",
        ".hidden": "hidden",
    }
    assert [Path(p).name for p in listed(tree, include=(".hidden/*",))[0]] == ["h.png"]


def test_globs(tree: Path) -> None:
    assert [Path(p).name for p in listed(tree, include=("*.md", "no_*"))[0]] == ["no_suffix", "notes.md"]
    assert [Path(p).name for p in listed(tree, exclude=("b/*", ".hidden/*"))[0]] == ["top.tiff", "deep.webp"]
    assert [Path(p).name for p in listed(tree, include=("a/x/*.webp",))[0]] == ["deep.webp"]
    assert listed(tree, exclude=("*.jpg",))[1][str(tree / "b" / "1.jpg")] == "excluded"


def test_a_named_file_is_tried_whatever_its_suffix(tree: Path) -> None:
    assert listed(tree / "notes.md") == ([str(tree / "notes.md")], {})


def test_labels_are_class_folders(tree: Path) -> None:
    entries = formats.read([str(tree)], InputOptions())
    labels = {Path(e.key).name: e.label for e in entries if isinstance(e, Item)}
    assert labels["1.jpg"] == "b" and labels["deep.webp"] == "a/x" and labels["top.tiff"] == tree.name


def test_links_to_folders_are_walked_once_when_asked(tree: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "self").symlink_to("self")
    items, skips = listed(tree)
    assert len(items) == 4 and "folder-link" in skips.values()
    items, skips = listed(tree, follow_symlinks=True)
    assert len(items) == 4 and "link-loop" in skips.values()


def test_a_link_to_a_file_is_a_file(tree: Path) -> None:
    (tree / "again.jpg").symlink_to(tree / "b" / "1.jpg")
    assert len(listed(tree)[0]) == 5


def test_odd_files_fail_when_loaded(tree: Path) -> None:
    os.mkfifo(tree / "pipe.png")
    os.mkfifo(tree / "pipe")
    (tree / "gone.png").symlink_to("nowhere")
    assert listed(tree)[1][str(tree / "pipe")] == "not-an-image-name"
    reasons = set()
    for entry in formats.read([str(tree), str(tree / "missing.png")], InputOptions()):
        if isinstance(entry, Item):
            try:
                entry.load()
            except InputError as error:
                reasons.add((Path(entry.key).name, error.reason))
    assert reasons == {("pipe.png", "not-a-file"), ("gone.png", "missing"), ("missing.png", "missing")}


def test_files_over_the_limit_are_not_read(tree: Path) -> None:
    for entry in formats.read([str(tree)], InputOptions(max_file_size=3)):
        if isinstance(entry, Item):
            with pytest.raises(InputError, match="limit of 3"):
                entry.load()


def test_every_file_of_a_random_tree_is_an_item_or_a_skip(tmp_path: Path) -> None:
    rng = random.Random(7)
    for i in range(200):
        folder = tmp_path.joinpath(*(rng.choice("abc") for _ in range(rng.randrange(4))))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}{rng.choice(['.png', '.txt', '', '.JPG', '.tar'])}").touch()
    items, skips = listed(tmp_path)
    assert len(items) == len(set(items)) and len(items) + len(skips) == 200
