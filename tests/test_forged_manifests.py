"""Manifests that contradict the files: validated key by key, and against the files' own headers."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import NoInputError, UsageError
from tests.support import needs
from tests.support.images import encoded, photograph

Forge = Callable[[dict[str, Any]], None]
KINDS = ["npy", "npz", "safetensors", "stack", "tar", "parquet", "png", "tiff"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.png").write_bytes(encoded(photograph(12, 16, seed=number)))
    return tmp_path / "in"


def applied(source: Path, to: str) -> Path:
    if to == "parquet":
        needs.module("pyarrow")
    out = source.parent / "out"
    normcli.apply(source, out, scheme="unit", to=to)  # type: ignore[arg-type]
    return out


def forged(out: Path, forge: Forge) -> None:
    manifest = json.loads((out / "normcli.json").read_text())
    forge(manifest)
    (out / "normcli.json").write_text(json.dumps(manifest))


def head(key: str, value: Any) -> Forge:
    def forge(manifest: dict[str, Any]) -> None:
        manifest[key] = value

    return forge


def of_file(key: str, value: Any) -> Forge:
    def forge(manifest: dict[str, Any]) -> None:
        manifest["files"][0][key] = value

    return forge


def channels(manifest: dict[str, Any]) -> None:
    """A file's shape of a million channels, of which its map knows three."""
    manifest["files"][0]["shape"][2] = 1_000_000


def unread_channel(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["shape"][2] = 4


REJECTED: dict[str, Forge] = {
    "a million channels": channels,
    "a channel that is not in the file": unread_channel,
    **{
        f"{key} is {value!r}": head(key, value)
        for key in ("images", "bytes", "exact")
        for value in (-5, "x", None, 1.5)
    },
    "failed": head("failed", {"damaged": -1}),
    "kinds": head("kinds", ["x"]),
    "stack": head("stack", [1, "x", 2, 3]),
    "complete": head("complete", "yes"),
    "bytes of a file": of_file("bytes", -1),
    "digest of a file": of_file("digest", "no number"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_forged_manifest_is_rejected_by_every_command(name: str, source: Path, tmp_path: Path) -> None:
    out = applied(source, "npy")
    forged(out, REJECTED[name])
    with pytest.raises(UsageError, match="damaged manifest"):
        normcli.restore(out, tmp_path / "back")
    with pytest.raises(UsageError, match="damaged manifest"):
        normcli.verify(out)
    with pytest.raises(UsageError, match="damaged manifest"):
        normcli.apply(source, out, scheme="unit", resume=True)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("shape", [[12, 17, 3], [40_000, 40_000, 3], [1 << 30, 1 << 30, 3]], ids=str)
def test_a_forged_size_is_not_that_of_the_file(to: str, shape: list[int], source: Path, tmp_path: Path) -> None:
    out = applied(source, to)
    forged(out, of_file("shape", shape))
    assert normcli.restore(out, tmp_path / "back").failed == {"damaged": 1}
    verified = normcli.verify(out)
    assert not verified.is_valid and len(verified.problems) == 1


def test_a_count_that_is_not_that_of_the_list(source: Path) -> None:
    out = applied(source, "npy")
    assert normcli.verify(out).is_valid
    forged(out, head("images", 4))
    assert normcli.verify(out).problems == [("normcli.json", "counts 4 images, and lists 3")]


def test_files_that_expand_are_rejected_by_their_headers(source: Path, tmp_path: Path) -> None:
    """40 kB of .npz that hold 40 MB, and may hold 40 GB, for a record that says 12 x 16."""
    out = applied(source, "npz")
    with (
        zipfile.ZipFile(out / "0.png.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (3, 2_000, 1_000)})
        for _ in range(4):
            file.write(bytes(10 << 20))
    result = normcli.restore(out, tmp_path / "back")
    assert result.images == 2 and result.failed == {"damaged": 1}
    problems = normcli.verify(out).problems
    assert len(problems) == 1 and "is of shape (3, 2000, 1000), and (3, 12, 16) was written" in problems[0][1]


def test_a_table_of_one_value_claims_no_gigabytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normcli.sinks.parquet.MAX_PIXELS", 1 << 20)
    pa, parquet = needs.module("pyarrow"), needs.module("pyarrow.parquet")
    out = applied(source, "parquet")
    shard = next(out.glob("*.parquet"))
    count = 8_000_000
    values = pa.array(np.zeros(count, np.uint8))
    array = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), values)
    table = pa.table({"name": ["x"], "label": ["x"], "array": array, "shape": [[1, 1, count]]})
    parquet.write_table(table, shard, compression="none", use_dictionary=True, write_statistics=False)
    assert shard.stat().st_size < 1 << 20
    with pytest.raises(NoInputError):
        normcli.restore(out, tmp_path / "back")
    assert all("claim 8000000 values" in problem for _, problem in normcli.verify(out).problems)
