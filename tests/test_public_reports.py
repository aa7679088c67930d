"""Public bug reports made small, and siblings of each kind: a right number, or words that fit; never silence.

The right values come from NumPy.
"""

import io
import json
import math
import re
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from tests.support import needs
from tests.support.command import Outcome, run_here
from tests.support.images import encoded
from tests.support.sweeps import png, png_chunk, pnm

imagecodecs = needs.module("imagecodecs")
tifffile = needs.module("tifffile")

Array = np.ndarray[Any, Any]
UNFIT = r"header is damaged|not-an-image\b|unknown raw mode|decoder error|\d+ damaged\b|internal error"


def stats(*arguments: Any) -> Outcome:
    return run_here("stats", *arguments, "--json", "--progress", "never", "-j", 1)


def mean_of(done: Outcome) -> Array:
    assert done.statistics is not None, str(done)
    return np.array(done.statistics["mean"])


def right(done: Outcome, mean: Any, rel: float = 1e-9) -> None:
    wanted = np.atleast_1d(np.asarray(mean, float))
    found = mean_of(done)
    assert found.shape == wanted.shape and np.allclose(found, wanted, rtol=rel, atol=1e-12), f"{found} {wanted} {done}"


def right_or_rejected(done: Outcome, mean: Any, words: str = "", rel: float = 1e-9) -> None:
    if done.statistics is not None:
        right(done, mean, rel)
        return
    assert done.code in (2, 4) and not re.search(UNFIT, done.err) and re.search(words, done.err), str(done)


def rng(seed: int = 20261125) -> np.random.Generator:
    return np.random.default_rng(seed)


def tiff(path: Path, array: Array, **how: Any) -> Path:
    tifffile.imwrite(path, array, **how)
    return path


def file(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def flat(value: int, shape: tuple[int, ...] = (8, 10, 3)) -> Array:
    return np.full(shape, value, np.uint8)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[274] = orientation
    return block


class TestBigEndianTiff:
    """Samples of compressed big-endian files: libtiff swaps their bytes, and Pillow's raw mode swapped them again."""

    @pytest.mark.parametrize(
        ("dtype", "how"),
        [
            ("i2", {"compression": "lzw"}),
            ("f4", {"compression": "deflate", "tile": (16, 16)}),
            ("i4", {"compression": "zstd"}),
            ("f4", {"compression": "deflate", "predictor": True}),
            ("u2", {"compression": "packbits", "predictor": True}),
            ("i2", {"compression": "packbits", "bigtiff": True}),
        ],
    )
    def test_one_band(self, dtype: str, how: dict[str, Any], tmp_path: Path) -> None:
        array = (np.arange(40 * 48).reshape(40, 48) % 1999 - 300 * (dtype != "u2")).astype(dtype)
        path = tiff(tmp_path / "a.tif", array, byteorder=">", photometric="minisblack", **how)
        right(stats(path), array.astype("f8").mean() / (65535 if dtype == "u2" else 1), 1e-6)


class TestOtherDepths:
    """Samples of neither 8 nor 16 bits count as stored, and --max-value names the white level."""

    @pytest.mark.parametrize(
        ("bits", "white", "container"), [(15, 10000, "jp2"), (12, 4095, "jp2"), (9, 511, "jp2"), (10, 1023, "j2k")]
    )
    def test_jpeg_2000(self, bits: int, white: int, container: str, tmp_path: Path) -> None:
        array = rng().integers(0, min(1 << bits, 3000), (40, 60)).astype("u2")
        data = imagecodecs.jpeg2k_encode(array, level=0, reversible=True, bitspersample=bits, codecformat=container)
        path = file(tmp_path / "a.jp2", data)
        right(stats(path, "--max-value", white), array.mean() / white)
        asked = stats(path)
        assert asked.code == 4 and f"--max-value {(1 << bits) - 1}" in asked.err

    def test_signed_jpeg_2000_is_in_raw_units(self, tmp_path: Path) -> None:
        array = rng().integers(-300, 200, (40, 60)).astype("i2")
        path = file(tmp_path / "a.jp2", imagecodecs.jpeg2k_encode(array, level=0, reversible=True))
        right(stats(path), array.mean())

    def test_color_of_12_bits_and_its_alpha(self, tmp_path: Path) -> None:
        array = rng().integers(0, 4096, (20, 30, 4)).astype("u2")
        data = imagecodecs.jpeg2k_encode(array, level=0, reversible=True, bitspersample=12, mct=False)
        path = file(tmp_path / "a.jp2", data)
        mean = array.reshape(-1, 4).mean(0) / 4095
        right(stats(path, "--max-value", 4095), mean[:3])
        right(stats(path, "--max-value", 4095, "--alpha", "keep"), mean)
        rejected = stats(path, "--max-value", 4095, "--alpha", "weight")
        assert rejected.code == 4 and "alpha values from 0 to 4095" in rejected.err

    @pytest.mark.parametrize(("magic", "maxval"), [(5, 4095), (6, 1023), (2, 300), (7, 4095)])
    def test_pnm_of_more_than_8_bits(self, magic: int, maxval: int, tmp_path: Path) -> None:
        array = rng().integers(0, maxval + 1, (20, 30, 3 if magic in (6, 7) else 1))
        path = file(tmp_path / "a.pgm", pnm(magic, array, maxval))
        right(stats(path, "--max-value", maxval), array.reshape(600, -1).mean(0) / maxval)
        assert f"--max-value {maxval}" in stats(path).err

    @pytest.mark.parametrize(("magic", "maxval"), [(5, 11), (2, 100), (3, 200), (5, 254), (5, 15), (6, 3)])
    def test_pnm_of_a_small_maxval(self, magic: int, maxval: int, tmp_path: Path) -> None:
        array = rng().integers(0, maxval + 1, (7, 15, 3 if magic in (3, 6) else 1))
        path = file(tmp_path / "a.pgm", pnm(magic, array, maxval))
        mean = array.reshape(105, -1).mean(0) / maxval
        right(stats(path, "--max-value", maxval), mean)
        right_or_rejected(stats(path), mean, f"--max-value {maxval}")
        assert (stats(path).code == 0) == (255 % maxval == 0)

    def test_a_pnm_is_restored_to_its_levels(self, tmp_path: Path) -> None:
        array = rng().integers(0, 4096, (20, 30, 1))
        file(tmp_path / "in/a.pgm", pnm(5, array, 4095))
        normcli.apply(tmp_path / "in", tmp_path / "out", scheme="unit", max_value=4095, dtype="float64")
        assert np.allclose(np.load(next((tmp_path / "out").rglob("*.npy"))) * 4095, array[None, :, :, 0])
        normcli.restore(tmp_path / "out", tmp_path / "back")
        assert np.array_equal(np.asarray(Image.open(next((tmp_path / "back").rglob("a*")))), array[:, :, 0])

    @pytest.mark.parametrize("command", ["apply", "apply to stdout", "apply to a stack"])
    def test_apply_asks_for_the_white_level_too(self, command: str, tmp_path: Path) -> None:
        path = file(tmp_path / "a.pgm", pnm(5, np.full((4, 5, 1), 9), 4095))
        out = "-" if "stdout" in command else tmp_path / "out"
        to = ["--to", "stack"] if "stack" in command else []
        done = run_here("apply", path, "-o", out, "--scheme", "unit", *to)
        assert done.code in (1, 4) and ("--max-value 4095" in done.err or "stack" in command), str(done)

    @pytest.mark.parametrize("bits", [10, 12, 14])
    def test_tiff(self, bits: int, tmp_path: Path) -> None:
        array = rng().integers(0, 1 << bits, (20, 30)).astype("u2")
        path = tiff(tmp_path / "a.tif", array, photometric="minisblack", bitspersample=bits)
        right(stats(path, "--max-value", (1 << bits) - 1), array.mean() / ((1 << bits) - 1))
        right_or_rejected(stats(path), array.mean() / ((1 << bits) - 1), "--max-value")

    @pytest.mark.parametrize(("bits", "samples"), [(2, 3), (4, 3), (2, 1), (4, 1)])
    def test_tiff_of_2_and_4_bits_fills_8(self, bits: int, samples: int, tmp_path: Path) -> None:
        array = rng().integers(0, 1 << bits, (20, 32, samples)).astype("u1")
        how = {"photometric": "rgb" if samples == 3 else "minisblack", "bitspersample": bits}
        path = tiff(tmp_path / "a.tif", array if samples == 3 else array[:, :, 0], **how)
        right(stats(path), array.reshape(-1, samples).mean(0) / ((1 << bits) - 1))

    @pytest.mark.parametrize(("bits", "lossless"), [(12, False), (12, True), (10, True), (16, True)])
    def test_jpeg(self, bits: int, lossless: bool, tmp_path: Path) -> None:
        array = np.kron(rng().integers(0, 1 << bits, (6, 7)), np.ones((8, 8))).astype("u2")
        data = imagecodecs.jpeg_encode(array, bitspersample=bits, lossless=lossless)
        path, mean = file(tmp_path / "a.jpg", data), imagecodecs.jpeg_decode(data).mean() / ((1 << bits) - 1)
        right(stats(path, "--max-value", (1 << bits) - 1), mean)
        right_or_rejected(stats(path), mean, "--max-value")

    @pytest.mark.parametrize("lossless", [False, True])
    def test_a_damaged_jpeg_is_rejected(self, lossless: bool, tmp_path: Path) -> None:
        """imagecodecs decodes a file that is cut without an error, and crashes on a second frame header."""
        array = np.kron(rng().integers(0, 4096, (6, 7, 3)), np.ones((8, 8, 1))).astype("u2")
        data = imagecodecs.jpeg_encode(array, bitspersample=12, lossless=lossless)
        tables = data.index(b"\xff\xc4")
        for bad in (data[: len(data) // 2], data[:-2], data[:tables] + b"\xff\xcf" + data[tables + 2 :]):
            done = stats(file(tmp_path / "a.jpg", bad), "--max-value", 4095)
            assert done.code == 4 and re.search("1 (truncated|damaged)", done.err), str(done)

    @pytest.mark.parametrize("bits", [1, 7, 16])
    def test_no_such_jpeg_is_rejected(self, bits: int, tmp_path: Path) -> None:
        """imagecodecs returns an array of any size, which ended the run if it was empty."""
        data = bytearray(imagecodecs.jpeg_encode(np.zeros((32, 32), np.uint8)))
        data[data.index(b"\xff\xc0") + 4] = bits
        done = stats(file(tmp_path / "a.jpg", bytes(data)))
        assert done.code == 4 and "1 damaged" in done.err, str(done)


class TestTransparentLevel:
    """A gray PNG of 2 or 4 bits: its level counts in stored units."""

    @pytest.mark.parametrize(("depth", "level"), [(4, 3), (2, 1), (1, 0), (8, 77), (16, 300)])
    def test_weighted(self, depth: int, level: int, tmp_path: Path) -> None:
        array = rng().integers(0, 1 << depth, (20, 30, 1))
        array[:10] = level
        path = file(tmp_path / "a.png", png(array, depth, 0, png_chunk(b"tRNS", struct.pack(">H", level))))
        right(stats(path, "--alpha", "weight"), (array[array != level] / ((1 << depth) - 1)).mean())
        found = stats(path).statistics
        assert found is not None and found["composition"]["transparent"] == 1

    @pytest.mark.parametrize("depth", [8, 16])
    def test_color(self, depth: int, tmp_path: Path) -> None:
        array = rng().integers(0, 1 << depth, (20, 30, 3))
        array[:10] = (1, 2, 3)
        path = file(tmp_path / "a.png", png(array, depth, 2, png_chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))))
        right(stats(path, "--alpha", "weight"), array[10:].reshape(-1, 3).mean(0) / ((1 << depth) - 1))


class TestOrientation:
    """The orientation of files that tifffile and imagecodecs decode."""

    @staticmethod
    def upright(path: Path, picture: Array) -> None:
        out = path.parent / "out"
        white = 1 if picture.max() > 1 else None
        normcli.apply(path, out, scheme="unit", output_layout="hwc", dtype="float64", max_value=white)
        assert np.allclose(np.load(next(out.rglob("*.npy"))), np.rot90(picture, -1))

    @pytest.mark.parametrize("how", [{}, {"bigtiff": True}, {"byteorder": ">", "compression": "lzw"}])
    @pytest.mark.parametrize("dtype", ["u2", "f4", "u1"])
    def test_tiff(self, dtype: str, how: dict[str, Any], tmp_path: Path) -> None:
        array = rng().integers(0, 256, (4, 6, 3)).astype(dtype)
        path = tiff(tmp_path / "a.tif", array, photometric="rgb", extratags=[(274, 3, 1, 6, True)], **how)
        self.upright(path, array / {"u1": 255, "u2": 65535}.get(dtype, 1))

    def test_png_of_16_bit_color(self, tmp_path: Path) -> None:
        array = rng().integers(0, 65536, (4, 6, 3))
        block = exif(6).tobytes().removeprefix(b"Exif\0\0")
        self.upright(file(tmp_path / "a.png", png(array, 16, 2, png_chunk(b"eXIf", block))), array / 65535)

    def test_jpeg_of_12_bits(self, tmp_path: Path) -> None:
        data = imagecodecs.jpeg_encode(
            np.kron(np.arange(6).reshape(2, 3), np.ones((8, 8))).astype("u2"), bitspersample=12
        )
        block = b"Exif\0\0" + exif(6).tobytes().removeprefix(b"Exif\0\0")
        app1 = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        path = file(tmp_path / "a.jpg", data[:2] + app1 + data[2:])
        normcli.apply(path, tmp_path / "out", scheme="unit", output_layout="hwc", max_value=4095)
        assert np.load(next((tmp_path / "out").rglob("*.npy"))).shape == (24, 16, 1)


class TestFloatsWithMaxValue:
    """Statistics of float or signed images made with --max-value are of 0-1, and are read as such."""

    @staticmethod
    def saved(folder: Path, array: Array, white: int) -> Path:
        file(folder / "8/a.png", encoded((array * (255 // white)).astype("u1") if white < 255 else array.astype("u1")))
        assert run_here("stats", folder / "8", "-o", folder / "8.json", "-q").code == 0
        return folder / "8.json"

    @pytest.mark.parametrize(("dtype", "white"), [("f4", 255), ("f8", 255), ("i2", 255), ("f4", 1)])
    def test_the_same_pixels_do_not_differ(self, dtype: str, white: int, tmp_path: Path) -> None:
        array = (np.arange(192) % 251).reshape(8, 8, 3) if white == 255 else np.arange(192).reshape(8, 8, 3) % 2
        eight = self.saved(tmp_path, array, white)
        path = tiff(tmp_path / "a.tif", array.astype(dtype), photometric="rgb")
        run_here("stats", path, "--max-value", white, "-q", "-o", tmp_path / "a.json")
        done = run_here("diff", eight, tmp_path / "a.json", "--max-shift", "1e-6")
        assert done.code == 0, str(done)

    @pytest.mark.parametrize("form", ["opencv", "torchvision", "timm", "albumentations"])
    def test_exporters_know_the_range(self, form: str, tmp_path: Path) -> None:
        planes = [np.full((8, 8), v, "f4") for v in (50, 100, 200)]
        path = tiff(tmp_path / "a.tif", np.stack(planes, 2) + np.eye(8, dtype="f4")[..., None], photometric="rgb")
        done = run_here("stats", path, "--max-value", 255, "--format", form)
        assert "raw units" not in done.out and done.code in (0, 2), str(done)
        assert done.code == 2 or "200.1" in done.out or "0.7848" in done.out.replace("0.78480", "0.7848"), done.out

    def test_check_reads_0_to_255(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "a.tif", np.arange(192, dtype="f4").reshape(8, 8, 3), photometric="rgb")
        run_here("stats", path, "--max-value", 255, "-q", "-o", tmp_path / "a.json")
        mean, std = np.arange(192.0).reshape(-1, 3).mean(0), np.arange(192.0).reshape(-1, 3).std(0)
        numbers = [",".join(f"{v:.4f}" for v in row) for row in (mean, std)]
        done = run_here("check", tmp_path / "a.json", "--mean", numbers[0], "--std", numbers[1])
        assert done.code == 0 and "0-255" in done.out, str(done) + done.out


class TestMasks:
    """Masks of pictures that EXIF turns, and masks in formats that change values."""

    @staticmethod
    def folders(folder: Path, orientation: int, shape: tuple[int, int] = (8, 8), kind: str = "JPEG") -> list[Any]:
        image = np.full((*shape, 3), 50, np.uint8)
        image[: shape[0] // 2] = 200
        turned = {6: np.rot90(image, -1), 3: np.rot90(image, 2), 8: np.rot90(image), 1: image}[orientation]
        block = exif(orientation)
        file(folder / f"i/a.{kind.lower()}", encoded(image, kind, exif=block))
        file(folder / "m/a.png", encoded(np.ascontiguousarray((turned[:, :, 0] > 99) * np.uint8(255))))
        return [folder / "i", "--mask-dir", folder / "m"]

    @pytest.mark.parametrize(("orientation", "shape"), [(6, (8, 8)), (3, (8, 12)), (8, (8, 12)), (1, (8, 12))])
    def test_drawn_on_the_upright_picture(self, orientation: int, shape: tuple[int, int], tmp_path: Path) -> None:
        done = stats(*self.folders(tmp_path, orientation, shape, "PNG"))
        right(done, [200 / 255] * 3)
        assert ("upright picture" in done.err) == (orientation != 1)

    def test_of_the_stored_size_is_laid_on_the_stored_pixels(self, tmp_path: Path) -> None:
        arguments = self.folders(tmp_path, 6, (8, 12), "PNG")
        stored = np.zeros((8, 12), np.uint8)
        stored[:4] = 255
        file(tmp_path / "m/a.png", encoded(stored))
        right(stats(*arguments), [200 / 255] * 3)

    @pytest.mark.parametrize(("suffix", "how"), [("jpg", {"quality": 75}), ("webp", {"quality": 60}), ("jpg", {})])
    def test_a_lossy_mask_counts_from_half(self, suffix: str, how: dict[str, Any], tmp_path: Path) -> None:
        y, x = np.mgrid[:64, :64]
        inside = (y - 31) ** 2 + (x - 33) ** 2 < 400
        file(tmp_path / "i/0.png", encoded(np.where(inside, 200, 50).astype("u1")))
        kind = {"jpg": "JPEG", "webp": "WEBP"}[suffix]
        file(tmp_path / f"m/0.{suffix}", encoded(inside.astype("u1") * np.uint8(255), kind, **how))
        done = stats(tmp_path / "i", "--mask-dir", tmp_path / "m")
        right(done, 200 / 255, 0.03)
        assert "lossy format" in done.err

    def test_a_lossy_mask_of_class_numbers_is_rejected(self, tmp_path: Path) -> None:
        file(tmp_path / "i/0.png", encoded(flat(9, (16, 16))))
        file(tmp_path / "m/0.jpg", encoded(np.tile(np.arange(8, dtype="u1"), (16, 2)), "JPEG"))
        done = stats(tmp_path / "i", "--mask-dir", tmp_path / "m")
        assert done.code == 4 and "save masks as PNG" in done.err


class TestNoData:
    """The tag GDAL_NODATA is never silent."""

    @pytest.mark.parametrize(
        ("dtype", "value", "how"),
        [
            ("i2", -9999, {}),
            ("f4", -3.4028234663852886e38, {"compression": "deflate"}),
            ("u1", 255, {}),
            ("u2", 0, {"bigtiff": True}),
        ],
    )
    def test_is_said(self, dtype: str, value: float, how: dict[str, Any], tmp_path: Path) -> None:
        array = np.full((8, 8), 100, dtype)
        array[:2] = value
        tag = [(42113, 2, 0, repr(value), True)]
        path = tiff(tmp_path / "a.tif", array, photometric="minisblack", extratags=tag, **how)
        white = {"u1": 255, "u2": 65535}.get(dtype, 1)
        for nodata in ("tag", value):
            done = stats(path, "--nodata", nodata)
            right(done, 100 / white)
            assert "invalid pixels, which do not count: 16" in done.err
        counted = stats(path, "--nodata", "none")
        assert "GDAL nodata value" in counted.err and "(--nodata tag" in counted.err
        scale = [] if dtype.startswith("u") else ["--max-value", 1000]
        done = run_here("apply", path, "-o", tmp_path / "out", "--scheme", "unit", *scale)
        assert done.code == 0

    def test_a_band_has_its_own(self, tmp_path: Path) -> None:
        array = np.full((8, 8, 2), 100, "i2")
        array[:2, :, 0] = -9999
        tag = [(42113, 2, 0, "-9999", True)]
        path = tiff(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig", extratags=tag)
        assert "invalid pixels, which do not count: 0 16, 1 0" in stats(path).err
        right(stats(path), [100, 100])

    def test_a_value_that_the_type_cannot_have_is_said(self, tmp_path: Path) -> None:
        path = tiff(
            tmp_path / "a.tif", flat(9, (8, 8)), photometric="minisblack", extratags=[(42113, 2, 0, "0.5", True)]
        )
        assert "a GDAL nodata value that their samples cannot have, 0.5" in stats(path).err

    def test_a_value_that_no_pixel_has_is_not_said(self, tmp_path: Path) -> None:
        tag = [(42113, 2, 0, "200", True)]
        path = tiff(tmp_path / "a.tif", flat(9, (8, 8)), photometric="minisblack", extratags=tag)
        assert "GDAL" not in stats(path).err


class TestHealthyFiles:
    """Files that a well-known library opens are read, or the message names their kind."""

    @pytest.mark.parametrize("kind", ["Pf", "PF"])
    @pytest.mark.parametrize("order", "<>")
    def test_pfm(self, kind: str, order: str, tmp_path: Path) -> None:
        array = rng().random((5, 7, 3 if kind == "PF" else 1)).astype(order + "f4")
        scale = "-1.0" if order == "<" else "1.0"
        path = file(tmp_path / "a.pfm", f"{kind}\n7 5\n{scale}\n".encode() + array[::-1].tobytes())
        right(stats(path), array.astype("f8").reshape(35, -1).mean(0), 1e-6)
        done = run_here(
            "apply", path, "-o", tmp_path / "out", "--scheme", "unit", "--max-value", 1, "--output-layout", "hwc"
        )
        assert done.code == 0 and np.array_equal(np.load(next((tmp_path / "out").rglob("*.npy"))), array), str(done)

    def test_color_of_16_bits_in_a_ppm(self, tmp_path: Path) -> None:
        array = rng().integers(0, 65536, (5, 7, 3))
        right(stats(file(tmp_path / "a.ppm", pnm(6, array, 65535))), array.reshape(-1, 3).mean(0) / 65535)

    @pytest.mark.parametrize(("samples", "maxval"), [(1, 255), (2, 255), (3, 65535), (4, 65535)])
    def test_pam(self, samples: int, maxval: int, tmp_path: Path) -> None:
        array = rng().integers(0, maxval + 1, (5, 7, samples))
        path = file(tmp_path / "a.pam.pnm", pnm(7, array, maxval))
        colors = samples - (samples in (2, 4))
        right(stats(path), array[:, :, :colors].reshape(35, -1).mean(0) / maxval)

    @pytest.mark.parametrize(("order", "compression"), [(">", "lzw"), ("<", "lzw"), (">", None), (">", "deflate")])
    def test_white_is_zero(self, order: str, compression: str | None, tmp_path: Path) -> None:
        array = rng().integers(0, 65536, (20, 30)).astype("u2")
        how: dict[str, Any] = {"compression": compression, "byteorder": order}
        path = tiff(tmp_path / "a.tif", array, photometric="miniswhite", **how)
        right(stats(path), (65535 - array.astype("f8")).mean() / 65535)

    def test_white_is_zero_of_floats_is_rejected(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "a.tif", np.ones((8, 8), "f4"), photometric="miniswhite")
        assert "white-is-zero TIFF with samples of float32" in stats(path).err

    @pytest.mark.parametrize(("bits", "attribute_bits"), [(15, 0), (16, 1), (16, 0)])
    def test_tga_of_15_bits(self, bits: int, attribute_bits: int, tmp_path: Path) -> None:
        levels = rng().integers(0, 32, (6, 9, 3))
        words = (levels[:, :, 0] << 10 | levels[:, :, 1] << 5 | levels[:, :, 2]).astype("<u2")
        head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 9, 6, bits, 0x20 | attribute_bits)
        done = stats(file(tmp_path / "a.tga", head + words.tobytes()))
        assert np.abs(mean_of(done) - levels.reshape(-1, 3).mean(0) / 31).max() < 1 / 255

    def test_tiff_of_5_6_5_bits(self, tmp_path: Path) -> None:
        levels = rng().integers(0, (32, 64, 32), (6, 8, 3))
        words = (levels[:, :, 0] << 11 | levels[:, :, 1] << 5 | levels[:, :, 2]).astype("<u2")
        path = tiff(tmp_path / "a.tif", flat(0, (6, 8, 3)), photometric="rgb", byteorder="<", rowsperstrip=6)
        with tifffile.TiffFile(path, mode="r+b") as opened:
            page = opened.pages[0]
            page.tags["BitsPerSample"].overwrite((5, 6, 5))
            page.tags["StripByteCounts"].overwrite(96)
            start = page.dataoffsets[0]
        data = path.read_bytes()
        file(path, data[:start] + words.tobytes() + data[start + 96 :])
        done = stats(path)
        if done.statistics is None:
            right_or_rejected(done, 0, "bitspersample")
        else:
            assert np.abs(mean_of(done) - (levels / (31, 63, 31)).reshape(-1, 3).mean(0)).max() < 1 / 255

    @pytest.mark.parametrize(("colors", "extra"), [(1, "ASSOCALPHA"), (3, "ASSOCALPHA")])
    def test_premultiplied_alpha(self, colors: int, extra: str, tmp_path: Path) -> None:
        alpha = rng().integers(1, 256, (20, 30, 1))
        straight = rng(1).integers(0, 256, (20, 30, colors))
        stored = np.concatenate([straight * alpha // 255, alpha], axis=2).astype("u1")
        how = {"photometric": "rgb" if colors == 3 else "minisblack", "planarconfig": "contig"}
        path = tiff(tmp_path / "a.tif", stored, extrasamples=[extra], **how)
        wanted = np.minimum(stored[:, :, :-1].astype("i8") * 255 // alpha, 255)
        right(stats(path), wanted.reshape(600, -1).mean(0) / 255)

    @pytest.mark.parametrize(("bits", "swapped"), [(8, False), (4, False), (8, True), (4, True)])
    def test_bmp_of_two_colors(self, bits: int, swapped: bool, tmp_path: Path) -> None:
        indices = rng().integers(0, 2, (6, 16)).astype("u1")
        colors = [b"\0\0\0\0", b"\xff\xff\xff\0"][:: -1 if swapped else 1]
        rows = indices[::-1]
        packed = rows.tobytes() if bits == 8 else (rows[:, ::2] << 4 | rows[:, 1::2]).tobytes()
        info = struct.pack("<IiiHHIIiiII", 40, 16, 6, 1, bits, 0, len(packed), 0, 0, 2, 2)
        head = b"BM" + struct.pack("<IHHI", 62 + len(packed), 0, 0, 62)
        path = file(tmp_path / "a.bmp", head + info + b"".join(colors) + packed)
        right(stats(path), np.abs(indices.astype("i8") - swapped).mean())

    @pytest.mark.parametrize("offset", [1, 14, 53])
    def test_a_bmp_whose_pixels_begin_in_its_header_is_damaged(self, offset: int, tmp_path: Path) -> None:
        data = bytearray(encoded(flat(100), "BMP"))
        struct.pack_into("<I", data, 10, offset)
        done = stats(file(tmp_path / "a.bmp", bytes(data)))
        assert done.code == 4 and "pixels would begin inside the header" in done.err, str(done)

    def test_a_palette_of_0_to_255(self, tmp_path: Path) -> None:
        array, colors = rng().integers(0, 256, (8, 8)).astype("u1"), rng(1).integers(0, 256, (3, 256)).astype("u2")
        path = tiff(tmp_path / "a.tif", array, photometric="palette", colormap=colors)
        right(stats(path), colors[:, array].reshape(3, -1).mean(1) / 255)

    def test_a_gif_that_leaves_its_canvas_empty(self, tmp_path: Path) -> None:
        data = bytearray(encoded(flat(200, (8, 10)), "GIF"))
        data[6:10] = struct.pack("<HH", 20, 16)
        found = stats(file(tmp_path / "a.gif", bytes(data))).statistics
        assert found is not None and found["composition"]["transparent"] == 1
        right(stats(tmp_path / "a.gif", "--alpha", "weight"), 200 / 255)

    def test_a_heic_of_10_bits_is_said_to_be_cut(self, tmp_path: Path) -> None:
        heif = needs.module("pillow_heif")
        array = rng().integers(0, 65536, (64, 64, 3)).astype("u2")
        picture = heif.from_bytes(mode="RGB;16", size=(64, 64), data=array.tobytes())
        try:
            picture.save(tmp_path / "a.heic", quality=-1)
        except RuntimeError:
            needs.skip("a build of pillow-heif that writes HEIC")
        assert "of 10 or 12 bits read as 8" in stats(tmp_path / "a.heic").err

    def test_a_volume_is_rejected(self, tmp_path: Path) -> None:
        volume = np.zeros((16, 32, 48), "u1")
        path = tiff(tmp_path / "a.tif", volume, photometric="minisblack", volumetric=True, tile=(16, 16, 16))
        assert "a volume, not an image" in stats(path).err

    def test_a_jpeg_2000_palette_is_expanded(self, tmp_path: Path) -> None:
        indices = rng().integers(0, 4, (16, 16)).astype("u1")
        colors = np.array([[0, 0, 0], [255, 255, 0], [255, 255, 0], [255, 0, 255]], "u1")
        code = imagecodecs.jpeg2k_encode(indices, level=0, reversible=True, codecformat="j2k", bitspersample=8)

        def box(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", 8 + len(data)) + kind + data

        palette = struct.pack(">HB3B", 4, 3, 7, 7, 7) + colors.tobytes()
        mapping = b"".join(struct.pack(">HBB", 0, 1, i) for i in range(3))
        boxes = box(b"ihdr", struct.pack(">IIHBBBB", 16, 16, 1, 7, 7, 0, 0))
        boxes += box(b"colr", struct.pack(">BBBI", 1, 0, 0, 16)) + box(b"pclr", palette) + box(b"cmap", mapping)
        start = b"\0\0\0\x0cjP  \r\n\x87\n" + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        path = file(tmp_path / "a.jp2", start + box(b"jp2h", boxes) + box(b"jp2c", code))
        right_or_rejected(stats(path), colors[indices].reshape(-1, 3).mean(0) / 255, "palette")


class TestPages:
    """One image in many pages."""

    def test_bands_last_by_tifffiles_default(self, tmp_path: Path) -> None:
        array = rng().integers(0, 256, (20, 24, 5)).astype("u1")
        done = stats(tiff(tmp_path / "a.tif", array))
        assert done.code == 4 and "20 pages that are parts of an array of shape (20, 24, 5)" in done.err

    @pytest.mark.parametrize("how", [{"ome": True}, {"imagej": True}])
    def test_channels_of_a_microscope_are_all_read(self, how: dict[str, Any], tmp_path: Path) -> None:
        array = rng().integers(0, 65536, (4, 20, 24)).astype("u2")
        path = tiff(tmp_path / "a.tif", array, metadata={"axes": "CYX"}, photometric="minisblack", **how)
        right(stats(path), array.reshape(4, -1).mean(1) / 65535)

    def test_channels_of_the_first_of_several_planes(self, tmp_path: Path) -> None:
        array = rng().integers(0, 65536, (3, 2, 20, 24)).astype("u2")
        for axes in ("ZCYX", "TCYX"):
            path = tiff(tmp_path / "a.ome.tif", array, metadata={"axes": axes}, photometric="minisblack", ome=True)
            done = stats(path)
            right(done, array[0].reshape(2, -1).mean(1) / 65535)
            assert "only the first frame used" in done.err

    def test_frames_of_color_are_still_frames(self, tmp_path: Path) -> None:
        array = rng().integers(0, 65536, (3, 20, 24, 3)).astype("u2")
        path = tiff(tmp_path / "a.ome.tif", array, metadata={"axes": "ZYXS"}, photometric="rgb", ome=True)
        done = stats(path)
        right(done, array[0].reshape(-1, 3).mean(0) / 65535)
        assert "only the first frame used" in done.err

    def test_frames_are_still_frames(self, tmp_path: Path) -> None:
        array = rng().integers(0, 256, (4, 20, 24)).astype("u1")
        done = stats(tiff(tmp_path / "a.tif", array, photometric="minisblack"))
        right(done, array[0].mean() / 255)
        assert "only the first frame used" in done.err


class TestBandsAsColor:
    """Three bands that say that black is zero."""

    def test_asked_to_be_rgb(self, tmp_path: Path) -> None:
        for dtype, white in (("u2", 65535), ("u1", 255), ("f4", 1)):
            array = rng().integers(0, 256, (8, 8, 3)).astype(dtype)
            path = tiff(tmp_path / f"{dtype}.tif", array, photometric="minisblack", planarconfig="contig")
            done = stats(path, "--color", "rgb")
            right(done, array.reshape(-1, 3).mean(0) / white, 1e-6)
            assert done.statistics is not None and done.statistics["channels"] == ["R", "G", "B"]

    def test_one_of_them_among_rgb(self, tmp_path: Path) -> None:
        array = rng().integers(0, 256, (8, 8, 3)).astype("u1")
        (tmp_path / "d").mkdir()
        tiff(tmp_path / "d/a.tif", array, photometric="minisblack", planarconfig="contig")
        tiff(tmp_path / "d/b.tif", array, photometric="rgb")
        done = stats(tmp_path / "d")
        assert done.statistics is not None and done.statistics["channels"] == ["R", "G", "B"]
        assert "not marked as RGB" in done.err

    def test_alone_they_are_bands(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "a.tif", flat(9), photometric="minisblack", planarconfig="contig")
        found = stats(path).statistics
        assert found is not None and found["channels"] == ["0", "1", "2"]
        assert "--color rgb takes three bands" in stats(path, "--color", "gray").err


class TestWideIntegers:
    """64-bit integers are exact up to 2^53; beyond, a message says what to do."""

    @pytest.mark.parametrize("dtype", ["i8", "u8"])
    def test_small_ones_are_raw_units(self, dtype: str, tmp_path: Path) -> None:
        array = rng().integers(0, 256, (5, 8, 8, 3)).astype(dtype)
        np.save(tmp_path / "a.npy", array)
        right(stats(tmp_path / "a.npy"), array.mean((0, 1, 2)))
        right(stats(tmp_path / "a.npy", "--max-value", 255), array.mean((0, 1, 2)) / 255)
        path = tiff(tmp_path / "a.tif", array[0], photometric="rgb")
        right(stats(path), array[0].mean((0, 1)))

    @pytest.mark.parametrize(("dtype", "value"), [("i8", -(1 << 60)), ("u8", (1 << 53) + 1)])
    def test_large_ones_say_what_to_do(self, dtype: str, value: int, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.full((8, 8), value, dtype))
        done = stats(tmp_path / "a.npy")
        assert done.code == 4 and "save them as int32 or float64" in done.err


class TestText:
    """Text in place of an image."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a.png\nb.png\n", "--files-from"),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git lfs pull"),
            ("<!DOCTYPE html>\n<html><body>404</body></html>\n", "an HTML page"),
            ('<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>\n', "an SVG drawing"),
            ("#define a_width 8\nstatic char a_bits[] = {0};\n", "X bitmap"),
        ],
    )
    @pytest.mark.parametrize("name", ["a.txt", "a.png", "a.jpg"])
    def test_is_called_text(self, text: str, words: str, name: str, tmp_path: Path) -> None:
        done = stats(file(tmp_path / name, text.encode()))
        assert done.code == 4 and words in done.err and "damaged" not in done.err


class TestStacks:
    """Arrays of images: which of them, and which axes."""

    @pytest.mark.parametrize("names", [("images", "masks"), ("x_train", "x_test"), ("a", "b")])
    def test_of_several_arrays_none_is_taken(self, names: tuple[str, str], tmp_path: Path) -> None:
        stacks = {name: rng(i).integers(0, 256, (5, 16, 16, 3)).astype("u1") for i, name in enumerate(names)}
        np.savez(tmp_path / "a.npz", **stacks)  # type: ignore[arg-type]
        done = stats(tmp_path / "a.npz")
        assert done.code == 2 and f"-O column={names[0]} or -O column={names[1]}" in done.err
        right(stats(tmp_path / "a.npz", "-O", f"column={names[1]}"), stacks[names[1]].mean((0, 1, 2)) / 255)

    def test_labels_make_a_stack(self, tmp_path: Path) -> None:
        images = rng().integers(0, 256, (12, 16, 20)).astype("u1")
        np.savez(tmp_path / "a.npz", x=images, y=np.arange(12) % 2)
        right(stats(tmp_path / "a.npz"), images.mean() / 255)

    @pytest.mark.parametrize("shape", [(13, 40, 40), (40, 50, 13), (5, 40, 30)])
    def test_bands_are_asked_for(self, shape: tuple[int, int, int], tmp_path: Path) -> None:
        array = rng().random(shape)
        np.save(tmp_path / "a.npy", array)
        done = stats(tmp_path / "a.npy")
        assert done.code == 2 and "may be nhw, hwc or chw" in done.err
        right(stats(tmp_path / "a.npy", "-O", "layout=chw"), array.mean((1, 2)))

    def test_a_stack_that_is_guessed_is_said(self, tmp_path: Path) -> None:
        array = rng().integers(0, 256, (60, 28, 28)).astype("u1")
        np.save(tmp_path / "a.npy", array)
        done = stats(tmp_path / "a.npy")
        right(done, array.mean() / 255)
        assert "read as 60 gray images of 28 x 28 (-O layout=chw or hwc" in done.err


class TestHints:
    """Hints of messages work when they are followed."""

    @pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
    def test_arrays_that_include_names(self, kind: str, tmp_path: Path) -> None:
        arrays = [rng(i).integers(0, 256, (8, 10, 3)).astype("u1") for i in range(3)]
        members = []
        for i, array in enumerate(arrays):
            buffer = io.BytesIO()
            np.save(buffer, array)
            members.append((f"{i}.npy", buffer.getvalue()))
        source = packed(tmp_path, kind, members)
        hint = stats(source, "--failures", tmp_path / "f.jsonl")
        assert hint.code == 4 and "--include '*.npy'" in (tmp_path / "f.jsonl").read_text()
        for more in ([], ["-O", "layout=hwc"]):
            right(stats(source, "--include", "*.npy", *more), np.mean(arrays, axis=(0, 1, 2)) / 255)

    def test_an_incremental_run_over_arrays(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        arguments = ["stats", tmp_path / "d", "--include", "*.npy", "-o", tmp_path / "s.json", "--incremental"]
        for value in (10, 30):
            np.save(tmp_path / f"d/{value}.npy", flat(value))
            done = run_here(*arguments)
            assert done.code == 0, str(done)
        assert np.allclose(json.loads((tmp_path / "s.json").read_text())["mean"], 20 / 255)

    def test_other_layouts_of_arrays_in_a_folder(self, tmp_path: Path) -> None:
        array = rng().integers(0, 256, (6, 8, 10)).astype("u1")
        (tmp_path / "d").mkdir()
        np.save(tmp_path / "d/a.npy", array)
        right(stats(tmp_path / "d", "--include", "*.npy", "-O", "layout=chw"), array.mean((1, 2)) / 255)


def packed(folder: Path, kind: str, members: list[tuple[str, bytes]]) -> Path:
    """Files in a folder, a zip or a tar."""
    if kind == "folder":
        for name, data in members:
            file(folder / "packed" / name, data)
        return folder / "packed"
    path = folder / f"packed.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(120)


class TestLeftBySystems:
    """Hidden folders, and files that systems leave."""

    @pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            (".ipynb_checkpoints/1-checkpoint.png", "hidden"),
            ("cat/.thumbnails/1.png", "hidden"),
            ("cat/@eaDir/1.png", "system-folder"),
            ("cat/.2.png", "hidden"),
            ("__MACOSX/cat/1.png", "macos-metadata"),
        ],
    )
    def test_does_not_count_and_is_said(self, name: str, reason: str, kind: str, tmp_path: Path) -> None:
        members = [("cat/1.png", encoded(flat(100))), ("cat/2.png", encoded(flat(200))), (name, encoded(flat(9)))]
        source = packed(tmp_path, kind, members)
        done = stats(source)
        right(done, [150 / 255] * 3)
        assert done.code == 0 and f"1 {reason}" in done.err
        if reason == "hidden":
            right(stats(source, "--include", name), [9 / 255] * 3)

    @pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
    def test_apple_double(self, kind: str, tmp_path: Path) -> None:
        source = packed(tmp_path, kind, [("d/1.png", encoded(flat(100))), ("d/._1.png", APPLE)])
        done = stats(source)
        right(done, [100 / 255] * 3)
        assert done.code == 0 and "1 macos-metadata" in done.err


class TestSamples:
    """WebDataset: several images of a sample, labels that lie apart."""

    @pytest.mark.parametrize("parts", [("rgb.png", "depth.png", "seg.png"), ("jpg", "png"), ("left.jpg", "right.jpg")])
    def test_of_several_images_none_is_taken(self, parts: tuple[str, ...], tmp_path: Path) -> None:
        members = [
            (
                f"{i:04}.{part}",
                encoded(flat(50 * (i + 1) if part == parts[0] else 7), "JPEG" if "jpg" in part else "PNG"),
            )
            for i in range(3)
            for part in parts
        ]
        source = packed(tmp_path, "tar", members)
        done = stats(source)
        assert f"--include '*.{parts[0]}'" in done.err and done.err.count("sample 0000") == 1
        assert done.code == (2 if any("." in part for part in parts) else 0)  # else an archive of two formats
        right(stats(source, "--include", f"*.{parts[0]}"), [100 / 255] * 3, 0.01)

    def test_views_of_one_kind_are_all_read(self, tmp_path: Path) -> None:
        members = [(f"0000.{i}.png", encoded(flat(100 * i))) for i in range(3)]
        right(stats(packed(tmp_path, "tar", members)), [100 / 255] * 3)

    @pytest.mark.parametrize(("suffix", "text"), [(".cls", "{}"), (".json", '{{"label": {}}}')])
    def test_labels_that_lie_apart_are_said(self, suffix: str, text: str, tmp_path: Path) -> None:
        members = [(f"{key}.png", encoded(flat(value))) for key, value in (("a", 50), ("b", 200))]
        members += [(f"{key}{suffix}", text.format(i).encode()) for i, key in enumerate("ab")]
        done = stats(packed(tmp_path, "tar", members), "--group-by", "label")
        assert "2 unused-label" in done.err
        beside = stats(packed(tmp_path, "tar", sorted(members)), "--group-by", "label").statistics
        assert beside is not None and sorted(beside["groups"]) == ["0", "1"]

    def test_labels_of_folders_that_come_after_all_images_are_said(self, tmp_path: Path) -> None:
        """The order is that of `tar --sort=none images labels`."""
        members = [(f"images/{key}.png", encoded(flat(value))) for key, value in (("a", 50), ("b", 200))]
        members += [(f"labels/{key}.cls", str(i).encode()) for i, key in enumerate("ab")]
        done = stats(packed(tmp_path, "tar", members), "--group-by", "label")
        assert "2 unused-label" in done.err, str(done)

    @pytest.mark.parametrize("label", ["{}.cls", "labels/{}.cls"])
    def test_labels_of_all_images_that_come_first_are_said(self, label: str, tmp_path: Path) -> None:
        members = [(label.format(key), str(i).encode()) for i, key in enumerate("ab")]
        members += [(f"{key}.png", encoded(flat(value))) for key, value in (("a", 50), ("b", 200))]
        done = stats(packed(tmp_path, "tar", members), "--group-by", "label")
        assert done.statistics is not None and "2 unused-label" in done.err, str(done)

    @pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
    @pytest.mark.parametrize("name", ["labels.csv", "train/annotations.tsv", "LABELS.CSV"])
    def test_a_table_of_labels_is_not_joined_in_silence(self, name: str, kind: str, tmp_path: Path) -> None:
        members = [("a.png", encoded(flat(50))), ("b.png", encoded(flat(200)))]
        source = packed(tmp_path, kind, [*members, (name, b"file,label\na.png,x\nb.png,y\n")])
        done = stats(source, "--group-by", "label", "--failures", tmp_path / "f.jsonl")
        assert "1 unused-table" in done.err, str(done)
        assert "as SOURCE it lists images and labels" in (tmp_path / "f.jsonl").read_text()
        if kind == "folder":
            return
        assert "no image has a class" in done.err
        assert "no image has a class" not in stats(source).err

    def test_the_table_as_source_joins_them(self, tmp_path: Path) -> None:
        members = [("a.png", encoded(flat(50))), ("b.png", encoded(flat(200)))]
        source = packed(tmp_path, "folder", [*members, ("labels.csv", b"file,label\na.png,x\nb.png,y\n")])
        found = stats(source / "labels.csv", "--group-by", "label").statistics
        assert found is not None and sorted(found["groups"]) == ["x", "y"]


class TestTables:
    """Columns of pictures, of labels, and of bytes in other layouts."""

    @staticmethod
    def pictures() -> tuple[list[bytes], Array]:
        arrays = [rng(i).integers(0, 256, (8, 10, 3)).astype("u1") for i in range(4)]
        return [encoded(array) for array in arrays], np.mean(arrays, axis=(0, 1, 2)) / 255

    @pytest.mark.parametrize("name", ["label", "labels", "target"])
    @pytest.mark.parametrize("plain", [False, True])
    def test_pictures_as_labels(self, name: str, plain: bool, tmp_path: Path) -> None:
        pa, pq = needs.module("pyarrow"), needs.module("pyarrow.parquet")
        data, mean = self.pictures()
        kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows: list[Any] = data if plain else [{"bytes": row, "path": None} for row in data]
        masks = [encoded(np.eye(8, 10, dtype="u1")) for _ in data]
        mask_rows: list[Any] = masks if plain else [{"bytes": row, "path": None} for row in masks]
        pq.write_table(
            pa.table({"image": pa.array(rows, kind), name: pa.array(mask_rows, kind)}), tmp_path / "a.parquet"
        )
        done = stats(tmp_path / "a.parquet", "--group-by", "label")
        right(done, mean)
        assert done.statistics is not None and list(done.statistics["groups"]) == ["."]

    @pytest.mark.parametrize(
        "layout", ["binary_view", "large_binary", "dictionary", "fixed", "list", "struct of views"]
    )
    def test_bytes_are_bytes(self, layout: str, tmp_path: Path) -> None:
        pa, pq = needs.module("pyarrow"), needs.module("pyarrow.parquet")
        data, mean = self.pictures()
        if layout == "fixed":
            data, mean = [data[0]] * 2, np.asarray(Image.open(io.BytesIO(data[0]))).mean((0, 1)) / 255
        column = {
            "binary_view": lambda: pa.array(data, pa.binary_view()),
            "large_binary": lambda: pa.array(data, pa.large_binary()),
            "dictionary": lambda: pa.array(data, pa.binary()).dictionary_encode(),
            "fixed": lambda: pa.array(data, pa.binary(len(data[0]))),
            "list": lambda: pa.array([list(row) for row in data], pa.list_(pa.uint8())),
            "struct of views": lambda: pa.array(
                [{"bytes": row} for row in data], pa.struct([("bytes", pa.binary_view())])
            ),
        }[layout]()
        pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
        right(stats(tmp_path / "a.parquet", "-O", "column=image"), mean)
        if layout != "list":
            right(stats(tmp_path / "a.parquet"), mean)

    @pytest.mark.parametrize("kind", ["dictionary", "string_view", "int8"])
    def test_labels_of_other_types(self, kind: str, tmp_path: Path) -> None:
        pa, pq = needs.module("pyarrow"), needs.module("pyarrow.parquet")
        data, _ = self.pictures()
        labels = {
            "dictionary": lambda: pa.array(["x", "y", "x", "y"]).dictionary_encode(),
            "string_view": lambda: pa.array(["x", "y", "x", "y"], pa.string_view()),
            "int8": lambda: pa.array([0, 1, 0, 1], pa.int8()),
        }[kind]()
        pq.write_table(pa.table({"image": pa.array(data, pa.binary()), "label": labels}), tmp_path / "a.parquet")
        found = stats(tmp_path / "a.parquet", "--group-by", "label").statistics
        assert found is not None and sorted(found["groups"]) == (["0", "1"] if kind == "int8" else ["x", "y"])


class TestHuggingFaceFolders:
    """A folder of the datasets library is a source by its name; its splits are kept apart."""

    @staticmethod
    def table(values: list[int]) -> Any:
        pa = needs.module("pyarrow")
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = [{"bytes": encoded(flat(value)), "path": None} for value in values]
        return pa.table({"image": pa.array(rows, kind), "label": pa.array([v % 2 for v in values])})

    def shards(self, folder: Path, form: str) -> Path:
        """Two splits: train of 10, 20, 30 and test of 200."""
        pa, pq = needs.module("pyarrow"), needs.module("pyarrow.parquet")
        parts = {"train": [[10, 20], [30]], "test": [[200]]}
        for split, values in parts.items():
            for i, row in enumerate(values):
                table = self.table(row)
                if form == "parquet":
                    path = folder / f"data/{split}-{i:05}-of-{len(values):05}.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pq.write_table(table, path)
                    continue
                path = folder / split / f"data-{i:05}-of-{len(values):05}.arrow"
                path.parent.mkdir(parents=True, exist_ok=True)
                with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table)
            if form == "arrow":
                names = [{"filename": f"data-{i:05}-of-{len(values):05}.arrow"} for i in range(len(values))]
                (folder / split / "state.json").write_text(json.dumps({"_data_files": names, "_split": split}))
        if form == "arrow":
            (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
        return folder

    @pytest.mark.parametrize("form", ["parquet", "arrow"])
    def test_splits(self, form: str, tmp_path: Path) -> None:
        source = self.shards(tmp_path / "d", form)
        done = stats(source)
        assert done.code == 2 and "-O split=" in done.err
        right(stats(source, "-O", "split=train"), [20 / 255] * 3)
        right(stats(source, "-O", "split=test"), [200 / 255] * 3)
        right(stats(source, "-O", "split=all"), [65 / 255] * 3)
        assert "no split 'x'" in stats(source, "-O", "split=x").err
        groups = stats(source, "-O", "split=train", "--group-by", "label").statistics
        assert groups is not None and groups["groups"]["0"]["images"] == 3

    def test_one_split_of_save_to_disk(self, tmp_path: Path) -> None:
        source = self.shards(tmp_path / "d", "arrow")
        right(stats(source / "train"), [20 / 255] * 3)
        right(stats(source / "train/data-00001-of-00002.arrow"), [30 / 255] * 3)
        done = run_here("apply", source / "train", "-o", tmp_path / "out", "--scheme", "unit", "--json")
        assert done.code == 0 and done.statistics is not None and done.statistics["images"] == 3, str(done)

    def test_an_arrow_file_with_a_footer(self, tmp_path: Path) -> None:
        pa = needs.module("pyarrow")
        table = self.table([40, 60])
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        right(stats(tmp_path / "a.arrow"), [50 / 255] * 3)

    @pytest.mark.parametrize("cut", [10, 200, -200, -8])
    def test_a_cut_arrow_file_is_damaged(self, cut: int, tmp_path: Path) -> None:
        source = self.shards(tmp_path / "d", "arrow") / "train/data-00000-of-00002.arrow"
        done = stats(file(tmp_path / "a.arrow", source.read_bytes()[:cut]))
        assert done.code == 4 and re.search("1 (truncated|damaged)", done.err), str(done)

    def test_an_arrow_table_without_bounds_is_rejected(self, tmp_path: Path) -> None:
        pa = needs.module("pyarrow")
        bomb = pa.table({"image": pa.array([bytes(1 << 24)] * 8)})
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink:
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            with pa.ipc.new_stream(sink, bomb.schema, options=options) as writer:
                writer.write_table(bomb)
        assert (tmp_path / "a.arrow").stat().st_size < 100_000
        assert "a compressed batch of more than" in stats(tmp_path / "a.arrow").err
        source = self.shards(tmp_path / "d", "arrow") / "train/data-00000-of-00002.arrow"
        data = bytearray(source.read_bytes())
        at = data.rindex(b"\xff\xff\xff\xff", 0, len(data) - 8)  # of the batch
        length = next(i for i in range(at + 8, len(data) - 8) if 100 < int.from_bytes(data[i : i + 8], "little") < 4000)
        data[length : length + 8] = (1 << 40).to_bytes(8, "little")
        done = stats(file(tmp_path / "b.arrow", bytes(data)))
        assert done.code == 4 and "internal" not in done.err, str(done)

    @pytest.mark.parametrize("form", ["parquet", "arrow"])
    def test_incremental_runs(self, form: str, tmp_path: Path) -> None:
        source = self.shards(tmp_path / "d", form)
        arguments = ["stats", source, "-O", "split=train", "-o", tmp_path / "s.json", "--incremental"]
        assert run_here(*arguments).code == 0
        again = run_here(*arguments)
        assert again.code == 0, str(again)
        right(stats(source, "-O", "split=train"), json.loads((tmp_path / "s.json").read_text())["mean"])
        assert run_here("stats", source, "-O", "split=test", "-o", tmp_path / "s.json", "--incremental").code == 0
        assert np.allclose(json.loads((tmp_path / "s.json").read_text())["mean"], 200 / 255)

    @pytest.mark.parametrize("form", ["csv", "jsonl"])
    def test_images_with_metadata(self, form: str, tmp_path: Path) -> None:
        for split, values in (("train", [10, 30]), ("test", [200])):
            rows = []
            for i, value in enumerate(values):
                file(tmp_path / f"d/{split}/{i}.png", encoded(flat(value)))
                rows.append({"file_name": f"{i}.png", "label": "ab"[i]})
            lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
            text = "\n".join(lines if form == "csv" else map(json.dumps, rows)) + "\n"
            (tmp_path / f"d/{split}/metadata.{form}").write_text(text)
        assert "-O split=train" in stats(tmp_path / "d").err
        done = stats(tmp_path / "d/train", "--group-by", "label")
        right(done, [20 / 255] * 3)
        assert done.statistics is not None and sorted(done.statistics["groups"]) == ["a", "b"]
        right(stats(tmp_path / "d", "-O", "split=test"), [200 / 255] * 3)

    def test_another_metadata_file_is_no_dataset(self, tmp_path: Path) -> None:
        file(tmp_path / "d/a.png", encoded(flat(9)))
        (tmp_path / "d/metadata.csv").write_text("key,value\ncamera,7\n")
        right(stats(tmp_path / "d"), [9 / 255] * 3)

    @pytest.mark.parametrize("text", ["", "[]", '{"_data_files": [{"filename": "../x.arrow"}]}', '{"_data_files": 3}'])
    def test_a_forged_state_ends_in_one_line(self, text: str, tmp_path: Path) -> None:
        source = self.shards(tmp_path / "d", "arrow") / "train"
        (source / "state.json").write_text(text)
        done = stats(source)
        assert done.code == 4 and done.is_error and "state.json" in done.err and "internal" not in done.err


class TestCheckConfig:
    """The pair of mean and std that a file means."""

    @staticmethod
    def check(folder: Path, name: str, text: str, channels: int = 3) -> Outcome:
        picture = rng().normal((0.485, 0.456, 0.406)[:channels], 0.22, (64, 64, channels))
        file(folder / "x/a.png", encoded(np.clip(picture * 255, 0, 255).astype("u1")))
        run_here("stats", folder / "x", "-q", "-f", "-o", folder / "s.json")
        found = json.loads((folder / "s.json").read_text())
        mean, std = ([round(v, 4) for v in found[key]] for key in ("mean", "std"))
        bgr = [round(v * 255, 3) for v in found["mean"][::-1]]
        text = text.replace("<MEAN>", str(mean)).replace("<STD>", str(std)).replace("<BGR>", str(bgr))
        file(folder / name, text.encode())
        return run_here("check", folder / "s.json", "--config", folder / name)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.yml", "normalize:\n   std: <STD>\n   mean: <MEAN>\n"),
            ("a.yml", "latent_mean: 0\nmean: <MEAN>\nstd: <STD>\n"),
            ("a.yml", "other:\n  mean: [9, 9, 9]\nmodel:\n  - std: <STD>\n    mean: <MEAN>\n"),
            ("a.yml", "norm: {std: <STD>, mean: <MEAN>}\n"),
            ("a.toml", "[a]\nstd = <STD>\nmean = <MEAN>\n[b]\nlearning_rate = 1\n"),
            ("a.json", '{"std": [<STD>], "mean": [<MEAN>], "latent_mean": 0}'),
            ("a.py", "nn.init.normal_(w, mean=0.0, std=0.02)\nt = T.Normalize(std=<STD>, mean=<MEAN>)\n"),
        ],
    )
    def test_the_pair_of_a_block(self, name: str, text: str, tmp_path: Path) -> None:
        done = self.check(tmp_path, name, text)
        assert done.out.startswith("match") and "given std" in done.out, done.out + done.err

    @pytest.mark.parametrize("text", ["PIXEL_MEAN: <BGR>\nPIXEL_STD: [1.0, 1.0, 1.0]\n", "mean: <MEAN>\nstd: 1\n"])
    def test_a_std_of_1_divides_nothing(self, text: str, tmp_path: Path) -> None:
        done = self.check(tmp_path, "a.yaml", text)
        assert done.code == 0 and done.out.startswith("match") and "divides nothing" in done.out, done.out

    @pytest.mark.parametrize(
        ("name", "text"),
        [("a.py", "T.Normalize((0.5,), (0.5,))\n"), ("a.yml", "mean: 0.5\nstd: 0.5\n"), ("a.json", '{"mean": [0.5]}')],
    )
    def test_one_number_is_for_every_channel(self, name: str, text: str, tmp_path: Path) -> None:
        done = self.check(tmp_path, name, text)
        assert done.code in (0, 1) and "R" in done.out and done.out.count("0.5 ") >= 3, str(done) + done.out


class TestFloatsWithoutRange:
    """Float images from 0 to 255 meet constants of 0 to 1."""

    @pytest.mark.parametrize("constants", [["--preset", "imagenet"], ["--mean", "0.5", "--std", "0.2"]])
    def test_apply_says_so(self, constants: list[str], tmp_path: Path) -> None:
        channels = 1 if "--mean" in constants else 3
        array = rng().integers(0, 256, (40, 40, channels)).astype("f4")
        path = tiff(
            tmp_path / "a.tif",
            array if channels == 3 else array[:, :, 0],
            photometric="rgb" if channels == 3 else "minisblack",
        )
        done = run_here("apply", path, "-o", tmp_path / "out", *constants)
        assert done.code == 0 and "--max-value 255" in done.err

    @pytest.mark.parametrize("dtype", ["f8", "i4"])
    def test_other_raw_units_are_said_too(self, dtype: str, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", rng().integers(0, 256, (1, 40, 48, 3)).astype(dtype))
        done = run_here("apply", tmp_path / "a.npy", "-o", tmp_path / "out", "--preset", "imagenet")
        assert done.code == 0 and "--max-value 255" in done.err, str(done)

    def test_floats_of_0_to_1_are_not_told(self, tmp_path: Path) -> None:
        path = tiff(tmp_path / "a.tif", rng().random((40, 40, 3)).astype("f4"), photometric="rgb")
        done = run_here("apply", path, "-o", tmp_path / "out", "--preset", "imagenet")
        assert "--max-value 255" not in done.err


# kind -> number of public cases, and the tests that hold them and their siblings
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "1 bytes swapped": (2, ("TestBigEndianTiff.test_one_band",)),
    "2 JPEG 2000 shifted": (
        2,
        (
            "TestOtherDepths.test_jpeg_2000",
            "TestOtherDepths.test_signed_jpeg_2000_is_in_raw_units",
            "TestOtherDepths.test_color_of_12_bits_and_its_alpha",
        ),
    ),
    "3 maxval": (3, ("TestOtherDepths.test_pnm_of_more_than_8_bits", "TestOtherDepths.test_pnm_of_a_small_maxval")),
    "4 transparent level": (2, ("TestTransparentLevel.test_weighted", "TestTransparentLevel.test_color")),
    "5 orientation": (1, ("TestOrientation.test_tiff", "TestOrientation.test_png_of_16_bit_color")),
    "6 floats with a range": (
        2,
        (
            "TestFloatsWithMaxValue.test_the_same_pixels_do_not_differ",
            "TestFloatsWithMaxValue.test_exporters_know_the_range",
        ),
    ),
    "7 masks and EXIF": (1, ("TestMasks.test_drawn_on_the_upright_picture",)),
    "8 nodata": (1, ("TestNoData.test_is_said", "TestNoData.test_a_band_has_its_own")),
    "9 stacks pooled": (1, ("TestStacks.test_of_several_arrays_none_is_taken", "TestStacks.test_labels_make_a_stack")),
    "10 bands taken for images": (1, ("TestStacks.test_bands_are_asked_for",)),
    "11 columns of pictures": (2, ("TestTables.test_pictures_as_labels", "TestTables.test_bytes_are_bytes")),
    "12 check --config": (
        4,
        (
            "TestCheckConfig.test_the_pair_of_a_block",
            "TestCheckConfig.test_a_std_of_1_divides_nothing",
            "TestCheckConfig.test_one_number_is_for_every_channel",
        ),
    ),
    "13 healthy files called damaged": (
        4,
        (
            "TestOtherDepths.test_tiff",
            "TestOtherDepths.test_jpeg",
            "TestHealthyFiles.test_pfm",
            "TestHealthyFiles.test_white_is_zero",
        ),
    ),
    "14 hints": (
        2,
        (
            "TestHints.test_arrays_that_include_names",
            "TestHints.test_other_layouts_of_arrays_in_a_folder",
            "TestHuggingFaceFolders.test_splits",
        ),
    ),
    "15 left by systems": (
        2,
        ("TestLeftBySystems.test_does_not_count_and_is_said", "TestLeftBySystems.test_apple_double"),
    ),
    "16 several images of a sample": (1, ("TestSamples.test_of_several_images_none_is_taken",)),
    "17 labels apart": (
        1,
        (
            "TestSamples.test_labels_that_lie_apart_are_said",
            "TestSamples.test_labels_of_folders_that_come_after_all_images_are_said",
            "TestSamples.test_labels_of_all_images_that_come_first_are_said",
        ),
    ),
    "18 lossy masks": (
        1,
        ("TestMasks.test_a_lossy_mask_counts_from_half", "TestMasks.test_a_lossy_mask_of_class_numbers_is_rejected"),
    ),
    "19 bands as pages": (
        1,
        ("TestPages.test_bands_last_by_tifffiles_default", "TestPages.test_channels_of_a_microscope_are_all_read"),
    ),
    "20 wide integers": (
        1,
        ("TestWideIntegers.test_small_ones_are_raw_units", "TestWideIntegers.test_large_ones_say_what_to_do"),
    ),
    "21 RGB that says black is zero": (
        1,
        (
            "TestBandsAsColor.test_asked_to_be_rgb",
            "TestBandsAsColor.test_one_of_them_among_rgb",
            "TestBandsAsColor.test_alone_they_are_bands",
        ),
    ),
    "22 floats of 0 to 255": (
        1,
        ("TestFloatsWithoutRange.test_apply_says_so", "TestFloatsWithoutRange.test_other_raw_units_are_said_too"),
    ),
    "23 text": (1, ("TestText.test_is_called_text",)),
}


def test_every_kind_has_its_cases_and_two_siblings() -> None:
    def cases_of(name: str) -> int:
        owner, _, test = name.partition(".")
        marks = getattr(getattr(globals()[owner], test), "pytestmark", [])
        return math.prod(len(mark.args[1]) for mark in marks if mark.name == "parametrize")

    assert len(KINDS) == 23 and sum(cases for cases, _ in KINDS.values()) == 38
    for kind, (cases, tests) in KINDS.items():
        assert sum(map(cases_of, tests)) >= cases + 2, kind
