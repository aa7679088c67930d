"""What the vector-Jacobian products share: cotangents as float64 (N, C, S), and the standard pull-back."""

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.moments import float64, round_to_dtype
from normcli.tensor.normalizers.views import View, channels


def standard_vjp(g: Array, normal: Array, scale: Array, axes: tuple[int, ...]) -> Array:
    """Pull a cotangent back through (x - mean_A) * scale, scale = 1 / sqrt(var_A + eps)."""
    along = (normal * g).mean(axis=axes, keepdims=True)
    return np.asarray(scale * (g - g.mean(axis=axes, keepdims=True) - normal * along))


def cotangent(name: str, x: Tensor, dy: Tensor) -> None:
    """Refuse a cotangent of another shape than the tensor's.

    Raises:
        TensorError: the shapes differ.
    """
    if tuple(dy.shape) != tuple(x.shape):
        raise TensorError(f"{name}: dy must have the shape of x, {tuple(x.shape)}, got {tuple(dy.shape)}")


def prepare_vjp(name: str, x: Tensor, dy: Tensor, layout: str | None) -> tuple[View, Array, Array]:
    """Give the view of x, and x and dy as whole float64 (N, C, S), for a gradient."""
    cotangent(name, x, dy)
    view = channels(name, float64(x, name), layout)
    other = channels(name, float64(dy, name), layout)
    return view, view.block(0, view.samples), other.block(0, view.samples)


def to_input_layout(view: View, x: Tensor, dx: Array) -> Array:
    """Put a gradient (N, C, S) back into the layout and type of x."""
    out: Array = np.empty(view.shape)
    view.put(out, 0, view.samples, dx)
    return round_to_dtype(x, out)


def broadcast_channels(parameter: Array) -> Array:
    """Give a parameter (C) or (N, C) the axes of (N, C, S)."""
    return parameter[..., None] if parameter.ndim == 2 else parameter[None, :, None]


def parameter_gradients(
    x: Tensor, dy: Array, normal: Array, weight: Array | None, bias: Array | None
) -> dict[str, Array]:
    """Sum the gradients of weight and bias to the shapes that they were given in."""
    made = {}
    for key, given, values in (("dweight", weight, dy * normal), ("dbias", bias, dy)):
        axes = 2 if given is not None and np.ndim(given) == 2 else (0, 2)
        made[key] = round_to_dtype(x, values.sum(axis=axes))
    return made
