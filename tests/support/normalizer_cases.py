"""Inputs and outputs of normalizers whose variants are written here anew, to be identified."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normcli.storage.safetensors_format import bfloat16
from normcli.tensor import normalizers

Array = NDArray[Any]
Generator = np.random.Generator

DTYPES = ("float16", "bfloat16", "float32", "float64")
SHAPES = {
    "NC": (24, 16),
    "NCL": (5, 8, 20),
    "NTC": (4, 12, 24),
    "NLC": (5, 14, 8),
    "NCHW": (4, 8, 6, 7),
    "NHWC": (4, 6, 7, 8),
    "NCDHW": (3, 8, 3, 4, 4),
    "NDHWC": (3, 3, 4, 4, 8),
}


class Case(NamedTuple):
    """Tensors to identify, and the normalizer and settings that made them.

    Attributes:
        x: input.
        y: output.
        weight: given to identify.
        bias: given to identify.
        layout: given to identify.
        name: of the normalizer.
        settings: some of those that it must be named with.
        eps: that was used; None where the normalizer has none.
        place: inside or outside the root.
        variance: biased, unbiased, or None.
        form: weight, 1 + weight, none or solved.
        rounding: of a half type, or None.
    """

    x: Array
    y: Array
    weight: Array | None
    bias: Array | None
    layout: str | None
    name: str
    settings: dict[str, Any]
    eps: float | None
    place: str | None = "inside"
    variance: str | None = None
    form: str = "none"
    rounding: str | None = None


def dtype_of(name: str) -> np.dtype[Any]:
    """Return a type by name."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def spread_input(rng: Generator, shape: tuple[int, ...], dtype: np.dtype[Any], eps: float) -> Array:
    """Return an input whose sets differ in mean and in scale, from below the root of eps on: it shows epsilon."""
    low = math.log10(math.sqrt(eps)) - 0.7
    x = rng.standard_normal(shape)
    for axis in range(len(shape)):
        along = [n if a == axis else 1 for a, n in enumerate(shape)]
        x = x * 10.0 ** rng.uniform(low / len(shape), 0.4 / len(shape), along)
        x = x + 10.0**low * rng.standard_normal(along)
    return x.astype(dtype)


def rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return numbers rounded to a type, as float64."""
    return values.astype(np.float32 if dtype.name == "bfloat16" else dtype).astype(dtype).astype(np.float64)


def standardize(
    x: Array, axes: tuple[int, ...], *, centered: bool, eps: float, place: str = "inside", unbiased: bool = False
) -> Array:
    """Return x normalized over axes in float64."""
    x = x.astype(np.float64)
    count = math.prod(x.shape[a] for a in axes)
    z = x - x.mean(axis=axes, keepdims=True) if centered else x
    square = (z**2).sum(axis=axes, keepdims=True) / (count - 1 if unbiased else count)
    return np.asarray(z / (np.sqrt(square + eps) if place == "inside" else np.sqrt(square) + eps))


def grouped(x: Array, channel: int, groups: int, *, interleaved: bool, **how: Any) -> Array:
    """Return x normalized over groups of channels and space."""
    count = x.shape[channel] // groups
    parts = (count, groups) if interleaved else (groups, count)
    cut = x.reshape(*x.shape[:channel], *parts, *x.shape[channel + 1 :])
    kept = channel + interleaved
    return standardize(cut, tuple(a for a in range(1, cut.ndim) if a != kept), **how).reshape(x.shape)


def with_affine(n: Array, w: Array | None, b: Array | None, form: str, order: str, dtype: np.dtype[Any]) -> Array:
    """Return the affine of normalized numbers, rounded in an order."""
    if order != "once":
        n = rounded(n, dtype)
    if w is not None:
        n = n * (1.0 + w if form == "1 + weight" else w)
    if order == "after every step":
        n = rounded(n, dtype)
    return rounded(n if b is None else n + b, dtype).astype(dtype)


def standard_case(rng: Generator, dtype_name: str, layout: str, *, solve: bool = False) -> Case:
    """Return a case of a standard normalizer, its variants chosen at random."""
    dtype, shape = dtype_of(dtype_name), SHAPES[layout]
    channel, rank = layout.index("C"), len(layout)
    eps = float(rng.choice([1e-3, 1e-4, 1e-5, 3e-5, 2e-6, 1e-6] if dtype.itemsize > 2 else [1e-3, 1e-4, 1e-5, 3e-4]))
    place = str(rng.choice(["inside", "inside", "outside"]))
    if place == "outside":
        eps = max(eps, 1e-4)
    x = spread_input(rng, shape, dtype, eps if place == "inside" else eps**2)
    space = tuple(a for a in range(1, rank) if a != channel)
    kinds = ["layer", "rms", "group", "rms-image"] + (["instance"] if space else [])
    kind = str(rng.choice(kinds if solve else [*kinds, "batch"]))
    centered = not kind.startswith("rms")
    unbiased = bool(centered and not solve and rng.random() < 0.25)
    how: dict[str, Any] = {"centered": centered, "eps": eps, "place": place, "unbiased": unbiased}
    settings: dict[str, Any]
    if kind == "group":
        groups, interleaved = int(rng.choice([2, 4])), bool(rng.random() < 0.3)
        n = grouped(x, channel, groups, interleaved=interleaved, **how)
        name, settings = "group_norm", {"groups": groups, **({"order": "interleaved"} if interleaved else {})}
    else:
        axes = {
            "batch": tuple(a for a in range(rank) if a != channel),
            "instance": space,
            "layer": tuple(range(1, rank)) if rng.random() < 0.5 or layout == "NCL" else (channel,),
            "rms": (channel,),
            "rms-image": tuple(range(1, rank)),
        }[kind]
        n = standardize(x, axes, **how)
        name = {"batch": "batch_norm", "instance": "instance_norm", "layer": "layer_norm"}.get(kind, "rms_norm")
        settings = (
            {"mode": "train"} if kind == "batch" else {} if kind == "instance" else {"axes": ",".join(map(str, axes))}
        )
    affine = True if solve else rng.random() < 0.6
    w = (rng.normal(size=shape[channel]) + 0.3).astype(dtype if dtype.itemsize == 2 else np.float32)
    b = rng.normal(size=shape[channel]).astype(w.dtype)
    form = str(rng.choice(["weight", "1 + weight"])) if affine else "none"
    order = "once"
    if affine and dtype.itemsize == 2 and not solve:
        order = str(rng.choice(["once", "before the affine", "after every step"]))
    along = [shape[channel] if a == channel else 1 for a in range(rank)]
    wide = [v.astype(np.float64).reshape(along) if affine else None for v in (w, b)]
    y = with_affine(n, wide[0], wide[1], form, order, dtype)
    known = affine and not solve
    return Case(
        x, y, w if known else None, b if known else None, layout, name, settings, eps, place,
        None if solve or not centered else "unbiased" if unbiased else "biased",
        "solved" if solve else form, order if known and dtype.itemsize == 2 else None,
    )  # fmt: skip


def other_cases(rng: Generator, layout: str) -> Iterator[Case]:
    """Yield one case of each normalizer of the registry that is no standard one."""
    shape, nn = SHAPES[layout], normalizers
    channel = layout.index("C")
    how: dict[str, Any] = {"layout": layout}

    def of(name: str, shown: dict[str, Any] | None = None, **settings: Any) -> Case:
        dtype = dtype_of(str(rng.choice(["float32", "float64"])))
        eps = settings.get("eps", 1e-5)
        x = spread_input(rng, shape, dtype, min(eps, 1e-4) if eps else 1e-4)
        one = nn.find(name)
        result = one.function(x, **settings)
        y = np.asarray(result.y if isinstance(result, nn.Normalized) else result)
        named = settings if shown is None else shown
        named = {key: value for key, value in named.items() if key not in ("eps", "weight", "bias", "layout")}
        weight, bias = settings.get("weight"), settings.get("bias")
        form = "solved" if name == "scale_norm" else "none" if weight is None else "weight"
        return Case(x, y, weight, bias, layout, name, named, settings.get("eps"), None, None, form, None)

    eps = float(rng.choice([1e-5, 1e-4, 1e-3]))
    w, b = rng.normal(size=(2, shape[channel]))
    yield (
        of("ghost_batch_norm", batch=shape[0] // 2 if shape[0] % 2 == 0 else 1, eps=eps, **how)
        if shape[0] % 2 == 0
        else of("batch_renorm", {}, eps=eps, **how)
    )
    yield of("batch_renorm", {}, eps=eps, **how)
    yield of("mean_variance_norm", {}, eps=eps, **how)
    yield of("power_norm", groups=int(rng.choice([1, 2])), eps=eps, **how)
    yield of("noisy_batch_norm", seed=int(rng.integers(8)), eps=eps, **how)
    yield of("lp_batch_norm", formula="lp-gauss", p=1.0, eps=eps, **how)
    yield of("lp_batch_norm", formula=str(rng.choice(["linf-hoffer", "linf-exact", "topk"])), eps=eps, **how)
    yield of("zca_whitening", groups=2, eps=eps, **how)
    yield of("iter_norm", groups=2, iterations=5, eps=eps, **how)
    yield of("pixel_norm", {}, eps=eps, **how)
    yield of("tensor_norm", eps=eps)
    yield of("lp_normalize", {"p": 1.0}, p=1.0, eps=0.0, **how)
    yield of("scale_norm", {}, eps=0.0, scale=3.0, **how)
    yield of("weight_norm", dim=0)
    yield of("centred_weight_norm", dim=0)
    yield of("weight_standardization", dim=0, variant=str(rng.choice(["torch", "tf", "timm"])), eps=eps)
    yield of("weight_standardization", dim=0, variant="scaled")
    yield of("spectral_norm", dim=0)
    yield of("dynamic_tanh", {}, alpha=float(rng.uniform(0.4, 2.0)), weight=w, bias=b, **how)
    yield of("dynamic_erf", {}, alpha=0.7, shift=-0.2, weight=w, bias=b, **how)
    yield of("local_response_norm", size=int(rng.choice([3, 5])), window=str(rng.choice(["torch", "tf"])), **how)
    yield of("divisive_norm", eps=1.0, **how)
    yield of("evo_norm", variant="S0", groups=4, eps=eps, **how)
    yield of("evo_norm", variant="B0", eps=eps, **how) if len(shape) > 2 else of("tensor_norm", p=2.0)
    if len(shape) > 2:
        yield of("batch_instance_norm", {"rho": "solved"}, rho=rng.uniform(size=shape[channel]), eps=eps, **how)
        yield of("switchable_norm", eps=eps, **how)
        yield of("filter_response_norm", {}, eps=eps, weight=w, bias=b, **how)
        yield of("global_response_norm", {}, weight=w, bias=b, **how)
