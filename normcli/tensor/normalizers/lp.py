"""Batch normalization by another norm than the standard deviation."""

import math
from functools import lru_cache
from typing import Literal

import numpy as np

from normcli.errors import UsageError, unknown
from normcli.tensor.normalizers.gradients import broadcast_channels, fixed_vjp, parameter_gradients, prepare_running_vjp
from normcli.tensor.normalizers.moments import affine, channel_moments
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    InitialState,
    Mode,
    prepare,
    require_two_values,
    update_running_stats,
)
from normcli.tensor.normalizers.views import WORKING_COPIES, Array, Dtype, Layout, Tensor, View, parallel_blocks

LpFormula = Literal["lp-gauss", "lp", "santurkar", "linf-hoffer", "linf-exact", "topk"]
FORMULAS = ("lp-gauss", "lp", "santurkar", "linf-hoffer", "linf-exact", "topk")
MAXIMAL = ("linf-hoffer", "linf-exact", "topk")  # norms of the largest deviations: p is infinite

INITIAL: InitialState = {"running_mean": 0.0, "running_scale": 1.0}


def gauss_constant(p: float) -> float:
    """Return c_p: c_p * (mean |z|^p)^(1/p) is the std of a Gaussian z.

    >>> round(gauss_constant(1), 6), round(gauss_constant(3), 6)
    (1.253314, 0.855743)
    """
    log = 0.5 * math.log(math.pi) - 0.5 * p * math.log(2.0) - math.lgamma((p + 1.0) / 2.0)
    return math.exp(log / p)


@lru_cache(maxsize=64)
def expected_maximum(count: int) -> float:
    """Return E_n, the expected largest |z| of n Gaussians: the integral of 1 - erf(t / sqrt 2)^n.

    >>> round(expected_maximum(128), 4)
    2.8276
    """
    # Simpson's rule; beyond t = 40 even 2^63 Gaussians have nothing
    steps, end = 8000, 40.0
    t = np.linspace(0.0, end, steps + 1)[1:]
    tail = np.array([math.erfc(v / math.sqrt(2.0)) for v in t])
    with np.errstate(divide="ignore"):
        inside = np.concatenate([[1.0], -np.expm1(count * np.log1p(-tail))])
    return float((inside[0] + inside[-1] + 4.0 * inside[1:-1:2].sum() + 2.0 * inside[2:-1:2].sum()) * end / steps / 3)


def hoffer_constant(count: int) -> float:
    """Return C(n) of norm_matters, by which the largest deviation is multiplied."""
    return (1.0 + math.sqrt(math.pi * math.log(4.0))) / math.sqrt(8.0 * math.log(count))


def _check(formula: str, p: float | None, k: int) -> float:
    """Return p: by default 2, or infinity for the norms of the largest deviations."""
    if formula not in FORMULAS:
        raise unknown("formula of lp_batch_norm", formula, FORMULAS)
    if p is None:
        p = math.inf if formula in MAXIMAL else 2.0
    if not p > 0:
        raise UsageError(f"p must be more than 0, got {p}")
    if formula in MAXIMAL and p != math.inf:
        raise UsageError(f"formula {formula} has p = inf, got p = {p}")
    if formula == "lp-gauss" and p == math.inf:
        raise UsageError("lp-gauss has no constant for p = inf: use linf-exact, linf-hoffer or lp")
    if k < 1:
        raise UsageError(f"k must be 1 or more, got {k}")
    return p


def _constant(formula: str, p: float, count: int) -> float:
    if formula == "lp-gauss":
        return gauss_constant(p)
    if formula in ("linf-hoffer", "topk"):
        return hoffer_constant(count)
    return 1.0 / expected_maximum(count) if formula == "linf-exact" else 1.0


def _norm(view: View, center: Array, p: float, k: int) -> Array:
    """Return (mean |x - center|^p)^(1/p) per channel; for p = inf the mean of the k largest."""
    table = _deviations(view, center, p, k)
    return np.asarray(table.mean(axis=1) if p == math.inf else table[:, 0] ** (1.0 / p))


def _deviations(view: View, center: Array, p: float, k: int) -> Array:
    """Return mean |x - center|^p (C,1); for p = inf the k largest (C,k), in rising order."""
    k = min(k, view.samples * view.length)
    keep = min(k, view.length)
    table = np.empty((view.samples, view.rows, keep))

    def compute_block(start: int, stop: int) -> None:
        z = np.abs(view.block(start, stop).astype(np.float64) - center[None, :, None])
        if p == math.inf:
            table[start:stop] = np.partition(z, view.length - keep, axis=2)[:, :, view.length - keep :]
        else:
            table[start:stop, :, 0] = (z**p).mean(axis=2)

    parallel_blocks(view.samples, view.sample_bytes, compute_block, copies=WORKING_COPIES)
    if p != math.inf:
        return np.asarray(table[:, :, 0].mean(axis=0)[:, None])
    return np.sort(table.transpose(1, 0, 2).reshape(view.rows, -1), axis=1)[:, -k:]


@normalizer(family="batch", state=INITIAL)
def lp_batch_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    formula: LpFormula = "lp-gauss",
    p: float | None = None,
    k: int = 10,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    dtype: Dtype | None = None,
) -> Normalized:
    """Normalize each channel by an Lp norm over the batch in place of the std.

    Formula:
        y = weight * (x - mean) / (s + eps) + bias, with z = x - mean and s one of
        lp-gauss: c_p * (mean |z|^p)^(1/p), unit variance on Gaussians; lp: the same with c_p = 1;
        santurkar: (mean |x|^p)^(1/p) of the uncentred x; linf-hoffer: C(m) * max |z|;
        linf-exact: max |z| / E_m, unit variance on Gaussians; topk: C(m) * mean of the k largest |z|.
    Paper:
        Hoffer et al. 2018, arXiv 1803.01814, section 4; Wu et al. 2018, arXiv 1802.09769;
        Santurkar et al. 2018, arXiv 1805.11604, section 3.3
    Axes:
        (N, S), one statistic per channel; the norm is taken over the batch, not averaged over samples
    State:
        running_mean, running_scale (the divisor without eps), num_batches_tracked
    Settings:
        formula: formula, one of the six that share the name
        p: order of the norm, 1, 2, inf or any above 0 [default: 2; inf for linf-hoffer, linf-exact, topk]
        k: number of largest deviations that topk averages
    Raises:
        TensorError: fewer than 2 values per channel in training; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0], [4.0]])
    >>> lp_batch_norm(x, formula="lp", p=float("inf"), eps=0.0).y.ravel().tolist()
    [-1.0, 0.0, 1.0]
    """
    p = _check(formula, p, k)
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, INITIAL)
    if mode == "eval":
        mean, divisor = running["running_mean"], running["running_scale"]
    else:
        count = view.samples * view.length
        require_two_values(count)
        mean = channel_moments(view).over(0).mean
        center = np.zeros(view.rows) if formula == "santurkar" else mean
        divisor = _constant(formula, p, count) * _norm(view, center, p, k if formula == "topk" else 1)
        running = update_running_stats(running, {"running_mean": mean, "running_scale": divisor}, update_rate)
    return Normalized(affine(view, mean, scale / (divisor + eps), shift, dtype), running.state)


@gradient("lp_batch_norm", "dx", "dweight", "dbias")
def lp_batch_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    formula: LpFormula = "lp-gauss",
    p: float | None = None,
    k: int = 10,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through lp_batch_norm; deviations as large as the least of the k largest share their part."""
    p = _check(formula, p, k)
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, INITIAL)
    view = vjp.view
    if mode == "eval":
        scale = 1.0 / (running["running_scale"] + eps)
        return fixed_vjp(x, vjp, running["running_mean"], scale, weight, bias)
    count = view.samples * view.length
    require_two_values(count)
    mean = channel_moments(view).over(0).mean
    centre = np.zeros(view.rows) if formula == "santurkar" else mean
    c = _constant(formula, p, count)
    largest = _deviations(view, centre, p, k if formula == "topk" else 1)
    q = broadcast_channels(largest.mean(axis=1) if p == math.inf else largest[:, 0] ** (1.0 / p))
    mean, centre = broadcast_channels(mean), broadcast_channels(centre)
    s = c * q + eps
    least, share = broadcast_channels(largest[:, 0]), np.ones((1, view.rows, 1))
    if p == math.inf:
        (ties,) = vjp.pair.tables(1, lambda _, x, g: ((np.abs(x - centre) == least).sum(axis=2),))
        share = broadcast_channels((largest == largest[:, :1]).sum(axis=1) / ties.sum(axis=0))

    def slope(x: Array) -> Array:
        """Return dq/dx times count."""
        deviation = x - centre
        size = np.abs(deviation)
        if p == math.inf:
            part = np.where(size == least, share, size > least)
            return np.asarray(np.sign(deviation) * part * (count / largest.shape[1]))
        return np.where(size > 0, np.sign(deviation) * size ** (p - 1.0) * q ** (1.0 - p), 0.0)

    tables = vjp.pair.tables(3, lambda _, x, g: ((g * (x - mean)).sum(axis=2), g.sum(axis=2), slope(x).sum(axis=2)))
    gamma = vjp.gamma[..., 0]
    along, level = (((gamma * t).sum(axis=0) / count)[None, :, None] for t in tables[:2])
    drift = broadcast_channels(tables[2].sum(axis=0) / count)
    strength = along * c / s**2
    constant = level / s - (0.0 if formula == "santurkar" else strength * drift)

    def pull(samples: slice, x: Array, g: Array) -> None:
        pulled = strength * slope(x)
        vjp.put(samples, g * vjp.weight_at(samples) / s - pulled - constant)

    vjp.pair.blocks(pull)
    return {"dx": vjp.dx, **parameter_gradients(x, (tables[0] / s[..., 0], tables[1]), weight, bias)}
