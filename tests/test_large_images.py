"""Images from four megapixels on are decoded with fewer copies: each kind equals Pillow's own arrays."""

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
    "TGA of RGB, from the top": (lambda: saved(colors(), "TGA", orientation=1), "RGB"),
    "TGA in runs": (lambda: saved(colors().quantize(16).convert("RGB"), "TGA", compression="tga_rle"), "RGB"),
    "BMP of 32 bits": (lambda: saved(Image.fromarray(picture(4)), "BMP"), "RGB"),
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


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "options",
    [
        {"tile": (32, 48)},
        {"tile": (32, 48), "compression": "lzw", "predictor": 2},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": 2, "bigtiff": True},
        {"rowsperstrip": 64},
    ],
)
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_tiffs_put_together_from_blocks_equal_their_array(
    planes: Any, options: dict[str, Any], byteorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normcli.images import tiff_blocks

    whole = []
    read = tiff_blocks.read_page

    def read_page(page: Any, size: int) -> Array | None:
        array = read(page, size)
        whole.append(array is None)
        return array

    monkeypatch.setattr(tiff_blocks, "_PIECE", 0)
    monkeypatch.setattr(tiff_blocks, "_BLOCK", 5000)
    monkeypatch.setattr(tiff_blocks, "read_page", read_page)
    for samples, kind in ((3, "u2"), (5, "u1"), (1, "f4"), (2, "i2")):
        array = picture(samples)[:101, :133].astype(kind) * 3
        stored = np.moveaxis(array, 2, 0) if planes == "separate" else array
        layout: dict[str, Any] = {**options, "planarconfig": planes}
        if samples == 1:
            stored, layout = array[:, :, 0], {**options, "predictor": None}
        photometric = "rgb" if samples == 3 else "minisblack"
        data = by_tifffile(stored, photometric=photometric, byteorder=byteorder, metadata=None, **layout)
        found = decode(data, DecodeOptions(color="native"))
        np.testing.assert_array_equal(found.pixels, array.astype(found.pixels.dtype))
    assert not any(whole)


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
