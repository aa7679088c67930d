"""Squashing functions in the place of a normalizer."""

import math
from typing import Any

import numpy as np

from normcli.kernels.rows import erf_rows
from normcli.tensor.normalizers.gradients import parameter_gradients, prepare_vjp
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.views import Array, Dtype, Layout, Tensor, channels, per_channel, round_to_dtype


@normalizer()
def dynamic_tanh(
    x: Tensor,
    *,
    layout: Layout | None = None,
    alpha: float = 0.5,
    weight: Array | None = None,
    bias: Array | None = None,
    dtype: Dtype | None = None,
) -> Any:
    """Squash by a tanh with one learned slope, in place of layer normalization and without statistics.

    Formula:
        y = weight * tanh(alpha * x) + bias
    Paper:
        Zhu et al. 2025, arXiv 2503.10622
    Axes:
        none
    Torch:
        weight * torch.tanh(alpha * x) + bias
    Settings:
        alpha: the slope, one number for the layer

    >>> import numpy as np
    >>> dynamic_tanh(np.array([[-9.0, 0.0, 9.0]]), alpha=2.0).round(4).tolist()
    [[-1.0, 0.0, 1.0]]
    """
    view = channels(x, layout)
    w = per_channel(view, "weight", weight, 1.0)
    b = per_channel(view, "bias", bias, 0.0)
    return view.map_numpy(lambda x, w, b: w * np.tanh(alpha * x) + b, w, b, dtype=dtype)


@gradient("dynamic_tanh", "dx", "dalpha", "dweight", "dbias")
def dynamic_tanh_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    alpha: float = 0.5,
    weight: Array | None = None,
    bias: Array | None = None,
) -> dict[str, Array]:
    """Pull dy back through dynamic_tanh: dx, dalpha, dweight, dbias."""
    vjp = prepare_vjp(x, dy, layout, weight, bias)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, ...]:
        t = np.tanh(alpha * x)
        slope = g * vjp.weight_at(samples) * (1.0 - t * t)
        vjp.put(samples, slope * alpha)
        return (g * t).sum(axis=2), g.sum(axis=2), (slope * x).sum(axis=2)

    dweight, dbias, dalpha = vjp.pair.tables(3, pull)
    gradients = parameter_gradients(x, (dweight, dbias), weight, bias)
    return {"dx": vjp.dx, "dalpha": round_to_dtype(x, dalpha.sum()), **gradients}


def erf(values: Array) -> Array:
    """Return the error function of float64 values."""
    rows = np.ascontiguousarray(values).reshape(1, -1)
    out = np.empty_like(rows)
    erf_rows(rows, out)
    return out.reshape(values.shape)


@normalizer()
def dynamic_erf(
    x: Tensor,
    *,
    layout: Layout | None = None,
    alpha: float = 0.5,
    shift: float = 0.0,
    weight: Array | None = None,
    bias: Array | None = None,
    dtype: Dtype | None = None,
) -> Any:
    """Squash by the error function with a learned slope and shift, in place of layer normalization (Derf).

    Formula:
        y = weight * erf(alpha * x + shift) + bias
    Paper:
        Chen et al. 2025, arXiv 2512.10938
    Axes:
        none
    Torch:
        weight * torch.erf(alpha * x + shift) + bias
    Settings:
        alpha: the slope, one number for the layer
        shift: added inside the function, one number for the layer

    >>> import numpy as np
    >>> dynamic_erf(np.array([[-9.0, 0.0, 1.0]]), alpha=1.0).round(4).tolist()
    [[-1.0, 0.0, 0.8427]]
    """
    view = channels(x, layout)
    w = per_channel(view, "weight", weight, 1.0)
    b = per_channel(view, "bias", bias, 0.0)
    return view.map_numpy(lambda x, w, b: w * erf(alpha * x + shift) + b, w, b, dtype=dtype)


@gradient("dynamic_erf", "dx", "dalpha", "dshift", "dweight", "dbias")
def dynamic_erf_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    alpha: float = 0.5,
    shift: float = 0.0,
    weight: Array | None = None,
    bias: Array | None = None,
) -> dict[str, Array]:
    """Pull dy back through dynamic_erf: dx, dalpha, dshift, dweight, dbias."""
    vjp = prepare_vjp(x, dy, layout, weight, bias)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, ...]:
        t = alpha * x + shift
        slope = g * vjp.weight_at(samples) * (2.0 / math.sqrt(math.pi)) * np.exp(-t * t)
        vjp.put(samples, slope * alpha)
        return tuple(v.sum(axis=2) for v in (g * erf(t), g, slope * x, slope))

    dweight, dbias, dalpha, dshift = vjp.pair.tables(4, pull)
    own = {"dalpha": round_to_dtype(x, dalpha.sum()), "dshift": round_to_dtype(x, dshift.sum())}
    return {"dx": vjp.dx, **own, **parameter_gradients(x, (dweight, dbias), weight, bias)}
