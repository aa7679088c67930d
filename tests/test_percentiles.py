"""Percentiles on demand are those of every pixel: equal to numpy.percentile on the data, by each of its methods."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import normcli
from normcli.errors import UsageError
from normcli.options.printing import PERCENTILE_METHODS
from normcli.summary import Summary
from normcli.summary.sums import merge
from normcli.tally import Tally
from normcli.tally.float_bins import bin_bounds
from normcli.tally.floats import bins_of
from tests.support.command import Run
from tests.support.images import photograph

Array = np.ndarray[Any, Any]

SETTINGS: dict[str, Any] = {"color": "auto", "alpha": "drop", "max_value": None}
# whose quantiles are exact in float64, so that numpy.percentile rounds no position, and others
DYADIC = ("0", "0.78125", "12.5", "25", "50", "75", "99.21875", "100")
DECIMAL = ("0.5", "1", "7", "33.3", "90", "99.5", "99.9")


def counted(*images: Array, group: str | None = None, **settings: Any) -> Summary:
    tally = Tally()
    for image in images:
        tally.count(image, group=group)
    return Summary.of(tally, {**SETTINGS, **settings}, {})


def pictures(dtype: str, seed: int = 0, channels: int = 3) -> list[Array]:
    """Images of several sizes, dark and bright, whose values repeat in some and hardly in others."""
    rng = np.random.default_rng(seed)
    images = [photograph(5 + 7 * i, 9 + i, channels, seed + i).reshape(5 + 7 * i, 9 + i, channels) for i in range(3)]
    if dtype == "uint8":
        return images
    if dtype == "uint16":
        return [
            image.astype(np.uint16) * 257 ^ rng.integers(0, 1 << 9, image.shape).astype(np.uint16) for image in images
        ]
    return [(rng.normal(0, 3, image.shape) ** 3 * 10.0 ** rng.integers(-3, 3)).astype(dtype) for image in images]


def values_of(images: list[Array], channel: int) -> Array:
    return np.concatenate([image[:, :, channel].ravel() for image in images])


def is_ambiguous(n: int, percent: str, method: str) -> bool:
    """Return True where the rounding of n*q decides which value numpy.percentile takes."""
    q = Fraction(percent) / 100
    position = (n - 1) * q if method in ("lower", "higher", "nearest", "midpoint") else n * q
    return (2 * position).denominator == 1 and Fraction(float(percent) / 100) != q


@pytest.mark.parametrize("method", PERCENTILE_METHODS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_integers_equal_numpys_on_all_pixels(dtype: str, method: str) -> None:
    white = np.iinfo(dtype).max
    for seed in range(4):
        images = pictures(dtype, seed)
        found = counted(*images).with_percentiles([*DYADIC, *DECIMAL], method=method)
        assert found.percentile_details is not None and found.percentile_details["exact"]
        for c in range(3):
            data = values_of(images, c).astype(float)
            for percent in (*DYADIC, *DECIMAL):
                if is_ambiguous(len(data), percent, method):
                    continue
                want = np.percentile(data, float(percent), method=method)  # type: ignore[call-overload]
                got = found.percentiles[percent][c]
                if percent in DYADIC and method != "median_unbiased":  # NumPy rounds 1/3
                    assert got == want / white, percent
                # its position is off by up to two roundings of n*q, and the value by two more
                slack = (2 * len(data) * np.ptp(data) + 4 * want) * 2.0**-53
                assert abs(got * white - want) <= slack, percent


@pytest.mark.parametrize("method", ["linear", "weibull", "interpolated_inverted_cdf", "midpoint"])
def test_they_equal_numpys_in_fractions_to_the_last_bit(method: str) -> None:
    """NumPy computes these methods in the arithmetic of its input: here of fractions, without rounding."""
    images = pictures("uint8", 7, 1)
    found = counted(*images).with_percentiles(DECIMAL, method=method)
    data = np.array([Fraction(int(v)) for v in values_of(images, 0)], dtype=object)
    for percent in DECIMAL:
        q = np.array(Fraction(percent) / 100, dtype=object)
        want: Any = np.quantile(data, q, method=method)  # type: ignore[call-overload]
        assert found.percentiles[percent] == [float(want / 255)]


def test_the_range_between_the_quartiles_is_rounded_once() -> None:
    images = pictures("uint16")
    found = counted(*images).with_percentiles("iqr")
    for c in range(3):
        low, high = (np.percentile(values_of(images, c), p) for p in (25, 75))
        assert found.percentiles["iqr"][c] == (high - low) / 65535


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", PERCENTILE_METHODS)
def test_the_bound_of_floats_contains_the_exact_one(method: str, dtype: str) -> None:
    for seed in range(3):
        images = pictures(dtype, seed)
        found = counted(*images).with_percentiles([*DYADIC, "iqr", "q0.5"], method=method)
        details = found.percentile_details
        assert details is not None and details["exact"] is False
        for c in range(3):
            data = values_of(images, c).astype(float)
            exact = {p: np.percentile(data, float(p), method=method) for p in DYADIC}  # type: ignore[call-overload]
            exact["iqr"] = exact["75"] - exact["25"]
            for name, want in exact.items():
                got, error = found.percentiles[name][c], details["error"][name][c]
                assert abs(got - want) <= error * (1 + 1e-12), name
                if name != "iqr":  # 8 significant bits of the larger neighbor
                    assert error <= 2.0**-6 * np.abs(data).max()


def test_bins_contain_what_is_counted_in_them() -> None:
    low, high = bin_bounds()
    rng = np.random.default_rng(3)
    exponents = rng.uniform(-330, 150, 20_000)
    values = np.concatenate(
        [rng.choice([-1, 1], 20_000) * 10.0**exponents, [0.0, -0.0, 5e-324, -5e-324, 1e-46, 3.5e38]]
    )
    ends = np.concatenate([low, high])
    values = np.concatenate([values, ends[np.isfinite(ends)]])
    bins = bins_of(values)
    assert (low[bins] <= values).all() and (values <= high[bins]).all()
    used = np.isfinite(low) & np.isfinite(high)
    assert (bins_of(low[used & (low != 0)]) == np.flatnonzero(used & (low != 0))).all()
    assert (high[used][:-1] < low[used][1:]).sum() >= used.sum() - 2  # the bins of 0 and -0 touch


def test_groups_carry_them_with_their_own_bounds() -> None:
    deep, light = pictures("uint16", 1), pictures("uint8", 2)
    tally = Tally()
    for image in deep:
        tally.count(image, group="deep")
    found = Summary.of(tally, SETTINGS, {}).with_percentiles("0.5,99.5", method="hazen")
    group = found.groups["deep"]
    assert found.percentile_details is not None and group.percentile_details is not None
    assert found.percentile_details["exact"] is True and group.percentile_details["exact"] is False
    for name in ("0.5", "99.5"):
        for c in range(3):
            error = group.percentile_details["error"][name][c]
            assert 0 < error <= 2.0**-8
            assert abs(group.percentiles[name][c] - found.percentiles[name][c]) <= error
    bright = counted(*light, group="light").with_percentiles("0.5,99.5")
    assert bright.groups["light"].percentile_details == {
        "method": "linear",
        "requested": ["0.5", "99.5"],
        "exact": True,
    }
    assert bright.groups["light"].percentiles == bright.percentiles


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_shards_sums_and_differences_give_those_of_one_pass(dtype: str) -> None:
    images, others = pictures(dtype, 1), pictures(dtype, 5)
    percents = [*DECIMAL, "iqr"]
    alone = counted(*images).with_percentiles(percents, method="weibull")
    union = merge(*(counted(image) for image in reversed(images))).with_percentiles(percents, method="weibull")
    difference = merge(counted(*images, *others), minus=counted(*others))
    assert union.percentiles == alone.percentiles and union.percentile_details == alone.percentile_details
    assert difference.with_percentiles(percents, method="weibull").percentiles == alone.percentiles


def test_without_asking_the_file_is_as_ever() -> None:
    summary = counted(*pictures("uint8"))
    assert "percentile_details" not in summary.to_json() and list(summary.percentiles) == list(
        map(str, (1, 5, 25, 50, 75, 95, 99))
    )
    found = summary.with_percentiles([50, "1"])
    assert found.percentiles == summary.percentiles
    assert merge(found).to_json() == merge(summary).to_json()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_weights_are_numpys(dtype: str) -> None:
    rng = np.random.default_rng(0)
    tally, levels, weights = Tally(), [], []
    for image in pictures(dtype, 3, 1):
        alpha = rng.integers(1, np.iinfo(dtype).max, image.shape[:2]).astype(dtype)
        tally.count(image, alpha)
        levels.append(image[:, :, 0].ravel())
        weights.append(alpha.ravel())
    summary = Summary.of(tally, {**SETTINGS, "alpha": "weight"}, {})
    found = summary.with_percentiles([*DYADIC, *DECIMAL], method="inverted_cdf")
    data, counts = np.concatenate(levels), np.concatenate(weights).astype(float)
    for percent in (*DYADIC, *DECIMAL):
        want = np.percentile(data, float(percent), method="inverted_cdf", weights=counts)
        assert found.percentiles[percent] == [want / np.iinfo(dtype).max], percent
    assert summary.with_percentiles("50").percentiles["50"] == summary.percentiles["50"]
    with pytest.raises(
        UsageError, match=r"hazen is not defined for pixels that count by their alpha .*inverted_cdf or"
    ):
        summary.with_percentiles("50", method="hazen")


@pytest.mark.parametrize("method", PERCENTILE_METHODS)
def test_every_channel_has_its_own_number_of_pixels(method: str) -> None:
    rng = np.random.default_rng(5)
    tally, valid_values = Tally(), [[], [], []]  # type: ignore[var-annotated]
    for image in pictures("uint8", 2):
        valid = rng.random(image.shape) < np.array([1, 0.6, 0])
        tally.count(image, valid=valid)
        for c in range(3):
            valid_values[c].append(image[:, :, c][valid[:, :, c]])
    summary = Summary.of(tally, SETTINGS, {})
    found = summary.with_percentiles([*DYADIC, "iqr"], method=method)
    assert found.invalid and found.percentile_details is not None and found.percentile_details["exact"]
    for percent in DYADIC:
        row = found.percentiles[percent]
        want = [np.percentile(np.concatenate(valid_values[c]), float(percent), method=method) / 255 for c in (0, 1)]  # type: ignore[call-overload]
        np.testing.assert_allclose(row[:2], want, rtol=2e-16 if method != "median_unbiased" else 1e-14)
        assert math.isnan(row[2])
    again = Summary.from_json(found.to_json())
    assert again.to_json() == found.to_json() and '"iqr": [' in again.to_json() and "NaN" not in again.to_json()
    freedom = [sum(len(v) - 1 for v in valid_values[c]) for c in (0, 1)]
    squares = [sum(float(v.var()) * len(v) for v in valid_values[c]) for c in (0, 1)]
    within = summary.conventions["pooled_within_images"]["std"]
    assert within is not None and math.isnan(within[2])
    np.testing.assert_allclose(within[:2], np.sqrt(np.divide(squares, freedom)) / 255, rtol=1e-12)


@pytest.mark.parametrize("method", PERCENTILE_METHODS)
def test_scales_of_bands_apply_to_them_and_a_negative_one_turns_the_order(method: str) -> None:
    tally = Tally()
    images = pictures("uint16", 3)
    for image in images:
        tally.count(image, notes=("scale:0.25*x-8.0,-0.5*x+3.0,1.0*x+0.0",))
    found = Summary.of(tally, SETTINGS, {}).with_percentiles([*DYADIC, "iqr"], method=method)
    assert found.percentile_details is not None and found.percentile_details["exact"]
    for c, (factor, offset) in enumerate([(0.25, -8), (-0.5, 3), (1, 0)]):
        data = values_of(images, c) * factor + offset
        quartiles = {p: np.percentile(data, p, method=method) for p in (25, 75)}  # type: ignore[call-overload]
        assert found.percentiles["iqr"][c] == pytest.approx(quartiles[75] - quartiles[25], rel=1e-9)
        for percent in DYADIC:
            want = np.percentile(data, float(percent), method=method)  # type: ignore[call-overload]
            assert found.percentiles[percent][c] == pytest.approx(want, rel=1e-9), percent


WRONG = {
    "101": b"101 is not from 0 to 100",
    "-1": b"-1 is not from 0 to 100",
    "nan": b"nan is not from 0 to 100",
    "1e400": b"1e400 is not from 0 to 100",
    "x": b"'x' is neither a number from 0 to 100, qN nor iqr",
    "5,,6": b"'' is neither",
    "1e-30": b"has more than 20 decimals",
    ",".join(f"{i / 8}" for i in range(101)): b"101 are more than 100",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_percentiles_are_one_line(text: str, run: Run, tmp_path: Path) -> None:
    counted(*pictures("uint8")).save(tmp_path / "s.json")
    Image.fromarray(photograph(8, 8, 3, 1)).save(tmp_path / "a.png")
    for command in (["show", "s.json"], ["stats", "a.png"]):
        done = run(*command, f"--percentiles={text}")
        assert done.returncode == 2 and done.stdout == b"" and done.stderr.count(b"\n") == 1
        assert WRONG[text] in done.stderr


def test_weights_of_images_are_refused_before_the_work(run: Run, tmp_path: Path) -> None:
    Image.fromarray(photograph(8, 8, 3, 1)).save(tmp_path / "a.png")
    done = run("stats", "a.png", "--weight", "image", "--percentiles", "5", "-o", "s.json")
    assert done.returncode == 2 and b"--weight image: the histogram counts every pixel alike" in done.stderr
    assert not (tmp_path / "s.json").exists()
    assert run("stats", "a.png", "--weight", "image", "-o", "s.json").returncode == 0
    assert run("show", "s.json", "--percentiles", "5").stderr == done.stderr
    done = run("stats", "a.png", "--percentile-method", "hazen")
    assert done.returncode == 2 and b"--percentile-method requires --percentiles" in done.stderr


def test_stats_show_and_python_agree(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number, image in enumerate(pictures("uint8")):
        Image.fromarray(image).save(tmp_path / "set" / f"{number}.png")
    options = ("--percentiles", "0.5,q99.5,iqr", "--percentile-method", "closest_observation")
    done = run("stats", "set", "-o", "s.json", *options, "-q", "--json")
    assert done.returncode == 0, done.stderr
    file = json.loads((tmp_path / "s.json").read_bytes())
    assert file["percentile_details"] == {
        "method": "closest_observation",
        "requested": ["0.5", "99.5", "iqr"],
        "exact": True,
    }
    assert list(file["percentiles"]) == ["0.5", "1", "5", "25", "50", "75", "95", "99", "99.5", "iqr"]
    summary = normcli.stats(tmp_path / "set", percentiles=[0.5, 99.5, "iqr"], percentile_method="closest_observation")
    assert summary.to_json().encode() == (tmp_path / "s.json").read_bytes()
    run("stats", "set", "-o", "plain.json", "-q")
    assert run("show", "plain.json", *options, "--json").stdout == (tmp_path / "s.json").read_bytes()
    shown, printed = run("show", "plain.json", *options).stdout, run("show", "s.json").stdout
    assert shown == printed and b"0.5%" in shown and b"iqr" in shown and b"closest_observation, exact" in shown
    again = run("stats", "set", "-o", "s.json", "--resume", "-q", "--percentiles", "3")
    assert again.returncode == 2 and b"exists, with other percentiles" in again.stderr
    assert run("stats", "set", "-o", "s.json", "--resume", "-q", *options).returncode == 0


def test_the_table_prints_the_bound(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pictures("float32", 1, 3)[2])
    done = run("stats", "a.npy", "-O", "layout=hwc", "-o", "s.json", "--percentiles", "99.5", "--group-by", "^.")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    summary = normcli.load(tmp_path / "s.json")
    assert summary.percentile_details is not None
    for value, error in zip(summary.percentiles["99.5"], summary.percentile_details["error"]["99.5"], strict=True):
        cell = next(word for word in text.split() if word.startswith(f"{value:.4f}+-"))
        assert error <= float(cell.partition("+-")[2]) <= 1.2 * error
    assert "+- bounds the error" in text
    assert "+- bounds the error" in run("show", "s.json", "--group", "a").stdout.decode()
    damaged = summary.replace(percentile_details={**summary.percentile_details, "method": "x"})
    (tmp_path / "s.json").write_text(json.dumps(damaged.to_dict()))
    assert b"'percentile_details' of the wrong type" in run("show", "s.json").stderr
