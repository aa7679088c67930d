"""Weights divided by their largest singular value."""

from typing import Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.gradients import cotangent
from normcli.tensor.normalizers.moments import check_eps, float64, round_to_dtype
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import COUNTER, Mode, load_state
from normcli.tensor.normalizers.views import Dtype

Method = Literal["exact", "torch", "keras"]

WARM_UP = 15  # torch's iterations when the layer is made


def _matrix(name: str, x: Tensor, dim: int) -> tuple[Array, tuple[int, ...]]:
    w = float64(x, name)
    if w.ndim < 2:
        raise TensorError(f"{name}: needs a weight of rank 2 or more, got shape {w.shape}")
    if not 0 <= dim < w.ndim:
        raise UsageError(f"{name}: dim must be 0 to {w.ndim - 1}, got {dim}")
    moved = np.moveaxis(w, dim, 0)
    if not moved.size:
        raise TensorError(f"{name}: the weight is empty, shape {w.shape}")
    if not np.isfinite(moved).all():
        raise TensorError(f"{name}: the weight holds NaN or infinity")
    return moved.reshape(moved.shape[0], -1), moved.shape


def _back(y: Array, shape: tuple[int, ...], dim: int) -> Array:
    return np.moveaxis(y.reshape(shape), 0, dim)


def _unit(vector: Array, eps: float) -> Array:
    return np.asarray(vector / max(float(np.sqrt(vector @ vector)), eps))


def _vectors(
    name: str, w: Array, method: str, state: State | None, mode: str, iterations: int, eps: float, seed: int
) -> tuple[Array, Array, int]:
    """Give the left and right vector that sigma is taken with, and the number of calls."""
    if method not in ("exact", "torch", "keras"):
        raise UsageError(f"{name}: method is exact, torch or keras, got {method!r}")
    if method == "exact":
        if state is not None or mode == "eval":
            raise UsageError(f"{name}: exact has no state; state and eval mode belong to the power iteration")
        left, _, right = np.linalg.svd(w, full_matrices=False)
        return left[:, 0], right[0], 0
    if iterations < 1:
        raise UsageError(f"{name}: iterations must be 1 or more, got {iterations}")
    if seed < 0:
        raise UsageError(f"{name}: seed must be 0 or more, got {seed}")
    draw = np.random.Generator(np.random.PCG64(seed))
    u, v = (_unit(np.asarray(draw.standard_normal(n)), eps) for n in w.shape)
    old, calls = load_state(name, state, mode, {"u": u, "v": v}, 0)
    u, v = old["u"], old["v"]
    turns = (iterations + (WARM_UP if state is None and method == "torch" else 0)) if mode == "train" else 0
    for _ in range(turns):
        if method == "torch":
            u = _unit(w @ v, eps)
            v = _unit(w.T @ u, eps)
        else:
            v = _unit(w.T @ u, eps)
            u = _unit(w @ v, eps)
    return u, v, calls


@normalizer(
    state=("u", "v"),
    presets={"torch": {"method": "torch"}, "keras": {"method": "keras", "dim": "last"}, "paper": {}},
)
def spectral_norm(
    x: Tensor,
    *,
    dim: int = 0,
    method: Method = "exact",
    iterations: int = 1,
    mode: Mode = "train",
    state: State | None = None,
    eps: float = 1e-12,
    seed: int = 0,
    dtype: Dtype | None = None,
) -> Normalized:
    """Divide a weight by its largest singular value, exact or by power iteration.

    Formula:
        y = W / sigma. exact: sigma by SVD, the limit of the others.
        torch: u = unit(W v), v = unit(W^T u); keras (also flax, haiku): v first; sigma = u^T W v
    Paper:
        Miyato et al. 2018, arXiv 1802.05957, section 2.1
    Axes:
        all: the weight as a matrix (dim, rest)
    State:
        u, v, num_batches_tracked (the power iterations only; exact keeps none)
    Torch:
        torch.nn.utils.parametrizations.spectral_norm(module, dim=dim)
    Settings:
        dim: axis of the output units: 0 in torch, the last in Keras and flax
        method: exact, or the order of the power iteration; torch makes 15 more steps without a state
        iterations: steps a call
        eps: smallest length that a vector is divided by
        seed: start of u and v without a state
    Raises:
        TensorError: a weight of rank 1, of zeros, or not finite; no state in eval mode.

    >>> import numpy as np
    >>> spectral_norm(np.diag([4.0, 2.0])).y.tolist()
    [[1.0, 0.0], [0.0, 0.5]]
    """
    name = "spectral_norm"
    check_eps(name, eps)
    w, shape = _matrix(name, x, dim)
    u, v, calls = _vectors(name, w, method, state, mode, iterations, eps, seed)
    sigma = float(u @ w @ v)
    if sigma == 0:
        raise TensorError(f"{name}: the largest singular value is 0: nothing to divide by")
    y = round_to_dtype(x, _back(w / sigma, shape, dim), dtype)
    if method == "exact":
        return Normalized(y, {})
    calls += mode == "train"
    return Normalized(y, {"u": u, "v": v, COUNTER: np.array(calls, np.int64)})


@gradient("spectral_norm")
def spectral_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    dim: int = 0,
    method: Method = "exact",
    iterations: int = 1,
    mode: Mode = "train",
    state: State | None = None,
    eps: float = 1e-12,
    seed: int = 0,
) -> dict[str, Array]:
    """Pull dy back through spectral_norm with u and v fixed: dx."""
    name = "spectral_norm"
    check_eps(name, eps)
    cotangent(name, x, dy)
    w, shape = _matrix(name, x, dim)
    g, _ = _matrix(name, dy, dim)
    u, v, _ = _vectors(name, w, method, state, mode, iterations, eps, seed)
    sigma = float(u @ w @ v)
    if sigma == 0:
        raise TensorError(f"{name}: the largest singular value is 0: nothing to divide by")
    dw = (g - (g * w).sum() / sigma * np.outer(u, v)) / sigma
    return {"dx": round_to_dtype(x, _back(dw, shape, dim))}
