"""Promises 1 to 3: exact, mergeable and subtractable, in every convention; none depends on how it was run."""

import contextlib
import io
import json
import math
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import normcli
from normcli.errors import InputError, NoInputError, StatisticsFileError, UsageError
from normcli.kernels.kernel import Kernel
from normcli.summary import Summary
from normcli.summary.sums import merge
from normcli.tally import Tally, integers, small_floats
from normcli.tally.exact import run_length_decode, run_length_encode, sqrt_fraction
from normcli.tally.floats import sum_floats
from normcli.tally.integers import is_small
from tests.support import reference_statistics as reference
from tests.support.images import encoded, photograph

Array = np.ndarray[Any, Any]
SETTINGS: dict[str, Any] = {"color": "auto", "alpha": "drop", "max_value": None}

shapes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3]))
images = shapes.flatmap(
    lambda shape: st.one_of(
        arrays.arrays(np.uint8, shape),
        arrays.arrays(np.uint16, shape),
        arrays.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)),
        arrays.arrays(np.float64, shape, elements=st.floats(-1e38, 1e38)),
    )
)


def tally_of(pictures: list[Array]) -> Tally:
    tally = Tally()
    for picture in pictures:
        tally.count(picture, notes=("mode:test",), data=picture.tobytes())
    return tally


def summary_of(pictures: list[Array], **settings: Any) -> Summary:
    return Summary.of(tally_of(pictures), {**SETTINGS, **settings}, {})


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every key of a JSON value, and of the first two entries of its lists."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [p for key, inner in entries for p in [(*path, key), *places(inner, (*path, key))]]


def render_text(summary: Summary) -> list[str]:
    from normcli.cli import tables
    from normcli.summary.remarks import remarks

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        tables.print_summary(summary)
    return [*shown.getvalue().splitlines(), *remarks(summary)]


class TestExact:
    @given(st.lists(st.one_of(arrays.arrays(np.uint8, shapes), arrays.arrays(np.uint16, shapes)), min_size=1))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def test_every_convention_equals_big_integers(self, pictures: list[Array]) -> None:
        summary = summary_of(pictures)
        expected = reference.statistics(pictures, len(summary.channels))
        assert summary.mean == expected["mean"]
        for name in ("pooled_population", "pooled_sample"):
            found = summary.conventions[name]["std"]
            assert found == (expected[name] if None not in expected[name] else None)
        for name, means in {
            "mean_of_image_stds": "image_mean",
            "mean_of_image_sample_stds": "image_mean",
            "root_mean_image_variance": "image_mean",
            "pooled_within_images": "mean",
        }.items():
            if expected[name] is None or None in expected[name]:
                assert summary.conventions[name]["std"] is None
            else:
                std, mean = (np.array(summary.conventions[name][what]) for what in ("std", "mean"))
                np.testing.assert_allclose(std, expected[name], atol=1e-12)
                np.testing.assert_allclose(mean, expected[means], atol=1e-12)

    @given(st.lists(arrays.arrays(np.uint16, shapes), min_size=1, max_size=5))
    @settings(max_examples=40, deadline=None)
    def test_percentiles_and_range_are_numpys(self, pictures: list[Array]) -> None:
        summary = summary_of(pictures)
        for c in range(len(summary.channels)):
            values = np.concatenate([p[:, :, min(c, p.shape[2] - 1)].ravel() for p in pictures]) / 65535
            assert (summary.min[c], summary.max[c]) == (values.min(), values.max())
            for percent, per_channel in summary.percentiles.items():
                assert math.isclose(per_channel[c], np.percentile(values, int(percent)), abs_tol=1e-15)

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_sums_over_images_lose_no_bit(self, dtype: Any) -> None:
        """Each value is rounded once, to float64; a sum of them has all of its bits down to 2^-64."""
        rng = np.random.default_rng(8)
        pictures = [rng.integers(0, np.iinfo(dtype).max, (5, 7, 2), dtype, True) for _ in range(20)]
        per_image = tally_of(pictures).state()["buckets"][0]["per_image"]
        for c in range(2):
            expected = dict.fromkeys(("mean", "std", "sample_std", "variance", "square", "scatter"), 0)
            for picture in pictures:
                values = picture[:, :, c].ravel().tolist()
                n, s = len(values), sum(values)
                spread, mean = n * sum(v * v for v in values) - s * s, s / n
                stds = (math.sqrt(spread) / n, math.sqrt(spread) / math.sqrt(n * (n - 1)))
                row = (mean, *stds, spread / (n * n), mean * mean, spread / n)
                for name, value in zip(expected, row, strict=True):
                    expected[name] += math.floor(Fraction(value) * 2**64)
            assert {name: int(per_image[name][c]) for name in expected} == expected

    @pytest.mark.parametrize("numba", [True, False], ids=["kernel", "fallback"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("side", [3, 150])
    def test_the_kernel_and_the_fallback_count_alike(
        self, numba: bool, dtype: Any, channels: int, side: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Kernel, "is_due", lambda _: True)
        if not numba:
            monkeypatch.setattr(Kernel, "try_call", lambda *_: False)
        picture = np.random.default_rng(side).integers(0, np.iinfo(dtype).max, (side, side, channels), dtype, True)
        weights = picture[:, :, 0].copy()
        for weighing in (None, weights):
            bucket = integers.Integers(channels, picture.dtype.name, 1 if weighing is None else 255)
            (weight,), sums = bucket.count(picture, weighing)
            w = np.ones_like(weights) if weighing is None else weights
            assert weight == int(w.astype(object).sum())
            for c in range(channels):
                values, counts = picture[:, :, c].astype(object), w.astype(object)
                assert sums[c].tolist() == [(values * counts).sum(), (values * values * counts).sum()]
                assert bucket.histogram[c].sum() == weight

    @pytest.mark.parametrize("numba", [True, False], ids=["kernel", "fallback"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_blocks_of_small_images_count_as_each_by_itself(
        self, channels: int, numba: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Check more images of mixed sizes than one block has, some with extreme values; and the largest small size."""
        monkeypatch.setattr(Kernel, "is_due", lambda _: True)
        if not numba:
            monkeypatch.setattr(Kernel, "try_call", lambda *_: False)
        rng = np.random.default_rng(channels)
        sides = [*rng.integers(1, 60, 300).tolist(), *[32] * 200, 104]
        blocks, single = Tally(), Tally()
        for i, side in enumerate(sides):
            low, high = ((0, 1), (255, 256), (0, 256))[min(i, 2)]
            picture = rng.integers(low, high, (side, max(1, side - i % 3), channels)).astype(np.uint8)
            assert is_small(picture)
            blocks.count(picture, data=bytes([i % 256]))
            single.count(picture, data=bytes([i % 256]), moments=True)
        assert blocks.images == single.images == len(sides)
        assert (blocks + single).state() == (single + blocks).state()
        assert blocks.state() == single.state()

    @pytest.mark.parametrize(
        "options",
        [{}, {"strict": True}, {"color": "gray"}, {"color": "lab"}, {"alpha": "keep"}, {"nodata": 7}, {"resize": 20}],
        ids=str,
    )
    def test_images_that_are_only_added_up_count_as_those_of_groups(
        self, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Gray, color and alpha, small and large; the first one is large enough for the fast decoder to be loaded."""
        monkeypatch.setattr(Kernel, "is_due", lambda _: True)
        (tmp_path / "0.png").write_bytes(encoded(photograph(900, 800)))
        for i, (kind, channels) in enumerate((("PNG", 1), ("PNG", 3), ("PNG", 4), ("JPEG", 1), ("JPEG", 3)), 1):
            for side in (32, 190):
                data = encoded(photograph(side, side + 1, channels, seed=i), kind)
                (tmp_path / f"{i}_{side}.{kind.lower()}").write_bytes(data)
        direct = normcli.stats(tmp_path, **options).state
        assert direct["buckets"]
        grouped = dict(normcli.stats(tmp_path, group_by="folder", **options).state)
        assert grouped.pop("groups")
        assert {**direct, "groups": None} == {**grouped, "groups": None}

    @pytest.mark.parametrize("denominator", [1, 3, 1024 * 1023, 32448**2])
    def test_roots_in_pairs_of_floats_are_rounded_as_integers_are(self, denominator: int) -> None:
        """Near to halfway between two float64, at powers of two, of squares and of large numbers."""
        rng = np.random.default_rng(denominator)
        odd = [
            (2 * int(n) + 1) ** 2 * denominator // 4 + int(d) for n, d in rng.integers((1, -2), (2**45, 3), (200, 2))
        ]
        numerators = [
            *odd,
            *(n * n * denominator for n in range(40)),
            *(int(n) << 58 for n in rng.integers(0, 2**60, 50)),
        ]
        right = [sqrt_fraction(Fraction(max(n, 0), denominator)) for n in numerators]
        assert small_floats.square_roots([max(n, 0) for n in numerators], denominator).tolist() == right

    def test_16_bit_images_near_the_top_keep_their_std(self) -> None:
        picture = np.random.default_rng(1).integers(59997, 60004, (500, 500, 1)).astype(np.uint16)
        std = float(np.std(picture.astype(np.float64))) / 65535
        assert math.isclose(summary_of([picture]).std[0], std, rel_tol=1e-9)

    @given(arrays.arrays(np.float32, shapes, elements=st.floats(-(2.0**90), 2.0**90, width=32)))
    @settings(max_examples=40, deadline=None)
    def test_percentiles_of_floats_have_8_bits(self, picture: Array) -> None:
        summary = summary_of([picture])
        for c in range(picture.shape[2]):
            values = picture[:, :, c].astype(np.float64)
            assert (summary.min[c], summary.max[c]) == (values.min(), values.max())
            for percent, per_channel in summary.percentiles.items():
                lower, upper = (np.percentile(values, int(percent), method=m) for m in ("lower", "higher"))
                slack = max(abs(lower), abs(upper)) / 128 + 2.0**-133  # subnormals have fewer bits
                assert lower - slack <= per_channel[c] <= upper + slack

    @pytest.mark.parametrize(("dtype", "channels"), [(np.float32, 1), (np.float64, 3)])
    def test_floats_that_are_integers_count_as_any_other(self, dtype: Any, channels: int) -> None:
        """Large ones take a histogram of integers; a -0, a fraction, a NaN or a wider value ends it."""
        shape = (380, 350, channels)
        picture = np.random.default_rng(18).integers(-32768, 32768, shape).astype(dtype)
        for value in (None, -0.0, 0.5, np.nan, 32768.0, -32769.0, 1e30):
            if value is not None:
                picture[-1, -1, -1] = value
            histograms = [np.zeros((channels, 65536), np.int64) for _ in range(3)]
            parts = [picture, *np.array_split(picture, 2)]
            one, left, right = (sum_floats(part, own) for part, own in zip(parts, histograms, strict=True))
            assert one[0] == left[0] + right[0]
            for sums in zip(one[1] + one[2], left[1] + left[2], right[1] + right[2], strict=True):
                assert sums[0] == sums[1] + sums[2]
            assert np.array_equal(histograms[0], histograms[1] + histograms[2])
            lowest, highest = np.minimum(left[3], right[3])[:, 0], np.maximum(left[3], right[3])[:, 1]
            assert np.array_equal(one[3], np.stack([lowest, highest], axis=1))

    def test_floats_of_small_spread_keep_their_std(self) -> None:
        picture = (1e6 + np.random.default_rng(1).uniform(-1e-3, 1e-3, (300, 300, 1))).astype(np.float32)
        big = [int(v * 2**10) for v in picture.ravel().tolist()]
        exact = reference.root(Fraction(len(big) * sum(v * v for v in big) - sum(big) ** 2, len(big) ** 2))
        assert math.isclose(summary_of([picture]).std[0], exact / 2**10, rel_tol=1e-6)
        wide = picture.astype(np.float64) + np.random.default_rng(2).uniform(-1e-3, 1e-3, picture.shape)
        fractions = [Fraction(v) for v in wide.ravel().tolist()]
        mean = sum(fractions, Fraction()) / len(fractions)
        exact = reference.root(sum(((v - mean) ** 2 for v in fractions), Fraction()) / len(fractions))
        assert summary_of([wide]).std[0] == exact

    @given(arrays.arrays(np.float64, (3, 3, 1), elements=st.floats(-1e38, 1e38)))
    @settings(max_examples=60, deadline=None)
    def test_floats_of_any_size_are_added_up_exactly(self, picture: Array) -> None:
        fractions = [Fraction(v) for v in picture.ravel().tolist()]
        (bucket,) = tally_of([picture]).buckets.values()
        assert bucket.sums(0) == (sum(fractions), sum(v * v for v in fractions))

    @given(st.fractions(min_value=0, max_value=10**30))
    def test_root_is_correctly_rounded(self, value: Any) -> None:
        assert sqrt_fraction(value) == reference.root(value)

    @given(st.lists(st.integers(0, 3)))
    def test_packing_is_undone(self, counts: list[int]) -> None:
        assert run_length_decode(run_length_encode(counts), len(counts)) == counts

    def test_the_reference_sees_a_wrong_answer(self) -> None:
        expected = reference.statistics([photograph()], 3)
        assert summary_of([photograph(seed=1)]).mean != expected["mean"]


class TestMerging:
    @given(st.lists(images, min_size=2, max_size=8), st.data())
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    def test_any_split_in_any_order_gives_the_same_state(self, pictures: list[Array], data: st.DataObject) -> None:
        whole = tally_of(pictures).state()
        cut = data.draw(st.integers(0, len(pictures)))
        shuffled = data.draw(st.permutations(pictures))
        first, second = tally_of(shuffled[:cut]), tally_of(shuffled[cut:])
        assert (first + second).state() == whole
        assert (second + Tally() + first).state() == whole
        assert (tally_of(pictures) - second).state() == first.state()
        assert (tally_of(pictures) - tally_of(shuffled)).state() == Tally().state()

    @given(st.lists(images, min_size=1, max_size=4))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def test_the_state_survives_json(self, pictures: list[Array]) -> None:
        state = tally_of(pictures).state()
        assert Tally.from_state(json.loads(json.dumps(state))).state() == state

    def test_groups_merge_and_vanish(self, folder: Path) -> None:
        (folder / "dog/one-more.png").write_bytes(encoded(photograph(seed=99)))  # else both are of the same images
        both = normcli.stats(folder, group_by="folder")
        cats, dogs = (
            normcli.stats(folder / "cat", group_by="folder"),
            normcli.stats(folder / "dog", group_by="folder"),
        )
        assert set(both.groups) == {"cat", "dog"}
        merged = cats + dogs
        assert set(merged.groups) == {"cat", "dog"}
        assert merged.groups["cat"].mean == both.groups["cat"].mean
        assert (merged - dogs).to_json() == cats.to_json()

    def test_subtracting_what_is_not_in_the_sum_is_refused(self) -> None:
        with pytest.raises(UsageError, match="not part of the sum"):
            merge(summary_of([photograph()]), minus=[summary_of([photograph(seed=9)])])

    def test_other_settings_are_refused_by_name(self) -> None:
        with pytest.raises(UsageError, match="alpha is drop and keep"):
            summary_of([photograph()]) + summary_of([photograph()], alpha="keep")
        one, other = summary_of([photograph()]), summary_of([photograph()], nan="skip")
        forced = merge(one, other, force=True)
        assert forced.images == 2 and forced.forced == ["images", "settings.nan"] and not forced.complete

    def test_nothing_left_is_said(self) -> None:
        one = summary_of([photograph()])
        with pytest.raises(NoInputError, match="no image is left"):
            _ = one - one


class TestMeaning:
    def test_gray_counts_as_rgb_beside_colour(self) -> None:
        gray, color = photograph(channels=1), photograph()
        mixed = summary_of([gray, color])
        assert mixed.channels == ["R", "G", "B"]
        assert mixed.mean == summary_of([np.repeat(gray, 3, axis=2), color]).mean
        assert summary_of([gray]).channels == ["L"]
        assert summary_of([gray], color="rgb").channels == ["R", "G", "B"]
        with pytest.raises(UsageError, match="1 and 3 channels"):
            summary_of([gray, color], color="native")

    def test_8_and_16_bit_share_the_range(self) -> None:
        shallow = photograph(channels=1)
        mixed = summary_of([shallow, shallow.astype(np.uint16) * 257])
        assert mixed.max_value == 65535
        assert mixed.mean == summary_of([shallow]).mean and mixed.std == summary_of([shallow]).std

    def test_range_scales_16_bit_and_floats(self) -> None:
        twelve = photograph(channels=1).astype(np.uint16) * 16
        scaled = summary_of([twelve], max_value=4095)
        assert scaled.max_value == 4095
        assert math.isclose(scaled.mean[0], float(twelve.mean()) / 4095)
        floats = summary_of([twelve.astype(np.float32)], max_value=4095)
        assert floats.max_value == 4095 and math.isclose(floats.mean[0], scaled.mean[0])

    def test_weighted_pixels_count_by_their_alpha(self) -> None:
        picture, alpha = photograph(), photograph(channels=1, seed=4)[:, :, 0]
        tally = Tally()
        tally.count(picture, alpha)
        tally.count(picture)
        summary = Summary.of(tally, SETTINGS, {})
        values = np.concatenate([picture.reshape(-1, 3)] * 2).astype(float) / 255
        weights = np.concatenate([alpha.ravel() / 255, np.ones(alpha.size)])
        mean = np.average(values, axis=0, weights=weights)
        std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        np.testing.assert_allclose(summary.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(summary.std, std, rtol=1e-12)

    def test_bright_weighted_16_bit_images_do_not_overflow(self) -> None:
        picture = np.full((300, 300, 3), 65000, np.uint16)
        picture[::2] = 60000
        tally = Tally()
        tally.count(picture, np.full((300, 300), 65535, np.uint16))
        weighted = Summary.of(tally, SETTINGS, {})
        assert weighted.std == summary_of([picture]).std
        assert weighted.percentiles == summary_of([picture]).percentiles
        assert weighted.conventions["mean_of_image_stds"] == summary_of([picture]).conventions["mean_of_image_stds"]

    def test_extremes_of_floats_are_known_or_none(self) -> None:
        low, rest, high = (
            [np.full((1, 1, 1), v, np.float32) for v in r] for r in (range(1100), range(2000, 2600), [5])
        )
        known = merge(summary_of(low + rest), minus=[summary_of(low)])
        assert known.min[0] in (None, 2000.0)
        assert (known + summary_of([high[0] * 1000])).min[0] in (None, 2000.0)

    def test_bands_have_no_colours(self) -> None:
        tally = Tally()
        tally.count(photograph(), notes=("bands",))
        assert Summary.of(tally, SETTINGS, {}).channels == ["0", "1", "2"]

    def test_nan_is_refused_or_left_out(self) -> None:
        picture = np.ones((4, 5, 1), np.float32)
        picture[1, 1] = np.nan
        picture[2, 2] = np.inf
        tally = Tally()
        with pytest.raises(InputError, match="2 pixels"):
            tally.count(picture)
        assert tally.state() == Tally().state()
        tally.count(picture, nan="skip")
        summary = Summary.of(tally, SETTINGS, {})
        assert summary.pixels == 18 and summary.mean == [1.0]
        assert summary.composition["not_finite_pixels"] == 2

    def test_floats_beside_integers_share_their_percentiles(self) -> None:
        picture = photograph(channels=1)
        mixed = summary_of([picture, picture.astype(np.float64) / 255])
        assert mixed.max_value is None
        np.testing.assert_allclose(mixed.mean, summary_of([picture]).mean, rtol=1e-12)
        assert abs(mixed.percentiles["50"][0] - summary_of([picture]).percentiles["50"][0]) < 0.004

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_one_pixel_gives_no_nan(self, dtype: Any) -> None:
        summary = summary_of([np.full((1, 1, 3), 7, dtype)])
        assert summary.std == [0.0] * 3
        assert summary.conventions["pooled_sample"]["std"] is None
        assert summary.conventions["mean_of_image_sample_stds"]["std"] is None
        assert "NaN" not in summary.to_json()

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_a_constant_image_has_no_spread(self, dtype: Any) -> None:
        summary = summary_of([np.full((9, 9, 1), 200, dtype)])
        assert all(row["std"] == [0.0] for row in summary.conventions.values())


class TestFile:
    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        summary = summary_of([photograph(), photograph(channels=1)])
        summary.save(tmp_path / "s.json")
        assert Summary.load(tmp_path / "s.json") == summary
        assert (tmp_path / "s.json").read_text() == summary.to_json()

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("", "empty"),
            ("{", "not JSON"),
            ("[1]", "no normcli schema"),
            ('{"schema": "normcli/stats/3"}', "update normcli"),
            ('{"schema": "normcli/stats/1"}', r"recount: normcli stats SOURCE\.\.\. -o FILE"),
            ('{"schema": "normcli/stats/2"}', "missing"),
            ("\x00\xff", "not JSON"),
            ("[" * 100_000, "not JSON"),
        ],
    )
    def test_what_is_no_statistics_file(self, tmp_path: Path, text: str, what: str) -> None:
        path = tmp_path / "s.json"
        path.write_text(text)
        with pytest.raises(StatisticsFileError, match=what):
            Summary.load(path)

    def test_every_key_of_the_wrong_type_is_refused(self) -> None:
        tally = tally_of([photograph(), photograph(channels=1).astype(np.float32)])
        tally.count(photograph(), group="a")
        good = Summary.of(tally, SETTINGS, {}).to_dict()
        for key in good:
            for value in (None, "x", -1, 1.5, [], {}, [None], {"a": None}, {"a": {"mean": 1}}):
                if value is None and key in ("max_value", "shards", "sample"):
                    continue
                text = json.dumps({**good, key: value})
                try:
                    render_text(Summary.from_json(text))
                except StatisticsFileError:
                    continue
        with pytest.raises(StatisticsFileError):
            Summary.from_json(json.dumps(good).replace("0.", "1e999 ", 1))

    def test_every_damage_of_the_state_is_refused_or_harmless(self) -> None:
        tally = tally_of([photograph(), photograph(channels=1).astype(np.float32)])
        tally.count(photograph(), group="a")
        good = Summary.of(tally, SETTINGS, {}).to_dict()
        refused = 0
        values: tuple[Any, ...] = (None, "x", -1, 0, 70000, 1.5, [], {}, [1], "1" * 40)
        for path in [*places({key: good[key] for key in ("state", "inputs")})]:
            for value in values:
                document = json.loads(json.dumps(good))
                inside = document
                for step in path[:-1]:
                    inside = inside[step]
                if inside[path[-1]] == value:
                    continue
                inside[path[-1]] = value
                try:
                    merged = merge(Summary.from_json(json.dumps(document))).to_dict()
                except StatisticsFileError as error:
                    assert "\n" not in str(error)
                    refused += 1
                else:  # a note less; every number is what it was
                    assert path[:2] == ("inputs", "composition"), (path, value)
                    numbers = {*good} - {"composition", "provenance", "inputs"}
                    assert {k: merged[k] for k in numbers} == {k: good[k] for k in numbers}
        assert refused > 800

    def test_a_state_that_does_not_fit_the_numbers_is_refused(self) -> None:
        document = summary_of([photograph()]).to_dict()
        other = summary_of([photograph(seed=3)]).to_dict()
        broken = Summary.from_json(json.dumps({**document, "state": other["state"]}))
        with pytest.raises(StatisticsFileError, match="do not follow"):
            merge(broken)
        rng, refused = random.Random(1), 0
        for _ in range(60):  # any damage inside the state
            text = list(json.dumps(document["state"]))
            text[rng.randrange(len(text))] = rng.choice("0123456789x")
            try:
                state = json.loads("".join(text))
            except ValueError:
                continue
            if state == document["state"]:
                continue
            damaged = Summary.from_json(json.dumps({**document, "state": state}))
            try:
                merged = merge(damaged)
            except (StatisticsFileError, NoInputError, UsageError):
                refused += 1
            else:
                assert (merged.mean, merged.std) == (document["mean"], document["std"])
        assert refused > 10


def test_public_names_are_all_there() -> None:
    assert set(normcli.__all__) <= set(dir(normcli))
    for name in normcli.__all__:
        assert getattr(normcli, name) is not None


def test_encoded_pictures_are_counted_as_arrays_are(tmp_path: Path) -> None:
    picture = photograph()
    (tmp_path / "a.png").write_bytes(encoded(picture))
    assert normcli.stats(tmp_path / "a.png").mean == summary_of([picture]).mean


def without_scatter(value: Any) -> Any:
    """Return the JSON values of a state as files had them before the sums of squares within images were counted."""
    if isinstance(value, dict):
        return {key: without_scatter(inner) for key, inner in value.items() if key != "scatter"}
    return [without_scatter(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_state_without_sums_within_images_has_five_conventions(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 200, size=(5, 6 + i, 3)).astype(dtype) for i in range(3)]
    summary = summary_of(images)
    assert len(summary.conventions) == 6
    old = summary.replace(state=without_scatter(summary.state))
    again = Summary.of(old.tally, summary.settings, {})
    assert again.state == old.state and "pooled_within_images" not in again.conventions
    assert {**again.conventions, "pooled_within_images": None} == {**summary.conventions, "pooled_within_images": None}
    for union in (old.tally + summary.tally, summary.tally + old.tally):
        assert "pooled_within_images" not in Summary.of(union, summary.settings, {}).conventions
        assert (union - summary.tally).is_valid()
