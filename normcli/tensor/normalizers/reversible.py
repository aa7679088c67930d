"""Reversible instance normalization of time series (RevIN): the statistics of the input restore the forecast."""

from typing import Any

import numpy as np

from normcli.tensor.normalizers.gradients import (
    broadcast_channels,
    parameter_gradients,
    prepare_vjp,
    sum_to_parameter,
)
from normcli.tensor.normalizers.registry import gradient, normalizer, statistics
from normcli.tensor.normalizers.running import require_spatial
from normcli.tensor.normalizers.views import Array, Dtype, Layout, Tensor, View, channels, parallel_blocks, per_channel


def _center_and_std(x: Array, last: bool, eps: float) -> tuple[Array, Array, Array]:
    """Return the center to subtract from a block (n, C, S), the std around the mean, and the deviations from it."""
    mean = x.mean(axis=2, keepdims=True)
    z = x - mean
    return x[..., -1:] if last else mean, np.sqrt((z * z).mean(axis=2, keepdims=True) + eps), z


@normalizer(family="layer")
def reversible_instance_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    last: bool = False,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize each variable of each series by its own mean and variance over time (RevIN).

    Formula:
        y = weight * (x - mean) / sqrt(var + eps) + bias; var is biased;
        the inverse is reversible_instance_denorm, with the statistics of reversible_instance_norm_statistics
    Paper:
        Kim et al. 2022, Reversible Instance Normalization for Accurate Time-Series Forecasting, equations 1 to 3
    Axes:
        S, the time, one statistic per series and variable; layout NLC for (N, time, variables)
    Settings:
        last: subtract the last value in place of the mean

    Raises:
        TensorError: fewer than 2 values in time.

    >>> import numpy as np
    >>> reversible_instance_norm(np.array([[[1.0], [3.0]]]), layout="NLC", eps=0.0).ravel().tolist()
    [-1.0, 1.0]
    """
    view = channels(x, layout)
    require_spatial(view.length)

    def formula(x: Array, w: Array, b: Array) -> Array:
        center, std, _ = _center_and_std(x, last, eps)
        return np.asarray((x - center) / std * w + b)

    w, b = per_channel(view, "weight", weight, 1.0), per_channel(view, "bias", bias, 0.0)
    return view.map_numpy(formula, w, b, dtype=dtype)


@statistics("reversible_instance_norm", "mean", "std")
def reversible_instance_norm_statistics(
    x: Tensor, *, layout: Layout | None = None, last: bool = False, eps: float = 1e-5
) -> dict[str, Array]:
    """Return mean (or last value) and std = sqrt(var + eps) of each variable of each series, (N, C) in float64."""
    view = channels(x, layout)
    require_spatial(view.length)
    tables = np.zeros((2, view.samples, view.rows))

    def compute_block(start: int, stop: int) -> None:
        found = _center_and_std(view.block(start, stop).astype(np.float64), last, eps)
        for table, values in zip(tables, found, strict=False):
            table[start:stop] = values[..., 0]

    if view.size:
        parallel_blocks(view.samples, view.sample_bytes, compute_block)
    return {"mean": tables[0], "std": tables[1]}


@gradient("reversible_instance_norm", "dx", "dweight", "dbias")
def reversible_instance_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    last: bool = False,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through reversible_instance_norm: dx, dweight, dbias."""
    vjp = prepare_vjp(x, dy, layout, weight, bias)
    require_spatial(vjp.view.length)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        center, std, z = _center_and_std(x, last, eps)
        pulled = g * vjp.weight_at(samples) / std
        along = (pulled * (x - center)).sum(axis=2, keepdims=True)
        dx = pulled - z * along / (std * std * x.shape[2])
        if last:
            dx[..., -1] -= pulled.sum(axis=2)
        else:
            dx -= pulled.mean(axis=2, keepdims=True)
        vjp.put(samples, dx)
        return (g * (x - center) / std).sum(axis=2), g.sum(axis=2)

    dweight, dbias = vjp.pair.tables(2, pull)
    return {"dx": vjp.dx, **parameter_gradients(x, (dweight, dbias), weight, bias)}


def _parameters(view: View, eps: float, **given: Array | None) -> list[Array]:
    """Return weight + eps^2, bias, mean and std with the axes of (N, C, S)."""
    defaults = {"weight": 1.0, "bias": 0.0, "mean": 0.0, "std": 1.0}
    tables = [per_channel(view, name, given[name], default) for name, default in defaults.items()]
    tables[0] = tables[0] + eps * eps
    return [broadcast_channels(table) for table in tables]


@normalizer(family="layer")
def reversible_instance_denorm(
    x: Tensor,
    mean: Array,
    std: Array,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Restore the level and the scale of series that reversible_instance_norm took out (RevIN's inverse).

    Formula:
        y = (x - bias) / (weight + eps^2) * std + mean
    Paper:
        Kim et al. 2022, Reversible Instance Normalization for Accurate Time-Series Forecasting, equation 3
    Axes:
        none; a forecast may have another length than the input
    Settings:
        mean: tensor (N, C), of reversible_instance_norm_statistics
        std: tensor (N, C), of the same
        eps: its square is added to the weight, as in the authors' code

    >>> import numpy as np
    >>> y = reversible_instance_denorm(np.array([[[0.5]]]), np.ones((1, 1)), np.full((1, 1), 4.0), layout="NCL")
    >>> y.round(6).tolist()
    [[[3.0]]]
    """
    view = channels(x, layout)
    w, b, m, s = _parameters(view, eps, weight=weight, bias=bias, mean=mean, std=std)
    tables = ((s / w)[..., 0], (m - b * s / w)[..., 0])
    return view.map_numpy(lambda x, scale, shift: x * scale + shift, *tables, dtype=dtype)


@gradient("reversible_instance_denorm", "dx", "dmean", "dstd", "dweight", "dbias")
def reversible_instance_denorm_vjp(
    x: Tensor,
    mean: Array,
    std: Array,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through reversible_instance_denorm: dx, dmean, dstd, dweight, dbias."""
    vjp = prepare_vjp(x, dy, layout, weight, bias)
    parameters = _parameters(vjp.view, eps, weight=weight, bias=bias, mean=mean, std=std)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, ...]:
        w, b, _, s = (t if len(t) == 1 else t[samples] for t in parameters)
        normal, pulled = (x - b) / w, g * s / w
        vjp.put(samples, pulled)
        return tuple(t.sum(axis=2) for t in (g, g * normal, -pulled * normal, -pulled))

    dmean, dstd, dweight, dbias = vjp.pair.tables(4, pull)
    own = {"dmean": sum_to_parameter(x, dmean, mean), "dstd": sum_to_parameter(x, dstd, std)}
    return {"dx": vjp.dx, **own, **parameter_gradients(x, (dweight, dbias), weight, bias)}
