"""The sample images: scenes with the statistics of photographs, and every odd kind in a folder of its own."""

import importlib
import json
import re
import sys
from collections import Counter
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import normcli
from tests.support import needs
from tests.support.command import ROOT

SAMPLES = ROOT / "sample_data"
SCENES = sorted((SAMPLES / "scenes").rglob("*.*"))


def test_the_scenes_are_rgb_jpegs_in_equal_classes_of_train_and_val() -> None:
    kinds, sizes = set(), set()
    for path in SCENES:
        with Image.open(path) as image:
            kinds.add((image.format, image.mode))
            sizes.add(image.size)
    assert kinds == {("JPEG", "RGB")} and len(sizes) >= 4
    counts = Counter((path.parts[-3], path.parts[-2]) for path in SCENES)
    classes = {label for _, label in counts}
    assert len(classes) == 4 and set(counts) == {(split, label) for split in ("train", "val") for label in classes}
    assert {split: {counts[split, label] for label in classes} for split in ("train", "val")} == {
        "train": {9},
        "val": {3},
    }
    assert sum(path.stat().st_size for path in SCENES) < 500_000


def test_the_samples_are_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 1_500_000


class TestScenesAreLikePhotographs:
    """Ranges around the statistics of 300 ImageNet photographs."""

    @pytest.fixture
    def summary(self) -> normcli.Summary:
        return normcli.load(SAMPLES / "expected.json")

    def test_mean_and_std(self, summary: normcli.Summary) -> None:
        red, green, blue = summary.mean
        assert 0.55 > red > green > blue > 0.35
        assert all(0.22 < std < 0.32 for std in summary.std)
        per_image = summary.conventions["mean_of_image_stds"]["std"] or []
        assert len(per_image) == 3
        assert all(0.15 < inner < 0.85 * std for inner, std in zip(per_image, summary.std, strict=True))

    def test_classes_differ_and_splits_agree(self, summary: normcli.Summary) -> None:
        for split in ("train", "val"):
            blue = {name: group.mean[2] for name, group in summary.groups.items() if name.startswith(split)}
            assert len(blue) == 4 and min(blue, key=blue.__getitem__) == f"{split}/fruit"
            assert max(blue.values()) - min(blue.values()) > 0.1
        train, val = (normcli.stats(SAMPLES / "scenes" / split) for split in ("train", "val"))
        shift = [abs(a - b) / std for a, b, std in zip(train.mean, val.mean, train.std, strict=True)]
        assert 0 < max(shift) < 0.2

    def test_neighbors_and_channels_correlate_and_power_falls_with_frequency(self) -> None:
        slopes, neighbors, channels = [], [], []
        for path in SCENES:
            pixels = np.asarray(Image.open(path)).astype(float)
            gray = pixels.mean(axis=2)
            neighbors.append(np.corrcoef(gray[:, 1:].ravel(), gray[:, :-1].ravel())[0, 1])
            channels.append(np.corrcoef(pixels[..., 0].ravel(), pixels[..., 1].ravel())[0, 1])
            side = min(gray.shape)
            square = gray[:side, :side] - gray[:side, :side].mean()
            power = np.abs(np.fft.fftshift(np.fft.fft2(square * np.outer(np.hanning(side), np.hanning(side))))) ** 2
            v, u = np.indices(power.shape) - side // 2
            radius = np.hypot(u, v).astype(int).ravel()
            radial = np.bincount(radius, power.ravel()) / np.bincount(radius)
            frequency = np.arange(2, side // 3)
            slopes.append(np.polyfit(np.log(frequency), np.log(radial[frequency]), 1)[0])
        assert np.median(neighbors) > 0.93 and np.median(channels) > 0.8
        assert -3.2 < np.median(slopes) < -1.6  # about -2 in photographs


def test_the_odd_kinds_are_all_there() -> None:
    found = json.loads((SAMPLES / "expected-odd.json").read_text())["composition"]
    assert {"1", "8", "16", "32"} <= found["depth"].keys()
    assert {"1", "CMYK", "F", "I;16", "L", "LA", "P", "RGB", "RGBA"} <= found["mode"].keys()
    assert {"BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"} <= found["format"].keys()
    assert all(found[kind] > 0 for kind in ("alpha", "transparent", "rotated", "multi_frame", "cmyk", "gray"))


def test_the_bands_are_read_exactly() -> None:
    tifffile = needs.module("tifffile")
    summary = normcli.stats(SAMPLES / "bands")
    pixels = np.concatenate([tifffile.imread(path).reshape(-1, 6) for path in sorted((SAMPLES / "bands").iterdir())])
    assert summary.images == 2 and len(summary.channels) == 6
    np.testing.assert_allclose(summary.mean, pixels.mean(axis=0) / 65535, rtol=1e-12)


def test_the_readme_lists_every_odd_file_and_the_numbers_of_the_scenes() -> None:
    text = (SAMPLES / "README.md").read_text()
    names = {str(path.relative_to(SAMPLES / "odd")) for path in (SAMPLES / "odd").rglob("*.*")}
    listed = set(re.findall(r"^\| `([a-z]+/[\w.]+)`", text, re.MULTILINE)) | {f"digits/{n}.png" for n in "123890"}
    assert listed == names
    summary = normcli.load(SAMPLES / "expected.json")
    rows = summary.mean, summary.std, summary.conventions["mean_of_image_stds"]["std"] or []
    assert "| scenes | " + " | ".join(" ".join(f"{value:.3f}" for value in row) for row in rows) + " |" in text


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    sys.path.insert(0, str(SAMPLES))
    try:
        return importlib.import_module("drawing.scenes")
    finally:
        sys.path.remove(str(SAMPLES))


@pytest.mark.parametrize("name", ["train/lake/03.jpg", "val/street/01.jpg"])
def test_drawn_again_a_scene_is_the_same_but_for_jpeg(name: str, drawing: ModuleType) -> None:
    drawn = np.asarray(drawing.SCENES[name]()).astype(int)
    stored = np.asarray(Image.open(SAMPLES / "scenes" / name)).astype(int)
    assert drawn.shape == stored.shape and np.abs(drawn - stored).mean() < 6
    assert np.abs(drawn[:, ::-1] - stored).mean() > 12  # another image would be far off


def test_the_table_of_scenes_is_what_is_stored(drawing: ModuleType) -> None:
    assert sorted(drawing.SCENES) == [str(path.relative_to(SAMPLES / "scenes")) for path in SCENES]
