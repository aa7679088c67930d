"""Normalizers made for convolutional networks that need no batch, or not only one."""

from typing import Any, Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.gradients import broadcast_channels, parameter_gradients, prepare_vjp, to_input_layout
from normcli.tensor.normalizers.moments import affine, channel_moments, check_eps, numbers, per_channel
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    Mode,
    check_rate,
    load_state,
    require_two_values,
    unchanged,
    update_running_stats,
)
from normcli.tensor.normalizers.views import Dtype, Layout, channels


def _entries(parameter: Array, start: int, block: Array) -> Array:
    """Give the part of a parameter (C) or (N, C) that belongs to a block, with the axes of (n, C, S)."""
    return parameter[start : start + len(block), :, None] if parameter.ndim == 2 else parameter[None, :, None]


@normalizer()
def filter_response_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    tau: Array | None = None,
    learned_eps: Array | None = None,
    eps: float = 1e-6,
    dtype: Dtype | None = None,
) -> Any:
    """Divide each channel of each sample by its root mean square, then threshold (FRN with TLU).

    Formula:
        y = max(weight * x / sqrt(mean_S x^2 + eps + |learned_eps|) + bias, tau)
    Paper:
        Singh & Krishnan 2020, arXiv 1911.09737
    Axes:
        S, one statistic per sample and channel
    Settings:
        tau: threshold per channel, (C); -inf leaves it out [default: 0]
        learned_eps: added to eps per channel, (C); needed where S is a single value [default: none]

    >>> import numpy as np
    >>> filter_response_norm(np.array([[[3.0, -4.0]]]), layout="NCL", eps=0.0).round(4).ravel().tolist()
    [0.8485, 0.0]
    """
    name = "filter_response_norm"
    check_eps(name, eps)
    view = channels(name, x, layout)
    w = per_channel(name, "weight", weight, view, 1.0)
    b = per_channel(name, "bias", bias, view, 0.0)
    low = per_channel(name, "tau", tau, view, 0.0)
    more = numbers(name, "learned_eps", learned_eps, (view.rows,))
    total = eps + (np.zeros(view.rows) if more is None else np.abs(more))

    def compute(block: Array, start: int) -> Array:
        square = (block * block).mean(axis=2, keepdims=True)
        y = _entries(w, start, block) * (block / np.sqrt(square + total[:, None])) + _entries(b, start, block)
        return np.asarray(np.maximum(y, _entries(low, start, block)))

    return view.map_numpy(dtype, compute)


EVO_STARTS: dict[str, float | Array] = {"running_var": 1.0}


@normalizer(state=tuple(EVO_STARTS))
def evo_norm(
    x: Tensor,
    *,
    variant: Literal["S0", "B0"] = "S0",
    layout: Layout | None = None,
    groups: int | None = None,
    v: Array | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    dtype: Dtype | None = None,
) -> Normalized:
    """Normalize and activate in one searched formula: S0 by groups, B0 by the batch.

    Formula:
        S0: y = weight * x * sigmoid(v * x) / sqrt(group_var + eps) + bias
        B0: y = weight * x / max(sqrt(batch_var + eps), v * x + sqrt(instance_var + eps)) + bias
        Variances are biased; x itself is not centred. The running variance of B0 is unbiased.
    Paper:
        Liu et al. 2020, arXiv 2004.02967
    Axes:
        (C / groups, S) for S0; (N, S) and S for B0
    State:
        running_var, num_batches_tracked (B0 only; S0 keeps none)
    Settings:
        variant: S0 or B0
        groups: groups of channels, of S0 only [default: 32]
        v: slope per channel, (C) [default: 1]

    Raises:
        TensorError: C is not a multiple of groups; no state in eval mode of B0.

    >>> import numpy as np
    >>> x = np.array([[[-1.0, 1.0]]])
    >>> evo_norm(x, layout="NCL", groups=1, v=np.zeros(1), eps=0.0).y.ravel().tolist()
    [-0.5, 0.5]
    """
    name = "evo_norm"
    check_eps(name, eps)
    check_rate(name, update_rate)
    view = channels(name, x, layout)
    w = per_channel(name, "weight", weight, view, 1.0)
    b = per_channel(name, "bias", bias, view, 0.0)
    slope = per_channel(name, "v", v, view, 1.0)
    one = channel_moments(view)
    if variant == "S0":
        if state is not None or mode == "eval":
            raise UsageError(f"{name}: S0 has no running statistics; state and eval mode belong to B0")
        count = 32 if groups is None else groups
        if count < 1 or view.rows % count:
            raise TensorError(f"{name}: C must be a multiple of groups, got C = {view.rows}, groups = {count}")
        var = np.repeat(one.groups(count).var, view.rows // count, axis=1)
        after: dict[str, Array] = {}
    elif variant == "B0":
        if groups is not None:
            raise UsageError(f"{name}: groups belong to S0, B0 has none")
        old, batches = load_state(name, state, mode, EVO_STARTS, view.rows)
        if mode == "eval":
            var, after = old["running_var"], unchanged(old, batches)
        else:
            require_two_values(name, view.samples * view.length)
            batch = one.over(0)
            var, after = batch.var, update_running_stats(old, {"running_var": batch.unbiased}, batches, update_rate)
    else:
        raise UsageError(f"{name}: variant is S0 or B0, got {variant!r}")
    shared = np.sqrt(var + eps)
    own = np.sqrt(one.var + eps) if view.length else one.mean

    def compute(block: Array, start: int) -> Array:
        vx, root = _entries(slope, start, block) * block, _entries(shared, start, block)
        if variant == "S0":
            normal = block / (1.0 + np.exp(-vx)) / root
        else:
            normal = block / np.maximum(root, vx + _entries(own, start, block))
        return np.asarray(_entries(w, start, block) * normal + _entries(b, start, block))

    return Normalized(view.map_numpy(dtype, compute), after)


@normalizer()
def global_response_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-6,
    dtype: Dtype | None = None,
) -> Any:
    """Let channels compete: scale each by its norm relative to the mean norm of all (GRN).

    Formula:
        G = ||x||_2 over S; y = x + weight * x * G / (mean_C G + eps) + bias; weight and bias start at 0
    Paper:
        Woo et al. 2023, arXiv 2301.00808 (ConvNeXt V2)
    Axes:
        S, then C; one statistic per sample and channel
    Settings:
        weight: (C) or (N, C) [default: 0, where it starts: y = x]
        eps: added to the mean norm

    >>> import numpy as np
    >>> x = np.array([[[3.0], [1.0]]])
    >>> global_response_norm(x, layout="NCL", weight=np.ones(2), eps=0.0).ravel().tolist()
    [7.5, 1.5]
    """
    name = "global_response_norm"
    check_eps(name, eps)
    view = channels(name, x, layout)
    w = per_channel(name, "weight", weight, view, 0.0)
    b = per_channel(name, "bias", bias, view, 0.0)
    norm = np.sqrt(channel_moments(view).square * view.length) if view.length else np.zeros(view.rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = norm / (norm.mean(axis=-1, keepdims=True) + eps)
    return affine(view, 0.0, 1.0 + w * ratio, b, dtype)


@gradient("global_response_norm")
def global_response_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-6,
) -> dict[str, Array]:
    """Pull dy back through global_response_norm: dx, dweight, dbias."""
    name = "global_response_norm"
    check_eps(name, eps)
    view, block, g = prepare_vjp(name, x, dy, layout)
    gamma = broadcast_channels(per_channel(name, "weight", weight, view, 0.0))
    per_channel(name, "bias", bias, view, 0.0)
    norm = np.sqrt((block * block).sum(axis=2, keepdims=True))
    mean = norm.mean(axis=1, keepdims=True) + eps
    ratio = norm / mean
    a = (g * gamma * block).sum(axis=2, keepdims=True)
    pulled = a / mean - (a * norm).sum(axis=1, keepdims=True) / (view.rows * mean**2)
    unit = block / np.where(norm > 0, norm, 1.0)
    dx = g * (1.0 + gamma * ratio) + pulled * unit
    return {"dx": to_input_layout(view, x, dx), **parameter_gradients(x, g, block * ratio, weight, bias)}
