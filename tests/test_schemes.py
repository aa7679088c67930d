"""Every scheme against the formula that its users know, evaluated in float64 and rounded once."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from normcli import images, schemes, transform
from normcli.errors import InputError, UsageError
from normcli.kernels.kernel import Kernel
from normcli.options.shared import DecodeOptions
from normcli.runs.transform import MappedImage, Transform
from tests.support.images import photograph

Array = np.ndarray[Any, Any]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def chw(pixels: Array) -> Array:
    return pixels.transpose(2, 0, 1).astype(np.float64)


def columns(values: tuple[float, ...]) -> Array:
    return np.array(values)[:, None, None]


# the published formulas, in float64; x is (C,H,W) in 0-255 or 0-65535
def torchvision_to_tensor(x: Array, white: int) -> Array:
    return x / white


def torchvision_normalize(x: Array, white: int) -> Array:
    return (x / white - columns(MEAN)) / columns(STD)


def keras_tf(x: Array, white: int) -> Array:
    return x / (white / 2) - 1.0


def keras_caffe(x: Array, white: int) -> Array:
    return (x / white * 255)[::-1] - columns((103.939, 116.779, 123.68))


def albumentations_standard(x: Array, white: int) -> Array:
    return (x - columns(MEAN) * white) / (columns(STD) * white)


def albumentations_image(x: Array, white: int) -> Array:
    return (x - x.mean()) / (x.std() + 1e-4)


def albumentations_image_per_channel(x: Array, white: int) -> Array:
    return (x - x.mean(axis=(1, 2), keepdims=True)) / (x.std(axis=(1, 2), keepdims=True) + 1e-4)


def albumentations_min_max(x: Array, white: int) -> Array:
    return (x - x.min()) / (x.max() - x.min() + 1e-4)


def albumentations_min_max_per_channel(x: Array, white: int) -> Array:
    low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    return (x - low) / (high - low + 1e-4)


def percentile_2_98(x: Array, white: int) -> Array:
    low, high = (np.percentile(x, p, axis=(1, 2), keepdims=True) for p in (2, 98))
    return (x - low) / (high - low)


def astropy_mad_std(x: Array, white: int) -> Array:
    middle = np.median(x, axis=(1, 2), keepdims=True)
    mad = np.median(np.abs(x - middle), axis=(1, 2), keepdims=True)
    return (x - middle) / (1.4826022185056018 * mad)


def goodfellow_gcn(x: Array, white: int) -> Array:
    x = x / white
    return 0.5 * (x - x.mean()) / np.sqrt(0.01 + x.var())


def windowed(x: Array, white: int) -> Array:
    """Map as MONAI's ScaleIntensityRange with clip."""
    return (np.clip(x, 20, 180) - 20) / 160


def nonzero_zscore(x: Array, white: int) -> Array:
    """Map as nnU-Net's ZScoreNormalization with use_mask_for_norm, by a mask of each channel."""
    inside = x != 0
    mean, std = (np.array([f(c[m]) for c, m in zip(x, inside, strict=True)]) for f in (np.mean, np.std))
    return np.where(inside, (x - columns(tuple(mean))) / columns(tuple(std)), 0)


FORMULAS = [
    ("unit", {}, torchvision_to_tensor),
    ("signed", {}, keras_tf),
    ("contrast", {"mean": MEAN, "std": STD}, torchvision_normalize),
    ("contrast", {"preset": "imagenet"}, albumentations_standard),
    ("caffe", {}, keras_caffe),
    ("clip:20,180", {}, windowed),
    ("zscore:mask=nonzero", {}, nonzero_zscore),
    ("zscore:eps=1e-4", {}, albumentations_image_per_channel),
    ("zscore:per=image,eps=1e-4", {}, albumentations_image),
    ("minmax:per=image,eps=1e-4", {}, albumentations_min_max),
    ("minmax:eps=1e-4", {}, albumentations_min_max_per_channel),
    ("percentile:2,98", {}, percentile_2_98),
    ("robust", {}, astropy_mad_std),
    ("gcn:scale=0.5,sqrt_bias=0.01", {}, goodfellow_gcn),
]
IDS = [f"{scheme}-{formula.__name__}" for scheme, _, formula in FORMULAS]


def ulps(ours: Array, right: Array) -> float:
    """Return the largest distance of results in float64, in units of the last place of float32."""
    rounded = right.astype(np.float32)
    return float((np.abs(ours.astype(np.float64) - rounded) / np.spacing(np.abs(rounded))).max())


def test_the_distance_sees_a_wrong_bit() -> None:
    right = np.array([1.0, -3.0])
    assert ulps(right.astype(np.float32), right) == 0
    assert ulps(np.nextafter(right.astype(np.float32), np.float32(9)), right) == 1


def test_every_scheme_has_a_formula() -> None:
    assert {scheme.partition(":")[0] for scheme, _, _ in FORMULAS} == set(schemes.SCHEMES) - schemes.CURVES


@pytest.mark.parametrize(("scheme", "numbers", "formula"), FORMULAS, ids=IDS)
@pytest.mark.parametrize("depth", [8, 16])
def test_scheme_equals_the_published_formula(scheme: str, numbers: Any, formula: Any, depth: int) -> None:
    pixels = photograph(40, 56)
    if depth == 16:
        pixels = pixels.astype(np.uint16) * 257 + np.arange(56, dtype=np.uint16)[None, :, None]
    right = formula(chw(pixels), (1 << depth) - 1)
    assert ulps(transform(scheme, **numbers)(pixels), right) <= 1


@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.campaign)])
@pytest.mark.parametrize(("scheme", "numbers", "formula"), FORMULAS, ids=IDS)
def test_formula_on_photographs(scheme: str, numbers: Any, formula: Any, step: int, shared_data: Path) -> None:
    ours = transform(scheme, color="rgb", **numbers)
    for path in sorted((shared_data / "imagenet-300").iterdir())[::step]:
        pixels = images.decode(path.read_bytes(), DecodeOptions()).pixels
        right = formula(chw(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels), 255)
        assert ulps(ours(pixels), right) <= 1, path


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8"])
@pytest.mark.parametrize("layout", ["chw", "hwc"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_kernel_and_numpy_give_the_same_bits(
    dtype: Any, layout: Any, kind: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = (np.random.default_rng(0).random((17, 23, channels)) * 250).astype(kind)
    made = transform("zscore", dtype=dtype, output_layout=layout)
    with monkeypatch.context() as without:
        without.setattr(Kernel, "try_call", lambda *_: False)
        slow = made(pixels)
    monkeypatch.setattr(Kernel, "is_due", lambda _: True)
    used: set[str] = set()
    called = Kernel.try_call

    def call(kernel: Kernel, *given: Any) -> bool:
        used.add(kernel.name)
        return called(kernel, *given)

    monkeypatch.setattr(Kernel, "try_call", call)
    assert made(pixels).tobytes() == slow.tobytes()
    assert sum(name.startswith("mapping.") for name in used) == (
        dtype in ("float32", "float64") or kind == "uint8" or (dtype, kind) == ("float16", "uint16")
    )
    right = made.map(pixels).affine
    if dtype in ("float32", "float64"):
        plain = (pixels.astype(np.float64) * right.scale + right.shift).astype(dtype)
        assert np.array_equal(slow, plain.transpose(2, 0, 1) if layout == "chw" else plain)


def test_levels_at_the_ends_map_exactly() -> None:
    ends = np.array([[[0], [255]]], np.uint8)
    assert transform("unit", dtype="float64")(ends).ravel().tolist() == [0.0, 1.0]
    assert transform("signed", dtype="float64")(ends).ravel().tolist() == [-1.0, 1.0]
    for low in range(250):
        assert transform("minmax")(np.maximum(ends, np.uint8(low))).ravel().tolist() == [0.0, 1.0]


def test_gray_goes_into_the_channels_of_the_constants() -> None:
    gray = photograph(8, 9, 1)
    found = transform(preset="imagenet").map(gray)
    colored = transform(preset="imagenet")(np.repeat(gray, 3, axis=2))
    assert found.source == (0, 0, 0) and np.array_equal(found.array, colored)


def test_bgr_turns_the_channels_and_their_constants() -> None:
    pixels = photograph()
    assert np.array_equal(transform(preset="clip", channel_order="bgr")(pixels), transform(preset="clip")(pixels)[::-1])


FLAT = np.dstack([photograph(6, 6, 1), np.full((6, 6, 1), 9, np.uint8), photograph(6, 6, 1)])


@pytest.mark.parametrize("scheme", ["zscore", "minmax", "percentile", "robust"])
def test_a_constant_channel_is_an_error_that_names_it(scheme: str) -> None:
    with pytest.raises(InputError, match="channel G is constant"):
        transform(scheme)(FLAT)
    with pytest.raises(InputError, match=r"channels R, G, B are constant .*maps them"):
        transform(scheme)(np.full((6, 6, 3), 9, np.uint8))
    assert np.all(transform(scheme, zero_std="one")(FLAT)[1] == 0)
    assert np.isfinite(transform(scheme, zero_std="eps:0.5")(FLAT)).all()


def test_eps_is_the_least_divisor() -> None:
    pixels = np.array([[[10], [12]]], np.uint8)
    assert transform("zscore", zero_std="eps:4")(pixels).ravel().tolist() == [-0.25, 0.25]


def clipped(array: Array, **settings: Any) -> MappedImage:
    return transform("zscore", **settings).map(array)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_clipping_is_counted_and_costs_the_inverse(kind: str) -> None:
    pixels = photograph().astype(kind)
    plain = transform("zscore").map(pixels)
    found = transform("zscore", clip=(-1, 1)).map(pixels)
    assert found.clipped == np.count_nonzero(np.abs(plain.array.astype(np.float64)) > 1) > 0
    assert np.array_equal(found.array, np.clip(plain.array, -1, 1))
    assert not found.exact and plain.exact == (kind != "float32")


def test_quantized_values_come_back_by_the_recorded_affine() -> None:
    pixels = photograph()
    found = transform("zscore", dtype="uint8").map(pixels)
    right = transform("zscore", dtype="float64")(pixels)
    assert found.restore is not None and found.array.min() == 0 and found.array.max() == 255
    restored = found.array * found.restore.scale[0] + found.restore.shift[0]
    assert np.abs(restored - right).max() <= found.restore.scale[0] / 2 * (1 + 1e-9)


def test_exact_tells_whether_the_inverse_is() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert transform("unit").map(deep).exact
    assert not transform("unit", dtype="float16").map(deep).exact
    assert transform("unit", dtype="float16").map(photograph()).exact


def test_float_images_need_a_range_for_unit() -> None:
    pixels = np.linspace(0, 4, 12, dtype=np.float32).reshape(3, 4, 1)
    with pytest.raises(InputError, match="`max_value` sets one"):
        transform("unit")(pixels)
    assert transform("unit", max_value=4)(pixels).max() == 1
    with pytest.raises(InputError, match="NaN"):
        transform("unit", max_value=4)(np.full((2, 2), np.nan, np.float32))
    mapped = transform("unit", max_value=4, nan="skip")(np.array([[np.nan, 1]], np.float32))
    assert np.isnan(mapped[0, 0, 0]) and mapped[0, 0, 1] == 0.25
    with pytest.raises(InputError, match="finite"):
        transform("unit", max_value=4, nan="skip")(np.full((2, 2), np.nan, np.float32))


def test_values_beyond_float16_are_refused() -> None:
    with pytest.raises(InputError, match="float16"):
        transform(mean=(0.0,), std=(1.0,), dtype="float16")(np.full((2, 2), 1e6, np.float32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("nan", ["error", "skip"])
def test_results_beyond_their_type_are_refused(dtype: str, nan: Any) -> None:
    x = np.array([[1, 2], [3, 255]], dtype)
    constants: dict[str, Any] = {"mean": (0.0,), "std": (1e-6,), "max_value": 255, "nan": nan}
    with pytest.raises(InputError, match="values beyond float16"):
        transform(**constants, dtype="float16")(x)
    assert np.isfinite(transform(**constants)(x)).all()
    assert transform(**constants, dtype="float16", clip=(-1, 1))(x).tolist() == [[[1, 1], [1, 1]]]
    bounded = {**constants, "mean": (1.0,), "std": (2e-5,), "max_value": None if dtype == "uint8" else 65535}
    with pytest.raises(InputError, match=r"values beyond float64$|cannot divide"):
        transform(**{**bounded, "std": (1e-306,), "mean": (1e9,)}, dtype="float64")(x)


@pytest.mark.parametrize("scheme", ["zscore", "minmax", "percentile", "robust", "gcn"])
def test_values_at_the_ends_of_float64(scheme: str) -> None:
    near = transform(scheme, dtype="float64")(np.array([[-1.0, 3.0], [0.5, 2.0]]))
    for power in (-700, 700):  # whose squares are 0 and infinite
        far = transform(scheme, dtype="float64")(np.ldexp(np.array([[-1.0, 3.0], [0.5, 2.0]]), power))
        assert np.array_equal(far, near)
    beyond = {"zscore": [1.7e308, 1.7e308, 1.6e308, 0.0], "minmax": [5e-324, 0.0, 5e-324, 0.0]}
    values = beyond.get(scheme, [-1.7e308, -1.7e308, 1.7e308, 1.7e308])
    with pytest.raises(InputError, match="float64 cannot divide by"):
        transform(scheme, dtype="float64")(np.array([values]))


def test_images_the_constants_say_nothing_about_are_refused() -> None:
    with pytest.raises(InputError, match=r"3 channels.*have 1"):
        transform(preset="mnist")(photograph())


WRONG = [
    ({"scheme": "contarst"}, "did you mean 'contrast'"),
    ({"scheme": "unit:3"}, "unit has no settings"),
    ({"scheme": "percentile:99,1"}, "LO < HI"),
    ({"scheme": "percentile:lo=x"}, "must be a number"),
    ({"scheme": "percentile:low=1"}, "unknown setting of percentile"),
    ({"scheme": "zscore:per=row"}, "channel, image"),
    ({"scheme": "zscore:eps=nan"}, "must be a number"),
    ({"scheme": "contrast"}, "contrast requires `stats`, `mean` and `std`, or `preset`"),
    ({"preset": "imagnet"}, "did you mean 'imagenet'"),
    ({"mean": (0.5,)}, "`mean` requires `std`"),
    ({"mean": (0.5,), "std": (0.5, 0.5)}, "both must have one per channel"),
    ({"mean": (0.5,), "std": (-1.0,)}, "negative"),
    ({"mean": (math.inf,), "std": (1.0,)}, "finite"),
    ({"preset": "clip", "mean": (0.5,) * 3, "std": (0.5,) * 3}, "`mean` cannot be combined with `preset`"),
    ({"scheme": "unit", "preset": "clip"}, "`preset` cannot be combined with `scheme` unit"),
    ({"preset": "clip", "convention": "pooled_sample"}, "`convention` pooled_sample requires `stats`, not `preset`"),
    ({"scheme": "unit", "dtype": "float8"}, "`dtype`: must be one of float32, float16"),
    ({"scheme": "unit", "output_layout": "whc"}, "chw, hwc"),
    ({"scheme": "unit", "channel_order": "gbr"}, "rgb, bgr"),
    ({"scheme": "unit", "clip": (1, 0)}, "LO < HI"),
    ({"scheme": "unit", "zero_std": "two"}, "eps:X"),
    ({"scheme": "unit", "zero_std": "eps:-1"}, "eps:X"),
    ({"scheme": "unit", "nan": "drop"}, "error, skip"),
    ({"scheme": "unit", "color": "green"}, "auto, rgb"),
    ({"scheme": "unit", "max_value": 0}, "positive"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[m for _, m in WRONG])
def test_wrong_settings_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        transform(**settings)(photograph())


def test_a_transform_is_picklable_and_maps_pillow_images() -> None:
    import pickle

    from PIL import Image

    made = transform("contrast", preset="imagenet")
    again: Transform = pickle.loads(pickle.dumps(made))
    pixels = photograph()
    assert again == made
    assert np.array_equal(again(Image.fromarray(pixels)), made(pixels))
    with pytest.raises(InputError, match="mode P"):
        made(Image.new("P", (4, 4)))


def test_presets_hold_what_they_need() -> None:
    for name, found in schemes.PRESETS.items():
        assert found.std is not None and len(found.mean) == len(found.std) in (1, 3), name
        assert found.convention and found.source
        assert min(found.std) > 0 and max(found.mean) < 1


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_clipped_standardization_is_the_formula_of_nnu_net_for_ct(dtype: Any, tmp_path: Path) -> None:
    """clip(x, p00_5, p99_5), then (x - mean) / max(std, 1e-8), by the numbers of voxels that are not 0."""
    x = np.random.default_rng(4).integers(0, 2000, (50, 60)).astype(dtype)
    np.save(tmp_path / "case.npy", x)
    source = normcli.source(tmp_path / "case.npy", layout="hw")
    options: Any = {"nodata": "0", "max_value": 4095} if dtype == np.uint16 else {"nodata": "0"}
    summary = normcli.stats(source, percentiles="0.5,99.5", exact_percentiles=True, **options)
    seen = x[x != 0].astype(np.float64)
    low, high = np.percentile(seen, [0.5, 99.5])
    right = (np.clip(x, low, high) - seen.mean()) / max(seen.std(), 1e-8)
    ours = transform("contrast:0.5,99.5", stats=summary, zero_std="eps:1e-8", **options)(x)
    np.testing.assert_allclose(ours[0], right, rtol=3e-7, atol=3e-7)
    head = normcli.apply(
        source, tmp_path / "out", scheme="contrast:lo=0.5,hi=99.5", stats=summary, dtype="float64", **options
    )
    outside = int(((x < low) | (x > high)).sum())
    assert head.clipped == outside - int((x == 0).sum())  # invalid samples are not values that were lost
    np.testing.assert_allclose(np.load(next((tmp_path / "out").rglob("*.npy")))[0], right, rtol=1e-12)


def test_inexact_percentiles_of_a_file_are_named(caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(4).normal(size=(50, 60))
    transform("contrast:0.5,99.5", stats=normcli.count([x]))
    assert "exact_percentiles" in caplog.text


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("to", ["npy", "png"])
def test_samples_outside_of_the_mask_are_restored(kind: str, to: Any, tmp_path: Path) -> None:
    x = np.where(np.arange(4800).reshape(60, 80) % 3, photograph(60, 80, 1)[:, :, 0] | 1, 0).astype(kind)
    np.save(tmp_path / "a.npy", x)
    source = normcli.source(tmp_path / "a.npy", layout="hw")
    head = normcli.apply(source, tmp_path / "out", scheme="zscore:mask=nonzero", to=to)
    back = normcli.restore(tmp_path / "out", tmp_path / "back", to="tiff")
    now = images.decode(next((tmp_path / "back").glob("*.tif")).read_bytes(), DecodeOptions()).pixels[:, :, 0]
    assert head.exact == back.exact == (kind.startswith("u") and (to == "npy" or kind == "uint8"))
    np.testing.assert_allclose(now, x, atol=1 if to == "png" else 1e-4)
    assert (now[x == 0] == 0).all()


def test_a_sample_that_equals_the_mean_is_not_exact() -> None:
    x = np.array([[0, 1, 2, 3]], np.uint8)[:, :, None]
    assert not Transform(scheme="zscore", settings=(("mask", "nonzero"),)).map(x).exact
    assert Transform(scheme="zscore", settings=(("mask", "nonzero"),)).map(x[:, [0, 1, 3, 3]]).exact


@pytest.mark.parametrize("scheme", ["clip", "clip:3", "clip:4,3", "clip:nan,3", "contrast:99,1", "zscore:mask=yes"])
def test_windows_and_masks_that_cannot_be(scheme: str) -> None:
    with pytest.raises(UsageError, match="`scheme`"):
        transform(scheme, mean=[0.5], std=[0.2])


def test_a_window_is_in_the_units_of_the_scale_tags(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5, 1) * 100
    mapped = Transform(scheme="clip", settings=(("hi", 200.0), ("lo", -1000.0))).map(pixels, scales=((1.0, -1024.0),))
    right = (np.clip(pixels[:, :, 0] - 1024.0, -1000, 200) + 1000) / 1200
    np.testing.assert_allclose(mapped.array[0], right, rtol=1e-6)
    assert mapped.clipped == 8 and not mapped.exact
