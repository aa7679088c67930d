"""Running statistics: checked on the way in, moved towards a batch's on the way out."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.moments import check_eps, per_channel
from normcli.tensor.normalizers.registry import State
from normcli.tensor.normalizers.views import View, channels

Mode = Literal["train", "eval"]

COUNTER = "num_batches_tracked"

# what a state file says of itself, beside the statistics
LABELS = ("normalizer", "preset")


def load_state(
    name: str, state: State | None, mode: str, starts: Mapping[str, float | Array], channels: int
) -> tuple[dict[str, Array], int]:
    """Give the statistics to start from, as float64 copies, and the number of batches behind them.

    Args:
        name: the normalizer.
        state: running statistics given, or None.
        mode: train or eval.
        starts: name of each statistic -> its start, a number for every channel or an array.
        channels: C of the tensor.

    Raises:
        UsageError: a mode that is neither train nor eval.
        TensorError: no state in eval mode, one of another normalizer, or of other channels.
    """
    if mode not in ("train", "eval"):
        raise UsageError(f"{name}: mode is train or eval, got {mode!r}")
    fresh = {k: np.full(channels, s) if isinstance(s, float) else np.array(s) for k, s in starts.items()}
    if state is None:
        if mode == "eval":
            raise TensorError(f"{name}: eval mode needs running statistics ({', '.join(starts)}): give a state")
        return fresh, 0
    check(name, state, starts)
    found = {}
    for key, start in fresh.items():
        value = np.asarray(state[key], np.float64)
        if value.shape != start.shape:
            raise TensorError(f"{name}: state {key} has shape {value.shape}, but C = {channels} needs {start.shape}")
        found[key] = value.copy()
    return found, int(np.asarray(state.get(COUNTER, 0)))


class Prepared(NamedTuple):
    """What a normalizer with running statistics begins with.

    Attributes:
        view: the tensor as (N, C, S).
        old: the statistics before this batch.
        batches: how many batches are behind them.
        scale: weight, (C) or (N, C).
        shift: bias, (C) or (N, C).
    """

    view: View
    old: dict[str, Array]
    batches: int
    scale: Array
    shift: Array


def prepare(
    name: str,
    x: Tensor,
    layout: str | None,
    mode: str,
    starts: Mapping[str, float | Array],
    state: State | None,
    weight: Array | None,
    bias: Array | None,
    *,
    eps: float,
    update_rate: float,
) -> Prepared:
    """Check what all normalizers with running statistics are given, and read it.

    Raises:
        UsageError: eps, update_rate or mode cannot be.
        TensorError: the layout, the state or a weight does not fit the tensor.
    """
    check_eps(name, eps)
    check_rate(name, update_rate)
    view = channels(name, x, layout)
    old, batches = load_state(name, state, mode, starts, view.rows)
    scale = per_channel(name, "weight", weight, view, 1.0)
    return Prepared(view, old, batches, scale, per_channel(name, "bias", bias, view, 0.0))


def check(name: str, state: Mapping[str, Any], keys: Mapping[str, Any]) -> None:
    """Refuse a state that is another normalizer's.

    Raises:
        TensorError: the state names another normalizer, lacks a statistic, or has one that is not known.
    """
    owner = str(state["normalizer"]) if "normalizer" in state else name
    if owner != name:
        raise TensorError(f"{name}: the state is one of {owner}")
    missing = [key for key in keys if key not in state]
    unknown = [key for key in state if key not in (*keys, COUNTER, *LABELS)]
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has an unknown key {unknown[0]!r}"
        raise TensorError(f"{name}: the state {wrong}; it must hold {', '.join((*keys, COUNTER))}")


def update_running_stats(
    old: Mapping[str, Array],
    new: Mapping[str, Array],
    batches: int,
    update_rate: float,
    cumulative: bool = False,
) -> dict[str, Array]:
    """Move every statistic: old + update_rate * (new - old), or the plain mean over batches."""
    rate = 1.0 / (batches + 1) if cumulative else update_rate
    moved: dict[str, Array] = {key: (1.0 - rate) * old[key] + rate * new[key] for key in old}
    moved[COUNTER] = np.array(batches + 1, np.int64)
    return moved


def unchanged(old: Mapping[str, Array], batches: int) -> dict[str, Array]:
    """Give the state back unchanged, as eval mode does."""
    return {**old, COUNTER: np.array(batches, np.int64)}


def check_rate(name: str, update_rate: float) -> None:
    """Refuse an update rate that is not a share.

    Raises:
        UsageError: outside of 0 to 1.
    """
    if not 0.0 <= update_rate <= 1.0:
        raise UsageError(f"{name}: update_rate is the weight of the new value, 0 to 1, got {update_rate}")


def require_two_values(name: str, count: int) -> None:
    """Refuse a batch whose variance says nothing.

    Raises:
        TensorError: fewer than 2 values per channel.
    """
    if count < 2:
        raise TensorError(
            f"{name}: training needs 2 or more values per channel, got {count}: more samples, or eval mode"
        )
