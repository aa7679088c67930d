"""Batch renormalization: batch statistics in training, corrected towards the running ones."""

from typing import Any

import numpy as np

from normcli.errors import UsageError
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

STARTS: dict[str, float | Array] = {"running_mean": 0.0, "running_std": 1.0}


def schedule(step: int) -> tuple[float, float]:
    """Give rmax and dmax of the paper at a training step.

    >>> schedule(0), schedule(22500), schedule(90000)
    ((1.0, 0.0), (2.0, 4.375), (3.0, 5.0))
    """
    rmax = 1.0 + 2.0 * min(max(step - 5000, 0) / 35000, 1.0)
    return rmax, 5.0 * min(max(step - 5000, 0) / 20000, 1.0)


def _limits(step: int | None, batches: int, rmax: float | None, dmax: float | None) -> tuple[float, float]:
    """Take the clipping limits that are given, the others from the schedule."""
    if step is not None and step < 0:
        raise UsageError(f"batch_renorm: step must be 0 or more, got {step}")
    if step is not None and rmax is not None and dmax is not None:
        raise UsageError("batch_renorm: step has no effect when rmax and dmax are given: leave one out")
    scheduled = schedule(batches if step is None else step)
    r, d = scheduled[0] if rmax is None else rmax, scheduled[1] if dmax is None else dmax
    if not (r >= 1 and d >= 0):
        raise UsageError(f"batch_renorm: rmax must be 1 or more and dmax 0 or more, got {r} and {d}")
    return r, d


def _correction(
    moments: Moments, old: dict[str, Array], eps: float, rmax: float, dmax: float
) -> tuple[Array, Array, Array]:
    """Give the batch's std, and the clipped factor r and shift d that lead to the running statistics."""
    std = np.sqrt(moments.var + eps)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.clip(std / old["running_std"], 1.0 / rmax, rmax)
        d = np.clip((moments.mean - old["running_mean"]) / old["running_std"], -dmax, dmax)
    return std, r, d


def exact_state(moments: Moments, *, eps: float = 1e-3, **others: Any) -> dict[str, Array]:
    """Give the state that precise statistics over all batches have."""
    return {"running_mean": moments.mean, "running_std": np.sqrt(moments.var + eps)}


@normalizer(state=tuple(STARTS), exact=exact_state)
def batch_renorm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-3,
    update_rate: float = 0.01,
    step: int | None = None,
    rmax: float | None = None,
    dmax: float | None = None,
    dtype: Dtype | None = None,
) -> Normalized:
    """Normalize a batch towards the running statistics, so that training and inference agree.

    Formula:
        std_B = sqrt(var + eps); r = clip(std_B / running_std, 1/rmax, rmax);
        d = clip((mean_B - running_mean) / running_std, -dmax, dmax);
        y = weight * ((x - mean_B) / std_B * r + d) + bias
        Eval mode: y = weight * (x - running_mean) / running_std + bias.
    Paper:
        Ioffe 2017, arXiv 1702.03275, Algorithm 1
    Axes:
        (N, S), one statistic per channel
    State:
        running_mean, running_std (not a variance; eps is inside), num_batches_tracked
    Settings:
        step: training step of the paper's schedule; by default the batches behind the state
        rmax: limit of r; by default the schedule's: 1 until step 5000, then linearly 3 at 40000
        dmax: limit of d; by default the schedule's: 0 until step 5000, then linearly 5 at 25000
    Raises:
        TensorError: fewer than 2 values per channel in training; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0]])
    >>> state = {"running_mean": np.array([1.0]), "running_std": np.array([2.0])}
    >>> batch_renorm(x, state=state, rmax=9.0, dmax=9.0).y.ravel().tolist()  # unclipped: as in eval mode
    [0.0, 1.0]
    """
    name = "batch_renorm"
    view, old, batches, scale, shift = prepare(
        name, x, layout, mode, STARTS, state, weight, bias, eps=eps, update_rate=update_rate
    )
    limits = _limits(step, batches, rmax, dmax)
    with np.errstate(divide="ignore", invalid="ignore"):
        if mode == "eval":
            y = affine(view, old["running_mean"], scale / old["running_std"], shift, dtype)
            return Normalized(y, unchanged(old, batches))
        require_two_values(name, view.samples * view.length)
        moments = channel_moments(view).over(0)
        std, r, d = _correction(moments, old, eps, *limits)
        y = affine(view, moments, scale * r / std, scale * d + shift, dtype)
    new = {"running_mean": moments.mean, "running_std": std}
    return Normalized(y, update_running_stats(old, new, batches, update_rate))


@gradient("batch_renorm")
def batch_renorm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-3,
    step: int | None = None,
    rmax: float | None = None,
    dmax: float | None = None,
) -> dict[str, Array]:
    """Pull dy back through the training mode of batch_renorm; r and d are constants, as in the paper."""
    name = "batch_renorm"
    check_eps(name, eps)
    view, block, g = prepare_vjp(name, x, dy, layout)
    old, batches = load_state(name, state, "train", STARTS, view.rows)
    limits = _limits(step, batches, rmax, dmax)
    gamma = broadcast_channels(per_channel(name, "weight", weight, view, 1.0))
    per_channel(name, "bias", bias, view, 0.0)
    require_two_values(name, view.samples * view.length)
    moments = channel_moments(view).over(0)
    std, r, d = (broadcast_channels(t) for t in _correction(moments, old, eps, *limits))
    normal = (block - broadcast_channels(moments.mean)) / std
    dx = standard_vjp(g * gamma * r, normal, 1.0 / std, (0, 2))
    return {"dx": to_input_layout(view, x, dx), **parameter_gradients(x, g, normal * r + d, weight, bias)}
