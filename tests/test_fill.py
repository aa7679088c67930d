"""apply and invalid samples: they are written as --fill says, counted, and left out of the rest."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.errors import InputError, UsageError
from tests.support import needs
from tests.support.command import Run
from tests.support.images import encoded, photograph

Array = np.ndarray[Any, Any]


@pytest.fixture
def rasters(tmp_path: Path) -> tuple[Path, list[Array]]:
    """Return a folder of three rasters whose nodata value 0 is in other places of each band, and their pixels."""
    tifffile = needs.module("tifffile")
    (tmp_path / "in").mkdir()
    pictures = []
    for i in range(3):
        pixels = np.maximum(photograph(30, 40 + i, seed=i), 1)
        pixels[np.random.default_rng(i).random(pixels.shape) < [0.1, 0.3, 0.5]] = 0
        tag = [(42113, 2, 0, "0", True)]
        tifffile.imwrite(tmp_path / f"in/{i}.tif", pixels, photometric="rgb", extratags=tag)
        pictures.append(pixels)
    return tmp_path / "in", pictures


@pytest.mark.parametrize("fill", ["keep", "nan", "-7"])
@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_contrast_counts_valid_samples_alone(fill: str, layout: Any, rasters: Any, run: Run, tmp_path: Path) -> None:
    folder, pictures = rasters
    done = run("apply", str(folder), "-o", str(tmp_path / "out"), "--fill", fill, "--output-layout", layout)
    hidden = sum(int((p == 0).sum()) for p in pictures)
    written = "mapped like all others" if fill == "keep" else f"written as {fill}"
    assert done.returncode == 0 and f"{hidden:,} invalid samples {written}" in done.stderr.decode()
    rows = np.concatenate([p.reshape(-1, 3) for p in pictures]) / 255
    rows[rows == 0] = np.nan
    mean, std = np.nanmean(rows, 0), np.nanstd(rows, 0)
    for i, pixels in enumerate(pictures):
        y = np.load(tmp_path / f"out/{i}.tif.npy")
        y = y.transpose(1, 2, 0) if layout == "chw" else y
        expected = (pixels / 255 - mean) / std
        if fill != "keep":
            expected = np.where(pixels == 0, float(fill), expected)
        np.testing.assert_allclose(y, expected, atol=2e-6)
    checked = run("verify", str(tmp_path / "out"), "--json")
    result = json.loads(checked.stdout)
    assert checked.returncode == 0 and result["expected"] == (fill != "keep") and result["valid"]
    values = [channel["values"] for channel in result["channels"]]
    every = [sum(p[:, :, 0].size for p in pictures)] * 3
    assert values == (every if fill == "keep" else np.isfinite(rows).sum(0).tolist())
    back = run("restore", str(tmp_path / "out"), "-o", str(tmp_path / "back"), "--to", "tiff")
    assert back.returncode == 0
    assert (b"invalid samples, which were filled" in back.stderr + back.stdout) == (fill != "keep")
    tifffile = needs.module("tifffile")
    for i, pixels in enumerate(pictures):
        found = tifffile.imread(tmp_path / f"back/{i}.tif")
        assert np.array_equal(found[pixels > 0], pixels[pixels > 0])


@pytest.mark.parametrize("scheme", ["minmax", "zscore", "percentile", "zscore:per=image"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_schemes_of_single_images_see_valid_samples_alone(scheme: str, dtype: str) -> None:
    pixels = (photograph(20, 25, seed=4).astype(np.float64) + 1).astype(dtype)
    pixels[3:9, :, 1] = 0
    to_nan = normcli.transform(scheme, nodata=0, fill="nan", output_layout="hwc", dtype="float64")
    y = to_nan(pixels)
    assert np.array_equal(np.isnan(y), pixels == 0)
    if scheme == "minmax":
        assert np.nanmin(y, (0, 1)).tolist() == [0] * 3 and np.nanmax(y, (0, 1)).tolist() == [1] * 3
    elif scheme == "zscore":
        np.testing.assert_allclose([np.nanmean(y, (0, 1)), np.nanstd(y, (0, 1))], [[0] * 3, [1] * 3], atol=1e-9)
    elif scheme == "zscore:per=image":
        np.testing.assert_allclose([np.nanmean(y), np.nanstd(y)], [0, 1], atol=1e-9)
    pixels[:, :, 1] = 0
    assert np.isnan(to_nan(pixels)[:, :, 1]).all() and np.isfinite(to_nan(pixels)[:, :, 0]).all()


def test_nan_of_one_band_leaves_the_others(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).normal(5, 2, (3, 12, 9, 3)).astype(np.float32)
    pixels[0, :4, :, 2] = np.nan
    np.save(tmp_path / "a.npy", pixels)
    open_options = {"layout": "nhwc"}
    result = normcli.apply(tmp_path / "a.npy", tmp_path / "out", nan="skip", fill=0, open_options=open_options)
    assert result.invalid == 36
    rows = pixels.reshape(-1, 3).astype(np.float64)
    first = np.load(sorted((tmp_path / "out").rglob("*.npy"))[0])
    assert not first[2, :4].any()
    expected = (pixels[0] - np.nanmean(rows, 0)) / np.nanstd(rows, 0)
    np.testing.assert_allclose(first[:2], expected.transpose(2, 0, 1)[:2], atol=1e-5)
    assert normcli.verify(tmp_path / "out").expected


def test_quantized_outputs_count_clipped_valid_samples_alone(tmp_path: Path) -> None:
    pixels = np.full((6, 5, 1), 1000, np.uint16)
    pixels[0] = 65535
    transform = normcli.transform("contrast", mean=[0.0], std=[1 / 65535], dtype="uint8", clip=(0, 2000), nodata=65535)
    assert transform.map(pixels).clipped == 5 and transform.map(pixels, valid=pixels != 65535).clipped == 0
    filled = normcli.transform("minmax", dtype="uint8", nodata=65535, fill=7, output_layout="hwc", zero_std="error")
    pixels[1] = 500
    assert np.unique(filled(pixels)).tolist() == [0, 7, 255]


def test_fill_values_that_cannot_be(tmp_path: Path) -> None:
    for options in ({"dtype": "uint8", "fill": "nan"}, {"dtype": "uint8", "fill": 0.5}, {"fill": "x"}, {"fill": "inf"}):
        with pytest.raises(UsageError, match="`fill`"):
            normcli.transform("unit", **options)
    with pytest.raises(UsageError, match="uint16 cannot hold -1"):
        normcli.apply(tmp_path, tmp_path / "out", to="png16", scheme="unit", fill=-1)
    with pytest.raises(InputError, match="no sample is valid"):
        normcli.transform("unit", nodata=0)(np.zeros((4, 4), np.uint8))


def test_statistics_of_another_nodata_value_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photograph()))
    normcli.stats(tmp_path / "a.png", nodata=0, output=tmp_path / "s.json")
    with pytest.raises(UsageError, match="nodata 0, not with nodata tag"):
        normcli.apply(tmp_path / "a.png", tmp_path / "out", stats=tmp_path / "s.json")
    result = normcli.apply(tmp_path / "a.png", tmp_path / "out", stats=tmp_path / "s.json", nodata=0)
    assert result.images == 1


@pytest.mark.parametrize("options", [{}, {"resize": "9x11", "center_crop": 7}, {"resize": "longest:16", "pad": 3}])
@pytest.mark.parametrize("scheme", ["unit", "contrast"])
def test_masks_make_pixels_invalid(options: dict[str, Any], scheme: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    for name, levels in (("set", 256), ("masks", 3)):
        (tmp_path / name / "a").mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, levels, (12, 20), np.uint8)).save(tmp_path / name / "a" / f"{number}.png")
    masks: dict[str, Any] = {"mask_dir": tmp_path / "masks", "labels": ">1", **options}
    counted = normcli.stats(tmp_path / "set", **masks)
    result = normcli.apply(tmp_path / "set", tmp_path / "out", scheme=scheme, fill=-50, **masks)
    plain = normcli.apply(
        tmp_path / "set", tmp_path / "plain", scheme=scheme, stats=None if scheme == "unit" else counted, **options
    )
    assert result.invalid == sum(counted.invalid) > 0 and plain.invalid == 0
    values = []
    for number in range(3):
        filled, mapped = (np.load(tmp_path / out / "a" / f"{number}.png.npy") for out in ("out", "plain"))
        hidden = filled == -50
        np.testing.assert_array_equal(filled[~hidden], mapped[~hidden])
        values.append(mapped[~hidden].astype(float))
    seen = np.concatenate(values)
    wanted = (counted.mean[0], counted.std[0]) if scheme == "unit" else (0, 1)
    np.testing.assert_allclose((seen.mean(), seen.std()), wanted, atol=1e-6)
    (channel,) = normcli.verify(tmp_path / "out").channels
    assert (channel.mean, channel.std) == pytest.approx((seen.mean(), seen.std()), abs=1e-6)


def test_masks_of_apply_that_cannot_be_used_are_one_line(run: Run, tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "masks" / "a.png")
    for arguments, message in (
        (["--labels", "1"], b"--labels requires --mask-dir"),
        (["--mask-dir", "masks", "--resume"], b"--mask-dir cannot be combined with --resume"),
        (["--mask-dir", "absent"], b"--mask-dir: absent does not exist"),
    ):
        done = run("apply", "a.png", "-o", "out", "--scheme", "unit", *arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count(b"\n") == 1
    one = run("apply", "a.png", "-o", "-", "--scheme", "unit", "--mask-dir", "masks", "--fill", "nan")
    assert np.isnan(np.load(io.BytesIO(one.stdout))).sum() == 56
    data = (tmp_path / "a.png").read_bytes()
    done = run("apply", "-", "-o", "-", "--scheme", "unit", "--mask-dir", "masks", input=data)
    assert done.returncode == 2 and b"--mask-dir requires a path" in done.stderr
