"""Members of archives and rows of tables, read before they are decoded: counted together, as files are, to the same
bits.
"""

import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from normcli import images
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.runs import read_small
from normcli.runs.count import PartialResult, WorkerOptions, count_batch
from normcli.sources import Item, Skipped, read
from normcli.storage import files
from normcli.storage.files import ByteRange, FileBytes, InMemory, read_early
from tests.support import packing
from tests.support.images import encoded, photograph

CONTAINERS: dict[str, Callable[[Path, Path], list[Path]]] = {
    "tar": packing.tar,
    "tar.gz": partial(packing.tar, mode="w:gz"),
    "zip": partial(packing.zipped, method=zipfile.ZIP_STORED),
    "deflated.zip": packing.zipped,
    "parquet": packing.parquet,
}
COUNTING = WorkerOptions(DecodeOptions())


def small_images() -> dict[str, bytes]:
    return {f"{i:02}.jpg": encoded(photograph(20, 31, seed=i), "JPEG") for i in range(80)}


def photographs() -> dict[str, bytes]:
    return {f"{i:02}.jpg": encoded(photograph(200, 300, seed=i), "JPEG") for i in range(12)}


CONTENTS = {"small images": small_images, "photographs": photographs}


def items_of(path: Path) -> list[Item | Skipped]:
    return list(read([str(path)], InputOptions()))


def filled(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def reject(*_: object) -> None:
    raise AssertionError("decoded one by one")


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("content", CONTENTS)
def test_members_are_counted_as_files_are(
    content: str, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = filled(tmp_path / "folder", CONTENTS[content]())
    expected = count_batch(COUNTING, items_of(folder)).state()
    (packed,) = CONTAINERS[container](folder, tmp_path)
    items = items_of(packed)
    monkeypatch.setattr(images, "decode", reject)
    found = count_batch(COUNTING, items).state()
    assert found["failures"] == []
    assert (found["tally"], found["inputs"], found["bytes"]) == (
        expected["tally"],
        expected["inputs"],
        expected["bytes"],
    )


def one_by_one(items: list[Item | Skipped]) -> PartialResult:
    """Count items whose loaders read nothing early."""
    total = PartialResult()
    for item in items:
        alone = item._replace(load=item.load.__call__) if isinstance(item, Item) else item
        total.add(count_batch(COUNTING, [alone]))
    return total


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("container", ["tar", "zip", "deflated.zip"])
def test_a_damaged_member_is_named(content: str, container: str, tmp_path: Path) -> None:
    """One with a changed byte, and the last, whose archive has been cut since it was listed."""
    folder = filled(tmp_path / "folder", CONTENTS[content]())
    (packed,) = CONTAINERS[container](folder, tmp_path)
    data = bytearray(packed.read_bytes())
    at = len(data) // 2
    data[at : at + 50] = bytes(50)
    packed.write_bytes(data)
    items = items_of(packed)
    together, alone = count_batch(COUNTING, items), one_by_one(items)
    assert together.state() == alone.state()
    assert together.failures if "zip" in container else together.tally.images
    packed.write_bytes(data[: len(data) // 2])
    together, alone = count_batch(COUNTING, items), one_by_one(items)
    assert together.state() == alone.state()
    assert len(together.failures) == len(items)
    assert "changed" in {failure.reason for failure in together.failures}


def test_members_that_follow_each_other_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels between them are passed over; a large member, another archive and a file end a run."""
    folder = filled(tmp_path / "folder", {**small_images(), "40-large.jpg": encoded(photograph(200, 300), "JPEG")})
    for path in sorted(folder.iterdir())[::3]:
        path.with_suffix(".cls").write_text("7")
    (first,) = packing.tar(folder, tmp_path)
    (second := tmp_path / "b.tar").write_bytes(first.read_bytes())
    items = [*items_of(first), *items_of(second), *items_of(folder)]
    expected = one_by_one(items)
    calls: list[int] = []
    real = files.read_at

    def counted(path: str, offset: int, size: int, *rest: object) -> bytes:
        calls.append(size)
        return real(path, offset, size, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(read_small, "read_at", counted)
    monkeypatch.setattr(files, "read_at", counted)
    found = count_batch(COUNTING, items)
    assert (found.tally.state(), found.bytes) == (expected.tally.state(), expected.bytes)
    assert len(calls) < 12
    assert found.tally.images == 3 * 81


def test_limits(tmp_path: Path) -> None:
    (path := tmp_path / "file").write_bytes(b"0123456789")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"0123456789")
    (member,) = items_of(tmp_path / "a.zip")
    assert isinstance(member, Item)
    loads = [FileBytes(str(path)), ByteRange(str(path), 0, 10), InMemory(b"0123456789"), member.load]
    assert [read_early(load, 10) for load in loads] == [b"0123456789"] * 4
    assert [read_early(load, 9) for load in loads] == [None] * 4
    nothing = [FileBytes("gone"), ByteRange(str(path), 5, 10), ByteRange(str(path), 0, 0), InMemory(b""), None]
    remote = [FileBytes("http://127.0.0.1:9/a"), ByteRange("http://127.0.0.1:9/a", 0, 5)]
    assert [read_early(load, 10) for load in (*nothing, *remote)] == [None] * 7


def test_labels_and_names_of_samples(tmp_path: Path) -> None:
    """Groups need each image by itself: they come out as they did."""
    folder = filled(tmp_path / "folder", small_images())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, path in enumerate(sorted(folder.iterdir())):
            tar.add(path, f"{'ab'[i % 2]}/{path.name}")
    result = count_batch(COUNTING._replace(group_by="folder"), items_of(tmp_path / "a.tar"))
    assert {name: group.images for name, group in result.tally.groups.items()} == {"a": 40, "b": 40}
