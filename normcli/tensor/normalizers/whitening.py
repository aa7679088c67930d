"""Whitening: channels are not only scaled but decorrelated."""

from collections.abc import Callable

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.blocks import WORKING_COPIES, Array, Tensor, parallel_blocks
from normcli.tensor.normalizers.moments import channel_moments, check_eps, per_channel
from normcli.tensor.normalizers.registry import Normalized, State, normalizer
from normcli.tensor.normalizers.running import (
    Mode,
    check_rate,
    load_state,
    require_two_values,
    unchanged,
    update_running_stats,
)
from normcli.tensor.normalizers.views import Dtype, Layout, View, channels


def _covariance(view: View, mean: Array, groups: int, eps: float) -> Array:
    """Give (G, D, D): the biased covariance of each group's D channels, with eps on the diagonal."""
    size = view.rows // groups
    parts: dict[int, Array] = {}

    def run(start: int, stop: int) -> None:
        z = (view.block(start, stop).astype(np.float64) - mean[:, None]).reshape(-1, groups, size, view.length)
        parts[start] = np.matmul(z, z.transpose(0, 1, 3, 2)).sum(axis=0)

    parallel_blocks(view.samples, view.sample_bytes, run, copies=WORKING_COPIES)
    total = np.zeros((groups, size, size))
    for start in sorted(parts):  # in the order of the samples, whichever thread was first
        total += parts[start]
    return total / (view.samples * view.length) + eps * np.eye(size)


def _zca(sigma: Array) -> Array:
    values, vectors = np.linalg.eigh(sigma)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((vectors / np.sqrt(values)[:, None, :]) @ vectors.transpose(0, 2, 1))


def _newton(sigma: Array, iterations: int) -> Array:
    trace = np.trace(sigma, axis1=1, axis2=2)[:, None, None]
    step, p = sigma / trace, np.broadcast_to(np.eye(sigma.shape[1]), sigma.shape)
    for _ in range(iterations):
        p = 1.5 * p - 0.5 * (p @ p @ p) @ step
    return np.asarray(p / np.sqrt(trace))


def _whiten(
    name: str,
    x: Tensor,
    layout: str | None,
    groups: int,
    mode: str,
    state: State | None,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    update_rate: float,
    dtype: str | None,
    matrix: Callable[[Array], Array],
) -> Normalized:
    check_eps(name, eps)
    check_rate(name, update_rate)
    view = channels(name, x, layout)
    if groups < 1 or view.rows % groups:
        raise TensorError(f"{name}: C must be a multiple of groups, got C = {view.rows}, groups = {groups}")
    size = view.rows // groups
    start_w = np.broadcast_to(np.eye(size), (groups, size, size))
    starts: dict[str, float | Array] = {"running_mean": 0.0, "running_w": start_w}
    old, batches = load_state(name, state, mode, starts, view.rows)
    scale = per_channel(name, "weight", weight, view, 1.0)
    shift = per_channel(name, "bias", bias, view, 0.0)
    scale, shift = (np.broadcast_to(t, (view.samples, view.rows)) for t in (scale, shift))
    if mode == "eval":
        mean, w, after = old["running_mean"], old["running_w"], unchanged(old, batches)
    else:
        require_two_values(name, view.samples * view.length)
        mean = channel_moments(view).over(0).mean
        sigma = _covariance(view, mean, groups, eps)
        if not np.isfinite(sigma).all():
            raise TensorError(f"{name}: the covariance is not finite: the tensor holds NaN or infinity")
        w = matrix(sigma)
        after = update_running_stats(old, {"running_mean": mean, "running_w": w}, batches, update_rate)

    def compute(block: Array, start: int) -> Array:
        n = len(block)
        y = np.matmul(w, (block - mean[:, None]).reshape(n, groups, size, view.length)).reshape(block.shape)
        return np.asarray(scale[start : start + n, :, None] * y + shift[start : start + n, :, None])

    return Normalized(view.map_numpy(dtype, compute), after)


@normalizer(state=("running_mean", "running_w"))
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
    return _whiten("zca_whitening", x, layout, groups, mode, state, weight, bias, eps, update_rate, dtype, _zca)


@normalizer(state=("running_mean", "running_w"))
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
        y = weight * (P_T / sqrt(tr sigma) Xc) + bias
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
        raise UsageError(f"iter_norm: iterations must be 1 or more, got {iterations}")
    return _whiten(
        "iter_norm",
        x,
        layout,
        groups,
        mode,
        state,
        weight,
        bias,
        eps,
        update_rate,
        dtype,
        lambda sigma: _newton(sigma, iterations),
    )
