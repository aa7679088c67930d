"""Normalizers of weights: the input is a kernel or a matrix, not activations."""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from normcli.errors import TensorError, UsageError, unknown
from normcli.tensor.normalizers.gradients import check_cotangent, mean_over
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.units import Units
from normcli.tensor.normalizers.views import Array, Dtype, Tensor, check_parameter, read_float64, round_to_dtype

At = Callable[[Array], Array]


def out_axis(rank: int, dim: int) -> int | None:
    """Return the axis of the output units; None is the complete tensor, dim = -1 as in torch.

    Raises:
        UsageError: not an axis of the tensor.
    """
    if dim == -1:
        return None
    if not 0 <= dim < rank:
        if not rank:
            raise UsageError(f"a single number has no axis of output units: dim must be -1, got {dim}")
        raise UsageError(f"dim must be -1 (the complete tensor) or 0 to {rank - 1}, got {dim}")
    return dim


def _rest(axis: int | None, rank: int) -> tuple[int, ...]:
    return tuple(a for a in range(rank) if a != axis)


def _factor(what: str, value: Array | None, shape: tuple[int, ...], axis: int | None) -> Array:
    """Return a factor per output unit with the axes of the weight."""
    units = tuple(n if a == axis else 1 for a, n in enumerate(shape))
    factor = check_parameter(what, value, (math.prod(units),), units, *([()] if axis is None else []))
    return np.ones(units) if factor is None else factor.reshape(units)


def scale_rows(v: Array, axis: int | tuple[int, ...], lowest: int = -1100) -> tuple[Array, Array]:
    """Return rows times powers of 2 that bring their largest elements to 0.5-1, and the exponents taken out.

    Exponents below the lowest are raised to it.

    Squares of float64 underflow below 1e-154 and overflow above 1e154; a power of 2 changes no other bit.

    >>> scale_rows(np.array([[3e-200, 4e-200]]), 1)[1].tolist()
    [[-662]]
    """
    exponent = row_exponents(np.abs(v).max(axis=axis, keepdims=True, initial=0.0), lowest)
    return np.ldexp(v, -exponent), exponent


def row_exponents(largest: Array, lowest: int = -1100) -> Array:
    """Return the exponent of the largest element of each row, at least `lowest`; 0 for NaN and infinity."""
    return np.maximum(np.where(np.isfinite(largest), np.frexp(largest)[1], 0), lowest)


def _magnitude(at: At, v: Array, *_: Array) -> Array:
    return np.abs(v)


def _reject_zero_rows(norm: Array) -> None:
    zero = np.flatnonzero(norm == 0)
    if zero.size:
        where = f"row {zero[0]}" if norm.size > 1 else "the tensor"
        raise TensorError(f"{where} has norm 0 and no direction ({zero.size} of {norm.size} such)")


@normalizer(family="weight", presets={"torch": {}, "flax": {"dim": "last"}, "paper": {}})
def weight_norm(
    x: Tensor,
    *,
    dim: int = 0,
    g: Array | None = None,
    dtype: Dtype | None = None,
) -> Any:
    """Scale the weights of every output unit to a length of their own: direction and length apart.

    Formula:
        w = g * v / ||v||, the norm over all axes but dim
    Paper:
        Salimans & Kingma 2016, arXiv 1602.07868, section 2
    Axes:
        all but dim
    Torch:
        torch._weight_norm(v, g, dim)
    Settings:
        dim: axis of the output units: 0 in torch, the last in Keras and flax; -1 is the complete tensor
        g: length per output unit [default: 1; torch starts at ||v||, which changes nothing]

    Raises:
        TensorError: a row of norm 0.

    >>> import numpy as np
    >>> weight_norm(np.array([[3.0, 4.0], [0.0, 2.0]])).tolist()
    [[0.6, 0.8], [0.0, 1.0]]
    """
    axis = out_axis(len(x.shape), dim)
    length = _factor("g", g, tuple(x.shape), axis)
    weight = Units(axis, x)
    if not math.prod(weight.shape):
        return round_to_dtype(x, np.zeros(x.shape), dtype)
    exponent = row_exponents(weight.largest(_magnitude))

    def square(at: At, v: Array) -> Array:
        v = np.ldexp(v, -at(exponent))
        return v * v

    norm = np.sqrt(weight.sum(square))
    _reject_zero_rows(norm)
    return weight.map(lambda at, v: at(length) * np.ldexp(v, -at(exponent)) / at(norm), dtype)


@gradient("weight_norm", "dx", "dg")
def weight_norm_vjp(x: Tensor, dy: Tensor, *, dim: int = 0, g: Array | None = None) -> dict[str, Array]:
    """Pull dw back through weight_norm: dx (of v) and dg; 0 at a row of norm 0."""
    check_cotangent(x, dy)
    axis = out_axis(len(x.shape), dim)
    length = _factor("g", g, tuple(x.shape), axis)
    weight = Units(axis, x, dy)
    exponent = row_exponents(weight.largest(_magnitude))

    def square(at: At, v: Array, _: Array) -> Array:
        v = np.ldexp(v, -at(exponent))
        return v * v

    norm = np.sqrt(weight.sum(square))
    safe = np.where(norm > 0, norm, 1.0)
    dg = weight.sum(lambda at, v, dw: dw * (np.ldexp(v, -at(exponent)) / at(safe)))

    def pull(at: At, v: Array, dw: Array) -> Array:
        unit = np.ldexp(v, -at(exponent)) / at(safe)
        dv = np.ldexp(at(length) / at(safe) * (dw - at(dg) * unit), -at(exponent))
        return np.where(at(norm) > 0, dv, 0.0)

    return {
        "dx": weight.map(pull),
        "dg": round_to_dtype(
            x,
            dg.reshape(dg.shape if x.shape else ())
            if g is None
            else dg.sum()
            if not np.ndim(g)
            else dg.reshape(np.shape(g)),
        ),
    }


@normalizer(family="weight", presets={"torch": {}, "paper": {}})
def centred_weight_norm(
    x: Tensor,
    *,
    dim: int = 0,
    g: Array | None = None,
    divisor: Literal["norm", "std"] = "norm",
    dtype: Dtype | None = None,
) -> Any:
    """Center the weights of every output unit, then scale them to a length.

    Formula:
        w = g * (v - mean v) / ||v - mean v||
    Paper:
        Huang et al. 2017, ICCV, Centred Weight Normalization
    Axes:
        all but dim
    Settings:
        dim: axis of the output units: 0 in torch, the last in Keras and flax; -1 is the complete tensor
        g: length per output unit [default: 1]
        divisor: norm (the paper), or std (unbiased), the repository's unitLength=false
    Raises:
        TensorError: a row without variation.

    >>> import numpy as np
    >>> centred_weight_norm(np.array([[1.0, 3.0]])).round(4).tolist()
    [[-0.7071, 0.7071]]
    """
    axis = out_axis(len(x.shape), dim)
    length = _factor("g", g, tuple(x.shape), axis)
    weight = Units(axis, x)
    if not math.prod(weight.shape):
        return round_to_dtype(x, np.zeros(x.shape), dtype)
    first = row_exponents(weight.largest(_magnitude))
    mean = weight.sum(lambda at, v: np.ldexp(v, -at(first))) / weight.count

    def centered(at: At, v: Array) -> Array:
        return np.ldexp(v, -at(first)) - at(mean)

    second = row_exponents(weight.largest(lambda at, v: np.abs(centered(at, v))))

    def scaled(at: At, v: Array) -> Array:
        return np.ldexp(centered(at, v), -at(second))

    norm = np.sqrt(weight.sum(lambda at, v: np.square(scaled(at, v))))
    _reject_zero_rows(norm)
    if divisor == "std":
        norm = norm / math.sqrt(max(weight.count - 1, 1))
    elif divisor != "norm":
        raise UsageError(f"divisor must be norm or std, not {divisor!r}")
    return weight.map(lambda at, v: at(length) * scaled(at, v) / at(norm), dtype)


# variant -> unbiased variance, where eps sits, its default
STANDARDS: dict[str, tuple[bool, str, float]] = {
    "torch": (True, "E2", 1e-5),
    "tf": (False, "E2", 1e-5),
    "timm": (False, "E1", 1e-6),
    "scaled": (False, "E4", 1e-4),
    "scaled-timm": (False, "E1", 1e-6),
}


@normalizer(family="weight")
def weight_standardization(
    x: Tensor,
    *,
    dim: int = 0,
    variant: Literal["torch", "tf", "timm", "scaled", "scaled-timm"] = "torch",
    gain: Array | None = None,
    gamma: float | None = None,
    eps: float | None = None,
    dtype: Dtype | None = None,
) -> Any:
    """Standardize the weights of every output unit to mean 0 and std 1, or std 1/sqrt(fan-in).

    Formula:
        torch: (w - mean) / (unbiased std + eps); tf: (w - mean) / (std + eps);
        timm: (w - mean) / sqrt(var + eps);
        scaled: gain * (w - mean) / sqrt(max(var * fan_in, eps));
        scaled-timm: gain * gamma / sqrt(fan_in) * (w - mean) / sqrt(var + eps)
    Paper:
        Qiao et al. 2019, arXiv 1903.10520; scaled: Brock et al. 2021, arXiv 2101.08692 (NFNets)
    Axes:
        all but dim
    Settings:
        dim: axis of the output units: 0 in torch, the last in Keras and flax
        variant: whose standardization
        gain: factor per output unit, of the scaled variants [default: 1]
        gamma: constant of the activation, of scaled-timm, e.g. 1.7139588594 for ReLU [default: 1]
        eps: see the formula [default: 1e-05; timm and scaled-timm 1e-06; scaled 1e-04]

    Raises:
        UsageError: gain or gamma for a variant that has none.

    >>> import numpy as np
    >>> weight_standardization(np.array([[1.0, 3.0]]), variant="tf", eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    if variant not in STANDARDS:
        raise unknown("variant of weight_standardization", variant, STANDARDS)
    unbiased, form, default = STANDARDS[variant]
    if gain is not None and not variant.startswith("scaled"):
        raise UsageError(f"gain requires a scaled variant, not {variant}")
    if gamma is not None and variant != "scaled-timm":
        raise UsageError(f"gamma requires variant scaled-timm, not {variant}")
    eps = default if eps is None else eps
    axis = out_axis(len(x.shape), dim)
    factor = _factor("gain", gain, tuple(x.shape), axis)
    weight = Units(axis, x)
    fan_in = weight.count if x.shape else 1
    if fan_in < 2:
        raise TensorError(f"2 or more weights per output unit are required, not {fan_in}")
    # bounded, so that eps, scaled likewise, does not overflow
    exponent = row_exponents(weight.largest(_magnitude), -500 if eps else -1100)
    eps_norm, eps_var = np.ldexp(eps, -exponent), np.ldexp(eps, -2 * exponent)
    mean = weight.sum(lambda at, w: np.ldexp(w, -at(exponent))) / fan_in

    def centered(at: At, w: Array) -> Array:
        return np.ldexp(w, -at(exponent)) - at(mean)

    var = weight.sum(lambda at, w: np.square(centered(at, w))) / (fan_in - 1 if unbiased else fan_in)
    if form == "E2":
        scale = np.sqrt(var) + eps_norm
    elif form == "E4":
        scale = np.sqrt(np.maximum(var * fan_in, eps_var))
    else:
        scale = np.sqrt(var + eps_var)
    constant = factor * (1.0 if gamma is None else gamma) / math.sqrt(fan_in)

    def standardized(at: At, w: Array) -> Array:
        z = at(factor) * centered(at, w) if form == "E4" else centered(at, w)
        y = z / at(scale)
        return at(constant) * y if variant == "scaled-timm" else y

    return weight.map(standardized, dtype)


@gradient("centred_weight_norm", "dx", "dg")
def centred_weight_norm_vjp(
    x: Tensor, dy: Tensor, *, dim: int = 0, g: Array | None = None, divisor: Literal["norm", "std"] = "norm"
) -> dict[str, Array]:
    """Pull dw back through centred_weight_norm: dx (of v) and dg; 0 at a row without variation."""
    check_cotangent(x, dy)
    v, dw = read_float64(x), read_float64(dy)
    axis = out_axis(v.ndim, dim)
    rest = _rest(axis, v.ndim)
    length = _factor("g", g, v.shape, axis)
    count = math.prod(v.shape[a] for a in rest)
    level = math.sqrt(max(count - 1, 1)) if divisor == "std" else 1.0
    v, exponent = scale_rows(v, rest)
    z = v - mean_over(v, rest)
    norm = np.sqrt((z * z).sum(axis=rest, keepdims=True))
    safe = np.where(norm > 0, norm, 1.0)
    unit = z / safe
    dg = (dw * unit).sum(axis=rest, keepdims=True)
    pulled = length * level / safe * (dw - dg * unit)
    dv = np.where(norm > 0, np.ldexp(pulled - mean_over(pulled, rest), -exponent), 0.0)
    return {"dx": round_to_dtype(x, dv), "dg": _gradient_of_factor(x, level * dg, g)}


@gradient("weight_standardization", "dx", "dgain")
def weight_standardization_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    dim: int = 0,
    variant: Literal["torch", "tf", "timm", "scaled", "scaled-timm"] = "torch",
    gain: Array | None = None,
    gamma: float | None = None,
    eps: float | None = None,
) -> dict[str, Array]:
    """Pull dw back through weight_standardization: dx, and dgain of the scaled variants."""
    check_cotangent(x, dy)
    if variant not in STANDARDS:
        raise unknown("variant of weight_standardization", variant, STANDARDS)
    unbiased, form, default = STANDARDS[variant]
    eps = default if eps is None else eps
    w, dw = read_float64(x), read_float64(dy)
    axis = out_axis(w.ndim, dim)
    rest = _rest(axis, w.ndim)
    count = math.prod(w.shape[a] for a in rest)
    level = (1.0 if gamma is None else gamma) / math.sqrt(count) if variant == "scaled-timm" else 1.0
    factor = level * _factor("gain", gain, w.shape, axis)
    z = w - mean_over(w, rest)
    divided = count - 1 if unbiased else count
    var = (z * z).sum(axis=rest, keepdims=True) / divided
    if form == "E2":
        std = np.sqrt(var)
        s, slope = std + eps, 0.5 / np.where(std > 0, std, np.inf)
    elif form == "E4":
        s = np.sqrt(np.maximum(var * count, eps))
        slope = np.where(var * count > eps, 0.5 * count / s, 0.0)
    else:
        s = np.sqrt(var + eps)
        slope = 0.5 / s
    along = (dw * z).sum(axis=rest, keepdims=True)
    dx = factor * (dw / s - along / (s * s) * slope * 2.0 * z / divided)
    dgain = level * along / s
    return {
        "dx": round_to_dtype(x, dx - mean_over(dx, rest)),
        "dgain": _gradient_of_factor(x, dgain, gain),
    }


def _gradient_of_factor(x: Tensor, gradient: Array, factor: Array | None) -> Array:
    """Return the gradient of a factor per output unit in the shape of the factor."""
    shape = gradient.shape if factor is None else np.shape(factor)
    return round_to_dtype(x, gradient.sum() if factor is not None and not shape else gradient.reshape(shape))
