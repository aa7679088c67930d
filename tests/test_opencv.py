"""Every file that OpenCV writes and opens again is read with OpenCV's values, or rejected by the name of its format."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli.errors import InputError
from normcli.images import decode
from normcli.options.shared import DecodeOptions
from tests.support import needs

cv2 = needs.module("cv2")
Array = np.ndarray[Any, Any]

SUFFIXES = ["bmp", "dib", "jpg", "jp2", "png", "apng", "webp", "avif", "pbm", "pgm", "ppm", "pam", "pnm", "pfm", "tiff"]
SUFFIXES += ["sr", "ras", "hdr", "pic", "exr", "gif", "tga"]
LOSSY = {"jpg", "webp", "avif", "gif"}
NOT_READ = {"sr": "Sun raster", "ras": "Sun raster", "hdr": "Radiance HDR", "pic": "Radiance HDR", "exr": "OpenEXR"}


def pictures() -> dict[str, Array]:
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8)
    color = np.stack([smooth, 2 * smooth, 255 - smooth], axis=2)
    return {
        "color": color,
        "gray": smooth,
        "color and alpha": np.dstack([color, np.full_like(smooth, 255)]),
        "16-bit color": color.astype(np.uint16) * 257,
        "16-bit gray": smooth.astype(np.uint16) * 257,
        "float color": color.astype(np.float32) / 255,
        "float gray": smooth.astype(np.float32) / 255,
    }


def written() -> list[tuple[str, str, bytes]]:
    """The files: suffix, kind of picture, bytes."""
    out = []
    for suffix in SUFFIXES:
        for kind, array in pictures().items():
            try:
                done, data = cv2.imencode(f".{suffix}", array)
                opened = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if done else None
            except cv2.error:
                continue
            if opened is not None:
                out.append((suffix, kind, data.tobytes()))
    return out


def opened(data: bytes) -> Array:
    """Return OpenCV's pixels as 0-1, RGB first, without alpha."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    array = array[:, :, None] if array.ndim == 2 else array[:, :, 2::-1]
    white = {np.uint8: 255, np.uint16: 65535}.get(array.dtype.type, 1)
    return np.asarray(array.astype(np.float64) / white)


@pytest.fixture(scope="module")
def files() -> list[tuple[str, str, bytes]]:
    return written()


def test_enough_of_them_are_tried(files: list[tuple[str, str, bytes]]) -> None:
    assert len(files) > 60 and {"pgm", "pbm", "ras", "hdr", "jp2", "webp", "tiff"} <= {suffix for suffix, _, _ in files}


def test_right_or_rejected_by_name(files: list[tuple[str, str, bytes]]) -> None:
    for suffix, kind, data in files:
        try:
            decoded = decode(data, DecodeOptions())
        except InputError as error:
            assert re.search(NOT_READ.get(suffix, "^$"), error.message), (suffix, kind, error.message)
            continue
        pixels = decoded.pixels if decoded.pixels.ndim == 3 else decoded.pixels[:, :, None]
        white = {np.uint8: 255, np.uint16: 65535}.get(pixels.dtype.type, 1)
        mean, wanted = pixels.reshape(-1, pixels.shape[2]).mean(0) / white, opened(data)
        if (suffix, decoded.mode) == ("pam", "bands3"):  # it writes B, G, R and says nothing of it
            mean = mean[::-1]
        if suffix == "tiff" and len(mean) == 4:  # whose fourth band it does not call alpha
            mean = mean[:3]
        wanted = wanted[:, :, :1] if pixels.shape[2] == 1 else wanted  # gray that OpenCV opens as color
        assert suffix not in NOT_READ, (suffix, kind)
        assert np.allclose(mean, wanted.reshape(-1, wanted.shape[2]).mean(0), atol=0.02 if suffix in LOSSY else 1e-6), (
            suffix,
            kind,
            mean,
        )


def test_bands_without_a_tuple_type_are_not_called_rgb(tmp_path: Path) -> None:
    """OpenCV writes the PAM of a color image as B, G, R, and no type."""
    color = pictures()["color"]
    (tmp_path / "a.pam").write_bytes(cv2.imencode(".pam", color)[1].tobytes())
    found = normcli.stats(tmp_path / "a.pam")
    assert found.channels == ["0", "1", "2"]
    assert np.allclose(found.mean, color.reshape(-1, 3).mean(0) / 255)
    assert normcli.stats(tmp_path / "a.pam", color="rgb").channels == ["R", "G", "B"]
