"""Edge cases of normalizers: results, and errors of one line that says what would be right."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.errors import NormcliError, TensorError, UsageError
from normcli.tensor.normalizers import NORMALIZERS, resources

Array = np.ndarray[Any, Any]

X = np.arange(48.0).reshape(2, 4, 2, 3)
L: dict[str, Any] = {"layout": "NCHW"}
STATE: dict[str, Any] = {"running_mean": np.zeros(4), "running_var": np.ones(4)}

REFUSED = [
    (lambda: nn.batch_norm(X, layout="NCL"), TensorError, r"layout NCL requires rank 3.*\(2, 4, 2, 3\)"),
    (lambda: nn.batch_norm(X), UsageError, "can be NCHW or NHWC: choose one"),
    (lambda: nn.batch_norm(X[:, 0]), UsageError, "can be NCL or NLC or NTC"),
    (lambda: nn.batch_norm(X[0, 0, 0]), TensorError, "rank 1"),
    (lambda: nn.batch_norm(X, layout="NCWH"), UsageError, "did you mean 'NCHW'"),  # type: ignore[arg-type]
    (lambda: nn.group_norm(X, **L, groups=3), TensorError, "C = 4, groups = 3"),
    (lambda: nn.group_norm(X, **L, groups=0), TensorError, "groups = 0"),
    (lambda: nn.group_norm(np.ones((1, 4)), groups=4), TensorError, "2 or more values per sample and group"),
    (lambda: nn.batch_norm(X, **L, mode="eval"), TensorError, "eval mode requires running statistics"),
    (lambda: nn.batch_norm(X, **L, mode="evil"), UsageError, "train or eval"),  # type: ignore[arg-type]
    (lambda: nn.batch_norm(X, **L, state=nn.batch_renorm(X, **L).state), TensorError, "lacks running_var"),
    (
        lambda: nn.batch_norm(X, **L, state={**STATE, "normalizer": np.array("batch_renorm")}),
        TensorError,
        "the state belongs to batch_renorm",
    ),
    (
        lambda: nn.batch_norm(X, **L, state={**STATE, "num_batches_tracked": np.ones(3)}),
        TensorError,
        r"must be one integer, 0 or more, got shape \(3,\)",
    ),
    (
        lambda: nn.batch_norm(X, **L, state={**STATE, "num_batches_tracked": np.array(1e300)}),
        TensorError,
        "0 or more, got 1e",
    ),
    (
        lambda: nn.batch_norm(X, **L, state={**STATE, "num_batches_tracked": np.array(-1)}),
        TensorError,
        "0 or more, got -1",
    ),
    (
        lambda: nn.batch_norm(X, **L, state={**STATE, "running_var": np.array(["1"] * 4)}),
        TensorError,
        "dtype <U1 cannot be normalized",
    ),
    (
        lambda: nn.batch_norm(X[:, :0], **L),
        TensorError,
        r"C must be 1 or more, and axis 1 of shape \(2, 0, 2, 3\) is 0",
    ),
    (lambda: nn.noisy_batch_norm(X, **L, seed=1, r_mu=float("nan")), UsageError, "r_mu and r_sigma must be 0 or more"),
    (lambda: nn.noisy_batch_norm(X, **L, seed=1, n_sigma=float("inf")), UsageError, r"all at most 1e\+100"),
    (lambda: nn.cosine_norm(X[..., :0], np.ones((2, 0))), TensorError, "F must be 1 or more"),
    (lambda: nn.batch_norm(X, **L, state={**STATE, "momentum": np.ones(4)}), TensorError, "unknown key 'momentum'"),
    (
        lambda: nn.batch_norm(X, **L, state={k: v[:3] for k, v in STATE.items()}),
        TensorError,
        r"shape \(3,\), but C = 4",
    ),
    (lambda: nn.batch_norm(X, **L, weight=np.ones(3)), TensorError, r"shape \(4,\) or \(2, 4\), got \(3,\)"),
    (lambda: nn.batch_norm(X[:1, :, :1, :1], **L), TensorError, "2 or more values per channel, not 1"),
    (lambda: nn.batch_norm(X[:0], **L), TensorError, "not 0"),
    (lambda: nn.batch_norm(X, **L, eps=-1e-5), UsageError, "eps must be 0 or more, got -1e-05"),
    (lambda: nn.batch_norm(X, **L, eps=float("nan")), UsageError, "eps must be"),
    (lambda: nn.batch_norm(X, **L, update_rate=1.5), UsageError, "0 to 1, not 1.5"),
    (lambda: nn.batch_norm(X, **L, running_var="sample"), UsageError, "unbiased or biased"),  # type: ignore[arg-type]
    (lambda: nn.batch_norm(X, **L, dtype="float23"), UsageError, "did you mean 'float32'"),  # type: ignore[arg-type]
    (lambda: nn.batch_norm(np.array([[None, 1]])), TensorError, "dtype object"),
    (lambda: nn.batch_norm(np.ones((2, 2), complex)), TensorError, "dtype complex128"),
    (lambda: nn.batch_norm(np.ones((2, 2), bool)), TensorError, "dtype bool"),
    (lambda: nn.instance_norm(np.ones((2, 4))), TensorError, "2 or more values per sample and channel"),
    (lambda: nn.layer_norm([[1.0, 2.0]]), TensorError, r"a tensor must be a NumPy array, not builtins\.list"),  # type: ignore[arg-type]
    (lambda: nn.group_norm(X, **L, groups="4"), UsageError, "groups must be an integer, not '4'"),  # type: ignore[arg-type]
    (lambda: nn.layer_norm(X, axes="-1", eps="x"), UsageError, "eps must be a number, not 'x'"),  # type: ignore[arg-type]
    (lambda: nn.layer_norm(X, axes=-1), UsageError, "axes must be token, image or numbers such as 2,3, not -1"),  # type: ignore[arg-type]
    (lambda: nn.layer_norm(X, axes="-1", dtype=np.float16), UsageError, r"unknown dtype .*choose from bfloat16"),  # type: ignore[arg-type]
    (lambda: nn.layer_norm(X, **L), UsageError, "requires `axes` token"),
    (lambda: nn.layer_norm(X, axes="9"), UsageError, "-4 to 3"),
    (lambda: nn.layer_norm(X, axes="1,1"), UsageError, "once each"),
    (lambda: nn.layer_norm(X, axes="pixel"), UsageError, "token, image or numbers"),
    (lambda: nn.layer_norm(X, axes="-1", weight=np.ones(4)), TensorError, r"shape \(3,\), got \(4,\)"),
    (lambda: nn.ghost_batch_norm(X, **L, batch=3), TensorError, "N = 2, batch = 3"),
    (lambda: nn.batch_instance_norm(X, **L, rho=np.full(4, 1.5)), TensorError, "rho must be 0 to 1"),
    (lambda: nn.batch_renorm(X, **L, rmax=0.5), UsageError, "rmax must be 1 or more"),
    (lambda: nn.batch_renorm(X, **L, step=-1), UsageError, "step must be 0 or more"),
    (lambda: nn.lp_batch_norm(X, **L, formula="l2"), UsageError, "unknown formula"),  # type: ignore[arg-type]
    (lambda: nn.lp_batch_norm(X, **L, p=0), UsageError, "p must be more than 0"),
    (lambda: nn.lp_batch_norm(X, **L, p=float("inf")), UsageError, "use linf-exact"),
    (lambda: nn.lp_batch_norm(X, **L, formula="topk", p=2), UsageError, "has p = inf"),
    (lambda: nn.rms_norm(X, axes="-1", fraction=0.1), UsageError, "selects none of"),
    (lambda: nn.weight_norm(np.array([[1.0, 2], [0, 0]])), TensorError, "row 1 has norm 0"),
    (lambda: nn.centred_weight_norm(np.ones((2, 3))), TensorError, "row 0 has norm 0"),
    (lambda: nn.weight_norm(X, dim=4), UsageError, "0 to 3, got 4"),
    (lambda: nn.spectral_norm(np.zeros((2, 2))), TensorError, "largest singular value is 0"),
    (lambda: nn.spectral_norm(X, mode="eval", method="torch"), TensorError, "requires running statistics"),
    (lambda: nn.spectral_norm(X, mode="eval"), UsageError, "exact has no state"),
    (lambda: nn.evo_norm(X, **L, groups=3), TensorError, "groups = 3"),
    (lambda: nn.evo_norm(X, **L, groups=2, mode="eval"), UsageError, "S0 has no running statistics"),
    (lambda: nn.evo_norm(X, **L, variant="B0", groups=2), UsageError, "groups cannot be combined with variant B0"),
    (lambda: nn.divisive_norm(X, **L, sum_size=4), UsageError, "must be odd, got 4"),
    (lambda: nn.local_response_norm(X, **L, size=0), UsageError, "size must be 1 or more"),
    (lambda: nn.cosine_norm(X, np.ones((2, 4))), TensorError, r"\(K, 3\)"),
    (lambda: nn.adaptive_instance_norm(X, X[:, :2], **L), TensorError, "share N and C"),
    (lambda: nn.zca_whitening(np.full((3, 2), np.nan)), TensorError, "not finite"),
    (lambda: nn.tensor_norm(np.float64(3)), TensorError, "rank 0"),  # type: ignore[arg-type]
    (lambda: nn.power_norm(X, **L, groups=3), TensorError, "groups = 3"),
    (lambda: nn.find("batchnorm"), UsageError, "did you mean 'batch_norm'"),
    # not x but a second tensor or a parameter is at fault
    (lambda: nn.batch_norm(X, **L, weight=np.array("a")), TensorError, "^batch_norm: weight: dtype <U1"),
    (
        lambda: nn.batch_norm(X, **L, state={k: v > 0 for k, v in STATE.items()}),
        TensorError,
        "^batch_norm: state running_mean: dtype bool",
    ),
    (lambda: nn.adaptive_instance_norm(X, X[0], **L), TensorError, "^adaptive_instance_norm: style: layout NCHW"),
    (lambda: nn.adaptive_instance_norm(X, X > 0, **L), TensorError, "^adaptive_instance_norm: style: dtype bool"),
    (lambda: nn.spatially_adaptive_norm(X, X > 0, X, **L), TensorError, "^spatially_adaptive_norm: scale: dtype bool"),
    (lambda: nn.cosine_norm(X, np.ones((2, 3), bool)), TensorError, "^cosine_norm: weight: dtype bool"),
    (lambda: nn.group_norm_vjp(X, X > 0, **L, groups=2), TensorError, "^group_norm: dy: dtype bool"),
    (lambda: nn.weight_norm(np.array(3.0)), UsageError, "a single number has no axis of output units"),
]


def test_the_package_has_its_normalizers() -> None:
    import normcli.tensor

    assert normcli.tensor.__getattr__("normalizers") is nn
    with pytest.raises(AttributeError, match="'normalizer'"):
        normcli.tensor.normalizer  # noqa: B018


@pytest.mark.parametrize(("call", "error", "text"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_bad_input_is_refused_in_one_line(call: Callable[[], Any], error: type[NormcliError], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, NormcliError)
    assert re.search(text, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def others_for(one: nn.Normalizer, x: Array) -> list[Array]:
    """Return the further tensors that a normalizer takes by position."""
    per_channel = one.name in ("adaptive_layer_norm", "reversible_instance_denorm")
    other = x[0, 0, :3] if one.name == "cosine_norm" else x[:, :, 0, 0] if per_channel else x * 0.7 + 1
    return [other] * (len(one.tensors) - 1)


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
def test_every_error_names_its_normalizer(name: str) -> None:
    one = NORMALIZERS[name]
    tensors = [X, *others_for(one, X)]
    settings = settings_for(one) | (L if "layout" in one.settings else {})
    with pytest.raises(UsageError, match=f"^{name}: unknown dtype 'float23'"):
        one.function(*tensors, **settings, dtype="float23")
    if one.vjp is not None:
        accepted = nn.Normalizer(name, one.vjp).settings
        with pytest.raises(TensorError, match=f"^{name}: dy must have "):
            one.vjp(*tensors, X[:, :1], **{key: value for key, value in settings.items() if key in accepted})


def test_a_layout_is_accepted_in_either_case() -> None:
    np.testing.assert_array_equal(nn.group_norm(X, layout="nchw", groups=2), nn.group_norm(X, layout="NCHW", groups=2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(nn.layer_norm(X[0], layout="ntc"), nn.layer_norm(X[0], layout="NTC"))  # type: ignore[arg-type]


def settings_for(one: nn.Normalizer) -> dict[str, Any]:
    made = {"groups": 2, "seed": 1, "batch": 1}
    found = {
        k: made[k] for k, p in one.settings.items() if p.default is p.empty or (k == "groups" and "evo" in one.name)
    }
    return found | ({"axes": "image"} if one.name in ("layer_norm", "rms_norm") else {})


WITH_LAYOUT = [
    pytest.param(name, one, id=name)
    for name, one in sorted(NORMALIZERS.items())
    if "layout" in one.settings and len(one.tensors) == 1
]


@pytest.mark.parametrize(("name", "one"), WITH_LAYOUT)
def test_an_empty_batch_keeps_its_shape_or_cannot_train(name: str, one: nn.Normalizer) -> None:
    empty = np.empty((0, 4, 2, 3), np.float32)
    try:
        made = one.function(empty, **L, **settings_for(one))
    except TensorError as error:
        assert one.state or name == "mean_variance_norm", error
    else:
        y = made.y if isinstance(made, nn.Normalized) else made
        assert y.shape == empty.shape
        assert y.dtype == np.float32


def test_batch_norm_of_an_unaligned_tensor() -> None:
    """Tensors of files may be unaligned; rows of 4 KB or more are read once, by a kernel that takes aligned arrays."""
    x = np.random.default_rng(0).standard_normal((2, 8, 1024), np.float32)
    twin = np.frombuffer(b"." + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    with resources(threads=1):
        ours, theirs = (nn.batch_norm(t, layout="NCL").y for t in (twin, x))
    assert np.array_equal(ours, theirs)


ORDERS: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "big-endian": lambda a: a.astype(">f8"),
}


def results(call: Callable[..., Any], tensors: list[Array], settings: dict[str, Any]) -> dict[str, Array]:
    """Return the results of a normalizer or a gradient by name, the state too."""
    accepted = nn.Normalizer("", call).settings
    made = call(*tensors, **{key: value for key, value in settings.items() if key in accepted})
    if isinstance(made, nn.Normalized):
        return {"y": made.y, **made.state}
    return made if isinstance(made, dict) else {"y": made}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", sorted(NORMALIZERS))
def test_the_order_in_memory_changes_no_bit(name: str, order: str) -> None:
    draw, one = np.random.default_rng(3), NORMALIZERS[name]
    x = draw.standard_normal((16, 4, 5, 7)) * 2 + 0.3
    others = others_for(one, x)
    dy = draw.standard_normal((16, 4, 5, 3 if name == "cosine_norm" else 7))
    for call, tensors in ((one.function, [x, *others]), (one.vjp, [x, *others, dy])):
        if call is not None:
            plain = results(call, tensors, settings_for(one) | L)
            moved = results(call, [ORDERS[order](t) for t in tensors], settings_for(one) | L)
            for key, value in plain.items():
                np.testing.assert_array_equal(moved[key], value, err_msg=key)


@pytest.mark.parametrize("size", [1e-310, 1e-200, 1e160, 1e300])
def test_the_size_of_a_weight_does_not_matter(size: float) -> None:
    """Squares underflow below 1e-154, where rows were taken for rows of norm 0, and overflow above 1e154."""
    w = np.random.default_rng(6).standard_normal((4, 6))
    calls: list[Callable[[Array], Any]] = [
        nn.weight_norm,
        nn.centred_weight_norm,
        lambda t: nn.centred_weight_norm(t, divisor="std"),
        lambda t: nn.weight_standardization(t, eps=0.0),
        lambda t: nn.weight_standardization(t, variant="scaled", eps=0.0),
        lambda t: nn.cosine_norm(t, w, eps=0.0),
        lambda t: nn.cosine_norm(w, t, eps=0.0, centred=True),
        lambda t: nn.lp_normalize(t, eps=0.0),
        lambda t: nn.spectral_norm(t).y,
        lambda t: nn.weight_norm_vjp(t, w)["dg"],
    ]
    rtol = 1e-9 if size < 1e-300 else 1e-12  # numbers of 1e-310 have 36 bits
    for call in calls:
        np.testing.assert_allclose(call(w * size), call(w), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(("name", "one"), WITH_LAYOUT)
def test_inputs_are_not_changed_and_types_kept(name: str, one: nn.Normalizer) -> None:
    for dtype, wanted in (("f4", "f4"), ("f2", "f2"), (">f8", "f8"), ("u1", "f4"), ("i8", "f4")):
        x = (X % 7).astype(dtype)
        before = x.tobytes()
        made = one.function(x, **L, **settings_for(one))
        y = made.y if isinstance(made, nn.Normalized) else made
        assert x.tobytes() == before
        assert y.dtype == np.dtype(wanted)
        other = one.function(x, **L, **settings_for(one), dtype="float64")
        assert (other.y if isinstance(other, nn.Normalized) else other).dtype == np.float64


def test_empty_tensors_keep_their_shape() -> None:
    for x in (X[:0], X[:, :, :0]):
        for axes in ("token", "image", "0,1", "1,2", "0,1,2,3"):
            assert nn.layer_norm(x, **L, axes=axes).shape == x.shape
            weight = np.ones([x.shape[a] for a in (1, 2)]) if axes == "1,2" else None
            gradients = nn.layer_norm_vjp(x, x, **L, axes=axes, weight=weight)
            assert gradients["dx"].shape == x.shape and not gradients["dweight"].any()
            nn.rms_norm_vjp(x, x, **L, axes=axes)
    for shape in ((0, 4), (4, 0), (0, 0)):
        assert nn.weight_norm(np.zeros(shape)).shape == nn.centred_weight_norm(np.zeros(shape)).shape == shape


def test_nan_and_infinity_spoil_only_their_own_statistic() -> None:
    for bad in (np.nan, np.inf):
        x = np.random.default_rng(1).standard_normal((3, 4, 5, 60)).astype(np.float32)
        clean = {
            "batch": nn.batch_norm(x, **L).y,
            "instance": nn.instance_norm(x, **L),
            "group": nn.group_norm(x, **L, groups=2),
        }
        x[1, 2, 3, 4] = bad
        y = nn.batch_norm(x, **L)
        assert np.isnan(y.y[:, 2]).all()
        np.testing.assert_array_equal(np.delete(y.y, 2, 1), np.delete(clean["batch"], 2, 1))
        instance = nn.instance_norm(x, **L)
        assert np.isnan(instance[1, 2]).all()
        assert np.isnan(instance).sum() == instance[1, 2].size
        group = nn.group_norm(x, **L, groups=2)
        assert np.isnan(group[1, 2:]).all()
        assert np.isnan(group).sum() == group[1, 2:].size


def test_constant_sets_give_the_bias_exactly() -> None:
    x = np.full((3, 4, 2, 2), 0.1, np.float32)
    beta = np.array([1.5, -2, 0, 0.1])
    wanted = np.broadcast_to(beta.astype(np.float32).reshape(1, 4, 1, 1), x.shape)
    np.testing.assert_array_equal(nn.batch_norm(x, **L, bias=beta).y, wanted)
    np.testing.assert_array_equal(nn.group_norm(x, **L, groups=2, bias=beta), wanted)
    np.testing.assert_array_equal(nn.layer_norm(x, **L, axes="image", bias=beta), wanted)
    assert np.isnan(nn.batch_norm(x, **L, eps=0.0).y).all()


def test_one_element_and_zero_vectors() -> None:
    assert nn.layer_norm(np.array([[5.0]]), bias=np.array([2.0])).item() == 2.0
    np.testing.assert_allclose(nn.rms_norm(np.array([[-5.0]])), [[-1.0]])
    assert not nn.lp_normalize(np.zeros((2, 3)), eps=0.0).any()
    assert not nn.scale_norm(np.zeros((2, 3))).any()


def test_big_and_small_vectors_do_not_overflow() -> None:
    np.testing.assert_allclose(nn.lp_normalize(np.array([[3e200, 4e200]])), [[0.6, 0.8]])
    np.testing.assert_allclose(nn.lp_normalize(np.array([[3e-200, 4e-200]]), eps=0.0), [[0.6, 0.8]])


def test_running_statistics_move_as_said() -> None:
    x = np.array([[1.0], [3.0]])
    first = nn.batch_norm(x, cumulative=True).state
    second = nn.batch_norm(x + 6, cumulative=True, state=first).state
    assert (first["running_mean"].item(), second["running_mean"].item()) == (2.0, 5.0)
    assert second["num_batches_tracked"] == 2
    each = nn.ghost_batch_norm(np.vstack([x, x + 6]), batch=2).state
    in_turn = nn.batch_norm(x + 6, state=nn.batch_norm(x).state).state
    for key, value in in_turn.items():
        np.testing.assert_allclose(each[key], value)
    mean = nn.ghost_batch_norm(np.vstack([x, x + 6]), batch=2, update="mean").state
    np.testing.assert_allclose(mean["running_mean"], [0.5])
    power = nn.power_norm(x, groups=0).state
    np.testing.assert_allclose(power["running_phi"], [5.0])
    late = nn.power_norm(x, groups=0, warmup=1, state=power)
    np.testing.assert_allclose(late.y, x / np.sqrt(5.0 + 1e-5))
    assert nn.switchable_norm(X, **L).state["running_mean"].shape == (4,)


@pytest.mark.parametrize("iterations", [15, 20, 30, 40])
def test_iter_norm_of_many_steps_stays_at_zca(iterations: int) -> None:
    draw = np.random.default_rng(4)  # the paper's own form: 4e5 off at 15 steps, NaN at 30
    x = draw.normal(size=(256, 8)) @ draw.normal(size=(8, 8))
    np.testing.assert_allclose(nn.iter_norm(x, iterations=iterations).y, nn.zca_whitening(x).y, rtol=0, atol=5e-14)


@pytest.mark.parametrize("groups", [0, 1, 2])
@pytest.mark.parametrize("warmup", [0, 1, 2, 3, 6, 10])
def test_power_norm_over_six_batches_is_that_of_the_authors_code(warmup: int, groups: int) -> None:
    """mask_powernorm.py of sIncerass/powernorm: its iteration t begins at 1."""
    draw, phi, state = np.random.default_rng(5), np.ones(4), None
    gamma, beta = draw.normal(size=(2, 4))
    for t in range(1, 7):
        x = draw.normal(size=(5, 3, 4)) * t
        scaled = x
        if groups:
            parts = x.reshape(5, 3, groups, 4 // groups)
            scaled = (parts / np.sqrt((parts**2).mean(3, keepdims=True) + 1e-5)).reshape(x.shape)
        square = (scaled**2).mean((0, 1))
        expected = gamma * scaled / np.sqrt((square if t <= warmup else phi) + 1e-5) + beta
        if t < warmup:
            phi = phi * (t - 1) / t + square / t
        phi = 0.9 * phi + 0.1 * square
        y, state = nn.power_norm(x, layout="NTC", groups=groups, warmup=warmup, state=state, weight=gamma, bias=beta)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(state["running_phi"], phi, rtol=1e-13)


def test_the_same_seed_gives_the_same_noise_and_the_next_batch_another() -> None:
    first = nn.noisy_batch_norm(X, **L, seed=5)
    again = nn.noisy_batch_norm(X, **L, seed=5)
    np.testing.assert_array_equal(first.y, again.y)
    following = nn.noisy_batch_norm(X, **L, seed=5, state=first.state)
    assert not np.array_equal(first.y, following.y)
    calm = nn.noisy_batch_norm(X, **L, seed=5, mode="eval", state=first.state).y
    np.testing.assert_array_equal(calm, nn.batch_norm(X, **L, mode="eval", state=first.state).y)


def test_a_memory_limit_refuses_what_cannot_fit() -> None:
    x = np.ones((2, 4, 100, 100), np.float32)
    with resources(memory_limit=10_000):
        calls: list[Callable[[], Any]] = [lambda: nn.layer_norm(x, **L, axes="token"), lambda: nn.tensor_norm(x)]
        for call in calls:
            with pytest.raises(TensorError, match="raise `memory_limit`"):
                call()


def test_a_failure_in_a_thread_reaches_the_caller() -> None:
    class Broken:
        shape, dtype = (64, 4, 200, 200), np.dtype(np.float32)

        def __getitem__(self, samples: slice) -> Any:
            raise OSError(5, "input/output error")

    with pytest.raises(OSError, match="input/output error"):
        nn.batch_norm(Broken(), **L)
