"""Gradients of the normalizers that divide vectors by a norm, or a tensor by its own."""

import math

import numpy as np

from normcli.tensor.normalizers.axes import reduced_axes
from normcli.tensor.normalizers.gradients import prepare_rows_vjp, standard_vjp
from normcli.tensor.normalizers.registry import gradient
from normcli.tensor.normalizers.vector import check_order, p_norm, pull_norm
from normcli.tensor.normalizers.views import Array, Layout, Tensor, round_to_dtype


@gradient("pixel_norm", "dx")
def pixel_norm_vjp(x: Tensor, dy: Tensor, *, layout: Layout | None = None, eps: float = 1e-8) -> dict[str, Array]:
    """Pull dy back through pixel_norm: dx."""
    pair, dx = prepare_rows_vjp(x, dy, reduced_axes(x, layout, "token"))

    def pull(samples: slice, x: Array, g: Array) -> None:
        s = np.sqrt((x * x).mean(axis=2, keepdims=True) + eps)
        pair.view.put(dx, samples.start, samples.stop, g / s - x * (g * x).mean(axis=2, keepdims=True) / s**3)

    pair.blocks(pull)
    return {"dx": dx}


@gradient("scale_norm", "dx", "dscale")
def scale_norm_vjp(
    x: Tensor, dy: Tensor, *, layout: Layout | None = None, scale: float | None = None, eps: float = 1e-5
) -> dict[str, Array]:
    """Pull dy back through scale_norm: dx, dscale."""
    pair, dx = prepare_rows_vjp(x, dy, reduced_axes(x, layout, "token"))
    factor = math.sqrt(pair.view.length) if scale is None else scale

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array]:
        pair.view.put(dx, samples.start, samples.stop, factor * pull_norm(x, g, 2.0, eps))
        divisor = np.maximum(p_norm(x, 2.0, 2), eps)
        return ((g * x / np.where(divisor > 0, divisor, 1.0)).sum(keepdims=True).reshape(1),)

    (dscale,) = pair.sums([np.zeros(1)], pull)
    return {"dx": dx, "dscale": round_to_dtype(x, dscale.sum())}


@gradient("tensor_norm", "dx")
def tensor_norm_vjp(x: Tensor, dy: Tensor, *, p: float | None = None, eps: float = 1e-5) -> dict[str, Array]:
    """Pull dy back through tensor_norm: dx."""
    if p is not None:
        check_order(p)
    pair, dx = prepare_rows_vjp(x, dy, tuple(range(len(x.shape))))

    def pull(samples: slice, x: Array, g: Array) -> None:
        if p is None:
            z = x - x.mean(axis=2, keepdims=True)
            scale = 1.0 / np.sqrt((z * z).mean(axis=2, keepdims=True) + eps)
            block = standard_vjp(g, z * scale, scale, (2,))
        else:
            block = pull_norm(x, g, p, eps)
        pair.view.put(dx, samples.start, samples.stop, block)

    pair.blocks(pull)
    return {"dx": dx}
