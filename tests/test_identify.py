"""`normcli tensor identify`: the normalizer of an output, real misreadings, ambiguous and rejected pairs."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.errors import TensorError
from normcli.tensor.identify import Fit, Identification, identify
from tests.support import needs
from tests.support.command import Run
from tests.support.normalizer_cases import (
    DTYPES,
    SHAPES,
    Array,
    Case,
    dtype_of,
    other_cases,
    rounded,
    spread_input,
    standard_case,
    standardize,
    with_affine,
)

EPS = 1e-5


def images(seed: int = 0, dtype: Any = np.float32, eps: float = EPS, shape: tuple[int, ...] = (4, 8, 5, 6)) -> Array:
    return spread_input(np.random.default_rng(seed), shape, np.dtype(dtype), eps)


def affine(seed: int = 1, channels: int = 8) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=channels).astype(np.float32) + 1, rng.normal(size=channels).astype(np.float32)


def along(values: Array, axis: int, rank: int = 4) -> Array:
    return values.astype(np.float64).reshape([-1 if a == axis else 1 for a in range(rank)])


def only(identification: Identification) -> Fit:
    """Return the one fit of a certain identification."""
    assert identification.certain, identification
    return identification.fits[0]


def eps_of(fit: Fit) -> tuple[float, str | None]:
    assert fit.eps is not None
    return fit.eps.value, fit.eps.place


def is_right(case: Case, fit: Fit) -> bool:
    """Return True if a fit has the normalizer and settings that a case was made with."""
    if not any(
        name == case.name and all(str(settings.get(key)) == str(value) for key, value in case.settings.items())
        for name, settings in fit.names
    ):
        return False
    if case.eps and fit.eps is not None and fit.eps.place is not None:
        place = case.place or fit.eps.place
        if fit.eps.place != place or not fit.eps.low * 0.999 <= case.eps <= fit.eps.high * 1.001:
            return False
    pairs = ((case.variance, fit.variance), (case.form, fit.weight), (case.rounding, fit.rounding))
    return all(made is None or named in (made, None) for made, named in pairs)


def judge(cases: Iterable[Case]) -> tuple[int, int, list[str], list[str]]:
    """Return how many cases were seen and were certain, those not named, and those that are wrongly certain."""
    count, certain, unnamed, wrong = 0, 0, list[str](), list[str]()
    for case in cases:
        result = identify(case.x, case.y, weight=case.weight, bias=case.bias, layout=case.layout)
        right = any(is_right(case, fit) for fit in result.fits)
        text = f"{case.layout} {case.x.dtype} {case[5:]}: {[(f.title, f.eps, f.weight) for f in result.fits[:3]]}"
        count, certain = count + 1, certain + result.certain
        if result.verdict != "named" or not right:
            unnamed.append(text)
        if result.certain and not all(is_right(case, fit) for fit in result.fits):
            wrong.append(text)
    return count, certain, unnamed, wrong


def test_the_judge_sees_a_wrong_name() -> None:
    case = standard_case(np.random.default_rng(0), "float32", "NCHW")
    assert judge([case])[2:] == ([], [])
    count, certain, unnamed, wrong = judge([case._replace(name="layer_norm", settings={"axes": "0"})])
    assert (count, certain, len(unnamed), len(wrong)) == (1, 1, 1, 1)
    assert judge([case._replace(eps=0.5)])[3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_standard_normalizers_of_every_layout_are_named(dtype: str) -> None:
    rng = np.random.default_rng(7)
    cases = [standard_case(rng, dtype, layout) for layout in SHAPES for _ in range(2)]
    _, certain, unnamed, wrong = judge(cases)
    assert (unnamed, wrong) == ([], []) and certain >= 14


def test_other_normalizers_are_named() -> None:
    count, _, unnamed, wrong = judge(itertools.islice(other_cases(np.random.default_rng(3), "NCL"), 0, None, 16))
    assert (unnamed, wrong) == ([], []) and count >= 2


@pytest.mark.campaign
def test_five_hundred_cases() -> None:
    """Done when 2: at least 99% named, none wrongly named as certain."""
    rng = np.random.default_rng(17)
    cases = [standard_case(rng, DTYPES[i % 4], layout) for i in range(32) for layout in SHAPES]
    cases += [standard_case(rng, DTYPES[2 + i % 2], layout, solve=True) for i in range(8) for layout in SHAPES]
    cases += [case for layout in SHAPES for case in other_cases(rng, layout)]
    count, certain, unnamed, wrong = judge(cases)
    print(f"{count} cases, {certain} certain, {len(unnamed)} not named, {len(wrong)} wrongly certain")
    assert count >= 500 and wrong == []
    assert len(unnamed) <= 0.01 * count, unnamed


def test_epsilon_outside_the_root() -> None:
    x = images(eps=1e-8)
    fit = only(identify(x, standardize(x, (1,), centered=True, eps=1e-4, place="outside").astype(np.float32)))
    assert (fit.title, eps_of(fit)) == ("layer_norm axes=1", (1e-4, "outside"))


def test_the_place_of_epsilon_stays_open_where_three_statistics_allow_both() -> None:
    """Three sets and an unknown weight: eps inside the root explains the same bfloat16 numbers, so both are listed."""
    rng = np.random.default_rng(4)
    x = spread_input(rng, (3, 8, 3, 4, 4), dtype_of("bfloat16"), 1e-8)
    n = standardize(x, (1, 2, 3, 4), centered=False, eps=1e-4, place="outside")
    w, b = (v.astype(x.dtype).astype(np.float64)[:, None, None, None] for v in affine())
    result = identify(x, with_affine(n, w, b, "weight", "once", x.dtype), layout="NCDHW")
    places = {fit.eps.place: fit.eps for fit in result.fits if fit.eps is not None}
    assert result.verdict == "named" and not result.certain and "outside" in places
    assert places["outside"].low <= 1e-4 <= places["outside"].high


def test_a_mean_of_large_and_small_elements() -> None:
    """Elements far below the mean size of their set show the rounding of the mean: no reason for eval mode."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 12, 24)) * 10.0 ** rng.uniform(-4, 0, (4, 12, 24)) + 1e-9
    fit = only(identify(x, standardize(x, (0, 1), centered=True, eps=1e-4, place="outside"), layout="NTC"))
    assert (fit.title, eps_of(fit)) == ("batch_norm layout=NLC mode=train", (1e-4, "outside"))


@pytest.mark.parametrize(
    ("name", "settings", "eps"),
    [
        ("centred_weight_norm", {"dim": 0}, None),
        ("lp_batch_norm", {"formula": "linf-hoffer"}, 1e-4),
        ("ghost_batch_norm", {"batch": 2}, 1e-3),
        ("local_response_norm", {"size": 3, "window": "tf"}, None),
        ("dynamic_erf", {"alpha": 0.7, "shift": -0.2}, None),
    ],
)
def test_rarer_normalizers_are_named(name: str, settings: dict[str, Any], eps: float | None) -> None:
    x = spread_input(np.random.default_rng(11), (4, 6, 5), np.dtype(np.float64), 1e-5)
    layout = {} if name == "centred_weight_norm" else {"layout": "NCL"}
    result = nn.find(name).function(x, **settings, **layout, **({"eps": eps} if eps else {}))
    y = np.asarray(result.y if isinstance(result, nn.Normalized) else result)
    found = identify(x, y, layout="NCL")
    assert found.verdict == "named" and found.fits[0].name == name, found
    named = {key: str(value) for key, value in found.fits[0].settings.items()}
    assert {key: str(value) for key, value in settings.items()}.items() <= named.items()


def test_layer_norm_taken_for_rms_norm() -> None:
    x = images()
    w, _ = affine(channels=6)
    for name, centered in (("layer_norm", True), ("rms_norm", False)):
        y = standardize(x, (3,), centered=centered, eps=EPS) * w
        fit = only(identify(x, y.astype(np.float32), weight=w))
        assert (fit.name, fit.settings) == (name, {"axes": "3"})


def test_unbiased_variance() -> None:
    x = images()
    y = standardize(x, (0, 2, 3), centered=True, eps=EPS, unbiased=True).astype(np.float32)
    fit = only(identify(x, y, layout="NCHW"))
    assert (fit.title, fit.variance) == ("batch_norm layout=NCHW mode=train", "unbiased")


def test_weight_offset_by_one() -> None:
    x, (w, _) = images(), affine(channels=6)
    y = standardize(x, (3,), centered=False, eps=EPS) * (1.0 + w.astype(np.float64))
    fit = only(identify(x, y.astype(np.float32), weight=w))
    assert (fit.name, fit.weight) == ("rms_norm", "1 + weight")


def test_order_of_groups() -> None:
    x = images()
    swapped = x.reshape(4, 4, 2, 5, 6).swapaxes(1, 2)  # channel c in group c mod 2
    y = standardize(swapped, (2, 3, 4), centered=True, eps=EPS).swapaxes(1, 2).reshape(x.shape).astype(np.float32)
    assert only(identify(x, y, layout="NCHW")).settings == {"layout": "NCHW", "groups": 2, "order": "interleaved"}


def test_instance_norm_is_group_norm_of_single_channels() -> None:
    x = images()
    fit = only(identify(x, nn.group_norm(x, layout="NCHW", groups=8), layout="NCHW"))
    assert fit.name == "instance_norm" and ("group_norm", {"layout": "NCHW", "groups": 8}) in fit.names


@pytest.mark.parametrize("claimed", ["NCHW", None])
def test_nhwc_read_as_nchw(claimed: str | None) -> None:
    x = images()
    for name, y in (
        ("batch_norm", nn.batch_norm(x, layout="NHWC").y),
        ("group_norm", nn.group_norm(x, layout="NHWC", groups=2)),
    ):
        fit = only(identify(x, y, layout=claimed))
        assert (fit.name, fit.settings["layout"]) == (name, "NHWC")


@pytest.mark.parametrize("wide_sum", [True, False])
def test_float16_squared_before_the_sum(wide_sum: bool) -> None:
    x = images(dtype=np.float16, eps=1e-3)
    squares = x * x
    mean = squares.mean(axis=3, keepdims=True, dtype=np.float32 if wide_sum else None)
    y = (x / np.sqrt(mean + mean.dtype.type(1e-3))).astype(np.float16)
    fit = only(identify(x, y))
    assert fit.name == "rms_norm" and fit.arithmetic.startswith("float16: ")
    assert ("squares rounded" in fit.arithmetic) == wide_sum


@pytest.mark.parametrize(("dtype", "eps"), [("float16", 2.0**-23), ("float32", 2.0**-23), ("float64", 2.0**-52)])
def test_default_epsilon_of_a_type(dtype: str, eps: float) -> None:
    x = images(dtype=dtype, eps=eps)
    fit = only(identify(x, nn.rms_norm(x, layout="NCHW", axes="-1")))
    assert eps_of(fit) == (eps, "inside")


@pytest.mark.parametrize("order", ["once", "before the affine", "after every step"])
def test_order_of_rounding(order: str) -> None:
    x = images(dtype=np.float16, eps=1e-4)
    w, b = (v.astype(np.float16) for v in affine(channels=6))
    n = standardize(x, (3,), centered=True, eps=1e-4)
    n = n if order == "once" else rounded(n, x.dtype)
    n = n * w.astype(np.float64)
    n = rounded(n, x.dtype) if order == "after every step" else n
    fit = only(identify(x, (n + b.astype(np.float64)).astype(np.float16), weight=w, bias=b))
    assert (fit.rounding, fit.agreement.ulp) == (order, 0.0)


def test_batch_norm_in_eval_and_train_mode() -> None:
    x, (w, b) = images(), affine()
    rng = np.random.default_rng(5)
    state = {"running_mean": rng.normal(size=8), "running_var": 10.0 ** rng.uniform(-6, 1, 8)}
    y = nn.batch_norm(x, layout="NCHW", mode="eval", state=state, weight=w, bias=b, eps=1e-3).y
    fit = only(identify(x, y, weight=w, bias=b, layout="NCHW", state=state))
    assert (fit.settings["mode"], eps_of(fit)) == ("eval", (1e-3, "inside"))
    without = identify(x, y, weight=w, bias=b, layout="NCHW")
    assert without.verdict == "named" and not without.certain and without.fits[0].settings["mode"] == "eval"
    np.testing.assert_allclose(without.fits[0].solved["running_mean"], state["running_mean"], rtol=1e-3, atol=1e-3)
    unknown = identify(x, y, layout="NCHW")
    assert unknown.verdict == "ambiguous" and {f.settings["mode"] for f in unknown.fits} == {"train", "eval"}
    trained = nn.batch_norm(x, layout="NCHW", weight=w, bias=b).y
    assert only(identify(x, trained, weight=w, bias=b, layout="NCHW", state=state)).settings["mode"] == "train"


def test_epsilon_of_keras_and_torch() -> None:
    x = images()
    for eps in (1e-3, 1e-5):
        fit = only(identify(x, nn.batch_norm(x, layout="NHWC", eps=eps).y, layout="NHWC"))
        assert eps_of(fit) == (eps, "inside")


def test_an_unknown_affine_is_solved_for() -> None:
    x, (w, b) = images(), affine()
    result = identify(x, nn.group_norm(x, layout="NCHW", groups=4, weight=w, bias=b), layout="NCHW")
    assert result.verdict == "named" and not result.certain
    fit = result.fits[0]
    assert (fit.name, fit.settings["groups"], fit.weight) == ("group_norm", 4, "solved")
    assert fit.eps is not None and fit.eps.low <= EPS <= fit.eps.high
    np.testing.assert_allclose(fit.solved["weight"], w, rtol=1e-4)
    np.testing.assert_allclose(fit.solved["bias"], b, rtol=1e-3, atol=1e-5)
    assert any("unbiased" in value for one in result.open for value in one.values)


def test_torch_float32_results_are_named() -> None:
    torch = needs.module("torch")
    functional = torch.nn.functional
    x, (w, b) = images(), affine()
    t, tw, tb = (torch.from_numpy(v) for v in (x, w, b))
    for name, y, given in (
        ("group_norm", functional.group_norm(t, 4, tw, tb), True),
        ("instance_norm", functional.instance_norm(t, weight=tw, bias=tb), True),
        ("batch_norm", functional.batch_norm(t, None, None, tw, tb, training=True), True),
        ("layer_norm", functional.layer_norm(t, (8, 5, 6)), False),
        ("rms_norm", functional.rms_norm(t, (6,), eps=EPS), False),
    ):
        result = identify(x, y.numpy(), weight=w if given else None, bias=b if given else None, layout="NCHW")
        assert result.verdict == "named" and result.fits[0].name == name
        assert any(f.eps is not None and f.eps.low <= EPS <= f.eps.high for f in result.fits)


def test_one_sample_leaves_batch_and_instance_norm_open() -> None:
    x = images(shape=(1, 8, 5, 6))
    result = identify(x, nn.instance_norm(x, layout="NCHW"), layout="NCHW")
    assert result.verdict == "ambiguous"
    assert {"batch_norm", "instance_norm"} <= {fit.name for fit in result.fits}
    assert any("axis 0" in one.remedy for one in result.open if one.setting == "normalizer")


def test_an_epsilon_too_small_to_see_is_a_range() -> None:
    x = np.random.default_rng(0).normal(size=(16, 32)).astype(np.float16)
    result = identify(x, nn.layer_norm(x, layout="NC", eps=1e-8))
    assert result.verdict == "named" and not result.certain
    fit = result.fits[0]
    assert fit.eps is not None and fit.eps.low == 0 and fit.eps.high > 1e-8
    assert any(one.setting == "eps" and "small" in one.remedy for one in result.open)


def test_a_relu_after_the_normalizer_is_seen() -> None:
    x, (w, b) = images(), affine()
    y = np.maximum(nn.group_norm(x, layout="NCHW", groups=2, weight=w, bias=b), 0)
    assert only(identify(x, y, weight=w, bias=b, layout="NCHW")).clipped


def test_a_weight_that_was_not_used() -> None:
    x, (w, b) = images(), affine()
    fit = only(identify(x, nn.group_norm(x, layout="NCHW", groups=2), weight=w, bias=b, layout="NCHW"))
    assert fit.weight == "not used"


def test_constant_input_cannot_be_identified() -> None:
    result = identify(np.full((4, 8), 3.0), np.zeros((4, 8)))
    assert result.verdict == "none" and any("constant" in remark for remark in result.remarks)


def test_elements_that_are_not_finite_are_left_out() -> None:
    x = images()
    x[1, 2, 3, 4] = np.nan
    result = identify(x, nn.instance_norm(x, layout="NCHW"), layout="NCHW")
    assert result.verdict == "named" and "1 of 960" not in result.remarks
    assert "30 of 960 elements are NaN" in result.remarks[0]


def test_what_no_normalizer_gives_has_a_nearest_and_a_place() -> None:
    x = images()
    y = nn.instance_norm(x, layout="NCHW")
    y[2, 1, 0, 3] += 0.5
    result = identify(x, y, layout="NCHW")
    assert result.verdict == "none"
    near = result.nearest[0]
    assert near.title.startswith("instance_norm") and near.first == near.worst == (2, 1, 0, 3) and near.share > 0.99


def test_an_output_that_was_not_normalized() -> None:
    x = images()
    assert any("Y equals X" in remark for remark in identify(x, x.copy(), layout="NCHW").remarks)


@pytest.mark.parametrize(
    ("x", "y", "settings", "words"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), {}, "same shape"),
        (np.ones((2, 3)), np.ones((2, 3), np.int32), {}, "float"),
        (np.arange(6.0).reshape(2, 3), np.ones((2, 3)), {"weight": np.ones(7)}, "weight of shape (7,)"),
        (np.zeros((0, 3)), np.zeros((0, 3)), {}, "shape (0, 3)"),
    ],
)
def test_pairs_that_cannot_be_compared(x: Array, y: Array, settings: dict[str, Array], words: str) -> None:
    with pytest.raises(TensorError) as error:
        identify(x, y, **settings)  # type: ignore[arg-type]
    assert words in str(error.value)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    x, (w, b) = images(), affine()
    y = nn.group_norm(x, layout="NCHW", groups=4, weight=w, bias=b)
    for name, array in (("x", x), ("y", y), ("w", w), ("b", b)):
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "r.npy", np.random.default_rng(0).normal(size=x.shape))
    return tmp_path


def test_the_command_prints_and_exits(run: Run, here: Path) -> None:
    affine_files = ("--weight", "w.npy", "--bias", "b.npy")
    done = run("tensor", "identify", "x.npy", "y.npy", *affine_files, "--layout", "NCHW", cwd=here)
    text = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    for words in ("group_norm layout=NCHW groups=4", "1e-05 inside the root", "biased", "100.0000%"):
        assert words in text
    done = run("tensor", "identify", "x.npy", "y.npy", *affine_files, "--json", cwd=here)
    document = json.loads(done.stdout)
    assert (document["verdict"], document["certain"]) == ("named", True)
    assert document["fits"][0]["settings"]["groups"] == 4
    done = run("tensor", "identify", "x.npy", "r.npy", "--layout", "NCHW", cwd=here)
    assert done.returncode == 1 and b"no normalizer maps X to Y" in done.stdout and b"nearest" in done.stdout


def test_the_command_rejects_what_does_not_fit(run: Run, here: Path) -> None:
    done = run("tensor", "identify", "x.npy", "w.npy", cwd=here)
    assert done.returncode == 1 and done.stdout == b"" and b"same shape" in done.stderr
    done = run("tensor", "identify", "x.npy", "y.npy", "--memory-limit", "10K", cwd=here)
    assert done.returncode == 1 and b"--memory-limit" in done.stderr
