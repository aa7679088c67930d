"""Axes of a statistic that the caller chooses, and the parameters of their shape."""

from collections.abc import Sequence

import numpy as np

from normcli.errors import UsageError
from normcli.tensor.normalizers.views import Array, Tensor, channel_axis, check_parameter

# `token`, `image`, or axis numbers as in NumPy; on the command line they are text, "2,3"
Axes = str | Sequence[int]


def axis_numbers(axes: Axes, rank: int) -> tuple[int, ...]:
    """Return axis numbers in increasing order, negative ones counted from the end.

    >>> axis_numbers("-1", 3), axis_numbers((1, 2), 3)
    ((2,), (1, 2))

    Raises:
        UsageError: not numbers, none, repeated, or not axes of the tensor.
    """
    try:
        numbers = [int(a) for a in (axes.split(",") if isinstance(axes, str) else axes)]
    except (TypeError, ValueError):
        raise UsageError(f"axes must be token, image or numbers such as 2,3, not {axes!r}") from None
    inside = tuple(sorted(a + rank if a < 0 else a for a in numbers))
    if not inside or len(set(inside)) != len(inside) or inside[0] < 0 or inside[-1] >= rank:
        raise UsageError(f"axes of a tensor of rank {rank} are {-rank} to {rank - 1}, once each, got {axes}")
    return inside


def reduced_axes(x: Tensor, layout: str | None, axes: Axes | None, default: str | None = None) -> tuple[int, ...]:
    """Return the axes of a statistic: in increasing order, or the channel first where a layout names it.

    Raises:
        UsageError: no axes, where the layout leaves them open.
    """
    rank = len(x.shape)
    if axes is not None and not (isinstance(axes, str) and axes in ("token", "image")):
        if layout is not None:
            channel_axis(x, layout)
        return axis_numbers(axes, rank)
    channel = channel_axis(x, layout)
    if axes is None:
        axes = default or ("token" if layout in (None, "NC", "NTC") else None)
    if axes is None:
        raise UsageError(f"layout {layout} requires `axes` token (C only) or image (C and space)")
    return (channel,) if axes == "token" else (channel, *(a for a in range(1, rank) if a != channel))


def axes_parameter(what: str, value: Array | None, x: Tensor, over: tuple[int, ...], axes: Axes | None) -> Array | None:
    """Return a weight or bias of the reduced axes, in their order, as one row.

    It has the shape of those axes in the tensor; for `image` that of the channel alone is accepted too, and each
    number of the short row then applies to a run of neighbors.
    """
    full = tuple(x.shape[a] for a in sorted(over))
    short = (x.shape[over[0]],) if axes == "image" else full
    row = check_parameter(what, value, full, short)
    if row is None:
        return None
    if row.shape == full:
        row = row.transpose([sorted(over).index(a) for a in over])
    return np.ascontiguousarray(row).reshape(1, -1)


def reduce_to_parameter(gradient: Array, x: Tensor, over: tuple[int, ...], parameter: Array | None) -> Array:
    """Reduce the gradient of a parameter, one number per element of a row, to the parameter's own shape."""
    table = gradient.reshape([x.shape[a] for a in over])
    if parameter is not None and not np.ndim(parameter):
        return np.asarray(table.sum())
    if parameter is not None and np.ndim(parameter) == 1 and len(over) > 1:
        return np.asarray(table.sum(axis=tuple(range(1, table.ndim))))
    return table.transpose([over.index(a) for a in sorted(over)])
