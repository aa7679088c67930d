"""A container is one entry of a file cache: not opened while it is unchanged, rescanned whole when it changed."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.runs.file_cache import Changes
from tests.support import needs, packing
from tests.support.images import encoded, photograph
from tests.support.incremental import first, updated

pytestmark = pytest.mark.usefixtures("files_of_long_ago")


@pytest.mark.parametrize("row", ["tar", "tar.gz", "webdataset", "zip", "parquet"])
def test_a_container_that_did_not_change_is_not_opened(
    row: str, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, place = tmp_path / "packed", tmp_path / "s.json"
    out.mkdir()
    (mixed / "empty.png").unlink()  # a row of parquet without bytes names a file, which changes on its own
    sources = [str(path) for path in packing.ROWS[row][1](mixed, out)]
    found: list[Changes] = []
    first_run = normcli.stats(sources, output=place, incremental=True, group_by="folder")
    with monkeypatch.context() as patched:

        def unopened(*_: Any) -> None:
            raise AssertionError("a container was opened")

        patched.setattr("normcli.storage.reader.Reader.__init__", unopened)
        again = normcli.stats(sources, output=place, incremental=True, on_update=found.append, group_by="folder")
    assert found == [Changes(len(sources), 0, 0, 0, 0)]
    assert again.to_json() == first_run.to_json()
    (mixed / "cat" / "0.jpg").unlink()
    packing.ROWS[row][1](mixed, out)
    again = normcli.stats(sources, output=place, incremental=True, on_update=found.append, group_by="folder")
    assert found[1].changed == len(sources) and found[1].reused == 0
    assert again.to_json() == normcli.stats(sources, group_by="folder").to_json()
    with monkeypatch.context() as patched:  # which members are taken is part of it
        other = normcli.stats(
            sources, output=place, incremental=True, exclude="*.png", on_update=found.append, group_by="folder"
        )
    assert found[2].reused == 0
    assert other.to_json() == normcli.stats(sources, exclude="*.png", group_by="folder").to_json()


def test_containers_and_folders_together(mixed: Path, tmp_path: Path) -> None:
    out, place = tmp_path / "packed", tmp_path / "s.json"
    out.mkdir()
    (archive,) = packing.tar(mixed / "cat", out)
    np.save(out / "stack.npy", np.stack([photograph(seed=seed) for seed in range(5)]))
    (out / "none.tar").write_bytes(bytes(10240))
    sources = [str(mixed / "dog"), str(archive), str(out / "stack.npy"), str(out / "none.tar")]
    normcli.stats(sources, output=place, incremental=True)
    found: list[Changes] = []
    steps: list[Callable[[], None]] = [lambda: None, archive.unlink, (out / "none.tar").unlink]
    for change in steps:
        change()
        sources = [source for source in sources if Path(source).exists()]  # one that is missing ends the run
        again = normcli.stats(sources, output=place, incremental=True, on_update=found.append)
        assert again.to_json() == normcli.stats(sources).to_json()
    assert [changes.reused for changes in found] == [11, 10, 9]


def test_a_table_that_names_files_does_not_hide_their_changes(folder: Path, tmp_path: Path) -> None:
    pa = needs.module("pyarrow")
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
    first(images, place, group_by="folder")
    assert updated(images, place, group_by="folder")[1].reused == 1
    labels.write_bytes(labels.read_bytes()[:-1] + bytes([7]))
    assert "7" in updated(images, place, group_by="folder")[0].groups


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
