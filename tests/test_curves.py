"""Schemes nyul and reinhard against formulas in NumPy, and against TorchIO and torchstain."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.errors import NormcliError, UsageError
from normcli.kernels.lab import lab_of, rgb_of
from tests.support import needs
from tests.support.command import run_here

Array = np.ndarray[Any, Any]
PERCENTS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
TRAIN: Any = {"group_by": "label", "percentiles": PERCENTS, "exact_percentiles": True}


def cases(folder: Path, count: int = 3, dtype: str = "i2", **scale: float) -> dict[str, Array]:
    """Write NIfTI volumes of different brightness with a background of zeros; return their arrays (X,Y,Z)."""
    nibabel = needs.module("nibabel")
    generator, volumes = np.random.default_rng(18), {}
    for i in range(count):
        voxels = generator.gamma(2 + 0.2 * i, 60 + 5 * i, (20, 18, 7)) * (1 + 0.3 * generator.random())
        voxels[:3] = 0
        path = folder / f"case_{i}.nii.gz"
        image = nibabel.Nifti1Image(voxels.astype(dtype), np.diag([1.0, 1, 2, 1]))
        if scale:
            image.header.set_slope_inter(scale["slope"], scale["inter"])
        image.to_filename(path)
        volumes[str(path)] = voxels.astype(dtype)
    return volumes


def landmarks(volumes: list[Array], of: Any = PERCENTS) -> Array:
    """Nyul and Udupa (2000), equations 1 to 3, with the mean over cases: percentiles scaled to 0-100, averaged."""
    rows = np.array([np.percentile(volume, of) for volume in volumes])
    scaled: Array = (100 * (rows - rows[:, :1]) / (rows[:, -1:] - rows[:, :1])).mean(axis=0)
    return scaled


def standardized(volume: Array, standard: Array, seen: Array, of: Any = PERCENTS) -> Array:
    """Return a volume through the segments between its percentiles, the outermost of which go on."""
    knots = np.percentile(seen, of)
    number = sum((volume >= knot).astype(int) for knot in knots[1:-1])  # of the segment, from 0
    widths = np.diff(knots)
    slopes = np.divide(np.diff(standard), widths, out=np.zeros(len(widths)), where=widths > 0)
    result: Array = standard[number] + slopes[number] * (volume - knots[number])
    return result


def mapped(folder: Path, path: str, planes: int = 7) -> Array:
    rows = [np.load(folder / Path(path).name / f"{z}.npy")[0] for z in range(planes)]
    return np.stack(rows).transpose(2, 1, 0)


class TestNyul:
    @pytest.mark.parametrize("nodata", ["tag", "0"])
    def test_volumes_equal_the_formula(self, nodata: str, tmp_path: Path) -> None:
        volumes = cases(tmp_path)
        seen = {path: v if nodata == "tag" else v[v != 0] for path, v in volumes.items()}
        normcli.stats([*volumes], nodata=nodata, output=tmp_path / "s.json", **TRAIN)
        result = normcli.apply(
            [*volumes], tmp_path / "out", scheme="nyul", stats=tmp_path / "s.json", nodata=nodata, dtype="float64"
        )
        standard = landmarks([*seen.values()])
        assert result.constants is not None
        assert result.constants["landmarks"]["standard"] == [pytest.approx(standard.tolist(), rel=1e-12)]
        for path, volume in volumes.items():
            right = standardized(volume.astype(float), standard, seen[path])
            assert np.allclose(mapped(tmp_path / "out", path), right, rtol=1e-12, atol=1e-12)

    def test_other_cases_are_mapped_by_the_landmarks_of_the_statistics(self, tmp_path: Path) -> None:
        first, second = tmp_path / "train", tmp_path / "test"
        first.mkdir()
        second.mkdir()
        volumes = cases(first, 4)
        new = [*cases(second, 4, slope=-2.0, inter=500.0).items()][3]
        train = [*volumes][:3]
        summary = normcli.stats(train, **TRAIN)
        result = normcli.apply(new[0], tmp_path / "out", scheme="nyul", stats=summary)
        assert result.constants is not None and list(result.constants["landmarks"]["cases"]) == ["case_3"]
        values = new[1] * -2.0 + 500  # nibabel stores what it is given, and the header scales it
        right = standardized(values, landmarks([volumes[path] for path in train]), values)
        planes = [np.load(tmp_path / f"out/{z}.npy")[0] for z in range(7)]
        assert np.allclose(np.stack(planes).transpose(2, 1, 0), right, rtol=1e-5, atol=1e-5)

    def test_images_are_cases_of_their_own(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        pixels = [generator.integers(0, top, (40, 30, 3)).astype(np.uint8) for top in (90, 200, 256)]
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(tmp_path / f"{i}.png")
        of = (2, *PERCENTS[1:-1], 97)
        scheme, paths = "nyul:over=image,lo=2,hi=97", sorted(tmp_path.glob("*.png"))
        with pytest.raises(UsageError, match="a group for each image"):
            normcli.apply(paths, tmp_path / "out", scheme=scheme)
        normcli.apply(paths, tmp_path / "out", scheme=scheme, stats=normcli.stats(paths, group_by=".+"))
        for i, c in itertools.product(range(3), range(3)):
            standard = landmarks([image[:, :, c] for image in pixels], of)
            right = standardized(pixels[i][:, :, c].astype(float), standard, pixels[i][:, :, c], of)
            assert np.allclose(np.load(tmp_path / f"out/{i}.png.npy")[c], right, rtol=1e-5, atol=1e-5)

    def test_engines_and_a_resumed_run_give_the_same(self, tmp_path: Path) -> None:
        volumes = [*cases(tmp_path)]
        for name in ("serial", "processes"):
            normcli.apply(volumes, tmp_path / name, scheme="nyul", engine=name, workers=2)
        (tmp_path / "serial/case_1.nii.gz/3.npy").unlink()
        normcli.apply(volumes, tmp_path / "serial", scheme="nyul", resume=True)
        for path in volumes:
            assert np.array_equal(mapped(tmp_path / "serial", path), mapped(tmp_path / "processes", path))

    def test_volumes_of_one_name_are_no_cases(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in "ab":
            (tmp_path / name).mkdir()
            cases(tmp_path / name, 1)
        paths = [str(tmp_path / f"{name}/case_0.nii.gz") for name in "ab"]
        with pytest.raises(UsageError, match="have the same label"):
            normcli.apply(paths, tmp_path / "out", scheme="nyul")
        with pytest.raises(UsageError, match="have the same label"):
            normcli.apply([], tmp_path / "out", scheme="nyul", files=paths)
        with pytest.raises(UsageError, match="`group_by` REGEX"):
            normcli.stats(paths, weight="case")
        assert len(normcli.stats(paths, weight="case", group_by="/([ab])/").groups) == 2
        assert len(normcli.stats(paths, group_by="label").groups) == 1
        assert "have the same label" in caplog.text

    def test_errors_are_one_line(self, tmp_path: Path) -> None:
        volumes = cases(tmp_path)
        plain = normcli.stats([*volumes])
        with pytest.raises(UsageError, match="a group for each case"):
            normcli.apply([*volumes], tmp_path / "a", scheme="nyul", stats=plain)
        with pytest.raises(UsageError, match="0 <= LO < 10"):
            normcli.apply([*volumes], tmp_path / "a", scheme="nyul:lo=10")
        for text in ("nyul:over=dataset", "reinhard:mask=yes"):
            with pytest.raises(UsageError, match="must be one of"):
                normcli.transform(text, stats=plain)
        trained = normcli.stats([*volumes], **TRAIN)
        damaged = trained.replace(state={**trained.state, "groups": {}})
        damaged.groups["case_1"].percentiles.pop("40")
        with pytest.raises(NormcliError, match="no counts of a group"):
            normcli.apply([*volumes], tmp_path / "a", scheme="nyul", stats=damaged)
        path = next(iter(volumes))
        needs.module("nibabel").Nifti1Image(np.zeros((4, 4, 2), "i2"), np.eye(4)).to_filename(path)
        with pytest.raises(UsageError, match="percentile of case_0 are equal"):
            normcli.apply(path, tmp_path / "a", scheme="nyul")

    def test_percentiles_that_are_not_exact_are_a_note(self, tmp_path: Path) -> None:
        volumes = [*cases(tmp_path)]
        normcli.stats(volumes, group_by="label", output=tmp_path / "s.json")
        done = run_here("apply", *volumes, "-s", "nyul", "--stats", tmp_path / "s.json", "-o", tmp_path / "out")
        assert done.code == 0 and "within 1/128" in done.err and "landmarks [" in done.err
        back = run_here("restore", tmp_path / "out", "-o", tmp_path / "back")
        assert (
            back.code == 2
            and "scheme nyul has no inverse (use the original images, or --scheme contrast, which" in back.err
        )

    @pytest.mark.parametrize("masked", [False, True])
    def test_ten_volumes_equal_torchio(self, masked: bool, tmp_path: Path) -> None:
        torchio = needs.module("torchio")
        paths, nodata = [*cases(tmp_path, 10)], "0" if masked else "tag"
        outside = {"masking_function": lambda image: (image != 0).numpy()} if masked else {}
        trained = torchio.HistogramStandardization.train(paths, progress=False, **outside)
        summary = normcli.stats(paths, nodata=nodata, **TRAIN)
        result = normcli.apply(paths, tmp_path / "out", scheme="nyul", stats=summary, nodata=nodata)
        assert result.constants is not None
        assert np.abs(np.delete(trained, [3, 9]) - result.constants["landmarks"]["standard"][0]).max() < 1e-5
        masking = (lambda image: image != 0) if masked else None
        standardize = torchio.HistogramStandardization({"mr": trained}, masking_method=masking)
        for path in paths:
            right = standardize(torchio.Subject(mr=torchio.ScalarImage(path))).mr.data.numpy()[0]
            assert np.abs(mapped(tmp_path / "out", path) - right).max() < 1e-5


def tile(seed: int) -> Array:
    """Return an RGB image (96,80,3) with colors of a stain, on a white ground."""
    y, x = np.mgrid[:96, :80] / 96
    color = [200 + 40 * np.sin(5 * x + seed), 120 + 60 * np.cos(6 * y), 180 + 30 * np.sin(8 * x * y)]
    noisy = np.stack(color, -1) + np.random.default_rng(seed).normal(0, 12, (96, 80, 3))
    noisy[:, 60:] = 250
    return np.clip(noisy, 0, 255).astype(np.uint8)


def tiles(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(tile(i)).save(path)
    return paths


def lab_by_matrix(rgb: Array) -> Array:
    """Convert sRGB to L*a*b* by CIE 15:2004, with matrices."""
    c = rgb / 255
    linear = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ matrix.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


class TestLab:
    def test_pixels_equal_the_formula_and_come_back(self) -> None:
        rgb = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
        lab = lab_of(rgb, 255)
        assert np.allclose(lab, lab_by_matrix(rgb), rtol=0, atol=1e-12)
        assert np.abs(rgb_of(lab) * 255 - rgb).max() < 1e-3
        assert np.array_equal(lab_of(rgb.astype(np.uint16) * 257, 65535), lab)

    @pytest.mark.parametrize("color", ["lab", "lab-tissue"])
    def test_statistics(self, color: Any, tmp_path: Path) -> None:
        paths = tiles(tmp_path)
        summary = normcli.stats(paths, color=color, output=tmp_path / "s.json")
        lab = np.concatenate([lab_by_matrix(tile(i)).reshape(-1, 3) for i in range(3)])
        lab = lab if color == "lab" else lab[lab[:, 0] < 80]
        assert summary.pixels == len(lab) and summary.channels == ["L", "a", "b"]
        assert summary.mean + summary.std == pytest.approx([*lab.mean(axis=0), *lab.std(axis=0)], rel=1e-6)
        halves = [
            normcli.stats(part, color=color, engine=e) for part, e in ((paths[:1], "serial"), (paths[1:], "threads"))
        ]
        assert normcli.merge(*halves).state == normcli.load(tmp_path / "s.json").state == summary.state

    def test_blocks_of_a_large_file_are_those_of_the_image(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tifffile = needs.module("tifffile")
        image = np.full((600, 700, 3), 255, np.uint8)
        image[:40, :60] = tile(0)[:40, :60]
        for name, compression in (("plain", None), ("tiles", "deflate")):
            tifffile.imwrite(tmp_path / f"{name}.tif", image, photometric="rgb", compression=compression, tile=(64, 64))
        Image.fromarray(image).save(tmp_path / "image.png")
        monkeypatch.setattr("normcli.images.tiff.LARGE", 1 << 10)
        states = [
            normcli.stats(path, color="lab-tissue", engine="serial").state["buckets"]
            for path in sorted(tmp_path.iterdir())
        ]
        assert states[0] == states[1] == states[2]

    def test_exporters_of_rgb_reject_lab(self, tmp_path: Path) -> None:
        summary = normcli.stats(tiles(tmp_path, 1), color="lab")
        assert [line.partition(",")[0] for line in summary.format("csv").splitlines()] == ["channel", "L", "a", "b"]
        with pytest.raises(UsageError, match="torchvision: its images are RGB"):
            summary.format("torchvision")

    def test_what_has_no_lab_is_rejected(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros((2, 4, 4, 3), np.float32))
        with pytest.raises(NormcliError, match="requires levels of 8 or 16 bits"):
            normcli.stats(normcli.source(tmp_path / "a.npy", layout="nhwc"), color="lab")
        for settings in ({"max_value": 255}, {"alpha": "keep"}):  # type: dict[str, Any]
            with pytest.raises(UsageError, match="`color` lab cannot be combined"):
                normcli.stats(tmp_path, color="lab", **settings)


class TestReinhard:
    @pytest.mark.parametrize("mask", ["none", "tissue"])
    def test_images_equal_the_formula(self, mask: str, tmp_path: Path) -> None:
        paths = tiles(tmp_path)
        color: Any = "lab" if mask == "none" else "lab-tissue"
        target = normcli.stats(paths[0], color=color)
        normcli.apply(paths, tmp_path / "out", scheme=f"reinhard:mask={mask}", stats=target)
        for i in range(3):
            lab = lab_by_matrix(tile(i))
            seen = lab.reshape(-1, 3) if mask == "none" else lab[lab[..., 0] < 80]
            moved = (lab - seen.mean(axis=0)) / seen.std(axis=0) * target.std + target.mean
            out = np.load(tmp_path / f"out/{i}.png.npy").transpose(1, 2, 0)
            inside = ((out > 0) & (out < 1)).all(axis=2)
            assert inside.mean() > 0.5
            assert np.allclose(lab_by_matrix(out[inside] * 255.0), moved[inside], atol=1e-3)

    def test_a_dataset_can_be_the_target(self, tmp_path: Path) -> None:
        paths = tiles(tmp_path)
        normcli.apply(paths, tmp_path / "a", scheme="reinhard", to="png")
        normcli.apply(paths, tmp_path / "b", scheme="reinhard", stats=normcli.stats(paths, color="lab"), to="png")
        for i in range(3):
            assert (tmp_path / f"a/{i}.png").read_bytes() == (tmp_path / f"b/{i}.png").read_bytes()

    def test_other_statistics_and_images_are_rejected(self, tmp_path: Path) -> None:
        paths = tiles(tmp_path, 1)
        Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
        lab = normcli.stats(paths, color="lab")
        for stats, scheme in ((normcli.stats(paths), "reinhard"), (lab, "reinhard:mask=tissue")):
            with pytest.raises(UsageError, match="requires statistics in L\\*a\\*b\\*"):
                normcli.transform(scheme, stats=stats)
        with pytest.raises(UsageError, match="made with color lab"):
            normcli.transform("contrast", stats=lab)
        with pytest.raises(UsageError, match="requires `stats`"):
            normcli.transform("reinhard")
        with pytest.raises(NormcliError, match="constant"):
            normcli.transform("reinhard", stats=lab)(np.full((4, 4, 3), 9, np.uint8))
        with pytest.raises(NormcliError, match="no valid pixel has an L"):
            normcli.apply(tmp_path / "white.png", tmp_path / "a", scheme="reinhard:mask=tissue")

    def test_images_equal_torchstain(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reinhard = needs.module("torchstain.numpy.normalizers.reinhard")
        to_rgb, floats = reinhard.lab2rgb, list[Array]()

        def keep(lab: Array) -> Array:
            floats.append(to_rgb(lab))
            return floats[-1]

        monkeypatch.setattr(reinhard, "lab2rgb", keep)
        normalizer = reinhard.NumpyReinhardNormalizer()
        normalizer.fit(tile(0))
        ours = normcli.transform("reinhard", stats=normcli.stats(tiles(tmp_path)[0], color="lab"), output_layout="hwc")
        for i in range(1, 5):
            levels = normalizer.normalize(tile(i))
            out = ours(tile(i))
            assert np.abs(out - floats[-1]).max() < 1e-5
            assert np.abs(np.floor(out * 255) - levels).max() <= 1 and (np.floor(out * 255) == levels).mean() > 0.999
