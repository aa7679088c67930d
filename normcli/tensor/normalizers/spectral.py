"""Weights divided by their largest singular value."""

from typing import Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.gradients import check_cotangent
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import COUNTER, Mode, load_state
from normcli.tensor.normalizers.views import Array, Dtype, Tensor, read_float64, round_to_dtype

Method = Literal["exact", "torch", "keras"]

WARM_UP = 15  # torch's iterations when the layer is made


def _matrix(x: Tensor, dim: int) -> tuple[Array, tuple[int, ...]]:
    w = read_float64(x)
    if w.ndim < 2:
        raise TensorError(f"needs a weight of rank 2 or more, got shape {w.shape}")
    if not 0 <= dim < w.ndim:
        raise UsageError(f"dim must be 0 to {w.ndim - 1}, got {dim}")
    moved = np.moveaxis(w, dim, 0)
    if not moved.size:
        raise TensorError(f"the weight is empty, shape {w.shape}")
    if not np.isfinite(moved).all():
        raise TensorError("the weight has NaN or infinity")
    return moved.reshape(moved.shape[0], -1), moved.shape


def _restore_axes(y: Array, shape: tuple[int, ...], dim: int) -> Array:
    return np.moveaxis(y.reshape(shape), 0, dim)


def _unit(vector: Array, eps: float) -> Array:
    return np.asarray(vector / max(float(np.sqrt(vector @ vector)), eps))


def _sigma(u: Array, w: Array, v: Array) -> float:
    sigma = float(u @ w @ v)
    if sigma == 0:
        raise TensorError("the largest singular value is 0: nothing to divide by")
    return sigma


def _vectors(
    w: Array, method: str, state: State | None, mode: str, iterations: int, eps: float, seed: int
) -> tuple[Array, Array, int]:
    """Return the left and right singular vector, and the number of calls behind them."""
    if method not in ("exact", "torch", "keras"):
        raise UsageError(f"method must be exact, torch or keras, not {method!r}")
    if method == "exact":
        if state is not None or mode == "eval":
            raise UsageError("method exact has no state: state and eval mode require method torch or keras")
        left, _, right = np.linalg.svd(w, full_matrices=False)
        return left[:, 0], right[0], 0
    if iterations < 1:
        raise UsageError(f"iterations must be 1 or more, got {iterations}")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    draw = np.random.Generator(np.random.PCG64(seed))
    u, v = (_unit(np.asarray(draw.standard_normal(n)), eps) for n in w.shape)
    running = load_state(state, mode, {"u": u, "v": v}, 0)
    u, v = running["u"], running["v"]
    steps = (iterations + (WARM_UP if state is None and method == "torch" else 0)) if mode == "train" else 0
    for _ in range(steps):
        if method == "torch":
            u = _unit(w @ v, eps)
            v = _unit(w.T @ u, eps)
        else:
            v = _unit(w.T @ u, eps)
            u = _unit(w @ v, eps)
    return u, v, running.batches


@normalizer(
    family="weight",
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
    w, shape = _matrix(x, dim)
    u, v, calls = _vectors(w, method, state, mode, iterations, eps, seed)
    y = round_to_dtype(x, _restore_axes(w / _sigma(u, w, v), shape, dim), dtype)
    if method == "exact":
        return Normalized(y, {})
    calls += mode == "train"
    return Normalized(y, {"u": u, "v": v, COUNTER: np.array(calls, np.int64)})


@gradient("spectral_norm", "dx")
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
    check_cotangent(x, dy)
    w, shape = _matrix(x, dim)
    g, _ = _matrix(dy, dim)
    u, v, _ = _vectors(w, method, state, mode, iterations, eps, seed)
    sigma = _sigma(u, w, v)
    dw = (g - (g * w).sum() / sigma * np.outer(u, v)) / sigma
    return {"dx": round_to_dtype(x, _restore_axes(dw, shape, dim))}
