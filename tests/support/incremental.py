"""What the tests of ledgers share: images of every depth, a first run, an update that is checked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.runs.file_cache import Changes
from normcli.runs.file_cache_format import beside, settle
from normcli.storage import versions
from tests.support.images import encoded, photograph


@pytest.fixture
def files_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests write counts as old enough to tell its version."""
    monkeypatch.setattr(versions, "RECENT", 0)


@pytest.fixture
def mixed(folder: Path) -> Path:
    """Twelve images of 8 and 16 bits, and floats, alpha, two failures and a skip."""
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
    """A run over everything that leaves the pair."""
    summary = normcli.stats(source, ledger=beside(place), **options)
    summary.save(place)
    return summary


def updated(source: Any, place: Path, **options: Any) -> tuple[normcli.Summary, Changes]:
    """An update in place, as the command does it, checked against a fresh run in every byte."""
    told: list[Changes] = []
    failures: list[Any] = []
    waiting = beside(place).with_name(beside(place).name + ".next")
    options.pop("engine", None)
    summary = normcli.stats(
        source, update=place, ledger=waiting, on_update=told.append, on_failure=failures.append, **options
    )
    summary.save(place)
    settle(waiting, beside(place))
    expected: list[Any] = []
    other = place.with_name("fresh.ledger")
    fresh = normcli.stats(source, ledger=other, on_failure=expected.append, **options)
    assert summary.to_json() == fresh.to_json()
    assert failures == expected, "told again, in the same order"
    assert beside(place).read_bytes() == other.read_bytes(), "the ledger is that of a fresh run"
    return summary, told[0]
