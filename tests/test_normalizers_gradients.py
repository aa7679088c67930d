"""Every gradient against central differences of its own forward pass, in float64."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from normcli.errors import TensorError
from normcli.tensor.normalizers import NORMALIZERS
from tests.support import reference as ref

Array = np.ndarray[Any, Any]

RNG = np.random.default_rng(11)
X = RNG.standard_normal((3, 4, 2, 3)) * 2 + 0.5
DY = RNG.standard_normal(X.shape)
GAMMA, BETA = RNG.standard_normal(4) + 1, RNG.standard_normal(4)
L: dict[str, Any] = {"layout": "NCHW"}
AFFINE: dict[str, Any] = {"weight": GAMMA, "bias": BETA}
STATE: dict[str, Any] = {"running_mean": BETA, "running_var": GAMMA**2 + 1}
RENORM: dict[str, Any] = {"running_mean": BETA * 0.1, "running_std": GAMMA**2 + 0.5}
ROWS, DROWS = X.reshape(3, -1), DY.reshape(3, -1)
W, DK = RNG.standard_normal((5, 24)), RNG.standard_normal((3, 5))
DW = np.random.default_rng(12).standard_normal(W.shape)


def frozen_renorm(x: Array) -> Array:
    """batch_renorm with the r and d of X, constants as in the paper."""
    std = np.sqrt(X.var((0, 2, 3)) + 1e-3)
    r = np.clip(std / RENORM["running_std"], 0.5, 2)
    d = np.clip((X.mean((0, 2, 3)) - RENORM["running_mean"]) / RENORM["running_std"], -0.4, 0.4)
    return np.asarray(ref.batch_norm(x, eps=1e-3) * ref._c(GAMMA * r, x) + ref._c(GAMMA * d + BETA, x))


def frozen_spectral(w: Array) -> Array:
    u, _, v = np.linalg.svd(W)
    return np.asarray(w / (u[:, 0] @ w @ v[0]))


CASES: dict[str, list[Any]] = {
    "batch_norm": [
        (lambda x, s: nn.batch_norm(x, **L, **s).y, lambda s: nn.batch_norm_vjp(X, DY, **L, **s), X, DY, AFFINE),
        (
            lambda x, s: nn.batch_norm(x, **L, mode="eval", state=STATE, **s).y,
            lambda s: nn.batch_norm_vjp(X, DY, **L, mode="eval", state=STATE, **s),
            X,
            DY,
            AFFINE,
        ),
        (
            lambda x, s: nn.batch_norm(x, **L, **s).y,
            lambda s: nn.batch_norm_vjp(X, DY, **L, **s),
            X,
            DY,
            {"weight": X[:, :, 0, 0], "bias": DY[:, :, 0, 0]},
        ),
    ],
    "instance_norm": [
        (lambda x, s: nn.instance_norm(x, **L, **s), lambda s: nn.instance_norm_vjp(X, DY, **L, **s), X, DY, AFFINE)
    ],
    "group_norm": [
        (
            lambda x, s: nn.group_norm(x, **L, groups=2, **s),
            lambda s: nn.group_norm_vjp(X, DY, **L, groups=2, **s),
            X,
            DY,
            AFFINE,
        )
    ],
    "layer_norm": [
        (
            lambda x, s, axes=axes: nn.layer_norm(x, **L, axes=axes, **s),
            lambda s, axes=axes: nn.layer_norm_vjp(X, DY, **L, axes=axes, **s),
            X,
            DY,
            {"weight": w, "bias": w - 1},
        )
        for axes, w in (("token", GAMMA), ("image", GAMMA), ("image", X[0]), ("2,3", X[0, 0]), ("-1", X[0, 0, 0]))
    ],
    "batch_renorm": [
        (
            lambda x, s: frozen_renorm(x),
            lambda s: nn.batch_renorm_vjp(X, DY, **L, state=RENORM, rmax=2, dmax=0.4, **AFFINE),
            X,
            DY,
            {},
        )
    ],
    "noisy_batch_norm": [
        (
            lambda x, s: nn.noisy_batch_norm(x, **L, seed=4, **s).y,
            lambda s: nn.noisy_batch_norm_vjp(X, DY, **L, seed=4, **s),
            X,
            DY,
            AFFINE,
        )
    ],
    "rms_norm": [
        (
            lambda x, s, o=o: nn.rms_norm(x, **L, axes="image", **o, **s),
            lambda s, o=o: nn.rms_norm_vjp(X, DY, **L, axes="image", **o, **s),
            X,
            DY,
            {"weight": GAMMA, "bias": BETA},
        )
        for o in ({}, {"variant": "original"}, {"variant": "gemma"}, {"fraction": 0.4, "eps": 0.1})
    ],
    "lp_batch_norm": [
        (
            lambda x, s, f=f, p=p: nn.lp_batch_norm(x, **L, formula=f, p=p, eps=1e-2, **s).y,
            lambda s, f=f, p=p: nn.lp_batch_norm_vjp(X, DY, **L, formula=f, p=p, eps=1e-2, **s),
            X,
            DY,
            AFFINE,
        )
        for f, p in (
            ("lp", 1),
            ("lp", 2),
            ("lp", 3),
            ("lp", math.inf),
            ("topk", math.inf),
            ("santurkar", 2),
            ("santurkar", 3),
            ("lp-gauss", 1),
            ("lp-gauss", 4),
            ("santurkar", 1),
            ("linf-hoffer", None),
            ("linf-exact", None),
        )
    ],
    "weight_norm": [
        (
            lambda x, s, dim=dim: nn.weight_norm(x, dim=dim, **s),
            lambda s, dim=dim: nn.weight_norm_vjp(X, DY, dim=dim, **s),
            X,
            DY,
            {"g": g},
        )
        for dim, g in ((0, GAMMA[:3]), (1, GAMMA), (-1, np.array(1.7)))
    ],
    "cosine_norm": [
        (
            lambda x, s, c=c: nn.cosine_norm(x, s.get("weight", W), centred=c),
            lambda s, c=c: nn.cosine_norm_vjp(ROWS, W, DK, centred=c),
            ROWS,
            DK,
            {"weight": W},
        )
        for c in (False, True)
    ],
    "lp_normalize": [
        (lambda x, s: nn.lp_normalize(x, **L), lambda s: nn.lp_normalize_vjp(X, DY, **L), X, DY, {}),
        (
            lambda x, s: nn.lp_normalize(x, **L, eps=50.0),
            lambda s: nn.lp_normalize_vjp(X, DY, **L, eps=50.0),
            X,
            DY,
            {},
        ),
    ],
    "local_response_norm": [
        (
            lambda x, s, w=w: nn.local_response_norm(x, **L, size=2, alpha=0.9, window=w),
            lambda s, w=w: nn.local_response_norm_vjp(X, DY, **L, size=2, alpha=0.9, window=w),
            X,
            DY,
            {},
        )
        for w in ("torch", "onnx", "tf")
    ],
    "global_response_norm": [
        (
            lambda x, s: nn.global_response_norm(x, **L, **s),
            lambda s: nn.global_response_norm_vjp(X, DY, **L, **s),
            X,
            DY,
            AFFINE,
        )
    ],
    "dynamic_tanh": [
        (
            lambda x, s: nn.dynamic_tanh(x, **L, **{**s, "alpha": float(s.get("alpha", 0.7))}),
            lambda s: nn.dynamic_tanh_vjp(X, DY, **L, **s),
            X,
            DY,
            {**AFFINE, "alpha": np.array(0.7)},
        )
    ],
    "spectral_norm": [
        (
            lambda x, s: frozen_spectral(x),
            lambda s: nn.spectral_norm_vjp(W, DW),
            W,
            DW,
            {},
        )
    ],
}


def case(name: str, parameters: dict[str, Any] | None = None, **settings: Any) -> Any:
    """Return a row of CASES for a normalizer whose vjp takes the settings of its forward pass."""
    one = NORMALIZERS[name]
    assert one.vjp is not None
    vjp = one.vjp

    def forward(x: Array, s: dict[str, Any]) -> Array:
        made = one.function(x, **settings, **s)
        return np.asarray(made.y if isinstance(made, nn.Normalized) else made)

    return (forward, lambda s: vjp(X, DY, **settings, **s), X, DY, parameters or {})


EVAL: dict[str, Any] = {**L, "mode": "eval"}
MATRICES = {"running_mean": BETA, "running_w": RNG.standard_normal((2, 2, 2))}
CASES["batch_renorm"].append(case("batch_renorm", AFFINE, **EVAL, state=RENORM))
CASES["noisy_batch_norm"].append(case("noisy_batch_norm", AFFINE, **EVAL, seed=4, state=STATE))
CASES["lp_normalize"] += [case("lp_normalize", **L, p=p) for p in (1.0, 3.0, math.inf)]
CASES["lp_batch_norm"].append(
    case("lp_batch_norm", AFFINE, **EVAL, state={"running_mean": BETA, "running_scale": GAMMA**2 + 1})
)
CASES |= {
    "ghost_batch_norm": [
        *(case("ghost_batch_norm", AFFINE, **L, batch=b, ghosts=g) for b, g in ((1, "contiguous"), (3, "interleaved"))),
        case("ghost_batch_norm", AFFINE, **EVAL, batch=3, state=STATE),
    ],
    "mean_variance_norm": [case("mean_variance_norm", **L), case("mean_variance_norm", axes=(1, 2), eps=0.3)],
    "pixel_norm": [case("pixel_norm", **L)],
    "scale_norm": [case("scale_norm", {"scale": np.array(1.7)}, **L), case("scale_norm", **L, eps=50.0)],
    "tensor_norm": [case("tensor_norm", p=p) for p in (None, 1.0, 2.0, math.inf)],
    "centred_weight_norm": [
        case("centred_weight_norm", {"g": GAMMA[:3]}, dim=0, divisor=divisor) for divisor in ("norm", "std")
    ],
    "weight_standardization": [
        *(case("weight_standardization", dim=dim, variant=v) for dim in (0, 3) for v in ("torch", "tf", "timm")),
        case("weight_standardization", {"gain": GAMMA[:3]}, variant="scaled"),
        case("weight_standardization", {"gain": GAMMA[:3]}, variant="scaled", eps=900.0),
        case("weight_standardization", {"gain": GAMMA[:3]}, variant="scaled-timm", gamma=1.7),
    ],
    "filter_response_norm": [
        case(
            "filter_response_norm",
            {**AFFINE, "tau": BETA * 0.2, "learned_eps": np.array([0.1, -0.2, 0.3, -0.4])},
            **L,
        )
    ],
    "evo_norm": [
        case("evo_norm", {**AFFINE, "v": GAMMA}, **L, groups=2),
        case("evo_norm", {**AFFINE, "v": GAMMA}, **L, variant="B0"),
        case("evo_norm", {**AFFINE, "v": GAMMA}, **EVAL, variant="B0", state={"running_var": GAMMA**2 + 1}),
    ],
    "divisive_norm": [case("divisive_norm", AFFINE, **L, sum_size=3, suppression_size=5)],
    "batch_instance_norm": [
        case("batch_instance_norm", {**AFFINE, "rho": np.linspace(0.1, 0.9, 4)}, **L),
        case("batch_instance_norm", {**AFFINE, "rho": np.linspace(0.1, 0.9, 4)}, **EVAL, state=STATE),
    ],
    "switchable_norm": [
        case("switchable_norm", {**AFFINE, "mean_weight": BETA[:3], "var_weight": GAMMA[:3]}, **L, variance=variance)
        for variance in ("biased", "unbiased")
    ]
    + [case("switchable_norm", {**AFFINE, "mean_weight": BETA[:3], "var_weight": GAMMA[:3]}, **EVAL, state=STATE)],
    "power_norm": [
        *(case("power_norm", AFFINE, **L, groups=groups) for groups in (0, 1, 2)),
        case("power_norm", AFFINE, **EVAL, state={"running_phi": GAMMA**2 + 1}),
        case("power_norm", AFFINE, **L, warmup=0, state={"running_phi": GAMMA**2 + 1}),
    ],
    "zca_whitening": [
        case("zca_whitening", AFFINE, **L, groups=2, eps=0.1),
        case("zca_whitening", AFFINE, **EVAL, groups=2, state=MATRICES),
    ],
    "iter_norm": [
        case("iter_norm", AFFINE, **L, groups=2, eps=0.1),
        case("iter_norm", AFFINE, **EVAL, groups=2, state=MATRICES),
    ],
    "dynamic_erf": [
        (
            lambda x, s: nn.dynamic_erf(x, **L, **{**s, **{k: float(s[k]) for k in ("alpha", "shift")}}),
            lambda s: nn.dynamic_erf_vjp(X, DY, **L, **s),
            X,
            DY,
            {**AFFINE, "alpha": np.array(0.7), "shift": np.array(-0.2)},
        )
    ],
    "adaptive_layer_norm": [
        (
            lambda x, s: nn.adaptive_layer_norm(x, s["scale"], s["shift"], **L),
            lambda s: nn.adaptive_layer_norm_vjp(X, s["scale"], s["shift"], DY, **L),
            X,
            DY,
            {"scale": X[:, :, 0, 0], "shift": X[0, :, 1, 1]},
        )
    ],
    "spatially_adaptive_norm": [
        (
            lambda x, s, o=o: nn.spatially_adaptive_norm(x, s["scale"], s["shift"], **L, over=o),
            lambda s, o=o: nn.spatially_adaptive_norm_vjp(X, s["scale"], s["shift"], DY, **L, over=o),
            X,
            DY,
            {"scale": X + 1, "shift": X - 1},
        )
        for o in ("batch", "instance")
    ],
    "reversible_instance_norm": [case("reversible_instance_norm", AFFINE, **L, last=last) for last in (False, True)],
    "reversible_instance_denorm": [
        (
            lambda x, s: nn.reversible_instance_denorm(x, s["mean"], s["std"], **L, weight=s["weight"], bias=s["bias"]),
            lambda s: nn.reversible_instance_denorm_vjp(
                X, s["mean"], s["std"], DY, **L, weight=s["weight"], bias=s["bias"]
            ),
            X,
            DY,
            {**AFFINE, "mean": X[:, :, 0, 0], "std": X[:, :, 1, 1]},
        )
    ],
    "adaptive_instance_norm": [
        (
            lambda x, s: nn.adaptive_instance_norm(x, s["style"], **L),
            lambda s: nn.adaptive_instance_norm_vjp(X, s["style"], DY, **L),
            X,
            DY,
            {"style": np.random.default_rng(13).standard_normal((3, 4, 5, 2))},
        )
    ],
}


def _forward(function: Any, parameters: dict[str, Any], key: str | None, x: Array, t: Array) -> Array:
    """Give the result for another x, or for another value of one parameter."""
    return np.asarray(function(t, parameters) if key is None else function(x, {**parameters, key: t}))


@pytest.mark.parametrize("name", sorted(CASES))
def test_gradient_equals_central_differences(name: str) -> None:
    for forward, vjp, x, dy, parameters in CASES[name]:
        found = vjp(parameters)
        wanted = ref.numerical_vjp(partial(_forward, forward, parameters, None, x), x, dy)
        np.testing.assert_allclose(found["dx"], wanted, rtol=2e-7, atol=2e-7)
        for key, value in parameters.items():
            changed = partial(_forward, forward, parameters, key, x)
            slope = ref.numerical_vjp(changed, np.asarray(value, float), dy)
            np.testing.assert_allclose(found[f"d{key}"], slope, rtol=2e-7, atol=2e-7)


def test_every_gradient_has_a_case() -> None:
    assert set(CASES) == {name for name, one in NORMALIZERS.items() if one.vjp}


def test_the_comparison_sees_a_wrong_gradient() -> None:
    wanted = ref.numerical_vjp(lambda t: nn.batch_norm(t, **L).y, X, DY)
    assert np.abs(nn.batch_norm_vjp(X, DY, **L, eps=0.5)["dx"] - wanted).max() > 1e-3


def test_vectors_of_zeros_have_gradient_zero() -> None:
    zeros, dy = np.zeros((2, 3)), np.ones((2, 3))
    assert not nn.lp_normalize_vjp(zeros, dy)["dx"].any()
    assert not nn.weight_norm_vjp(zeros, dy)["dx"].any()
    made = nn.cosine_norm_vjp(zeros, np.zeros((4, 3)), np.ones((2, 4)))
    assert not made["dx"].any()
    assert not made["dweight"].any()


def test_gradients_keep_layout_and_type() -> None:
    last = nn.batch_norm_vjp(np.moveaxis(X, 1, -1), np.moveaxis(DY, 1, -1), layout="NHWC", weight=GAMMA)
    np.testing.assert_array_equal(np.moveaxis(last["dx"], -1, 1), nn.batch_norm_vjp(X, DY, **L, weight=GAMMA)["dx"])
    half = nn.batch_norm_vjp(X.astype(np.float16), DY.astype(np.float16), **L)
    assert {value.dtype for value in half.values()} == {np.dtype(np.float16)}


def test_what_has_no_known_gradient_is_refused() -> None:
    calls: list[Callable[[], Any]] = [
        lambda: nn.batch_norm_vjp(X, DY[:2], **L),
        lambda: nn.cosine_norm_vjp(ROWS, W, DROWS),
    ]
    for call in calls:
        with pytest.raises(TensorError):
            call()
