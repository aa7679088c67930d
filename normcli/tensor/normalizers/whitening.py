"""Whitening: channels are not only scaled but decorrelated."""

from collections.abc import Callable

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.gradients import (
    ChannelVjp,
    mean_over,
    parameter_gradients,
    prepare_running_vjp,
    read_completely,
)
from normcli.tensor.normalizers.moments import channel_moments
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    InitialState,
    Mode,
    Prepared,
    RunningStats,
    prepare,
    require_two_values,
    update_running_stats,
)
from normcli.tensor.normalizers.views import (
    WORKING_COPIES,
    Array,
    Dtype,
    Layout,
    Tensor,
    View,
    check_groups,
    parallel_blocks,
)


def _covariance(view: View, mean: Array, groups: int, eps: float) -> Array:
    """Return (G, D, D): the biased covariance of each group's D channels, with eps on the diagonal."""
    size = view.rows // groups
    parts: dict[int, Array] = {}

    def compute_block(start: int, stop: int) -> None:
        z = (view.block(start, stop).astype(np.float64) - mean[:, None]).reshape(-1, groups, size, view.length)
        parts[start] = np.matmul(z, z.transpose(0, 1, 3, 2)).sum(axis=0)

    parallel_blocks(view.samples, view.sample_bytes, compute_block, copies=WORKING_COPIES)
    total = np.zeros((groups, size, size))
    for start in sorted(parts):  # in the order of the samples, whichever thread was first
        total += parts[start]
    sigma = total / (view.samples * view.length) + eps * np.eye(size)
    if not np.isfinite(sigma).all():
        raise TensorError("the covariance is not finite: the tensor has NaN or infinity")
    return np.asarray(sigma)


def _zca(sigma: Array) -> Array:
    values, vectors = np.linalg.eigh(sigma)
    return np.asarray((vectors / np.sqrt(values)[:, None, :]) @ vectors.transpose(0, 2, 1))


def _newton(sigma: Array, iterations: int) -> Array:
    """Return P_T / sqrt(tr sigma), by the coupled form of the paper's iteration: the same P_T, and stable.

    The paper's own form, P = 1.5 P - 0.5 P^3 S, amplifies rounding: on 8 channels it was 4e5 off ZCA at T = 15 and
    NaN at 30.
    """
    trace = np.trace(sigma, axis1=1, axis2=2)[:, None, None]
    identity = np.eye(sigma.shape[1])
    y, z = sigma / trace, np.broadcast_to(identity, sigma.shape)  # they tend to S^(1/2) and S^(-1/2)
    for _ in range(iterations):
        m = 1.5 * identity - 0.5 * (z @ y)
        y, z = y @ m, m @ z
    return np.asarray(z / np.sqrt(trace))


def _initial(groups: int) -> InitialState:
    """Return the statistics before the first batch: means of 0, and an identity matrix for each group."""

    def identities(channels: int) -> Array:
        check_groups(channels, groups)
        size = channels // groups
        return np.broadcast_to(np.eye(size), (groups, size, size))

    return {"running_mean": 0.0, "running_w": identities}


def _whiten(
    prepared: Prepared,
    groups: int,
    mode: str,
    eps: float,
    update_rate: float,
    dtype: str | None,
    inverse_root: Callable[[Array], Array],
) -> Normalized:
    """Multiply the centered channels of each group by the inverse root of their covariance."""
    view, running, scale, shift = prepared
    if mode == "eval":
        mean, w = running["running_mean"], running["running_w"]
    else:
        require_two_values(view.samples * view.length)
        mean = channel_moments(view).over(0).mean
        w = inverse_root(_covariance(view, mean, groups, eps))
        running = update_running_stats(running, {"running_mean": mean, "running_w": w}, update_rate)
    shape = (-1, groups, view.rows // groups, view.length)

    def formula(x: Array, scale: Array, shift: Array) -> Array:
        return np.asarray(scale * np.matmul(w, (x - mean[:, None]).reshape(shape)).reshape(x.shape) + shift)

    return Normalized(view.map_numpy(formula, scale, shift, dtype=dtype), running.state)


@normalizer(family="batch", state=("running_mean", "running_w"))
def zca_whitening(
    x: Tensor,
    *,
    layout: Layout | None = None,
    groups: int = 1,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    dtype: Dtype | None = None,
) -> Normalized:
    """Decorrelate the channels of each group, turning them as little as possible (ZCA, decorrelated BN).

    Formula:
        sigma = Xc Xc^T / m + eps * I = U diag(l) U^T; y = weight * (U diag(1/sqrt l) U^T Xc) + bias
    Paper:
        Huang et al. 2018, arXiv 1804.08450
    Axes:
        (N, S), one matrix per group of channels
    State:
        running_mean, running_w (the matrix), num_batches_tracked
    Settings:
        groups: groups of channels, each whitened alone
        eps: added to the diagonal of the covariance
    Raises:
        TensorError: C is not a multiple of groups; NaN or infinity; no state in eval mode.

    >>> import numpy as np
    >>> y = zca_whitening(np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) @ [[2, 1], [0, 1]]).y
    >>> np.allclose(y.T @ y / 4, np.eye(2), atol=1e-4)
    True
    """
    prepared = prepare(x, layout, weight, bias, state, mode, _initial(groups))
    return _whiten(prepared, groups, mode, eps, update_rate, dtype, _zca)


@normalizer(family="batch", state=("running_mean", "running_w"))
def iter_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    groups: int = 1,
    iterations: int = 5,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    dtype: Dtype | None = None,
) -> Normalized:
    """Whiten by a few Newton steps in place of an eigendecomposition; tends to ZCA with more of them.

    Formula:
        S = sigma / tr(sigma), P_0 = I, P_k = 1.5 P_(k-1) - 0.5 P_(k-1)^3 S;
        y = weight * (P_T / sqrt(tr sigma) Xc) + bias; P_T by the coupled form, which stays at ZCA for a large T
    Paper:
        Huang et al. 2019, arXiv 1904.03441
    Axes:
        (N, S), one matrix per group of channels
    State:
        running_mean, running_w (the matrix), num_batches_tracked
    Settings:
        groups: groups of channels, each whitened alone
        iterations: Newton steps, T
        eps: added to the diagonal of the covariance
    Raises:
        TensorError: C is not a multiple of groups; NaN or infinity; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) @ [[2, 1], [0, 1]]
    >>> np.allclose(iter_norm(x, iterations=20).y, zca_whitening(x).y)
    True
    """
    if iterations < 1:
        raise UsageError(f"iterations must be 1 or more, got {iterations}")
    prepared = prepare(x, layout, weight, bias, state, mode, _initial(groups))
    return _whiten(prepared, groups, mode, eps, update_rate, dtype, lambda sigma: _newton(sigma, iterations))


def _zca_vjp(sigma: Array, dw: Array) -> Array:
    """Return the gradient of sigma for that of sigma^(-1/2), by divided differences of the eigenvalues."""
    values, vectors = np.linalg.eigh(sigma)
    root = np.sqrt(values)
    rows, columns = root[:, :, None], root[:, None, :]
    differences = -1.0 / (rows * columns * (rows + columns))
    turned = vectors.transpose(0, 2, 1) @ dw @ vectors
    return np.asarray(vectors @ (differences * turned) @ vectors.transpose(0, 2, 1))


def _newton_vjp(sigma: Array, dw: Array, iterations: int) -> Array:
    """Return the gradient of sigma for that of `_newton`, by going back through its steps."""
    trace = np.trace(sigma, axis1=1, axis2=2)[:, None, None]
    identity = np.eye(sigma.shape[1])
    y, z = sigma / trace, np.broadcast_to(identity, sigma.shape)
    steps = []
    for _ in range(iterations):
        m = 1.5 * identity - 0.5 * (z @ y)
        steps.append((y, z, m))
        y, z = y @ m, m @ z
    dtrace = (dw * z).sum(axis=(1, 2), keepdims=True) * -0.5 * trace**-1.5
    dy, dz = np.zeros_like(sigma), dw / np.sqrt(trace)
    for y, z, m in reversed(steps):
        y_t, z_t, m_t = (t.transpose(0, 2, 1) for t in (y, z, m))
        dm = y_t @ dy + dz @ z_t
        dy, dz = dy @ m_t - 0.5 * z_t @ dm, m_t @ dz - 0.5 * dm @ y_t
    dtrace = dtrace - (dy * sigma).sum(axis=(1, 2), keepdims=True) / trace**2
    return np.asarray(dy / trace + dtrace * identity)


def _whiten_vjp(
    x: Tensor,
    vjp: ChannelVjp,
    groups: int,
    fixed: RunningStats | None,
    eps: float,
    roots: tuple[Callable[[Array], Array], Callable[[Array, Array], Array]],
) -> tuple[Array, Array]:
    """Write dx of whitening; return the tables of dweight and dbias.

    Args:
        x: the tensor.
        vjp: the arguments.
        groups: groups of channels.
        fixed: running statistics in eval mode, None in training.
        eps: added to the diagonal of the covariance.
        roots: the inverse root of a covariance, and its vjp.
    """
    view = vjp.view
    check_groups(view.rows, groups)
    values, g = read_completely(vjp)
    shape = (-1, groups, view.rows // groups, view.length)
    pulled = (g * vjp.gamma).reshape(shape)
    if fixed is None:
        require_two_values(view.samples * view.length)
        mean = channel_moments(view).over(0).mean
        sigma = _covariance(view, mean, groups, eps)
        w = roots[0](sigma)
    else:
        mean, w = fixed["running_mean"], fixed["running_w"]
    z = (values - mean[:, None]).reshape(shape)
    dz = np.matmul(w.transpose(0, 2, 1), pulled)
    if fixed is None:
        dsigma = roots[1](sigma, np.matmul(pulled, z.transpose(0, 1, 3, 2)).sum(axis=0))
        dz = dz + np.matmul(dsigma + dsigma.transpose(0, 2, 1), z) / (view.samples * view.length)
        dz = dz - mean_over(dz, (0, 3))
    vjp.put(slice(0, len(values)), dz.reshape(values.shape))
    normal = np.matmul(w, z).reshape(values.shape)
    return (g * normal).sum(axis=2), g.sum(axis=2)


@gradient("zca_whitening", "dx", "dweight", "dbias")
def zca_whitening_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    groups: int = 1,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through zca_whitening: dx, dweight, dbias."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, _initial(groups))
    fixed = running if mode == "eval" else None
    tables = _whiten_vjp(x, vjp, groups, fixed, eps, (_zca, _zca_vjp))
    return {"dx": vjp.dx, **parameter_gradients(x, tables, weight, bias)}


@gradient("iter_norm", "dx", "dweight", "dbias")
def iter_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    groups: int = 1,
    iterations: int = 5,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through iter_norm, step by step: dx, dweight, dbias."""
    if iterations < 1:
        raise UsageError(f"iterations must be 1 or more, got {iterations}")
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, _initial(groups))
    fixed = running if mode == "eval" else None
    roots = (lambda sigma: _newton(sigma, iterations)), (lambda sigma, dw: _newton_vjp(sigma, dw, iterations))
    tables = _whiten_vjp(x, vjp, groups, fixed, eps, roots)
    return {"dx": vjp.dx, **parameter_gradients(x, tables, weight, bias)}
