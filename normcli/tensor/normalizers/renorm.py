"""Batch renormalization: batch statistics in training, corrected towards the running ones."""

import math
from typing import Any

import numpy as np

from normcli.errors import UsageError
from normcli.tensor.normalizers.gradients import (
    batch_vjp,
    broadcast_channels,
    fixed_vjp,
    parameter_gradients,
    prepare_running_vjp,
)
from normcli.tensor.normalizers.moments import Moments, affine, channel_moments
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    InitialState,
    Mode,
    RunningStats,
    prepare,
    require_two_values,
    update_running_stats,
)
from normcli.tensor.normalizers.views import Array, Dtype, Layout, Tensor

INITIAL: InitialState = {"running_mean": 0.0, "running_std": 1.0}


def schedule(step: int) -> tuple[float, float]:
    """Return rmax and dmax of the paper at a training step.

    >>> schedule(0), schedule(22500), schedule(90000)
    ((1.0, 0.0), (2.0, 4.375), (3.0, 5.0))
    """
    rmax = 1.0 + 2.0 * min(max(step - 5000, 0) / 35000, 1.0)
    return rmax, 5.0 * min(max(step - 5000, 0) / 20000, 1.0)


def _limits(
    step: int | None, batches: int, rmin: float | None, rmax: float | None, dmax: float | None
) -> tuple[float, float, float]:
    """Return the clipping limits rmin, rmax and dmax; those that are None follow the schedule."""
    if step is not None and step < 0:
        raise UsageError(f"step must be 0 or more, got {step}")
    if step is not None and rmax is not None and dmax is not None:
        raise UsageError("step has no effect when rmax and dmax are set (leave one out)")
    scheduled = schedule(batches if step is None else step)
    r, d = scheduled[0] if rmax is None else rmax, scheduled[1] if dmax is None else dmax
    if not (r >= 1 and d >= 0):
        raise UsageError(f"rmax must be 1 or more and dmax 0 or more, got {r} and {d}")
    if rmin is not None and not 0 <= rmin <= 1:
        raise UsageError(f"rmin must be 0 to 1, got {rmin}")
    return 1.0 / r if rmin is None else rmin, r, d


def _correction(
    moments: Moments, running: RunningStats, eps: float, rmin: float, rmax: float, dmax: float
) -> tuple[Array, Array, Array]:
    """Return the batch's std, and the clipped factor r and shift d that lead to the running statistics."""
    std = np.sqrt(moments.var + eps)
    r = np.clip(std / running["running_std"], rmin, rmax)
    d = np.clip((moments.mean - running["running_mean"]) / running["running_std"], -dmax, dmax)
    return std, r, d


def exact_state(moments: Moments, *, eps: float = 1e-3, **others: Any) -> dict[str, Array]:
    """Return the state of precise statistics over all batches."""
    return {"running_mean": moments.mean, "running_std": np.sqrt(moments.var + eps)}


# BatchNormalization(renorm=True) clips nothing unless it is told, with renorm_momentum = momentum = 0.99
PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "keras": {"rmin": 0.0, "rmax": math.inf, "dmax": math.inf}}


@normalizer(family="batch", state=INITIAL, presets=PRESETS, exact=exact_state)
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
    rmin: float | None = None,
    rmax: float | None = None,
    dmax: float | None = None,
    dtype: Dtype | None = None,
) -> Normalized:
    """Normalize a batch towards the running statistics, so that training and inference agree.

    Formula:
        std_B = sqrt(var + eps); r = clip(std_B / running_std, rmin, rmax), rmin = 1/rmax;
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
        rmin: lower limit of r [default: 1 / rmax]
        rmax: upper limit of r; by default the schedule's: 1 until step 5000, then linearly 3 at 40000
        dmax: limit of d; by default the schedule's: 0 until step 5000, then linearly 5 at 25000
    Raises:
        TensorError: fewer than 2 values per channel in training; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0]])
    >>> state = {"running_mean": np.array([1.0]), "running_std": np.array([2.0])}
    >>> batch_renorm(x, state=state, rmax=9.0, dmax=9.0).y.ravel().tolist()  # unclipped: as in eval mode
    [0.0, 1.0]
    """
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, INITIAL)
    limits = _limits(step, running.batches, rmin, rmax, dmax)
    if mode == "eval":
        y = affine(view, running["running_mean"], scale / running["running_std"], shift, dtype)
        return Normalized(y, running.state)
    require_two_values(view.samples * view.length)
    moments = channel_moments(view).over(0)
    std, r, d = _correction(moments, running, eps, *limits)
    y = affine(view, moments, scale * r / std, scale * d + shift, dtype)
    batch = {"running_mean": moments.mean, "running_std": std}
    return Normalized(y, update_running_stats(running, batch, update_rate).state)


@gradient("batch_renorm", "dx", "dweight", "dbias")
def batch_renorm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-3,
    step: int | None = None,
    rmin: float | None = None,
    rmax: float | None = None,
    dmax: float | None = None,
) -> dict[str, Array]:
    """Pull dy back through batch_renorm; in training r and d are constants, as in the paper."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, INITIAL)
    view = vjp.view
    limits = _limits(step, running.batches, rmin, rmax, dmax)
    if mode == "eval":
        return fixed_vjp(x, vjp, running["running_mean"], 1.0 / running["running_std"], weight, bias)
    require_two_values(view.samples * view.length)
    moments = channel_moments(view).over(0)
    std, r, d = _correction(moments, running, eps, *limits)
    dbias, along = batch_vjp(vjp, moments, 1.0 / broadcast_channels(std), broadcast_channels(r))
    return {"dx": vjp.dx, **parameter_gradients(x, (along * r + dbias * d, dbias), weight, bias)}
