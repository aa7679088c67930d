"""Batch normalization: statistics over the samples of a batch, one pair for each channel."""

from typing import Any, Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.gradients import (
    broadcast_channels,
    parameter_gradients,
    prepare_vjp,
    standard_vjp,
    to_input_layout,
)
from normcli.tensor.normalizers.moments import Moments, affine, channel_moments, check_eps, per_channel
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    Mode,
    load_state,
    prepare,
    require_two_values,
    unchanged,
    update_running_stats,
)
from normcli.tensor.normalizers.views import Dtype, Layout

RunningVar = Literal["unbiased", "biased"]

STARTS: dict[str, float | Array] = {"running_mean": 0.0, "running_var": 1.0}

PRESETS: dict[str, dict[str, Any]] = {
    "torch": {},
    "keras": {"eps": 1e-3, "update_rate": 0.01, "running_var": "biased"},
    "flax": {"update_rate": 0.01, "running_var": "biased"},
    "onnx": {"running_var": "biased"},
    "paper": {"cumulative": True},
}


def batch_statistics(moments: Moments, running_var: str) -> dict[str, Array]:
    """Name the statistics of a batch as the running state does."""
    if running_var not in ("unbiased", "biased"):
        raise UsageError(f"running_var is unbiased or biased, got {running_var!r}")
    return {
        "running_mean": moments.mean,
        "running_var": moments.unbiased if running_var == "unbiased" else moments.var,
    }


def exact_state(moments: Moments, *, running_var: str = "unbiased", **others: Any) -> dict[str, Array]:
    """Give the state that precise statistics over all batches have."""
    return batch_statistics(moments, running_var)


@normalizer(state=tuple(STARTS), presets=PRESETS, exact=exact_state)
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
        running_var: what enters the running variance: divided by m - 1 (torch) or by m (Keras, flax, ONNX)

    Raises:
        TensorError: fewer than 2 values per channel in training; no state in eval mode.

    >>> import numpy as np
    >>> y, state = batch_norm(np.array([[1.0, 10.0], [3.0, 10.0]]), eps=0.25)
    >>> y.round(4).tolist(), state["running_mean"].tolist(), state["running_var"].tolist()
    ([[-0.8944, 0.0], [0.8944, 0.0]], [0.2, 1.0], [1.1, 0.9])
    """
    name = "batch_norm"
    view, old, batches, scale, shift = prepare(
        name, x, layout, mode, STARTS, state, weight, bias, eps=eps, update_rate=update_rate
    )
    if mode == "eval":
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = scale / np.sqrt(old["running_var"] + eps)
        return Normalized(affine(view, old["running_mean"], scale, shift, dtype), unchanged(old, batches))
    require_two_values(name, view.samples * view.length)
    moments = channel_moments(view).over(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = scale / np.sqrt(moments.var + eps)
    y = affine(view, moments, scale, shift, dtype)
    return Normalized(
        y, update_running_stats(old, batch_statistics(moments, running_var), batches, update_rate, cumulative)
    )


@gradient("batch_norm")
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
    name = "batch_norm"
    check_eps(name, eps)
    view, block, g = prepare_vjp(name, x, dy, layout)
    old, _ = load_state(name, state, mode, STARTS, view.rows)
    gamma = broadcast_channels(per_channel(name, "weight", weight, view, 1.0))
    per_channel(name, "bias", bias, view, 0.0)
    if mode == "eval":
        scale = 1.0 / np.sqrt(broadcast_channels(old["running_var"]) + eps)
        normal = (block - broadcast_channels(old["running_mean"])) * scale
        dx = g * gamma * scale
    else:
        require_two_values(name, view.samples * view.length)
        moments = channel_moments(view).over(0)
        scale = 1.0 / np.sqrt(broadcast_channels(moments.var) + eps)
        normal = (block - broadcast_channels(moments.mean)) * scale
        dx = standard_vjp(g * gamma, normal, scale, (0, 2))
    return {"dx": to_input_layout(view, x, dx), **parameter_gradients(x, g, normal, weight, bias)}


@normalizer(state=tuple(STARTS), presets={k: v for k, v in PRESETS.items() if k != "onnx"}, exact=exact_state)
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
    name = "ghost_batch_norm"
    view, old, batches, scale, shift = prepare(
        name, x, layout, mode, STARTS, state, weight, bias, eps=eps, update_rate=update_rate
    )
    if mode == "eval":
        scale = scale / np.sqrt(old["running_var"] + eps)
        return Normalized(affine(view, old["running_mean"], scale, shift, dtype), unchanged(old, batches))
    if batch < 1 or view.samples % batch or not view.samples:
        raise TensorError(f"{name}: N must be a multiple of batch, got N = {view.samples}, batch = {batch}")
    require_two_values(name, batch * view.length)
    count = view.samples // batch
    table = channel_moments(view)
    each = np.arange(view.samples).reshape(count, batch)
    if ghosts == "interleaved":
        each = np.arange(view.samples).reshape(batch, count).T
    elif ghosts != "contiguous":
        raise UsageError(f"{name}: ghosts are contiguous or interleaved, got {ghosts!r}")
    moments = table.each(lambda t: t[each]).over(1)
    ghost = np.empty(view.samples, np.intp)
    ghost[each] = np.arange(count)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        y = affine(view, moments.each(lambda t: t[ghost]), scale / np.sqrt(moments.var[ghost] + eps), shift, dtype)
    new = batch_statistics(moments, running_var)
    if update == "mean":
        new = {key: value.mean(axis=0) for key, value in new.items()}
        return Normalized(y, update_running_stats(old, new, batches, update_rate, cumulative))
    if update != "each":
        raise UsageError(f"{name}: update is each or mean, got {update!r}")
    for i in range(count):
        moved = update_running_stats(
            old, {key: value[i] for key, value in new.items()}, batches + i, update_rate, cumulative
        )
        old = {key: moved[key] for key in old}
    return Normalized(y, unchanged(old, batches + count))
