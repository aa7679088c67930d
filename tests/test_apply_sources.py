"""apply from every container: the arrays that the folder gives, byte for byte; names as docs/apply.md says."""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import UsageError
from normcli.storage.reader import Reader
from tests.support import needs, packing
from tests.support.command import Run
from tests.support.images import encoded, photograph
from tests.support.outputs import hashes, names
from tests.support.photographs import some


def same_arrays(row: str, folder: Path, tmp_path: Path) -> None:
    kind, pack = packing.ROWS[row]
    (tmp_path / "packed").mkdir()
    sources = pack(folder, tmp_path / "packed")
    normcli.apply(folder, tmp_path / "plain")
    head = normcli.apply(sources, tmp_path / "out")
    plain = hashes(tmp_path / "plain")
    assert plain.total() == len(packing.files_of(folder)) and hashes(tmp_path / "out") == plain
    assert normcli.verify(tmp_path / "out").is_valid
    assert normcli.apply(sources, tmp_path / "out", resume=True) == replace(head, reused=head.images)
    if row not in ("webdataset", "parquet", "arrow", "saved"):
        same = names(tmp_path / "plain")
        if kind == "file_list":  # the paths in it are absolute
            same = [f"{str(folder).lstrip('/')}/{name}" for name in same]
        assert names(tmp_path / "out") == same


@pytest.mark.parametrize("row", packing.ROWS)
def test_the_folders_arrays(row: str, folder: Path, tmp_path: Path) -> None:
    same_arrays(row, folder, tmp_path)


@pytest.mark.parametrize("row", ["tar", "tar.gz", "webdataset", "zip", "parquet"])
def test_the_folders_arrays_of_photographs(row: str, shared_data: Path, tmp_path: Path) -> None:
    same_arrays(row, some(shared_data, tmp_path / "photos", 24), tmp_path)


@pytest.mark.campaign
@pytest.mark.parametrize("row", ["tar", "tar.gz", "webdataset", "zip", "parquet"])
def test_the_folders_arrays_of_all_photographs(row: str, shared_data: Path, tmp_path: Path) -> None:
    same_arrays(row, some(shared_data, tmp_path / "photos", 300), tmp_path)


@pytest.mark.parametrize("row", ["tar", "tar.gz", "webdataset", "zip", "parquet", "csv"])
@pytest.mark.parametrize("to", ["tar", "parquet", "stack"])
def test_from_container_to_container(row: str, to: str, folder: Path, tmp_path: Path) -> None:
    if to == "parquet":
        needs.module("pyarrow")
    (tmp_path / "packed").mkdir()
    sources = packing.ROWS[row][1](folder, tmp_path / "packed")
    settings: dict[str, Any] = {"scheme": "unit", "to": to, "color": "rgb"}
    head = normcli.apply(sources, tmp_path / "out", **settings)
    assert head.images == 12
    found = normcli.verify(tmp_path / "out")
    normcli.apply(folder, tmp_path / "plain", **settings)
    assert vars(found) == vars(normcli.verify(tmp_path / "plain"))


def test_names_say_where_an_image_came_from(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    shards = packing.webdataset(folder, tmp_path / "packed")
    normcli.apply(shards, tmp_path / "shards", scheme="unit")
    assert names(tmp_path / "shards")[:2] == ["shard-000.tar/000000.jpg.npy", "shard-000.tar/000003.jpg.npy"]
    braces = tmp_path / "packed/shard-{000..002}.tar"
    normcli.apply(braces, tmp_path / "braces", scheme="unit")
    assert names(tmp_path / "braces") == names(tmp_path / "shards")
    normcli.apply(shards[0], tmp_path / "one", scheme="unit")
    assert names(tmp_path / "one")[0] == "000000.jpg.npy"


def test_a_table_of_files_gives_names_below_its_folder(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("file,class\ncat/0.jpg,a\ndog/1.jpg,b\n")
    (folder / "list.jsonl").write_text(json.dumps({"picture": "cat/0.jpg", "label": "a"}) + "\n")
    done = run("apply", folder / "list.csv", "-o", "out", "-s", "unit", "--to", "tar")
    assert done.returncode == 0, done.stderr
    head = json.loads((tmp_path / "out/normcli.json").read_text())
    assert [record["name"] for record in head["files"]] == ["cat/0.jpg", "dog/1.jpg"]
    assert [record["label"] for record in head["files"]] == head["classes"] == ["a", "b"]
    done = run("apply", "images/list.jsonl", "-o", "rows", "-s", "unit", "-O", "column=picture")
    assert done.returncode == 0 and names(tmp_path / "rows") == ["cat/0.jpg.npy"], done.stderr
    wrong = run("apply", "images/list.jsonl", "-o", "wrong", "-s", "unit", "-O", "column=image")
    assert wrong.returncode == 2 and b"no column 'image'" in wrong.stderr and not (tmp_path / "wrong").exists()
    (folder / "excel.csv").write_text("\ufefffile;class\ncat/0.jpg;a\n", encoding="utf-8")
    done = run("stats", folder / "excel.csv")
    assert done.returncode == 2 and b"(semicolons separate nothing: a .csv has commas, a .tsv tabs)" in done.stderr


def test_the_column_of_a_table(run: Run, tmp_path: Path) -> None:
    pa = needs.module("pyarrow")
    import pyarrow.parquet as pq

    left, right = (encoded(photograph(8, 9, seed=seed)) for seed in (1, 2))
    pq.write_table(pa.table({"left": [left], "right": [right], "label": ["x"]}), tmp_path / "t.parquet")
    unclear = run("apply", "t.parquet", "-o", "out", "-s", "unit")
    assert unclear.returncode == 2 and b"-O column=left or -O column=right" in unclear.stderr
    done = run("apply", "t.parquet", "-o", "out", "-s", "unit", "-O", "column=right")
    assert done.returncode == 0 and names(tmp_path / "out") == ["0.npy"]
    expected = (photograph(8, 9, seed=2).transpose(2, 0, 1) / 255).astype(np.float32)
    assert np.array_equal(np.load(tmp_path / "out/0.npy"), expected)


@pytest.mark.parametrize(("layout", "axes"), [("nhwc", (0, 1, 2, 3)), ("nchw", (0, 3, 1, 2))])
def test_arrays_and_their_axes(layout: str, axes: tuple[int, ...], run: Run, tmp_path: Path) -> None:
    pixels = np.stack([photograph(3, 3, seed=seed) for seed in range(11)])
    np.save(tmp_path / "images.npy", np.ascontiguousarray(pixels.transpose(axes)))
    unclear = run("apply", "images.npy", "-o", "out", "-s", "unit")
    assert unclear.returncode == 2 and b"nhwc or nchw" in unclear.stderr
    for kind in ("npy", "tar"):
        done = run(
            "apply",
            "images.npy",
            "-o",
            kind,
            "-s",
            "unit",
            "-O",
            f"layout={layout}",
            "--output-layout",
            "hwc",
            "--to",
            kind,
        )
        assert done.returncode == 0, done.stderr
    for number, image in enumerate(pixels):
        assert np.array_equal(np.load(tmp_path / f"npy/{number:02d}.npy"), (image / 255).astype(np.float32))
    assert normcli.restore(tmp_path / "npy", tmp_path / "back").exact == 11
    assert normcli.restore(tmp_path / "tar", tmp_path / "back-tar").exact == 11


def test_npz_and_idx(tmp_path: Path) -> None:
    pixels = np.stack([photograph(9, 8, 1, seed=seed)[:, :, 0] for seed in range(5)])
    np.savez_compressed(tmp_path / "digits.npz", x_train=pixels, y_train=np.array([3, 1, 4, 1, 5]), other=pixels)
    idx = struct.pack(">IIII", 0x803, 5, 9, 8) + pixels.tobytes()
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">II", 0x801, 5) + bytes([3, 1, 4, 1, 5]))
    )
    normcli.apply(tmp_path / "digits.npz", tmp_path / "npz", open_options={"column": "x_train"})
    head = normcli.apply(tmp_path / "t10k-images-idx3-ubyte.gz", tmp_path / "idx", to="tar")
    assert head.images == 5 and head.classes is None
    found = [np.load(path) for path in sorted((tmp_path / "npz").rglob("*.npy"))]
    assert len(found) == 5 and normcli.verify(tmp_path / "npz").is_valid and normcli.verify(tmp_path / "idx").is_valid
    files = json.loads((tmp_path / "idx/normcli.json").read_text())["files"]
    assert [record["label"] for record in files] == list("31415")


def test_batches_of_streams_are_bounded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of a stream are in memory until they are mapped: their bytes are bounded, not their number."""
    from normcli.runs import loop, map_batch

    monkeypatch.setattr(loop, "_LARGEST_HELD", 1)
    (tmp_path / "packed").mkdir()
    sizes = []
    true = map_batch.map_batch

    def counted(work: Any, batch: list[Any]) -> Any:
        sizes.append(len(batch))
        return true(work, batch)

    monkeypatch.setattr(map_batch, "map_batch", counted)
    normcli.apply(packing.tar(folder, tmp_path / "packed", "w:gz"), tmp_path / "out", scheme="unit")
    assert set(sizes) == {1}


@pytest.mark.parametrize("to", ["npy", "tar"])
@pytest.mark.parametrize(("kind", "scheme", "most"), [("tar.gz", "contrast", 2), ("tar.gz", "unit", 2)])
def test_a_compressed_tar_is_read_once_per_pass(
    kind: str, scheme: str, most: int, to: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics and map; where mean and std are given, the names and the map."""
    (tmp_path / "packed").mkdir()
    source = packing.tar(folder, tmp_path / "packed", "w:gz")[0]
    with reads_of(source, monkeypatch) as reads:
        normcli.apply(source, tmp_path / "out", scheme=scheme, to=to)
    assert reads.bytes <= most * Path(source).stat().st_size + most * 1000
    with reads_of(source, monkeypatch) as reads:  # everything is there: names alone, then the images' names
        normcli.apply(source, tmp_path / "out", scheme=scheme, to=to, resume=True)
    assert reads.bytes <= most * Path(source).stat().st_size + most * 1000


def test_the_names_of_a_table_cost_its_footer(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("pyarrow")
    (tmp_path / "packed").mkdir()
    source = packing.parquet(folder, tmp_path / "packed")[0]
    with reads_of(source, monkeypatch) as reads:
        normcli.apply(source, tmp_path / "out", scheme="unit", engine="serial")
    assert reads.opened == 2 and reads.bytes < 1.5 * Path(source).stat().st_size + (1 << 17)


def test_names_that_collide_in_a_stream_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in ("a.png", "b.png", "a.png"):
            info = tarfile.TarInfo(name)
            info.size = len(data := encoded(photograph(6, 6, seed=1), "PNG"))
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(UsageError, match=r"a\.png is named twice"):
        normcli.apply(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@dataclass
class Reads:
    """The opens and reads of a file."""

    opened: int = 0
    bytes: int = 0


@contextmanager
def reads_of(source: str | Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    """Count how often a file is opened as a container, and the bytes that are read of it."""
    reads = Reads()
    with monkeypatch.context() as patch:
        opened, read = Reader.__init__, Reader.at

        def init(reader: Reader, path: str) -> None:
            opened(reader, path)
            reads.opened += path == str(source)

        def at(reader: Reader, offset: int, size: int) -> bytes:
            data = read(reader, offset, size)
            reads.bytes += len(data) if reader.path == str(source) else 0
            return data

        patch.setattr(Reader, "__init__", init)
        patch.setattr(Reader, "at", at)
        yield reads
