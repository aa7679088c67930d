"""Statistics of each sample alone: layer, instance, group and adaptive instance normalization."""

from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers.axes import Axes, axes_parameter, reduced_axes
from normcli.tensor.normalizers.gradients import (
    ChannelVjp,
    mean_over,
    parameter_gradients,
    prepare_rows_vjp,
    prepare_vjp,
    read_completely,
    row_parameter_gradients,
    standard_vjp,
    zeros_of_row,
)
from normcli.tensor.normalizers.moments import Moments, affine, channel_moments
from normcli.tensor.normalizers.registry import gradient, normalizer, statistics
from normcli.tensor.normalizers.running import require_spatial
from normcli.tensor.normalizers.views import (
    Array,
    Dtype,
    Layout,
    Tensor,
    View,
    channels,
    check_groups,
    normalize,
    per_channel,
    tokens,
)

PRESETS: dict[str, dict[str, Any]] = {
    "torch": {},
    "keras": {"eps": 1e-3},
    "flax": {"eps": 1e-6},
    "haiku": {},
    "equinox": {},
    "tf": {"eps": 1e-3},
    "onnx": {},
    "paper": {},
}
INSTANCE_PRESETS = {name: values for name, values in PRESETS.items() if name != "equinox"}


@normalizer(family="layer", presets=PRESETS)
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
        axes: token, image, or axis numbers; default token for NC and NTC, required for images
    Raises:
        UsageError: axes not given for an image layout.

    >>> import numpy as np
    >>> layer_norm(np.array([[1.0, 2.0, 3.0]]), eps=0.0).round(4).tolist()
    [[-1.2247, 0.0, 1.2247]]
    """
    over = reduced_axes(x, layout, axes)
    w = axes_parameter("weight", weight, x, over, axes)
    b = axes_parameter("bias", bias, x, over, axes)
    return normalize(tokens(x, over), w, b, eps, dtype)


@gradient("layer_norm", "dx", "dweight", "dbias")
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
    over = reduced_axes(x, layout, axes)
    w = axes_parameter("weight", weight, x, over, axes)
    axes_parameter("bias", bias, x, over, axes)
    pair, dx = prepare_rows_vjp(x, dy, over)
    view = pair.view
    factor = 1.0 if w is None or not view.size else np.repeat(w.ravel(), view.length // w.size)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        z = x - x.mean(axis=2, keepdims=True)
        scale = 1.0 / np.sqrt((z**2).mean(axis=2, keepdims=True) + eps)
        view.put(dx, samples.start, samples.stop, standard_vjp(g * factor, z * scale, scale, (2,)))
        return (g * z * scale).sum(axis=(0, 1)), g.sum(axis=(0, 1))

    dweight, dbias = pair.sums([zeros_of_row(x, over)] * 2, pull)
    return {"dx": dx, **row_parameter_gradients(x, dweight, dbias, over, weight)}


def _rows_of_groups(view: View, groups: int, what: str, value: Array | None) -> Array | None:
    """Return a parameter (C) or (N, C) as rows of one group each."""
    return None if value is None else per_channel(view, what, value, 0.0).reshape(-1, view.rows // groups)


@normalizer(family="layer", presets=INSTANCE_PRESETS)
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
    view = channels(x, layout)
    require_spatial(view.length)
    w = _rows_of_groups(view, view.rows, "weight", weight)
    b = _rows_of_groups(view, view.rows, "bias", bias)
    return normalize(view, w, b, eps, dtype)


@normalizer(
    family="layer",
    presets={
        "torch": {},
        "keras": {"groups": 32, "eps": 1e-3},
        "flax": {"groups": 32, "eps": 1e-6},
        "haiku": {},
        "equinox": {},
        "tf": {"groups": 32, "eps": 1e-3},
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
    """Normalize each group of neighboring channels of each sample by its own mean and variance.

    Formula:
        y = weight * (x - mean) / sqrt(var + eps) + bias; channel c is in group floor(c * groups / C)
    Paper:
        Wu & He 2018, arXiv 1803.08494, section 3
    Axes:
        (C / groups, S), one statistic per sample and group
    Torch:
        F.group_norm(x, groups, weight, bias, eps)
    Settings:
        groups: number of groups (32 in the paper), not of channels in each
    Raises:
        TensorError: C is not a multiple of groups, or a group has a single value.

    >>> import numpy as np
    >>> group_norm(np.array([[1.0, 3.0, 10.0, 50.0]]), groups=2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    view = channels(x, layout)
    rows = view.regroup(groups)
    if rows.length < 2:
        raise TensorError(f"2 or more values per sample and group are required, not {rows.length}")
    w = _rows_of_groups(view, groups, "weight", weight)
    b = _rows_of_groups(view, groups, "bias", bias)
    return normalize(rows, w, b, eps, dtype)


def _described(moments: Moments, eps: float, shape: tuple[int, ...]) -> dict[str, Array]:
    """Return mean and 1 / sqrt(var + eps) in a shape."""
    return {"mean": moments.mean.reshape(shape), "inverse_std": (1.0 / np.sqrt(moments.var + eps)).reshape(shape)}


@statistics("layer_norm", "mean", "inverse_std")
def layer_norm_statistics(
    x: Tensor, *, layout: Layout | None = None, axes: Axes | None = None, eps: float = 1e-5
) -> dict[str, Array]:
    """Return mean and 1 / sqrt(var + eps) in float64, with the axes of x: those reduced have length 1, as in ONNX."""
    over = reduced_axes(x, layout, axes)
    shape = tuple(1 if a in over else n for a, n in enumerate(x.shape))
    return _described(channel_moments(tokens(x, over)), eps, shape)


@statistics("instance_norm", "mean", "inverse_std")
def instance_norm_statistics(x: Tensor, *, layout: Layout | None = None, eps: float = 1e-5) -> dict[str, Array]:
    """Return mean and 1 / sqrt(var + eps) of every sample and channel, (N, C) in float64."""
    view = channels(x, layout)
    require_spatial(view.length)
    return _described(channel_moments(view), eps, (view.samples, view.rows))


@statistics("group_norm", "mean", "inverse_std")
def group_norm_statistics(
    x: Tensor, *, groups: int, layout: Layout | None = None, eps: float = 1e-5
) -> dict[str, Array]:
    """Return mean and 1 / sqrt(var + eps) of every sample and group, (N, groups) in float64."""
    rows = channels(x, layout).regroup(groups)
    return _described(channel_moments(rows), eps, (rows.samples, groups))


@gradient("instance_norm", "dx", "dweight", "dbias")
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
    vjp = prepare_vjp(x, dy, layout, weight, bias)
    return _group_norm_vjp(x, vjp, vjp.view.rows, weight, bias, eps)


@gradient("group_norm", "dx", "dweight", "dbias")
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
    return _group_norm_vjp(x, prepare_vjp(x, dy, layout, weight, bias), groups, weight, bias, eps)


def _group_norm_vjp(
    x: Tensor, vjp: ChannelVjp, groups: int, weight: Array | None, bias: Array | None, eps: float
) -> dict[str, Array]:
    view = vjp.view
    check_groups(view.rows, groups)
    moments = channel_moments(view).groups(groups)
    mean, var = (np.repeat(t, view.rows // groups, axis=1)[..., None] for t in (moments.mean, moments.var))
    scales = 1.0 / np.sqrt(var + eps)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        scale = scales[samples]
        normal = (x - mean[samples]) * scale
        shape = (len(x), groups, -1)
        pulled, rows = (t.reshape(shape) for t in (g * vjp.weight_at(samples), normal))
        dx = standard_vjp(pulled, rows, np.broadcast_to(scale, x.shape).reshape(shape), (2,))
        vjp.put(samples, dx.reshape(x.shape))
        return (g * normal).sum(axis=2), g.sum(axis=2)

    dweight, dbias = vjp.pair.tables(2, pull)
    return {"dx": vjp.dx, **parameter_gradients(x, (dweight, dbias), weight, bias)}


@normalizer(family="layer")
def adaptive_instance_norm(
    x: Tensor,
    style: Tensor,
    *,
    layout: Layout | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize every channel of a content tensor to the mean and std of a style tensor's.

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
    view, other = channels(x, layout), channels(style, layout, "style")
    if (view.samples, view.rows) != (other.samples, other.rows):
        raise TensorError(
            f"x and style must share N and C, got {(view.samples, view.rows)} and {(other.samples, other.rows)}"
        )
    require_spatial(view.length)
    require_spatial(other.length)
    content, target = channel_moments(view), channel_moments(other)
    scale = np.sqrt(target.unbiased + eps) / np.sqrt(content.unbiased + eps)
    return affine(view, content, scale, target.mean, dtype)


@gradient("adaptive_instance_norm", "dx", "dstyle")
def adaptive_instance_norm_vjp(
    x: Tensor, style: Tensor, dy: Tensor, *, layout: Layout | None = None, eps: float = 1e-5
) -> dict[str, Array]:
    """Pull dy back through adaptive_instance_norm: dx, dstyle."""
    vjp = prepare_vjp(x, dy, layout)
    other = channels(style, layout, "style")
    require_spatial(vjp.view.length)
    require_spatial(other.length)
    content, g = read_completely(vjp)
    target = other.block(0, other.samples).astype(np.float64, copy=False)
    z, deviation = (t - mean_over(t, 2) for t in (content, target))
    counts = content.shape[2] - 1, target.shape[2] - 1
    std, level = (
        np.sqrt((d * d).sum(axis=2, keepdims=True) / n + eps) for d, n in zip((z, deviation), counts, strict=True)
    )
    along, total = (g * z).sum(axis=2, keepdims=True), g.sum(axis=2, keepdims=True)
    pulled = level / std * (g - z * along / (std**2 * counts[0]))
    vjp.put(slice(0, len(z)), pulled - mean_over(pulled, 2))
    dstyle = other.allocate(None)
    slope = along / std / (level * counts[1])
    other.put(dstyle, 0, other.samples, deviation * slope + total / target.shape[2])
    return {"dx": vjp.dx, "dstyle": dstyle}
