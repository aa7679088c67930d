"""Forward and gradient of every normalizer that torch has, in float64, against torch 2.13 on the CPU."""

import math
from typing import Any

import numpy as np
import pytest

import normcli.tensor.normalizers as nn
from tests.support import needs

Array = np.ndarray[Any, Any]

torch = needs.module("torch")
F = torch.nn.functional

TOLERANCE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def data(*shape: int, seed: int = 0, scale: float = 2.0, shift: float = 1.0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape) * scale + shift


def tensor(array: Array) -> Any:
    return torch.tensor(np.array(array), dtype=torch.float64, requires_grad=True)


X = data(4, 6, 5, 3)
DY = data(4, 6, 5, 3, seed=1, shift=0.0)
W, B = data(6, seed=2), data(6, seed=3)
MEAN, VAR = data(6, seed=4), data(6, seed=5) ** 2 + 0.5
STATE: dict[str, Any] = {"running_mean": MEAN, "running_var": VAR}
L: dict[str, Any] = {"layout": "NCHW"}
FULL = data(6, 5, 3, seed=6)
KERNEL, G = data(6, 3, 2, 2, seed=7), data(6, seed=8)
ROWS, KEYS = data(7, 9, seed=9), data(5, 9, seed=10)


def weight_norm(v: Any, g: Any, dim: int) -> Any:
    return torch._weight_norm(v, g.reshape([-1 if i == dim else 1 for i in range(v.ndim)]), dim)


def cosine(x: Any, weight: Any) -> Any:
    return F.cosine_similarity(x[:, None], weight[None], dim=-1)


def pearson(x: Any, weight: Any) -> Any:
    return cosine(x - x.mean(-1, keepdim=True), weight - weight.mean(-1, keepdim=True))


# what it is -> (ours, its gradient, torch's, the tensors by torch's order: x first)
CASES: dict[str, tuple[Any, ...]] = {
    "batch_norm": (
        lambda s: nn.batch_norm(X, **L, **s).y,
        lambda s, dy: nn.batch_norm_vjp(X, dy, **L, **s),
        lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True),
        {"x": X, "weight": W, "bias": B},
    ),
    "batch_norm eval": (
        lambda s: nn.batch_norm(X, **L, mode="eval", state=STATE, **s).y,
        lambda s, dy: nn.batch_norm_vjp(X, dy, **L, mode="eval", state=STATE, **s),
        lambda x, weight, bias: F.batch_norm(x, torch.tensor(MEAN), torch.tensor(VAR), weight, bias),
        {"x": X, "weight": W, "bias": B},
    ),
    "instance_norm": (
        lambda s: nn.instance_norm(X, **L, **s),
        lambda s, dy: nn.instance_norm_vjp(X, dy, **L, **s),
        lambda x, weight, bias: F.instance_norm(x, weight=weight, bias=bias),
        {"x": X, "weight": W, "bias": B},
    ),
    **{
        f"group_norm {g}": (
            lambda s, g=g: nn.group_norm(X, **L, groups=g, **s),
            lambda s, dy, g=g: nn.group_norm_vjp(X, dy, **L, groups=g, **s),
            lambda x, weight, bias, g=g: F.group_norm(x, g, weight, bias),
            {"x": X, "weight": W, "bias": B},
        )
        for g in (1, 2, 3, 6)
    },
    **{
        f"layer_norm {k}": (
            lambda s, a=a: nn.layer_norm(X, axes=a, **s),
            lambda s, dy, a=a: nn.layer_norm_vjp(X, dy, axes=a, **s),
            lambda x, weight, bias, k=k: F.layer_norm(x, x.shape[-k:], weight, bias),
            {"x": X, "weight": p, "bias": p - 1},
        )
        for k, a, p in ((1, "-1", FULL[0, 0]), (2, "2,3", FULL[0]), (3, "1,2,3", FULL))
    },
    **{
        f"rms_norm {k}": (
            lambda s, a=a: nn.rms_norm(X, axes=a, **s),
            lambda s, dy, a=a: nn.rms_norm_vjp(X, dy, axes=a, **s),
            lambda x, weight, k=k: F.rms_norm(x, x.shape[-k:], weight),
            {"x": X, "weight": p},
        )
        for k, a, p in ((1, "-1", FULL[0, 0]), (2, "2,3", FULL[0]), (3, "1,2,3", FULL))
    },
    **{
        f"lp_normalize {p:g}": (
            lambda s, p=p: nn.lp_normalize(X, **L, p=p),
            (lambda s, dy: nn.lp_normalize_vjp(X, dy, **L)) if p == 2 else None,
            lambda x, p=p: F.normalize(x, p, 1),
            {"x": X},
        )
        for p in (0.5, 1.0, 2.0, 3.0, math.inf)
    },
    **{
        f"local_response_norm {n}": (
            lambda s, n=n: nn.local_response_norm(X, **L, size=n, alpha=0.3, k=2.0),
            lambda s, dy, n=n: nn.local_response_norm_vjp(X, dy, **L, size=n, alpha=0.3, k=2.0),
            lambda x, n=n: F.local_response_norm(x, n, 0.3, 0.75, 2.0),
            {"x": X},
        )
        for n in (1, 2, 3, 4, 5)
    },
    **{
        f"weight_norm {dim}": (
            lambda s, dim=dim: nn.weight_norm(KERNEL, dim=dim, **s),
            lambda s, dy, dim=dim: nn.weight_norm_vjp(KERNEL, dy, dim=dim, **s),
            lambda x, g, dim=dim: weight_norm(x, g, dim),
            {"x": KERNEL, "g": g},
        )
        for dim, g in ((0, G), (1, G[:3]))
    },
    "weight_norm whole": (
        lambda s: nn.weight_norm(KERNEL, dim=-1, **s),
        lambda s, dy: nn.weight_norm_vjp(KERNEL, dy, dim=-1, **s),
        lambda x, g: torch._weight_norm(x, g, -1),
        {"x": KERNEL, "g": np.array(1.7)},
    ),
    "cosine_norm": (
        lambda s: nn.cosine_norm(ROWS, s["weight"]),
        lambda s, dy: nn.cosine_norm_vjp(ROWS, s["weight"], dy),
        cosine,
        {"x": ROWS, "weight": KEYS},
    ),
    "cosine_norm centred": (
        lambda s: nn.cosine_norm(ROWS, s["weight"], centred=True),
        lambda s, dy: nn.cosine_norm_vjp(ROWS, s["weight"], dy, centred=True),
        pearson,
        {"x": ROWS, "weight": KEYS},
    ),
    "dynamic_tanh": (
        lambda s: nn.dynamic_tanh(X, **L, **{**s, "alpha": float(s["alpha"])}),
        lambda s, dy: nn.dynamic_tanh_vjp(X, dy, **L, **{**s, "alpha": float(s["alpha"])}),
        lambda x, alpha, weight, bias: weight[:, None, None] * torch.tanh(alpha * x) + bias[:, None, None],
        {"x": X, "alpha": np.array(0.7), "weight": W, "bias": B},
    ),
    "pixel_norm": (
        lambda s: nn.pixel_norm(X, **L),
        None,
        lambda x: F.rms_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-8).movedim(-1, 1),
        {"x": X},
    ),
    "tensor_norm": (
        lambda s: nn.tensor_norm(X),
        None,
        lambda x: F.layer_norm(x, x.shape),
        {"x": X},
    ),
    "global_response_norm": (
        lambda s: nn.global_response_norm(X, **L, **s),
        lambda s, dy: nn.global_response_norm_vjp(X, dy, **L, **s),
        lambda x, weight, bias: (
            x
            + weight[:, None, None]
            * x
            * x.norm(2, (2, 3), keepdim=True)
            / (x.norm(2, (2, 3), keepdim=True).mean(1, keepdim=True) + 1e-6)
            + bias[:, None, None]
        ),
        {"x": X, "weight": W, "bias": B},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_torch_gives_the_same(name: str) -> None:
    forward, vjp, theirs, parameters = CASES[name]
    given = {key: value for key, value in parameters.items() if key != "x"}
    tensors = {key: tensor(value) for key, value in parameters.items()}
    wanted = theirs(*tensors.values())
    np.testing.assert_allclose(forward(given), wanted.detach().numpy(), **TOLERANCE)
    if vjp is not None:
        dy = data(*wanted.shape, seed=20, shift=0.0)
        wanted.backward(torch.tensor(dy))
        found = vjp(given, dy)
        for key, leaf in tensors.items():
            np.testing.assert_allclose(found[f"d{key}"], leaf.grad.numpy(), err_msg=key, **TOLERANCE)


def test_the_comparison_sees_a_wrong_answer() -> None:
    wrong = F.batch_norm(torch.tensor(X), None, None, training=True, eps=1e-4).numpy()
    assert not np.allclose(nn.batch_norm(X, **L).y, wrong, **TOLERANCE)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_running_statistics_equal_torchs(momentum: float | None) -> None:
    layer = torch.nn.BatchNorm2d(6, momentum=momentum, affine=False, dtype=torch.float64)
    state: dict[str, Any] | None = None
    for seed in range(4):
        batch = data(3, 6, 4, 2, seed=seed)
        layer(torch.tensor(batch))
        rate: dict[str, Any] = {"cumulative": True} if momentum is None else {"update_rate": momentum}
        state = nn.batch_norm(batch, **L, state=state, **rate).state
    for key, value in layer.state_dict().items():
        assert state is not None
        np.testing.assert_allclose(state[key], value.numpy(), **TOLERANCE)


def test_spectral_norm_takes_torchs_steps() -> None:
    layer = torch.nn.Linear(4, 6, bias=False, dtype=torch.float64)
    weight = layer.weight.detach().numpy().copy()
    layer = torch.nn.utils.parametrizations.spectral_norm(layer)
    inside = layer.parametrizations.weight[0]
    state = {"u": inside._u.numpy().copy(), "v": inside._v.numpy().copy()}
    found = nn.spectral_norm(weight, method="torch", state=state)
    np.testing.assert_allclose(found.y, layer.weight.detach().numpy(), **TOLERANCE)
    np.testing.assert_allclose(found.state["u"], inside._u.numpy(), **TOLERANCE)
    np.testing.assert_allclose(found.state["v"], inside._v.numpy(), **TOLERANCE)


def test_half_precision_layer_norm_equals_the_rounded_float64_result() -> None:
    half = data(4, 64, shift=0.0).astype(np.float16)
    wanted = F.layer_norm(torch.tensor(half), (64,)).numpy()
    np.testing.assert_array_equal(nn.layer_norm(half), wanted)
