"""An incremental run has the result of a fresh run, bit for bit, after any change of the files in between."""

import os
import random
import shutil
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.runs.file_cache import Changes
from normcli.runs.file_versions import versions_of_libraries
from normcli.runs.stats import cache_path
from normcli.storage import files
from tests.support import needs, packing
from tests.support.images import encoded, photograph
from tests.support.incremental import content, first, updated

pytestmark = pytest.mark.usefixtures("files_of_long_ago")


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "by folder": {"group_by": "folder"},
    "by name": {"group_by": r"([a-z]+)\d*\.\w+$"},
    "images weigh the same": {"weight": "image"},
    "groups weigh the same": {"weight": "group", "group_by": "folder"},
    "alpha weighs": {"alpha": "weight"},
    "gray": {"color": "gray"},
    "a value left out": {"nodata": 128},
    "cropped": {"resize": 40, "center_crop": 32},
    "threads": {"engine": "threads", "workers": 2},
    "processes": {"engine": "processes", "workers": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_update_is_a_fresh_run(name: str, mixed: Path, tmp_path: Path) -> None:
    options = SETTINGS[name]
    place = tmp_path / "s.json"
    plain = normcli.stats(mixed, **options)
    assert first(mixed, place, **options).to_json() == plain.to_json(), "a cache changes no bit"
    _, changes = updated(mixed, place, **options)
    assert changes == Changes(18, 0, 0, 0, 0)
    (mixed / "cat" / "0.jpg").unlink()
    (mixed / "cat" / "float0.tif").unlink()
    (mixed / "dog" / "deep.png").unlink()
    (mixed / "dog" / "1.jpg").write_bytes(encoded(photograph(seed=40), "JPEG"))
    (mixed / "dog" / "new.png").write_bytes(encoded(photograph(seed=41)))
    (mixed / "cat" / "gray.png").rename(mixed / "cat" / "renamed.png")
    _, changes = updated(mixed, place, **options)
    assert changes == Changes(13, 2, 1, 4, 0)


def test_a_run_without_changes_writes_no_cache(mixed: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(mixed, place)
    before = cache_path(place).read_bytes()
    place.unlink()
    _, changes = updated(mixed, place)
    assert changes == Changes(18, 0, 0, 0, 0) and place.is_file()
    assert cache_path(place).read_bytes() == before
    (mixed / "note.txt").unlink()  # it is in no cache
    (mixed / "cat" / "0.jpg").touch()
    assert updated(mixed, place)[1].changed == 1
    assert cache_path(place).read_bytes() != before


def test_versions_of_libraries_are_those_of_their_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {name: metadata.version(name) for name in ("numpy", "pillow", "pytest")}
    assert versions_of_libraries([*installed, "no-such-library"]) == {**installed, "no-such-library": None}
    (tmp_path / "Some.Thing-1.2+local.dist-info").mkdir()
    (tmp_path / "other_thing-3.0-py3.11.egg-info").mkdir()
    (tmp_path / "linked.egg-info").mkdir()  # as setuptools leaves it next to a source tree
    (tmp_path / "linked.egg-info" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: linked\nVersion: 4.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "missing"))
    expected = {"some-thing": "1.2+local", "other-thing": "3.0-py3.11", "linked": "4.0"}
    assert versions_of_libraries(expected) == expected
    with zipfile.ZipFile(tmp_path / "libraries.zip", "w") as archive:
        archive.writestr("zipped-5.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 5.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "libraries.zip"))
    assert versions_of_libraries(["zipped", "numpy"]) == {"zipped": "5.0", "numpy": metadata.version("numpy")}


def test_random_changes_many_times_over(mixed: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    place = tmp_path / "s.json"
    first(mixed, place, group_by="folder")
    for number in range(25):
        for _ in range(rng.randint(1, 4)):
            files = packing.files_of(mixed)
            one, other = rng.choice(files), rng.choice(files)
            what = rng.randrange(6)
            if what == 0 and len(files) > 4:
                one.unlink()
            elif what == 1:
                one.write_bytes(other.read_bytes())
            elif what == 2:
                one.rename(one.with_name(f"moved{number}{one.suffix}"))
            elif what == 3:
                dtype: Any = rng.choice([np.uint8, np.uint16])
                grown = photograph(rng.randint(4, 40), 30, 1, seed=number).astype(dtype) * (
                    256 ** dtype().itemsize // 256
                )
                (mixed / f"{number}.png").write_bytes(encoded(grown))
            elif what == 4:
                one.write_bytes(other.read_bytes()[: rng.randrange(400)])
            else:
                (mixed / f"new{number}").mkdir()
                shutil.copy(one, mixed / f"new{number}" / one.name)
        updated(mixed, place, group_by="folder")


def test_extremes_that_vanish_come_back_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normcli.tally.extremes.KEPT_EXTREMES", 4)
    root = tmp_path / "floats"
    root.mkdir()
    for i in range(12):
        Image.fromarray(np.full((3, 3), i - 6.0, np.float32)).save(root / f"{i:02d}.tif")
    place = tmp_path / "s.json"
    assert first(root, place).min == [-6.0]
    for gone in (0, 1, 2, 11, 10):
        (root / f"{gone:02d}.tif").unlink()
        summary, changes = updated(root, place)
        assert changes.removed == 1
    assert (summary.min, summary.max) == ([-3.0], [3.0])
    # merge --minus has no cache to look in: there the range is not known any more
    assert (normcli.stats(root) + normcli.stats(root / "03.tif") - normcli.stats(root)).images == 1


def test_swapped_files_of_one_size_and_time_are_seen(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    pictures = [encoded(photograph(seed=seed), "BMP") for seed in (1, 2)]
    one, other = folder / "cat" / "x.bmp", folder / "dog" / "x.bmp"
    one.write_bytes(pictures[0])
    other.write_bytes(pictures[1])
    for path in (one, other):
        os.utime(path, ns=(10**18, 10**18))
    first(folder, place, group_by="folder")
    one.rename(folder / "t")
    other.rename(one)
    (folder / "t").rename(other)
    assert one.stat().st_mtime_ns == other.stat().st_mtime_ns and one.stat().st_size == other.stat().st_size
    _, changes = updated(folder, place, group_by="folder")
    assert changes.changed == 2


def test_a_file_written_again_and_dated_back_is_seen(folder: Path, tmp_path: Path) -> None:
    place, path = tmp_path / "s.json", folder / "x.bmp"
    path.write_bytes(encoded(photograph(seed=1), "BMP"))
    before = path.stat()
    first(folder, place)
    path.write_bytes(encoded(photograph(seed=2), "BMP"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert updated(folder, place)[1].changed == 1


def test_a_file_too_young_to_tell_is_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RECENT", 10**12)
    place = tmp_path / "s.json"
    first(folder, place)
    assert updated(folder, place)[1] == Changes(0, 0, 0, 0, 12)
    monkeypatch.setattr(files, "RECENT", 0)
    assert updated(folder, place)[1].reread == 12, "what the cache could not tell then it cannot tell now"
    assert updated(folder, place)[1].reused == 12
    os.utime(folder / "cat" / "0.jpg", ns=(4 * 10**18, 4 * 10**18))  # dated in the future
    updated(folder, place)
    assert updated(folder, place)[1].reread == 1


def test_what_failed_and_is_good_now_and_the_other_way(mixed: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(mixed, place)
    good, bad = mixed / "cat" / "1.jpg", mixed / "dog" / "cut.jpg"
    kept = good.read_bytes()
    good.write_bytes(kept[:200])
    bad.write_bytes(encoded(photograph(seed=3), "JPEG"))
    summary, changes = updated(mixed, place)
    assert (summary.failed, changes.changed) == (2, 2)
    good.write_bytes(kept)
    assert updated(mixed, place)[0].failed == 1


def test_a_permission_that_came_or_went_is_seen(folder: Path, tmp_path: Path) -> None:
    needs.not_root()
    place, path = tmp_path / "s.json", folder / "cat" / "1.jpg"
    path.chmod(0)
    first(folder, place)
    path.chmod(0o644)
    assert updated(folder, place)[0].failed == 0
    path.chmod(0)
    assert updated(folder, place)[0].failed == 1


def test_what_failed_for_a_passing_reason_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "s.json"
    read = files.read

    def refused(path: Any, **options: Any) -> Any:
        if str(path).endswith("1.jpg"):
            raise normcli.errors.InputError("unreadable", "permission denied")
        return read(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(files, "read", refused)
        assert first(folder, place, engine="serial").failed == 2
    summary, changes = updated(folder, place)
    assert (summary.failed, changes.reread, changes.reused) == (0, 2, 10)


def test_links_and_loops(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    (folder / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to("self.png")
    (folder / "cat" / "link.jpg").symlink_to(folder / "dog" / "0.jpg")
    for follow in (False, True):
        first(folder, place, follow_symlinks=follow)
        assert updated(folder, place, follow_symlinks=follow)[1].removed == 0
    (folder / "cat" / "link.jpg").unlink()
    (folder / "cat" / "link.jpg").symlink_to(folder / "dog" / "1.jpg")
    assert updated(folder, place, follow_symlinks=True)[1].changed >= 1


def test_a_folder_named_in_another_way_is_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "s.json"
    monkeypatch.chdir(tmp_path)
    first("images", place)
    assert updated(folder, place)[1] == Changes(0, 12, 0, 12, 0)
    folder.rename(tmp_path / "elsewhere")
    assert updated(tmp_path / "elsewhere", place)[1] == Changes(0, 12, 0, 12, 0)


def test_a_source_named_twice_counts_twice(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    twice = ["--", str(folder / "cat" / "0.jpg")]
    names = tmp_path / "names.csv"
    names.write_text("path,label\n" + "".join(f"{folder / 'cat' / '0.jpg'},{label}\n" for label in "aab"))
    assert first(names, place, group_by="folder").images == 3
    names.write_text("path,label\n" + "".join(f"{folder / 'cat' / '0.jpg'},{label}\n" for label in "abbb"))
    _, changes = updated(names, place, group_by="folder")
    assert changes == Changes(2, 1, 1, 0, 0), twice
    assert updated(names, place, group_by="folder")[1].reused == 4


def test_masks_count_as_part_of_their_image(folder: Path, tmp_path: Path) -> None:
    place, masks = tmp_path / "s.json", tmp_path / "masks"
    for path in packing.files_of(folder):
        mask = masks / path.relative_to(folder).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(encoded((photograph(channels=1, seed=7) > 90).astype(np.uint8) * 255))
    first(folder, place, mask_dir=masks)
    assert updated(folder, place, mask_dir=masks)[1].reused == 12
    (masks / "cat" / "0.png").write_bytes(encoded(np.eye(48, 64, dtype=np.uint8)))
    (masks / "cat" / "1.png").unlink()
    summary, changes = updated(folder, place, mask_dir=masks)
    assert (summary.failures, changes.reused) == ({"mask": 1}, 10)


def test_everything_gone_is_no_input(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    for path in packing.files_of(folder):
        path.unlink()
    before = content(cache_path(place))
    with pytest.raises(normcli.errors.NoInputError):
        normcli.stats(folder, output=place, incremental=True)
    assert content(cache_path(place)) == before


def test_ten_thousand_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, place = tmp_path / "many", tmp_path / "s.json"
    data = [encoded(photograph(8, 8, seed=seed)) for seed in range(10)]
    for i in range(10_000):
        path = root / f"{i // 1000}" / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[i % 10])
    first(root, place)
    for i in range(0, 10_000, 500):
        (root / f"{i // 1000}" / f"{i:05d}.png").unlink()
    reads: list[str] = []
    read = files.read

    def counted(path: Any, **options: Any) -> Any:
        reads.append(str(path))
        return read(path, **options)

    monkeypatch.setattr(files, "read", counted)
    changes: list[Changes] = []
    summary = normcli.stats(root, output=place, incremental=True, on_update=changes.append)
    assert changes == [Changes(9980, 0, 0, 20, 0)]
    assert [path for path in reads if path.endswith(".png")] == [], "nothing changed: no image is read"
    assert summary.to_json() == normcli.stats(root).to_json()
