"""`verify STATS SOURCE...`: does a statistics file still describe its sources?"""

import json
import shutil
from pathlib import Path

import pytest

import normcli
from tests.support.command import ROOT, Run

SETTINGS = [
    {},
    {"group_by": "folder", "resize": 32, "center_crop": 24},
    {"color": "gray", "strict": True, "max_value": 4095},
    {"alpha": "weight", "weight": "image"},
    {"shard": "1/2"},
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "sample_data" / "odd" / "fruit", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_sources_are_described_whatever_the_settings(photos: Path, settings: dict[str, object]) -> None:
    summary = normcli.stats(photos, **settings)  # type: ignore[arg-type]
    assert normcli.verify_statistics(summary, photos).identical


def test_a_source_that_changed_is_seen(run: Run, photos: Path) -> None:
    assert run("stats", "photos", "-o", "s.json", "-q").returncode == 0
    same = run("verify", "s.json", "photos")
    assert same.returncode == 0 and b"s.json describes these sources: 7 images" in same.stdout
    next(photos.rglob("*.jpg")).unlink()
    changed = run("verify", "s.json", "photos", "--json")
    assert changed.returncode == 1 and json.loads(changed.stdout)["counts"]["images"] == [7, 6]


def test_what_a_file_does_not_record_is_rejected(run: Run, photos: Path) -> None:
    assert run("stats", "photos", "-o", "s.json", "-q", "--sample", "3").returncode == 0
    done = run("verify", "s.json", "photos")
    assert done.returncode == 2 and b"--sample cannot be verified" in done.stderr
    assert run("verify", "photos/none.json", "photos").returncode == 2
