"""Rows of numbers in HDF5 and Zarr: actions of robots as ACT, robomimic and Diffusion Policy store them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import UsageError
from tests.support import needs
from tests.support.command import run_here

Array = np.ndarray[Any, Any]


def actions(rows: int, width: int = 7, seed: int = 18) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@pytest.fixture(params=["hdf5", "zarr"])
def robomimic(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three episodes of different lengths, with actions, rewards and the pictures of a camera."""
    h5py, library = (needs.module(name) for name in ("h5py", "zarr"))
    path = tmp_path / ("demo.hdf5" if request.param == "hdf5" else "demo.zarr")
    root = h5py.File(path, "w") if request.param == "hdf5" else library.open_group(path, mode="w", zarr_format=2)
    for i, length in enumerate((40, 3, 25)):
        demo = root.create_group(f"data/demo_{i}")
        parts = {"actions": actions(length, seed=i), "rewards": actions(length, 1, 9 + i)[:, 0]}
        parts["front"] = np.full((length, 6, 5, 3), i, np.uint8)
        for name, values in parts.items():
            if request.param == "hdf5":
                demo.create_dataset(name, data=values, chunks=True, compression="gzip")
            else:
                demo.create_array(name, data=values, chunks=(2, *values.shape[1:]))
    if request.param == "hdf5":
        root.close()
    return path


def expected(tmp_path: Path, rows: Array) -> normcli.Summary:
    np.save(tmp_path / "rows.npy", rows)
    return normcli.stats(normcli.source(tmp_path / "rows.npy", layout="nc"), percentiles="1,50,99")


def test_episodes_are_groups(robomimic: Path, tmp_path: Path) -> None:
    source = normcli.source(robomimic, variable="/data/demo_*/actions", axes="TC")
    summary = normcli.stats(source, percentiles="1,50,99", group_by="label")
    parts = [actions(length, seed=i) for i, length in enumerate((40, 3, 25))]
    every = expected(tmp_path, np.concatenate(parts))
    assert summary.channels == [f"actions[{i}]" for i in range(7)] and summary.images == 68
    assert (summary.mean, summary.std, summary.percentiles) == (every.mean, every.std, every.percentiles)
    assert {name: group.images for name, group in summary.groups.items()} == {"demo_0": 40, "demo_1": 3, "demo_2": 25}
    assert summary.groups["demo_2"].mean == pytest.approx(parts[2].mean(axis=0, dtype=np.float64).tolist(), rel=1e-12)
    halves = [normcli.stats(source, percentiles="1,50,99", group_by="label", shard=f"{i}/2") for i in (1, 2)]
    assert normcli.merge(*halves).state == summary.state
    exact = normcli.stats(source, percentiles="1,99", exact_percentiles=True)
    np.testing.assert_allclose(exact.percentiles["99"], np.percentile(np.concatenate(parts), 99, axis=0), rtol=1e-6)


def test_one_array_and_numbers(robomimic: Path) -> None:
    one = normcli.stats(normcli.source(robomimic, variable="data/demo_2/actions", axes="NC"))
    assert one.mean == pytest.approx(actions(25, seed=2).mean(axis=0, dtype=np.float64).tolist(), rel=1e-12)
    rewards = normcli.stats(normcli.source(robomimic, variable="data/demo_*/rewards", axes="N"))
    assert (rewards.channels, rewards.images) == (["rewards"], 68)


def test_wildcards_select_images_too(robomimic: Path) -> None:
    summary = normcli.stats(normcli.source(robomimic, variable="/data/demo_*/front"), group_by="label")
    assert {name: group.images for name, group in summary.groups.items()} == {"demo_0": 40, "demo_1": 3, "demo_2": 25}
    assert [group.mean[0] * 255 for group in summary.groups.values()] == pytest.approx([0, 1, 2])


def test_what_is_not_clear_is_asked(robomimic: Path) -> None:
    for options, message in (
        (["variable=data/demo_0/actions"], "may be rows of vectors or an image (-O axes=NC or YX)"),
        (["variable=data/demo_0/actions", "axes=CN"], "has no rows of vectors"),
        (["variable=data/demo_0/front", "axes=NC"], "has no rows of vectors"),
        (["variable=data/*/action"], "matches 'data/*/action'; it contains"),
    ):
        done = run_here("stats", robomimic, *(part for option in options for part in ("-O", option)))
        assert done.code == 2 and message in done.err, (options, done)
    image = normcli.stats(normcli.source(robomimic, variable="data/demo_0/actions", axes="YX"))
    assert image.images == 1


def test_fill_values_and_nan_are_left_out(tmp_path: Path) -> None:
    rows = actions(30).astype(np.float64)
    rows[3, 2], rows[4, 1] = -999, np.nan
    with needs.module("h5py").File(tmp_path / "a.h5", "w") as file:
        file["action"] = rows
        file["action"].attrs.update(_FillValue=-999.0, scale_factor=2.0)
    source = normcli.source(tmp_path / "a.h5", variable="action", axes="NC")
    summary = normcli.stats(source, nan="skip")
    values = np.where(rows == -999, np.nan, rows * 2)
    assert summary.mean == pytest.approx(np.nanmean(values, axis=0).tolist(), rel=1e-12)
    assert normcli.stats(source).failed == 2


def test_it_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normcli.sources import vectors

    rows = actions(1000)
    with needs.module("h5py").File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("action", data=rows, chunks=(64, 7), compression="gzip")
    source = normcli.source(tmp_path / "a.h5", variable="action", axes="NC")
    once = normcli.stats(source)
    monkeypatch.setattr(vectors, "_BLOCK", 700)
    assert normcli.stats(source, workers=2, engine="threads").state["buckets"] == once.state["buckets"]
    with needs.module("h5py").File(tmp_path / "b.h5", "w") as file:
        file["wide"] = np.zeros((4, 600), np.float32)
    with pytest.raises((UsageError, normcli.errors.NoInputError), match="600 components"):
        normcli.stats(normcli.source(tmp_path / "b.h5", variable="wide", axes="NC"))
