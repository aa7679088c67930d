"""Vector-Jacobian products: cotangents as float64 (N, C, S), the standard pull-back, and the results' shapes."""

from typing import NamedTuple

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers.axes import reduce_to_parameter
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.views import View, channels, per_channel, read_float64, round_to_dtype, tokens


def standard_vjp(g: Array, normal: Array, scale: Array, axes: tuple[int, ...]) -> Array:
    """Pull a cotangent back through (x - mean_A) * scale, scale = 1 / sqrt(var_A + eps)."""
    along = (normal * g).mean(axis=axes, keepdims=True)
    return np.asarray(scale * (g - g.mean(axis=axes, keepdims=True) - normal * along))


def check_cotangent(x: Tensor, dy: Tensor) -> None:
    """Reject a cotangent of another shape than the tensor's.

    Raises:
        TensorError: the shapes differ.
    """
    if tuple(dy.shape) != tuple(x.shape):
        raise TensorError(f"dy must have the shape of x, {tuple(x.shape)}, got {tuple(dy.shape)}")


class PreparedVjp(NamedTuple):
    """The arguments that the vjps of channels share.

    Attributes:
        view: x as (N, C, S), in float64.
        x: its elements.
        g: dy as x.
        weight: with the axes of (N, C, S).
    """

    view: View
    x: Array
    g: Array
    weight: Array


def prepare_vjp(
    x: Tensor,
    dy: Tensor,
    layout: str | None,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    default: float = 1.0,
) -> PreparedVjp:
    """Check and read the arguments of a vjp; a weight that is absent is `default`."""
    check_cotangent(x, dy)
    view = channels(read_float64(x), layout)
    other = channels(read_float64(dy), layout)
    gamma = broadcast_channels(per_channel(view, "weight", weight, default))
    per_channel(view, "bias", bias, 0.0)
    return PreparedVjp(view, view.block(0, view.samples), other.block(0, view.samples), gamma)


def prepare_rows_vjp(x: Tensor, dy: Tensor, over: tuple[int, ...]) -> tuple[View, Array, Array]:
    """Return the view of x as rows of the axes `over`, and x and dy as float64 rows."""
    check_cotangent(x, dy)
    view, other = (tokens(read_float64(t), over) for t in (x, dy))
    return view, view.block(0, view.samples), other.block(0, other.samples)


def to_input_layout(view: View, x: Tensor, dx: Array) -> Array:
    """Bring a gradient (N, C, S) to the layout and type of x."""
    out: Array = np.empty(view.shape)
    view.put(out, 0, view.samples, dx)
    return round_to_dtype(x, out)


def broadcast_channels(parameter: Array) -> Array:
    """Return a parameter (C) or (N, C) with the axes of (N, C, S)."""
    return parameter[..., None] if parameter.ndim == 2 else parameter[None, :, None]


def parameter_gradients(
    x: Tensor, g: Array, normal: Array, weight: Array | None, bias: Array | None
) -> dict[str, Array]:
    """Sum the gradients of weight and bias to the shapes that they were given in."""
    gradients = {}
    for key, parameter, values in (("dweight", weight, g * normal), ("dbias", bias, g)):
        axes = 2 if parameter is not None and np.ndim(parameter) == 2 else (0, 2)
        gradients[key] = round_to_dtype(x, values.sum(axis=axes))
    return gradients


def channel_gradients(
    view: View, x: Tensor, dx: Array, g: Array, normal: Array, weight: Array | None, bias: Array | None
) -> dict[str, Array]:
    """Return dx in the layout of x, and the gradients of weight and bias.

    Args:
        view: of x, as (N, C, S).
        x: the tensor.
        dx: its gradient, (N, C, S).
        g: the cotangent, (N, C, S).
        normal: the factor of the weight, (N, C, S).
        weight: as given.
        bias: as given.
    """
    return {"dx": to_input_layout(view, x, dx), **parameter_gradients(x, g, normal, weight, bias)}


def row_parameter_gradients(
    x: Tensor, dweight: Array, dbias: Array, over: tuple[int, ...], weight: Array | None
) -> dict[str, Array]:
    """Sum elementwise gradients of weight and bias, over rows of the axes `over`, to the shape of the weight."""
    return {
        key: round_to_dtype(x, reduce_to_parameter(values.sum(axis=(0, 1)), x, over, weight))
        for key, values in (("dweight", dweight), ("dbias", dbias))
    }
