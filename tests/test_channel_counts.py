"""Images of several numbers of channels: those that count together, and those that end a run as soon as they show."""

from pathlib import Path
from typing import Any

import pytest

import normcli
from normcli.errors import UsageError
from tests.support import needs
from tests.support.images import encoded, photograph


def of_channels(folder: Path, *counts: int) -> list[Path]:
    """Images of so many channels, 5 as a TIFF of bands, in folders by their number."""
    paths = []
    for number, count in enumerate(counts):
        folder.mkdir(exist_ok=True)
        if count == 5:
            tifffile = needs.module("tifffile")
            paths.append(folder / f"{number:03d}.tif")
            tifffile.imwrite(paths[-1], photograph(channels=5, seed=number), planarconfig="contig")
        else:
            paths.append(folder / f"{number:03d}.png")
            paths[-1].write_bytes(encoded(photograph(channels=count, seed=number)))
    return paths


KINDS = [
    ((3, 3, 1), "native", "`color` rgb repeats gray"),
    ((3, 3, 5), "auto", "counts gray and RGB images and fails the others"),
    ((1, 1, 5), "native", "counts gray and RGB images and fails the others"),
]


@pytest.mark.parametrize(("counts", "color", "advice"), KINDS)
@pytest.mark.parametrize("engine", ["serial", "threads", "processes"])
def test_the_first_image_of_another_kind_ends_a_run_that_cannot_end_well(
    counts: tuple[int, ...], color: Any, advice: str, engine: str, tmp_path: Path
) -> None:
    paths = of_channels(tmp_path / "kinds", *counts, *[counts[0]] * 200)
    seen = []
    with pytest.raises(UsageError, match="no common mean and std") as raised:
        normcli.stats(
            tmp_path / "kinds", color=color, engine=engine, workers=2, on_progress=lambda done: seen.append(done.inputs)
        )
    text = str(raised.value)
    assert str(paths[0]) in text and str(paths[2]) in text and advice in text
    assert sum(seen) < 150, "it does not read to the end"


@pytest.mark.parametrize("color", ["auto", "rgb", "gray"])
def test_gray_beside_rgb_still_works(color: Any, tmp_path: Path) -> None:
    of_channels(tmp_path / "kinds", 3, 1, 3)
    assert normcli.stats(tmp_path / "kinds", color=color).images == 3


def test_bands_that_a_colour_leaves_out_are_failures(tmp_path: Path) -> None:
    of_channels(tmp_path / "kinds", 3, 5, 3)
    found = normcli.stats(tmp_path / "kinds", color="rgb")
    assert (found.images, found.failures) == (2, {"unsupported": 1})


NAMES = {1: "LA", 2: "LA", 3: "RGBA", 4: "RGBA", 5: "5 bands", 6: "6 bands"}


@pytest.mark.parametrize("count", NAMES)
def test_an_opaque_alpha_is_added_to_gray_and_rgb_alone(count: int) -> None:
    pixels = photograph(8, 9, channels=count)
    counter = normcli.Counter(alpha="keep", layout="hwc")
    counter.add(pixels)
    found = counter.summary()
    assert found.channel_order == NAMES[count]
    assert found.mean[:count] == [pixels[:, :, c].sum() / (72 * 255) for c in range(count)]
    assert found.mean[count:] == [1.0] * (count in (1, 3))
