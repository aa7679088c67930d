"""Rasters as GDAL writes them: tags, masks and tiles, compared with the arrays that rasterio reads."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import NoInputError, UsageError
from tests.support import needs
from tests.support.command import Run
from tests.support.rasters import raster, reference, write_tags

needs.module("rasterio")
tifffile = needs.module("tifffile")

Array = np.ndarray[Any, Any]


def samples(dtype: str, bands: int, seed: int, height: int = 61, width: int = 75) -> Array:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(3, 40, (bands, height, width)).round(1).astype(dtype)
    return rng.integers(0, 12, (bands, height, width)).astype(dtype)


NO_DATA = {"uint8": 0, "uint16": 7, "int16": -9999, "uint32": 3, "int32": 5, "float32": -3.4e38, "float64": math.nan}
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"tiled": True, "blockxsize": 32, "blockysize": 16},
    {"interleave": "band", "blockysize": 7},
    {"interleave": "band", "tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"},
    {"compress": "lzw", "predictor": 2, "blockysize": 11},
    {"BIGTIFF": "YES", "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "zstd"},
    {"driver": "COG", "compress": "deflate", "blocksize": 128},
    {"ENDIANNESS": "BIG", "compress": "packbits"},
]


def cases() -> list[Any]:
    """56 rasters: every type in every layout; bands, nodata, masks, names and scales in turn."""
    out = []
    for number, (dtype, layout) in enumerate(itertools.product(NO_DATA, LAYOUTS)):
        options = dict(layout)
        if np.dtype(dtype).kind == "f" and "predictor" in options:
            options["predictor"] = 3
        options["bands"] = (1, 3, 4, 2, 5)[number % 5]
        options["nodata"] = NO_DATA[dtype] if number % 4 else None
        options["mask"] = number % 6 == 4
        options["scaled"] = number % 5 == 2
        options["names"] = number % 3 == 1
        label = "-".join(f"{key}={value}" for key, value in options.items() if value not in (None, False))
        out.append(pytest.param(number, dtype, options, id=f"{dtype}-{label}"))
    return out


@pytest.mark.parametrize(("seed", "dtype", "options"), cases())
def test_statistics_equal_those_of_masked_arrays(
    tmp_path: Path, seed: int, dtype: str, options: dict[str, Any]
) -> None:
    bands = options.pop("bands")
    array = samples(dtype, bands, seed)
    rng = np.random.default_rng(seed)
    if options["nodata"] is not None:
        array[rng.random(array.shape) < 0.2] = options["nodata"]
    mask = rng.random(array.shape[1:]) < 0.6 if options.pop("mask") else None
    if mask is not None:
        mask[0, 0] = True
    scaled, named = options.pop("scaled"), options.pop("names")
    scales = [(0.5 * (c + 1), -1.25 * c) for c in range(bands)] if scaled else None
    names = [f"B{c:02}" for c in range(bands)] if named else None
    path = raster(tmp_path / "a.tif", array, mask=mask, scales=scales, names=names, photometric="minisblack", **options)
    values = reference(path)
    skip: Any = "skip" if np.isnan(values.data[~np.ma.getmaskarray(values)]).any() else "error"
    if skip == "skip":
        values = np.ma.masked_invalid(values)
    summary = normcli.stats(path, nan=skip, color="native")
    white = 1.0
    if scales is None and dtype in ("uint8", "uint16"):
        white = np.iinfo(dtype).max
    if names is not None:
        assert summary.channels == names
    for c in range(bands):
        band = values[c].compressed() / white
        assert summary.pixels_of[c] == band.size
        assert summary.mean[c] == pytest.approx(band.mean(), rel=1e-12, abs=1e-12 * band.std())
        assert summary.std[c] == pytest.approx(band.std(), rel=1e-12)
        assert summary.min[c] == pytest.approx(band.min(), rel=1e-15)
        assert summary.max[c] == pytest.approx(band.max(), rel=1e-15)
        bound = 1e-12 if dtype in ("uint8", "uint16") else 2**-8
        for p in ("5", "50", "95"):
            expected = np.percentile(band, float(p))
            assert summary.percentiles[p][c] == pytest.approx(expected, rel=bound, abs=bound * abs(band).max())


def with_moments(count: int, mean: float, std: float) -> Array:
    """Return uint8 values from 1 on with a mean and std to six decimals: ones, two levels, and some twos."""
    total, squares = round(mean * count), round((std * std + mean * mean) * count)
    for b, c, less in itertools.product(range(20, 140), range(141, 256), range(-2, 3)):
        solved = np.linalg.solve([[b - 1, c - 1], [b * b - 1, c * c - 1]], [total - count, squares - count])
        n_b, n_c = round(solved[0]) + less, math.floor(solved[1])
        twos = total - count - n_b * (b - 1) - n_c * (c - 1)
        if min(n_b, n_c, twos, count - n_b - n_c - twos) < 0:
            continue
        if abs(count + n_b * (b * b - 1) + n_c * (c * c - 1) + 3 * twos - squares) < 80:
            values = np.ones(count, np.uint8)
            values[: n_b + n_c + twos] = np.repeat(np.array([b, c, 2], np.uint8), [n_b, n_c, twos])
            return values
    raise AssertionError("no two levels have this mean and std")


def test_nodata_of_a_color_raster_counts_in_no_band(tmp_path: Path) -> None:
    expected = [(382776, 44.434479, 58.490056), (382939, 66.022035, 58.203443), (382743, 71.393162, 60.827341)]
    array = np.zeros((3, 718, 791), np.uint8)
    for band, (count, mean, std) in zip(array, expected, strict=True):
        band.reshape(-1)[100 : 100 + count] = with_moments(count, mean, std)
    path = raster(tmp_path / "rgb.tif", array, nodata=0, photometric="RGB")
    summary = normcli.stats(path)
    assert [summary.channels, summary.pixels_of] == [["R", "G", "B"], [count for count, _, _ in expected]]
    np.testing.assert_allclose(np.array(summary.mean) * 255, [mean for _, mean, _ in expected], atol=2e-6)
    np.testing.assert_allclose(np.array(summary.std) * 255, [std for _, _, std in expected], atol=2e-6)
    every = normcli.stats(path, nodata="none")
    np.testing.assert_allclose(np.array(every.mean) * 255, [29.947727, 44.516148, 48.113056], atol=2e-6)


def test_nodata_is_compared_in_the_type_of_the_samples(tmp_path: Path) -> None:
    array = np.full((1, 12, 13), np.float32(-3.39999999999999996e38))
    array.reshape(-1)[:98] = [0.25] * 3 + [0.0] * 95
    summary = normcli.stats(raster(tmp_path / "f.tif", array, nodata=-3.39999999999999996e38))
    assert summary.pixels == 98
    assert [summary.mean[0], summary.std[0]] == pytest.approx([0.00765306122, 0.0430661812], rel=1e-8)


def test_nodata_may_be_nan(tmp_path: Path) -> None:
    array = np.full((1, 3, 4), math.nan)
    spread = math.sqrt(5 * 1.187114**2 / 2)
    array.reshape(-1)[[0, 3, 5, 6, 11]] = 0.17 + np.array([spread, -spread, 0, 0, 0])
    summary = normcli.stats(raster(tmp_path / "n.tif", array, nodata=math.nan))
    assert summary.pixels == 5
    assert [summary.mean[0], summary.std[0]] == pytest.approx([0.17, 1.187114])


def test_masks_and_overviews_are_no_frames(tmp_path: Path) -> None:
    array = samples("uint8", 3, 1, 600, 700)
    path = raster(tmp_path / "c.tif", array, mask=np.ones((600, 700), bool), driver="COG", blocksize=128)
    summary = normcli.stats(path)
    assert (summary.images, summary.pixels, summary.composition["multi_frame"]) == (1, 420_000, 0)
    assert summary.composition["damaged"] == 0


def test_nodata_that_no_sample_can_have_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 4), np.uint8), extratags=[(42113, "s", 0, "-9999", True)])
    summary = normcli.stats(path)
    assert (summary.pixels, summary.composition["unusable_nodata"]) == (16, {"-9999": 1})


@pytest.mark.parametrize("nodata", [3, 0, 300])
def test_nodata_of_a_palette_is_an_index(nodata: int, tmp_path: Path) -> None:
    indexes = np.random.default_rng(4).integers(0, 5, (9, 11), np.uint8)
    colors = np.random.default_rng(5).integers(0, 65536, (3, 256)).astype(np.uint16) // 257 * 257
    tag = (42113, "s", 0, str(nodata), True)
    tifffile.imwrite(tmp_path / "a.tif", indexes, photometric="palette", colormap=colors, extratags=[tag])
    summary = normcli.stats(tmp_path / "a.tif")
    if nodata > 255:
        assert summary.composition["unusable_nodata"] == {"300": 1} and not summary.invalid
        return
    hidden = reference(tmp_path / "a.tif").mask[0]
    assert (hidden == (indexes == nodata)).all() and summary.invalid == [hidden.sum()] * 3
    seen = (colors[:, indexes] // 257)[:, ~hidden] / 255
    np.testing.assert_allclose([summary.mean, summary.std], [seen.mean(1), seen.std(1)], rtol=1e-12)
    counted = normcli.stats(tmp_path / "a.tif", nodata="none")
    assert not counted.invalid and counted.composition["nodata"] == {str(nodata): 1}
    gray = normcli.stats(tmp_path / "a.tif", color="gray")
    assert gray.invalid == [hidden.sum()]


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_files_of_gdal_that_are_not_read_are_reported(run: Run, tmp_path: Path) -> None:
    import rasterio

    array = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    (tmp_path / "set").mkdir()
    for name in "abc":
        raster(tmp_path / "set" / f"{name}.tif", array)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(tmp_path / "set/a.tif", "r+") as file:
        file.write_mask(np.arange(64).reshape(8, 8) > 9)
    assert (tmp_path / "set/a.tif.msk").exists()
    band = '<PAMDataset><PAMRasterBand band="1">{}</PAMRasterBand></PAMDataset>'
    (tmp_path / "set/b.tif.aux.xml").write_text(band.format("<NoDataValue>5</NoDataValue><Scale>0.5</Scale>"))
    (tmp_path / "set/c.tif.aux.xml").write_text(band.format("<Offset>0</Offset><Scale>1</Scale>"))
    with rasterio.open(tmp_path / "set/b.tif") as file:
        assert file.nodata == 5 and file.scales == (0.5,)
    done = run("stats", "set", "-o", "s.json")
    composition = normcli.load(tmp_path / "s.json").composition
    assert [composition.get(f"unread_{name}") for name in ("mask", "nodata", "scale")] == [1, 1, 1]
    for text in (
        b"1 image with a GDAL mask file (.msk), which is not read",
        b"1 image with a nodata value in the .aux",
    ):
        assert text in done.stderr
    assert b"scale or offset in the .aux.xml" in done.stderr
    assert "unread_nodata" not in normcli.stats(tmp_path / "set", nodata=5).composition
    done = run("apply", "set/a.tif", "set/c.tif", "-o", "out")
    assert b"1 rasters with a GDAL file next to them" in done.stderr


def test_bands_that_only_some_images_name_are_reported(run: Run, tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", samples("uint8", 2, 0), names=["B02", "B03"])
    raster(tmp_path / "b.tif", samples("uint8", 2, 1))
    done = run("stats", "a.tif", "b.tif")
    assert b"1 of 2 images name their bands, B02,B03: channels have the default names" in done.stderr
    assert b"name their bands" not in run("stats", "a.tif").stderr


def test_a_raster_without_data_fails(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.zeros((2, 5, 5), np.uint16), nodata=0)
    with pytest.raises(NoInputError, match="1 nodata"):
        normcli.stats(path)


def test_bands_are_selected_by_name_and_number(tmp_path: Path) -> None:
    array = samples("uint16", 4, 5)
    names = ["B02", "B03", "B04", "NIR (842 nm)"]
    path = raster(tmp_path / "a.tif", array, names=names)
    turned = raster(tmp_path / "b.tif", array[::-1], names=names[::-1])
    one = normcli.stats(path, bands="NIR_842_nm,B02")
    assert one.channels == ["NIR_842_nm", "B02"]
    np.testing.assert_allclose(one.mean, array[[3, 0]].mean((1, 2)) / 65535, rtol=1e-12)
    assert normcli.stats([path, turned], bands=["NIR_842_nm", "B02"]).mean == one.mean
    assert normcli.stats(path, bands="4,1").mean == one.mean
    numbered = normcli.stats([path, turned], bands=[1, 2])
    assert numbered.channels == ["1", "2"]
    assert numbered.settings["bands"] == "1,2"
    with pytest.raises(UsageError, match=r"band names differ between images: .*`bands` selects them by name"):
        normcli.stats([path, turned])
    with pytest.raises(NoInputError, match="no band B09: they are B02, B03, B04, NIR_842_nm"):
        normcli.stats(path, bands="B09")
    with pytest.raises(UsageError, match="`bands`: B02 is selected twice"):
        normcli.stats(path, bands="B02,B02")
    with pytest.raises(NoInputError, match="3 bands are neither gray nor RGB"):
        normcli.stats(path, bands="1,2,3", color="gray")


def test_names_of_bands_are_in_every_output(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", samples("uint16", 2, 3), names=["vv", "vh"])
    summary = normcli.stats(path)
    assert summary.channels == summary.to_dict()["channels"] == ["vv", "vh"]
    assert '["vv", "vh"]' in summary.format("yaml")
    assert normcli.merge(summary, minus=[]).channels == ["vv", "vh"]


def test_channels_of_ome_have_their_names(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    array = samples("uint16", 3, 8)
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "Cy5"]}}
    tifffile.imwrite(path, array, photometric="minisblack", metadata=metadata)
    summary = normcli.stats(path)
    assert summary.channels == ["DAPI", "GFP", "Cy5"]
    np.testing.assert_allclose(summary.mean, array.mean((1, 2)) / 65535, rtol=1e-12)


def test_scales_leave_the_state_as_it_is(tmp_path: Path) -> None:
    array = samples("uint16", 2, 4)
    plain = normcli.stats(raster(tmp_path / "a.tif", array))
    path = raster(tmp_path / "b.tif", array, scales=[(1e-4, -0.1), (-2e-4, 0.3)])
    scaled = normcli.stats(path)
    assert scaled.state["buckets"] == plain.state["buckets"]
    assert (scaled.range, scaled.max_value) == ("raw", None)
    values = reference(path)
    for c in range(2):
        band = values[c].compressed()
        assert scaled.mean[c] == pytest.approx(band.mean(), abs=1e-16)
        assert scaled.std[c] == pytest.approx(band.std(), rel=1e-12)
        assert [scaled.min[c], scaled.max[c]] == pytest.approx([band.min(), band.max()])
        assert scaled.percentiles["1"][c] == pytest.approx(np.percentile(band, 1))
        counts, edges = scaled.histogram(c, 8)
        assert counts.sum() == band.size
        assert edges[0] <= band.min() <= band.max() <= edges[-1]
    halved = normcli.stats(path, max_value=2)
    np.testing.assert_allclose(halved.mean, np.array(scaled.mean) / 2)
    assert halved.range == "0-1"
    ignored = normcli.stats(path, scale_offset="none")
    assert (ignored.mean, ignored.settings["scale_offset"]) == (plain.mean, "none")


def test_a_scale_of_0_fails_unless_it_is_ignored(tmp_path: Path) -> None:
    array = samples("uint16", 2, 4)
    path = tmp_path / "a.tif"
    xml = '<GDALMetadata><Item name="SCALE" sample="1" role="scale">0</Item></GDALMetadata>'
    with tifffile.TiffWriter(path) as file:
        file.write(array, photometric="minisblack", planarconfig="separate", extratags=[(42112, 2, 0, xml, True)])
    with pytest.raises(NoInputError, match=r"its scale of band 2 is '0' \(`scale_offset` none ignores it\)"):
        normcli.stats(path)
    assert normcli.stats(path, scale_offset="none").mean == pytest.approx((array.mean((1, 2)) / 65535).tolist())


def test_images_of_different_scales_are_not_counted_together(tmp_path: Path) -> None:
    array = samples("uint16", 2, 4)
    a = raster(tmp_path / "a.tif", array, scales=[(1e-4, 0.0)] * 2)
    b = raster(tmp_path / "b.tif", array + np.uint16(1), scales=[(2e-4, 0.0)] * 2)
    plain = raster(tmp_path / "c.tif", array + np.uint16(2))
    for other in (b, plain):
        with pytest.raises(UsageError, match=r"scale and offset differ between images: .* \(`scale_offset` none"):
            normcli.stats([a, other])
        with pytest.raises(UsageError, match="scale and offset differ"):
            normcli.merge(normcli.stats(a), normcli.stats(other))
    assert normcli.stats([a, b, plain], scale_offset="none").images == 3
    both = normcli.stats([a, b], scale_offset="values")
    values = np.concatenate([array.reshape(2, -1) * 1e-4, (array.reshape(2, -1) + 1) * 2e-4], axis=1)
    assert both.mean + both.std == pytest.approx([*values.mean(axis=1), *values.std(axis=1)], rel=1e-12)
    assert both.settings["scale_offset"] == "values"
    normcli.apply([str(a), str(b)], tmp_path / "out", scheme="contrast", stats=both, scale_offset="values")
    mapped = np.concatenate([np.load(file).reshape(2, -1) for file in sorted((tmp_path / "out").glob("*.npy"))], axis=1)
    assert [*mapped.mean(axis=1), *mapped.std(axis=1)] == pytest.approx([0, 0, 1, 1], abs=1e-5)
    with pytest.raises(UsageError, match="made with scale-offset values"):
        normcli.apply([str(a)], tmp_path / "other", scheme="contrast", stats=both)
    assert normcli.merge(normcli.stats(a), normcli.stats(a), force=True).mean == normcli.stats(a).mean


def test_constants_of_scaled_rasters_are_applied_and_exported_in_their_units(tmp_path: Path) -> None:
    array = samples("uint16", 2, 4)
    path = raster(tmp_path / "a.tif", array, scales=[(0.5, -1.0), (0.25, 2.0)])
    summary = normcli.stats(path)
    normcli.apply(path, tmp_path / "out", scheme="contrast", stats=summary, to="npy", dtype="float64")
    (written,) = (np.load(file) for file in (tmp_path / "out").glob("*.npy"))
    np.testing.assert_allclose(written.mean((1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(written.std((1, 2)), 1, rtol=1e-12)
    other = raster(tmp_path / "b.tif", array, scales=[(0.5, -1.0), (0.125, 2.0)])
    with pytest.raises(NoInputError, match=r"its scale and offset, .* are not those of the statistics"):
        normcli.apply(other, tmp_path / "no", scheme="contrast", stats=summary, to="npy")
    exported = summary.format("yaml", digits=0)
    scope = {line.split(":")[0]: line.split(":", 1)[1] for line in exported.splitlines() if line[0] != "#"}
    mean, std = (np.array([float(v) for v in scope[key].strip(" []").split(",")]) for key in ("mean", "std"))
    np.testing.assert_allclose(mean, array.mean((1, 2)))
    np.testing.assert_allclose(std, array.std((1, 2)))
    assert "before scale and offset" in exported


def test_a_single_plane_of_16_bits_is_read_as_it_is(tmp_path: Path) -> None:
    """Pillow reads 32 bits for each sample where the only band is a plane of its own."""
    for dtype in ("int16", "uint16"):
        layouts: tuple[dict[str, Any], ...] = ({"blockysize": 10}, {"tiled": True, "blockxsize": 32, "blockysize": 16})
        for layout in layouts:
            array = samples(dtype, 1, 2)
            array[0, 0, 0] = 3000
            path = raster(tmp_path / "a.tif", array, interleave="band", **layout)
            summary = normcli.stats(path)
            scale = 65535 if dtype == "uint16" else 1
            assert summary.mean[0] == pytest.approx(array.mean() / scale, rel=1e-12)
            assert summary.max[0] == 3000 / scale


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        ("uint16", {"tiled": True, "blockxsize": 512, "blockysize": 256, "compress": "deflate", "zlevel": 1}),
        ("uint16", {"interleave": "band", "blockysize": 300}),
        ("float32", {"BIGTIFF": "YES", "tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "band"}),
    ],
    ids=["tiles", "strips", "planes"],
)
def test_a_large_raster_is_counted_in_blocks_to_the_same_bits(
    tmp_path: Path, dtype: str, layout: dict[str, Any]
) -> None:
    height, width = (2900, 3000) if dtype == "uint16" else (2100, 2000)  # just over 64 MiB
    side = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    array = np.stack([(side * (c + 3) >> 7 & 0xFFF).astype(dtype) for c in range(4)])
    mask = (side % 7 > 0) & (side % 3000 > 5)
    path = raster(
        tmp_path / "large.tif", array, mask=mask, names=["a", "b", "c", "d"], photometric="minisblack", **layout
    )
    summary = normcli.stats(path, group_by="folder")
    pixels = np.ascontiguousarray(array.transpose(1, 2, 0))
    tally = normcli.tally.Tally()
    tally.count(pixels, None, np.repeat(mask[:, :, None], 4, axis=2), group=next(iter(summary.groups)))
    assert summary.state["buckets"] == tally.state()["buckets"]
    assert summary.state["groups"] == tally.state()["groups"]
    assert summary.channels == ["a", "b", "c", "d"]
    assert summary.provenance["digest"] == f"{normcli.storage.files.digest(path.read_bytes()):032x}"


def test_check_names_gdal_statistics_that_are_stale(tmp_path: Path) -> None:
    array = samples("uint16", 2, 6)
    path = raster(tmp_path / "a.tif", array, nodata=0)
    values = reference(path)
    tags = [{"STATISTICS_MEAN": f"{band.mean():.14g}", "STATISTICS_STDDEV": f"{band.std():.14g}"} for band in values]

    def remarks(*changes: dict[str, str]) -> list[str]:
        write_tags(path, [{**own, **change} for own, change in zip(tags, changes, strict=True)])
        result = normcli.check(path, mean=[0.5, 0.5], std=[0.1, 0.1])
        return [remark for remark in result.remarks if "STATISTICS" in remark]

    assert remarks({}, {}) == []
    (stale,) = remarks({}, {"STATISTICS_MEAN": "5.5"})
    assert "STATISTICS_MEAN of band 2 in its tags is stale: 5.5" in stale
    assert remarks({}, {"STATISTICS_MEAN": f"{values[1].mean() + 0.01:.14g}", "STATISTICS_APPROXIMATE": "YES"}) == []
    xml = '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MAXIMUM">99</MDI></Metadata>'
    (tmp_path / "a.tif.aux.xml").write_text(f"{xml}</PAMRasterBand></PAMDataset>")
    result = normcli.check(path, mean=[0.5, 0.5], std=[0.1, 0.1])
    assert any("STATISTICS_MAXIMUM of band 1 in its .aux.xml is stale: 99" in remark for remark in result.remarks)
