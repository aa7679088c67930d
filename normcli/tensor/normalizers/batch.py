"""Batch normalization: statistics over the samples of a batch, one pair for each channel."""

from typing import Any, Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.gradients import (
    batch_vjp,
    broadcast_channels,
    fixed_vjp,
    mean_over,
    parameter_gradients,
    prepare_running_vjp,
    read_completely,
    standard_vjp,
)
from normcli.tensor.normalizers.moments import Moments, affine, channel_moments, normalize_batch
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    InitialState,
    Mode,
    debiased_rate,
    prepare,
    require_two_values,
    update_running_stats,
)
from normcli.tensor.normalizers.views import Array, Dtype, Layout, Tensor

RunningVar = Literal["unbiased", "biased"]

INITIAL: InitialState = {"running_mean": 0.0, "running_var": 1.0}

PRESETS: dict[str, dict[str, Any]] = {
    "torch": {},
    "keras": {"eps": 1e-3, "update_rate": 0.01, "running_var": "biased"},
    "flax": {"update_rate": 0.01, "running_var": "biased"},
    "equinox": {"update_rate": 0.01, "running_var": "biased"},
    "tf": {"eps": 1e-3, "update_rate": 0.01},
    "onnx": {"running_var": "biased"},
    "paper": {"cumulative": True},
}


def batch_statistics(moments: Moments, running_var: str) -> dict[str, Array]:
    """Return the statistics of a batch under the names of the running state."""
    if running_var not in ("unbiased", "biased"):
        raise UsageError(f"running_var must be unbiased or biased, not {running_var!r}")
    return {
        "running_mean": moments.mean,
        "running_var": moments.unbiased if running_var == "unbiased" else moments.var,
    }


def exact_state(moments: Moments, *, running_var: str = "unbiased", **others: Any) -> dict[str, Array]:
    """Return the state of precise statistics over all batches."""
    return batch_statistics(moments, running_var)


HAIKU: dict[str, Any] = {"running_var": "biased", "debiased": True}


@normalizer(family="batch", state=INITIAL, presets=PRESETS | {"haiku": HAIKU}, exact=exact_state)
def batch_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    cumulative: bool = False,
    debiased: bool = False,
    running_var: RunningVar = "unbiased",
    dtype: Dtype | None = None,
) -> Normalized:
    """Normalize each channel by its statistics over the batch.

    Formula:
        y = weight * (x - mean) / sqrt(var + eps) + bias; var is biased.
        Then running = (1 - update_rate) * running + update_rate * batch; eval mode uses the running values.
    Paper:
        Ioffe & Szegedy 2015, arXiv 1502.03167, Algorithms 1 and 2
    Axes:
        (N, S), one statistic per channel
    State:
        running_mean, running_var, num_batches_tracked
    Torch:
        F.batch_norm(x, running_mean, running_var, weight, bias, training=True, momentum=update_rate, eps=eps)
    Settings:
        cumulative: keep the plain mean over all batches, as torch's momentum=None; update_rate is not used
        debiased: leave the initial values out of the moving average (zero debiasing, as in haiku)

    Raises:
        TensorError: fewer than 2 values per channel in training; no state in eval mode.

    >>> import numpy as np
    >>> y, state = batch_norm(np.array([[1.0, 10.0], [3.0, 10.0]]), eps=0.25)
    >>> y.round(4).tolist(), state["running_mean"].tolist(), state["running_var"].tolist()
    ([[-0.8944, 0.0], [0.8944, 0.0]], [0.2, 1.0], [1.1, 0.9])
    """
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, INITIAL)
    if mode == "eval":
        scale = scale / np.sqrt(running["running_var"] + eps)
        return Normalized(affine(view, running["running_mean"], scale, shift, dtype), running.state)
    require_two_values(view.samples * view.length)
    y, moments = normalize_batch(view, scale, shift, eps, dtype)
    rate = debiased_rate(update_rate, running.batches) if debiased else update_rate
    running = update_running_stats(running, batch_statistics(moments, running_var), rate, cumulative)
    return Normalized(y, running.state)


@gradient("batch_norm", "dx", "dweight", "dbias")
def batch_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull the cotangent dy of a batch_norm back to dx, dweight and dbias."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, INITIAL)
    if mode == "eval":
        scale = 1.0 / np.sqrt(running["running_var"] + eps)
        return fixed_vjp(x, vjp, running["running_mean"], scale, weight, bias)
    require_two_values(vjp.view.samples * vjp.view.length)
    moments = channel_moments(vjp.view).over(0)
    dbias, dweight = batch_vjp(vjp, moments, 1.0 / np.sqrt(broadcast_channels(moments.var) + eps))
    return {"dx": vjp.dx, **parameter_gradients(x, (dweight, dbias), weight, bias)}


@normalizer(family="batch", state=INITIAL, presets={k: v for k, v in PRESETS.items() if k != "onnx"}, exact=exact_state)
def ghost_batch_norm(
    x: Tensor,
    *,
    batch: int,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    cumulative: bool = False,
    running_var: RunningVar = "unbiased",
    ghosts: Literal["contiguous", "interleaved"] = "contiguous",
    update: Literal["each", "mean"] = "each",
    dtype: Dtype | None = None,
) -> Normalized:
    """Normalize virtual batches of a large batch, each by its own statistics.

    Formula:
        batch_norm of each ghost of `batch` samples, weight and bias shared
    Paper:
        Hoffer et al. 2017, arXiv 1705.08741
    Axes:
        (batch, S), one statistic per ghost and channel
    State:
        running_mean, running_var, num_batches_tracked
    Torch:
        torch.cat([F.batch_norm(g, None, None, weight, bias, training=True, eps=eps) for g in x.split(batch)])
    Settings:
        batch: samples in a ghost; N must be a multiple of it
        ghosts: contiguous chunks (timm), or sample i in ghost i mod (N / batch) (tf_keras)
        update: one running update per ghost in order (paper), or one with the mean over ghosts (tf_keras)

    Raises:
        TensorError: N is not a multiple of `batch`, or a ghost has fewer than 2 values per channel.

    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0], [10.0], [30.0]])
    >>> ghost_batch_norm(x, batch=2, eps=0.0).y.ravel().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    if update not in ("each", "mean"):
        raise UsageError(f"update must be each or mean, not {update!r}")
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, INITIAL)
    if mode == "eval":
        scale = scale / np.sqrt(running["running_var"] + eps)
        return Normalized(affine(view, running["running_mean"], scale, shift, dtype), running.state)
    members = _ghost_members(view.samples, batch, ghosts)
    require_two_values(batch * view.length)
    count = len(members)
    moments = channel_moments(view).rearrange(lambda table: table[members]).over(1)
    ghost = np.empty(view.samples, np.intp)
    ghost[members] = np.arange(count)[:, None]
    mean = moments.rearrange(lambda table: table[ghost])
    y = affine(view, mean, scale / np.sqrt(mean.var + eps), shift, dtype)
    statistics = batch_statistics(moments, running_var)
    if update == "mean":
        means = {key: values.mean(axis=0) for key, values in statistics.items()}
        return Normalized(y, update_running_stats(running, means, update_rate, cumulative).state)
    for i in range(count):
        one = {key: values[i] for key, values in statistics.items()}
        running = update_running_stats(running, one, update_rate, cumulative)
    return Normalized(y, running.state)


def _ghost_members(samples: int, batch: int, ghosts: str) -> Array:
    """Return the numbers of the samples of each ghost, (N / batch, batch).

    Raises:
        UsageError: an unknown order.
        TensorError: N is not a multiple of `batch`.
    """
    if ghosts not in ("contiguous", "interleaved"):
        raise UsageError(f"ghosts must be contiguous or interleaved, not {ghosts!r}")
    if batch < 1 or samples % batch or not samples:
        raise TensorError(f"N must be a multiple of batch, got N = {samples}, batch = {batch}")
    numbers = np.arange(samples)
    return numbers.reshape(-1, batch) if ghosts == "contiguous" else numbers.reshape(batch, -1).T


@gradient("ghost_batch_norm", "dx", "dweight", "dbias")
def ghost_batch_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    batch: int,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    ghosts: Literal["contiguous", "interleaved"] = "contiguous",
) -> dict[str, Array]:
    """Pull dy back through ghost_batch_norm: dx, dweight, dbias."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, INITIAL)
    if mode == "eval":
        scale = 1.0 / np.sqrt(running["running_var"] + eps)
        return fixed_vjp(x, vjp, running["running_mean"], scale, weight, bias)
    members = _ghost_members(vjp.view.samples, batch, ghosts)
    require_two_values(batch * vjp.view.length)
    values, g = read_completely(vjp)
    dx = np.empty_like(values)
    dweight = np.empty(values.shape[:2])
    for ghost in members:
        z = values[ghost] - mean_over(values[ghost], (0, 2))
        scale = 1.0 / np.sqrt(mean_over((z * z), (0, 2)) + eps)
        gamma = vjp.gamma if len(vjp.gamma) == 1 else vjp.gamma[ghost]
        dx[ghost] = standard_vjp(g[ghost] * gamma, z * scale, scale, (0, 2))
        dweight[ghost] = (g[ghost] * z * scale).sum(axis=2)
    vjp.put(slice(0, len(values)), dx)
    return {"dx": vjp.dx, **parameter_gradients(x, (dweight, g.sum(axis=2)), weight, bias)}
