"""Normalization by neighbors: across channels, or across a box of space."""

from typing import Any, Literal

import numpy as np

from normcli.errors import UsageError
from normcli.tensor.normalizers.gradients import parameter_gradients, prepare_vjp
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.views import Array, Dtype, Layout, Tensor, channel_axis, channels, per_channel

Window = Literal["torch", "onnx", "tf"]


def _window(window: str, size: int, alpha: float) -> tuple[int, int, float]:
    """Return the channels of the window below and above a channel, and the factor of its sum."""
    if window == "torch":
        reach = size // 2, (size - 1) // 2, alpha / max(size, 1)
    elif window == "onnx":
        reach = (size - 1) // 2, size // 2, alpha / max(size, 1)
    elif window == "tf":
        reach = size, size, alpha
    else:
        raise UsageError(f"window must be torch, onnx or tf, not {window!r}")
    if size < (0 if window == "tf" else 1):
        raise UsageError(f"size must be 1 or more, got {size}")
    return reach


def _window_sum(x: Array, below: int, above: int) -> Array:
    """Sum x over the channels c - below … c + above, cut at the ends; x is (n, C, S)."""
    total = np.zeros_like(x)
    for shift in range(-below, above + 1):
        source = slice(max(shift, 0), max(x.shape[1] + min(shift, 0), 0))
        target = slice(max(-shift, 0), max(x.shape[1] - max(shift, 0), 0))
        total[:, target] += x[:, source]
    return total


@normalizer(
    presets={
        "torch": {},
        "onnx": {"window": "onnx"},
        "paper": {"window": "tf", "size": 2, "k": 2.0},
    },
)
def local_response_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    window: Window = "torch",
    dtype: Dtype | None = None,
) -> Any:
    """Divide each value by a power of the squares of its neighbors in the channel axis (LRN).

    Formula:
        y = x * (k + A * sum of x^2 over the window)^(-beta), the window cut at the ends;
        torch: A = alpha / size, channels c - size//2 … c + (size-1)//2;
        onnx: the mirror image (they differ for even sizes); tf: A = alpha, channels c - size … c + size
    Paper:
        Krizhevsky et al. 2012, section 3.3: a window of 5, `--window tf --size 2`, with k = 2
    Axes:
        a window of C at every place
    Torch:
        F.local_response_norm(x, size, alpha, beta, k)
    Settings:
        size: channels in the window; for tf how far it reaches to each side
        alpha: weight of the squares
        beta: exponent of the divisor
        k: added to the sum
        window: whose window, torch, onnx or tf

    >>> import numpy as np
    >>> local_response_norm(np.array([[3.0, 4.0]]), size=1, alpha=1.0, beta=0.5, k=0.0).tolist()
    [[1.0, 1.0]]
    """
    below, above, factor = _window(window, size, alpha)

    def formula(x: Array) -> Array:
        return np.asarray(x * (k + factor * _window_sum(x * x, below, above)) ** -beta)

    return channels(x, layout).map_numpy(formula, dtype=dtype)


@gradient("local_response_norm", "dx")
def local_response_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    window: Window = "torch",
) -> dict[str, Array]:
    """Pull dy back through local_response_norm: dx."""
    below, above, factor = _window(window, size, alpha)
    vjp = prepare_vjp(x, dy, layout)

    def pull(samples: slice, x: Array, g: Array) -> None:
        divisor = k + factor * _window_sum(x * x, below, above)
        mirrored = _window_sum(g * x * divisor ** (-beta - 1.0), above, below)
        vjp.put(samples, g * divisor**-beta - 2.0 * factor * beta * x * mirrored)

    vjp.pair.blocks(pull)
    return {"dx": vjp.dx}


def _box_mean(x: Array, size: int, axes: tuple[int, ...]) -> Array:
    """Average over a box of odd size around each place, zeros outside; the divisor is the full window's."""
    for axis in axes:
        total = np.zeros_like(x)
        count = x.shape[axis]
        for shift in range(-(size // 2), size // 2 + 1):
            if abs(shift) < count:
                source, target = [slice(None)] * x.ndim, [slice(None)] * x.ndim
                source[axis] = slice(max(shift, 0), count + min(shift, 0))
                target[axis] = slice(max(-shift, 0), count - max(shift, 0))
                total[tuple(target)] += x[tuple(source)]
        x = total / size
    return x


def _check_sides(*sides: int) -> None:
    for side in sides:
        if side < 1 or side % 2 == 0:
            raise UsageError(f"the side of a box must be odd, got {side}")


def _image_shape(x: Tensor, layout: str | None) -> tuple[int, ...]:
    """Return the channels and space of a sample; the features of NC are a space of one channel."""
    channel = channel_axis(x, layout)
    space = tuple(n for a, n in enumerate(x.shape) if a not in (0, channel))
    return (x.shape[channel], *space) if space else (1, x.shape[channel])


@normalizer()
def divisive_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    sum_size: int = 5,
    suppression_size: int = 5,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1.0,
    dtype: Dtype | None = None,
) -> Any:
    """Subtract the mean of a neighborhood and divide by its root mean square.

    Formula:
        v = x - box_mean(mean_C x); y = weight * v / sqrt(box_mean(mean_C v^2) + eps) + bias;
        boxes over space, zeros outside, each with its own full window as divisor.
        For NC the boxes run along the features.
    Paper:
        Ren et al. 2016, arXiv 1611.04520
    Axes:
        C and a box of S
    Settings:
        sum_size: side of the box of the mean, odd
        suppression_size: side of the box of the divisor, odd
        eps: added to the mean square, sigma^2 of the paper
    Raises:
        UsageError: a side that is not odd.

    >>> import numpy as np
    >>> x = np.array([[[1.0, 2.0], [3.0, 2.0]]])
    >>> divisive_norm(x, layout="NCL", sum_size=1, suppression_size=1, eps=0.0).tolist()[0][0]
    [-1.0, nan]
    """
    _check_sides(sum_size, suppression_size)
    view = channels(x, layout)
    w = per_channel(view, "weight", weight, 1.0)
    b = per_channel(view, "bias", bias, 0.0)
    image = _image_shape(x, layout)
    axes = tuple(range(2, len(image) + 1))

    def formula(x: Array, w: Array, b: Array) -> Array:
        z = x.reshape(-1, *image)
        z = z - _box_mean(z.mean(axis=1, keepdims=True), sum_size, axes)
        square = _box_mean((z * z).mean(axis=1, keepdims=True), suppression_size, axes)
        return np.asarray(w * (z / np.sqrt(square + eps)).reshape(x.shape) + b)

    return view.map_numpy(formula, w, b, dtype=dtype)


@gradient("divisive_norm", "dx", "dweight", "dbias")
def divisive_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    sum_size: int = 5,
    suppression_size: int = 5,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1.0,
) -> dict[str, Array]:
    """Pull dy back through divisive_norm: dx, dweight, dbias; a box of odd side is its own adjoint."""
    _check_sides(sum_size, suppression_size)
    vjp = prepare_vjp(x, dy, layout, weight, bias)
    image = _image_shape(x, layout)
    axes = tuple(range(2, len(image) + 1))

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        z = x.reshape(-1, *image)
        z = z - _box_mean(z.mean(axis=1, keepdims=True), sum_size, axes)
        s = np.sqrt(_box_mean((z * z).mean(axis=1, keepdims=True), suppression_size, axes) + eps)
        pulled = (g * vjp.weight_at(samples)).reshape(z.shape)
        along = (pulled * z).sum(axis=1, keepdims=True) / s**3
        dz = pulled / s - z * _box_mean(along, suppression_size, axes) / image[0]
        dx = dz - _box_mean(dz.sum(axis=1, keepdims=True), sum_size, axes) / image[0]
        vjp.put(samples, dx.reshape(x.shape))
        return (g * (z / s).reshape(x.shape)).sum(axis=2), g.sum(axis=2)

    dweight, dbias = vjp.pair.tables(2, pull)
    return {"dx": vjp.dx, **parameter_gradients(x, (dweight, dbias), weight, bias)}
