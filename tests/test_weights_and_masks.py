"""Weights and masks: what counts the same, what does not count at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import UsageError
from tests.support.images import encoded, photograph


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
    for options in (
        {"weight": "group"},
        {"weight": "imgae"},
        {"weight": "image", "sample": "3"},
        {"mask_dir": tmp_path / "absent"},
        {"ignore_value": 0, "resize": 8},
        {"mask_dir": tmp_path, "center_crop": 8},
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
    assert (one + other).state == found.state, "pixels left out are counted, and no image has that many notes"
    (tmp_path / "masks" / "a" / "0.png").unlink()
    (tmp_path / "masks" / "a" / "1.png").write_bytes(encoded(np.zeros((3, 3), np.uint8)))
    assert normcli.stats(folder, mask_dir=tmp_path / "masks").failures == {"mask": 2}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_ignored_value_in_every_depth(tmp_path: Path, dtype: Any) -> None:
    images = np.random.default_rng(1).integers(1, 9, (4, 6, 7, 3)).astype(dtype)
    images[:, :2] = 200
    np.save(tmp_path / "a.npy", images)
    found = normcli.stats(tmp_path / "a.npy", ignore_value=200, max_value=255 if dtype != np.float32 else None)
    right = images[:, 2:].reshape(-1, 3).astype(float) / (1 if dtype == np.float32 else 255)
    assert found.pixels == len(right)
    assert np.allclose([found.mean, found.std], [right.mean(0), right.std(0)], atol=1e-9)
    images[0] = 200
    np.save(tmp_path / "a.npy", images)
    assert normcli.stats(tmp_path / "a.npy", ignore_value=200).failures == {"nodata": 1}
