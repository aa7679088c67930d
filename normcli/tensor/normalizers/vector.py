"""Vectors divided by a norm of their own: no mean, or no variance."""

import math
from typing import Any, Literal

import numpy as np

from normcli.errors import UsageError, unknown
from normcli.kernels.rows import affine_rows
from normcli.tensor.normalizers.axes import Axes, axes_parameter, reduced_axes
from normcli.tensor.normalizers.gradients import prepare_rows_vjp, row_parameter_gradients, zeros_of_row
from normcli.tensor.normalizers.moments import tensor_moments
from normcli.tensor.normalizers.registry import gradient, normalizer, statistics
from normcli.tensor.normalizers.views import (
    WORKING_COPIES,
    Array,
    Dtype,
    Layout,
    Tensor,
    View,
    cast,
    normalize,
    parallel_blocks,
    result_dtype,
    tokens,
)

RmsVariant = Literal["torch", "original", "llama", "gemma"]


def _rms_settings(variant: str, eps: float | None, fraction: float, length: int, x: Tensor) -> tuple[float, int]:
    """Return eps and the number of elements that the mean square is taken from."""
    if variant not in ("torch", "original", "llama", "gemma"):
        raise unknown("variant of rms_norm", variant, ("torch", "original", "llama", "gemma"))
    if not 0.0 < fraction <= 1.0:
        raise UsageError(f"fraction must be more than 0 and at most 1, got {fraction}")
    if eps is None:
        wide = np.float64 if result_dtype(x) == np.float64 else np.float32
        eps = {"original": 1e-8, "llama": 1e-6, "gemma": 1e-6}.get(variant, float(np.finfo(wide).eps))
    head = int(fraction * length)
    if length and not head:
        raise UsageError(f"fraction {fraction} selects none of {length} elements")
    return eps, head


@normalizer(
    family="layer",
    presets={
        "torch": {},
        "keras": {"eps": 1e-6},
        "flax": {"eps": 1e-6},
        "haiku": {"eps": 1e-5},
        "equinox": {"eps": 1e-5},
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
        axes: token, image, or axis numbers; default token for NC and NTC, required for images
        variant: whose rms_norm
        fraction: share of the first elements that the mean square is taken from (pRMSNorm)
        eps: added to the mean square [default: 1.2e-07, float64 2.2e-16; original 1e-08; llama, gemma 1e-06]

    Raises:
        UsageError: axes not given for an image layout; fraction out of range.

    >>> import numpy as np
    >>> rms_norm(np.array([[3.0, 4.0]])).round(4).tolist()
    [[0.8485, 1.1314]]
    """
    over = reduced_axes(x, layout, axes)
    view = tokens(x, over)
    eps, head = _rms_settings(variant, eps, fraction, view.length, x)
    w = axes_parameter("weight", weight, x, over, axes)
    b = axes_parameter("bias", bias, x, over, axes)
    if variant == "llama" and w is not None:
        row = np.repeat(w.ravel(), view.length // w.size)
        shift = 0.0 if b is None else np.repeat(b.ravel(), view.length // b.size)

        def formula(x: Array) -> Array:
            normal = x / np.sqrt((x[..., :head] ** 2).mean(axis=2, keepdims=True) + eps)
            return np.asarray(cast(normal, view.dtype).astype(np.float64) * row + shift)

        return view.map_numpy(formula, dtype=dtype)
    if variant == "gemma" and w is not None:
        w = 1.0 + w
    return normalize(view, w, b, eps, dtype, centered=False, eps_outside=variant == "original", head=head)


@statistics("rms_norm", "inverse_rms")
def rms_norm_statistics(
    x: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    variant: RmsVariant = "torch",
    fraction: float = 1.0,
    eps: float | None = None,
) -> dict[str, Array]:
    """Return the number that each token is multiplied by, in float64, with the axes of x: those reduced have length 1.

    It is 1 / sqrt(mean x^2 + eps), of the variant original 1 / (sqrt(mean x^2) + eps).
    """
    over = reduced_axes(x, layout, axes)
    view = tokens(x, over)
    eps, head = _rms_settings(variant, eps, fraction, view.length, x)
    square = np.zeros((view.samples, view.rows))

    def compute_block(start: int, stop: int) -> None:
        square[start:stop] = (view.block(start, stop)[..., :head].astype(np.float64) ** 2).mean(axis=2)

    if view.size:
        parallel_blocks(view.samples, view.sample_bytes, compute_block)
    root = np.sqrt(square) + eps if variant == "original" else np.sqrt(square + eps)
    return {"inverse_rms": (1.0 / root).reshape([1 if a in over else n for a, n in enumerate(x.shape)])}


@gradient("rms_norm", "dx", "dweight", "dbias")
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
    over = reduced_axes(x, layout, axes)
    pair, dx = prepare_rows_vjp(x, dy, over)
    view = pair.view
    eps, head = _rms_settings(variant, eps, fraction, view.length, x)
    w = axes_parameter("weight", weight, x, over, axes)
    axes_parameter("bias", bias, x, over, axes)
    factor = np.ones(1) if w is None or not view.size else np.repeat(w.ravel(), view.length // w.size)
    factor = 1.0 + factor if variant == "gemma" and w is not None else factor
    inside = np.arange(view.length) < head

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        pulled = g * factor
        square = (x[..., :head] ** 2).mean(axis=2, keepdims=True)
        along = (pulled * x).sum(axis=2, keepdims=True) / head
        if variant == "original":
            root = np.sqrt(square)
            s = root + eps
            slope = np.where(root > 0, along / (root * s * s), 0.0)
        else:
            s = np.sqrt(square + eps)
            slope = along / s**3
        view.put(dx, samples.start, samples.stop, pulled / s - inside * x * slope)
        return (g * x / s).sum(axis=(0, 1)), g.sum(axis=(0, 1))

    dweight, dbias = pair.sums([zeros_of_row(x, over)] * 2, pull)
    return {"dx": dx, **row_parameter_gradients(x, dweight, dbias, over, weight)}


def check_order(p: float) -> None:
    """Reject an order of a norm that is not above 0.

    Raises:
        UsageError: it is not.
    """
    if not p > 0:
        raise UsageError(f"p must be more than 0, got {p}")


def p_norm(x: Array, p: float, axis: int | tuple[int, ...]) -> Array:
    """Return (sum |x|^p)^(1/p) along axes that stay with length 1; scaled by the largest, so that nothing overflows."""
    size = np.abs(x)
    top = size.max(axis=axis, keepdims=True, initial=0.0)
    if p == math.inf:
        return np.asarray(top)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = ((size / np.where(top > 0, top, 1.0)) ** p).sum(axis=axis, keepdims=True)
    return np.asarray(top * total ** (1.0 / p))


def _divide_by_norm(view: View, p: float, eps: float, dtype: str | None, factor: float | None = None) -> Any:
    """Return factor * x / max(||x||_p, eps) for each row of a view; a row of zeros stays."""

    def formula(x: Array) -> Array:
        norm = np.maximum(p_norm(x, p, 2), eps)
        return np.asarray((x if factor is None else factor * x) / np.where(norm == 0, 1.0, norm))

    return view.map_numpy(formula, dtype=dtype)


@normalizer(family="layer", presets={"torch": {}, "keras": {"axes": "-1"}, "onnx": {"axes": "-1", "eps": 0.0}})
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
    check_order(p)
    return _divide_by_norm(tokens(x, reduced_axes(x, layout, axes, "token")), p, eps, dtype)


@gradient("lp_normalize", "dx")
def lp_normalize_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    p: float = 2.0,
    eps: float = 1e-12,
) -> dict[str, Array]:
    """Pull dy back through lp_normalize: dx; 0 at a vector of zeros."""
    check_order(p)
    pair, dx = prepare_rows_vjp(x, dy, reduced_axes(x, layout, axes, "token"))

    def pull(samples: slice, x: Array, g: Array) -> None:
        pair.view.put(dx, samples.start, samples.stop, pull_norm(x, g, p, eps))

    pair.blocks(pull)
    return {"dx": dx}


def pull_norm(x: Array, g: Array, p: float, eps: float) -> Array:
    """Pull a cotangent of rows back through x / max(||x||_p, eps); 0 at a row of zeros, shared by tied maxima."""
    norm = p_norm(x, p, 2)
    unit = x / np.where(norm > 0, norm, 1.0)
    size = np.abs(unit)
    if p == math.inf:
        largest = size == 1.0
        slope = np.sign(unit) * largest / np.maximum(largest.sum(axis=2, keepdims=True), 1)
    else:
        slope = np.sign(unit) * np.where(size > 0, size, 1.0) ** (p - 1.0)
    clamped = norm <= eps  # there the divisor is the constant eps
    pulled = np.where(clamped, g, g - slope * (g * unit).sum(axis=2, keepdims=True))
    divisor = np.maximum(norm, eps)
    return np.where(norm > 0, pulled / np.where(divisor > 0, divisor, 1.0), 0.0)


@normalizer(family="layer")
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
    return normalize(tokens(x, reduced_axes(x, layout, "token")), None, None, eps, dtype, centered=False)


@normalizer(family="layer")
def scale_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    scale: float | None = None,
    eps: float = 1e-5,
    dtype: Dtype | None = None,
) -> Any:
    """Scale every token to the same L2 norm.

    Formula:
        y = scale * x / max(||x||_2, eps)
    Paper:
        Nguyen & Salazar 2019, arXiv 1910.05895
    Axes:
        C at every place
    Torch:
        scale * F.normalize(x, 2, -1, eps)
    Settings:
        scale: the norm of the result, g of the paper [default: sqrt(C), where it starts]
        eps: smallest divisor

    >>> import numpy as np
    >>> scale_norm(np.array([[3.0, 4.0]]), scale=10.0).tolist()
    [[6.0, 8.0]]
    """
    view = tokens(x, reduced_axes(x, layout, "token"))
    return _divide_by_norm(view, 2.0, eps, dtype, math.sqrt(view.length) if scale is None else scale)


@normalizer(family="layer")
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
    view = tokens(x, range(1, len(x.shape)))
    if p is not None:
        check_order(p)
    if not view.size:
        return view.allocate(dtype)
    if p is None:
        moments = tensor_moments(view)
        scale = 1.0 / np.sqrt(moments.var + eps)
        tables = (moments.mean, scale, -moments.low * scale)
        return view.map_kernel(
            lambda x, y, turns, line: affine_rows(x, y, turns, *tables, line), dtype=dtype, one_row=True
        )
    norm = np.maximum(_norm_of_all(view, p), eps)
    return view.map_numpy(lambda x: np.asarray(x / (norm or 1.0)), dtype=dtype)


def _norm_of_all(view: View, p: float) -> float:
    """Return the Lp norm of all elements: that of the blocks' norms."""
    parts: dict[int, float] = {}

    def compute_block(start: int, stop: int) -> None:
        parts[start] = float(p_norm(view.block(start, stop).astype(np.float64).ravel(), p, 0)[0])

    parallel_blocks(view.samples, view.sample_bytes, compute_block, copies=WORKING_COPIES)
    return float(p_norm(np.array([parts[start] for start in sorted(parts)]), p, 0)[0])
