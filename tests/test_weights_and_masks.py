"""Weights and masks: pixels that count equally, by weight, or not at all."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.constants.exporters import export
from normcli.errors import NoInputError, UsageError
from normcli.images import geometry
from normcli.options.stats import StatsOptions
from tests.support import needs
from tests.support.images import encoded, photograph

Array = np.ndarray[Any, Any]


@pytest.fixture
def sizes(tmp_path: Path) -> tuple[Path, dict[str, list[np.ndarray[Any, Any]]]]:
    pictures: dict[str, list[np.ndarray[Any, Any]]] = {"a": [], "b": []}
    for i in range(9):
        group = "a" if i < 3 else "b"
        picture = photograph(5 + 3 * i, 7 + i, seed=i)
        pictures[group].append(picture)
        (tmp_path / "in" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / group / f"{i}.png").write_bytes(encoded(picture))
    return tmp_path / "in", pictures


def by_equal(parts: list[np.ndarray[Any, Any]]) -> tuple[Any, Any]:
    rows = [part.reshape(-1, 3) / 255 for part in parts]
    mean = np.mean([row.mean(0) for row in rows], axis=0)
    return mean, np.sqrt(np.mean([(row**2).mean(0) for row in rows], axis=0) - mean**2)


def test_every_image_or_group_weighs_the_same(sizes: Any) -> None:
    folder, pictures = sizes
    of_images = normcli.stats(folder, weight="image")
    of_groups = normcli.stats(folder, weight="group", group_by="folder")
    assert np.allclose([of_images.mean, of_images.std], by_equal(pictures["a"] + pictures["b"]), atol=1e-12)
    groups = [np.concatenate([p.reshape(-1, 3) for p in group]) for group in pictures.values()]
    assert np.allclose([of_groups.mean, of_groups.std], by_equal(groups), atol=1e-12)
    assert of_images.convention == "equal_image_weights"
    parts = [normcli.stats(folder / name, weight="image") for name in "ab"]
    assert (parts[0] + parts[1]).to_json() == of_images.to_json()
    plain = normcli.stats(folder)
    assert plain.state == of_images.state
    with pytest.raises(UsageError, match="settings differ: weight"):
        plain + of_images
    assert normcli.merge(of_images, minus=[parts[1]]).to_json() == parts[0].to_json()


def test_settings_that_cannot_be(sizes: Any, tmp_path: Path) -> None:
    folder, _ = sizes
    options: dict[str, Any]
    for options in (
        {"weight": "group"},
        {"weight": "imgae"},
        {"weight": "image", "sample": "3"},
        {"mask_dir": tmp_path / "absent"},
        {"labels": "1"},
        {"mask_dir": tmp_path, "labels": ">x"},
        {"mask_dir": tmp_path, "labels": "-1"},
        {"nodata": "black"},
        {"nodata": []},
    ):
        with pytest.raises(UsageError):
            normcli.stats(folder, **options)


def test_pixels_that_a_mask_or_a_value_leaves_out(sizes: Any, tmp_path: Path) -> None:
    folder, pictures = sizes
    rng = np.random.default_rng(0)
    kept = []
    for path in sorted(folder.rglob("*.png")):
        picture = pictures[path.parent.name][int(path.stem) - (3 if path.parent.name == "b" else 0)]
        mask = rng.random(picture.shape[:2]) < 0.6
        mask[0, 0] = True
        target = tmp_path / "masks" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encoded((mask * 255).astype(np.uint8)))
        kept.append(picture[mask])
    pixels = np.concatenate(kept) / 255
    found = normcli.stats(folder, mask_dir=tmp_path / "masks")
    assert found.pixels == len(pixels)
    assert set(found.invalid) == {normcli.stats(folder).pixels_of[0] - len(pixels)}
    assert np.allclose([found.mean, found.std], [pixels.mean(0), pixels.std(0)], atol=1e-12)
    one, other = (normcli.stats(folder / name, mask_dir=tmp_path / "masks" / name) for name in "ab")
    assert (one + other).tally.state() == found.tally.state(), (
        "pixels left out are counted, and no image has that many notes"
    )
    (tmp_path / "masks" / "a" / "0.png").unlink()
    (tmp_path / "masks" / "a" / "1.png").write_bytes(encoded(np.zeros((3, 3), np.uint8)))
    assert normcli.stats(folder, mask_dir=tmp_path / "masks").failures == {"mask": 2}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_nodata_value_in_every_depth(tmp_path: Path, dtype: Any) -> None:
    images = np.random.default_rng(1).integers(1, 9, (4, 6, 7, 3)).astype(dtype)
    images[:, :2] = 200
    images[:, 2, :, 0] = 200
    np.save(tmp_path / "a.npy", images)
    found = normcli.stats(tmp_path / "a.npy", nodata=200, max_value=255 if dtype != np.float32 else None)
    scaled = images.astype(float) / (1 if dtype == np.float32 else 255)
    right = np.where(images == 200, np.nan, scaled).reshape(-1, 3)
    assert found.pixels == np.isfinite(right).sum(0).tolist() and found.invalid == np.isnan(right).sum(0).tolist()
    assert np.allclose([found.mean, found.std], [np.nanmean(right, 0), np.nanstd(right, 0)], atol=1e-9)
    images[0] = 200
    np.save(tmp_path / "a.npy", images)
    assert normcli.stats(tmp_path / "a.npy", nodata=200).failures == {"nodata": 1}


def test_nodata_values_that_samples_cannot_have_fail_their_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 6, 7, 3), np.uint8))
    np.save(tmp_path / "b.npy", np.ones((2, 6, 7, 3), np.float32))
    found = normcli.stats([tmp_path / "a.npy", tmp_path / "b.npy"], nodata=-9999)
    assert found.failures == {"nodata": 2} and found.images == 2
    several = normcli.stats(tmp_path / "a.npy", nodata="7, 3")
    assert several.settings["nodata"] == "7,3" and several.invalid == []
    assert "nodata" not in normcli.stats(tmp_path / "a.npy").settings
    with pytest.raises(UsageError, match="settings differ: nodata is none and 7,3"):
        normcli.stats(tmp_path / "a.npy") + several


def test_alpha_masks_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(1, 256, (6, 5, 4), np.uint8)
    pixels[:2, :, 3] = 0
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    found = normcli.stats(tmp_path, alpha="mask")
    seen = pixels[2:, :, :3].reshape(-1, 3) / 255
    assert found.pixels == 20 and found.invalid == [10, 10, 10]
    assert np.allclose([found.mean, found.std], [seen.mean(0), seen.std(0)], atol=1e-12)
    gray = normcli.stats(tmp_path, alpha="mask", color="gray")
    assert gray.pixels == 20 and gray.invalid == [10]


def test_a_resized_pixel_is_valid_where_all_that_it_is_made_of_are(tmp_path: Path) -> None:
    pixels = np.full((40, 40, 1), 100, np.float32)
    pixels[:, :11] = -9999
    np.save(tmp_path / "a.npy", pixels[None])
    found = normcli.stats(tmp_path / "a.npy", nodata=-9999, resize=10)
    assert found.mean == [100] and found.std == [0], "no invalid sample is mixed in"
    assert isinstance(found.pixels, int) and 60 <= found.pixels <= 70


GEOMETRIES: list[dict[str, Any]] = [
    {"resize": 20},
    {"resize": "13x21", "center_crop": "9x7"},
    {"center_crop": "40x44", "pad": 9},
    {"resize": "longest:24", "pad": "0:corner", "interpolation": "bicubic"},
]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("is_upright", [False, True])
@pytest.mark.parametrize("options", GEOMETRIES)
def test_masks_get_the_geometry_of_their_images(
    options: dict[str, Any], is_upright: bool, orientation: int, tmp_path: Path
) -> None:
    """Equal to Pillow: both turned upright, the image resized by its filter, the mask by nearest; padding counts."""
    rng = np.random.default_rng(6)
    picture = Image.fromarray(rng.integers(0, 256, (30, 48), np.uint8))
    mask = Image.fromarray((rng.random((30, 48)) < 0.7).astype(np.uint8) * 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn: Any = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[orientation]
    seen = [image if turn is None else image.transpose(turn) for image in (picture, mask)]
    for name in ("set", "masks"):
        (tmp_path / name).mkdir()
    picture.save(tmp_path / "set" / "a.png", exif=exif)
    # of equal sizes, a mask without an orientation is taken to be drawn on the picture as it is seen
    drawn_as_seen = is_upright or orientation == 3
    (seen[1] if drawn_as_seen else mask).save(tmp_path / "masks" / "a.png")
    width, height = seen[0].size
    reading = StatsOptions(**options)
    placed = geometry.place(width, height, reading)
    image = seen[0].resize(placed.scaled, Image.Resampling[(reading.interpolation or "bilinear").upper()])
    valid = seen[1].resize(placed.scaled, Image.Resampling.NEAREST)
    left, top, right, bottom = placed.padding
    sides = ((top, bottom), (left, right))
    fill = int(str(options.get("pad", 0)).partition(":")[0])
    levels = np.pad(np.asarray(image), sides, constant_values=fill)
    counts = np.pad(np.asarray(valid), sides, constant_values=255)
    window = tuple(
        slice(start, start + size) for start, size in zip(placed.origin[::-1], placed.size[::-1], strict=True)
    )
    values = levels[window][counts[window] > 0] / 255
    found = normcli.stats(tmp_path / "set", mask_dir=tmp_path / "masks", **options)
    assert found.pixels == len(values) and found.invalid == [np.count_nonzero(counts[window] == 0)]
    np.testing.assert_allclose([*found.mean, *found.std], [values.mean(), values.std()], rtol=1e-12)
    assert found.settings["mask"] and found.composition.get("turned_mask", 0) == (drawn_as_seen and orientation > 1)


@pytest.mark.parametrize("kind", ["gray", "palette", "4-bit"])
def test_labels_select_the_values_of_a_mask(kind: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (8, 9, 3), np.uint8)
    classes = np.random.default_rng(5).integers(0, 4, (8, 9), np.uint8)
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    (tmp_path / "i/0.png").write_bytes(encoded(pixels))
    mask = Image.fromarray(classes)
    if kind == "palette":
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    if kind == "4-bit":
        tifffile = needs.module("tifffile")
        tifffile.imwrite(tmp_path / "m/0.tif", classes, bitspersample=4, photometric="minisblack")
    else:
        mask.save(tmp_path / "m/0.png")
    for labels, selected in (("1,3", (classes == 1) | (classes == 3)), (">1", classes > 1), ([2], classes == 2)):
        found = normcli.stats(tmp_path / "i", mask_dir=tmp_path / "m", labels=labels)
        seen = pixels[selected] / 255
        assert found.pixels == len(seen) and np.allclose(found.mean, seen.mean(0), atol=1e-12)


def test_labels_of_a_mask_without_exact_values_fail(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "0.png").write_bytes(encoded(np.ones((8, 8), np.uint8)))
    for name, data in (
        ("0.jpg", encoded(np.ones((8, 8), np.uint8), "JPEG")),
        ("0.png", encoded(np.ones((8, 8, 3), "u1"))),
    ):
        (tmp_path / "m" / name).write_bytes(data)
        with pytest.raises(NoInputError, match=r"save masks as PNG|3 channels, and labels require one"):
            normcli.stats(tmp_path / "0.png", mask_dir=tmp_path / "m", labels=1)
        (tmp_path / "m" / name).unlink()


class TestLabelVolumes:
    """NIfTI labels of NIfTI images, as datasets of nnU-Net have them."""

    def cases(self, folder: Path, count: int = 2, suffix: str = ".nii.gz") -> list[tuple[Array, Array]]:
        """Write images of a channel and their labels from 0 to 2, which planes at the ends do not have."""
        nibabel = needs.module("nibabel")
        generator, pairs = np.random.default_rng(3), []
        affine = np.array([[1.0, 0, 0, 5], [0, 1, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
        for name in ("images", "labels"):
            (folder / name).mkdir()
        for i in range(count):
            voxels = generator.integers(-900, 1200, (16, 12, 8)).astype("i2")
            labels = np.zeros(voxels.shape, "u1")
            labels[4:12, 3:9, 2:7] = generator.integers(0, 3, (8, 6, 5))
            nibabel.Nifti1Image(voxels, affine).to_filename(folder / f"images/case_{i}_0000{suffix}")
            nibabel.Nifti1Image(labels, affine).to_filename(folder / f"labels/case_{i}{suffix}")
            pairs.append((voxels, labels))
        return pairs

    @pytest.mark.parametrize(("labels", "suffix"), [(None, ".nii.gz"), (">1", ".nii"), ("1,2", ".nii.gz")])
    def test_voxels_with_a_label_count(self, labels: Any, suffix: str, tmp_path: Path) -> None:
        pairs = self.cases(tmp_path, suffix=suffix)
        wanted = {None: (1, 2), ">1": (2,), "1,2": (1, 2)}[labels]
        options: dict[str, Any] = {
            "mask_dir": tmp_path / "labels", "labels": labels, "group_by": "label", "percentiles": "0.5,99.5",
            "exact_percentiles": True,
        }  # fmt: skip
        summary = normcli.stats(str(tmp_path / f"images/*{suffix}"), **options)
        every = [voxels[np.isin(of, wanted)].astype(float) for voxels, of in pairs]
        seen = np.concatenate(every)
        assert (summary.images, summary.pixels, summary.skips) == (10, len(seen), {"unlabeled": 6})
        assert summary.complete and summary.mean + summary.std == pytest.approx([seen.mean(), seen.std()], rel=1e-12)
        assert summary.percentiles["99.5"] == [pytest.approx(np.percentile(seen, 99.5))]
        for group, values in zip(summary.groups.values(), every, strict=True):
            assert group.mean == [pytest.approx(values.mean())]
            assert group.percentiles["0.5"] == [pytest.approx(np.percentile(values, 0.5))]

    def test_parts_and_engines(self, tmp_path: Path) -> None:
        self.cases(tmp_path)
        source, masks = str(tmp_path / "images/*.nii.gz"), tmp_path / "labels"
        once = normcli.stats(source, mask_dir=masks, engine="serial")
        parts = [
            normcli.stats(source, mask_dir=masks, shard=f"{i}/3", engine="processes", workers=2) for i in (3, 1, 2)
        ]
        assert normcli.merge(*parts).state == once.state

    def test_labels_apply_to_every_time(self, tmp_path: Path) -> None:
        nibabel = needs.module("nibabel")
        generator = np.random.default_rng(1)
        voxels, labels = generator.integers(0, 999, (6, 5, 4, 3)).astype("i2"), generator.integers(0, 2, (6, 5, 4))
        (tmp_path / "labels").mkdir()
        nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "f.nii.gz")
        for shape in ((6, 5, 4), (6, 5, 4, 1)):
            # nibabel writes floats with a scale
            nibabel.Nifti1Image(labels.reshape(shape).astype("f4"), np.eye(4)).to_filename(tmp_path / "labels/f.nii")
            summary = normcli.stats(tmp_path / "f.nii.gz", mask_dir=tmp_path / "labels", labels=1)
            assert summary.mean == [pytest.approx(voxels[labels == 1].mean())]

    def test_labels_of_another_grid_fail_in_words(self, tmp_path: Path) -> None:
        nibabel = needs.module("nibabel")
        labels = self.cases(tmp_path, 1)[0][1]
        source, path = tmp_path / "images/case_0_0000.nii.gz", tmp_path / "labels/case_0.nii.gz"
        affine = nibabel.load(source).affine
        near, far = affine.copy(), affine.copy()
        near[0, 3] += 1e-3
        far[0, 3] += 0.5
        wrong = {
            "16 x 12 x 7 and 16 x 12 x 8": (labels[:, :, 1:], affine),
            "12 x 16 x 8 and 16 x 12 x 8": (labels.transpose(1, 0, 2), affine),
            "0.5 voxels apart": (labels, far),
            "not integers": (labels.astype("f4") / 2, affine),
        }
        for message, (values, of) in wrong.items():
            nibabel.Nifti1Image(values, of).to_filename(path)
            failures: list[Any] = []
            with pytest.raises(NoInputError):
                normcli.stats(source, mask_dir=tmp_path / "labels", on_failure=failures.append)
            assert any(message in failure.message for failure in failures), failures
        nibabel.Nifti1Image(labels, near).to_filename(path)  # a file that is written again is read again
        assert normcli.stats(source, mask_dir=tmp_path / "labels").pixels == np.count_nonzero(labels)
        path.write_bytes(path.read_bytes()[:-60])
        assert normcli.stats(source, mask_dir=tmp_path / "labels", on_failure=failures.append).failures == {"mask": 3}
        assert re.fullmatch(r"label volume .*case_0.nii.gz: the compressed data ends early", failures[-1].message)
        path.unlink()
        with pytest.raises(NoInputError, match=r"no label volume .*case_0_0000.nii.gz"):
            normcli.stats(source, mask_dir=tmp_path / "labels")

    def test_labels_may_be_zeros_for_the_most_part(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        nibabel = needs.module("nibabel")
        voxels = np.random.default_rng(0).integers(0, 999, (64, 64, 32)).astype("i2")
        labels = np.zeros(voxels.shape, "u1")
        labels[30:34, 30:34, 30:] = 1
        (tmp_path / "labels").mkdir()
        nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
        nibabel.Nifti1Image(labels, np.eye(4)).to_filename(tmp_path / "labels/a.nii.gz")
        monkeypatch.setattr("normcli.storage.reader._BOMB_WINDOW", 1 << 14)
        summary = normcli.stats(tmp_path / "a.nii.gz", mask_dir=tmp_path / "labels")
        assert (summary.pixels, summary.failures) == (32, {})

    def test_apply_maps_every_plane(self, tmp_path: Path) -> None:
        voxels, labels = self.cases(tmp_path, 1)[0]
        source = tmp_path / "images/case_0_0000.nii.gz"
        normcli.apply(source, tmp_path / "out", mask_dir=tmp_path / "labels", fill=0, dtype="float64")
        planes = [np.load(tmp_path / f"out/{z}.npy")[0] for z in range(8)]
        seen = voxels[labels > 0]
        right = np.where(labels > 0, (voxels - seen.mean()) / seen.std(), 0)
        assert np.allclose(np.stack(planes).transpose(2, 1, 0), right, rtol=1e-12, atol=1e-12)


class TestCases:
    """`weight` case: the limit of nnU-Net's fingerprint, which draws the same number of voxels from every case."""

    def folder(self, path: Path, dtype: str) -> list[Array]:
        """Write two planes or more of each of three cases of different sizes; return their values."""
        generator, cases = np.random.default_rng(5), []
        for i, planes in enumerate((2, 5, 9)):
            values = generator.gamma(2 + i, 20 + 400 * (dtype != "u1"), (planes, 11, 13))
            values = np.minimum(values, 255) if dtype == "u1" else values - 300 * (dtype != "u2")
            (path / str(i)).mkdir()
            for j, plane in enumerate(values.astype(dtype)):
                np.save(path / str(i) / f"{j}.npy", plane)
            cases.append(values.astype(dtype).astype(float).ravel())
        return cases

    def expected(self, cases: list[Array], percents: Any) -> tuple[float, float, list[float]]:
        """Return mean, std and percentiles with weights: those of a case are one together."""
        weights, values = np.concatenate([np.full(len(c), 1 / len(c)) for c in cases]), np.concatenate(cases)
        mean = np.average(values, weights=weights)
        quantiles = np.quantile(values, np.array(percents) / 100, weights=weights, method="inverted_cdf")
        return mean, np.sqrt(np.average((values - mean) ** 2, weights=weights)), quantiles.tolist()

    @pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
    def test_numbers_equal_those_with_weights(self, dtype: str, tmp_path: Path) -> None:
        cases, of = self.folder(tmp_path, dtype), (0.5, 1, 50, 99, 99.5)
        options: dict[str, Any] = {"weight": "case", "percentiles": of, "include": "*.npy"}
        summary = normcli.stats(tmp_path, exact_percentiles=True, **options)
        scale = {"u1": 255, "u2": 65535}.get(dtype, 1)
        mean, std, percentiles = self.expected([c / scale for c in cases], of)
        assert (summary.convention, summary.settings["group_by"]) == ("equal_samples_per_case", "label")
        assert summary.mean + summary.std == pytest.approx([mean, std], rel=1e-12)
        rows = [summary.percentiles[f"{percent:g}"] for percent in of]
        assert rows == [[pytest.approx(value, rel=1e-12)] for value in percentiles]
        assert summary.percentile_details == {"method": "linear", "requested": [*map("{:g}".format, of)], "exact": True}
        near = normcli.stats(tmp_path, **options)
        for percent, value in zip(of, percentiles, strict=True):
            (found,) = near.percentiles[name := f"{percent:g}"]
            (bound,) = (near.percentile_details or {}).get("error", {}).get(name, [1e-12])
            assert abs(found - value) <= bound

    def test_parts_merge(self, tmp_path: Path) -> None:
        self.folder(tmp_path, "i2")
        once = normcli.stats(tmp_path, weight="case", include="*.npy")
        parts = [normcli.stats(tmp_path, weight="case", include="*.npy", shard=f"{i}/2") for i in (2, 1)]
        assert normcli.merge(*parts).to_json() == once.to_json()

    def test_scaled_volumes_and_nnunet(self, tmp_path: Path) -> None:
        nibabel = needs.module("nibabel")
        generator, cases, paths = np.random.default_rng(9), [], []
        for i in range(3):
            voxels = generator.gamma(2, 100 * (i + 1), (9, 8, 3 + 2 * i)).astype("i2")
            image = nibabel.Nifti1Image(voxels, np.eye(4))
            image.header.set_slope_inter(-2.0, 24.0)
            image.to_filename(tmp_path / f"{i}.nii")
            cases.append(voxels.ravel() * -2.0 + 24)
            paths.append(tmp_path / f"{i}.nii")
        summary = normcli.stats(paths, weight="case", percentiles="0.5,50,99.5", exact_percentiles=True)
        mean, std, percentiles = self.expected(cases, (0.5, 50, 99.5))
        assert summary.mean + summary.std == pytest.approx([mean, std], rel=1e-12)
        # of equal weights on both sides, NumPy takes the other end of a step: neighbors in the values
        for name, value, percent in zip(("0.5", "50", "99.5"), percentiles, (0.5, 50, 99.5), strict=True):
            below = np.mean([np.mean(c < summary.percentiles[name][0]) for c in cases])
            until = np.mean([np.mean(c <= summary.percentiles[name][0]) for c in cases])
            assert below <= percent / 100 + 1e-9 and until >= percent / 100 - 1e-9, value
        properties = json.loads(export(summary, "nnunet"))["foreground_intensity_properties_per_channel"]["0"]
        exported = [properties[key] for key in ("mean", "std", "percentile_00_5", "median", "percentile_99_5")]
        rows = [summary.percentiles[name][0] for name in ("0.5", "50", "99.5")]
        assert exported == pytest.approx([mean, std, *rows], rel=1e-12)  # as SimpleITK reads them
        assert (properties["min"], properties["max"]) == (min(c.min() for c in cases), max(c.max() for c in cases))
        clipped = normcli.apply(paths[0], tmp_path / "out", scheme="contrast:0.5,99.5", stats=summary, dtype="float64")
        assert clipped.constants is not None and clipped.constants["convention"] == "equal_samples_per_case"
        limits = [summary.percentiles[name][0] for name in ("0.5", "99.5")]
        right = (np.clip(cases[0], limits[0], limits[1]) - mean) / std
        planes = [np.load(tmp_path / f"out/{z}.npy")[0] for z in range(3)]
        assert np.allclose(np.stack(planes).transpose(2, 1, 0).ravel(), right, rtol=1e-9, atol=1e-9)
        pooled = normcli.apply(paths[0], tmp_path / "pooled", scheme="contrast:0.5,99.5", stats=summary,
                               convention="pooled_population", dtype="float64")  # fmt: skip
        plain = normcli.stats(paths, percentiles="0.5,99.5", exact_percentiles=True)
        same = normcli.apply(paths[0], tmp_path / "plain", scheme="contrast:0.5,99.5", stats=plain, dtype="float64")
        assert pooled.constants is not None and same.constants is not None
        assert pooled.constants["mean"] == same.constants["mean"] != clipped.constants["mean"]
        other, one = (np.load(tmp_path / name / "1.npy") for name in ("pooled", "plain"))
        assert np.allclose(other, one, rtol=0.02)  # of int16, to 1/128

    def test_apply_takes_the_convention_of_the_file(self, tmp_path: Path) -> None:
        for name, level in (("a", 10), ("b", 50)):
            np.save(tmp_path / f"{name}.npy", np.arange(level * 4, dtype="u1").reshape(8, level // 2))
        paths = [tmp_path / "a.npy", tmp_path / "b.npy"]
        summary = normcli.stats(paths, weight="image")
        mapped = normcli.apply(paths, tmp_path / "out", stats=summary)
        assert mapped.constants is not None and mapped.constants["convention"] == "equal_image_weights"
        assert mapped.constants["mean"] == summary.mean

    def test_methods_without_a_definition_are_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="not defined for cases"):
            normcli.stats(tmp_path, weight="case", percentiles="50", percentile_method="hazen")
        with pytest.raises(UsageError, match="`weight` case cannot be combined with `sample`"):
            normcli.stats(tmp_path, weight="case", sample=3)
