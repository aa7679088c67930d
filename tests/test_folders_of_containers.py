"""Datasets that lie in containers in a folder: globs, the line to type, and columns of a table."""

import shlex
from pathlib import Path

import pytest

import normcli
from normcli.errors import UsageError
from normcli.sources import expand
from tests.support import needs
from tests.support.command import Run
from tests.support.images import encoded, photograph


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    pa = needs.module("pyarrow")
    from pyarrow import parquet

    data = tmp_path / "hf set" / "tables"
    data.mkdir(parents=True)
    for shard in range(2):
        images = [{"bytes": encoded(photograph(seed=2 * shard + i)), "path": None} for i in range(2)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(images, kind), "label": [0, 1]})
        parquet.write_table(table, data / f"train-{shard:05d}-of-00002.parquet")
    (tmp_path / "hf set" / "README.md").write_text("# a dataset")
    return tmp_path / "hf set"


def test_the_message_gives_the_line_to_type(run: Run, hub: Path) -> None:
    done = run("stats", hub.name)
    assert done.returncode == 4
    line = done.stderr.decode()
    glob = line[line.index("all of them, use ") + 17 : line.rindex(" as SOURCE")]
    (source,) = shlex.split(glob)
    assert source == "hf set/tables/*.parquet"
    assert run("stats", source, "--json").returncode == 0
    assert normcli.stats(hub / "tables/*.parquet").images == 4
    assert normcli.stats(hub / "tables/train-0000{0,1}-*.parquet").images == 4


def test_quoted_globs_are_expanded(run: Run, tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/[1].png", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(photograph(seed=len(name))))
    assert [path.rpartition("/")[2] for path in expand(f"{tmp_path}/*/1.png")] == ["1.png", "1.png"]
    assert list(expand(f"{tmp_path}/b/[1].png")) == [f"{tmp_path}/b/[1].png"]  # a file of that very name
    assert run("stats", "**/*.png", "--json").returncode == 0
    missing = run("stats", "a", "nothing-*.png")
    assert missing.returncode == 2 and b"nothing-*.png: no such file or folder" in missing.stderr


def test_of_two_columns_of_images_none_is_taken(tmp_path: Path) -> None:
    pa = needs.module("pyarrow")
    from pyarrow import parquet

    data = encoded(photograph())
    parquet.write_table(pa.table({"image": [data], "thumb": [data]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="`open_options` column=image or `open_options` column=thumb"):
        normcli.stats(tmp_path / "t.parquet")
    assert normcli.stats(tmp_path / "t.parquet", open_options={"column": "thumb"}).images == 1
