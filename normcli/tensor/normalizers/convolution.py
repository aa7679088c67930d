"""Normalizers of convolutional networks that need no batch, or more than a batch."""

from typing import Any, Literal

import numpy as np

from normcli.errors import UsageError
from normcli.tensor.normalizers.gradients import (
    broadcast_channels,
    mean_over,
    parameter_gradients,
    prepare_vjp,
    read_completely,
    sum_to_parameter,
)
from normcli.tensor.normalizers.moments import affine, channel_moments
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    InitialState,
    Mode,
    load_state,
    require_two_values,
    update_running_stats,
)
from normcli.tensor.normalizers.views import (
    Array,
    Dtype,
    Layout,
    Tensor,
    channels,
    check_groups,
    check_parameter,
    per_channel,
)


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
    view = channels(x, layout)
    w = per_channel(view, "weight", weight, 1.0)
    b = per_channel(view, "bias", bias, 0.0)
    low = per_channel(view, "tau", tau, 0.0)
    learned = check_parameter("learned_eps", learned_eps, (view.rows,))
    added = eps + (np.zeros(view.rows) if learned is None else np.abs(learned))

    def formula(x: Array, w: Array, b: Array, low: Array, added: Array) -> Array:
        square = (x * x).mean(axis=2, keepdims=True)
        return np.asarray(np.maximum(w * (x / np.sqrt(square + added)) + b, low))

    return view.map_numpy(formula, w, b, low, added, dtype=dtype)


EVO_INITIAL: InitialState = {"running_var": 1.0}


@normalizer(state=EVO_INITIAL)
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
    if variant not in ("S0", "B0"):
        raise UsageError(f"variant must be S0 or B0, not {variant!r}")
    if variant == "B0" and groups is not None:
        raise UsageError("groups cannot be combined with variant B0, which has none")
    if variant == "S0" and (state is not None or mode == "eval"):
        raise UsageError("variant S0 has no running statistics: state and eval mode require variant B0")
    view = channels(x, layout)
    w = per_channel(view, "weight", weight, 1.0)
    b = per_channel(view, "bias", bias, 0.0)
    slope = per_channel(view, "v", v, 1.0)
    instance = channel_moments(view)
    if variant == "S0":
        groups = 32 if groups is None else groups
        check_groups(view.rows, groups)
        root = np.sqrt(np.repeat(instance.groups(groups).var, view.rows // groups, axis=1) + eps)

        def swish(x: Array, w: Array, b: Array, v: Array, root: Array) -> Array:
            return np.asarray(w * (x / (1.0 + np.exp(-(v * x))) / root) + b)

        return Normalized(view.map_numpy(swish, w, b, slope, root, dtype=dtype), {})
    running = load_state(state, mode, EVO_INITIAL, view.rows)
    var = running["running_var"]
    if mode == "train":
        require_two_values(view.samples * view.length)
        batch = instance.over(0)
        var, running = batch.var, update_running_stats(running, {"running_var": batch.unbiased}, update_rate)
    own = np.sqrt(instance.var + eps) if view.length else instance.mean

    def largest(x: Array, w: Array, b: Array, v: Array, root: Array, own: Array) -> Array:
        return np.asarray(w * (x / np.maximum(root, v * x + own)) + b)

    return Normalized(view.map_numpy(largest, w, b, slope, np.sqrt(var + eps), own, dtype=dtype), running.state)


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
    """Scale each channel by its norm relative to the mean norm of all, so that channels compete (GRN).

    Formula:
        G = ||x||_2 over S; y = x + weight * x * G / (mean_C G + eps) + bias; weight and bias start at 0
    Paper:
        Woo et al. 2023, arXiv 2301.00808 (ConvNeXt V2)
    Axes:
        S, then C; one statistic per sample and channel
    Settings:
        weight: scale of the response, (C) or (N, C) [default: 0, where it starts: y = x]
        eps: added to the mean norm

    >>> import numpy as np
    >>> x = np.array([[[3.0], [1.0]]])
    >>> global_response_norm(x, layout="NCL", weight=np.ones(2), eps=0.0).ravel().tolist()
    [7.5, 1.5]
    """
    view = channels(x, layout)
    w = per_channel(view, "weight", weight, 0.0)
    b = per_channel(view, "bias", bias, 0.0)
    norm = np.sqrt(channel_moments(view).square * view.length) if view.length else np.zeros(view.rows)
    ratio = norm / (norm.mean(axis=-1, keepdims=True) + eps)
    return affine(view, 0.0, 1.0 + w * ratio, b, dtype)


@gradient("global_response_norm", "dx", "dweight", "dbias")
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
    vjp = prepare_vjp(x, dy, layout, weight, bias, default=0.0)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        gamma = vjp.weight_at(samples)
        norm = np.sqrt((x * x).sum(axis=2, keepdims=True))
        mean = norm.mean(axis=1, keepdims=True) + eps
        ratio = norm / mean
        a = (g * gamma * x).sum(axis=2, keepdims=True)
        pulled = a / mean - (a * norm).sum(axis=1, keepdims=True) / (x.shape[1] * mean**2)
        unit = x / np.where(norm > 0, norm, 1.0)
        vjp.put(samples, g * (1.0 + gamma * ratio) + pulled * unit)
        return (g * x * ratio).sum(axis=2), g.sum(axis=2)

    dweight, dbias = vjp.pair.tables(2, pull)
    return {"dx": vjp.dx, **parameter_gradients(x, (dweight, dbias), weight, bias)}


@gradient("filter_response_norm", "dx", "dweight", "dbias", "dtau", "dlearned_eps")
def filter_response_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    tau: Array | None = None,
    learned_eps: Array | None = None,
    eps: float = 1e-6,
) -> dict[str, Array]:
    """Pull dy back through filter_response_norm: dx, dweight, dbias, dtau, dlearned_eps."""
    vjp = prepare_vjp(x, dy, layout, weight, bias)
    view = vjp.view
    shift, low = (
        np.broadcast_to(per_channel(view, what, value, 0.0), (view.samples, view.rows))[..., None]
        for what, value in (("bias", bias), ("tau", tau))
    )
    learned = check_parameter("learned_eps", learned_eps, (view.rows,))
    learned = np.zeros(view.rows) if learned is None else learned
    added = (eps + np.abs(learned))[None, :, None]

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, ...]:
        s = np.sqrt((x * x).mean(axis=2, keepdims=True) + added)
        normal, gamma = x / s, vjp.weight_at(samples)
        above = gamma * normal + shift[samples] > low[samples]
        passed = np.where(above, g, 0.0)
        pulled = passed * gamma
        along = (pulled * x).sum(axis=2, keepdims=True) / s**3
        vjp.put(samples, pulled / s - x * along / x.shape[2])
        sums = (passed * normal, passed, g - passed)
        return (*(t.sum(axis=2) for t in sums), -0.5 * along[..., 0] * np.sign(learned))

    dweight, dbias, dtau, dlearned = vjp.pair.tables(4, pull)
    return {
        "dx": vjp.dx,
        **parameter_gradients(x, (dweight, dbias), weight, bias),
        "dtau": sum_to_parameter(x, dtau, tau),
        "dlearned_eps": sum_to_parameter(x, dlearned, learned_eps),
    }


@gradient("evo_norm", "dx", "dweight", "dbias", "dv")
def evo_norm_vjp(
    x: Tensor,
    dy: Tensor,
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
) -> dict[str, Array]:
    """Pull dy back through evo_norm: dx, dweight, dbias, dv."""
    vjp = prepare_vjp(x, dy, layout, weight, bias)
    view = vjp.view
    slope = broadcast_channels(per_channel(view, "v", v, 1.0))
    values, g = read_completely(vjp)
    if variant == "S0":
        dx, normal, dv = _pull_s0(values, g * vjp.gamma, slope, 32 if groups is None else groups, eps)
    elif variant == "B0":
        fixed = None
        if mode == "eval":
            fixed = broadcast_channels(load_state(state, mode, EVO_INITIAL, view.rows)["running_var"])
        else:
            require_two_values(view.samples * view.length)
        dx, normal, dv = _pull_b0(values, g * vjp.gamma, slope, fixed, eps)
    else:
        raise UsageError(f"variant must be S0 or B0, not {variant!r}")
    vjp.put(slice(0, len(values)), dx)
    tables = (g * normal).sum(axis=2), g.sum(axis=2)
    return {"dx": vjp.dx, **parameter_gradients(x, tables, weight, bias), "dv": sum_to_parameter(x, dv, v)}


def _pull_s0(x: Array, g: Array, v: Array, groups: int, eps: float) -> tuple[Array, Array, Array]:
    """Return dx, the normalized x, and the table of dv, for variant S0."""
    check_groups(x.shape[1], groups)
    rows = (len(x), groups, x.shape[1] // groups, x.shape[2])
    z = x.reshape(rows)
    z = z - mean_over(z, (2, 3))
    s = np.sqrt(mean_over((z * z), (2, 3)) + eps)
    gate = 1.0 / (1.0 + np.exp(-(v * x)))
    along = mean_over((g * x * gate).reshape(rows), (2, 3))
    s_all = np.broadcast_to(s, rows).reshape(x.shape)
    dx = g * (gate + x * v * gate * (1.0 - gate)) / s_all - (z * along / s**3).reshape(x.shape)
    return dx, x * gate / s_all, (g * x * x * gate * (1.0 - gate) / s_all).sum(axis=2)


def _pull_b0(x: Array, g: Array, v: Array, fixed: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """Return dx, the normalized x, and the table of dv, for variant B0; `fixed` is the running variance."""
    own, batch = (x - mean_over(x, axes) for axes in ((2,), (0, 2)))
    i = np.sqrt(mean_over((own * own), 2) + eps)
    a = np.sqrt((mean_over((batch * batch), (0, 2)) if fixed is None else fixed) + eps)
    e = v * x + i
    divisor = np.maximum(a, e)
    dd = -g * x / divisor**2
    inner, outer = np.where(e > a, dd, 0.0), np.where(e > a, 0.0, dd)
    dx = g / divisor + inner * v + own * inner.sum(axis=2, keepdims=True) / (i * x.shape[2])
    if fixed is None:
        dx = dx + batch * outer.sum(axis=(0, 2), keepdims=True) / (a * len(x) * x.shape[2])
    return dx, x / divisor, (inner * x).sum(axis=2)
