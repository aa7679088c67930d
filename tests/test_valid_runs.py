"""Samples that are valid in one band and not in another: every way to the statistics has the same bits."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import normcli
from normcli.storage import files
from tests.support.cluster import cluster as cluster
from tests.support.valid_pixels import Array, Masked, masked_images, reference_state, samples

FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
MARKER = {"u": 7, "f": -9999}  # by kind of dtype: the nodata value
METHODS = ("linear", "hazen", "inverted_cdf", "median_unbiased")
LISTING: dict[str, Any] = {"include": "*.npy", "open_options": {"layout": "hwc"}, "nan": "skip"}


def store(folder: Path, pictures: list[Masked]) -> tuple[list[Masked], dict[str, Any]]:
    """Write images to `set`, and masks that are 0 where no channel is valid to `masks`.

    Returns:
        Every image with the samples that count, and the options that read them.
    """
    nodata = MARKER[pictures[0][0].dtype.kind]
    out = []
    for number, (pixels, valid) in enumerate(pictures):
        stored = np.where(pixels == nodata, nodata + 1, pixels).astype(pixels.dtype)
        nowhere: Array = ~np.asarray(valid.any(axis=2))
        stored[~valid & ~nowhere[:, :, None]] = nodata
        name = Path("ab"[number % 2], f"{number}")
        for root in ("set", "masks"):
            (folder / root / name.parent).mkdir(parents=True, exist_ok=True)
        np.save(folder / "set" / f"{name}.npy", stored)
        Image.fromarray(np.where(nowhere, 0, 255).astype(np.uint8)).save(folder / "masks" / f"{name}.png")
        out.append((stored, valid))
    options = {**LISTING, "nodata": nodata, "mask_dir": folder / "masks", "group_by": "folder"}
    return out, options


def check_numbers(summary: normcli.Summary, pictures: list[Masked], method: str) -> None:
    """Compare with NumPy's functions that leave out NaN."""
    dtype = pictures[0][0].dtype
    scale = {"uint8": 255, "uint16": 65535}.get(dtype.name, 1)
    for c in range(pictures[0][0].shape[2]):
        columns = [np.where(valid, pixels.astype(float), np.nan)[:, :, c].ravel() for pixels, valid in pictures]
        values: Array = np.concatenate(columns) / scale
        assert summary.pixels_of[c] == np.count_nonzero(~np.isnan(values))
        if np.isnan(values).all():
            assert np.isnan(summary.mean[c])
            continue
        close: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12 * np.nanmax(np.abs(values))}
        np.testing.assert_allclose([summary.mean[c], summary.std[c]], [np.nanmean(values), np.nanstd(values)], **close)
        for percent in ("12.5", "25", "50", "99.21875"):
            want = np.nanpercentile(values, float(percent), method=method)  # type: ignore[call-overload]
            np.testing.assert_allclose(summary.percentiles[percent][c], want, **close)


def check_every_way(folder: Path, pictures: list[Masked], chance: Any, engines: tuple[str, ...]) -> None:
    """Count images in every way; all have the state that follows from fractions."""
    source = folder / "set"
    pictures, options = store(folder, pictures)
    exact = {"percentiles": "12.5,99.21875", "percentile_method": chance.choice(METHODS), "exact_percentiles": True}
    summary = normcli.stats(source, engine="serial", **options, **exact)
    assert summary.state["buckets"] == [reference_state(pictures)]
    assert summary.percentile_details is not None and summary.percentile_details["exact"]
    check_numbers(summary, pictures, exact["percentile_method"])
    for engine in engines:
        assert normcli.stats(source, engine=engine, workers=2, **options, **exact).to_json() == summary.to_json()
    count = chance.randint(1, len(pictures))
    shards = [normcli.stats(source, shard=(i + 1, count), engine="serial", **options) for i in range(count)]
    chance.shuffle(shards)
    union = normcli.merge(shards)
    assert union.state == summary.state and union.complete
    if count > 1:
        rest = normcli.merge(summary, minus=shards[0], force=True)
        assert rest.state == normcli.merge(shards[1:]).state
    check_incremental(folder, chance, options, summary)


def check_incremental(folder: Path, chance: Any, options: dict[str, Any], summary: normcli.Summary) -> None:
    """Count some images, some of which are others at first, then all with the file cache."""
    source, output = folder / "set", folder / "s.json"
    paths = sorted(source.glob("*/*.npy"))
    (folder / "aside").mkdir()
    absent = chance.sample(paths, chance.randrange(len(paths)))
    for path in absent:
        shutil.move(path, folder / "aside" / path.name)
    others = [path for path in paths if path not in absent]
    other = chance.choice(others)
    contents = other.read_bytes()
    np.save(other, np.ones_like(np.load(other)))
    normcli.stats(source, output=output, incremental=True, engine="serial", **options)
    other.write_bytes(contents)
    for path in absent:
        shutil.move(folder / "aside" / path.name, path)
    again = normcli.stats(source, output=output, incremental=True, engine="serial", **options)
    assert again.state == summary.state


@given(masked_images(least=2), st.randoms(use_true_random=False))
@FEW
def test_every_way_has_the_bits_of_fractions(pictures: list[Masked], chance: Any) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "RECENT", 0)
        check_every_way(Path(folder), pictures, chance, ("threads", "processes"))


@pytest.mark.campaign
def test_a_cluster_too(cluster: Any) -> None:
    engines = ("threads", "processes", f"dask:{cluster.scheduler_address}")

    @given(masked_images(least=2), st.randoms(use_true_random=False))
    @MANY
    def check(pictures: list[Masked], chance: Any) -> None:
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "RECENT", 0)
            check_every_way(Path(folder), pictures, chance, engines)

    check()


def test_the_comparison_sees_one_sample(tmp_path: Path) -> None:
    pictures, options = store(tmp_path, [(np.arange(24, dtype=np.uint8).reshape(2, 4, 3), np.ones((2, 4, 3), bool))])
    summary = normcli.stats(tmp_path / "set", **options, percentiles="12.5,99.21875")
    check_numbers(summary, pictures, "linear")
    pictures[0][1][0, 0, 1] = False
    assert summary.state["buckets"] != [reference_state(pictures)]
    with pytest.raises(AssertionError):
        check_numbers(summary, pictures, "linear")
    assert samples(pictures[0], 1)[0] != samples(pictures[0], 0)[0]
