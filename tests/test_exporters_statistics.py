"""Exports that describe a dataset, read by the loaders of their tools, or by the keys that these document."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import normcli
from normcli.constants import exporters
from normcli.constants.identify import check
from normcli.constants.parse_config import read_constants
from normcli.errors import UsageError
from normcli.summary import Summary
from normcli.tally import Tally
from tests.support import needs
from tests.support.command import Run
from tests.support.images import photograph
from tests.support.rasters import raster

Array = np.ndarray[Any, Any]

SETTINGS: dict[str, Any] = {"color": "auto", "alpha": "drop", "max_value": None}
STATISTICS = (
    *("lerobot", "openpi", "nnunet", "omero", "bioimageio", "terratorch", "torchgeo", "stac", "gdal", "markdown"),
)


def pictures(dtype: str, channels: int = 3) -> list[Array]:
    images = [photograph(20 + i, 24, channels, i).reshape(20 + i, 24, channels) for i in range(3)]
    if dtype == "uint16":
        return [image.astype(np.uint16) * 31 + 7 for image in images]
    return images if dtype == "uint8" else [(image / np.float32(3) - 20).astype(np.float32) for image in images]


def summary_of(dtype: str, channels: int = 3, group: str | None = None) -> Summary:
    tally = Tally()
    for image in pictures(dtype, channels):
        tally.count(image, group=group)
    return Summary.of(tally, SETTINGS, {})


def stored(dtype: str, channels: int = 3) -> Array:
    """Return all pixels (N,C) as stored."""
    return np.concatenate([image.reshape(-1, channels) for image in pictures(dtype, channels)]).astype(float)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
@pytest.mark.parametrize("name", STATISTICS)
def test_check_reads_it_back_as_a_match(name: str, dtype: str, run: Run, tmp_path: Path) -> None:
    for channels in (1, 3, 5):
        summary = summary_of(dtype, channels)
        if name == "lerobot" and dtype != "uint8":
            with pytest.raises(UsageError, match="converts images to 8 bits"):
                exporters.export(summary, name)
            continue
        for convention in ("pooled_population", "mean_of_image_stds"):
            digits = exporters.digits_of(name)
            text = exporters.export(summary, name, convention, digits=digits)
            (found,) = read_constants(text, name)
            result = check(summary, found.mean, found.std)
            assert result.verdict == "match" and convention in result.conventions, (channels, convention)


def test_the_command_reads_a_file_of_each(run: Run, tmp_path: Path) -> None:
    summary_of("uint8").save(tmp_path / "s.json")
    for name in ("stac", "gdal"):
        (tmp_path / name).write_bytes(run("show", "s.json", "--format", name).stdout)
        done = run("check", "s.json", "--config", name)
        assert done.returncode == 0 and done.stdout.startswith(b"match: pooled, 0-255, RGB"), done.stdout
    (tmp_path / "half").write_text((tmp_path / "gdal").read_text().replace("STATISTICS_MEAN", "MEAN", 1))
    done = run("check", "s.json", "--config", "half")
    assert done.returncode == 2 and b"half: no STATISTICS_MEAN and STATISTICS_STDDEV of every band" in done.stderr


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
def test_nnunets_intensities_are_those_of_all_pixels(dtype: str) -> None:
    """The keys are those that nnU-Net's DatasetFingerprintExtractor writes and CTNormalization reads."""
    text = exporters.export(summary_of(dtype), "nnunet")
    channels = json.loads(text)["foreground_intensity_properties_per_channel"]
    pixels = stored(dtype)
    slack = 1e-9 if dtype != "float" else 2.0**-7 * np.abs(pixels).max()  # percentiles to 8 significant bits
    assert list(channels) == ["0", "1", "2"]
    for c, entry in enumerate(channels.values()):
        column = pixels[:, c]
        low, median, high = np.percentile(column, [0.5, 50, 99.5])
        exact = {"max": column.max(), "mean": column.mean(), "min": column.min(), "std": column.std()}
        ranked = {"median": median, "percentile_00_5": low, "percentile_99_5": high}
        assert sorted(entry) == sorted([*exact, *ranked])
        for key, value in exact.items():
            assert entry[key] == pytest.approx(value, rel=1e-9), key
        for key, value in ranked.items():
            assert entry[key] == pytest.approx(value, abs=slack), key


def test_lerobots_entry_has_the_shapes_that_its_loader_takes() -> None:
    """The entry is that of lerobot.datasets.compute_stats for images: (C,1,1) in 0-1, and the number of images."""
    entry = json.loads(exporters.export(summary_of("uint8"), "lerobot"))["observation.image"]
    pixels = stored("uint8") / 255
    assert np.array(entry["count"]).shape == (1,) and entry["count"] == [3]
    wanted = {"min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0)}
    wanted |= {f"q{p:02}": np.percentile(pixels, p, axis=0) for p in (1, 10, 50, 90, 99)}
    assert set(entry) == {*wanted, "count"}
    for key, row in wanted.items():
        found = np.array(entry[key])
        assert found.shape == (3, 1, 1)
        np.testing.assert_allclose(found.ravel(), row, rtol=1e-9, atol=1e-12, err_msg=key)


def test_openpis_entry_has_the_fields_of_its_norm_stats() -> None:
    (entry,) = json.loads(exporters.export(summary_of("uint8"), "openpi"))["norm_stats"].values()
    pixels = stored("uint8") / 255
    assert list(entry) == ["mean", "std", "q01", "q99"]
    np.testing.assert_allclose(entry["q01"], np.percentile(pixels, 1, axis=0), rtol=1e-9)
    np.testing.assert_allclose(entry["q99"], np.percentile(pixels, 99, axis=0), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
def test_omeros_windows_are_within_the_sliders(dtype: str) -> None:
    omero = json.loads(exporters.export(summary_of(dtype), "omero"))["omero"]
    ends = {"uint8": (0, 255), "uint16": (0, 65535), "float": (None, None)}[dtype]
    pixels = stored(dtype)
    for c, channel in enumerate(omero["channels"]):
        window = channel["window"]
        assert window["min"] == (pixels[:, c].min() if ends[0] is None else ends[0])
        assert window["max"] == (pixels[:, c].max() if ends[1] is None else ends[1])
        assert window["min"] <= window["start"] <= window["end"] <= window["max"]
    assert [channel["color"] for channel in omero["channels"]] == ["FF0000", "00FF00", "0000FF"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
def test_the_model_zoos_schema_accepts_the_steps(dtype: str) -> None:
    schema: Any = needs.module("bioimageio.spec.model.v0_5")
    for channels in (1, 3):
        steps = yaml.safe_load(exporters.export(summary_of(dtype, channels), "bioimageio"))["preprocessing"]
        kinds = {
            "ensure_dtype": schema.EnsureDtypeDescr,
            "scale_linear": schema.ScaleLinearDescr,
            "fixed_zero_mean_unit_variance": schema.FixedZeroMeanUnitVarianceDescr,
        }
        read = [kinds[step["id"]].model_validate(step) for step in steps]
        assert len(read) == (2 if dtype == "float" else 3)
        assert list(read[-1].kwargs.mean) == summary_of(dtype, channels).mean


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
def test_pystac_reads_the_statistics_of_the_bands(dtype: str) -> None:
    pystac = needs.module("pystac")
    raster: Any = needs.module("pystac.extensions.raster")
    fragment = json.loads(exporters.export(summary_of(dtype), "stac"))
    item = pystac.Item.from_dict(
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": "a",
            "geometry": None,
            "properties": {"datetime": "2026-01-01T00:00:00Z"},
            "links": [],
            "stac_extensions": fragment["stac_extensions"],
            "assets": {"data": {"href": "a.tif", **fragment["assets"]["data"]}},
        }
    )
    bands = raster.RasterExtension.ext(item.assets["data"]).bands
    pixels = stored(dtype)
    assert bands is not None and len(bands) == 3
    for c, band in enumerate(bands):
        found = band.statistics
        wanted = (pixels[:, c].min(), pixels[:, c].max(), pixels[:, c].mean(), pixels[:, c].std(), 100)
        values = (found.minimum, found.maximum, found.mean, found.stddev, found.valid_percent)
        assert values == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float"])
def test_gdal_reads_the_pam_file_next_to_a_raster(dtype: str, tmp_path: Path) -> None:
    rasterio = needs.module("rasterio")
    (image,) = pictures(dtype)[:1]
    tally = Tally()
    tally.count(image)
    summary = Summary.of(tally, SETTINGS, {})
    profile = {
        "driver": "GTiff",
        "height": image.shape[0],
        "width": image.shape[1],
        "count": 3,
        "dtype": image.dtype.name,
        "transform": rasterio.Affine(2, 0, 0, 0, -2, 0),
    }
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as raster:
        raster.write(image.transpose(2, 0, 1))
    (tmp_path / "a.tif.aux.xml").write_text(exporters.export(summary, "gdal"))
    with rasterio.open(tmp_path / "a.tif") as raster:
        assert raster.descriptions == ("R", "G", "B")
        for c in range(3):
            tags = {key: float(value) for key, value in raster.tags(c + 1).items()}
            column = image[:, :, c].astype(float)
            assert tags == pytest.approx(
                {
                    "STATISTICS_MINIMUM": column.min(),
                    "STATISTICS_MAXIMUM": column.max(),
                    "STATISTICS_MEAN": column.mean(),
                    "STATISTICS_STDDEV": column.std(),
                    "STATISTICS_VALID_PERCENT": 100,
                },
                rel=1e-6,
            )


@pytest.mark.parametrize("nodata", [None, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_scaled_rasters_are_exported_in_stored_values(dtype: str, nodata: int | None, tmp_path: Path) -> None:
    """STATISTICS_* and raster:bands describe samples before scale and offset: equal to those that rasterio reads."""
    rasterio, path = needs.module("rasterio"), tmp_path / "a.tif"
    rng = np.random.default_rng(0)
    scales = [(0.0001, -0.1), (0.5, 3), (2, 0)]
    array = rng.integers(0, 200, (3, 16, 20)).astype(dtype)
    raster(
        path,
        array,
        scales=scales,
        nodata=nodata,
        names=["B02", "B03", "B04"],
        transform=rasterio.Affine(2, 0, 0, 0, -2, 0),
    )
    summary = normcli.stats(path, max_value=10)
    bands = json.loads(exporters.export(summary, "stac"))["assets"]["data"]["raster:bands"]
    percentiles = json.loads(exporters.export(summary, "nnunet"))["foreground_intensity_properties_per_channel"]
    path.with_suffix(".tif.aux.xml").write_text(exporters.export(summary, "gdal"))
    with rasterio.open(path) as file:
        samples = file.read(masked=True).astype(float)
        assert file.scales == tuple(scale for scale, _ in scales) and file.descriptions == ("B02", "B03", "B04")
        for c, band in enumerate(bands):
            wanted = [samples[c].min(), samples[c].max(), samples[c].mean(), samples[c].std(), None]
            wanted[4] = 100 * samples[c].count() / samples[c].size
            names = ("minimum", "maximum", "mean", "stddev", "valid_percent")
            assert [band["statistics"][name] for name in names] == pytest.approx(wanted, rel=1e-9)
            tags = file.tags(c + 1)
            short = ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV", "VALID_PERCENT")
            assert [float(tags[f"STATISTICS_{name}"]) for name in short] == pytest.approx(wanted, rel=1e-6)
            median = percentiles[str(c)]["median"]
            tolerance = 2.0**-8 if dtype in ("int16", "float32") else 1e-9
            scale, offset = scales[c]  # nnU-Net reads values in units
            assert (median - offset) / scale == pytest.approx(np.median(samples[c].compressed()), rel=tolerance)


def test_a_group_of_integers_has_exact_extremes_and_its_card_has_none() -> None:
    summary, alone = summary_of("uint8", group="a"), summary_of("uint8")
    for name in ("lerobot", "nnunet", "omero", "stac", "gdal"):
        assert exporters.export(summary, name, group="a").replace(" (group 'a')", "") == exporters.export(alone, name)
    assert "| - |" in exporters.export(summary, "markdown", group="a")


def test_the_share_of_valid_pixels_is_stated() -> None:
    tally = Tally()
    (image,) = pictures("uint8")[:1]
    valid = np.ones(image.shape, bool)
    valid[:5, :, 1] = False
    tally.count(image, valid=valid)
    text = exporters.export(Summary.of(tally, SETTINGS, {}), "stac")
    bands = json.loads(text)["assets"]["data"]["raster:bands"]
    assert [band["statistics"]["valid_percent"] for band in bands] == [100, 75, 100]


def test_files_of_the_tools_are_recognized(tmp_path: Path) -> None:
    """The forms of others: MEAN and STD by band name, and nnU-Net's own fingerprint."""
    python = 'MEAN = {"B02": 1354.4, "B03": 1118.2}\nSTD = {"B02": 245.7, "B03": 333.0}\n'
    (found,) = read_constants(python, "x")
    assert [n.value for n in found.mean] == [1354.4, 1118.2] and [n.value for n in found.std or ()] == [245.7, 333.0]
    entry = {"max": 9.0, "mean": 2.5, "median": 2.0, "min": 0.0, "std": 1.5}
    (found,) = read_constants(json.dumps({"x": {"0": entry, "1": {**entry, "mean": 3.5}}}), "x")
    assert [n.value for n in found.mean] == [2.5, 3.5]
    apart = {"train": {"mean": 2.5, "std": 1.5}, "val": {"mean": 3.5, "std": 1.5}}
    assert {len(pair.mean) for pair in read_constants(json.dumps(apart), "x")} == {1}


def test_stats_prints_them_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for at, image in enumerate(pictures("uint8")):
        Image.fromarray(image).save(tmp_path / "set" / f"{at}.png")
    done = run("stats", "set", "-q", "--format", "nnunet")
    assert done.returncode == 0
    assert done.stdout.decode() == exporters.export(normcli.stats(tmp_path / "set"), "nnunet")
