"""Parquet tables that are honest and unusual, or forged: a row or a column ends no run."""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from tests.support import needs
from tests.support.command import run_here
from tests.support.images import encoded, photograph

pa = needs.module("pyarrow")
parquet = needs.module("pyarrow.parquet")
IMAGE = encoded(photograph(12, 12))


def with_label(values: Any, kind: Any = None) -> Any:
    return pa.table({"image": pa.array([IMAGE] * 2), "label": pa.array(values, kind)})


def two_named(name: str) -> Any:
    columns = [pa.array([IMAGE] * 2), pa.array([IMAGE if name == "image" else "x"] * 2)]
    names = ["image", name]
    if name == "label":
        columns, names = [*columns, pa.array(["y"] * 2)], [*names, name]
    return pa.Table.from_arrays(columns, names)


def two_bytes() -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("bytes", pa.binary())])
    return pa.table({"image": pa.StructArray.from_arrays([pa.array([IMAGE])] * 2, fields=list(kind))})


def deep_metadata() -> Any:
    deep = b'{"info": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    return with_label([0, 1]).replace_schema_metadata({b"huggingface": deep})


# table -> images used and reasons of failures
TABLES: dict[str, tuple[Callable[[], Any], int, list[str]]] = {
    "nanoseconds": (lambda: with_label([1, 2], pa.timestamp("ns")), 2, []),
    "time of nanoseconds": (lambda: with_label([1, 2], pa.time64("ns")), 2, []),
    "duration": (lambda: with_label([1, 2], pa.duration("ns")), 2, []),
    "date": (lambda: with_label([1, 2], pa.date32()), 2, []),
    "decimal": (lambda: with_label([1, 2], pa.decimal128(10, 2)), 2, []),
    "a list": (lambda: with_label([[1], [2]]), 2, []),
    "a long label": (lambda: with_label(["x", "y" * 5000]), 1, ["bad-row"]),
    "two columns label": (lambda: two_named("label"), 0, ["unsupported"]),
    "two columns image": (lambda: two_named("image"), 0, ["unsupported"]),
    "two fields bytes": (two_bytes, 0, ["damaged"]),
    "deep metadata": (deep_metadata, 2, []),
}


@pytest.mark.parametrize("name", TABLES)
def test_no_column_ends_the_run(name: str, tmp_path: Path) -> None:
    make, images, reasons = TABLES[name]
    parquet.write_table(make(), tmp_path / "x.parquet")
    (tmp_path / "good.png").write_bytes(IMAGE)
    failures: list[Any] = []
    sources = [tmp_path / "good.png", tmp_path / "x.parquet"]
    options: dict[str, Any] = {"open_options": {"column": "image"}} if name == "two columns image" else {}
    summary = normcli.stats(sources, on_failure=failures.append, group_by="label", **options)
    assert summary.images == 1 + images and [failure.reason for failure in failures] == reasons
    normcli.apply(sources, tmp_path / "out", scheme="unit", to="tar", **options)


def test_rows_of_a_dictionary_are_read_a_few_at_a_time() -> None:
    """A value of 20 MB that a thousand rows share is one page of 20 MB, and would be a batch of 320 MB."""
    from normcli.sources.parquet import _batches

    large = bytes(range(256)) * 80_000
    out = io.BytesIO()
    table = pa.table({"image": pa.array([large] * 40), "label": pa.array(["x"] * 40)})
    parquet.write_table(table, out, compression="none")
    sizes = [len(batch) for batch in _batches(parquet.ParquetFile(out), ["image", "label"])]
    assert sizes == [1] * 40
    out = io.BytesIO()
    parquet.write_table(pa.table({"image": pa.array([IMAGE] * 40)}), out)
    assert [len(batch) for batch in _batches(parquet.ParquetFile(out), ["image"])] == [16, 16, 8]


def test_halves_of_fastparquet_are_no_images(tmp_path: Path) -> None:
    """It writes float16 as two bytes a row, and tells the type in metadata of pandas only."""
    halves = np.arange(8, dtype="f2")
    table = pa.table({"x": pa.array([half.tobytes() for half in halves], pa.binary(2))})
    parquet.write_table(table, tmp_path / "a.parquet")
    done = run_here("stats", tmp_path / "a.parquet")
    assert done.code == 4 and "x (fixed_size_binary[2])" in done.err and "damaged" not in done.err, str(done)
    done = run_here("stats", tmp_path / "a.parquet", "-O", "columns=x")
    assert done.code == 2 and "'x' holds fixed_size_binary[2], neither numbers" in done.err, str(done)
    parquet.write_table(pa.table({"x": pa.array(halves, pa.float16())}), tmp_path / "b.parquet")
    assert normcli.stats(tmp_path / "b.parquet", open_options={"columns": "x"}).mean == [3.5]


@pytest.mark.parametrize("order", [("bytes", "path"), ("path", "bytes"), ("path", "bytes", "size")])
def test_rows_without_bytes_or_path(order: tuple[str, ...], tmp_path: Path) -> None:
    """A row, or a field of it, may be null: the memory behind it is not read."""
    from normcli.options.shared import InputOptions
    from normcli.sources import Item, read

    values = [
        {"bytes": b"x" * 20, "path": "a.jpg"},
        None,
        {"bytes": None, "path": "b.jpg"},
        {"bytes": b"", "path": None},
    ]
    kinds = {"bytes": pa.binary(), "path": pa.string(), "size": pa.int32()}
    rows = pa.array(values, pa.struct([(name, kinds[name]) for name in order]))
    parquet.write_table(pa.table({"image": rows}), tmp_path / "a.parquet", row_group_size=3)
    loads = [item.load for item in read([str(tmp_path / "a.parquet")], InputOptions()) if isinstance(item, Item)]
    assert [type(load).__name__ for load in loads] == ["InMemory", "FailingSource", "FileBytes", "FailingSource"]
    assert loads[0]() == b"x" * 20


@pytest.mark.skipif(sys.platform != "linux", reason=needs.LINUX)
def test_a_table_of_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    """pyarrow opens no such path by itself."""
    path = tmp_path / os.fsdecode(b"caf\xe9.parquet")
    with path.open("wb") as file:
        parquet.write_table(pa.table({"image": [IMAGE] * 3}), file)
    assert normcli.stats(path).images == 3


def test_an_error_of_the_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk may pass, so an incremental run does not remember it as damage."""
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"image": [IMAGE] * 3}), path)

    class Failing(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pa, "OSFile", Failing)
    failures: list[Any] = []
    with pytest.raises(normcli.NormcliError, match=r"input/output error"):
        normcli.stats(path, on_failure=failures.append)
    assert [failure.reason for failure in failures] == ["unreadable"]


def test_a_null_among_the_bytes_of_a_list(tmp_path: Path) -> None:
    """It ended the run with a TypeError."""
    good = list(encoded(photograph(8, 9)))
    table = pa.table({"image": pa.array([good, [137, None, 78], None], pa.list_(pa.uint8()))})
    parquet.write_table(table, tmp_path / "x.parquet")
    summary = normcli.stats(tmp_path / "x.parquet", open_options={"column": "image"})
    assert (summary.images, summary.failures) == (1, {"bad-row": 1, "empty": 1})
