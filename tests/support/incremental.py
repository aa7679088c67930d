"""Support for tests of incremental runs: images of every depth, a first run, a second one that is checked."""

import json
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.runs.file_cache import Changes
from normcli.runs.stats import cache_path
from normcli.storage import files
from tests.support.images import encoded, photograph


@pytest.fixture
def files_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count files that tests write as old enough for a version."""
    monkeypatch.setattr(files, "RECENT", 0)


@pytest.fixture
def mixed(folder: Path) -> Path:
    """Write twelve images of 8 and 16 bits, and floats, alpha, two failures and a skip."""
    for i in range(3):
        plane = photograph(channels=1, seed=i)[:, :, 0].astype(np.float32) / 7 - i
        Image.fromarray(plane).save(folder / "cat" / f"float{i}.tif")
    colour = np.dstack([photograph(seed=6), photograph(channels=1, seed=8)])
    (folder / "dog" / "alpha.png").write_bytes(encoded(colour))
    (folder / "dog" / "cut.jpg").write_bytes(encoded(photograph(seed=9), "JPEG")[:300])
    (folder / "empty.png").touch()
    (folder / "note.txt").write_text("no image")
    return folder


def first(source: Any, place: Path, **options: Any) -> normcli.Summary:
    """Run over all images, and leave a cache."""
    place.unlink(missing_ok=True)
    cache_path(place).unlink(missing_ok=True)
    return normcli.stats(source, output=place, incremental=True, **options)


def content(cache: Path) -> list[Any]:
    """Return the content of a cache, without the order and the numbers of its rows and runs."""
    with closing(sqlite3.connect(cache)) as connection:
        rows = connection.execute(
            "SELECT key, version, facts, counts FROM entries LEFT JOIN counts ON entries.id = counts.id"
        ).fetchall()
        ((head,),) = connection.execute("SELECT value FROM head").fetchall()
    length = int.from_bytes(head[:8], "little")
    facts = json.loads(head[8 : 8 + length])
    facts.pop("run")
    return [sorted(rows, key=repr), facts, json.loads(zlib.decompress(head[8 + length :]))]


def updated(source: Any, place: Path, **options: Any) -> tuple[normcli.Summary, Changes]:
    """Run incrementally, and compare every byte with a run over all images."""
    changes: list[Changes] = []
    failures: list[Any] = []
    options.pop("engine", None)
    summary = normcli.stats(
        source,
        output=place,
        incremental=True,
        on_update=changes.append,
        on_failure=failures.append,
        **options,
    )
    expected: list[Any] = []
    other = place.with_name("fresh.json")
    fresh = first(source, other, on_failure=expected.append, **options)
    assert summary.to_json() == fresh.to_json() == place.read_text()
    assert failures == expected, "reported again, in the same order"
    assert content(cache_path(place)) == content(cache_path(other)), "the cache holds what a fresh run stores"
    return summary, changes[0]
