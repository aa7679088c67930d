"""Vectors divided by a norm of their own: no mean, or no variance."""

import math
from typing import Any, Literal

import numpy as np

from normcli.errors import TensorError, UsageError, unknown
from normcli.tensor.normalizers.axes import Axes, parameters, reduce_to_parameter, reduced
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.gradients import cotangent, to_input_layout
from normcli.tensor.normalizers.moments import check_eps, float64, normalize, round_to_dtype
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.views import Dtype, Layout, cast, result_dtype, tokens

RmsVariant = Literal["torch", "original", "llama", "gemma"]


def _rms_settings(variant: str, eps: float | None, fraction: float, length: int, x: Tensor) -> tuple[float, int]:
    """Settle eps and the number of elements that the mean square is taken from."""
    if variant not in ("torch", "original", "llama", "gemma"):
        raise unknown("variant of rms_norm", variant, ("torch", "original", "llama", "gemma"))
    if not 0.0 < fraction <= 1.0:
        raise UsageError(f"rms_norm: fraction must be more than 0 and at most 1, got {fraction}")
    if eps is None:
        wide = np.float64 if result_dtype(x) == np.float64 else np.float32
        eps = {"original": 1e-8, "llama": 1e-6, "gemma": 1e-6}.get(variant, float(np.finfo(wide).eps))
    check_eps("rms_norm", eps)
    head = int(fraction * length)
    if length and not head:
        raise UsageError(f"rms_norm: fraction {fraction} of {length} elements is none")
    return eps, head


@normalizer(
    presets={
        "torch": {},
        "keras": {"eps": 1e-6},
        "flax": {"eps": 1e-6},
        "onnx": {"eps": 1e-5},
        "paper": {"variant": "original"},
    },
)
def rms_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    variant: RmsVariant = "torch",
    fraction: float = 1.0,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float | None = None,
    dtype: Dtype | None = None,
) -> Any:
    """Divide each token by its root mean square.

    Formula:
        y = weight * x / sqrt(mean x^2 + eps) + bias; variants:
        original: weight * x / (sqrt(mean x^2) + eps);
        llama (T5, Llama, Qwen3): rounded to the type of x before it is multiplied by weight;
        gemma: (1 + weight) * x / sqrt(mean x^2 + eps)
    Paper:
        Zhang & Sennrich 2019, arXiv 1910.07467 (fraction < 1: pRMSNorm, its section 4.2)
    Axes:
        `token`: C at every place; `image`: C and all of S; or numbers such as -1 or 2,3
    Torch:
        F.rms_norm(x, x.shape[-k:], weight, eps) for the last k axes
    Settings:
        axes: token, image, or axis numbers; token for NC and NTC, to be said for images
        variant: whose rms_norm
        fraction: share of the first elements that the mean square is taken from (pRMSNorm)
        eps: added to the mean square [default: 1.2e-07, float64 2.2e-16; original 1e-08; llama, gemma 1e-06]

    Raises:
        UsageError: axes not given for an image layout; fraction out of range.

    >>> import numpy as np
    >>> rms_norm(np.array([[3.0, 4.0]])).round(4).tolist()
    [[0.8485, 1.1314]]
    """
    name = "rms_norm"
    over = reduced(name, x, layout, axes)
    view = tokens(name, x, over)
    eps, head = _rms_settings(variant, eps, fraction, view.length, x)
    w = parameters(name, "weight", weight, x, over, axes)
    b = parameters(name, "bias", bias, x, over, axes)
    if variant == "gemma" and w is not None:
        w = 1.0 + w
    if variant == "llama" and w is not None:
        kind, run = view.dtype, view.length // w.size
        row = np.repeat(w.ravel(), run)
        shift = 0.0 if b is None else np.repeat(b.ravel(), view.length // b.size)

        def compute(block: Array, start: int) -> Array:
            normal = block / np.sqrt((block[..., :head] ** 2).mean(axis=2, keepdims=True) + eps)
            return np.asarray(cast(normal, kind).astype(np.float64) * row + shift)

        return view.map_numpy(dtype, compute)
    outside = variant == "original"
    return normalize(
        view,
        groups=view.rows,
        weight=w,
        bias=b,
        eps=eps,
        dtype=dtype,
        centred=False,
        outside=outside,
        head=head,
    )


@gradient("rms_norm")
def rms_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    variant: RmsVariant = "torch",
    fraction: float = 1.0,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float | None = None,
) -> dict[str, Array]:
    """Pull dy back through rms_norm: dx, dweight, dbias."""
    name = "rms_norm"
    cotangent(name, x, dy)
    over = reduced(name, x, layout, axes)
    view = tokens(name, float64(x, name), over)
    other = tokens(name, float64(dy, name), over)
    eps, head = _rms_settings(variant, eps, fraction, view.length, x)
    w = parameters(name, "weight", weight, x, over, axes)
    parameters(name, "bias", bias, x, over, axes)
    block, g = view.block(0, view.samples), other.block(0, other.samples)
    factor = np.ones(1) if w is None else np.repeat(w.ravel(), view.length // w.size)
    pulled = g * (1.0 + factor if variant == "gemma" and w is not None else factor)
    square = (block[..., :head] ** 2).mean(axis=2, keepdims=True)
    along = (pulled * block).sum(axis=2, keepdims=True) / head
    inside = np.arange(view.length) < head
    if variant == "original":
        root = np.sqrt(square)
        s = root + eps
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(root > 0, along / (root * s * s), 0.0)
    else:
        s = np.sqrt(square + eps)
        slope = along / s**3
    dx = pulled / s - inside * block * slope
    made = {"dx": to_input_layout(view, x, dx)}
    for key, values in (("dweight", g * block / s), ("dbias", g)):
        made[key] = round_to_dtype(
            x, reduce_to_parameter(values.sum(axis=(0, 1)), x, over, 0 if weight is None else np.ndim(weight))
        )
    return made


def _order(name: str, p: float) -> float:
    if not p > 0:
        raise UsageError(f"{name}: p must be more than 0, got {p}")
    return p


def p_norm(x: Array, p: float, axis: int | tuple[int, ...]) -> Array:
    """Give (sum |x|^p)^(1/p) along axes, kept; scaled by the largest, so that nothing overflows."""
    size = np.abs(x)
    top = size.max(axis=axis, keepdims=True, initial=0.0)
    if p == math.inf:
        return np.asarray(top)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = ((size / np.where(top > 0, top, 1.0)) ** p).sum(axis=axis, keepdims=True)
    return np.asarray(top * total ** (1.0 / p))


@normalizer(presets={"torch": {}, "keras": {"axes": "-1"}, "onnx": {"axes": "-1", "eps": 0.0}})
def lp_normalize(
    x: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    p: float = 2.0,
    eps: float = 1e-12,
    dtype: Dtype | None = None,
) -> Any:
    """Divide each vector by its Lp norm.

    Formula:
        y = x / max(||x||_p, eps); a vector of zeros stays
    Axes:
        `token`: C at every place (the default); `image`: C and all of S; or numbers such as -1
    Torch:
        F.normalize(x, p, dim, eps)
    Settings:
        axes: token, image, or axis numbers [default: token]
        p: order of the norm: 1, 2, inf or any above 0
        eps: smallest divisor
    Raises:
        UsageError: p is not above 0.

    >>> import numpy as np
    >>> lp_normalize(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    name = "lp_normalize"
    check_eps(name, eps)
    _order(name, p)
    view = tokens(name, x, reduced(name, x, layout, axes, "token"))

    def compute(block: Array, start: int) -> Array:
        norm = np.maximum(p_norm(block, p, 2), eps)
        return np.asarray(block / np.where(norm == 0, 1.0, norm))

    return view.map_numpy(dtype, compute)


@gradient("lp_normalize")
def lp_normalize_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    p: float = 2.0,
    eps: float = 1e-12,
) -> dict[str, Array]:
    """Pull dy back through lp_normalize with p = 2: dx; 0 at a vector of zeros.

    Raises:
        TensorError: p is not 2.
    """
    name = "lp_normalize"
    check_eps(name, eps)
    if p != 2:
        raise TensorError(f"{name}: the gradient is known for p = 2, got p = {p:g}")
    cotangent(name, x, dy)
    over = reduced(name, x, layout, axes, "token")
    view, other = (tokens(name, float64(t, name), over) for t in (x, dy))
    block, g = view.block(0, view.samples), other.block(0, other.samples)
    norm = p_norm(block, 2.0, 2)
    unit = block / np.where(norm > 0, norm, 1.0)
    clamped = norm <= eps  # there the divisor is the constant eps
    pulled = np.where(clamped, g, g - unit * (g * unit).sum(axis=2, keepdims=True))
    divisor = np.maximum(norm, eps)
    dx = np.where(norm > 0, pulled / np.where(divisor > 0, divisor, 1.0), 0.0)
    return {"dx": to_input_layout(view, x, dx)}


@normalizer()
def pixel_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    eps: float = 1e-8,
    dtype: Dtype | None = None,
) -> Any:
    """Divide the channels of each pixel by their root mean square; no parameters.

    Formula:
        y = x / sqrt(mean_C x^2 + eps)
    Paper:
        Karras et al. 2018, arXiv 1710.10196, section 4.2
    Axes:
        C at every place
    Torch:
        F.rms_norm(x.movedim(1, -1), x.shape[1:2], eps=eps).movedim(-1, 1)

    >>> import numpy as np
    >>> pixel_norm(np.array([[3.0, 4.0]]), eps=0.0).round(4).tolist()
    [[0.8485, 1.1314]]
    """
    name = "pixel_norm"
    check_eps(name, eps)
    view = tokens(name, x, reduced(name, x, layout, "token"))
    return normalize(view, groups=view.rows, weight=None, bias=None, eps=eps, dtype=dtype, centred=False)


@normalizer()
def scale_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    scale: float | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Give every token the same L2 norm.

    Formula:
        y = scale * x / max(||x||_2, eps)
    Paper:
        Nguyen & Salazar 2019, arXiv 1910.05895
    Axes:
        C at every place
    Torch:
        scale * F.normalize(x, 2, -1, eps)
    Settings:
        scale: the norm to give, g of the paper [default: sqrt(C), where it starts]
        eps: smallest divisor

    >>> import numpy as np
    >>> scale_norm(np.array([[3.0, 4.0]]), scale=10.0).tolist()
    [[6.0, 8.0]]
    """
    name = "scale_norm"
    check_eps(name, eps)
    view = tokens(name, x, reduced(name, x, layout, "token"))
    g = math.sqrt(view.length) if scale is None else scale

    def compute(block: Array, start: int) -> Array:
        norm = np.maximum(p_norm(block, 2.0, 2), eps)
        return np.asarray(g * block / np.where(norm == 0, 1.0, norm))

    return view.map_numpy(dtype, compute)


@normalizer()
def tensor_norm(
    x: Tensor,
    *,
    p: float | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Normalize a tensor by the statistics of all its elements.

    Formula:
        y = (x - mean) / sqrt(var + eps), or with p: y = x / max(||x||_p, eps), p = 2 is Frobenius
    Axes:
        all
    Torch:
        F.layer_norm(x, x.shape, eps=eps)
    Settings:
        p: order of a norm to divide by, in place of mean and variance
        eps: added to the variance; with p the smallest divisor

    >>> import numpy as np
    >>> tensor_norm(np.array([1.0, 3.0]), eps=0.0).tolist(), tensor_norm(np.array([3.0, 4.0]), p=2).tolist()
    ([-1.0, 1.0], [0.6, 0.8])
    """
    name = "tensor_norm"
    check_eps(name, eps)
    view = tokens(name, x, range(len(x.shape)))
    if p is None:
        return normalize(view, groups=1, weight=None, bias=None, eps=eps, dtype=dtype)
    _order(name, p)

    def compute(block: Array, start: int) -> Array:
        norm = np.maximum(p_norm(block, p, 2), eps)
        return np.asarray(block / np.where(norm == 0, 1.0, norm))

    return view.map_numpy(dtype, compute)
