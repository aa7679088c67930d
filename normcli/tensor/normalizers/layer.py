"""Statistics of each sample alone: layer, instance, group and adaptive instance normalization."""

from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers.axes import Axes, parameters, reduce_to_parameter, reduced
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.gradients import (
    broadcast_channels,
    cotangent,
    parameter_gradients,
    prepare_vjp,
    standard_vjp,
    to_input_layout,
)
from normcli.tensor.normalizers.mixed import spatial
from normcli.tensor.normalizers.moments import (
    affine,
    channel_moments,
    check_eps,
    float64,
    normalize,
    per_channel,
    round_to_dtype,
)
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.views import Dtype, Layout, View, channels, tokens


@normalizer(
    presets={"torch": {}, "keras": {"eps": 1e-3}, "flax": {"eps": 1e-6}, "onnx": {}, "paper": {}},
)
def layer_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize each sample, or each token, by its own mean and variance.

    Formula:
        y = weight * (x - mean) / sqrt(var + eps) + bias; var is biased
    Paper:
        Ba et al. 2016, arXiv 1607.06450, section 3
    Axes:
        `token`: C at every place; `image`: C and all of S; or numbers such as -1 or 2,3.
        weight and bias have the shape of those axes; (C) serves for `image` too (Wu & He).
    Torch:
        F.layer_norm(x, x.shape[-k:], weight, bias, eps) for the last k axes
    Settings:
        axes: token, image, or axis numbers; token for NC and NTC, to be said for images
    Raises:
        UsageError: axes not given for an image layout.

    >>> import numpy as np
    >>> layer_norm(np.array([[1.0, 2.0, 3.0]]), eps=0.0).round(4).tolist()
    [[-1.2247, 0.0, 1.2247]]
    """
    name = "layer_norm"
    check_eps(name, eps)
    over = reduced(name, x, layout, axes)
    view = tokens(name, x, over)
    w = parameters(name, "weight", weight, x, over, axes)
    b = parameters(name, "bias", bias, x, over, axes)
    return normalize(view, groups=view.rows, weight=w, bias=b, eps=eps, dtype=dtype)


@gradient("layer_norm")
def layer_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through layer_norm: dx, and dweight and dbias in the shape of weight."""
    name = "layer_norm"
    check_eps(name, eps)
    cotangent(name, x, dy)
    over = reduced(name, x, layout, axes)
    w = parameters(name, "weight", weight, x, over, axes)
    parameters(name, "bias", bias, x, over, axes)
    view = tokens(name, float64(x, name), over)
    block = view.block(0, view.samples)
    other = tokens(name, float64(dy, name), over)
    g = other.block(0, other.samples)
    mean = block.mean(axis=2, keepdims=True)
    scale = 1.0 / np.sqrt(((block - mean) ** 2).mean(axis=2, keepdims=True) + eps)
    normal = (block - mean) * scale
    factor = 1.0 if w is None else np.repeat(w.ravel(), view.length // w.size)
    dx = standard_vjp(g * factor, normal, scale, (2,))
    made = {"dx": to_input_layout(view, x, dx)}
    for key, values in (("dweight", g * normal), ("dbias", g)):
        made[key] = round_to_dtype(
            x, reduce_to_parameter(values.sum(axis=(0, 1)), x, over, 0 if weight is None else np.ndim(weight))
        )
    return made


def _table(name: str, what: str, given: Array | None, view: View, groups: int) -> Array | None:
    """Give a parameter (C) or (N, C) as rows of one group each."""
    return None if given is None else per_channel(name, what, given, view, 0.0).reshape(-1, view.rows // groups)


@normalizer(presets={"torch": {}, "keras": {"eps": 1e-3}, "flax": {"eps": 1e-6}, "onnx": {}, "paper": {}})
def instance_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize each channel of each sample by its own mean and variance.

    Formula:
        y = weight * (x - mean) / sqrt(var + eps) + bias; var is biased
    Paper:
        Ulyanov et al. 2016, arXiv 1607.08022
    Axes:
        S, one statistic per sample and channel
    Torch:
        F.instance_norm(x, weight=weight, bias=bias, eps=eps)

    Raises:
        TensorError: fewer than 2 spatial values.

    >>> import numpy as np
    >>> instance_norm(np.array([[[1.0, 3.0], [10.0, 50.0]]]), layout="NCL", eps=0.0).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    return _grouped("instance_norm", x, layout, None, weight, bias, eps, dtype)


def _groups(name: str, channels: int, groups: int) -> int:
    if groups < 1 or channels % groups:
        raise TensorError(f"{name}: C must be a multiple of groups, got C = {channels}, groups = {groups}")
    return groups


def _grouped(
    name: str,
    x: Tensor,
    layout: str | None,
    groups: int | None,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    dtype: str | None,
) -> Any:
    check_eps(name, eps)
    view = channels(name, x, layout)
    if groups is None:
        groups = view.rows
        spatial(name, view.length)
    _groups(name, view.rows, groups)
    if view.rows // groups * view.length < 2:
        raise TensorError(f"{name}: needs 2 or more values per sample and group, got 1")
    w, b = (_table(name, what, p, view, groups) for what, p in (("weight", weight), ("bias", bias)))
    return normalize(view, groups=groups, weight=w, bias=b, eps=eps, dtype=dtype)


@normalizer(
    presets={
        "torch": {},
        "keras": {"groups": 32, "eps": 1e-3},
        "flax": {"groups": 32, "eps": 1e-6},
        "onnx": {},
        "paper": {"groups": 32},
    },
)
def group_norm(
    x: Tensor,
    *,
    groups: int,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize each group of neighbouring channels of each sample by its own mean and variance.

    Formula:
        y = weight * (x - mean) / sqrt(var + eps) + bias; channel c is in group floor(c * groups / C)
    Paper:
        Wu & He 2018, arXiv 1803.08494, section 3
    Axes:
        (C / groups, S), one statistic per sample and group
    Torch:
        F.group_norm(x, groups, weight, bias, eps)
    Settings:
        groups: how many groups (32 in the paper), not how many channels each has
    Raises:
        TensorError: C is not a multiple of groups, or a group has a single value.

    >>> import numpy as np
    >>> group_norm(np.array([[1.0, 3.0, 10.0, 50.0]]), groups=2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    return _grouped("group_norm", x, layout, groups, weight, bias, eps, dtype)


@gradient("instance_norm")
def instance_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through instance_norm: dx, dweight, dbias."""
    return _grouped_vjp("instance_norm", x, dy, layout, None, weight, bias, eps)


@gradient("group_norm")
def group_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    groups: int,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through group_norm: dx, dweight, dbias."""
    return _grouped_vjp("group_norm", x, dy, layout, groups, weight, bias, eps)


def _grouped_vjp(
    name: str,
    x: Tensor,
    dy: Tensor,
    layout: str | None,
    groups: int | None,
    weight: Array | None,
    bias: Array | None,
    eps: float,
) -> dict[str, Array]:
    check_eps(name, eps)
    view, block, g = prepare_vjp(name, x, dy, layout)
    groups = _groups(name, view.rows, view.rows if groups is None else groups)
    gamma = broadcast_channels(per_channel(name, "weight", weight, view, 1.0))
    per_channel(name, "bias", bias, view, 0.0)
    moments = channel_moments(view).groups(groups)
    mean = np.repeat(moments.mean, view.rows // groups, axis=1)[..., None]
    scale = 1.0 / np.sqrt(np.repeat(moments.var, view.rows // groups, axis=1)[..., None] + eps)
    normal = (block - mean) * scale
    shape = (view.samples, groups, -1)
    flat = (np.reshape(t, shape) for t in (g * gamma, normal, np.broadcast_to(scale, block.shape)))
    pulled, flat_normal, flat_scale = flat
    dx = standard_vjp(pulled, flat_normal, flat_scale, (2,)).reshape(block.shape)
    return {"dx": to_input_layout(view, x, dx), **parameter_gradients(x, g, normal, weight, bias)}


@normalizer()
def adaptive_instance_norm(
    x: Tensor,
    style: Tensor,
    *,
    layout: Layout | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Give every channel of a content tensor the mean and std of a style tensor's.

    Formula:
        y = std(style) * (x - mean(x)) / std(x) + mean(style); std = sqrt(unbiased var + eps)
    Paper:
        Huang & Belongie 2017, arXiv 1703.06868, section 5
    Axes:
        S, one statistic per sample and channel
    Settings:
        style: tensor with the N and C of x, of any size
    Raises:
        TensorError: N or C differ, or fewer than 2 spatial values.

    >>> import numpy as np
    >>> content, style = np.array([[[1.0, 3.0]]]), np.array([[[10.0, 20.0, 30.0]]])
    >>> adaptive_instance_norm(content, style, layout="NCL", eps=0.0).round(4).ravel().tolist()
    [12.9289, 27.0711]
    """
    name = "adaptive_instance_norm"
    check_eps(name, eps)
    view, other = channels(name, x, layout), channels(name, style, layout)
    if (view.samples, view.rows) != (other.samples, other.rows):
        raise TensorError(
            f"{name}: x and style must share N and C, got {(view.samples, view.rows)} and {(other.samples, other.rows)}"
        )
    spatial(name, view.length)
    spatial(name, other.length)
    content, wanted = channel_moments(view), channel_moments(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(wanted.unbiased + eps) / np.sqrt(content.unbiased + eps)
    return affine(view, content, scale, wanted.mean, dtype)
