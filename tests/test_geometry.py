"""Resize, letterbox, crop: sides, offsets and fills against the libraries' formulas; every kind of image; files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import normcli
from normcli import images
from normcli.errors import InputError, UsageError
from normcli.images import geometry
from normcli.images.convert import Decoded
from normcli.images.geometry import place
from normcli.options.shared import DecodeOptions
from normcli.options.stats import StatsOptions
from tests.support.command import Run
from tests.support.images import encoded, photograph

Array = np.ndarray[Any, Any]


def reading(**options: Any) -> DecodeOptions:
    return StatsOptions(**options).part(DecodeOptions)


def pixels_of(data: bytes | Array, **options: Any) -> Array:
    return images.decode(data, reading(**options)).pixels


def reason(data: bytes | Array, **options: Any) -> tuple[str, str]:
    with pytest.raises(InputError) as raised:
        pixels_of(data, **options)
    return raised.value.reason, raised.value.message


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"resize": "224x"}, "`resize`: must be N, HxW, longest:N or N,longest:M"),
            ({"resize": "0x5"}, "`resize`"),
            ({"resize": -3}, "`resize`"),
            ({"resize": True}, "`resize`"),
            ({"resize": "longest:0"}, "`resize`"),
            ({"resize": "800,longest:700"}, "`resize`"),
            ({"resize": "9" * 30}, "`resize`"),
            ({"center_crop": "longest:5"}, "`center_crop`: must be N or HxW"),
            ({"center_crop": (3, 0)}, "`center_crop`"),
            ({"resize": "longest:9", "pad": "black"}, "`pad`: must be V or V,V,V"),
            ({"resize": "longest:9", "pad": "0:left"}, "`pad`"),
            ({"resize": "longest:9", "pad": float("nan")}, "`pad`"),
            ({"pad": 0}, "`pad` requires `center_crop`"),
            ({"resize": 9, "pad": 0}, "`pad` requires `center_crop`"),
            ({"resize": "9,longest:20", "pad": 0}, "`pad` requires `center_crop`"),
            ({"interpolation": "bicubic"}, "`interpolation` requires `resize`"),
            ({"resize": 9, "interpolation": "bicupic"}, "did you mean 'bicubic'"),
            ({"like": "timm"}, "`like` timm requires `resize`"),
        ],
    )
    def test_wrong_values_are_one_line(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(UsageError) as raised:
            StatsOptions(**options)
        assert words in str(raised.value) and "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"resize": "256"}, {"resize": np.int64(256)}),
            ({"resize": "48x64"}, {"resize": (48, 64)}),
            ({"resize": 9, "interpolation": "bilinear"}, {"resize": 9}),
            ({"center_crop": "5x5"}, {"center_crop": 5}),
            ({"center_crop": 5, "pad": "0,0,0"}, {"center_crop": 5, "pad": (0.0, 0, 0)}),
            ({"resize": 9, "center_crop": 5, "like": "timm"}, {"resize": 9, "center_crop": 5}),
            ({"resize": "9x9", "like": "huggingface"}, {"resize": "9x9", "like": "torchvision"}),
        ],
    )
    def test_equal_geometries_have_equal_settings(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        assert reading(**one) == reading(**other)


sides = st.integers(1, 3000)


class TestSides:
    @given(sides, sides, st.integers(1, 600))
    def test_the_shorter_side_is_torchvisions(self, width: int, height: int, n: int) -> None:
        longer = int(n * max(width, height) / min(width, height))
        want = (n, longer) if width <= height else (longer, n)
        assert place(width, height, reading(resize=n)).size == want

    @given(sides, sides, st.integers(1, 600))
    def test_a_letterbox_is_ultralytics(self, width: int, height: int, n: int) -> None:
        placed = place(width, height, reading(resize=f"longest:{n}", pad=114, like="ultralytics"))
        ratio = min(n / height, n / width)
        unpadded = max(round(width * ratio), 1), max(round(height * ratio), 1)
        left, top, right, bottom = placed.padding
        for side, low, high in ((0, left, right), (1, top, bottom)):
            rest = (n - unpadded[side]) / 2
            assert (low, high) == (round(rest - 0.1), round(rest + 0.1))
        assert (placed.scaled, placed.size) == (unpadded, (n, n))

    @given(sides, sides, st.integers(1, 300), st.integers(1, 300))
    def test_a_padded_crop_is_torchvisions(self, width: int, height: int, crop_w: int, crop_h: int) -> None:
        placed = place(width, height, reading(center_crop=(crop_h, crop_w), pad=0))
        for axis, (have, want) in enumerate(((width, crop_w), (height, crop_h))):
            before, after = placed.padding[axis], placed.padding[axis + 2]
            assert (before, after) == (((want - have) // 2, (want - have + 1) // 2) if want > have else (0, 0))
            assert placed.origin[axis] == round((have + before + after - want) / 2.0)
        assert placed.size == (crop_w, crop_h)

    @given(sides, sides, st.integers(1, 600), st.sampled_from(["torchvision", "huggingface", "timm", "mmcv"]))
    def test_a_fit_touches_its_box_and_stays_inside(self, width: int, height: int, n: int, library: str) -> None:
        scaled = place(width, height, reading(resize=f"longest:{n}", like=library)).size
        assert max(scaled) in (n, n - (library == "huggingface")) and min(scaled) >= 1
        exact = n / max(width, height)
        assert all(abs(s - side * exact) <= 1 for s, side in zip(scaled, (width, height), strict=True))

    @given(st.integers(20, 3000), st.integers(20, 3000))
    def test_both_bounds_are_kept(self, width: int, height: int) -> None:
        for library in ("torchvision", "mmcv"):
            scaled = place(width, height, reading(resize="200,longest:333", like=library)).size
            assert max(scaled) <= 334 and min(scaled) <= 200 and (min(scaled) == 200 or max(scaled) >= 330)

    def test_an_odd_rest_is_rounded_as_each_library_does(self) -> None:
        origins = [place(7, 9, reading(center_crop=4, like=name)).origin for name in ("torchvision", "huggingface")]
        assert origins == [(2, 2), (1, 2)]  # half to even; down

    def test_the_limit_counts_what_is_made(self) -> None:
        small = encoded(photograph(8, 8))
        for options in ({"resize": "400x400"}, {"resize": "longest:400", "pad": 0}, {"center_crop": 400, "pad": 1}):
            assert reason(small, max_pixels=10_000, **options)[0] == "bomb"

    def test_the_limit_counts_bands(self) -> None:
        narrow = np.zeros((400, 3, 200), np.uint16)  # 224 x 29,867 pixels of 200 bands: 2.7 GB
        with pytest.raises(InputError, match="1337996800 values in 200 bands, more than four times"):
            images.decode(narrow, reading(resize=224, max_pixels=10_000_000, color="native"))


class TestPixels:
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
    @pytest.mark.parametrize("size", [(20, 30), (101, 77), (48, 64)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_8_bits_are_pillows(self, interpolation: str, size: tuple[int, int], channels: int) -> None:
        array = photograph(48, 64, channels, 1)
        image = Image.fromarray(array if channels == 3 else array[:, :, 0])
        want = np.asarray(image.resize(size[::-1], Image.Resampling[interpolation.upper()]))
        got = pixels_of(encoded(array), resize=size, interpolation=interpolation)
        np.testing.assert_array_equal(got, want.reshape(*size, channels))

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
    @pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
    def test_deep_images_have_the_same_filter(self, interpolation: str, dtype: Any) -> None:
        array = (photograph(48, 64, 3, 2).astype(np.float64) * 257).astype(dtype)
        resample = Image.Resampling[interpolation.upper()]
        bands = [Image.fromarray(array[:, :, c].astype(np.float32)).resize((31, 23), resample) for c in range(3)]
        want = np.stack([np.asarray(band) for band in bands], axis=2)
        got = pixels_of(array, resize="23x31", interpolation=interpolation)
        assert got.dtype == dtype
        tolerance = 0.5 if dtype == np.uint16 else 0.05
        np.testing.assert_allclose(got, np.clip(want, 0, 65535) if dtype == np.uint16 else want, atol=tolerance)
        if dtype == np.uint16:
            assert got.max() > 255

    def test_overshoots_are_clipped_in_integers_and_kept_in_floats(self) -> None:
        edge = np.zeros((8, 8, 1), np.uint16)
        edge[:, 4:] = 65535
        whole = pixels_of(edge, resize=21, interpolation="bicubic")
        floats = pixels_of(edge.astype(np.float32), resize=21, interpolation="bicubic")
        assert (whole.min(), whole.max()) == (0, 65535)
        assert floats.min() < 0 and floats.max() > 65535

    def test_a_letterbox_has_its_fill(self) -> None:
        got = pixels_of(encoded(photograph(30, 60)), resize="longest:40", pad="1,2,3")
        assert got.shape == (40, 40, 3)
        assert (got[:10] == [1, 2, 3]).all() and (got[30:] == [1, 2, 3]).all()
        np.testing.assert_array_equal(got[10:30], pixels_of(encoded(photograph(30, 60)), resize="20x40"))

    def test_a_box_keeps_the_ratio_with_a_fill_and_not_without(self) -> None:
        data = encoded(photograph(30, 60))
        assert pixels_of(data, resize="40x50").shape == pixels_of(data, resize="40x50", pad=9).shape == (40, 50, 3)
        assert (pixels_of(data, resize="40x50", pad=9)[:7] == 9).all()

    def test_a_corner_fill_is_right_and_below(self) -> None:
        got = pixels_of(encoded(photograph(10, 20)), resize="longest:20", pad="0:corner")
        np.testing.assert_array_equal(got[:10], photograph(10, 20))
        assert not got[10:].any()

    def test_a_crop_may_pad_one_axis_and_cut_the_other(self) -> None:
        image = photograph(10, 40)
        got = pixels_of(encoded(image), center_crop="16x20", pad=7)
        np.testing.assert_array_equal(got[3:13], image[:, 10:30])
        assert (got[:3] == 7).all() and (got[13:] == 7).all()

    def test_a_crop_without_a_fill_is_refused_where_it_is_larger(self) -> None:
        assert reason(encoded(photograph(10, 40)), center_crop="16x20") == (
            "too-small",
            "40 x 10 is smaller than the crop of 16x20 (torchvision would pad it with black: --pad 0; or --resize "
            "first)",
        )

    def test_a_gray_image_on_a_color_has_three_channels(self) -> None:
        got = pixels_of(encoded(photograph(10, 20, 1)), resize="longest:20", pad="9,8,7")
        assert got.shape == (20, 20, 3) and (got[0] == [9, 8, 7]).all() and np.ptp(got[10], axis=1).max() == 0
        assert pixels_of(encoded(photograph(10, 20, 1)), resize="longest:20", pad="9,9,9").shape == (20, 20, 1)

    @pytest.mark.parametrize(
        ("array", "pad", "words"),
        [
            (photograph(10, 20), 256, "--pad 256 is not a level of 0 to 255"),
            (photograph(10, 20), 0.5, "--pad 0.5 is not a level"),
            (photograph(10, 20), -1, "--pad -1 is not a level"),
            (photograph(10, 20), (1, 2), "--pad has 2 values, and the image 3 channels"),
            (np.zeros((10, 20, 2), np.uint16), 70000, "not a level of 0 to 65535"),
        ],
    )
    def test_a_fill_that_the_samples_cannot_have_is_named(self, array: Array, pad: Any, words: str) -> None:
        kind, message = reason(array, resize="longest:20", pad=pad)
        assert kind == "unsupported" and words in message

    def test_floats_take_any_fill(self) -> None:
        array = np.ones((10, 20, 1), np.float32)
        assert pixels_of(array, resize="longest:20", pad=-0.5).min() == np.float32(-0.5)

    def test_alpha_is_a_channel_of_its_own(self) -> None:
        rgba = np.dstack([photograph(20, 40), np.full((20, 40), 128, np.uint8)])
        rgba[:, 20:, 3] = 0
        color = pixels_of(encoded(rgba), resize="longest:20")
        np.testing.assert_array_equal(color, pixels_of(encoded(rgba[:, :, :3]), resize="longest:20"))
        kept = pixels_of(encoded(rgba), alpha="keep", resize="longest:20", pad=5)
        assert kept.shape == (20, 20, 4)
        assert (kept[0] == [5, 5, 5, 255]).all()  # padding is opaque
        # colors are not multiplied by alpha: the transparent half keeps its own
        assert np.abs(kept[5:15, :, :3].astype(int) - color.astype(int)).max() <= 1

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
    @pytest.mark.parametrize("size", [(9, 14), (40, 31), (20, 50)])
    def test_a_sample_is_valid_where_all_that_it_is_made_of_are(
        self, interpolation: str, size: tuple[int, int]
    ) -> None:
        """Samples that an invalid one could change are those of which a change of it changes the result."""
        invalid = [(3, 5, 0), (19, 29, 1), (0, 0, 2), (11, 20, 2)]
        pixels = np.random.default_rng(0).random((20, 30, 3))
        valid = np.ones(pixels.shape, bool)
        other = pixels.copy()
        for place_ in invalid:
            valid[place_] = False
            other[place_] += 1e6
        options = reading(resize=size, interpolation=interpolation)
        results = []
        for values in (pixels, other):
            image = Decoded(values.copy(), "array", "3xfloat64", 64, valid=valid.copy())
            geometry.apply(image, options, turn=True)
            results.append(image)
        assert results[0].valid is not None
        np.testing.assert_array_equal(results[0].valid, results[0].pixels == results[1].pixels)

    def test_padding_is_valid(self) -> None:
        image = Decoded(np.zeros((10, 20, 3), np.uint8), "PNG", "RGB", 8, valid=np.zeros((10, 20, 1), bool))
        geometry.apply(image, reading(resize="longest:20", pad=0), turn=True)
        assert image.valid is not None and image.valid.shape == (20, 20, 3)
        assert image.valid[:5].all() and image.valid[15:].all() and not image.valid[5:15].any()

    def test_padding_has_full_weight(self) -> None:
        rgba = np.dstack([np.full((10, 20, 3), 100, np.uint8), np.full((10, 20), 51, np.uint8)])
        image = images.decode(encoded(rgba), reading(alpha="weight", resize="longest:20", pad=0))
        assert image.weights is not None and image.weights.shape == (20, 20)
        assert set(image.weights[:5].ravel()) == {255} and set(image.weights[6:14].ravel()) == {51}


class TestOrientation:
    @pytest.fixture
    def turned(self, tmp_path: Path) -> Path:
        """A picture that a camera has stored on its side."""
        exif = Image.Exif()
        exif[0x0112] = 6
        folder = tmp_path / "turned"
        folder.mkdir()
        Image.fromarray(photograph(24, 40, 3, 3)).save(folder / "a.png", exif=exif)
        return folder

    @pytest.mark.parametrize("options", [{"resize": "20x31"}, {"resize": 21, "center_crop": 16}, {"center_crop": 9}])
    def test_the_picture_is_upright_before_its_geometry(self, turned: Path, options: dict[str, Any]) -> None:
        upright = np.rot90(photograph(24, 40, 3, 3), -1)
        decoded = images.decode((turned / "a.png").read_bytes(), reading(**options))
        np.testing.assert_array_equal(decoded.pixels, pixels_of(encoded(np.ascontiguousarray(upright)), **options))
        assert "exif" in decoded.notes

    def test_apply_writes_it_upright_or_as_stored(self, turned: Path, tmp_path: Path) -> None:
        for orientation in ("apply", "ignore"):
            out = tmp_path / orientation
            normcli.apply(turned, out, scheme="unit", resize="20x31", orientation=orientation)
            stored = photograph(24, 40, 3, 3)
            picture = np.ascontiguousarray(np.rot90(stored, -1)) if orientation == "apply" else stored
            want = pixels_of(encoded(picture), resize="20x31").transpose(2, 0, 1) / np.float32(255)
            np.testing.assert_allclose(np.load(out / "a.png.npy"), want, atol=1e-7)
            result = normcli.restore(out, tmp_path / f"{orientation}-back")
            assert (result.images, result.exact, result.geometry) == (1, 1, "resize 20x31")
            with Image.open(next((tmp_path / f"{orientation}-back").glob("*.png"))) as back:
                assert back.size == (31, 20)
                np.testing.assert_array_equal(np.asarray(back), pixels_of(encoded(picture), resize="20x31"))

    def test_the_table_of_sizes_has_those_of_the_picture(self, turned: Path) -> None:
        galleries: list[Any] = []
        normcli.stats(turned, resize=8, on_gallery=galleries.append)
        assert galleries[0].facts.sizes == [(24, 40, 1)]


class TestCommands:
    GEOMETRY = ("--resize", "longest:24", "--pad", "114", "--like", "ultralytics", "--interpolation", "bicubic")

    def test_settings_are_recorded_where_they_are_used(self, run: Run, folder: Path) -> None:
        settings = json.loads(run("stats", folder, "--json", *self.GEOMETRY).stdout)["settings"]
        assert {key: settings.get(key) for key in ("resize", "interpolation", "center_crop", "pad", "like")} == {
            "resize": "longest:24",
            "interpolation": "bicubic",
            "center_crop": None,
            "pad": "114",
            "like": "ultralytics",
        }
        plain = json.loads(run("stats", folder, "--json", "--resize", "24").stdout)["settings"]
        assert not {"interpolation", "pad", "like"} & set(plain)

    def test_python_counts_the_same(self, run: Run, folder: Path) -> None:
        options: Any = {"resize": "longest:24", "pad": 114, "like": "ultralytics", "interpolation": "bicubic"}
        summary = normcli.stats(folder, **options)
        assert summary.to_json() == run("stats", folder, "--json", *self.GEOMETRY).stdout.decode()

    def test_files_of_other_geometries_are_not_merged(self, folder: Path) -> None:
        plain, padded = normcli.stats(folder, resize=24), normcli.stats(folder, resize="24x24", pad=0)
        with pytest.raises(UsageError, match=r"settings differ: pad is none and 0; resize is 24 and 24x24"):
            normcli.merge(plain, padded)

    def test_apply_requires_the_geometry_of_the_statistics(self, run: Run, folder: Path, tmp_path: Path) -> None:
        run("stats", folder, "-o", "s.json", *self.GEOMETRY)
        wrong = run("apply", folder, "-o", "out", "--stats", "s.json", "--resize", "longest:24", "--pad", "114")
        assert wrong.returncode == 2
        assert (
            b"made with interpolation bicubic, like ultralytics, not with interpolation none, like none" in wrong.stderr
        )
        right = run(
            "apply", folder, "-o", "out", "--stats", "s.json", *self.GEOMETRY, "--to", "stack", "--color", "rgb"
        )
        assert right.returncode == 0, right.stderr
        assert np.load(tmp_path / "out" / "stack.npy").shape == (12, 3, 24, 24)
        assert run("verify", "out").returncode == 0
        again = run("apply", folder, "-o", "two", "--stats", "s.json", "--like", "s.json", "--color", "rgb")
        assert again.returncode == 0, again.stderr

    def test_resuming_with_another_fill_is_refused(self, run: Run, folder: Path) -> None:
        command = ("apply", folder, "-o", "out", "-s", "unit", "--resize", "longest:24")
        assert run(*command, "--pad", "114").returncode == 0
        done = run(*command, "--resume")
        assert done.returncode == 2 and b"pad was 114, now none" in done.stderr

    def test_verify_counts_again_with_the_recorded_geometry(self, run: Run, folder: Path) -> None:
        run("stats", folder, "-o", "s.json", *self.GEOMETRY)
        done = run("verify", "s.json", folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_engines_and_samples_count_the_same(self, folder: Path) -> None:
        options: Any = {"resize": "30,longest:40", "center_crop": "20x36", "pad": 3, "interpolation": "lanczos"}
        states = [normcli.stats(folder, engine=engine, workers=2, **options) for engine in ("serial", "processes")]
        assert states[0].to_json() == states[1].to_json()
        assert normcli.stats(folder, sample="100%", **options).mean == states[0].mean

    def test_restore_names_what_it_cannot_undo(self, run: Run, folder: Path) -> None:
        run("apply", folder, "-o", "out", "-s", "unit", *self.GEOMETRY)
        done = run("restore", "out", "-o", "back")
        assert done.returncode == 0
        words = b"apply mapped them (resize longest:24 bicubic, pad 114, rounded as ultralytics); a geometry cannot be"
        assert b"note: the images stay as " + words + b" undone\n" in done.stderr
        run("apply", folder, "-o", "plain", "-s", "unit")
        assert b"geometry" not in run("restore", "plain", "-o", "again").stderr

    def test_one_image_goes_to_stdout(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(encoded(photograph(30, 60)))
        done = run("apply", "a.png", "-s", "unit", "-o", "-", "--resize", "longest:32", "--pad", "0")
        (tmp_path / "a.npy").write_bytes(done.stdout)
        assert np.load(tmp_path / "a.npy").shape == (3, 32, 32)


def test_a_fill_of_8_bits_in_images_of_16_is_reported(run: Run, tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 8), 40000, np.uint16)).save(tmp_path / "a.png")
    done = run("stats", "a.png", "--resize", "8x8", "--pad", "114", "--json")
    assert json.loads(done.stdout)["mean"] == [(40000 + 114) / 2 / 65535]
    assert b"--pad 114 is a level of 65,535 in 16-bit images (29298 is as bright as 114 in 8 bits)" in done.stderr
    for options in (["--pad", "29298"], ["--pad", "0"], ["--pad", "114", "--max-value", "4095"]):
        assert b"is a level of" not in run("stats", "a.png", "--resize", "8x8", *options).stderr
