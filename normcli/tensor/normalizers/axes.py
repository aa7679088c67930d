"""Which axes a statistic is taken over, when that is the caller's choice."""

from collections.abc import Sequence

import numpy as np

from normcli.errors import UsageError
from normcli.tensor.normalizers.blocks import Array, Tensor
from normcli.tensor.normalizers.moments import numbers
from normcli.tensor.normalizers.views import channel_axis

# `token`, `image`, or axis numbers as in NumPy; the command line gives them as text, "2,3"
Axes = str | Sequence[int]


def numbered(name: str, axes: Axes, rank: int) -> tuple[int, ...]:
    """Read axis numbers, negative ones from the end.

    >>> numbered("layer_norm", "-1", 3), numbered("layer_norm", (1, 2), 3)
    ((2,), (1, 2))

    Raises:
        UsageError: not numbers, none, repeated, or not axes of the tensor.
    """
    try:
        found = [int(a) for a in (axes.split(",") if isinstance(axes, str) else axes)]
    except ValueError:
        raise UsageError(f"{name}: axes are token, image or numbers such as 2,3, got {axes!r}") from None
    inside = tuple(sorted(a + rank if a < 0 else a for a in found))
    if not inside or len(set(inside)) != len(inside) or inside[0] < 0 or inside[-1] >= rank:
        raise UsageError(f"{name}: axes of a tensor of rank {rank} are {-rank} to {rank - 1}, once each, got {axes}")
    return inside


def reduced(name: str, x: Tensor, layout: str | None, axes: Axes | None, default: str | None = None) -> tuple[int, ...]:
    """Settle the axes of a statistic: in increasing order, or the channel first where a layout tells it.

    Raises:
        UsageError: not given and not clear from the layout.
    """
    rank = len(x.shape)
    if axes is not None and not (isinstance(axes, str) and axes in ("token", "image")):
        if layout is not None:
            channel_axis(name, x, layout)
        return numbered(name, axes, rank)
    channel = channel_axis(name, x, layout)
    if axes is None:
        axes = default or ("token" if layout in (None, "NC", "NTC") else None)
    if axes is None:
        raise UsageError(f"{name}: layout {layout} needs --axes token (C only) or image (C and space)")
    return (channel,) if axes == "token" else (channel, *(a for a in range(1, rank) if a != channel))


def parameters(
    name: str, what: str, given: Array | None, x: Tensor, over: tuple[int, ...], axes: Axes | None
) -> Array | None:
    """Give a weight or bias of the reduced axes, in their order, as one row.

    It has the shape of those axes in the tensor; for `image` that of the channel alone serves too, and each
    number of the short row then stands for a run of neighbours.
    """
    full = tuple(x.shape[a] for a in sorted(over))
    short = (x.shape[over[0]],) if axes == "image" else full
    found = numbers(name, what, given, full, short)
    if found is None:
        return None
    if found.shape == full:
        found = found.transpose([sorted(over).index(a) for a in over])
    return np.ascontiguousarray(found).reshape(1, -1)


def reduce_to_parameter(total: Array, x: Tensor, over: tuple[int, ...], rank: int) -> Array:
    """Bring the gradient of a parameter, one number per element of a row, to the parameter's own shape."""
    table = total.reshape([x.shape[a] for a in over])
    if rank == 1 and len(over) > 1:
        return np.asarray(table.reshape(len(table), -1).sum(axis=1))
    return table.transpose([over.index(a) for a in sorted(over)])
