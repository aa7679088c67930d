"""Every normalizer again, slowly and plainly: float64 NumPy written from the formulas of the papers.

Channel-first tensors only; nothing is shared with the package. The names are the package's.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _c(p: Array | float, x: Array) -> Array:
    """Return a parameter (C) in the shape that broadcasts to (N, C, ...)."""
    return np.asarray(p, float).reshape(1, -1, *([1] * (x.ndim - 2)))


def _rest(x: Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _space(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


def _normal(x: Array, axes: int | tuple[int, ...] | None, eps: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def batch_norm(x: Array, weight: Array | float = 1.0, bias: Array | float = 0.0, eps: float = 1e-5) -> Array:
    return _normal(x, _rest(x), eps) * weight + bias


def ghost_batch_norm(x: Array, batch: int, interleaved: bool = False, eps: float = 1e-5) -> Array:
    y = np.empty_like(x)
    count = len(x) // batch
    for ghost in range(count):
        at = slice(ghost, None, count) if interleaved else slice(ghost * batch, (ghost + 1) * batch)
        y[at] = batch_norm(x[at], eps=eps)
    return y


def batch_renorm(x: Array, mean: Array, std: Array, rmax: float, dmax: float, eps: float = 1e-3) -> Array:
    batch_std = np.sqrt(x.var(_rest(x)) + eps)
    r = np.clip(batch_std / std, 1 / rmax, rmax)
    d = np.clip((x.mean(_rest(x)) - mean) / std, -dmax, dmax)
    return (x - _c(x.mean(_rest(x)), x)) / _c(batch_std, x) * _c(r, x) + _c(d, x)


def noisy_batch_norm(x: Array, seed: int, step: int = 0, eps: float = 1e-5) -> Array:
    draw = np.random.Generator(np.random.PCG64([seed, step]))
    mu = draw.uniform(-0.5, 0.5, x.shape[1])
    sigma = draw.uniform(1, 1.25, x.shape[1])
    m = draw.uniform(_c(mu, x) - 0.1, _c(mu, x) + 0.1, x.shape)
    s = draw.normal(np.broadcast_to(_c(sigma, x), x.shape), 0.1)
    return s * batch_norm(x, eps=eps) + m


def lp_batch_norm(x: Array, formula: str, p: float, k: int = 10, eps: float = 1e-5) -> Array:
    axes = _rest(x)
    z = x - x.mean(axes, keepdims=True)
    m = x.size // x.shape[1]
    flat = np.moveaxis(np.abs(z), 1, 0).reshape(x.shape[1], -1)
    hoffer = (1 + math.sqrt(math.pi * math.log(4))) / math.sqrt(8 * math.log(m))
    if formula == "santurkar":
        raw = np.moveaxis(np.abs(x), 1, 0).reshape(x.shape[1], -1)
        s = raw.max(1) if p == math.inf else (raw**p).mean(1) ** (1 / p)
    elif formula == "linf-hoffer":
        s = hoffer * flat.max(1)
    elif formula == "topk":
        s = hoffer * np.sort(flat, axis=1)[:, -k:].mean(1)
    elif formula == "linf-exact":
        t = np.linspace(0, 12, 240001)
        erf = np.array([math.erf(v / math.sqrt(2)) for v in t])
        s = flat.max(1) / np.trapezoid(1 - erf**m, t)
    elif p == math.inf:
        s = flat.max(1)
    else:
        s = (flat**p).mean(1) ** (1 / p)
        if formula == "lp-gauss":
            s = s * (math.sqrt(math.pi) / (2 ** (p / 2) * math.gamma((p + 1) / 2))) ** (1 / p)
    return z / (_c(s, x) + eps)


def batch_instance_norm(x: Array, rho: Array, eps: float = 1e-5) -> Array:
    return _c(rho, x) * batch_norm(x, eps=eps) + (1 - _c(rho, x)) * instance_norm(x, eps)


def switchable_norm(x: Array, mean_weight: Array, var_weight: Array, ddof: int = 0, eps: float = 1e-5) -> Array:
    w, v = (np.exp(t) / np.exp(t).sum() for t in (np.asarray(mean_weight), np.asarray(var_weight)))
    mean_in = x.mean(_space(x), keepdims=True)
    var_in = x.var(_space(x), keepdims=True, ddof=ddof)
    means, variances = [mean_in], [var_in]
    for axis in (1, 0):
        mean = mean_in.mean(axis, keepdims=True)
        means.append(mean)
        variances.append((var_in + mean_in**2).mean(axis, keepdims=True) - mean**2)
    mean = sum(a * b for a, b in zip(w, means, strict=True))
    var = sum(a * b for a, b in zip(v, variances, strict=True))
    return (x - mean) / np.sqrt(var + eps)


def power_norm(x: Array, groups: int, eps: float = 1e-5) -> Array:
    if groups:
        parts = x.reshape(len(x), groups, -1, *x.shape[2:])
        x = (parts / np.sqrt((parts**2).mean(2, keepdims=True) + eps)).reshape(x.shape)
    return x / np.sqrt((x**2).mean(_rest(x), keepdims=True) + eps)


def mean_variance_norm(x: Array, axes: int | tuple[int, ...] | None = None, eps: float = 1e-9) -> Array:
    axes = _rest(x) if axes is None else axes
    return (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + eps)


def layer_norm(x: Array, axes: int | tuple[int, ...] | None, eps: float = 1e-5) -> Array:
    return _normal(x, axes, eps)


def instance_norm(x: Array, eps: float = 1e-5) -> Array:
    return _normal(x, _space(x), eps)


def group_norm(x: Array, groups: int, eps: float = 1e-5) -> Array:
    return _normal(x.reshape(len(x), groups, -1), (2,), eps).reshape(x.shape)


def adaptive_instance_norm(x: Array, style: Array, eps: float = 1e-5) -> Array:
    def std(t: Array) -> Array:
        return np.sqrt(t.var(_space(t), keepdims=True, ddof=1) + eps)

    mean = style.mean(_space(style), keepdims=True)
    return std(style) * (x - x.mean(_space(x), keepdims=True)) / std(x) + mean


def rms_norm(x: Array, axes: int | tuple[int, ...] | None, eps: float, outside: bool = False) -> Array:
    square = (x**2).mean(axes, keepdims=True)
    return x / (np.sqrt(square) + eps) if outside else x / np.sqrt(square + eps)


def lp_normalize(x: Array, axis: int, p: float, eps: float = 1e-12) -> Array:
    norm = np.abs(x).max(axis, keepdims=True) if p == math.inf else (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
    return x / np.maximum(norm, eps)


def pixel_norm(x: Array, eps: float = 1e-8) -> Array:
    return x / np.sqrt((x**2).mean(1, keepdims=True) + eps)


def scale_norm(x: Array, scale: float | None = None, eps: float = 1e-5) -> Array:
    scale = math.sqrt(x.shape[1]) if scale is None else scale
    return scale * x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), eps)


def tensor_norm(x: Array, eps: float = 1e-5) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + eps)


def dynamic_tanh(x: Array, alpha: Array | float) -> Array:
    return np.tanh(alpha * x)


def dynamic_erf(x: Array, alpha: float, shift: float) -> Array:
    return np.asarray(np.vectorize(math.erf)(alpha * x + shift))


def adaptive_layer_norm(x: Array, scale: Array, shift: Array, eps: float = 1e-6) -> Array:
    factor, offset = (p.reshape(*(p.shape if p.ndim == 2 else (1, -1)), *[1] * (x.ndim - 2)) for p in (scale, shift))
    return (1 + factor) * _normal(x, 1, eps) + offset


def spatially_adaptive_norm(x: Array, scale: Array, shift: Array, axes: tuple[int, ...]) -> Array:
    return (1 + scale) * _normal(x, axes, 1e-5) + shift


def reversible_instance_norm(x: Array, last: bool) -> Array:
    center = x.reshape(*x.shape[:2], -1)[..., -1].reshape(*x.shape[:2], *[1] * (x.ndim - 2)) if last else 0.0
    std = np.sqrt(x.var(_space(x), keepdims=True) + 1e-5)
    return (x - (center if last else x.mean(_space(x), keepdims=True))) / std


def filter_response_norm(x: Array, tau: Array | float, eps: float = 1e-6) -> Array:
    return np.maximum(x / np.sqrt((x**2).mean(_space(x), keepdims=True) + eps), _c(tau, x))


def evo_norm_s0(x: Array, groups: int, v: Array, eps: float = 1e-5) -> Array:
    var = x.reshape(len(x), groups, -1).var(2)
    root = np.sqrt(np.repeat(var, x.shape[1] // groups, 1) + eps)
    return x / (1 + np.exp(-_c(v, x) * x)) / root.reshape(*root.shape, *([1] * (x.ndim - 2)))


def evo_norm_b0(x: Array, v: Array, eps: float = 1e-5) -> Array:
    batch = np.sqrt(x.var(_rest(x), keepdims=True) + eps)
    own = np.sqrt(x.var(_space(x), keepdims=True) + eps)
    return x / np.maximum(batch, _c(v, x) * x + own)


def global_response_norm(x: Array, weight: Array | float, eps: float = 1e-6) -> Array:
    norm = np.sqrt((x**2).sum(_space(x), keepdims=True))
    return x + _c(weight, x) * x * norm / (norm.mean(1, keepdims=True) + eps)


def local_response_norm(x: Array, below: int, above: int, factor: float, beta: float = 0.75, k: float = 1.0) -> Array:
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        window = x[:, max(c - below, 0) : c + above + 1]
        y[:, c] = x[:, c] * (k + factor * (window**2).sum(1)) ** -beta
    return y


def divisive_norm(x: Array, size: int, eps: float = 1.0) -> Array:
    """Divide by box averages over two axes of space."""

    def box(t: Array) -> Array:
        padded = np.pad(t, ((0, 0), (size // 2,) * 2, (size // 2,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
        return windows.mean((3, 4))

    v = x - box(x.mean(1))[:, None]
    return v / np.sqrt(box((v**2).mean(1))[:, None] + eps)


def whitened(x: Array, groups: int, eps: float = 1e-5, iterations: int | None = None) -> Array:
    y = np.empty_like(x)
    size = x.shape[1] // groups
    for g in range(groups):
        part = np.moveaxis(x[:, g * size : (g + 1) * size], 1, 0)
        flat = part.reshape(size, -1)
        flat = flat - flat.mean(1, keepdims=True)
        sigma = flat @ flat.T / flat.shape[1] + eps * np.eye(size)
        if iterations is None:
            w = np.linalg.inv(_square_root(sigma))
        else:
            s, w = sigma / np.trace(sigma), np.eye(size)
            for _ in range(iterations):
                w = 1.5 * w - 0.5 * np.linalg.matrix_power(w, 3) @ s
            w = w / math.sqrt(np.trace(sigma))
        y[:, g * size : (g + 1) * size] = np.moveaxis((w @ flat).reshape(part.shape), 0, 1)
    return y


def _square_root(matrix: Array) -> Array:
    """Compute the symmetric root by the Denman-Beavers iteration, without eigenvectors."""
    y, z = matrix, np.eye(len(matrix))
    for _ in range(60):
        y, z = (y + np.linalg.inv(z)) / 2, (z + np.linalg.inv(y)) / 2
    return y


def weight_norm(v: Array, g: Array | float = 1.0, centred: bool = False) -> Array:
    rows = v.reshape(len(v), -1)
    rows = rows - rows.mean(1, keepdims=True) if centred else rows
    return (np.reshape(g, (-1, 1)) * rows / np.linalg.norm(rows, axis=1, keepdims=True)).reshape(v.shape)


def weight_standardization(w: Array, variant: str) -> Array:
    rows = w.reshape(len(w), -1)
    z, n = rows - rows.mean(1, keepdims=True), rows.shape[1]
    var = rows.var(1, keepdims=True)
    divisor = {
        "torch": rows.std(1, keepdims=True, ddof=1) + 1e-5,
        "tf": np.sqrt(var) + 1e-5,
        "timm": np.sqrt(var + 1e-6),
        "scaled": np.sqrt(np.maximum(var * n, 1e-4)),
        "scaled-timm": np.sqrt(var + 1e-6) * math.sqrt(n),
    }[variant]
    return (z / divisor).reshape(w.shape)


def cosine_norm(x: Array, weight: Array, centred: bool = False) -> Array:
    if centred:
        x, weight = x - x.mean(-1, keepdims=True), weight - weight.mean(-1, keepdims=True)
    norms = np.linalg.norm(x, axis=-1)[..., None] * np.linalg.norm(weight, axis=-1)
    return np.einsum("...f,kf->...k", x, weight) / np.maximum(norms, 1e-16)


def numerical_vjp(function: Callable[[Array], Array], x: Array, dy: Array, step: float = 1e-6) -> Array:
    """Compute central differences of sum(function(x) * dy)."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        moved = x.copy()
        moved[i] += step
        up = (function(moved) * dy).sum()
        moved[i] -= 2 * step
        gradient[i] = (up - (function(moved) * dy).sum()) / (2 * step)
    return gradient
