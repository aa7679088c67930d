"""Cosine normalization: a layer's output as the angle between input and weight."""

import math
from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers.gradients import Cotangent
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.views import (
    WORKING_COPIES,
    Array,
    Dtype,
    Tensor,
    View,
    cast,
    check_dtype,
    current_resources,
    parallel_blocks,
    read_float64,
    result_dtype,
    round_to_dtype,
)
from normcli.tensor.normalizers.weight import scale_rows


def _weight(weight: Any, features: int, centred: bool) -> Array:
    check_dtype("weight", weight)
    w = read_float64(weight)
    if w.ndim != 2 or w.shape[1] != features:
        raise TensorError(f"weight must have shape (K, {features}), the features of x, got {w.shape}")
    return w - w.mean(axis=1, keepdims=True) if centred else w


def _units(rows: Array, eps: float) -> tuple[Array, Array]:
    """Return rows divided by their norms, and the norms, at least eps."""
    scaled, exponent = scale_rows(rows, -1)
    norm = np.sqrt((scaled * scaled).sum(axis=-1, keepdims=True))
    unit = scaled / np.where(norm > 0, norm, 1.0)
    norm = np.ldexp(norm, exponent)
    return (np.where(norm < eps, rows / eps, unit) if eps else unit), np.maximum(norm, eps)


def _check_rank(x: Tensor) -> None:
    if len(x.shape) < 2:
        raise TensorError(f"x must be (N, ..., F), got shape {tuple(x.shape)}")
    if not x.shape[-1]:
        raise TensorError(f"F must be 1 or more, got shape {tuple(x.shape)}")


@normalizer()
def cosine_norm(
    x: Tensor,
    weight: Array,
    *,
    centred: bool = False,
    eps: float = 1e-8,
    dtype: Dtype | None = None,
) -> Any:
    """Compute the cosine between every input row and every weight row, plain or centered (Pearson).

    Formula:
        y[n, k] = w_k . x_n / (max(||w_k||, eps) * max(||x_n||, eps));
        centred: the mean of each row is subtracted first, on both sides
    Paper:
        Luo et al. 2017, arXiv 1702.05870
    Axes:
        the last: x is (N, ..., F), weight (K, F), y (N, ..., K)
    Torch:
        F.cosine_similarity(x[:, None], weight[None], dim=-1, eps=eps) for x of rank 2
    Settings:
        weight: the weight matrix, (K, F), a row for each output unit
        centred: Pearson correlation in place of the cosine
        eps: smallest norm that is divided by
    Raises:
        TensorError: the last axis of x is not the weight's.

    >>> import numpy as np
    >>> cosine_norm(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])).tolist()
    [[0.6, 0.8]]
    """
    _check_rank(x)
    w, _ = _units(_weight(weight, x.shape[-1], centred), eps)
    out_dtype = result_dtype(x, dtype)
    view = View(x, range(len(x.shape)), math.prod(x.shape[1:-1]))
    shape = (*x.shape[:-1], len(w))
    out = current_resources().allocate(shape, out_dtype)

    def compute_block(start: int, stop: int) -> None:
        block = view.block(start, stop).astype(np.float64)
        if centred:
            block = block - block.mean(axis=2, keepdims=True)
        y = np.clip(_units(block, eps)[0] @ w.T, -1.0, 1.0)
        out[start:stop] = cast(y.reshape(stop - start, *shape[1:]), out_dtype)

    if math.prod(shape):
        parallel_blocks(view.samples, max(view.sample_bytes, 1), compute_block, copies=WORKING_COPIES)
    return out


@gradient("cosine_norm", "dx", "dweight")
def cosine_norm_vjp(
    x: Tensor, weight: Array, dy: Tensor, *, centred: bool = False, eps: float = 1e-8
) -> dict[str, Array]:
    """Pull dy (N, ..., K) back through cosine_norm: dx and dweight; 0 at rows of zeros."""
    _check_rank(x)
    w = _weight(weight, x.shape[-1], centred)
    if tuple(dy.shape) != (*x.shape[:-1], len(w)):
        raise TensorError(f"dy must have shape {(*x.shape[:-1], len(w))}, got {tuple(dy.shape)}")
    wh, w_norm = _units(w, eps)
    rows = math.prod(x.shape[1:-1])
    pair = Cotangent(View(x, range(len(x.shape)), rows), View(dy, range(len(x.shape)), rows))
    dx = pair.view.allocate(None)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        if centred:
            x = x - x.mean(axis=2, keepdims=True)
        unit, norm = _units(x, eps)
        y = unit @ wh.T
        block = (g @ wh - (g * y).sum(axis=2, keepdims=True) * unit) / norm
        block[(x == 0).all(axis=2)] = 0.0
        pair.view.put(dx, samples.start, samples.stop, block)
        return np.tensordot(g, unit, ((0, 1), (0, 1))), (g * y).sum(axis=(0, 1))

    along, level = pair.sums([np.zeros(w.shape), np.zeros(len(w))], pull)
    dw = (along - level[:, None] * wh) / w_norm
    dw[(w == 0).all(axis=1)] = 0.0
    return {"dx": dx, "dweight": round_to_dtype(weight, dw)}
