"""apply --to tar and parquet: shards as other readers see them, the way back, kills, full disks, resuming."""

import gc
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli import images
from normcli.errors import NormcliError, UsageError
from normcli.options.shared import DecodeOptions
from normcli.runs import manifest
from normcli.runs.map_batch import class_numbers
from normcli.runs.names import WORK
from normcli.sinks.parquet import ParquetShardWriter, read_array
from normcli.sinks.shards import ShardSize
from tests.support import needs
from tests.support.command import ENVIRONMENT, ROOT, Run
from tests.support.images import encoded, photograph
from tests.support.outputs import tree

CLASSES = ["ant", "bee", "cat", "dog"]


@pytest.fixture
def photos(four_classes: Path) -> Path:
    return four_classes


def right(photos: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return name and array of every image, computed in the plainest way."""
    made = normcli.transform("unit")
    found = {}
    for path in sorted(photos.rglob("*.png")):
        if path.name != "05b.png":
            pixels = images.decode(path.read_bytes(), DecodeOptions()).pixels.copy()
            found[str(path.relative_to(photos))] = made(pixels)
    return found


def test_tarfile_and_stats_read_the_shards(run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("apply", photos, "-o", "out", "-s", "unit", "--to", "tar", "--shard-size", "6")
    assert done.returncode == 3 and b"tar float32, 4 shards" in done.stderr, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "normcli.json",
        *(f"shard-{i:06d}.tar" for i in range(4)),
    ]
    expected = right(photos)
    head, records = manifest.read(tmp_path / "out")
    assert head["classes"] == CLASSES
    assert [shard["images"] for shard in head["shards"]] == [6, 6, 6, 2]
    names = [record["name"] for record in records if "error" not in record]
    members: list[tarfile.TarInfo] = []
    for shard in head["shards"]:
        path = tmp_path / "out" / shard["name"]
        assert path.stat().st_size == shard["bytes"]
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.uname, member.mode) == (0, 0, "", 0o644)
                members.append(member)
                data = archive.extractfile(member)
                assert data is not None
                name = names[(len(members) - 1) // 2]
                key = name.replace(".", "_")  # the only dots are in the file's name
                if len(members) % 2:
                    assert member.name == f"{key}.npy"
                    assert data.read()[-expected[name].nbytes :] == expected[name].tobytes()
                else:
                    assert member.name == f"{key}.cls"
                    assert data.read().decode() == str(head["classes"].index(name.partition("/")[0]))
    assert len(members) == 40
    arrays = run("stats", *sorted((tmp_path / "out").glob("*.tar")), "--include", "*.npy", "-O", "layout=chw", "--json")
    assert arrays.returncode == 0, arrays.stderr
    found = json.loads(arrays.stdout)
    pixels = np.concatenate([np.repeat(a, 3 // len(a), axis=0).reshape(3, -1) for a in expected.values()], axis=1)
    assert found["images"] == 20 and np.allclose(found["mean"], pixels.mean(axis=1, dtype=float), rtol=1e-6)
    grouped = normcli.stats(
        sorted((tmp_path / "out").glob("*.tar")),
        include=["*.npy"],
        open_options={"layout": "chw"},
        group_by="folder",
        color="rgb",
    )
    assert sorted(grouped.groups or {}) == ["0", "1", "2", "3"], "the classes come from the .cls members"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the collector
def test_webdataset_reads_the_shards(photos: Path, tmp_path: Path) -> None:
    wds = needs.module("webdataset")
    normcli.apply(photos, tmp_path / "out", scheme="unit", to="tar", shard_size="30KB")
    expected = right(photos)
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    assert len(shards) > 3
    found = {}
    for sample in wds.WebDataset(shards, shardshuffle=False).decode():
        found[sample["__key__"]] = sample["npy"], sample["cls"]
    for name, array in expected.items():
        got, label = found.pop(name.replace(".", "_"))
        assert got.dtype == np.float32 and np.array_equal(got, array)
        assert label == CLASSES.index(name.partition("/")[0])
    assert not found
    gc.collect()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8"])
def test_pyarrow_reads_the_tables(dtype: Any, photos: Path, tmp_path: Path) -> None:
    parquet = needs.module("pyarrow.parquet")
    normcli.apply(photos, tmp_path / "out", scheme="unit", to="parquet", dtype=dtype, shard_size="8")
    normcli.apply(photos, tmp_path / "files", scheme="unit", dtype=dtype)
    rows = []
    for path in sorted((tmp_path / "out").glob("*.parquet")):
        table = parquet.read_table(path)
        assert table.schema.field("array").type.value_type == dtype.replace("float16", "halffloat").replace(
            "float32", "float"
        ).replace("float64", "double")
        rows += table.to_pylist()
        assert path.stat().st_size < 1.3 * sum(map(len, table["array"].to_pylist())) * np.dtype(dtype).itemsize + 5000
    assert len(rows) == 20
    for row in rows:
        array = np.array(row["array"], dtype).reshape(row["shape"])
        written = np.load(tmp_path / "files" / f"{row['name']}.npy")
        assert array.shape == written.shape and array.tobytes() == written.tobytes()
        assert row["label"] == row["name"].partition("/")[0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
def test_rows_of_any_size_in_several_pages_and_groups(dtype: Any, tmp_path: Path) -> None:
    parquet = needs.module("pyarrow.parquet")
    random = np.random.default_rng(5)
    writer = ParquetShardWriter(str(tmp_path / "x.parquet"), dtype)
    arrays, labels, places = [], [], []
    for i in range(1030):  # a group is 1,000 rows or 16 MiB
        shape = (3, 1201, 1603) if i == 500 else (1, 1, 1) if i % 9 == 0 else tuple(random.integers(1, 7, 3).tolist())
        arrays.append((random.random(shape) * 255).astype(dtype))
        labels.append(None if i % 7 < 3 else f"ü{i % 4}")
        places.append(writer.add([arrays[-1].tobytes()], f"{i}.png", labels[-1], shape))
    size = writer.close(complete=True)
    assert size == (tmp_path / "x.parquet").stat().st_size
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table["label"].to_pylist() == labels and table["name"].to_pylist() == [f"{i}.png" for i in range(1030)]
    assert table["shape"].to_pylist() == [list(array.shape) for array in arrays]
    assert table["array"].combine_chunks().values.to_numpy().tobytes() == b"".join(a.tobytes() for a in arrays)
    for i in (0, 499, 500, 501, 1029):
        assert np.array_equal(read_array(str(tmp_path / "x.parquet"), **places[i]), arrays[i])


def test_row_groups_are_small_and_read_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = needs.module("pyarrow.parquet")
    monkeypatch.setattr("normcli.sinks.parquet._GROUP_BYTES", 7500)
    for number in range(9):
        path = tmp_path / f"in/{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(photograph(10, 20, seed=number)))
    normcli.apply(tmp_path / "in", tmp_path / "out", scheme="signed", to="parquet")
    found = parquet.ParquetFile(tmp_path / "out/shard-000000.parquet").metadata
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [3, 3, 3]
    assert normcli.verify(tmp_path / "out").images == 9
    assert normcli.restore(tmp_path / "out", tmp_path / "back").exact == 9


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_the_way_back_and_the_check(sink: str, dtype: Any, photos: Path, tmp_path: Path) -> None:
    kinds: list[Any] = [sink, "npy"]
    for to in kinds:
        normcli.apply(photos, tmp_path / to, to=to, dtype=dtype)
        found = normcli.verify(tmp_path / to)
        assert found.images == 20 and not found.problems and found.is_valid
        normcli.restore(tmp_path / to, tmp_path / f"back-{to}")
    assert tree(tmp_path / f"back-{sink}") == tree(tmp_path / "back-npy")


def test_verify_sees_damage(sink: Any, run: Run, photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos, tmp_path / "out", scheme="unit", to=sink, shard_size="6")
    path = tmp_path / f"out/shard-000001.{sink}"
    whole = path.read_bytes()
    for damage in (whole[:-1], whole + b"x", b"no", whole[: len(whole) // 2], bytes(len(whole))):
        path.write_bytes(damage)
        done = run("verify", "out")
        assert done.returncode == 1 and f"shard-000001.{sink}".encode() in done.stderr, done.stderr
        assert b"Traceback" not in done.stderr and b"6 files are not as they were written" in done.stderr
    path.unlink()
    assert run("verify", "out").returncode == 1
    back = run("restore", "out", "-o", "back")
    assert back.returncode == 3 and b"14 images" in back.stderr and b"6 missing" in back.stderr


def test_mutated_shards_end_in_words(sink: Any, photos: Path, tmp_path: Path) -> None:
    """The shards are read in a process of their own, which pyarrow may end on damaged tables."""
    normcli.apply(photos, tmp_path / "out", scheme="unit", to=sink)
    code = f"""
import random, sys
from pathlib import Path
import normcli
path = Path({str(tmp_path / f"out/shard-000000.{sink}")!r})
whole, rng, seen = path.read_bytes(), random.Random(5), 0
for _ in range(150):
    data = bytearray(whole)
    for _ in range(rng.choice([1, 1, 4])):
        at = rng.randrange(len(data) - 3000, len(data)) if rng.random() < 0.5 else rng.randrange(len(data))
        data[at] = rng.randrange(256)
    if rng.random() < 0.2:
        data[rng.randrange(len(data)) :] = b""
    path.write_bytes(data)
    found = normcli.verify({str(tmp_path / "out")!r}, engine="serial")
    assert found.images + len(found.problems) == 20
    seen += bool(found.problems)
assert seen > 20, seen
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_shard_of_another_run_is_not_taken_for_ours(photos: Path, tmp_path: Path) -> None:
    normcli.apply(photos, tmp_path / "out", scheme="unit", to="tar", shard_size="6")
    normcli.apply(photos / "ant", tmp_path / "other", scheme="unit", to="tar", shard_size="6")
    shutil.copy(tmp_path / "other/shard-000000.tar", tmp_path / "out/shard-000000.tar")
    assert normcli.verify(tmp_path / "out").problems


@pytest.mark.parametrize("options", [{"engine": "processes"}, {"engine": "serial"}, {"workers": 5}], ids=str)
def test_neither_engine_nor_workers_change_a_byte(
    sink: str, options: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"to": sink, "shard_size": "40KB"}
    normcli.apply(photos, tmp_path / "one", workers=1, **settings)
    normcli.apply(photos, tmp_path / "other", **settings, **options)
    assert tree(tmp_path / "one") == tree(tmp_path / "other")
    assert len(tree(tmp_path / "one")) > 5


def test_batches_of_skipped_files_between_images(sink: Any, tmp_path: Path) -> None:
    """Files that a worker process leaves for the packer are named by its images, not by the items around them."""
    (tmp_path / "in").mkdir()
    for number in range(60):
        (tmp_path / f"in/{number:02d}.txt").write_text("no image")
        (tmp_path / f"in/{number:02d}.x.png").write_bytes(encoded(photograph(8, 9, seed=number)))
        (tmp_path / f"in/{number:02d}.y.txt").write_text("no image")
    for engine in ("serial", "processes"):
        normcli.apply(tmp_path / "in", tmp_path / engine, scheme="unit", to=sink, engine=engine, workers=4)
    assert tree(tmp_path / "serial") == tree(tmp_path / "processes")


def test_a_piece_is_called_by_its_first_image() -> None:
    from normcli.runs.map_batch import Task, piece_name
    from normcli.sources import Skipped

    skip = Skipped("a", "b", "c")
    seven, eight = (Task("k", lambda: b"", None, "n", row) for row in (7, 8))
    assert piece_name([skip, seven, eight, skip]) == "file-piece-7"


def test_shards_by_bytes_stay_below_them(sink: Any, photos: Path, tmp_path: Path) -> None:
    head = normcli.apply(photos, tmp_path / "out", scheme="unit", to=sink, shard_size="40KB")
    assert len(head.shards) > 3 and sum(shard["images"] for shard in head.shards) == 20
    for shard in head.shards:
        assert shard["bytes"] <= 40_000 + (3000 if sink == "parquet" else 0), "arrays count, and not the footer"
    alone = normcli.apply(photos, tmp_path / "alone", scheme="unit", to=sink, shard_size="1B")
    assert [shard["images"] for shard in alone.shards] == [1] * 20
    by_number = normcli.apply(photos, tmp_path / "eight", scheme="unit", to=sink, shard_size=8)
    assert [shard["images"] for shard in by_number.shards] == [8, 8, 4]
    one = normcli.apply(photos, tmp_path / "default", scheme="unit", to=sink)
    assert len(one.shards) == 1 and one.settings["shard_size"] == "1000000000B"


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "", "10 images", "0MB", "1PBB", "١"])
def test_sizes_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="must be a number of images, or bytes with a unit"):
        ShardSize.of(text)


REFUSED = [
    (["--shard-size", "5"], "--shard-size requires --to tar or parquet, not npy"),
    (["--to", "stack", "--shard-size", "5"], "--shard-size requires --to tar or parquet, not stack"),
    (["--to", "tar", "--skip-existing"], "--skip-existing cannot be combined with --to tar"),
    (["--to", "tar", "--shard-size", "5 apples"], "--shard-size: must be a number of images"),
    (["--to", "tar", "--dtype", "int8"], "not 'int8' (did you mean 'uint8'?)"),
    (["--engine", "threads:127.0.0.1:1"], "--engine: must be threads, without an address, not 'threads:127.0.0.1:1'"),
    (["-O", "layout=cwh"], "-O layout=cwh: must be one of auto, nhwc"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refusals(options: list[str], message: str, run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("apply", photos, "-o", "out", "-s", "unit", *options)
    assert done.returncode == 2 and message in done.stderr.decode(), done.stderr
    assert done.stderr.count(b"\n") == 1 and not (tmp_path / "out").exists()


def test_more_refusals(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = photos / "ant/00.v1.png"
    done = run("apply", one, "-o", "-", "--to", "tar")
    assert done.returncode == 2 and b"--to tar holds many images" in done.stderr
    done = run("apply", one, "-o", "s3://bucket/out", "-s", "unit")
    assert done.returncode == 2 and b"is on a server" in done.stderr and not (tmp_path / "s3:").exists()
    with tarfile.open(tmp_path / "shard-000000.tar", "w") as archive:
        archive.add(one, "a.png")
    done = run("apply", "shard-000000.tar", "-o", ".", "-s", "unit", "--to", "tar", "--force")
    assert done.returncode == 2 and b"is inside the output folder" in done.stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NormcliError, match=r"normcli\[parquet\]"):
        normcli.apply(photos, tmp_path / "out", scheme="unit", to="parquet")
    assert not (tmp_path / "out").exists()


def test_names_that_make_one_key_are_told_of(run: Run, tmp_path: Path) -> None:
    for name in ("a.b.png", "a_b.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(photograph(8, 9)))
    done = run("apply", "in", "-o", "out", "-s", "unit", "--to", "tar")
    assert done.returncode == 2 and b"would both be written as a_b_png" in done.stderr
    assert run("apply", "in", "-o", "out", "-s", "unit").returncode == 0


def test_classes_are_numbers_already(tmp_path: Path) -> None:
    assert class_numbers({"10", "7"}) is None and class_numbers(set()) is None
    assert class_numbers({"10", "x"}) == {"10": 0, "x": 1}
    path = tmp_path / "in/7/a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(encoded(photograph(8, 9)))
    head = normcli.apply(tmp_path / "in", tmp_path / "out", scheme="unit", to="tar")
    assert head.classes is None
    with tarfile.open(tmp_path / "out/shard-000000.tar") as archive:
        label = archive.extractfile("7/a_png.cls")
        assert label is not None and label.read() == b"7"


def test_names_of_any_bytes_and_any_length(sink: str, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    raw = [b"caf\xe9.png", b"new\nline.png", b"-o.png", "雪.png".encode(), b"x" * 240 + b".png", b".png", b"d.e/f.png"]
    for name in raw:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(photograph(8, 9)))
    names = ["--include", "*.png", "--include", ".png"]  # hidden files have to be named
    done = run("apply", folder, *names, "-o", "out", "-s", "zscore", "--to", sink)
    assert done.returncode == 0, done.stderr
    if sink == "tar":
        with tarfile.open(tmp_path / "out/shard-000000.tar") as archive:
            found = {os.fsencode(n).removesuffix(b".npy") for n in archive.getnames() if n.endswith(".npy")}
        assert found == {n.replace(b".", b"_").replace(b"d_e/", b"d.e/") for n in raw}
    back = run("restore", "out", "-o", "back")
    assert back.returncode == 0 and b"7 bit for bit" in back.stderr
    assert {os.fsencode(n) for n in tree(tmp_path / "back")} == {*raw, b".png.png"} - {b".png"}
    again = run("apply", folder, *names, "-o", "out", "-s", "zscore", "--to", sink, "--resume")
    assert again.returncode == 0 and b"already complete: out: 7 images" in again.stderr, again.stderr


def test_dry_run_tells_the_bytes_of_the_arrays(sink: Any, run: Run, photos: Path, tmp_path: Path) -> None:
    done = run("apply", photos, "-n", "-s", "unit", "--to", sink)
    assert done.returncode == 3 and not (tmp_path / WORK).exists()
    head = normcli.apply(photos, tmp_path / "out", scheme="unit", to=sink)
    assert done.stdout.decode() == f"20 images, {head.bytes} bytes\n"


def test_the_documented_default_is_the_default() -> None:
    from normcli.sinks.shards import DEFAULT

    assert re.search(rf"`--shard-size`.*{DEFAULT}", (ROOT / "docs/apply.md").read_text(), re.DOTALL)


def test_arrays_in_a_tar_are_read_where_include_names_them(run: Run, tmp_path: Path) -> None:
    pixels = photograph(9, 8, seed=4)
    whole = io.BytesIO()
    np.save(whole, pixels)
    stack = io.BytesIO()
    np.save(stack, np.stack([pixels, pixels]))
    unclear = io.BytesIO()
    np.save(unclear, pixels[:3].copy())
    members = {
        "good.npy": whole.getvalue(),
        "cut.npy": whole.getvalue()[:-5],
        "stack.npy": stack.getvalue(),
        "unclear.npy": unclear.getvalue(),
        "text.npy": b"no array",
        "photo.png": encoded(pixels),
    }
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    plain = normcli.stats(tmp_path / "a.tar")
    assert (plain.images, plain.skipped) == (1, 5), "embeddings beside images are not taken for images"
    found = normcli.stats(tmp_path / "a.tar", include=["*.npy", "*.png"])
    assert found.images == 2 and found.mean == plain.mean
    assert found.failures == {"truncated": 1, "layout": 2, "not-an-array": 1}
