"""Power normalization: a running mean square in place of batch statistics."""

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.blocks import WORKING_COPIES, Array, Tensor, parallel_blocks
from normcli.tensor.normalizers.moments import Moments
from normcli.tensor.normalizers.registry import Normalized, State, normalizer
from normcli.tensor.normalizers.running import COUNTER, Mode, prepare, unchanged
from normcli.tensor.normalizers.views import Dtype, Layout, View

STARTS: dict[str, float | Array] = {"running_phi": 1.0}


def _scaled(view: View, x: Array, groups: int, eps: float) -> Array:
    """Divide every group of channels at every place by its root mean square (GroupScaling)."""
    if not groups:
        return x
    parts = x.reshape(len(x), groups, view.rows // groups, view.length)
    return np.asarray(parts / np.sqrt((parts * parts).mean(axis=2, keepdims=True) + eps)).reshape(x.shape)


def exact_state(moments: Moments, *, groups: int = 1, **others: object) -> dict[str, Array]:
    """Give the state that precise statistics over all batches have.

    Raises:
        UsageError: with group scaling the moments of the input say nothing of the scaled tensor's.
    """
    if groups:
        raise UsageError("power_norm: exact statistics need groups = 0: the scaling comes before the mean square")
    return {"running_phi": moments.square}


@normalizer(state=tuple(STARTS), exact=exact_state)
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
        In warm-up running_phi first becomes the mean over all batches; each step then moves it on.
        Before all this, x is divided by the root mean square of its channel groups (GroupScaling).
    Paper:
        Shen et al. 2020, arXiv 2003.07845
    Axes:
        (N, S), one statistic per channel
    State:
        running_phi, num_batches_tracked
    Settings:
        groups: groups of channels for GroupScaling; 0 leaves it out
        warmup: how many batches use their own statistic
    Raises:
        TensorError: C is not a multiple of groups; an empty batch in training; no state in eval mode.

    >>> import numpy as np
    >>> power_norm(np.array([[3.0], [4.0]]), groups=0, eps=0.0).y.round(4).ravel().tolist()
    [0.8485, 1.1314]
    """
    name = "power_norm"
    view, old, batches, scale, shift = prepare(
        name, x, layout, mode, STARTS, state, weight, bias, eps=eps, update_rate=update_rate
    )
    if groups < 0 or (groups and view.rows % groups):
        raise TensorError(f"{name}: C must be a multiple of groups, got C = {view.rows}, groups = {groups}")
    if warmup < 0:
        raise UsageError(f"{name}: warmup must be 0 or more, got {warmup}")
    q, after = old["running_phi"], unchanged(old, batches)
    if mode == "train":
        if not view.samples * view.length:
            raise TensorError(f"{name}: training needs 1 or more values per channel, got 0")
        table = np.empty((view.samples, view.rows))

        def square(start: int, stop: int) -> None:
            block = _scaled(view, view.block(start, stop).astype(np.float64), groups, eps)
            table[start:stop] = (block * block).mean(axis=2)

        parallel_blocks(view.samples, view.sample_bytes, square, copies=WORKING_COPIES)
        new, step, phi = table.mean(axis=0), batches + 1, q
        if step <= warmup:
            phi, q = phi * (step - 1) / step + new / step, new
        after = {
            "running_phi": (1.0 - update_rate) * phi + update_rate * new,
            COUNTER: np.array(step, np.int64),
        }
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.broadcast_to(scale / np.sqrt(q + eps), (view.samples, view.rows))
    shifts = np.broadcast_to(shift, r.shape)

    def compute(x: Array, start: int) -> Array:
        rows = slice(start, start + len(x))
        return np.asarray(_scaled(view, x, groups, eps) * r[rows, :, None] + shifts[rows, :, None])

    return Normalized(view.map_numpy(dtype, compute), after)
