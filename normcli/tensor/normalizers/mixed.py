"""Mixtures of batch, instance and layer statistics."""

from typing import Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.batch import INITIAL, RunningVar, batch_statistics, exact_state
from normcli.tensor.normalizers.gradients import (
    broadcast_channels,
    mean_over,
    parameter_gradients,
    prepare_running_vjp,
    read_completely,
    standard_vjp,
    sum_to_parameter,
)
from normcli.tensor.normalizers.moments import affine, channel_moments
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    InitialState,
    Mode,
    prepare,
    require_spatial,
    require_two_values,
    update_running_stats,
)
from normcli.tensor.normalizers.views import Array, Dtype, Layout, Tensor, check_parameter, round_to_dtype


def _shares(channels: int, rho: Array | None) -> Array:
    """Return the share of batch normalization of each channel.

    Raises:
        TensorError: outside of 0 to 1.
    """
    share = check_parameter("rho", rho, (channels,))
    share = np.ones(channels) if share is None else share
    if not ((share >= 0) & (share <= 1)).all():
        raise TensorError(f"rho must be 0 to 1, got {share.min():g} to {share.max():g}")
    return share


@normalizer(family="batch", state=INITIAL, exact=exact_state)
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
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, INITIAL)
    share = _shares(view.rows, rho)
    require_spatial(view.length)
    instance = channel_moments(view)
    if mode == "eval":
        mean, var = running["running_mean"], running["running_var"]
    else:
        require_two_values(view.samples * view.length)
        batch = instance.over(0)
        mean, var = batch.mean, batch.var
        running = update_running_stats(running, batch_statistics(batch, running_var), update_rate)
    # around the instance's mean both parts are affine: BN(x) = (x - mean_in) * r_bn + (mean_in - mean) * r_bn
    r_bn = share / np.sqrt(var + eps)
    r_in = (1.0 - share) / np.sqrt(instance.var + eps)
    y = affine(view, instance, scale * (r_bn + r_in), scale * r_bn * (instance.mean - mean) + shift, dtype)
    return Normalized(y, running.state)


def _merge(mean: Array, var: Array, axis: int) -> tuple[Array, Array]:
    """Return mean and biased variance of a table (N, C) merged along an axis, which stays with length 1."""
    merged = mean.mean(axis=axis, keepdims=True)
    return merged, (var + (mean - merged) ** 2).mean(axis=axis, keepdims=True)


def _softmax(what: str, logits: Array | None) -> Array:
    values = check_parameter(what, logits, (3,))
    values = np.ones(3) if values is None else values
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum())


SWITCHABLE_INITIAL: InitialState = {"running_mean": 0.0, "running_var": 0.0}


@normalizer(family="batch", state=SWITCHABLE_INITIAL)
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
        mean_weight: logits (3) of the means, in the order IN, LN, BN [default: ones]
        var_weight: logits (3) of the variances, in the same order [default: ones]
        variance: variance of an instance: biased (the paper) or unbiased (the authors' code; all three inherit it)

    Raises:
        TensorError: fewer than 2 spatial values; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[[1.0, 3.0]], [[5.0, 7.0]]])
    >>> only_instance = np.array([50.0, 0.0, 0.0])
    >>> y = switchable_norm(x, layout="NCL", mean_weight=only_instance, var_weight=only_instance, eps=0.0).y
    >>> y.ravel().round(6).tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    if variance not in ("biased", "unbiased"):
        raise UsageError(f"variance must be biased or unbiased, not {variance!r}")
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, SWITCHABLE_INITIAL)
    w, v = _softmax("mean_weight", mean_weight), _softmax("var_weight", var_weight)
    require_spatial(view.length)
    instance = channel_moments(view)
    var_in = instance.var if variance == "biased" else instance.unbiased
    mean_ln, var_ln = _merge(instance.mean, var_in, 1)
    if mode == "eval":
        mean_bn, var_bn = running["running_mean"], running["running_var"]
    else:
        require_two_values(view.samples * view.length)
        mean_bn, var_bn = _merge(instance.mean, var_in, 0)
        running = update_running_stats(running, {"running_mean": mean_bn[0], "running_var": var_bn[0]}, update_rate)
    mean = w[0] * instance.mean + w[1] * mean_ln + w[2] * mean_bn
    var = v[0] * var_in + v[1] * var_ln + v[2] * var_bn
    return Normalized(affine(view, mean, scale / np.sqrt(var + eps), shift, dtype), running.state)


@gradient("batch_instance_norm", "dx", "dweight", "dbias", "drho")
def batch_instance_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    rho: Array | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through batch_instance_norm: dx, dweight, dbias, drho."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, INITIAL)
    view = vjp.view
    share = broadcast_channels(_shares(view.rows, rho))
    require_spatial(view.length)
    values, g = read_completely(vjp)
    pulled = g * vjp.gamma
    own = values - mean_over(values, 2)
    r_in = 1.0 / np.sqrt(mean_over((own * own), 2) + eps)
    instance = own * r_in
    if mode == "eval":
        mean, var = (broadcast_channels(running[key]) for key in ("running_mean", "running_var"))
        r = 1.0 / np.sqrt(var + eps)
        batch, dx = (values - mean) * r, share * pulled * r
    else:
        z = values - mean_over(values, (0, 2))
        r = 1.0 / np.sqrt(mean_over((z * z), (0, 2)) + eps)
        batch, dx = z * r, standard_vjp(share * pulled, z * r, r, (0, 2))
    vjp.put(slice(0, len(values)), dx + standard_vjp((1.0 - share) * pulled, instance, r_in, (2,)))
    tables = (g * (share * batch + (1.0 - share) * instance)).sum(axis=2), g.sum(axis=2)
    drho = (pulled * (batch - instance)).sum(axis=2)
    return {"dx": vjp.dx, **parameter_gradients(x, tables, weight, bias), "drho": sum_to_parameter(x, drho, rho)}


@gradient("switchable_norm", "dx", "dweight", "dbias", "dmean_weight", "dvar_weight")
def switchable_norm_vjp(
    x: Tensor,
    dy: Tensor,
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
) -> dict[str, Array]:
    """Pull dy back through switchable_norm: dx, dweight, dbias, and those of both logits."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, SWITCHABLE_INITIAL)
    view = vjp.view
    w, v = _softmax("mean_weight", mean_weight), _softmax("var_weight", var_weight)
    require_spatial(view.length)
    values, g = read_completely(vjp)
    mean_in = values.mean(axis=2)
    own = values - mean_in[..., None]
    divided = view.length - (variance == "unbiased")
    var_in = (own * own).sum(axis=2) / divided
    axes = (1,) if mode == "eval" else (1, 0)
    merged = [(mean_in, var_in), *(_merge(mean_in, var_in, axis) for axis in axes)]
    if mode == "eval":
        merged.append((running["running_mean"][None], running["running_var"][None]))
    mean = sum(share * one for share, (one, _) in zip(w, merged, strict=True))
    var = sum(share * one for share, (_, one) in zip(v, merged, strict=True))
    r = 1.0 / np.sqrt(np.asarray(var) + eps)[..., None]
    z = values - np.asarray(mean)[..., None]
    pulled = g * vjp.gamma
    dmean, dvar = -(pulled * r).sum(axis=2), -0.5 * (pulled * z * r**3).sum(axis=2)
    dmean_in, dvar_in = w[0] * dmean, v[0] * dvar
    for axis, k in zip(axes, (1, 2), strict=False):
        count = mean_in.shape[axis]
        total_mean, total_var = (t.sum(axis=axis, keepdims=True) / count for t in (dmean, dvar))
        dmean_in = dmean_in + w[k] * total_mean + 2.0 * v[k] * (mean_in - merged[k][0]) * total_var
        dvar_in = dvar_in + v[k] * total_var
    dx = pulled * r + dmean_in[..., None] / view.length + 2.0 * own * dvar_in[..., None] / divided
    vjp.put(slice(0, len(values)), dx)
    logits = {}
    for key, shares, table, part in (("dmean_weight", w, dmean, 0), ("dvar_weight", v, dvar, 1)):
        slope = np.array([(table * one[part]).sum() for one in merged])
        logits[key] = round_to_dtype(x, shares * (slope - (shares * slope).sum()))
    tables = (g * z * r).sum(axis=2), g.sum(axis=2)
    return {"dx": vjp.dx, **parameter_gradients(x, tables, weight, bias), **logits}
