"""Normalizers to compute, with the settings that they may have."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from normcli.tensor.identify.names import Title
from normcli.tensor.identify.partition import channel_axes, divisors, layout_name
from normcli.tensor.identify.readings import Pair, Reading
from normcli.tensor.normalizers import Normalized, find
from normcli.tensor.normalizers.squashing import erf
from normcli.tensor.normalizers.views import Array

_SEEDS = 8
_RESPONSES = ((1e-4, 0.75, 1.0), (1e-4, 0.75, 2.0), (1.0, 0.5, 1.0), (1e-3, 0.75, 1.0))  # alpha, beta, k


class Trial(NamedTuple):
    """A normalizer to compute.

    Attributes:
        title: its name and settings.
        compute: of epsilon, before weight and bias.
        has_eps: epsilon is one of its settings.
        affine: weight and bias multiply and shift its result; otherwise it gets them itself.
        usual_eps: its default.
    """

    title: Title
    compute: Callable[[float], Array]
    has_eps: bool = True
    affine: bool = True
    usual_eps: float = 1e-5


def registry_trial(name: str, x: Array, layout: str, *, has_eps: bool = True, **settings: Any) -> Trial:
    """Return the trial of a normalizer with some settings."""
    one = find(name)

    def compute(eps: float) -> Array:
        extra = {"eps": eps} if has_eps else {}
        y = one.function(x, layout=layout, **settings, **extra)
        return np.asarray(y.y if isinstance(y, Normalized) else y)

    text = {key: value for key, value in settings.items() if key not in ("weight", "bias")}
    affine = not {"weight", "bias"} & set(settings)
    usual = one.settings["eps"].default if has_eps else 0.0
    return Trial((name, {"layout": layout, **text}), compute, has_eps, affine, usual)


def spectral_trial(x: Array, dim: int) -> Trial:
    """Return the trial of a weight divided by its largest singular value."""
    function = find("spectral_norm").function
    return Trial(("spectral_norm", {"dim": dim}), lambda _: np.asarray(function(x, dim=dim, method="exact").y), False)


def group_numbers(channels: int) -> list[int]:
    """Return the numbers of groups that channels can be divided into."""
    return sorted({1, *divisors(channels), channels})


def trials(pair: Pair, reading: Reading) -> Iterator[Trial]:
    """Yield the normalizers to compute for one reading of weight and bias."""
    rank = pair.x.ndim
    for channel in channel_axes(rank, pair.layout) if 2 <= rank <= 5 else ():
        layout = layout_name(rank, channel)
        yield from _grouped(pair.x, layout, pair.x.shape[channel])
        yield from _local(pair.x, layout)
        yield from _squashing(pair, reading)
        if rank > 2:
            yield _batch_instance(pair, reading, layout)
        yield from _with_affine(pair, reading, layout, channel)


def _grouped(x: Array, layout: str, channels: int) -> Iterator[Trial]:
    for groups in group_numbers(channels):
        yield registry_trial("zca_whitening", x, layout, groups=groups)
        for iterations in (5, 3):  # more tend to zca_whitening
            yield registry_trial("iter_norm", x, layout, groups=groups, iterations=iterations)
        yield registry_trial("evo_norm", x, layout, variant="S0", groups=groups)
    yield registry_trial("evo_norm", x, layout, variant="B0")
    for variance in ("biased", "unbiased"):
        yield registry_trial("switchable_norm", x, layout, variance=variance)


def _local(x: Array, layout: str) -> Iterator[Trial]:
    for side in (5, 3, 7, 1):
        for other in (5, 3, 7, 1):
            yield registry_trial("divisive_norm", x, layout, sum_size=side, suppression_size=other)
    for window in ("torch", "onnx", "tf"):
        for size in (2, 4) if window == "onnx" else (5, 3, 7, 9, 2, 4, 1):  # for odd sizes the two are the same
            for alpha, beta, k in _RESPONSES:
                settings = {"size": size, "alpha": alpha, "beta": beta, "k": k, "window": window}
                yield registry_trial("local_response_norm", x, layout, has_eps=False, **settings)


def _before_affine(pair: Pair, reading: Reading) -> Array:
    """Return Y before its weight and bias, NaN where the weight is 0."""
    with np.errstate(all="ignore"):
        y = pair.y if reading.bias is None else pair.y - reading.bias
        return y if reading.weight is None else np.where(reading.weight == 0, np.nan, y / reading.weight)


def _squashing(pair: Pair, reading: Reading) -> Iterator[Trial]:
    """Yield the trials of dynamic_tanh and dynamic_erf, solved for where they are not flat."""
    y = _before_affine(pair, reading)
    with np.errstate(all="ignore"):
        steep = (np.abs(y) > 0.05) & (np.abs(y) < 0.9) & (pair.x != 0)
        if steep.any():
            alpha = float(np.median(np.arctanh(y[steep]) / pair.x[steep]))
            settings = {"alpha": f"{alpha:.6g}"}
            yield Trial(("dynamic_tanh", settings), lambda _: np.tanh(alpha * pair.x), has_eps=False)
        inside = (np.abs(y) < 0.9) & np.isfinite(pair.x)
        if np.count_nonzero(inside) > 2 and np.ptp(pair.x[inside]) > 0:
            slope, shift = (float(v) for v in np.polyfit(pair.x[inside], _inverse_erf(y[inside]), 1))
            settings = {"alpha": f"{slope:.6g}", "shift": f"{shift:.6g}" if abs(shift) > 1e-6 else "0"}
            yield Trial(("dynamic_erf", settings), lambda _: erf(slope * pair.x + shift), has_eps=False)


def _inverse_erf(y: Array) -> Array:
    """Return the inverse of the error function between -0.9 and 0.9, by Newton's steps from its slope at 0."""
    t = y * (math.sqrt(math.pi) / 2.0)
    for _ in range(12):
        t = t - (erf(t) - y) * (math.sqrt(math.pi) / 2.0) * np.exp(t * t)
    return np.asarray(t)


def _batch_instance(pair: Pair, reading: Reading, layout: str) -> Trial:
    """Return the trial of batch_instance_norm, whose shares are solved for."""
    axes = tuple(a for a in range(pair.x.ndim) if a != layout.index("C"))
    y = _before_affine(pair, reading)

    def compute(eps: float) -> Array:
        batch = find("batch_norm").function(pair.x, layout=layout, eps=eps).y
        instance = find("instance_norm").function(pair.x, layout=layout, eps=eps)
        difference = batch - instance
        square = np.nansum(difference**2, axis=axes, keepdims=True)
        along = np.nansum((y - instance) * difference, axis=axes, keepdims=True)
        share = along / np.where(square > 0, square, 1.0)
        return np.asarray(instance + np.clip(share, 0.0, 1.0) * difference)

    return Trial(("batch_instance_norm", {"layout": layout, "rho": "solved"}), compute)


def _with_affine(pair: Pair, reading: Reading, layout: str, channel: int) -> Iterator[Trial]:
    """Yield the trials of normalizers whose result depends on weight and bias in ways of its own."""
    shape = pair.x.shape
    settings: dict[str, Any] = {"weight": None, "bias": None}
    for name, value in (("weight", reading.weight), ("bias", reading.bias)):
        if value is not None:
            full = np.moveaxis(np.broadcast_to(value, shape), channel, 0)
            settings[name] = full.reshape(shape[channel], math.prod(shape) // shape[channel])[:, 0]
    if len(shape) > 2:
        yield registry_trial("global_response_norm", pair.x, layout, **settings)
    for seed in range(_SEEDS):
        yield registry_trial("noisy_batch_norm", pair.x, layout, seed=seed, **settings)
