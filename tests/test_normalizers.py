"""The worked values of every normalizer, its twin in reference.py, and the identities between them."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import normcli.tensor.normalizers as nn
from normcli.errors import UsageError
from normcli.tensor.normalizers import NORMALIZERS, resources
from normcli.tensor.normalizers.registry import describe
from tests.support import needs
from tests.support import reference as ref

Array = np.ndarray[Any, Any]

X = np.array(
    [
        [[1, 2, 3], [4, 0, -4], [0, 1, 5], [2, 2, -1]],
        [[-1, 0, 7], [2, 4, 6], [3, -3, 0], [1, -2, 4]],
    ],
    float,
)
NCL: dict[str, Any] = {"layout": "NCL"}


def values(text: str) -> Array:
    return np.array([float(t) for t in text.replace(";", ",").replace(",", " ").split()])


def shown(y: Array) -> Array:
    return np.concatenate([y[0, 0, :], y[0, 1, :]])


STATE: dict[str, Any] = {"running_mean": np.array([0.5, 1, 0, 1]), "running_var": np.array([4.0, 9, 4, 1])}
RENORM: dict[str, Any] = {"running_mean": np.array([0.5, 1, 0, 1]), "running_std": np.array([2.0, 3, 2, 1])}

WORKED = [
    ("BN", lambda: nn.batch_norm(X, **NCL).y, "-0.387298 0 0.387298, 0.612372 -0.612372 -1.837116"),
    (
        "BN eval",
        lambda: nn.batch_norm(X, **NCL, mode="eval", state=STATE).y,
        "0.25 0.749999 1.249998, 0.999999 -0.333333 -1.666666",
    ),
    ("LN last", lambda: nn.layer_norm(X, axes="-1"), "-1.224736 0 1.224736, 1.224744 0 -1.224744"),
    ("IN", lambda: nn.instance_norm(X, **NCL), "-1.224736 0 1.224736, 1.224744 0 -1.224744"),
    (
        "LN (4,3)",
        lambda: nn.layer_norm(X, axes=(1, 2)),
        "-0.109764 0.329292 0.768349, 1.207406 -0.548821 -2.305047",
    ),
    ("GN", lambda: nn.group_norm(X, **NCL, groups=2), "0 0.387298 0.774596, 1.161894 -0.387298 -1.936490"),
    ("RMS", lambda: nn.rms_norm(X, axes="-1", eps=1e-5), "0.462910 0.925819 1.388729, 1.224744 0 -1.224744"),
    ("L2", lambda: nn.lp_normalize(X, axes="1"), ".218218 .666667 .420084, .872872 0 -.560112"),
    ("L1", lambda: nn.lp_normalize(X, axes="1", p=1), ".142857 .4 .230769, .571429 0 -.307692"),
    (
        "LRN",
        lambda: nn.local_response_norm(X, **NCL, size=3, alpha=1.0),
        "0.241029 1.059369 0.561815, 0.964114 0 -0.464188",
    ),
    ("LRN 2", lambda: nn.local_response_norm(X, **NCL, size=2, alpha=1.0), "0.737788 0.877383 0.835313"),
    (
        "LRN 2 onnx",
        lambda: nn.local_response_norm(X, **NCL, size=2, alpha=1.0, window="onnx"),
        "0.184802 0.877383 0.425962",
    ),
    (
        "BRN",
        lambda: nn.batch_renorm(X, **NCL, state=RENORM, rmax=1.5, dmax=0.3).y,
        "-0.2 0.3 0.8, 0.966667 -0.366667 -1.7",
    ),
    ("lp", lambda: nn.lp_batch_norm(X, **NCL, formula="lp", p=1, eps=0).y, "-.5 0 .5, .75 -.75 -2.25"),
    (
        "lp-gauss",
        lambda: nn.lp_batch_norm(X, **NCL, p=1, eps=0).y,
        "-.398942 0 .398942, .598413 -.598413 -1.79524",
    ),
    ("hoffer", lambda: nn.lp_batch_norm(X, **NCL, formula="linf-hoffer", eps=0).y, "-.245297 0 .245297"),
    ("santurkar", lambda: nn.lp_batch_norm(X, **NCL, formula="santurkar", p=1, eps=0).y, "-.428571 0 .428571"),
    (
        "santurkar inf",
        lambda: nn.lp_batch_norm(X, **NCL, formula="santurkar", p=math.inf, eps=0).y,
        "-.142857 0 .142857",
    ),
    ("WN 0", lambda: nn.weight_norm(X[0])[None], ".267261 .534522 .801784"),
    ("WN 1", lambda: nn.weight_norm(X[0], dim=1)[None], ".218218 .666667 .420084"),
    ("WN all", lambda: nn.weight_norm(X[0], dim=-1)[None], ".111111 .222222 .333333"),
    ("cosine", lambda: nn.cosine_norm(X[1], X[0])[None], ".755929 -.8 .970725 -.424264"),
    ("PCC", lambda: nn.cosine_norm(X[1], X[0], centred=True)[None], ".917663 -.917663 .997176 -.993399"),
    ("GRN", lambda: nn.global_response_norm(X, **NCL, weight=np.ones(4)), "1.855356 3.710713 5.566069"),
    ("ZCA", lambda: nn.zca_whitening(X, **NCL).y, "-.606362 -.213904 .744236"),
    ("IterNorm", lambda: nn.iter_norm(X, **NCL).y, "-.596700 -.167166 .727782"),
]


@pytest.mark.parametrize(("call", "text"), [w[1:] for w in WORKED], ids=[w[0] for w in WORKED])
def test_worked_values(call: Callable[[], Any], text: str) -> None:
    wanted = values(text)
    found = call()
    found = found[0, 0] if wanted.size == found.shape[2] else shown(found)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=6e-7)


def test_worked_states() -> None:
    state = nn.batch_norm(X, **NCL).state
    np.testing.assert_allclose(state["running_mean"], [0.2, 0.2, 0.1, 0.1], atol=1e-12)
    np.testing.assert_allclose(state["running_var"], [1.70, 2.18, 1.66, 1.38], atol=1e-12)
    biased = nn.batch_norm(X, **NCL, running_var="biased").state["running_var"]
    np.testing.assert_allclose(biased, [1.566667, 1.966667, 1.533333, 1.3], atol=1e-6)
    after = nn.batch_renorm(X, **NCL, state=RENORM, rmax=1.5, dmax=0.3).state
    np.testing.assert_allclose(after["running_mean"], [0.515, 1.01, 0.01, 1], atol=1e-12)
    np.testing.assert_allclose(after["running_std"], [2.005822, 3.002661, 2.005168, 1.010002], atol=6e-7)
    assert after["num_batches_tracked"] == 1
    assert X[0, 0, 0] / nn.spectral_norm(X[0]).y[0, 0] == pytest.approx(7.6146, abs=5e-5)


def tensor(shape: tuple[int, ...] = (4, 6, 5, 3), seed: int = 0, scale: float = 3.0, shift: float = 2.0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape) * scale + shift


T = tensor()
P6 = tensor((6,), 1, 0.5, 1.0)
RHO = np.linspace(0, 1, 6)
LOGITS = np.array([0.3, -0.2, 0.9]), np.array([1.0, 0.5, -1.0])
STYLE = tensor((4, 6, 7), 2)
W4 = tensor((5, 3, 2, 2), 3)
L: dict[str, Any] = {"layout": "NCHW"}

# normalizer -> pairs of (what it gives, what its twin gives); a test holds that every normalizer has a row
FORMULAS: list[tuple[Any, float]] = [
    *[("lp", p) for p in (1, 2, 3.5, math.inf)],
    *[("lp-gauss", p) for p in (1, 2, 4)],
    *[("santurkar", p) for p in (1, 2, math.inf)],
    *[(f, math.inf) for f in ("linf-hoffer", "linf-exact", "topk")],
]
VARIANCES: list[tuple[Any, int]] = [("biased", 0), ("unbiased", 1)]
OVER: tuple[tuple[Literal["batch", "instance"], tuple[int, ...]], ...] = (("batch", (0, 2, 3)), ("instance", (2, 3)))

TWINS: dict[str, Callable[[], list[Any]]] = {
    "batch_norm": lambda: [
        (nn.batch_norm(T, **L).y, ref.batch_norm(T)),
        (nn.batch_norm(T, **L, weight=P6, bias=RHO).y, ref.batch_norm(T, ref._c(P6, T), ref._c(RHO, T))),
    ],
    "ghost_batch_norm": lambda: [
        (nn.ghost_batch_norm(T, **L, batch=2).y, ref.ghost_batch_norm(T, 2)),
        (nn.ghost_batch_norm(T, **L, batch=2, ghosts="interleaved").y, ref.ghost_batch_norm(T, 2, True)),
    ],
    "noisy_batch_norm": lambda: [(nn.noisy_batch_norm(T, **L, seed=7).y, ref.noisy_batch_norm(T, 7))],
    "batch_renorm": lambda: [
        (
            nn.batch_renorm(T, **L, rmax=2, dmax=0.4, state={"running_mean": RHO, "running_std": P6**2 + 1}).y,
            ref.batch_renorm(T, RHO, P6**2 + 1, 2, 0.4),
        )
    ],
    "lp_batch_norm": lambda: [
        (nn.lp_batch_norm(T, **L, formula=f, p=p).y, ref.lp_batch_norm(T, f, p)) for f, p in FORMULAS
    ],
    "batch_instance_norm": lambda: [(nn.batch_instance_norm(T, **L, rho=RHO).y, ref.batch_instance_norm(T, RHO))],
    "switchable_norm": lambda: [
        (
            nn.switchable_norm(T, **L, mean_weight=LOGITS[0], var_weight=LOGITS[1], variance=v).y,
            ref.switchable_norm(T, *LOGITS, ddof=d),
        )
        for v, d in VARIANCES
    ],
    "power_norm": lambda: [(nn.power_norm(T, **L, groups=g).y, ref.power_norm(T, g)) for g in (0, 1, 3)],
    "mean_variance_norm": lambda: [
        (nn.mean_variance_norm(T, **L), ref.mean_variance_norm(T)),
        (nn.mean_variance_norm(T, axes=(1, 3)), ref.mean_variance_norm(T, (1, 3))),
        (nn.mean_variance_norm(T, axes="0,1"), ref.mean_variance_norm(T, (0, 1))),
    ],
    "layer_norm": lambda: [
        (nn.layer_norm(T, **L, axes="image"), ref.layer_norm(T, (1, 2, 3))),
        (nn.layer_norm(T, **L, axes="token"), ref.layer_norm(T, (1,))),
        (nn.layer_norm(T, axes="2,3"), ref.layer_norm(T, (2, 3))),
        (nn.layer_norm(T, axes=(0, 2)), ref.layer_norm(T, (0, 2))),
        (nn.layer_norm(T, **L, axes="image", weight=P6), ref.layer_norm(T, (1, 2, 3)) * ref._c(P6, T)),
        (nn.layer_norm(T, **L, axes="image", weight=T[0]), ref.layer_norm(T, (1, 2, 3)) * T[0]),
        (
            nn.layer_norm(T, **L, axes="image", weight=P6, bias=T[0]),
            ref.layer_norm(T, (1, 2, 3)) * ref._c(P6, T) + T[0],
        ),
        (
            nn.layer_norm(T, **L, axes="image", weight=T[0], bias=P6),
            ref.layer_norm(T, (1, 2, 3)) * T[0] + ref._c(P6, T),
        ),
    ],
    "instance_norm": lambda: [
        (nn.instance_norm(T, **L), ref.instance_norm(T)),
        (nn.instance_norm(T, **L, weight=T[:, :, 0, 0]), ref.instance_norm(T) * T[:, :, :1, :1]),
    ],
    "group_norm": lambda: [(nn.group_norm(T, **L, groups=g), ref.group_norm(T, g)) for g in (1, 2, 3, 6)],
    "adaptive_instance_norm": lambda: [
        (
            nn.adaptive_instance_norm(T.reshape(4, 6, 15), STYLE, **NCL),
            ref.adaptive_instance_norm(T.reshape(4, 6, 15), STYLE),
        )
    ],
    "rms_norm": lambda: [
        (nn.rms_norm(T, axes="-1", eps=1e-6), ref.rms_norm(T, (3,), 1e-6)),
        (nn.rms_norm(T, **L, axes="token", variant="original"), ref.rms_norm(T, (1,), 1e-8, True)),
        (
            nn.rms_norm(T, **L, axes="image", variant="gemma", weight=P6),
            ref.rms_norm(T, (1, 2, 3), 1e-6) * (1 + ref._c(P6, T)),
        ),
        (nn.rms_norm(T[:, :, 0, 0], variant="llama", weight=P6), ref.rms_norm(T[:, :, 0, 0], (1,), 1e-6) * P6),
        (
            nn.rms_norm(T[:, :, 0, 0], fraction=0.5, eps=1e-6),
            T[:, :, 0, 0] / np.sqrt((T[:, :3, 0, 0] ** 2).mean(1, keepdims=True) + 1e-6),
        ),
    ],
    "lp_normalize": lambda: [
        (nn.lp_normalize(T, **L, p=p), ref.lp_normalize(T, 1, p)) for p in (0.5, 1, 2, 3, math.inf)
    ],
    "pixel_norm": lambda: [(nn.pixel_norm(T, **L), ref.pixel_norm(T))],
    "scale_norm": lambda: [
        (nn.scale_norm(T, **L), ref.scale_norm(T)),
        (nn.scale_norm(T, **L, scale=3.0), ref.scale_norm(T, 3.0)),
    ],
    "tensor_norm": lambda: [
        (nn.tensor_norm(T), ref.tensor_norm(T)),
        (nn.tensor_norm(T, p=2), T / np.linalg.norm(T)),
        (nn.tensor_norm(T, p=math.inf), T / np.abs(T).max()),
        (nn.tensor_norm(T.ravel()), ref.tensor_norm(T.ravel())),
        (nn.tensor_norm(T.ravel(), p=0.5), T.ravel() / (np.abs(T) ** 0.5).sum() ** 2),
    ],
    "dynamic_tanh": lambda: [(nn.dynamic_tanh(T, **L, alpha=0.7), ref.dynamic_tanh(T, 0.7))],
    "dynamic_erf": lambda: [(nn.dynamic_erf(T, **L, alpha=0.7, shift=-0.2), ref.dynamic_erf(T, 0.7, -0.2))],
    "adaptive_layer_norm": lambda: [
        (nn.adaptive_layer_norm(T, s, s + 1, **L), ref.adaptive_layer_norm(T, s, s + 1)) for s in (P6, T[:, :, 0, 0])
    ],
    "spatially_adaptive_norm": lambda: [
        (nn.spatially_adaptive_norm(T, T**2, T - 1, **L, over=o), ref.spatially_adaptive_norm(T, T**2, T - 1, axes))
        for o, axes in OVER
    ],
    "reversible_instance_norm": lambda: [
        (nn.reversible_instance_norm(T, **L, last=last), ref.reversible_instance_norm(T, last))
        for last in (False, True)
    ],
    "reversible_instance_denorm": lambda: [
        (
            nn.reversible_instance_denorm(T, P6, P6**2, **L, weight=P6, bias=P6 - 1),
            (T - ref._c(P6 - 1, T)) / (ref._c(P6, T) + 1e-10) * ref._c(P6**2, T) + ref._c(P6, T),
        )
    ],
    "filter_response_norm": lambda: [(nn.filter_response_norm(T, **L, tau=RHO), ref.filter_response_norm(T, RHO))],
    "evo_norm": lambda: [
        (nn.evo_norm(T, **L, groups=3, v=P6).y, ref.evo_norm_s0(T, 3, P6)),
        (nn.evo_norm(T, **L, variant="B0", v=P6).y, ref.evo_norm_b0(T, P6)),
    ],
    "global_response_norm": lambda: [(nn.global_response_norm(T, **L, weight=P6), ref.global_response_norm(T, P6))],
    "local_response_norm": lambda: (
        [
            (nn.local_response_norm(T, **L, size=n, alpha=2.0), ref.local_response_norm(T, n // 2, (n - 1) // 2, 2 / n))
            for n in (1, 2, 3, 4, 5, 9)
        ]
        + [
            (
                nn.local_response_norm(T, **L, size=4, alpha=2.0, window="onnx"),
                ref.local_response_norm(T, 1, 2, 0.5),
            ),
            (nn.local_response_norm(T, **L, size=2, alpha=0.1, window="tf"), ref.local_response_norm(T, 2, 2, 0.1)),
        ]
    ),
    "divisive_norm": lambda: [
        (nn.divisive_norm(T, **L, sum_size=3, suppression_size=3), ref.divisive_norm(T, 3)),
        (nn.divisive_norm(T[:, :, 0, 0], sum_size=3, suppression_size=3), _divisive_flat(T[:, :, 0, 0], 3)),
    ],
    "zca_whitening": lambda: [(nn.zca_whitening(T, **L, groups=g).y, ref.whitened(T, g)) for g in (1, 2)],
    "iter_norm": lambda: [(nn.iter_norm(T, **L, groups=g).y, ref.whitened(T, g, iterations=5)) for g in (1, 3)],
    "weight_norm": lambda: [(nn.weight_norm(W4, g=P6[:5]), ref.weight_norm(W4, P6[:5]))],
    "centred_weight_norm": lambda: [
        (nn.centred_weight_norm(W4), ref.weight_norm(W4, centred=True)),
        (nn.centred_weight_norm(W4, divisor="std"), ref.weight_norm(W4, math.sqrt(11), centred=True)),
    ],
    "weight_standardization": lambda: [
        (nn.weight_standardization(W4, variant=v), ref.weight_standardization(W4, v))
        for v in ("torch", "tf", "timm", "scaled", "scaled-timm")
    ],
    "spectral_norm": lambda: [
        (nn.spectral_norm(W4).y, W4 / np.linalg.norm(W4.reshape(5, -1), 2)),
        (nn.spectral_norm(W4, dim=1).y, W4 / np.linalg.norm(np.moveaxis(W4, 1, 0).reshape(3, -1), 2)),
        (nn.spectral_norm(W4, method="torch", iterations=400).y, nn.spectral_norm(W4).y),
        (nn.spectral_norm(W4, method="keras", iterations=400).y, nn.spectral_norm(W4).y),
    ],
    "cosine_norm": lambda: [
        (nn.cosine_norm(T, T[0, 0, :2], centred=c), ref.cosine_norm(T, T[0, 0, :2], centred=c)) for c in (False, True)
    ],
}


def _divisive_flat(x: Array, size: int) -> Array:
    """Divide by box averages along the features."""

    def box(t: Array) -> Array:
        padded = np.pad(t, ((0, 0), (size // 2,) * 2))
        return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, size, axis=1).mean(2))

    v: Array = x - box(x)
    return np.asarray(v / np.sqrt(box(v**2) + 1.0))


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
def test_normalizer_equals_its_twin(name: str) -> None:
    for found, wanted in TWINS[name]():
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


def test_every_normalizer_has_a_twin_a_text_and_a_public_name() -> None:
    assert set(TWINS) == set(NORMALIZERS)
    for name, one in NORMALIZERS.items():
        assert getattr(nn, name) is one.function
        text = describe(one)
        assert text.summary.endswith(".")
        assert {"Formula", "Axes"} <= set(text.sections), name
        assert ">>>" in (one.function.__doc__ or ""), name
        if one.state:
            assert "State" in text.sections, name
        if one.vjp:
            assert getattr(nn, f"{name}_vjp") is one.vjp
            assert set(inspect.signature(one.vjp).parameters) - {"dy"} <= set(
                inspect.signature(one.function).parameters
            )


def test_all_lists_the_public_names() -> None:
    public = {n for n, v in vars(nn).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert public == set(nn.__all__)


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4).map(lambda n: 2 * n), st.integers(2, 7), st.integers(1, 4))
PER_CHANNEL = {
    "batch_norm": lambda x, layout: nn.batch_norm(x, layout=layout).y,
    "instance_norm": lambda x, layout: nn.instance_norm(x, layout=layout),
    "group_norm": lambda x, layout: nn.group_norm(x, layout=layout, groups=2),
    "layer_norm": lambda x, layout: nn.layer_norm(x, layout=layout, axes="image"),
    "layer_norm token": lambda x, layout: nn.layer_norm(x, layout=layout, axes="token"),
    "local_response_norm": lambda x, layout: nn.local_response_norm(x, layout=layout),
    "zca_whitening": lambda x, layout: nn.zca_whitening(x, layout=layout, eps=0.1).y,
    "switchable_norm": lambda x, layout: nn.switchable_norm(x, layout=layout).y,
    "divisive_norm": lambda x, layout: nn.divisive_norm(x, layout=layout),
    "lp_batch_norm": lambda x, layout: nn.lp_batch_norm(x, layout=layout, p=3).y,
    "noisy_batch_norm": lambda x, layout: nn.noisy_batch_norm(x, layout=layout, seed=3).y,
}


@pytest.mark.parametrize("name", PER_CHANNEL)
@given(shape=SHAPES, dtype=st.sampled_from(["f2", "f4", "f8", "i2"]), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_a_channel_last_tensor_gives_the_same_bits(name: str, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
    x = (tensor(shape, seed) * 4).astype(dtype)
    first = PER_CHANNEL[name](x, "NCHW")
    last = PER_CHANNEL[name](np.ascontiguousarray(np.moveaxis(x, 1, -1)), "NHWC")
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), first)
    assert first.dtype == (np.float32 if dtype == "i2" else dtype)


@given(shape=SHAPES, seed=st.integers(0, 99), a=st.sampled_from([-4.0, 0.5, 8.0]), b=st.floats(-9, 9))
@settings(max_examples=25, deadline=None)
def test_scale_and_shift_of_the_input_do_not_matter(shape: tuple[int, ...], seed: int, a: float, b: float) -> None:
    x = tensor(shape, seed)
    shift_and_scale: list[Callable[[Array], Array]] = [
        lambda t: nn.batch_norm(t, **L, eps=0).y,
        lambda t: nn.instance_norm(t, **L, eps=0),
        lambda t: nn.group_norm(t, **L, groups=2, eps=0),
        lambda t: nn.layer_norm(t, **L, axes="image", eps=0),
    ]
    for call in shift_and_scale:
        np.testing.assert_allclose(call(a * x + b), np.sign(a) * call(x), rtol=1e-9, atol=1e-9)
    scale_only: list[Callable[[Array], Array]] = [
        lambda t: nn.rms_norm(t, axes="-1", eps=0),
        lambda t: nn.lp_normalize(t, **L),
        lambda t: nn.scale_norm(t, **L, eps=0),
        lambda t: nn.cosine_norm(t, x[0, 0]),
        lambda t: nn.weight_norm(t),
        lambda t: nn.weight_standardization(t, eps=0),
        lambda t: nn.centred_weight_norm(t),
    ]
    for call in scale_only:
        np.testing.assert_allclose(call(abs(a) * x), call(x), rtol=1e-12, atol=1e-12)


@given(shape=SHAPES, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_one_normalizer_is_a_case_of_another(shape: tuple[int, ...], seed: int) -> None:
    x = tensor(shape, seed)
    n, c = shape[:2]
    close: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
    one_hot = np.array([900.0, 0, 0])
    instance, batch = nn.instance_norm(x, **L), nn.batch_norm(x, **L).y
    np.testing.assert_array_equal(nn.group_norm(x, **L, groups=c), instance)
    np.testing.assert_array_equal(nn.group_norm(x, **L, groups=1), nn.layer_norm(x, **L, axes="image"))
    np.testing.assert_allclose(nn.batch_norm(x[:1], **L).y, instance[:1], **close)
    flat = np.ascontiguousarray(x[:, :, 0, 0])
    np.testing.assert_array_equal(nn.layer_norm(x[:, :, :1, :1], **L, axes="token")[:, :, 0, 0], nn.layer_norm(flat))
    centred = flat - flat.mean(1, keepdims=True)
    np.testing.assert_allclose(nn.rms_norm(centred, eps=1e-5), nn.layer_norm(flat), **close)
    np.testing.assert_array_equal(nn.rms_norm(flat, fraction=1.0), nn.rms_norm(flat))
    np.testing.assert_allclose(nn.lp_normalize(flat) * np.sqrt(c), nn.rms_norm(flat, eps=0), **close)
    np.testing.assert_allclose(nn.mean_variance_norm(x, **L, eps=0), nn.batch_norm(x, **L, eps=0).y, **close)
    layer = nn.layer_norm(x, **L, axes="image")
    for at, wanted in enumerate((instance, layer, batch)):
        hot = np.roll(one_hot, at)
        np.testing.assert_allclose(nn.switchable_norm(x, **L, mean_weight=hot, var_weight=hot).y, wanted, **close)
    np.testing.assert_allclose(nn.batch_instance_norm(x, **L, rho=np.ones(c)).y, batch, **close)
    np.testing.assert_allclose(nn.batch_instance_norm(x, **L, rho=np.zeros(c)).y, instance, **close)
    np.testing.assert_allclose(nn.ghost_batch_norm(x, **L, batch=n).y, batch, **close)
    np.testing.assert_array_equal(nn.batch_renorm(x, **L, rmax=1, dmax=0, eps=1e-5).y, batch)
    np.testing.assert_allclose(nn.lp_batch_norm(x, **L, p=2, eps=0).y, nn.batch_norm(x, **L, eps=0).y, **close)
    state = {"running_mean": np.linspace(-1, 1, c), "running_std": np.linspace(1, 2, c)}
    free = nn.batch_renorm(x, **L, state=state, rmax=1e9, dmax=1e9).y
    np.testing.assert_allclose(free, nn.batch_renorm(x, **L, state=state, mode="eval").y, rtol=1e-9, atol=1e-9)
    after = nn.batch_norm(x, **L, update_rate=1.0, running_var="biased").state
    np.testing.assert_allclose(nn.batch_norm(x, **L, mode="eval", state=after).y, batch, **close)


def test_whitening_whitens() -> None:
    eps = 1e-3
    whitened = nn.zca_whitening(T, **L, eps=eps)
    y = np.moveaxis(whitened.y, 1, 0).reshape(6, -1)
    w = (whitened.state["running_w"][0] - 0.9 * np.eye(6)) / 0.1
    np.testing.assert_allclose(y @ y.T / y.shape[1], np.eye(6) - eps * w @ w, atol=1e-9)
    np.testing.assert_allclose(nn.iter_norm(T, **L, iterations=40, eps=eps).y, whitened.y, atol=1e-9)


def ulps(found: Array, exact: Array) -> float:
    """Return the largest distance of a float32 result from a more exact one, in steps of float32."""
    steps = np.spacing(np.abs(exact).astype(np.float32)).astype(exact.dtype)
    return float(np.max(np.abs(found.astype(exact.dtype) - exact) / steps))


@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4])
def test_float32_results_are_within_one_ulp(mean: Any) -> None:
    rng = np.random.default_rng(int(mean))
    x = (rng.standard_normal((8, 12, 33, 17)) + mean * rng.choice([-1, 1], (1, 12, 1, 1))).astype(np.float32)
    rows = (rng.standard_normal((64, 3000)) + mean).astype(np.float32)
    # the formulas in 80 bits where the machine has them: a float64 of mean 1e4 is itself uncertain near y = 0
    wide, wide_rows = x.astype(np.longdouble), rows.astype(np.longdouble)
    for found, exact in (
        (nn.batch_norm(x, **L).y, ref.batch_norm(wide)),
        (nn.instance_norm(x, **L), ref.instance_norm(wide)),
        (nn.group_norm(x, **L, groups=4), ref.group_norm(wide, 4)),
        (nn.layer_norm(rows), ref.layer_norm(wide_rows, (1,))),
        (nn.rms_norm(rows, eps=1e-6), ref.rms_norm(wide_rows, (1,), 1e-6)),
    ):
        assert ulps(found, exact) <= 1


def test_the_measure_of_accuracy_sees_a_wrong_answer() -> None:
    exact = np.array([1.0])
    assert ulps(np.array([1.0], np.float32), exact) == 0
    assert ulps(np.nextafter(np.float32(1), np.float32(2)).reshape(1), exact) == 1
    assert ulps(np.array([1.001], np.float32), exact) > 1000


def test_a_half_result_is_rounded_once() -> None:
    ml_dtypes = needs.module("ml_dtypes")
    rng = np.random.default_rng(5)
    for kind in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        x = rng.standard_normal((6, 400)).astype(kind)
        exact = ref.layer_norm(x.astype(np.float64), (1,))
        found = nn.layer_norm(x)
        assert found.dtype == kind
        steps = np.abs(found.astype(np.float64) - exact)
        near = np.array([found, np.nextafter(found, kind.type(9)), np.nextafter(found, kind.type(-9))], kind)
        assert (steps <= np.abs(near.astype(np.float64) - exact).min(axis=0)).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_threads_and_memory_change_no_bit(dtype: Any) -> None:
    x = tensor((40, 6, 64, 50)).astype(dtype)  # several blocks of 1 MB
    calls: list[Callable[[], Any]] = [
        lambda: nn.batch_norm(x, **L).y,
        lambda: nn.group_norm(x, **L, groups=3),
        lambda: nn.lp_batch_norm(x, **L, p=1).y,
        lambda: nn.zca_whitening(x, **L).y,
        lambda: nn.layer_norm(x, **L, axes="token"),
        lambda: nn.evo_norm(x, **L, variant="B0").y,
        lambda: nn.power_norm(x, **L).y,
    ]
    for call in calls:
        with resources(threads=1):
            alone = call()
        for threads, memory in ((2, None), (3, 10**8), (5, None)):
            with resources(threads=threads, memory_limit=memory):
                np.testing.assert_array_equal(call(), alone)


BYPASSED: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("batch_norm", (3, 2, 300), NCL),
    ("batch_norm", (3, 9, 1025), NCL),  # each channel by itself
    ("instance_norm", (1, 2, 70_000), NCL),  # rows too long to read the next one ahead
    ("group_norm", (40, 6, 259), {"layout": "NCL", "groups": 2}),
    ("layer_norm", (71, 1030), {"weight": np.linspace(0.5, 2, 1030), "bias": np.ones(1030)}),
    ("rms_norm", (3, 1030), {"weight": np.linspace(0.5, 2, 1030, dtype=np.float32)}),
    ("tensor_norm", (2, 1000), {}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "shape", "settings"), BYPASSED)
def test_results_that_bypass_the_cache_have_the_same_bits(
    name: str, shape: tuple[int, ...], settings: dict[str, Any], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of a result need not be at the start of a cache line."""
    x = np.random.default_rng(0).normal(3.0, 2.0, shape).astype(dtype)
    normalizer = getattr(nn, name)
    expected = normalizer(x, **settings)
    monkeypatch.setattr(nn.views, "BYPASS_BYTES", 0)
    for offset in (0, 1, 7):
        whole = np.full(x.size + 24, 77, dtype)
        with resources(allocate=lambda s, d: whole[offset : offset + x.size].reshape(s)):  # noqa: B023
            y = normalizer(x, **settings)
        if isinstance(expected, tuple):
            assert np.array_equal(y[0], expected[0])
        else:
            assert np.array_equal(y, expected)
        assert (whole[:offset] == 77).all() and (whole[offset + x.size :] == 77).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 8, 1024), (2, 16, 1025), (37, 8, 1100)])
def test_channels_by_themselves_have_the_bits_of_two_readings(
    shape: tuple[int, ...], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(draw.normal(0, 100, (shape[1], 1)), draw.uniform(0.1, 10, (shape[1], 1)), shape).astype(dtype)
    x[0, 0, 5], x[-1, 1, 0] = np.inf, np.nan
    settings: dict[str, Any] = {**NCL, "weight": draw.normal(size=shape[1]), "bias": draw.normal(size=shape[1])}
    with resources(threads=2):
        y, state = nn.batch_norm(x, **settings)
        monkeypatch.setattr(nn.moments, "CHANNEL_BYTES", 0)
        expected, statistics = nn.batch_norm(x, **settings)
    assert y.tobytes() == expected.tobytes()
    assert {k: np.asarray(v).tobytes() for k, v in state.items()} == {
        k: np.asarray(v).tobytes() for k, v in statistics.items()
    }


def test_statistics_are_those_that_x_is_normalized_by() -> None:
    x = T.astype(np.float32)
    for axes in ("image", "token", "2,3", (0, 2)):
        found = nn.layer_norm_statistics(x, **L, axes=axes)
        assert found["mean"].dtype == np.float64 and found["mean"].ndim == x.ndim
        y = (x - found["mean"]) * found["inverse_std"]
        np.testing.assert_allclose(y, nn.layer_norm(x, **L, axes=axes), rtol=1e-6, atol=1e-6)
    for variant in ("torch", "original"):
        found = nn.rms_norm_statistics(x, axes="-1", variant=variant, fraction=0.7)
        np.testing.assert_allclose(
            x * found["inverse_rms"], nn.rms_norm(x, axes="-1", variant=variant, fraction=0.7), rtol=1e-6
        )
    rows = x.reshape(len(x), 3, -1)
    found = nn.group_norm_statistics(x, **L, groups=3, eps=0.1)
    y = (rows - found["mean"][..., None]) * found["inverse_std"][..., None]
    np.testing.assert_allclose(y.reshape(x.shape), nn.group_norm(x, **L, groups=3, eps=0.1), rtol=1e-6, atol=1e-6)
    alone = nn.instance_norm_statistics(x, **L)
    np.testing.assert_allclose(alone["mean"], x.astype(np.float64).mean((2, 3)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
def test_reversible_normalization_is_reversed(last: bool) -> None:
    series = T.reshape(4, 6, 15)
    found = nn.reversible_instance_norm_statistics(series, **NCL, last=last)
    y = nn.reversible_instance_norm(series, **NCL, last=last, weight=P6 + 3, bias=P6)
    back = nn.reversible_instance_denorm(y, found["mean"], found["std"], **NCL, weight=P6 + 3, bias=P6)
    np.testing.assert_allclose(back, series, rtol=1e-8, atol=1e-8)


def test_a_debiased_average_is_haikus() -> None:
    state: Any = None
    hidden, decay = np.zeros(6), 0.7
    for step in range(1, 5):
        batch = T * step + step
        state = nn.batch_norm(batch, **L, state=state, update_rate=1 - decay, debiased=True).state
        hidden = decay * hidden + (1 - decay) * batch.mean((0, 2, 3))
        np.testing.assert_allclose(state["running_mean"], hidden / (1 - decay**step), rtol=1e-12)


def test_keras_renorm_clips_nothing_unless_it_is_told() -> None:
    state = {"running_mean": P6, "running_std": P6**2 + 0.01}
    keras = nn.find("batch_renorm").preset("keras")
    y = nn.batch_renorm(T, **L, state=state, **keras).y
    np.testing.assert_allclose(y, nn.batch_renorm(T, **L, state=state, mode="eval").y, rtol=1e-10, atol=1e-10)
    clipped = nn.batch_renorm(T, **L, state=state, rmin=0.9, rmax=1.1, dmax=0.2).y
    mean, std = (v[:, None, None] for v in (T.mean((0, 2, 3)), np.sqrt(T.var((0, 2, 3)) + 1e-3)))
    r = np.clip(std / (P6**2 + 0.01)[:, None, None], 0.9, 1.1)
    d = np.clip((mean - P6[:, None, None]) / (P6**2 + 0.01)[:, None, None], -0.2, 0.2)
    np.testing.assert_allclose(clipped, (T - mean) / std * r + d, rtol=1e-10, atol=1e-10)
    with pytest.raises(UsageError, match="rmin"):
        nn.batch_renorm(T, **L, rmin=1.5)


def test_float32_results_are_float64_ones_rounded_once() -> None:
    x = T.astype(np.float32)
    wide, p = x.astype(np.float64), P6
    pairs = [
        (nn.dynamic_erf(x, **L, alpha=0.7, shift=-0.2), ref.dynamic_erf(wide, 0.7, -0.2)),
        (nn.adaptive_layer_norm(x, p, p + 1, **L), ref.adaptive_layer_norm(wide, p, p + 1)),
        (nn.spatially_adaptive_norm(x, x, x, **L), ref.spatially_adaptive_norm(wide, wide, wide, (0, 2, 3))),
        (nn.reversible_instance_norm(x, **L, last=True), ref.reversible_instance_norm(wide, True)),
        (nn.reversible_instance_denorm(x, p, p**2, **L), wide / (1 + 1e-10) * ref._c(p**2, x) + ref._c(p, x)),
    ]
    for found, wanted in pairs:
        assert found.dtype == np.float32
        np.testing.assert_array_max_ulp(found, wanted.astype(np.float32), maxulp=1)
        assert np.mean(found == wanted.astype(np.float32)) > 0.999
