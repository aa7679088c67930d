"""Running statistics: a state checked on input, and updated by a batch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers.registry import LABELS, State
from normcli.tensor.normalizers.views import Array, Tensor, View, channels, check_dtype, per_channel

Mode = Literal["train", "eval"]

COUNTER = "num_batches_tracked"

# name of a statistic -> its initial value: a number for every channel, an array, or a function of C
InitialState = Mapping[str, float | Array | Callable[[int], Array]]


@dataclass(frozen=True)
class RunningStats:
    """Running statistics as float64 copies, and the number of batches behind them."""

    values: dict[str, Array]
    batches: int

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    @property
    def state(self) -> dict[str, Array]:
        """Return the state to return and to save."""
        return {**self.values, COUNTER: np.array(self.batches, np.int64)}


def load_state(state: State | None, mode: str, initial: InitialState, channels: int) -> RunningStats:
    """Return the statistics to start from.

    Args:
        state: running statistics of earlier batches, or None.
        mode: train or eval.
        initial: the statistics before the first batch.
        channels: C of the tensor.

    Raises:
        TensorError: no state in eval mode, or one with other keys or other channels.
    """
    if state is None:
        if mode == "eval":
            raise TensorError(f"eval mode requires running statistics ({', '.join(initial)}): set `state`")
        return RunningStats({name: _initial_value(value, channels) for name, value in initial.items()}, 0)
    missing = [name for name in initial if name not in state]
    unknown = [name for name in state if name not in (*initial, COUNTER, *LABELS)]
    if missing or unknown:
        problem = f"lacks {', '.join(missing)}" if missing else f"has an unknown key {unknown[0]!r}"
        raise TensorError(f"the state {problem}; it must have {', '.join((*initial, COUNTER))}")
    values = {}
    for name, value in initial.items():
        check_dtype(f"state {name}", np.asarray(state[name]))
        values[name] = np.array(state[name], np.float64)
        expected = _initial_value(value, channels).shape
        if values[name].shape != expected:
            raise TensorError(f"state {name} has shape {values[name].shape}, but C = {channels} needs {expected}")
    counter = np.asarray(state.get(COUNTER, 0))
    if (
        counter.ndim
        or counter.dtype.kind not in "iuf"
        or not (0 <= counter < 2**63 - 1 and counter == np.floor(counter))
    ):
        raise TensorError(f"state {COUNTER} must be one integer, 0 or more, got {_shown(counter)}")
    return RunningStats(values, int(counter))


def _shown(counter: Array) -> str:
    return f"shape {counter.shape}" if counter.ndim else str(counter)


def _initial_value(value: float | Array | Callable[[int], Array], channels: int) -> Array:
    if callable(value):
        return value(channels)
    return np.full(channels, value) if isinstance(value, float) else np.array(value)


class Prepared(NamedTuple):
    """The arguments that all normalizers with running statistics share, checked and read.

    Attributes:
        view: the tensor as (N, C, S).
        running: the statistics before this batch.
        scale: weight, (C) or (N, C).
        shift: bias, (C) or (N, C).
    """

    view: View
    running: RunningStats
    scale: Array
    shift: Array


def prepare(
    x: Tensor,
    layout: str | None,
    weight: Array | None,
    bias: Array | None,
    state: State | None,
    mode: str,
    initial: InitialState,
) -> Prepared:
    """Check and read the arguments of a normalizer with running statistics.

    Raises:
        UsageError: the layout is unknown or ambiguous.
        TensorError: the layout, the state or a parameter does not fit the tensor.
    """
    view = channels(x, layout)
    running = load_state(state, mode, initial, view.rows)
    return Prepared(view, running, per_channel(view, "weight", weight, 1.0), per_channel(view, "bias", bias, 0.0))


def update_running_stats(
    running: RunningStats, batch: Mapping[str, Array], update_rate: float, cumulative: bool = False
) -> RunningStats:
    """Return the statistics after a batch: old + update_rate * (batch - old), or the plain mean over batches."""
    rate = 1.0 / (running.batches + 1) if cumulative else update_rate
    values: dict[str, Array] = {key: (1.0 - rate) * old + rate * batch[key] for key, old in running.values.items()}
    return RunningStats(values, running.batches + 1)


def debiased_rate(update_rate: float, batches: int) -> float:
    """Return the weight of a batch in a moving average without initial values: 1 for the first batch.

    The average of t batches is that which started at 0, divided by 1 - (1 - update_rate)^t.

    >>> debiased_rate(0.1, 0), round(debiased_rate(0.5, 1), 4)
    (1.0, 0.6667)
    """
    return (
        update_rate and update_rate / -math.expm1((batches + 1) * math.log1p(-update_rate)) if update_rate < 1 else 1.0
    )


def require_two_values(count: int) -> None:
    """Reject a batch with no variance.

    Raises:
        TensorError: fewer than 2 values per channel.
    """
    if count < 2:
        raise TensorError(
            f"training requires 2 or more values per channel, not {count} (use more samples, or eval mode)"
        )


def require_spatial(count: int) -> None:
    """Reject instance statistics of a single value.

    Raises:
        TensorError: fewer than 2 values per sample and channel.
    """
    if count < 2:
        raise TensorError(f"2 or more values per sample and channel are required, not {count}")
