"""The same images in the same order are the same bytes: every sink, engine and number of workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.sinks import OUTPUT_KINDS
from tests.support import needs
from tests.support.images import encoded, photograph
from tests.support.outputs import tree

NEEDS = {"parquet": "pyarrow", "png16": "imagecodecs", "tiff": "tifffile", "hdf5": "h5py", "zarr": "zarr"}
RUNS: list[tuple[Any, int]] = [("serial", 1), ("serial", 1), ("threads", 2), ("threads", 5), ("processes", 2)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(24):
        (folder / f"{number % 3}").mkdir(exist_ok=True)
        (folder / f"{number % 3}/{number}.png").write_bytes(encoded(photograph(12, 16, seed=number)))
    return folder


@pytest.mark.parametrize("to", [to for to in OUTPUT_KINDS if to != "nifti"])  # of volumes: test_apply_volumes
def test_every_run_writes_the_same_bytes(to: Any, images: Path, tmp_path: Path) -> None:
    if to in NEEDS:
        needs.module(NEEDS[to])
    trees = []
    for number, (engine, workers) in enumerate(RUNS):
        out = tmp_path / str(number)
        normcli.apply(images, out, scheme="zscore", to=to, engine=engine, workers=workers)
        trees.append(tree(out))
    assert len(trees[0]) > 1 and all(one == trees[0] for one in trees)


@pytest.mark.parametrize("to", ["tar", "parquet"])
@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_large_results_wait_in_files(
    to: Any, engine: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array of 200 MB that waits to be packed is not one of six in memory; the bytes are the same."""
    if to == "parquet":
        needs.module("pyarrow")
    normcli.apply(images, tmp_path / "plain", scheme="unit", to=to, shard_size="20")
    monkeypatch.setattr("normcli.runs.map_batch._LARGEST_PACKED", 0)
    normcli.apply(images, tmp_path / "out", scheme="unit", to=to, shard_size="20", engine=engine, workers=2)
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")


def test_npz_is_written_as_numpy_reads_it_without_a_copy(images: Path, tmp_path: Path) -> None:
    from normcli.kernels.affine import Affine
    from normcli.sinks.files import encode_array

    array = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float32)
    parts = encode_array("npz", array, Affine((1.0, 2.0, 3.0), (0.0, 0.5, 1.0)))
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), array) for part in parts if memoryview(part).nbytes)
    (tmp_path / "x.npz").write_bytes(b"".join(bytes(part) for part in parts))
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive["image"], array)
        assert archive["scale"].tolist() == [1.0, 2.0, 3.0] and archive["shift"].tolist() == [0.0, 0.5, 1.0]
