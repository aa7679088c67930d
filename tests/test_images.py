"""The image table: the pixels of each kind of file."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from normcli.errors import InputError, UsageError
from normcli.images import Decoded, decode, jpeg, pillow
from normcli.options.shared import DecodeOptions
from normcli.tally import integers
from tests.support import needs
from tests.support.images import encoded, photograph

imagecodecs = needs.module("imagecodecs")
tifffile = needs.module("tifffile")

Array = np.ndarray[Any, Any]


def read(data: bytes, **settings: Any) -> Decoded:
    return decode(data, DecodeOptions(**settings))


def refusal(data: bytes, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(data, **settings)
    assert "\n" not in caught.value.message
    return caught.value.reason


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


RGB = photograph()
GRAY = photograph(channels=1)
DEEP = (np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21)[:, :, None]
DEEP_RGB = np.concatenate([DEEP, DEEP[::-1], 65535 - DEEP], axis=2)


class TestEightBit:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "JPEG2000"])
    def test_lossless_formats_give_the_pixels_back(self, kind: str) -> None:
        options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}.get(kind, {})
        image = read(encoded(RGB, kind, **options))
        assert (image.format, image.mode, image.depth) == (kind, "RGB", 8)
        np.testing.assert_array_equal(image.pixels, RGB)

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
    @pytest.mark.parametrize("pixels", [RGB, GRAY], ids=["rgb", "gray"])
    def test_jpeg_has_pillows_bits_whichever_decodes(self, options: dict[str, Any], pixels: Array) -> None:
        data = encoded(pixels, "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(data))).reshape(pixels.shape)
        fast, usual = jpeg.decode(data, DecodeOptions()), pillow.decode(data, DecodeOptions())
        assert fast is not None
        for image in (read(data), fast, usual):
            np.testing.assert_array_equal(image.pixels, expected)

    def test_real_jpegs_have_pillows_bits(self, shared_data: Any) -> None:
        for path in sorted((shared_data / "imagenet-300").iterdir())[::6]:
            expected = np.asarray(Image.open(path))
            image = read(path.read_bytes())
            np.testing.assert_array_equal(image.pixels, expected.reshape(image.pixels.shape))

    def test_the_thread_buffer_is_large_enough_for_the_next_image(self) -> None:
        small, large = encoded(RGB[:8, :8], "JPEG"), encoded(np.tile(RGB, (30, 30, 1)), "JPEG")
        for data in (small, large, small):
            expected = np.asarray(Image.open(io.BytesIO(data)))
            np.testing.assert_array_equal(read(data).pixels, expected)

    def test_cmyk_is_converted_as_pillow_does_and_noted(self) -> None:
        data = saved(Image.fromarray(RGB).convert("CMYK"), "JPEG")
        image = read(data)
        assert image.mode == "CMYK" and "cmyk" in image.notes
        np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))

    def test_palette_is_expanded(self) -> None:
        image = Image.fromarray(RGB).quantize(16)
        np.testing.assert_array_equal(read(saved(image, "PNG")).pixels, np.asarray(image.convert("RGB")))

    def test_gray_palette_becomes_gray(self) -> None:
        image = Image.fromarray(GRAY[:, :, 0]).convert("P")
        np.testing.assert_array_equal(read(saved(image, "PNG")).pixels, GRAY)

    def test_one_bit_is_0_and_255(self) -> None:
        bits = GRAY[:, :, 0] > 128
        pixels = read(saved(Image.fromarray(bits), "PNG")).pixels
        np.testing.assert_array_equal(pixels[:, :, 0], bits * 255)

    def test_white_is_zero_is_turned_round(self) -> None:
        for array in (GRAY[:, :, 0], DEEP[:, :, 0]):
            white = np.iinfo(array.dtype).max
            data = tiff(white - array, photometric="miniswhite")
            np.testing.assert_array_equal(read(data).pixels[:, :, 0], array)

    def test_first_frame_is_used_and_noted(self) -> None:
        frames = [Image.fromarray(GRAY[:, :, 0]), Image.fromarray(255 - GRAY[:, :, 0])]
        for kind in ("GIF", "TIFF", "PNG"):
            image = read(saved(frames[0], kind, save_all=True, append_images=frames[1:]))
            assert "multi-frame" in image.notes
            np.testing.assert_array_equal(image.pixels, GRAY)

    def test_exif_and_icc_are_noted_and_change_nothing(self) -> None:
        exif = Image.Exif()
        exif[274] = 6
        for kind in ("JPEG", "PNG"):
            plain = read(encoded(RGB, kind)).pixels.copy()
            data = encoded(RGB, kind, exif=exif, icc_profile=b"not a profile")
            image = read(data)
            assert {"exif", "icc", "rotated"} <= set(image.notes) and image.orientation == 6
            np.testing.assert_array_equal(image.pixels, plain)


class TestAlpha:
    alpha = np.linspace(0, 255, 48 * 64).astype(np.uint8).reshape(48, 64)
    rgba = np.dstack([RGB, alpha])

    def test_drop(self) -> None:
        image = read(encoded(self.rgba))
        assert "alpha" in image.notes and "transparent" in image.notes
        np.testing.assert_array_equal(image.pixels, RGB)

    def test_keep_has_an_alpha_channel_for_every_image(self) -> None:
        np.testing.assert_array_equal(read(encoded(self.rgba), alpha="keep").pixels, self.rgba)
        opaque = read(encoded(RGB), alpha="keep").pixels
        np.testing.assert_array_equal(opaque, np.dstack([RGB, np.full_like(self.alpha, 255)]))

    def test_weight(self) -> None:
        image = read(encoded(self.rgba), alpha="weight")
        assert image.weights is not None
        np.testing.assert_array_equal(image.weights, self.alpha)
        assert refusal(encoded(self.rgba * np.array([1, 1, 1, 0], np.uint8)), alpha="weight") == "transparent"

    def test_composite_rounds_to_nearest(self) -> None:
        pixels = read(encoded(self.rgba), alpha="composite:#102030").pixels
        a = self.alpha[:, :, None].astype(float) / 255
        exact = RGB * a + np.array([0x10, 0x20, 0x30]) * (1 - a)
        assert np.abs(pixels - exact).max() <= 0.5 + 1e-9

    def test_a_palette_with_a_transparent_entry_has_alpha(self) -> None:
        image = Image.fromarray(RGB).quantize(8)
        assert "alpha" in read(saved(image, "PNG", transparency=3)).notes
        assert "alpha" in read(saved(Image.fromarray(RGB), "PNG", transparency=(1, 2, 3))).notes

    def test_gray_with_alpha(self) -> None:
        la = Image.fromarray(np.dstack([GRAY, self.alpha]))
        np.testing.assert_array_equal(read(saved(la, "PNG")).pixels, GRAY)

    def test_a_colour_that_is_none_is_refused(self) -> None:
        with pytest.raises(UsageError, match="names no color"):
            DecodeOptions(alpha="composite:whyte")


class TestDeep:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bit_gray_stays_16_bit(self, kind: str) -> None:
        image = read(encoded(DEEP, kind))
        assert image.pixels.dtype == np.uint16 and image.depth == 16
        np.testing.assert_array_equal(image.pixels, DEEP)

    def test_16_bit_pgm(self) -> None:
        data = b"P5 64 48 65535\n" + DEEP.astype(">u2").tobytes()
        np.testing.assert_array_equal(read(data).pixels, DEEP)

    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_16_bit_colour_png_is_exact(self, channels: int) -> None:
        array = np.dstack([DEEP_RGB, DEEP])[:, :, :channels]
        image = read(imagecodecs.png_encode(np.ascontiguousarray(array)), alpha="keep")
        wanted = array if channels != 3 else np.dstack([array, np.full_like(DEEP, 65535)])
        np.testing.assert_array_equal(image.pixels, wanted)

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_16_bit_colour_tiff_is_exact(self, planar: str) -> None:
        array = DEEP_RGB if planar == "contig" else np.moveaxis(DEEP_RGB, 2, 0)
        data = tiff(np.ascontiguousarray(array), photometric="rgb", planarconfig=planar)
        np.testing.assert_array_equal(read(data).pixels, DEEP_RGB)

    def test_many_bands_are_all_there(self) -> None:
        bands = np.random.default_rng(1).integers(0, 256, (7, 9, 5), dtype=np.uint8)
        data = tiff(bands, photometric="minisblack", planarconfig="contig")
        np.testing.assert_array_equal(read(data).pixels, bands)
        assert refusal(data, color="rgb") == "unsupported"

    def test_two_bands_that_are_no_alpha_are_both_there(self) -> None:
        bands = np.random.default_rng(1).integers(0, 256, (7, 9, 2), dtype=np.uint8)
        data = tiff(bands, photometric="minisblack", planarconfig="contig", extrasamples=["UNSPECIFIED"])
        np.testing.assert_array_equal(read(data).pixels, bands)

    def test_uint32_and_signed_are_raw_numbers(self) -> None:
        for dtype, value in (("u4", 4_000_000_000), ("i2", -30_000), ("i4", -2_000_000_000)):
            array = np.full((4, 5), value, dtype)
            pixels = read(tiff(array)).pixels
            assert pixels.dtype == np.float64 and (pixels == value).all()

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_floats_are_raw(self, dtype: str, channels: int) -> None:
        array = (np.random.default_rng(2).normal(5, 3, (6, 7, channels))).astype(dtype)
        photometric = "rgb" if channels == 3 else "minisblack"
        pixels = read(tiff(array if channels == 3 else array[:, :, 0], photometric=photometric)).pixels
        np.testing.assert_array_equal(pixels, array.astype(pixels.dtype))
        assert pixels.dtype.kind == "f"

    def test_16_bit_colour_ppm_is_exact(self) -> None:
        data = b"P6 64 48 65535\n" + DEEP_RGB.astype(">u2").tobytes()
        np.testing.assert_array_equal(read(data).pixels, DEEP_RGB)

    def test_without_the_extra_deep_images_are_refused_not_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
        data = imagecodecs.png_encode(DEEP_RGB)
        with pytest.raises(InputError, match=r'pip install "normcli\[tiff\]"'):
            read(data)

    def test_16_bit_colour_jpeg_2000_is_exact(self) -> None:
        data = imagecodecs.jpeg2k_encode(DEEP_RGB, level=0, reversible=True)
        np.testing.assert_array_equal(read(data).pixels, DEEP_RGB)

    def test_rgb_with_a_fourth_band_that_is_no_alpha_keeps_it(self) -> None:
        bands = np.random.default_rng(1).integers(0, 256, (7, 9, 4), dtype=np.uint8)
        data = tiff(bands, photometric="rgb", planarconfig="contig", extrasamples=["UNSPECIFIED"])
        np.testing.assert_array_equal(read(data).pixels, bands)

    @pytest.mark.parametrize("deep", [False, True])
    def test_a_gray_level_that_is_transparent_is_an_alpha(self, deep: bool) -> None:
        image = Image.fromarray(DEEP[:, :, 0]) if deep else Image.fromarray(GRAY[:, :, 0] > 128)
        data = saved(image, "PNG", transparency=21 if deep else 1)
        weights = read(data, alpha="weight").weights
        assert weights is not None
        np.testing.assert_array_equal(weights == 0, DEEP[:, :, 0] == 21 if deep else GRAY[:, :, 0] > 128)


class TestColor:
    def test_gray_is_pillows_luma(self) -> None:
        expected = np.asarray(Image.fromarray(RGB).convert("L"))
        np.testing.assert_array_equal(read(encoded(RGB), color="gray").pixels[:, :, 0], expected)

    def test_gray_of_16_bit_is_the_same_formula(self) -> None:
        pixels = read(imagecodecs.png_encode(DEEP_RGB), color="gray").pixels[:, :, 0]
        exact = DEEP_RGB.astype(float) @ np.array([19595, 38470, 7471]) / 65536
        assert np.abs(pixels - exact).max() <= 0.5

    def test_an_array_passes_as_it_is(self) -> None:
        np.testing.assert_array_equal(decode(RGB, DecodeOptions()).pixels, RGB)
        assert decode(np.ones((2, 2), bool), DecodeOptions()).pixels.max() == 255


class TestGeometry:
    @pytest.mark.parametrize("shape", [(48, 64), (64, 48), (50, 50), (300, 301)])
    def test_resize_and_crop_are_torchvisions(self, shape: tuple[int, int]) -> None:
        array = photograph(*shape)
        image = Image.fromarray(array)
        width, height = image.size
        short, long = sorted((width, height))
        wanted = (40, int(40 * long / short)) if width <= height else (int(40 * long / short), 40)
        image = image.resize(wanted, Image.Resampling.BILINEAR)
        left, top = round((wanted[0] - 32) / 2.0), round((wanted[1] - 32) / 2.0)
        expected = np.asarray(image.crop((left, top, left + 32, top + 32)))
        np.testing.assert_array_equal(read(encoded(array), resize=40, center_crop=32).pixels, expected)

    def test_deep_images_are_resized_without_clipping(self) -> None:
        pixels = read(encoded(np.full((60, 80), 60000, np.uint16)), resize=30).pixels
        assert pixels.shape == (30, 40, 1) and (pixels == 60000).all()

    def test_float64_and_wide_integers_are_resized_without_rounding(self) -> None:
        array = 1e6 + np.random.default_rng(3).uniform(-1e-3, 1e-3, (60, 80))
        pixels = read(tiff(array), resize=30).pixels
        assert pixels.shape == (30, 40, 1) and 1e-4 < pixels.std() < 5e-4
        smooth = photograph(60, 80, 1)[:, :, 0].astype(np.float64)
        expected = np.asarray(Image.fromarray(smooth.astype(np.float32)).resize((40, 30), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(read(tiff(smooth), resize=30).pixels[:, :, 0], expected, rtol=1e-5)

    def test_a_resize_to_more_than_the_limit_is_refused(self) -> None:
        assert refusal(encoded(np.zeros((3000, 1, 3), np.uint8)), resize=256) == "bomb"

    def test_a_crop_whose_pixels_are_all_transparent_is_refused(self) -> None:
        rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
        rgba[10:38, 18:46, 3] = 0
        assert refusal(encoded(rgba), alpha="weight", center_crop=8) == "transparent"

    def test_a_crop_larger_than_the_image_is_refused(self) -> None:
        assert refusal(encoded(RGB), center_crop=100) == "too-small"


class TestBadFiles:
    def test_reasons(self) -> None:
        png, photo = encoded(RGB), encoded(RGB, "JPEG")
        assert refusal(b"hello, this is text") == "not-an-image"
        assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n") == "not-an-image"
        assert refusal(png[: len(png) // 2]) == "truncated"
        assert refusal(photo[: len(photo) // 2]) == "truncated"
        assert refusal(png[:8]) in ("truncated", "not-an-image", "damaged")
        assert refusal(b"\0\0\0\x18ftypheic\0\0\0\0") in ("unsupported", "damaged")  # by whether pillow-heif is here

    def test_a_bomb_is_refused_by_its_header(self) -> None:
        header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        idat = b"IDAT" + zlib.compress(bytes(1000))
        bomb += struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
        assert refusal(bomb) == "bomb"
        photo = bytearray(encoded(RGB, "JPEG"))
        at = photo.index(b"\xff\xc0") + 5
        photo[at : at + 4] = struct.pack(">HH", 65500, 65500)
        assert refusal(bytes(photo)) == "bomb"
        assert refusal(encoded(RGB), max_pixels=100) == "bomb"

    def test_damage_that_decodes_is_used_and_counted(self) -> None:
        photo = encoded(np.tile(RGB, (4, 4, 1)), "JPEG")
        photo = photo[:-2] + b"\x12\x34\x56" + photo[-2:]  # libjpeg: extraneous bytes before marker
        image = read(photo)
        assert image.notes.count("damaged") == 1
        np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(io.BytesIO(photo))))
        assert refusal(photo, strict=True) == "damaged"

    def test_a_cut_closed_with_an_end_marker_is_seen(self) -> None:
        photo = encoded(np.tile(RGB, (4, 4, 1)), "JPEG")
        for share in (0.4, 0.6, 0.8):
            cut = photo[: int(len(photo) * share)] + b"\xff\xd9"
            assert refusal(cut, strict=True) in ("damaged", "truncated")

    def test_lenient_loading_turned_on_elsewhere_is_turned_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        png = encoded(RGB)
        assert refusal(png[: len(png) // 2]) == "truncated"

    @pytest.mark.parametrize("setting", [{"color": "blue"}, {"alpha": "x"}, {"center_crop": 0}, {"resize": 0}])
    def test_settings_that_cannot_be(self, setting: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            DecodeOptions(**setting)


def test_large_images_are_counted_by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integers, "_STRIP", 64 * 7)
    for channels in (1, 3):
        pixels = photograph(60, 64, channels).reshape(60, 64, channels)
        found = integers._histogram_by_numpy(pixels)
        expected = [np.bincount(pixels[:, :, c].reshape(-1), minlength=256) for c in range(channels)]
        np.testing.assert_array_equal(found, expected)
