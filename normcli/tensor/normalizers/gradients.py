"""Vector-Jacobian products, by blocks of samples: x and dy in, dx out, and sums for the gradients of parameters."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from normcli.errors import TensorError
from normcli.platforms import usable_cpus
from normcli.tensor.normalizers.axes import reduce_to_parameter
from normcli.tensor.normalizers.moments import Moments
from normcli.tensor.normalizers.registry import State
from normcli.tensor.normalizers.running import InitialState, RunningStats, load_state
from normcli.tensor.normalizers.views import (
    Array,
    Tensor,
    View,
    block_samples,
    channels,
    check_dtype,
    current_resources,
    parallel_blocks,
    per_channel,
    read_all,
    round_to_dtype,
    tokens,
)

# the most that a block of x costs while its gradient is computed, as a multiple of its bytes: both blocks, their
# float64 copies (twice as large) and about six temporaries of that size
_COPIES = 18


def standard_vjp(g: Array, normal: Array, scale: Array, axes: tuple[int, ...]) -> Array:
    """Pull a cotangent back through (x - mean_A) * scale, scale = 1 / sqrt(var_A + eps)."""
    return np.asarray(scale * (g - mean_over(g, axes) - normal * mean_over(normal * g, axes)))


def mean_over(values: Array, axes: int | tuple[int, ...]) -> Array:
    """Return means along axes, which stay with length 1; 0 if there is nothing."""
    total = values.sum(axis=axes, keepdims=True)
    return np.asarray(total / max(values.size // max(total.size, 1), 1))


def check_cotangent(x: Tensor, dy: Tensor) -> None:
    """Reject a cotangent of another shape than the tensor's.

    Raises:
        TensorError: the shapes differ.
        UnsupportedTensorError: its elements are not real numbers.
    """
    check_dtype("dy", dy)
    if tuple(dy.shape) != tuple(x.shape):
        raise TensorError(f"dy must have the shape of x, {tuple(x.shape)}, got {tuple(dy.shape)}")


class Cotangent(NamedTuple):
    """A tensor and its cotangent, with the same view.

    Attributes:
        view: of x.
        other: of dy.
    """

    view: View
    other: View

    def blocks(self, compute: Callable[[slice, Array, Array], None]) -> None:
        """Call compute(samples, x, g) for float64 blocks (n, rows, length) of x and dy, in any order."""

        def compute_block(start: int, stop: int) -> None:
            x, g = (t.block(start, stop).astype(np.float64, copy=False) for t in self)
            compute(slice(start, stop), x, g)

        if self.view.size:
            parallel_blocks(self.view.samples, self.view.sample_bytes, compute_block, copies=_COPIES)

    def tables(self, count: int, compute: Callable[[slice, Array, Array], tuple[Array, ...]]) -> list[Array]:
        """Return sums over space as `count` tables (N, rows), each a part (n, rows) of the result of compute."""
        tables = list(np.zeros((count, self.view.samples, self.view.rows)))

        def compute_block(samples: slice, x: Array, g: Array) -> None:
            for table, part in zip(tables, compute(samples, x, g), strict=True):
                table[samples] = part

        self.blocks(compute_block)
        return tables

    def sums(self, zeros: list[Array], compute: Callable[[slice, Array, Array], tuple[Array, ...]]) -> list[Array]:
        """Return the sums of the arrays that compute returns, added in the order of the samples.

        Args:
            zeros: an array of zeros for each.
            compute: called as by `blocks`.
        """
        view, totals = self.view, [np.array(zero) for zero in zeros]
        step = block_samples(view.sample_bytes)
        turn = step * (current_resources().threads or usable_cpus())  # so many parts are in memory at a time
        for first in range(0, view.samples if view.size else 0, turn):
            parts: dict[int, tuple[Array, ...]] = {}

            def compute_block(start: int, stop: int, first: int = first, parts: dict[int, Any] = parts) -> None:
                start, stop = first + start, first + stop
                x, g = (t.block(start, stop).astype(np.float64, copy=False) for t in self)
                parts[start] = compute(slice(start, stop), x, g)

            samples = min(turn, view.samples - first)
            parallel_blocks(samples, view.sample_bytes, compute_block, copies=_COPIES)
            for start in sorted(parts):
                for total, part in zip(totals, parts[start], strict=True):
                    total += part
        return totals


class ChannelVjp(NamedTuple):
    """The arguments that the vjps of channels share, and the tensor for their result.

    Attributes:
        pair: x and dy as (N, C, S).
        gamma: the weight, (1 or N, C, 1).
        dx: takes the gradient of x.
    """

    pair: Cotangent
    gamma: Array
    dx: Any

    @property
    def view(self) -> View:
        """Return the view of x."""
        return self.pair.view

    def weight_at(self, samples: slice) -> Array:
        """Return the weight of a block, (1 or n, C, 1)."""
        return self.gamma if len(self.gamma) == 1 else self.gamma[samples]

    def put(self, samples: slice, dx: Array) -> None:
        """Write a block of the gradient."""
        self.view.put(self.dx, samples.start, samples.stop, dx)


def prepare_vjp(
    x: Tensor,
    dy: Tensor,
    layout: str | None,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    default: float = 1.0,
) -> ChannelVjp:
    """Check the arguments of a vjp; a weight that is absent is `default`."""
    check_cotangent(x, dy)
    pair = Cotangent(channels(x, layout), channels(dy, layout))
    gamma = broadcast_channels(per_channel(pair.view, "weight", weight, default))
    per_channel(pair.view, "bias", bias, 0.0)
    return ChannelVjp(pair, gamma, pair.view.allocate(None))


def prepare_running_vjp(
    x: Tensor,
    dy: Tensor,
    layout: str | None,
    weight: Array | None,
    bias: Array | None,
    state: State | None,
    mode: str,
    initial: InitialState,
) -> tuple[ChannelVjp, RunningStats]:
    """Check the arguments of a vjp of a normalizer with running statistics, and read its state: the twin of `prepare`.

    Raises:
        TensorError: a shape, the layout, the state or a parameter does not fit the tensor.
    """
    vjp = prepare_vjp(x, dy, layout, weight, bias)
    return vjp, load_state(state, mode, initial, vjp.view.rows)


def prepare_rows_vjp(x: Tensor, dy: Tensor, over: tuple[int, ...]) -> tuple[Cotangent, Any]:
    """Return x and dy as rows of the axes `over`, and the tensor for the gradient."""
    check_cotangent(x, dy)
    pair = Cotangent(tokens(x, over), tokens(dy, over))
    return pair, pair.view.allocate(None)


def broadcast_channels(parameter: Array) -> Array:
    """Return a parameter (C) or (N, C) with the axes of (N, C, S)."""
    return parameter[..., None] if parameter.ndim == 2 else parameter[None, :, None]


class Noise(Protocol):
    """A factor of every element, which samples are taken of."""

    def __getitem__(self, samples: slice, /) -> Array:
        """Return the factors of samples, (n, C, S)."""


def batch_vjp(
    vjp: ChannelVjp, moments: Moments, scale: Array, factor: Array | float = 1.0, noise: "Noise | None" = None
) -> tuple[Array, Array]:
    """Write dx of factor * (x - mean) * scale over the batch; return sums of g and of g * normal, (N, C).

    Args:
        vjp: the arguments.
        moments: of the batch, per channel.
        scale: 1 / std, (1, C, 1).
        factor: constant per channel, (1, C, 1).
        noise: factor of every element of some samples, (n, C, S).
    """
    mean = broadcast_channels(moments.mean)

    def add(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        g = g if noise is None else g * noise[samples]
        return g.sum(axis=2), (g * ((x - mean) * scale)).sum(axis=2)

    bias, weight = vjp.pair.tables(2, add)
    gamma = vjp.gamma[..., 0]
    level, along = (((gamma * t).sum(axis=0) / moments.count)[None, :, None] for t in (bias, weight))

    def pull(samples: slice, x: Array, g: Array) -> None:
        normal = (x - mean) * scale
        g = g if noise is None else g * noise[samples]
        vjp.put(samples, factor * scale * (g * vjp.weight_at(samples) - level - normal * along))

    vjp.pair.blocks(pull)
    return bias, weight


def _eval_tables(vjp: ChannelVjp, mean: Array, scale: Array) -> tuple[Array, Array]:
    """Write dx of (x - mean) * scale, both fixed; return sums of g * normal and of g, (N, C).

    Args:
        vjp: the arguments.
        mean: per channel.
        scale: per channel.
    """
    center, factor = broadcast_channels(mean), broadcast_channels(scale)

    def pull(samples: slice, x: Array, g: Array) -> tuple[Array, Array]:
        vjp.put(samples, g * vjp.weight_at(samples) * factor)
        return (g * ((x - center) * factor)).sum(axis=2), g.sum(axis=2)

    dweight, dbias = vjp.pair.tables(2, pull)
    return dweight, dbias


def fixed_vjp(
    x: Tensor, vjp: ChannelVjp, mean: Array, scale: Array, weight: Array | None, bias: Array | None
) -> dict[str, Array]:
    """Return all gradients of eval mode, where mean and scale are fixed.

    Args:
        x: the tensor.
        vjp: the arguments.
        mean: per channel.
        scale: per channel.
        weight: as given.
        bias: as given.
    """
    tables = _eval_tables(vjp, mean, scale)
    return {"dx": vjp.dx, **parameter_gradients(x, tables, weight, bias)}


def read_completely(vjp: ChannelVjp) -> tuple[Array, Array]:
    """Read x and dy as float64 (N, C, S), for a formula that needs all samples together.

    Raises:
        TensorError: they do not fit into the memory allowed.
    """
    read_all(vjp.view.x, copies=_COPIES)
    x, dy = (t.block(0, t.samples).astype(np.float64, copy=False) for t in vjp.pair)
    return x, dy


def sum_to_parameter(x: Tensor, table: Array, parameter: Array | None) -> Array:
    """Sum the gradient (N, C) of a parameter to its own shape, (C) where it is absent."""
    rank = 1 if parameter is None else np.ndim(parameter)
    return round_to_dtype(x, table if rank == 2 else table.sum(axis=0) if rank else table.sum())


def parameter_gradients(
    x: Tensor, tables: tuple[Array, Array], weight: Array | None, bias: Array | None
) -> dict[str, Array]:
    """Sum the gradients of weight and bias to the shapes of weight and bias.

    Args:
        x: the tensor.
        tables: gradients of the weight and the bias of every sample, (N, C).
        weight: as given.
        bias: as given.
    """
    return {"dweight": sum_to_parameter(x, tables[0], weight), "dbias": sum_to_parameter(x, tables[1], bias)}


def zeros_of_row(x: Tensor, over: tuple[int, ...]) -> Array:
    """Return a row of zeros for the sums of a parameter of the axes `over`."""
    return np.zeros(math.prod(x.shape[a] for a in over))


def row_parameter_gradients(
    x: Tensor, dweight: Array, dbias: Array, over: tuple[int, ...], weight: Array | None
) -> dict[str, Array]:
    """Reduce the gradients of weight and bias, one number for each element of a row, to the shape of the weight."""
    return {
        key: round_to_dtype(x, reduce_to_parameter(values, x, over, weight))
        for key, values in (("dweight", dweight), ("dbias", dbias))
    }
