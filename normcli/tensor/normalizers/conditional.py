"""Normalization whose scale and shift another network computes: of each sample, or of each element."""

from typing import Any, Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.gradients import (
    broadcast_channels,
    prepare_vjp,
    read_completely,
    standard_vjp,
    sum_to_parameter,
)
from normcli.tensor.normalizers.moments import channel_moments
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.running import require_spatial, require_two_values
from normcli.tensor.normalizers.views import (
    WORKING_COPIES,
    Array,
    Dtype,
    Layout,
    Tensor,
    View,
    channels,
    parallel_blocks,
    per_channel,
)

Over = Literal["batch", "instance"]


def _token_norm(x: Array, eps: float) -> tuple[Array, Array]:
    """Return a block (n, C, S) normalized over its channels at every place, and 1 / std there."""
    z = x - x.mean(axis=1, keepdims=True)
    scale = 1.0 / np.sqrt((z * z).mean(axis=1, keepdims=True) + eps)
    return z * scale, scale


@normalizer(family="layer")
def adaptive_layer_norm(
    x: Tensor,
    scale: Array,
    shift: Array,
    *,
    layout: Layout | None = None,
    eps: float = 1e-6,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize each token by its mean and variance, then scale and shift it by the condition of its sample (AdaLN).

    Formula:
        y = (1 + scale) * (x - mean) / sqrt(var + eps) + shift; var is biased
    Paper:
        Peebles & Xie 2022, arXiv 2212.09748, section 3.2
    Axes:
        C at every place
    Torch:
        F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale[:, None]) + shift[:, None]
    Settings:
        scale: tensor (N, C), which is added to 1; (C) is the same for all samples
        shift: tensor (N, C) or (C)

    >>> import numpy as np
    >>> adaptive_layer_norm(np.array([[1.0, 3.0]]), np.zeros(2), np.array([5.0, 6.0]), eps=0.0).tolist()
    [[4.0, 7.0]]
    """
    view = channels(x, layout)
    factor = 1.0 + per_channel(view, "scale", scale, 0.0)
    offset = per_channel(view, "shift", shift, 0.0)
    return view.map_numpy(lambda x, w, b: _token_norm(x, eps)[0] * w + b, factor, offset, dtype=dtype)


@gradient("adaptive_layer_norm", "dx", "dscale", "dshift")
def adaptive_layer_norm_vjp(
    x: Tensor, scale: Array, shift: Array, dy: Tensor, *, layout: Layout | None = None, eps: float = 1e-6
) -> dict[str, Array]:
    """Pull dy back through adaptive_layer_norm: dx, dscale, dshift."""
    vjp = prepare_vjp(x, dy, layout, 1.0 + np.asarray(scale, np.float64), shift)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        normal, inverse = _token_norm(x, eps)
        vjp.put(samples, standard_vjp(g * vjp.weight_at(samples), normal, inverse, (1,)))
        return (g * normal).sum(axis=2), g.sum(axis=2)

    dscale, dshift = vjp.pair.tables(2, pull)
    return {
        "dx": vjp.dx,
        "dscale": sum_to_parameter(x, dscale, scale),
        "dshift": sum_to_parameter(x, dshift, shift),
    }


def _maps(view: View, layout: str | None, scale: Tensor, shift: Tensor) -> list[View]:
    """Return the views of scale and shift.

    Raises:
        TensorError: one has another shape than the tensor.
    """
    for what, value in (("scale", scale), ("shift", shift)):
        if tuple(value.shape) != view.shape:
            raise TensorError(f"{what} must have the shape of x, {view.shape}, got {tuple(value.shape)}")
    return [channels(value, layout, what) for what, value in (("scale", scale), ("shift", shift))]


def _statistics(view: View, over: str, eps: float) -> tuple[Array, Array]:
    """Return mean and 1 / std of each channel of the batch or of each sample, (1 or N, C, 1).

    Raises:
        UsageError: neither batch nor instance.
    """
    moments = channel_moments(view)
    if over == "batch":
        require_two_values(view.samples * view.length)
        moments = moments.over(0)
    elif over == "instance":
        require_spatial(view.length)
    else:
        raise UsageError(f"over must be batch or instance, not {over!r}")
    return broadcast_channels(moments.mean), broadcast_channels(1.0 / np.sqrt(moments.var + eps))


@normalizer(family="batch")
def spatially_adaptive_norm(
    x: Tensor,
    scale: Array,
    shift: Array,
    *,
    layout: Layout | None = None,
    over: Over = "batch",
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize each channel, then scale and shift every element by maps of the same shape (SPADE).

    Formula:
        y = (1 + scale) * (x - mean) / sqrt(var + eps) + shift; var is biased
    Paper:
        Park et al. 2019, arXiv 1903.07291, section 3
    Axes:
        (N, S) for `over batch`, the paper's; S for `over instance`
    Torch:
        F.batch_norm(x, None, None, training=True, eps=eps) * (1 + scale) + shift
    Settings:
        scale: tensor of the shape of x, which is added to 1
        shift: tensor of the shape of x
        over: batch or instance statistics, without running ones

    Raises:
        TensorError: scale or shift has another shape, or a statistic fewer than 2 values.

    >>> import numpy as np
    >>> x, zeros = np.array([[1.0], [3.0]]), np.zeros((2, 1))
    >>> spatially_adaptive_norm(x, zeros + 1.0, zeros, eps=0.0).ravel().tolist()
    [-2.0, 2.0]
    """
    view = channels(x, layout)
    maps = _maps(view, layout, scale, shift)
    mean, inverse = _statistics(view, over, eps)
    out = view.allocate(dtype)

    def compute_block(start: int, stop: int) -> None:
        block, w, b = (t.block(start, stop).astype(np.float64) for t in (view, *maps))
        center, factor = (t if len(t) == 1 else t[start:stop] for t in (mean, inverse))
        view.put(out, start, stop, (block - center) * factor * (1.0 + w) + b)

    if view.size:
        parallel_blocks(view.samples, view.sample_bytes, compute_block, copies=3 * WORKING_COPIES)
    return out


@gradient("spatially_adaptive_norm", "dx", "dscale", "dshift")
def spatially_adaptive_norm_vjp(
    x: Tensor,
    scale: Array,
    shift: Array,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    over: Over = "batch",
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through spatially_adaptive_norm: dx, dscale, dshift."""
    vjp = prepare_vjp(x, dy, layout)
    maps = _maps(vjp.view, layout, scale, shift)
    mean, inverse = _statistics(vjp.view, over, eps)
    values, g = read_completely(vjp)
    normal = (values - mean) * inverse
    pulled = g * (1.0 + maps[0].block(0, maps[0].samples).astype(np.float64))
    vjp.put(slice(0, len(values)), standard_vjp(pulled, normal, inverse, (0, 2) if over == "batch" else (2,)))
    gradients = {"dx": vjp.dx}
    for key, view, values in (("dscale", maps[0], g * normal), ("dshift", maps[1], g)):
        gradients[key] = view.allocate(None)
        view.put(gradients[key], 0, view.samples, values)
    return gradients
