"""A pixel may count in one channel and not in another: counts, conventions, percentiles, sums and differences."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normcli.errors import InputError
from normcli.kernels.kernel import Kernel
from normcli.summary import Summary
from normcli.summary.sums import merge
from normcli.tally import Tally
from normcli.tally.serialize import from_bytes, to_bytes
from tests.support.valid_pixels import DTYPES, Masked, masked_images, reference_state, samples

Array = np.ndarray[Any, Any]

SETTINGS: dict[str, Any] = {"color": "auto", "alpha": "drop", "max_value": None, "nan": "skip"}
SLOW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def tally_of(pictures: list[Masked], group: str | None = None) -> Tally:
    tally = Tally()
    for pixels, valid in pictures:
        tally.count(pixels, valid=valid, nan="skip", data=pixels.tobytes(), group=group)
    return tally


class TestState:
    @given(masked_images())
    @SLOW
    def test_it_is_that_of_fractions(self, pictures: list[Masked]) -> None:
        (bucket,) = tally_of(pictures).state()["buckets"]
        expected = reference_state(pictures)
        assert list(bucket) == list(expected)
        assert bucket == expected

    @given(masked_images(least=2), st.randoms(use_true_random=False))
    @SLOW
    def test_no_order_sum_or_difference_changes_a_bit(self, pictures: list[Masked], chance: Any) -> None:
        expected = tally_of(pictures, "a").state()
        shuffled = chance.sample(pictures, len(pictures))
        cut = chance.randrange(len(pictures))
        first, second = tally_of(shuffled[:cut], "a"), tally_of(shuffled[cut:], "a")
        both = first + second
        assert both.state() == expected and both.is_valid()
        assert (both - second).state() == first.state()
        assert not cut or not (first - both).is_valid()
        assert Tally.from_state(json.loads(json.dumps(expected))).state() == expected

    @given(masked_images())
    @SLOW
    def test_the_file_cache_restores_every_image(self, pictures: list[Masked]) -> None:
        for picture in pictures:
            tally = tally_of([picture], "a")
            assert from_bytes(to_bytes(tally)).state() == tally.state()

    @given(masked_images("uint8"))
    @SLOW
    def test_a_mask_that_hides_nothing_leaves_the_state_as_it_is(self, pictures: list[Masked]) -> None:
        plain, masked = Tally(), Tally()
        for pixels, _ in pictures:
            plain.count(pixels)
            masked.count(pixels, valid=np.ones(pixels.shape, bool))
        assert json.dumps(plain.state()) == json.dumps(masked.state())

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_kernels_and_numpy_count_alike(self, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(5)
        pixels = (rng.random((80, 70, 3)) * 255).astype(dtype)
        valid = rng.random(pixels.shape) < [0.9, 0.5, 0.01]
        monkeypatch.setattr(Kernel, "is_due", lambda _: True)
        by_kernel = tally_of([(pixels, valid)], "a").state()
        monkeypatch.setattr(Kernel, "is_due", lambda _: False)
        monkeypatch.setattr(Kernel, "try_call", lambda *_: False)
        assert tally_of([(pixels, valid)], "a").state() == by_kernel

    def test_a_forged_count_is_found(self) -> None:
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
        state = tally_of([(pixels, pixels % 5 > 0)]).state()
        for change in ({"invalid": [1, 2, 9]}, {"invalid": [-1, 2, 1]}, {"invalid": [1]}):
            forged = json.loads(json.dumps(state))
            forged["buckets"][0] |= change
            with pytest.raises(ValueError, match=r"inconsistent|another number"):
                Tally.from_state(forged)


class TestNumbers:
    @given(masked_images())
    @SLOW
    def test_they_are_those_of_numpys_nan_functions(self, pictures: list[Masked]) -> None:
        summary = Summary.of(tally_of(pictures), SETTINGS, {})
        scale = {"uint8": 255, "uint16": 65535}.get(pictures[0][0].dtype.name, 1)
        for c in range(pictures[0][0].shape[2]):
            images = [np.array([float(v) for v in samples(picture, c)]) / scale for picture in pictures]
            values = np.concatenate(images)
            assert summary.pixels_of[c] == len(values)
            if not len(values):
                assert math.isnan(summary.mean[c]) and math.isnan(summary.std[c]) and summary.min[c] is None
                continue
            size = float(np.abs(values).max())
            close: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12 * size}
            np.testing.assert_allclose([summary.mean[c], summary.std[c]], [values.mean(), values.std()], **close)
            assert (summary.min[c], summary.max[c]) == (values.min(), values.max())
            if scale > 1:
                expected = np.percentile(values, [int(p) for p in summary.percentiles])
                np.testing.assert_allclose([row[c] for row in summary.percentiles.values()], expected, **close)
            counted = [image for image in images if len(image)]
            stds = summary.conventions["mean_of_image_stds"]
            assert stds["mean"] is not None and stds["std"] is not None
            np.testing.assert_allclose(stds["mean"][c], np.mean([image.mean() for image in counted]), **close)
            np.testing.assert_allclose(stds["std"][c], np.mean([image.std() for image in counted]), **close)

    def test_a_band_without_a_valid_pixel_is_null_in_the_file_and_nan_in_python(self) -> None:
        pixels = np.arange(32, dtype=np.uint8).reshape(4, 4, 2)
        valid = np.ones(pixels.shape, bool)
        valid[:, :, 1] = False
        summary = Summary.of(tally_of([(pixels, valid)], "a"), SETTINGS, {})
        assert summary.pixels == [16, 0] and summary.invalid == [0, 16] and summary.images == 1
        document = json.loads(summary.to_json())
        assert document["mean"][1] is None and document["groups"]["a"]["std"][1] is None
        again = Summary.from_json(summary.to_json())
        assert again.to_json() == summary.to_json() and math.isnan(again.mean[1])
        other = Summary.of(tally_of([(pixels[:2], ~valid[:2])]), SETTINGS, {})
        both = merge(summary, other)
        assert both.pixels == [16, 8] and not any(map(math.isnan, both.mean))
        assert merge(both, minus=other).to_json() == merge(summary, minus=[]).to_json()

    def test_images_count_in_a_band_where_they_have_a_valid_pixel(self) -> None:
        pictures = [(np.full((2, 2, 2), v, np.uint8), np.ones((2, 2, 2), bool)) for v in (10, 20)]
        pictures[1][1][:, :, 1] = False
        summary = Summary.of(tally_of(pictures), {**SETTINGS, "weight": "image"}, {})
        assert [round(255 * m, 9) for m in summary.mean] == [15, 10]

    def test_the_sums_of_weighted_pixels(self) -> None:
        rng = np.random.default_rng(2)
        pixels, weights = rng.integers(0, 256, (9, 8, 3), np.uint8), rng.integers(0, 256, (9, 8), np.uint8)
        valid = rng.random(pixels.shape) < 0.6
        tally = Tally()
        tally.count(pixels, weights, valid)
        summary = Summary.of(tally, SETTINGS, {})
        for c in range(3):
            w = np.where(valid[:, :, c], weights, 0).astype(float)
            assert math.isclose(summary.mean[c], np.average(pixels[:, :, c], weights=w) / 255, rel_tol=1e-12)
            assert math.isclose(summary.pixels_of[c], w.sum() / 255, rel_tol=1e-12)
        assert [sum(pair) for pair in zip(summary.pixels_of, summary.invalid, strict=True)] == pytest.approx(
            [weights.sum() / 255] * 3
        )

    def test_nothing_valid_fails_and_changes_nothing(self) -> None:
        pixels = np.ones((2, 2, 3), np.float32)
        tally = Tally()
        with pytest.raises(InputError, match="no sample is valid") as raised:
            tally.count(pixels, valid=np.zeros(pixels.shape, bool))
        assert raised.value.reason == "nodata" and tally.state() == Tally().state()
        pixels[0, 0, 0] = np.nan
        hidden = ~np.isnan(pixels)
        tally.count(pixels, valid=hidden)  # a NaN where nothing counts is no error
        with pytest.raises(InputError, match="1 pixels are NaN"):
            tally.count(pixels)
