"""Every exporter x depth in its real library: the printed code, on an image that the library reads from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normcli import stats
from normcli.constants import exporters
from normcli.errors import UsageError
from tests.support import needs
from tests.support.images import photograph
from tests.support.libraries import LIBRARIES, Picture

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about each other

# depth -> how the image is stored, `max_value`, and the stored value that maps to 1.0
DEPTHS: dict[str, tuple[Any, int | None, int]] = {
    "8-bit": (lambda x: x, None, 255),
    "16-bit": (lambda x: x.astype(np.uint16) * 257 ^ 5, None, 65535),
    "12-bit": (lambda x: (x.astype(np.uint16) * 257 ^ 5) >> 4, 4095, 4095),
    "float, raw": (lambda x: x.astype(np.float32) * np.float32(1.5), None, 1),
    "float": (lambda x: x.astype(np.float32) / 255, 1, 1),
    "float, 400": (lambda x: x.astype(np.float32) * np.float32(1.5), 400, 400),
}
# loaders that give 8 bits whatever the file holds
EIGHT_BITS = ("timm", "fastai")
# no library here: data formats, a tool without a Python package, and one for NVIDIA's processors
WITHOUT_LIBRARY = {"csv", "yaml", "toml", "env", "kaldi", "dali"}
# statistics that tests/test_exporters_statistics.py reads by the loaders and schemas of their tools
READ_ELSEWHERE = {
    *("lerobot", "openpi", "nnunet", "omero", "bioimageio", "terratorch", "torchgeo", "stac", "gdal", "markdown")
}


def test_every_exporter_is_run_or_has_no_library() -> None:
    assert set(LIBRARIES) | WITHOUT_LIBRARY | READ_ELSEWHERE == set(exporters.EXPORTERS)


def write(folder: Path, image: Array) -> Picture:
    tifffile = needs.module("tifffile")
    folder.mkdir()
    if image.dtype == np.float32:
        path = folder / "a.tif"
        tifffile.imwrite(path, image.squeeze(), photometric="rgb" if image.shape[2] == 3 else "minisblack")
    else:
        path = folder / "a.png"
        needs.module("cv2").imwrite(str(path), image[:, :, ::-1] if image.shape[2] == 3 else image)
    return Picture(path, image)


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_library_gives_what_apply_gives(name: str, tmp_path: Path) -> None:
    for depth, (store, max_value, divisor) in DEPTHS.items():
        for channels in (3, 1):
            picture = write(tmp_path / f"{depth} {channels}", store(photograph(24, 24, channels, 5)))
            summary = stats(picture.path.parent, max_value=max_value)
            if name in EIGHT_BITS and depth != "8-bit":
                with pytest.raises(UsageError, match="converts images to 8 bits"):
                    exporters.export(summary, name)
                continue
            unit = picture.stored.astype(np.float64) / divisor
            want = (unit - np.array(summary.mean)) / np.array(summary.std)
            # two roundings of float32 numbers up to (x + mean) / std, for each library computes with them
            rounding = 2**-23 * (np.abs(unit).max() + np.abs(summary.mean).max()) / min(summary.std)
            got = LIBRARIES[name](exporters.export(summary, name), picture)
            np.testing.assert_allclose(got, want, rtol=0, atol=rounding, err_msg=f"{depth} {channels}")


def test_the_comparison_sees_another_scale(tmp_path: Path) -> None:
    needs.torchvision()
    picture = write(tmp_path / "x", DEPTHS["16-bit"][0](photograph(24, 24, 3, 5)))
    text = exporters.export(stats(picture.path.parent), "torchvision")
    right = LIBRARIES["torchvision"](text, picture)
    wrong = LIBRARIES["torchvision"](text.replace("65535", "65536"), picture)
    assert np.abs(right - wrong).max() > 1e-5
