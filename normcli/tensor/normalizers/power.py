"""Power normalization: a running mean square in place of batch statistics."""

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.gradients import (
    broadcast_channels,
    mean_over,
    parameter_gradients,
    prepare_running_vjp,
    read_completely,
)
from normcli.tensor.normalizers.moments import Moments
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import (
    InitialState,
    Mode,
    RunningStats,
    prepare,
    update_running_stats,
)
from normcli.tensor.normalizers.views import (
    WORKING_COPIES,
    Array,
    Dtype,
    Layout,
    Tensor,
    View,
    check_groups,
    parallel_blocks,
)

INITIAL: InitialState = {"running_phi": 1.0}


def _scale_groups(view: View, x: Array, groups: int, eps: float) -> Array:
    """Divide every group of channels at every place by its root mean square (GroupScaling)."""
    if not groups:
        return x
    parts = x.reshape(len(x), groups, view.rows // groups, view.length)
    return np.asarray(parts / np.sqrt((parts * parts).mean(axis=2, keepdims=True) + eps)).reshape(x.shape)


def _mean_square(view: View, groups: int, eps: float) -> Array:
    """Return the mean square of each channel over the batch, after group scaling.

    Raises:
        TensorError: an empty batch.
    """
    if not view.samples * view.length:
        raise TensorError("training requires 1 or more values per channel, got 0")
    table = np.empty((view.samples, view.rows))

    def compute_block(start: int, stop: int) -> None:
        block = _scale_groups(view, view.block(start, stop).astype(np.float64), groups, eps)
        table[start:stop] = (block * block).mean(axis=2)

    parallel_blocks(view.samples, view.sample_bytes, compute_block, copies=WORKING_COPIES)
    return np.asarray(table.mean(axis=0))


def exact_state(moments: Moments, *, groups: int = 1, **others: object) -> dict[str, Array]:
    """Return the state of precise statistics over all batches.

    Raises:
        UsageError: with group scaling, whose moments cannot be computed from those of the input.
    """
    if groups:
        raise UsageError("exact statistics need groups = 0: the scaling comes before the mean square")
    return {"running_phi": moments.square}


@normalizer(family="batch", state=INITIAL, exact=exact_state)
def power_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    groups: int = 1,
    warmup: int = 10000,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    dtype: Dtype | None = None,
) -> Normalized:
    """Divide each channel by a running root mean square; no mean is subtracted.

    Formula:
        y = weight * x / sqrt(q + eps) + bias; q = mean x^2 of the batch during warm-up and running_phi after.
        Before the last batch of it running_phi first becomes the mean over all batches; each step then moves it on.
        Before all this, x is divided by the root mean square of its channel groups (GroupScaling).
    Paper:
        Shen et al. 2020, arXiv 2003.07845
    Axes:
        (N, S), one statistic per channel
    State:
        running_phi, num_batches_tracked
    Settings:
        groups: groups of channels for GroupScaling; 0 leaves it out
        warmup: number of batches that use their own statistic
    Raises:
        TensorError: C is not a multiple of groups; an empty batch in training; no state in eval mode.

    >>> import numpy as np
    >>> power_norm(np.array([[3.0], [4.0]]), groups=0, eps=0.0).y.round(4).ravel().tolist()
    [0.8485, 1.1314]
    """
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, INITIAL)
    if groups:
        check_groups(view.rows, groups)
    if warmup < 0:
        raise UsageError(f"warmup must be 0 or more, got {warmup}")
    q = running["running_phi"]
    if mode == "train":
        batch, step = _mean_square(view, groups, eps), running.batches + 1
        if step < warmup:  # strictly, unlike q: as in the authors' code
            running = RunningStats({"running_phi": q * (step - 1) / step + batch / step}, running.batches)
        if step <= warmup:
            q = batch
        running = update_running_stats(running, {"running_phi": batch}, update_rate)
    r = scale / np.sqrt(q + eps)

    def formula(x: Array, r: Array, shift: Array) -> Array:
        return np.asarray(_scale_groups(view, x, groups, eps) * r + shift)

    return Normalized(view.map_numpy(formula, r, shift, dtype=dtype), running.state)


@gradient("power_norm", "dx", "dweight", "dbias")
def power_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    layout: Layout | None = None,
    groups: int = 1,
    warmup: int = 10000,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> dict[str, Array]:
    """Pull dy back through power_norm: dx, dweight, dbias, exactly; the paper's own backward pass is approximate."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, INITIAL)
    view = vjp.view
    if groups:
        check_groups(view.rows, groups)
    values, g = read_completely(vjp)
    scaled = _scale_groups(view, values, groups, eps)
    own = mode == "train" and running.batches + 1 <= warmup
    square = (scaled * scaled).mean(axis=(0, 2)) if own else running["running_phi"]
    s = np.sqrt(broadcast_channels(square) + eps)
    pulled = g * vjp.gamma
    dscaled = pulled / s
    if own:
        dscaled = dscaled - scaled * mean_over((pulled * scaled), (0, 2)) / s**3
    if groups:
        rows = (len(values), groups, view.rows // groups, view.length)
        parts, d = values.reshape(rows), dscaled.reshape(rows)
        root = np.sqrt(mean_over((parts * parts), 2) + eps)
        dscaled = (d / root - parts * mean_over((d * parts), 2) / root**3).reshape(values.shape)
    vjp.put(slice(0, len(values)), dscaled)
    tables = (g * scaled / s).sum(axis=2), g.sum(axis=2)
    return {"dx": vjp.dx, **parameter_gradients(x, tables, weight, bias)}
