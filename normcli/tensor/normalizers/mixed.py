"""Mixtures of batch, instance and layer statistics."""

from typing import Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.batch import STARTS, RunningVar, batch_statistics, exact_state
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.moments import affine, channel_moments, check_eps, numbers, per_channel
from normcli.tensor.normalizers.registry import Normalized, State, normalizer
from normcli.tensor.normalizers.running import (
    Mode,
    check_rate,
    load_state,
    prepare,
    require_two_values,
    unchanged,
    update_running_stats,
)
from normcli.tensor.normalizers.views import Dtype, Layout, channels


@normalizer(state=tuple(STARTS), exact=exact_state)
def batch_instance_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    rho: Array | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    running_var: RunningVar = "unbiased",
    dtype: Dtype | None = None,
) -> Normalized:
    """Mix batch and instance normalization, each channel by its own share.

    Formula:
        y = weight * (rho * BN(x) + (1 - rho) * IN(x)) + bias; the IN part uses the instance in eval mode too
    Paper:
        Nam & Kim 2018, arXiv 1805.07925
    Axes:
        (N, S) and S, one statistic per channel
    State:
        running_mean, running_var, num_batches_tracked
    Settings:
        rho: share of batch normalization per channel, (C), 0 to 1 [default: 1]

    Raises:
        TensorError: fewer than 2 spatial values; rho outside of 0 to 1; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> batch_instance_norm(x, layout="NCL", rho=np.zeros(1), eps=0.0).y.ravel().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    name = "batch_instance_norm"
    view, old, batches, scale, shift = prepare(
        name, x, layout, mode, STARTS, state, weight, bias, eps=eps, update_rate=update_rate
    )
    share = numbers(name, "rho", rho, (view.rows,))
    share = np.ones(view.rows) if share is None else share
    if not ((share >= 0) & (share <= 1)).all():
        raise TensorError(f"{name}: rho must be 0 to 1, got {share.min():g} to {share.max():g}")
    spatial(name, view.length)
    one = channel_moments(view)
    if mode == "eval":
        mean, var, after = old["running_mean"], old["running_var"], unchanged(old, batches)
    else:
        require_two_values(name, view.samples * view.length)
        batch = one.over(0)
        mean, var = batch.mean, batch.var
        after = update_running_stats(old, batch_statistics(batch, running_var), batches, update_rate)
    # around the instance's mean both parts are affine: BN(x) = (x - mean_in) * r_bn + (mean_in - mean) * r_bn
    with np.errstate(divide="ignore", invalid="ignore"):
        bn = share / np.sqrt(var + eps)
        instance = (1.0 - share) / np.sqrt(one.var + eps)
        y = affine(view, one, scale * (bn + instance), scale * bn * (one.mean - mean) + shift, dtype)
    return Normalized(y, after)


def spatial(name: str, count: int) -> None:
    """Refuse instance statistics of a single value.

    Raises:
        TensorError: fewer than 2 values per sample and channel.
    """
    if count < 2:
        raise TensorError(f"{name}: needs 2 or more values per sample and channel, got {count}")


def _shares(name: str, what: str, logits: Array | None) -> Array:
    given = numbers(name, what, logits, (3,))
    powers = np.exp((np.ones(3) if given is None else given) - (1.0 if given is None else given.max()))
    return np.asarray(powers / powers.sum())


SWITCHABLE_STARTS: dict[str, float | Array] = {"running_mean": 0.0, "running_var": 0.0}


@normalizer(state=tuple(SWITCHABLE_STARTS))
def switchable_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    mean_weight: Array | None = None,
    var_weight: Array | None = None,
    variance: Literal["biased", "unbiased"] = "biased",
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    dtype: Dtype | None = None,
) -> Normalized:
    """Mix instance, layer and batch statistics by two softmaxes, then normalize once.

    Formula:
        y = weight * (x - sum w_k mean_k) / sqrt(sum v_k var_k + eps) + bias, k in (IN, LN, BN),
        w = softmax(mean_weight), v = softmax(var_weight)
    Paper:
        Luo et al. 2018, arXiv 1806.10779
    Axes:
        S, (C, S) and (N, S)
    State:
        running_mean, running_var (of the batch part, both start at 0), num_batches_tracked
    Settings:
        mean_weight: 3 logits of the means, in the order IN, LN, BN [default: ones]
        var_weight: 3 logits of the variances [default: ones]
        variance: of an instance: biased (the paper) or unbiased (the authors' code; all three inherit it)

    Raises:
        TensorError: fewer than 2 spatial values; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> only_instance = np.array([50.0, 0.0, 0.0])
    >>> y = switchable_norm(x, layout="NCL", mean_weight=only_instance, var_weight=only_instance, eps=0.0).y
    >>> y.ravel().round(6).tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    name = "switchable_norm"
    check_eps(name, eps)
    check_rate(name, update_rate)
    if variance not in ("biased", "unbiased"):
        raise UsageError(f"{name}: variance is biased or unbiased, got {variance!r}")
    view = channels(name, x, layout)
    old, batches = load_state(name, state, mode, SWITCHABLE_STARTS, view.rows)
    scale = per_channel(name, "weight", weight, view, 1.0)
    shift = per_channel(name, "bias", bias, view, 0.0)
    w, v = _shares(name, "mean_weight", mean_weight), _shares(name, "var_weight", var_weight)
    spatial(name, view.length)
    one = channel_moments(view)
    var_in = one.var if variance == "biased" else one.unbiased

    def merged(axis: int) -> tuple[Array, Array]:
        mean = one.mean.mean(axis=axis, keepdims=True)
        return mean, (var_in + (one.mean - mean) ** 2).mean(axis=axis, keepdims=True)

    mean_ln, var_ln = merged(1)
    if mode == "eval":
        mean_bn, var_bn, after = old["running_mean"], old["running_var"], unchanged(old, batches)
    else:
        require_two_values(name, view.samples * view.length)
        mean_bn, var_bn = merged(0)
        new = {"running_mean": mean_bn[0], "running_var": var_bn[0]}
        after = update_running_stats(old, new, batches, update_rate)
    mean = w[0] * one.mean + w[1] * mean_ln + w[2] * mean_bn
    with np.errstate(divide="ignore", invalid="ignore"):
        r = scale / np.sqrt(v[0] * var_in + v[1] * var_ln + v[2] * var_bn + eps)
    return Normalized(affine(view, mean, r, shift, dtype), after)
