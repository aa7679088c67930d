"""An update by the ledger gives what a fresh run gives, bit for bit, whatever happened to the files in between."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import packing
import pytest
from conftest import ROOT, Run, encoded, photograph
from PIL import Image

import normcli
from normcli import storage
from normcli.errors import NormcliError, StatisticsFileError, UsageError
from normcli.pipeline.stats.ledger import Changes
from normcli.pipeline.stats.recorded import Record, beside, settle
from normcli.tally import Tally
from normcli.tally.single import packed, unpacked


@pytest.fixture(autouse=True)
def files_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests write counts as old enough to tell its version."""
    monkeypatch.setattr(storage, "RECENT", 0)


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
    assert sorted(failures, key=str) == sorted(expected, key=str)
    assert beside(place).read_bytes() == other.read_bytes(), "the ledger is that of a fresh run"
    return summary, told[0]


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "by folder": {"by": "folder"},
    "by name": {"by": r"([a-z]+)\d*\.\w+$"},
    "images weigh the same": {"weight": "image"},
    "groups weigh the same": {"weight": "group", "by": "folder"},
    "alpha weighs": {"alpha": "weight"},
    "gray": {"color": "gray"},
    "a value left out": {"ignore_value": 128.0},
    "cropped": {"resize": 40, "center_crop": 32},
    "threads": {"engine": "threads", "workers": 2},
    "processes": {"engine": "processes", "workers": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_update_is_a_fresh_run(name: str, mixed: Path, tmp_path: Path) -> None:
    options = SETTINGS[name]
    place = tmp_path / "s.json"
    plain = normcli.stats(mixed, **options)
    assert first(mixed, place, **options).to_json() == plain.to_json(), "a ledger changes no bit"
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


def test_random_changes_many_times_over(mixed: Path, tmp_path: Path) -> None:
    rng = random.Random(5)
    place = tmp_path / "s.json"
    first(mixed, place, by="folder")
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
                dtype = rng.choice([np.uint8, np.uint16])
                grown = photograph(rng.randint(4, 40), 30, 1, seed=number).astype(dtype) * (
                    256 ** dtype().itemsize // 256
                )
                (mixed / f"{number}.png").write_bytes(encoded(grown))
            elif what == 4:
                one.write_bytes(other.read_bytes()[: rng.randrange(400)])
            else:
                (mixed / f"new{number}").mkdir()
                shutil.copy(one, mixed / f"new{number}" / one.name)
        updated(mixed, place, by="folder")


def test_extremes_that_vanish_come_back_from_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normcli.tally.floats._KEPT_EXTREMES", 4)
    root = tmp_path / "floats"
    root.mkdir()
    for i in range(12):
        Image.fromarray(np.full((3, 3), i - 6.0, np.float32)).save(root / f"{i:02d}.tif")
    place = tmp_path / "s.json"
    assert first(root, place).min == [-6.0]
    for gone in (0, 1, 2, 11, 10):
        (root / f"{gone:02d}.tif").unlink()
        summary, changes = updated(root, place)
        assert changes.gone == 1
    assert (summary.min, summary.max) == ([-3.0], [3.0])
    # merge --minus has no ledger to look in: there the range is not known any more
    assert (normcli.stats(root) + normcli.stats(root / "03.tif") - normcli.stats(root)).images == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_image_packs_to_the_last_bit(dtype: Any, channels: int, weighted: bool) -> None:
    if weighted and np.dtype(dtype).kind == "f":
        pytest.skip("alpha of floats weighs nothing")
    rng = np.random.default_rng(3)
    pixels = rng.normal(0, 300, (30, 40, channels))
    pixels = pixels.astype(dtype) if np.dtype(dtype).kind == "f" else (np.abs(pixels) * 50).astype(dtype)
    weights = rng.integers(0, np.iinfo(dtype).max, (30, 40)).astype(dtype) if weighted else None
    tally = Tally()
    tally.count(pixels, weights, notes=("format:PNG", "depth:8"), data=b"bytes", group="a\udcff")
    tally.composition["ignored-pixels"] += 7
    data = packed(tally)
    assert unpacked(data).state() == tally.state()
    for damaged in (data[:20], data[:-9], b"", b"x" * 30, packed(tally)[:-1] + b"\0"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            unpacked(damaged)
    with pytest.raises(ValueError, match="2 images"):
        packed(tally + tally)


def test_zero_has_one_sign_in_the_state() -> None:
    """0.0 and -0.0 are one key: which of them came first must not show."""
    one, other = Tally(), Tally()
    one.count(np.array([[[0.0], [-1.0]]]))
    other.count(np.array([[[-0.0], [-1.0]]]))
    assert repr((one + other).state()) == repr((other + one).state())


# --- the files' tricks ---


def test_swapped_files_of_one_size_and_time_are_seen(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    pictures = [encoded(photograph(seed=seed), "BMP") for seed in (1, 2)]
    one, other = folder / "cat" / "x.bmp", folder / "dog" / "x.bmp"
    one.write_bytes(pictures[0])
    other.write_bytes(pictures[1])
    for path in (one, other):
        os.utime(path, ns=(10**18, 10**18))
    first(folder, place, by="folder")
    one.rename(folder / "t")
    other.rename(one)
    (folder / "t").rename(other)
    assert one.stat().st_mtime_ns == other.stat().st_mtime_ns and one.stat().st_size == other.stat().st_size
    _, changes = updated(folder, place, by="folder")
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
    monkeypatch.setattr(storage, "RECENT", 10**12)
    place = tmp_path / "s.json"
    first(folder, place)
    assert updated(folder, place)[1] == Changes(0, 0, 0, 0, 12)
    monkeypatch.setattr(storage, "RECENT", 0)
    assert updated(folder, place)[1].again == 12, "what the ledger could not tell then it cannot tell now"
    assert updated(folder, place)[1].kept == 12
    os.utime(folder / "cat" / "0.jpg", ns=(4 * 10**18, 4 * 10**18))  # dated in the future
    updated(folder, place)
    assert updated(folder, place)[1].again == 1


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads what nobody may")
def test_a_permission_that_came_or_went_is_seen(folder: Path, tmp_path: Path) -> None:
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
    read = storage.read

    def refused(path: Any, **options: Any) -> bytes:
        if str(path).endswith("1.jpg"):
            raise normcli.errors.InputError("unreadable", "permission denied")
        return read(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "read", refused)
        assert first(folder, place, engine="serial").failed == 2
    summary, changes = updated(folder, place)
    assert (summary.failed, changes.again, changes.kept) == (0, 2, 10)


def test_links_and_loops(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    (folder / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to("self.png")
    (folder / "cat" / "link.jpg").symlink_to(folder / "dog" / "0.jpg")
    for follow in (False, True):
        first(folder, place, follow_symlinks=follow)
        assert updated(folder, place, follow_symlinks=follow)[1].gone == 0
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
    assert first(names, place, by="folder").images == 3
    names.write_text("path,label\n" + "".join(f"{folder / 'cat' / '0.jpg'},{label}\n" for label in "abbb"))
    _, changes = updated(names, place, by="folder")
    assert changes == Changes(2, 1, 1, 0, 0), twice
    assert updated(names, place, by="folder")[1].kept == 4


def test_masks_count_as_part_of_their_image(folder: Path, tmp_path: Path) -> None:
    place, masks = tmp_path / "s.json", tmp_path / "masks"
    for path in packing.files_of(folder):
        mask = masks / path.relative_to(folder).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.write_bytes(encoded((photograph(channels=1, seed=7) > 90).astype(np.uint8) * 255))
    first(folder, place, mask_dir=masks)
    assert updated(folder, place, mask_dir=masks)[1].kept == 12
    (masks / "cat" / "0.png").write_bytes(encoded(np.eye(48, 64, dtype=np.uint8)))
    (masks / "cat" / "1.png").unlink()
    summary, changes = updated(folder, place, mask_dir=masks)
    assert (summary.failures, changes.kept) == ({"mask": 1}, 10)


def test_everything_gone_is_no_input(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    for path in packing.files_of(folder):
        path.unlink()
    before = beside(place).read_bytes()
    with pytest.raises(normcli.errors.NoInputError):
        normcli.stats(folder, update=place, ledger=beside(place))
    assert beside(place).read_bytes() == before


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
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda path, **o: reads.append(str(path)) or read(path, **o))
    told: list[Changes] = []
    summary = normcli.stats(root, update=place, on_update=told.append)
    assert told == [Changes(9980, 0, 0, 20, 0)]
    assert [path for path in reads if path.endswith(".png")] == [], "nothing changed: no image is read"
    assert summary.to_json() == normcli.stats(root).to_json()


# --- containers ---


@pytest.mark.parametrize("row", ["tar", "tar.gz", "webdataset", "zip", "parquet"])
def test_a_container_that_did_not_change_is_not_opened(
    row: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, place = tmp_path / "packed", tmp_path / "s.json"
    out.mkdir()
    (mixed / "empty.png").unlink()  # a row of parquet without bytes names a file, which changes on its own
    sources = [str(path) for path in packing.ROWS[row][1](mixed, out)]
    told: list[Changes] = []
    first_run = normcli.stats(*sources, ledger=beside(place), by="folder")
    first_run.save(place)
    with monkeypatch.context() as patched:

        def unopened(*_: Any) -> None:
            raise AssertionError("a container was opened")

        patched.setattr("normcli.storage.reader.Reader.__init__", unopened)
        again = normcli.stats(*sources, update=place, on_update=told.append, by="folder")
    assert told == [Changes(len(sources), 0, 0, 0, 0)]
    assert again.to_json() == first_run.to_json()
    (mixed / "cat" / "0.jpg").unlink()
    packing.ROWS[row][1](mixed, out)
    again = normcli.stats(*sources, update=place, on_update=told.append, by="folder")
    assert told[1].changed == len(sources) and told[1].kept == 0
    assert again.to_json() == normcli.stats(*sources, by="folder").to_json()
    with monkeypatch.context() as patched:  # which members are taken is part of it
        other = normcli.stats(*sources, update=place, exclude="*.png", on_update=told.append, by="folder")
    assert told[2].kept == 0
    assert other.to_json() == normcli.stats(*sources, exclude="*.png", by="folder").to_json()


def test_containers_and_folders_together(mixed: Path, tmp_path: Path) -> None:
    out, place = tmp_path / "packed", tmp_path / "s.json"
    out.mkdir()
    (archive,) = packing.tar(mixed / "cat", out)
    np.save(out / "stack.npy", np.stack([photograph(seed=seed) for seed in range(5)]))
    (out / "none.tar").write_bytes(bytes(10240))
    sources = [str(mixed / "dog"), str(archive), str(out / "stack.npy"), str(out / "none.tar")]
    summary = normcli.stats(*sources, ledger=beside(place))
    summary.save(place)
    told: list[Changes] = []
    for change in (lambda: None, archive.unlink, lambda: (out / "none.tar").unlink()):
        change()
        again = normcli.stats(*sources, update=place, on_update=told.append)
        assert again.to_json() == normcli.stats(*sources).to_json()
    assert [changes.kept for changes in told] == [11, 10, 9]


def test_a_table_that_names_files_does_not_hide_their_changes(folder: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    place = tmp_path / "s.json"
    rows = [{"bytes": None, "path": f"images/{p.relative_to(folder)}"} for p in packing.files_of(folder)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "t.parquet")
    first(tmp_path / "t.parquet", place)
    (folder / "cat" / "0.jpg").write_bytes(encoded(photograph(seed=77), "JPEG"))
    updated(tmp_path / "t.parquet", place)


def test_labels_beside_an_idx_file_belong_to_it(tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    images, labels = tmp_path / "t-images-idx3-ubyte", tmp_path / "t-labels-idx1-ubyte"
    images.write_bytes(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (6, 4, 4)) + bytes(range(96)))
    labels.write_bytes(bytes([0, 0, 8, 1]) + (6).to_bytes(4, "big") + bytes([1, 2, 1, 2, 1, 2]))
    first(images, place, by="folder")
    assert updated(images, place, by="folder")[1].kept == 1
    labels.write_bytes(labels.read_bytes()[:-1] + bytes([7]))
    assert "7" in updated(images, place, by="folder")[0].groups


# --- the pair ---


def test_the_pair_is_held_together(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    with pytest.raises(StatisticsFileError, match="--ledger` makes it"):
        normcli.stats(folder).save(place)
        normcli.stats(folder, update=place)
    first(folder, place)
    normcli.stats(folder / "cat").save(place)
    with pytest.raises(StatisticsFileError, match="is not the ledger of"):
        normcli.stats(folder, update=place)
    first(folder, place)
    with pytest.raises(UsageError, match="other settings: color was 'auto', now 'gray'"):
        normcli.stats(folder, update=place, color="gray")
    with pytest.raises(UsageError, match="max_pixels was"):
        normcli.stats(folder, update=place, max_pixels=10)


REFUSED: dict[str, dict[str, Any]] = {
    "--sample": {"sample": "3"},
    "--tolerance": {"tolerance": 0.1},
    "--shard": {"shard": "1/2"},
    "--resume": {"resume": "j"},
    "--per-image": {"on_image": print},
    "--report": {"on_gallery": print},
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_go_together_is_refused(option: str, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    with pytest.raises(UsageError, match=option):
        normcli.stats(folder, update=place, **REFUSED[option])
    if option not in ("--per-image", "--report"):  # a first run does go with them
        with pytest.raises(UsageError, match=option):
            normcli.stats(folder, ledger=beside(place), **REFUSED[option])


def damages(whole: bytes) -> Iterator[tuple[str, bytes]]:
    lines = whole.splitlines(keepends=True)
    for place in (0, 1, len(lines[0]), len(whole) // 2, len(whole) - len(lines[-1]), len(whole) - 20, len(whole) - 2):
        yield f"cut at {place}", whole[:place]
    rng = random.Random(7)
    for _ in range(60):
        at = rng.randrange(len(whole) - 1)
        yield f"flipped at {at}", whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
    yield "a line twice", b"".join([*lines[:3], *lines[2:]])
    yield "a line less", b"".join([*lines[:3], *lines[4:]])
    yield "no line at all", b"\n" * 5
    yield "deep", b"[" * 100_000
    yield "a pickle", b"\x80\x04\x95\x05\x00."
    yield "zeros", bytes(len(whole))


def test_a_damaged_ledger_is_one_error(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    whole = beside(place).read_bytes()
    tried = 0
    for what, damaged in damages(whole):
        beside(place).write_bytes(damaged)
        with pytest.raises((StatisticsFileError, UsageError)) as raised:
            normcli.stats(folder, update=place)
        assert "\n" not in str(raised.value), what
        tried += 1
    assert tried > 70


def resealed(place: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every record and put the digest right: what a liar can do."""
    import hashlib
    import json

    lines = beside(place).read_bytes().splitlines(keepends=True)
    digest = hashlib.sha256(lines[0])
    out = [lines[0]]
    for line in lines[1:-1]:
        record = json.loads(line)
        change(record)
        out.append(json.dumps(record).encode() + b"\n")
        digest.update(out[-1])
    end = {**json.loads(lines[-1]), "digest": digest.hexdigest()}
    beside(place).write_bytes(b"".join([*out, json.dumps(end).encode() + b"\n"]))


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "counts of another": lambda r: r.update(counts=Record("", None, packed(_one())).line().split(b'"')[7].decode()),
    "no counts": lambda r: r.pop("counts"),
    "not base64": lambda r: r.update(counts="§"),
    "a bomb": lambda r: r.update(counts=_bomb()),
    "a bomb as container": lambda r: r.update(counts=_bomb(), inputs=3),
    "a number as counts": lambda r: r.update(counts=7),
    "a list as record": lambda r: r.update(failures=[1]),
    "no key": lambda r: r.pop("key"),
    "kinds": lambda r: r.update(kinds=[3]),
}


def _one() -> Tally:
    tally = Tally()
    tally.count(photograph(200, 200, 3, seed=99), data=b"other")
    return tally


@cache
def _bomb() -> str:
    import base64
    import zlib

    return base64.b64encode(zlib.compress(bytes(50_000_000))).decode()


@pytest.mark.parametrize("lie", LIES)
def test_a_ledger_that_lies_is_one_error(lie: str, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    first(folder, place)
    resealed(place, LIES[lie])
    (folder / "cat" / "0.jpg").unlink()
    with pytest.raises((StatisticsFileError, NormcliError)) as raised:
        normcli.stats(folder, update=place, engine="serial")
    assert "\n" not in str(raised.value)


# --- the command ---

# the command, which kills itself before or after its N-th step that is to last
COMMAND = """
import os, sys
from pathlib import Path
from normcli import storage
storage.RECENT = 0
left = int(sys.argv[1])
def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
def lasting(function):
    def call(*arguments, **options):
        step()
        result = function(*arguments, **options)
        step()
        return result
    return call
Path.replace, os.fsync = lasting(Path.replace), lasting(os.fsync)
from normcli.cli import run
sys.exit(run(sys.argv[2:]))
"""


def command(steps: int, *arguments: Any) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    called = [sys.executable, "-c", COMMAND, str(steps), *map(str, arguments)]
    return subprocess.run(called, capture_output=True, env=environment, timeout=120, check=False)


def test_killed_at_any_step_the_old_pair_or_the_new_one_is_left(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "s.json"
    done = command(0, "stats", folder, "-o", place, "--ledger", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    seen = set()
    for steps in range(1, 100):
        (folder / "cat" / f"new{steps}.png").write_bytes(encoded(photograph(seed=steps)))
        done = command(steps, "stats", folder, "--update", place, "-o", place, "--ledger", "-q")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        told: list[Changes] = []
        again = normcli.stats(folder, update=place, on_update=told.append)
        assert again.to_json() == normcli.stats(folder).to_json()
        assert told[0].kept >= 12, "the pair that is left spares the reading"
        seen.add(told[0].new > 0)
    assert steps > 8 and seen == {False, True}, "some kills left the old pair, some the new one"
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith(storage.PARTIAL)}
    assert left == {"images", "s.json", "s.json.ledger"}


@pytest.mark.campaign
def test_killed_at_random_moments(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    place = tmp_path / "s.json"
    command(0, "stats", folder, "-o", place, "--ledger", "-q")
    called = [sys.executable, "-c", COMMAND, "0", "stats", folder, "--update", place, "-o", place, "--ledger", "-q"]
    killed = 0
    for number in range(100):
        (folder / "dog" / f"new{number % 7}.png").write_bytes(encoded(photograph(seed=number)))
        with subprocess.Popen(list(map(str, called)), env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            try:
                process.wait(rng.uniform(0.1, 0.6))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        assert normcli.stats(folder, update=place).to_json() == normcli.stats(folder).to_json()
    print(f"100 updates, {killed} killed, the pair usable after each")
    assert killed > 10


def test_the_command_tells_what_it_found(folder: Path, tmp_path: Path, run: Run) -> None:
    place = tmp_path / "s.json"
    assert command(0, "stats", folder, "-o", place, "--ledger", "-q").returncode == 0
    (folder / "cat" / "0.jpg").unlink()
    done = command(0, "stats", folder, "--update", place, "-o", place, "--ledger")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == b"11 kept, 0 new, 0 changed, 1 gone"
    fresh = run("stats", folder, "--json", "-q")
    assert place.read_bytes() == fresh.stdout
    shown = run("stats", folder, "--update", place, "--json", "-q")
    assert shown.stdout == fresh.stdout
    assert shown.stderr == b""


USAGE = {
    "in place without a ledger": (["--update", "s.json", "-o", "s.json"], b"add --ledger"),
    "a ledger of stdout": (["--ledger", "--json"], b"give -o FILE"),
    "a ledger of -": (["--ledger", "-o", "-"], b"give -o FILE"),
    "an update of stdin": (["--update", "-"], b"needs the path"),
    "an update of nothing": (["--update", "nothing.json"], b"no such file"),
    "over somebody's ledger": (["--ledger", "-o", "t.json"], b"t.json.ledger exists"),
    "an update with a shard": (["--update", "s.json", "--shard", "1/2"], b"--shard"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_use_is_one_line_and_exit_2(case: str, folder: Path, tmp_path: Path, run: Run) -> None:
    first(folder, tmp_path / "s.json")
    (tmp_path / "t.json.ledger").write_text("mine")
    arguments, words = USAGE[case]
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    done = run("stats", folder, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert words in done.stderr and done.stderr.count(b"\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_two_runs_never_write_one_ledger(folder: Path, tmp_path: Path) -> None:
    from normcli.pipeline.stats.recorded import Writer

    writer = Writer(tmp_path / "a.ledger", {})
    with pytest.raises(NormcliError, match="another run"):
        normcli.stats(folder, ledger=tmp_path / "a.ledger")
    writer.abandon()
    normcli.stats(folder, ledger=tmp_path / "a.ledger")


def test_a_run_that_fails_leaves_no_ledger(folder: Path, tmp_path: Path) -> None:
    (folder / "bad.png").write_bytes(b"x")
    with pytest.raises(NormcliError):
        normcli.stats(folder, ledger=tmp_path / "a.ledger", on_error="fail")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_photographs_take_little(shared_data: Path, tmp_path: Path) -> None:
    photographs = shared_data / "imagenet-300"
    if not photographs.is_dir():
        pytest.skip(reason="no imagenet-300 in ../shared/data")
    images = normcli.stats(photographs, ledger=tmp_path / "l").images
    size = (tmp_path / "l").stat().st_size / images
    print(f"{size:.0f} bytes an image")
    assert size < 2000


def test_tar_members_renamed_inside(folder: Path, tmp_path: Path) -> None:
    """A tar of the same size, dated back, with other members."""
    place, path = tmp_path / "s.json", tmp_path / "a.tar"
    pictures = [encoded(photograph(seed=seed), "BMP") for seed in (1, 2)]

    def pack(order: list[int]) -> None:
        with tarfile.open(path, "w") as archive:
            for i in order:
                (tmp_path / "x.bmp").write_bytes(pictures[i])
                archive.add(tmp_path / "x.bmp", f"{len(archive.getmembers())}.bmp")

    pack([0, 0])
    os.utime(path, ns=(10**18, 10**18))
    first(path, place)
    pack([0, 1])
    os.utime(path, ns=(10**18, 10**18))
    assert updated(path, place)[1].changed == 1
