"""Vectors: rows of numbers count as images of one pixel, from every container and in any split into blocks."""

import csv
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from tests.support import needs
from tests.support.command import run_here
from tests.support.memory import peak

Array = np.ndarray[Any, Any]
NAMES = ["action[0]", "action[1]", "action[2]", "speed"]


def values(dtype: Any = np.float32, count: int = 700) -> Array:
    random = np.random.default_rng(3)
    rows = random.normal(size=(count, 4)) * 10.0 ** random.integers(-6, 7, size=(count, 4))
    rows[::7, 1] = 0.0
    rows[1::7, 1] = -0.0
    return rows.astype(dtype)


def table(path: Path, rows: Array, kind: str = "fixed", **columns: Any) -> Path:
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    numbers = pa.array(rows[:, :3].ravel())
    action = pa.FixedSizeListArray.from_arrays(numbers, 3)
    if kind == "list":
        action = action.cast(pa.list_(numbers.type))
    parquet.write_table(pa.table({"action": action, "speed": rows[:, 3], **columns}), path, row_group_size=300)
    return path


def written(path: Path, rows: Array) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*NAMES, "run"])
        out.writerows([*map(repr, map(float, row)), f"run{i // 100}"] for i, row in enumerate(rows))
    return path


def npy(path: Path, rows: Array) -> Path:
    np.save(path, rows)
    return path


def npz(path: Path, rows: Array) -> Path:
    np.savez_compressed(path, x=rows)
    return path


SOURCES: dict[str, Callable[[Path, Array], Any]] = {
    "npy": lambda folder, rows: normcli.source(npy(folder / "a.npy", rows), layout="nc"),
    "npz": lambda folder, rows: normcli.source(npz(folder / "a.npz", rows), layout="nc"),
    "csv": lambda folder, rows: normcli.source(written(folder / "a.csv", rows), columns=",".join(NAMES)),
    "parquet": lambda folder, rows: normcli.source(table(folder / "a.parquet", rows), columns="action,speed"),
    "lists": lambda folder, rows: normcli.source(table(folder / "l.parquet", rows, "list"), columns="action,speed"),
}


def counted(rows: Array, size: int, **options: Any) -> normcli.Counter:
    counter = normcli.Counter(layout="nc", **options)
    for start in range(0, len(rows), size):
        counter.add(rows[start : start + size])
    return counter


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_has_the_counts_of_its_rows(source: str, dtype: Any, tmp_path: Path) -> None:
    rows = values(dtype)
    summary = normcli.stats(SOURCES[source](tmp_path, rows))
    state = counted(rows, 50).summary().state
    assert summary.state["buckets"] == state["buckets"]
    assert summary.inputs["digest"] == counted(rows, 50).summary().inputs["digest"]
    assert summary.images == len(rows) and summary.unit == "vector"
    assert summary.channels == (NAMES if source in ("csv", "parquet", "lists") else ["0", "1", "2", "3"])
    exact = [sum(map(Fraction, column)) / len(column) for column in rows.T.tolist()]
    assert summary.mean == list(map(float, exact))
    assert summary.min == rows.min(axis=0).tolist() and summary.max == rows.max(axis=0).tolist()


def test_a_row_counts_as_an_image_of_one_pixel() -> None:
    rows = values(np.float64, 40)
    rows[5] = [1e-170, 3e-165, 5e-324, 0.0]
    rows[6, 2] = np.nan
    images = normcli.Counter(layout="hwc", color="native", nan="skip")
    for row in rows:
        images.add(row[None, None])
    one = counted(rows, 40, nan="skip").summary().state["buckets"]
    assert one == images.summary().state["buckets"]


def test_counts_do_not_depend_on_blocks_order_or_shards(tmp_path: Path) -> None:
    rows = np.concatenate([values(), values()[::-1] * 2, values() - 1])  # more than 1,024 extremes are known
    whole = counted(rows, len(rows)).summary().state
    for size in (1000, 333, 64):
        assert counted(rows[::-1], size).summary().state == whole
    files = [npy(tmp_path / f"{i}.npy", part) for i, part in enumerate(np.array_split(rows, 5))]
    parts = [normcli.stats(normcli.source(file, layout="nc")) for file in files]
    assert normcli.merge(parts[::-1]).state == whole
    assert (normcli.merge(parts) - parts[2]).inputs == normcli.merge(parts[:2], parts[3:]).inputs
    shards = [normcli.stats(files, open_options={"layout": "nc"}, shard=f"{i}/3") for i in (3, 1, 2)]
    assert normcli.merge(shards).state == whole
    assert normcli.count(list(rows[:100]), layout="nc", workers=2).state == counted(rows[:100], 7).summary().state


def test_a_column_groups_rows(tmp_path: Path) -> None:
    rows = values()
    runs = np.arange(len(rows)) % 3
    path = table(tmp_path / "a.parquet", rows, run=runs)
    summary = normcli.stats(normcli.source(path, columns="action"), group_by="run")
    assert list(summary.groups) == ["0", "1", "2"]
    for name, group in summary.groups.items():
        part = rows[runs == int(name), :3].astype(np.float64)
        assert group.images == len(part)
        np.testing.assert_allclose(group.mean, part.mean(axis=0), rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(group.std, part.std(axis=0), rtol=1e-12)
    labeled = [(rows[runs == i, :3], [str(i)] * int((runs == i).sum())) for i in range(3)]
    assert normcli.count(labeled, layout="nc", group_by="label").state["groups"] == summary.state["groups"]
    lines = normcli.stats(normcli.source(written(tmp_path / "a.csv", rows), columns="speed"), group_by="run")
    assert [group.images for group in lines.groups.values()] == [100] * 7


def test_labels_of_an_archive_group_its_rows(tmp_path: Path) -> None:
    rows = values()
    np.savez(tmp_path / "a.npz", x=rows, y=np.arange(len(rows)) % 2)
    summary = normcli.stats(normcli.source(tmp_path / "a.npz", layout="nc", column="x"), group_by="label")
    assert [group.images for group in summary.groups.values()] == [350, 350]
    assert summary.group("1").mean[3] == pytest.approx(rows[1::2, 3].astype(np.float64).mean(), rel=1e-12)


def test_tables_of_the_datasets_library(tmp_path: Path) -> None:
    pa = needs.module("pyarrow")
    rows = values()
    whole = counted(rows[:, :3], 700).summary().state["buckets"]
    (tmp_path / "d/data").mkdir(parents=True)
    for number, part in enumerate(np.array_split(rows, 2)):
        path = tmp_path / f"d/data/train-0000{number}-of-00002.parquet"
        table(path, part, run=np.full(len(part), number))
    summary = normcli.stats(normcli.source(tmp_path / "d", columns="action"), group_by="run")
    assert summary.state["buckets"] == whole and [g.images for g in summary.groups.values()] == [350, 350]
    batch = pa.table({"action": pa.array(rows[:, :3].tolist(), pa.list_(pa.float32()))})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, batch.schema) as out:
        out.write_table(batch, max_chunksize=90)
    assert normcli.stats(normcli.source(tmp_path / "a.arrow", columns="action")).state["buckets"] == whole


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_feather_and_compressed_streams(compression: str, tmp_path: Path) -> None:
    pa, feather = needs.module("pyarrow"), needs.module("pyarrow.feather")
    rows = values()
    groups = pa.array([f"run{i // 100}" for i in range(len(rows))]).dictionary_encode()
    content = pa.table({"action": pa.FixedSizeListArray.from_arrays(pa.array(rows[:, :3].ravel()), 3), "run": groups})
    whole = normcli.stats(normcli.source(table(tmp_path / "a.parquet", rows), columns="action")).state["buckets"]
    feather.write_feather(content, tmp_path / "a.feather", compression=compression, chunksize=90)
    settings = pa.ipc.IpcWriteOptions(compression=None if compression == "uncompressed" else compression)
    with (
        pa.OSFile(str(tmp_path / "a.arrows"), "wb") as file,
        pa.ipc.new_stream(file, content.schema, options=settings) as out,
    ):
        out.write_table(content, max_chunksize=90)
    for name in ("a.feather", "a.arrows"):
        summary = normcli.stats(normcli.source(tmp_path / name, columns="action"), group_by="run")
        assert summary.state["buckets"] == whole and len(summary.groups) == 7, name


def test_lists_of_numbers_are_vectors() -> None:
    rows = values(np.float64, 20)
    whole = counted(rows, 20).summary().state["buckets"]
    assert normcli.count(rows.tolist(), layout="nc").state["buckets"] == whole
    dictionaries = [{"action": row.tolist(), "label": i % 2} for i, row in enumerate(rows)]
    summary = normcli.count(iter(dictionaries), key="action", layout="nc", group_by="label")
    assert summary.state["buckets"] == whole and [g.images for g in summary.groups.values()] == [10, 10]
    ragged = normcli.count(iter([{"a": [[1.0, 2.0], [3.0]]}, {"a": [[1.0, 2.0]]}]), key="a", layout="nc")
    assert (ragged.images, ragged.failures) == (1, {"unsupported": 1})
    with pytest.raises(normcli.UsageError, match="3 components"):
        normcli.count([rows[0], rows[1][:3]], layout="nc")


@pytest.mark.parametrize("workers", [1, 3])
def test_percentiles_of_what_is_counted_twice_are_exact(workers: int) -> None:
    rows = values(np.float64, 300)
    summary = normcli.count([*rows], layout="nc", exact_percentiles=True, percentiles="1,99.5", workers=workers)
    assert summary.percentile_details == {"method": "linear", "requested": ["1", "99.5"], "exact": True}
    for name, each in summary.percentiles.items():
        np.testing.assert_allclose(each, np.percentile(rows, float(name), axis=0), rtol=1e-12)
    with pytest.raises(normcli.UsageError, match="an iterator ends after once"):
        normcli.count(iter(rows), layout="nc", exact_percentiles=True)
    with pytest.raises(normcli.UsageError, match="`exact_percentiles` cannot be combined with `partial`"):
        normcli.count([*rows], layout="nc", exact_percentiles=True, partial=True)
    images = [row.reshape(1, 4, 1).astype(np.float32) for row in rows]
    exact = normcli.count(images, layout="hwc", exact_percentiles=True, workers=workers).percentiles["50"]
    np.testing.assert_allclose(exact, [np.median(rows.astype(np.float32).astype(np.float64))], rtol=1e-12)


def test_nan_fails_its_row_or_leaves_out_its_component(tmp_path: Path) -> None:
    rows = values(np.float64, 30)
    rows[4, 2], rows[9] = np.nan, np.inf
    source = normcli.source(npy(tmp_path / "a.npy", rows), layout="nc")
    failures: list[Any] = []
    strict = normcli.stats(source, on_failure=failures.append)
    assert (strict.images, strict.failed) == (28, 2)
    assert [failure.key for failure in failures] == [f"{source}/4", f"{source}/9"]
    assert "component 2 is NaN" in failures[0].message
    skip = normcli.stats(source, nan="skip")
    assert (skip.images, skip.failed, skip.pixels, skip.invalid) == (29, 1, [29, 29, 28, 29], [0, 0, 1, 0])
    kept = np.delete(rows, 9, axis=0)
    np.testing.assert_allclose(skip.mean, np.nanmean(kept, axis=0), rtol=1e-12, atol=1e-9)
    nulls = normcli.stats(normcli.source(table(tmp_path / "n.parquet", rows), columns="action,speed"), nan="skip")
    assert nulls.state["buckets"] == skip.state["buckets"]


def test_a_row_that_is_null_or_of_another_width_fails_alone(tmp_path: Path) -> None:
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    ragged = [[1.0, 2.0], None, [3.0], [4.0, None], [5.0, 6.0, 7.0], [8.0, 9.0]]
    parquet.write_table(pa.table({"a": pa.array(ragged, pa.list_(pa.float32()))}), tmp_path / "a.parquet")
    failures: list[Any] = []
    source = normcli.source(tmp_path / "a.parquet", columns="a")
    summary = normcli.stats(source, nan="skip", on_failure=failures.append)
    assert (summary.images, summary.failures, summary.pixels) == (3, {"bad-row": 3}, [3, 2])
    assert [(failure.key.rpartition("/")[2], failure.message) for failure in failures] == [
        ("1", "column 'a' is null"),
        ("2", "1 numbers in column 'a', where others have 2"),
        ("4", "3 numbers in column 'a', where others have 2"),
    ]
    done = run_here("stats", tmp_path / "a.parquet", "-O", "columns=a", "--nan", "skip", "-q", "-o", tmp_path / "s")
    assert done.code == 3 and done.err.count("\n") == 1


BAD = {
    "no such column": (["a.parquet", "-O", "columns=action,gone"], 2, "no column 'gone'"),
    "text": (["a.parquet", "-O", "columns=name"], 2, "holds string, neither numbers"),
    "columns twice": (["a.parquet", "-O", "columns=action,action"], 2, "distinct names"),
    "images or vectors": (["a.parquet", "-O", "columns=action", "-O", "column=action"], 2, "cannot be combined"),
    "no columns": (["a.parquet"], 4, "-O columns=action,speed"),
    "objects": (["o.npy", "-O", "layout=nc"], 4, "objects"),
    "three axes": (["c.npy", "-O", "layout=nc"], 2, "is not nc"),
    "wide": (["w.npy", "-O", "layout=nc"], 4, "513 components"),
    "long integers": (["i.npy", "-O", "layout=nc"], 4, "over 2^53"),
    "two widths": (["v.npy", "x.npy", "-O", "layout=nc"], 2, "x.npy has 3 components, v.npy has 4: such vectors"),
    "not numbers": (["t.csv", "-O", "columns=x,y"], 4, "not a number: 'b'"),
    "resize": (["v.npy", "-O", "layout=nc", "--resize", "8"], 2, "--resize cannot be combined with vectors"),
    "color": (["v.npy", "-O", "layout=nc", "--color", "gray"], 2, "--color cannot be combined with vectors"),
    "sample": (["v.npy", "-O", "layout=nc", "--sample", "8"], 2, "--sample cannot be combined with vectors"),
    "per image": (
        ["v.npy", "-O", "layout=nc", "--per-image", "p.jsonl"],
        2,
        "--per-image cannot be combined with vectors",
    ),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    table(folder / "a.parquet", values(), name=["x"] * 700)
    np.save(folder / "v.npy", values())
    np.save(folder / "x.npy", values()[:, :3])
    np.save(folder / "o.npy", np.array([[1, "a"]], object))
    np.save(folder / "c.npy", np.zeros((2, 3, 4)))
    np.save(folder / "w.npy", np.zeros((2, 513), np.float32))
    np.save(folder / "i.npy", np.full((2, 3), 1 << 60))
    (folder / "t.csv").write_text("x,y\n1,b\n")
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_an_exit_code(case: str, bad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, code, text = BAD[case]
    monkeypatch.chdir(bad)
    done = run_here("stats", *arguments)
    assert done.code == code and text in done.err and done.err.count("\n") == 1, done


def test_vectors_are_not_written(bad: Path, tmp_path: Path) -> None:
    done = run_here("apply", bad / "v.npy", "-O", "layout=nc", "-o", tmp_path / "out", "--scheme", "unit")
    assert done.code == 2 and "apply writes images, not vectors" in done.err


def test_a_run_of_vectors_is_repeated_and_updated(tmp_path: Path) -> None:
    source = normcli.source(npy(tmp_path / "a.npy", values()), layout="nc")
    first = normcli.stats(source, output=tmp_path / "r.json", resume=True)
    assert normcli.stats(source, output=tmp_path / "r.json", resume=True).state == first.state
    normcli.stats(source, output=tmp_path / "i.json", incremental=True)
    again = normcli.stats(source, output=tmp_path / "i.json", incremental=True)
    assert again.state == first.state
    assert normcli.load(tmp_path / "i.json").state == first.state
    assert run_here("verify", tmp_path / "r.json", str(source), "-O", "layout=nc").code == 0


@pytest.mark.campaign
@pytest.mark.parametrize("components", [4, 14])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_quantiles_of_ten_million_rows_take_less_than_300_megabytes(
    dtype: Any, components: int, tmp_path: Path
) -> None:
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    random = np.random.default_rng(1)
    schema = pa.schema({"a": pa.list_(pa.from_numpy_dtype(dtype), components)})
    parts = []
    with parquet.ParquetWriter(tmp_path / "a.parquet", schema) as out:
        for _ in range(10):
            numbers = (random.normal(size=1_000_000 * components) ** 3).astype(dtype)
            parts.append(numbers.reshape(-1, components))
            rows = pa.FixedSizeListArray.from_arrays(pa.array(numbers), components)
            out.write_table(pa.table({"a": rows}, schema), row_group_size=1 << 20)
    exact = ["--exact-percentiles", "--percentiles", "1,10,50,90,99"]
    used, done = peak(tmp_path, "stats", "a.parquet", "-O", "columns=a", "-o", "s.json", *exact, timeout=600)
    print(f"peak {used} MB")
    assert done.returncode == 0 and used < 300, used
    summary = normcli.load(tmp_path / "s.json")
    assert summary.images == 10_000_000 and summary.percentile_details == {
        "method": "linear",
        "requested": ["1", "10", "50", "90", "99"],
        "exact": True,
    }
    everything = np.concatenate(parts)
    for percent in (1, 10, 50, 90, 99):
        right = np.quantile(everything, percent / 100, axis=0)
        ours = np.array(summary.percentiles[str(percent)])
        if dtype == np.float32:
            assert ours.astype(dtype).tolist() == right.tolist()
        np.testing.assert_allclose(ours, np.quantile(everything.astype(np.float64), percent / 100, axis=0), rtol=1e-12)
    source = normcli.source(tmp_path / "a.parquet", columns="a")
    shards = [normcli.stats(source, shard=f"{i}/3") for i in (2, 3, 1)]
    assert normcli.merge(shards).state == summary.state
