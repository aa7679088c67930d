"""Images from four megapixels on are decoded with fewer copies: each kind equals what Pillow's own arrays have."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normcli.images import decode
from normcli.options.shared import DecodeOptions
from tests.support import needs

Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 2003, 2101  # neither a multiple of the rows that are converted at a time


def picture(channels: int) -> Array:
    down, across = np.arange(HEIGHT, dtype=np.uint32)[:, None], np.arange(WIDTH, dtype=np.uint32)[None, :]
    return np.stack([(down * (3 * c + 1) + across * (c + 2)) >> 3 for c in range(channels)], axis=2).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colors() -> Image.Image:
    return Image.fromarray(picture(3))


def in_mode(mode: str) -> Image.Image:
    return Image.fromarray(picture(4)).convert(mode) if mode == "LA" else colors().convert(mode)


def by_tifffile(array: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    needs.module("tifffile").imwrite(buffer, array, **options)
    return buffer.getvalue()


def opened(data: bytes, mode: str) -> Array:
    array = np.asarray(Image.open(io.BytesIO(data)).convert(mode))
    return array if array.ndim == 3 else array[:, :, None]


# kind -> its file, and the mode in which Pillow's own conversion has the values
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "RGB PNG": (lambda: saved(colors(), "PNG", compress_level=1), "RGB"),
    "RGBA PNG": (lambda: saved(Image.fromarray(picture(4)), "PNG", compress_level=1), "RGBA"),
    "LA PNG": (lambda: saved(in_mode("LA"), "PNG", compress_level=1), "LA"),
    "1-bit PNG": (lambda: saved(in_mode("1"), "PNG", compress_level=1), "L"),
    "palette PNG": (lambda: saved(colors().quantize(64), "PNG", compress_level=1), "RGB"),
    "palette PNG with transparency": (lambda: saved(colors().quantize(64), "PNG", transparency=3), "RGBA"),
    "RGB PNG with a transparent color": (lambda: saved(colors(), "PNG", transparency=(8, 16, 24)), "RGBA"),
    "GIF": (lambda: saved(colors().quantize(64), "GIF"), "RGB"),
    "BMP": (lambda: saved(colors(), "BMP"), "RGB"),
    "TGA": (lambda: saved(Image.fromarray(picture(4)), "TGA"), "RGBA"),
    "CMYK JPEG": (lambda: saved(in_mode("CMYK"), "JPEG"), "RGB"),
    "WebP": (lambda: saved(colors(), "WEBP", method=0), "RGB"),
    "lossless WebP with alpha": (
        lambda: saved(Image.fromarray(picture(4)), "WEBP", lossless=True, quality=0, exact=True),
        "RGBA",
    ),
    "TIFF": (lambda: saved(colors(), "TIFF"), "RGB"),
    "LZW TIFF": (lambda: saved(colors(), "TIFF", compression="tiff_lzw"), "RGB"),
    "RGBA TIFF": (lambda: saved(Image.fromarray(picture(4)), "TIFF"), "RGBA"),
    "TIFF that is turned": (lambda: saved(colors(), "TIFF", tiffinfo={274: 6}), "RGB"),
}


@pytest.mark.parametrize("kind", FILES)
def test_pixels_equal_those_of_pillow(kind: str) -> None:
    make, mode = FILES[kind]
    data = make()
    expected = opened(data, mode)
    alpha = "keep" if mode in ("LA", "RGBA") else "drop"
    found = decode(data, DecodeOptions(alpha=alpha, color="native"))
    np.testing.assert_array_equal(found.pixels, expected)
    assert found.pixels.flags.c_contiguous and found.pixels.flags.aligned
    if alpha == "keep":
        dropped = decode(data, DecodeOptions(alpha="drop", color="native"))
        np.testing.assert_array_equal(dropped.pixels, expected[:, :, :-1])
        weighed = decode(data, DecodeOptions(alpha="weight", color="native"))
        np.testing.assert_array_equal(weighed.weights, expected[:, :, -1])
        np.testing.assert_array_equal(weighed.pixels, expected[:, :, :-1])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_deep_tiffs_equal_their_array(kind: str, planes: str, byteorder: Any) -> None:
    array = picture(3).astype(kind) * 3
    stored = np.moveaxis(array, 2, 0) if planes == "separate" else array
    data = by_tifffile(stored, photometric="rgb", planarconfig=planes, byteorder=byteorder)
    before = bytes(data)
    np.testing.assert_array_equal(decode(data, DecodeOptions()).pixels, array)
    if kind == "u2":
        red, green, blue = np.moveaxis(array.astype(np.int64), 2, 0)
        luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        np.testing.assert_array_equal(decode(data, DecodeOptions(color="gray")).pixels[:, :, 0], luma)
    assert data == before  # a view of the file is not written into


def test_gray_tiffs_equal_their_array() -> None:
    deep = picture(1)[:, :, 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(saved(Image.fromarray(deep), "TIFF"), DecodeOptions()).pixels[:, :, 0], deep)
    floats = deep.astype(np.float32) / 7
    np.testing.assert_array_equal(
        decode(saved(Image.fromarray(floats), "TIFF"), DecodeOptions()).pixels[:, :, 0], floats
    )
    inverted = by_tifffile(deep, photometric="miniswhite")
    np.testing.assert_array_equal(decode(inverted, DecodeOptions()).pixels[:, :, 0], 65535 - deep)


def test_an_array_of_the_caller_is_not_written_into() -> None:
    array = picture(3)
    before = array.copy()
    decode(array, DecodeOptions(color="gray"))
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("side", [3001, 224])
def test_resized_by_parts_as_pillow_does(side: int) -> None:
    pixels = np.tile(picture(3), (2, 1, 1))
    height, width = pixels.shape[:2]
    size = (side, int(side * height / width))
    expected = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(decode(pixels, DecodeOptions(resize=side)).pixels, expected)
    if side == 224:
        deep = pixels.astype(np.uint16) * 257
        found = decode(deep, DecodeOptions(resize=side)).pixels
        bands = [Image.fromarray(deep[:, :, c].astype(np.float32)) for c in range(3)]
        exact = [np.asarray(band.resize(size, Image.Resampling.BILINEAR)) for band in bands]
        np.testing.assert_array_equal(found, np.clip(np.rint(np.stack(exact, axis=2)), 0, 65535))
