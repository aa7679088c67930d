"""Every normalizer in torch, for automatic differentiation: float64, channel first, any rank, written from the papers.

Each function takes x (N, C, ...) and its parameters as tensors; `CATALOG` has the cases that the tests run.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.support import needs

torch = needs.module("torch")
F = torch.nn.functional

T = Any  # a torch tensor

EPS = 1e-5


class Case(NamedTuple):
    """A normalizer with settings.

    Attributes:
        name: of the normalizer.
        settings: of ours, besides layout, weight and bias.
        function: torch's twin: x and the parameters by name.
        ranks: of x.
        parameters: name -> shape, made from the shape of x, channel first.
        affine: it has weight and bias per channel.
    """

    name: str
    settings: dict[str, Any]
    function: Callable[..., T]
    ranks: tuple[int, ...] = (2, 3, 4, 5)
    parameters: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {}  # noqa: RUF012
    affine: bool = True


def channel(p: T, x: T) -> T:
    """Return a parameter (C) or (N, C) in the shape that broadcasts to (N, C, ...)."""
    return p.reshape(*(p.shape if p.ndim == 2 else (1, -1)), *([1] * (x.ndim - 2)))


def space(x: T) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def batch(x: T) -> tuple[int, ...]:
    return (0, *space(x))


def standard(x: T, axes: tuple[int, ...], eps: float = EPS, correction: int = 0) -> T:
    var, mean = torch.var_mean(x, axes, correction=correction, keepdim=True)
    return (x - mean) / torch.sqrt(var + eps)


def affine(y: T, weight: T | None = None, bias: T | None = None) -> T:
    y = y if weight is None else y * channel(weight, y)
    return y if bias is None else y + channel(bias, y)


STATE = {
    "running_mean": np.array([0.3, -0.2, 0.9, 0.1]),
    "running_var": np.array([0.5, 2.0, 1.0, 3.0]),
}
RENORM = {"running_mean": STATE["running_mean"], "running_std": STATE["running_var"]}


def evaluated(x: T, **p: T) -> T:
    mean, var = (channel(torch.tensor(STATE[f"running_{key}"]), x) for key in ("mean", "var"))
    return affine((x - mean) / torch.sqrt(var + EPS), **p)


def renorm(x: T, **p: T) -> T:
    var, mean = torch.var_mean(x, batch(x), correction=0, keepdim=True)
    std = torch.sqrt(var + 1e-3)
    old, scale = (channel(torch.tensor(RENORM[f"running_{key}"]), x) for key in ("mean", "std"))
    r, d = (std / scale).clamp(1 / 1.5, 1.5).detach(), ((mean - old) / scale).clamp(-0.3, 0.3).detach()
    return affine((x - mean) / std * r + d, **p)


def ghosts(x: T, **p: T) -> T:
    return affine(torch.cat([standard(part, batch(x)) for part in x.split(3)]), **p)


def noisy(x: T, **p: T) -> T:
    draw = np.random.Generator(np.random.PCG64([7, 0]))
    mu, sigma = (
        channel(torch.tensor(draw.uniform(low, high, x.shape[1])), x) for low, high in ((-0.5, 0.5), (1.0, 1.25))
    )
    flat = (x.shape[0], x.shape[1], math.prod(x.shape[2:]))
    lows, highs, sigmas = (t.expand(x.shape).reshape(flat).numpy() for t in (mu - 0.1, mu + 0.1, sigma))
    m = torch.tensor(draw.uniform(lows, highs)).reshape(x.shape)
    s = torch.tensor(draw.normal(sigmas, 0.1)).reshape(x.shape)
    return s * affine(standard(x, batch(x)), **p) + m


def by_norm(formula: str, order: float) -> Callable[..., T]:
    def function(x: T, **p: T) -> T:
        count = x.numel() // x.shape[1]
        z = x - x.mean(batch(x), keepdim=True)
        size = (x if formula == "santurkar" else z).abs()
        if formula == "topk":
            rows = size.movedim(1, 0).reshape(x.shape[1], -1)
            norm = channel(rows.topk(min(10, count)).values.mean(1), x)
        elif order == math.inf:
            norm = size.amax(batch(x), keepdim=True)
        else:
            norm = (size**order).mean(batch(x), keepdim=True) ** (1 / order)
        if formula == "lp-gauss":
            norm = norm * (math.sqrt(math.pi) / (2 ** (order / 2) * math.gamma((order + 1) / 2))) ** (1 / order)
        if formula in ("linf-hoffer", "topk"):
            norm = norm * (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(8 * math.log(count))
        if formula == "linf-exact":
            t = torch.linspace(0, 12, 4001, dtype=torch.float64)
            norm = norm / torch.trapezoid(1 - torch.erf(t / math.sqrt(2)) ** count, t)
        return affine(z / (norm + EPS), **p)

    return function


def mixed(x: T, rho: T, **p: T) -> T:
    return affine(channel(rho, x) * standard(x, batch(x)) + (1 - channel(rho, x)) * standard(x, space(x)), **p)


def switched(x: T, mean_weight: T, var_weight: T, **p: T) -> T:
    w, v = torch.softmax(mean_weight, 0), torch.softmax(var_weight, 0)
    moments = [torch.var_mean(x, axes, correction=0, keepdim=True) for axes in (space(x), (1, *space(x)), batch(x))]
    mean = sum(a * m for a, (_, m) in zip(w, moments, strict=True))
    var = sum(a * s for a, (s, _) in zip(v, moments, strict=True))
    return affine((x - mean) / torch.sqrt(var + EPS), **p)


def powered(groups: int) -> Callable[..., T]:
    def function(x: T, **p: T) -> T:
        if groups:
            parts = x.reshape(len(x), groups, -1, *x.shape[2:])
            x = (parts / torch.sqrt((parts**2).mean(2, keepdim=True) + EPS)).reshape(x.shape)
        return affine(x / torch.sqrt((x**2).mean(batch(x), keepdim=True) + EPS), **p)

    return function


def standard_by_std(x: T) -> T:
    var, mean = torch.var_mean(x, batch(x), correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(var) + 1e-9)


def adapted(x: T, style: T) -> T:
    var, mean = torch.var_mean(style, space(style), correction=1, keepdim=True)
    return torch.sqrt(var + EPS) * standard(x, space(x), correction=1) + mean


def by_root(variant: str, eps: float) -> Callable[..., T]:
    def function(x: T, weight: T | None = None, bias: T | None = None) -> T:
        square = (x**2).mean(1, keepdim=True)
        y = x / (torch.sqrt(square) + eps if variant == "original" else torch.sqrt(square + eps))
        return affine(y, 1 + weight if variant == "gemma" and weight is not None else weight, bias)

    return function


def partly(x: T, **p: T) -> T:
    return affine(x / torch.sqrt((x[:, :2] ** 2).mean(1, keepdim=True) + 0.1), **p)


def thresholded(x: T, tau: T, learned_eps: T, **p: T) -> T:
    square = (x**2).mean(space(x), keepdim=True) + 1e-6 + channel(learned_eps, x).abs()
    return torch.maximum(affine(x / torch.sqrt(square), **p), channel(tau, x))


def evolved(x: T, v: T, **p: T) -> T:
    var = x.reshape(len(x), 2, -1).var(2, correction=0).repeat_interleave(x.shape[1] // 2, 1)
    return affine(x * torch.sigmoid(channel(v, x) * x) / torch.sqrt(channel(var, x) + EPS), **p)


def evolved_b0(x: T, v: T, **p: T) -> T:
    root, own = (torch.sqrt(x.var(axes, correction=0, keepdim=True) + EPS) for axes in (batch(x), space(x)))
    return affine(x / torch.maximum(root, channel(v, x) * x + own), **p)


def competing(x: T, weight: T | None = None, bias: T | None = None) -> T:
    norm = torch.sqrt((x**2).sum(space(x), keepdim=True)) if x.ndim > 2 else x.abs()
    y = x if weight is None else x + channel(weight, x) * x * norm / (norm.mean(1, keepdim=True) + 1e-6)
    return y if bias is None else y + channel(bias, y)


def responding(below: int, above: int, factor: float) -> Callable[..., T]:
    def function(x: T) -> T:
        sums = [(x[:, max(c - below, 0) : c + above + 1] ** 2).sum(1) for c in range(x.shape[1])]
        return x * (2 + factor * torch.stack(sums, 1)) ** -0.75

    return function


def divided(x: T, **p: T) -> T:
    def box(t: T, axes: tuple[int, ...]) -> T:
        for axis in axes:
            zero = torch.zeros_like(t.narrow(axis, 0, 1))
            padded = torch.cat([zero, t, zero], axis)
            t = sum(padded.narrow(axis, i, t.shape[axis]) for i in range(3)) / 3
        return t

    y = x[:, None] if x.ndim == 2 else x
    axes = tuple(range(2, y.ndim))
    z = y - box(y.mean(1, keepdim=True), axes)
    z = z / torch.sqrt(box((z**2).mean(1, keepdim=True), axes) + 1.0)
    return affine(z.reshape(x.shape), **p)


def whitened(iterations: int | None) -> Callable[..., T]:
    def function(x: T, **p: T) -> T:
        parts = []
        for part in x.split(2, 1):
            rows = part.movedim(1, 0).reshape(2, -1)
            rows = rows - rows.mean(1, keepdim=True)
            sigma = rows @ rows.T / rows.shape[1] + EPS * torch.eye(2, dtype=x.dtype)
            if iterations is None:
                values, vectors = torch.linalg.eigh(sigma)
                w = vectors @ torch.diag(values**-0.5) @ vectors.T
            else:
                trace, w = torch.trace(sigma), torch.eye(2, dtype=x.dtype)
                for _ in range(iterations):  # as the paper has it
                    w = 1.5 * w - 0.5 * w @ w @ w @ sigma / trace
                w = w / torch.sqrt(trace)
            parts.append((w @ rows).reshape(2, len(x), *x.shape[2:]).movedim(0, 1))
        return affine(torch.cat(parts, 1), **p)

    return function


def lengths(w: T, g: T | None = None, *, centred: bool = False, std: bool = False) -> T:
    rows = w.reshape(len(w), -1)
    rows = rows - rows.mean(1, keepdim=True) if centred else rows
    norm = rows.std(1, keepdim=True) if std else rows.norm(dim=1, keepdim=True)
    y = rows / norm
    return (y if g is None else y * g[:, None]).reshape(w.shape)


def standardized(variant: str) -> Callable[..., T]:
    def function(w: T) -> T:
        rows = w.reshape(len(w), -1)
        z = rows - rows.mean(1, keepdim=True)
        var = rows.var(1, correction=0, keepdim=True)
        divisor = {
            "torch": rows.std(1, keepdim=True) + 1e-5,
            "tf": torch.sqrt(var) + 1e-5,
            "timm": torch.sqrt(var + 1e-6),
            "scaled": torch.sqrt((var * rows.shape[1]).clamp(min=1e-4)),
            "scaled-timm": torch.sqrt(var + 1e-6) * math.sqrt(rows.shape[1]),
        }[variant]
        return (z / divisor).reshape(w.shape)

    return function


def spectral(w: T) -> T:
    rows = w.reshape(len(w), -1)
    u, _, v = torch.linalg.svd(rows.detach(), full_matrices=False)
    return w / (u[:, 0] @ rows @ v[0])


def cosine(x: T, weight: T, *, centred: bool = False) -> T:
    if centred:
        x, weight = x - x.mean(-1, keepdim=True), weight - weight.mean(-1, keepdim=True)
    return (x / x.norm(dim=-1, keepdim=True)) @ (weight / weight.norm(dim=-1, keepdim=True)).T


SPATIAL = (3, 4, 5)


def by_channel(*names: str) -> dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]]:
    return {name: lambda shape: (shape[1],) for name in names}


THREE: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    name: lambda shape: (3,) for name in ("mean_weight", "var_weight")
}
LP: list[tuple[str, float]] = [
    *[("lp", p) for p in (1.0, 2.0, 3.0, math.inf)],
    *[("lp-gauss", p) for p in (1.0, 2.0, 4.0)],
    *[("santurkar", p) for p in (1.0, 2.0)],
    *[(formula, math.inf) for formula in ("linf-hoffer", "linf-exact", "topk")],
]
IMAGE = {"axes": "image"}
TOKEN = {"axes": "token"}


def token_adapted(x: T, scale: T, shift: T) -> T:
    return (1 + channel(scale, x)) * standard(x, (1,), 1e-6) + channel(shift, x)


def spatially_adapted(over: str) -> Callable[..., T]:
    return lambda x, scale, shift: (1 + scale) * standard(x, batch(x) if over == "batch" else space(x)) + shift


def reversible(last: bool) -> Callable[..., T]:
    def function(x: T, **p: T) -> T:
        center = x.flatten(2)[..., -1:].reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        mean = x.mean(space(x), keepdim=True)
        std = torch.sqrt(x.var(space(x), correction=0, keepdim=True) + EPS)
        return affine((x - (center if last else mean)) / std, **p)

    return function


def restored(x: T, mean: T, std: T, weight: T | None = None, bias: T | None = None) -> T:
    x = x if bias is None else x - channel(bias, x)
    x = x / (EPS**2 + (torch.ones((), dtype=x.dtype) if weight is None else channel(weight, x)))
    return x * channel(std, x) + channel(mean, x)


CONDITION: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    name: lambda shape: shape[:2] for name in ("scale", "shift")
}
MAPS: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
    name: lambda shape: shape for name in ("scale", "shift")
}

CATALOG = [
    Case("batch_norm", {}, lambda x, **p: affine(standard(x, batch(x)), **p)),
    Case("batch_norm", {"mode": "eval", "state": STATE}, evaluated),
    Case("ghost_batch_norm", {"batch": 3}, ghosts),
    Case("noisy_batch_norm", {"seed": 7}, noisy),
    Case("batch_renorm", {"state": RENORM, "rmax": 1.5, "dmax": 0.3}, renorm),
    *[Case("lp_batch_norm", {"formula": formula, "p": p}, by_norm(formula, p)) for formula, p in LP],
    Case("batch_instance_norm", {}, mixed, SPATIAL, by_channel("rho")),
    Case("switchable_norm", {}, switched, SPATIAL, THREE),
    *[Case("power_norm", {"groups": groups}, powered(groups)) for groups in (0, 1, 2)],
    Case("mean_variance_norm", {}, standard_by_std, affine=False),
    Case("layer_norm", TOKEN, lambda x, **p: affine(standard(x, (1,)), **p)),
    Case("layer_norm", IMAGE, lambda x, **p: affine(standard(x, tuple(range(1, x.ndim))), **p)),
    Case("instance_norm", {}, lambda x, **p: affine(standard(x, space(x)), **p), SPATIAL),
    *[
        Case("group_norm", {"groups": groups}, lambda x, groups=groups, **p: affine(F.group_norm(x, groups), **p))
        for groups in (1, 2)
    ],
    Case("adaptive_instance_norm", {}, adapted, SPATIAL, {"style": lambda shape: shape}, affine=False),
    Case("rms_norm", TOKEN, by_root("torch", float(np.finfo(np.float64).eps))),
    Case("rms_norm", TOKEN | {"variant": "original"}, by_root("original", 1e-8)),
    Case("rms_norm", TOKEN | {"variant": "gemma"}, by_root("gemma", 1e-6)),
    Case("rms_norm", TOKEN | {"variant": "llama"}, by_root("llama", 1e-6)),
    Case("rms_norm", TOKEN | {"fraction": 0.5, "eps": 0.1}, partly),
    *[
        Case("lp_normalize", {"p": p}, lambda x, p=p: F.normalize(x, p, 1), affine=False)
        for p in (1.0, 2.0, 3.0, math.inf)
    ],
    Case("pixel_norm", {}, by_root("torch", 1e-8), affine=False),
    Case("scale_norm", {}, lambda x: math.sqrt(x.shape[1]) * F.normalize(x, 2, 1, EPS), affine=False),
    Case("tensor_norm", {}, lambda x: standard(x, tuple(range(x.ndim))), affine=False),
    Case("tensor_norm", {"p": 2.0}, lambda x: x / x.norm(), affine=False),
    Case("dynamic_tanh", {"alpha": 0.7}, lambda x, **p: affine(torch.tanh(0.7 * x), **p)),
    Case("dynamic_erf", {"alpha": 0.7, "shift": -0.2}, lambda x, **p: affine(torch.erf(0.7 * x - 0.2), **p)),
    Case("adaptive_layer_norm", {}, token_adapted, parameters=CONDITION, affine=False),
    *[
        Case("spatially_adaptive_norm", {"over": over}, spatially_adapted(over), SPATIAL, MAPS, affine=False)
        for over in ("batch", "instance")
    ],
    *[Case("reversible_instance_norm", {"last": last}, reversible(last), SPATIAL) for last in (False, True)],
    Case("reversible_instance_denorm", {}, restored, SPATIAL, {k: lambda shape: shape[:2] for k in ("mean", "std")}),
    Case("filter_response_norm", {}, thresholded, SPATIAL, by_channel("tau", "learned_eps")),
    Case("evo_norm", {"groups": 2}, evolved, SPATIAL, by_channel("v")),
    Case("evo_norm", {"variant": "B0"}, evolved_b0, SPATIAL, by_channel("v")),
    Case("global_response_norm", {}, competing),
    *[
        Case(
            "local_response_norm",
            {"size": 2, "alpha": 0.6, "k": 2.0, "window": window},
            responding(*reach),
            affine=False,
        )
        for window, reach in (("torch", (1, 0, 0.3)), ("onnx", (0, 1, 0.3)), ("tf", (2, 2, 0.6)))
    ],
    Case("divisive_norm", {"sum_size": 3, "suppression_size": 3}, divided),
    Case("zca_whitening", {"groups": 2}, whitened(None)),
    Case("iter_norm", {"groups": 2}, whitened(5)),
    Case("weight_norm", {}, lengths, affine=False),
    Case("weight_norm", {}, lengths, parameters={"g": lambda shape: (shape[0],)}, affine=False),
    Case("centred_weight_norm", {}, lambda x: lengths(x, centred=True), affine=False),
    Case("centred_weight_norm", {"divisor": "std"}, lambda x: lengths(x, centred=True, std=True), affine=False),
    *[
        Case("weight_standardization", {"variant": variant}, standardized(variant), affine=False)
        for variant in ("torch", "tf", "timm", "scaled", "scaled-timm")
    ],
    Case("spectral_norm", {}, spectral, affine=False),
    Case("cosine_norm", {}, cosine, parameters={"weight": lambda shape: (5, shape[-1])}, affine=False),
    Case(
        "cosine_norm",
        {"centred": True},
        lambda x, weight: cosine(x, weight, centred=True),
        parameters={"weight": lambda shape: (5, shape[-1])},
        affine=False,
    ),
]
