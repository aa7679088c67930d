"""Sets of elements that share a statistic: the reduced axes, and an axis cut into groups."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from normcli.tensor.normalizers.views import LAYOUTS, Array

Shape = tuple[int, ...]


class Partition(NamedTuple):
    """A partition of a tensor's elements.

    Attributes:
        axes: reduced, in increasing order.
        split: one of them that is cut into groups; None is none.
        groups: number of groups.
        interleaved: index i is in group i mod groups, not in runs of neighbors.
        channel: axis of the channels, None where the partition has none.
    """

    axes: tuple[int, ...]
    split: int | None = None
    groups: int = 1
    interleaved: bool = False
    channel: int | None = None

    def rows(self, x: Array) -> Array:
        """Return a tensor as (sets, elements)."""
        axes = self.axes
        if self.split is not None:
            inside = x.shape[self.split] // self.groups
            parts = (inside, self.groups) if self.interleaved else (self.groups, inside)
            x = x.reshape(*x.shape[: self.split], *parts, *x.shape[self.split + 1 :])
            reduced = self.split + (not self.interleaved)
            axes = tuple(reduced if a == self.split else a + (a > self.split) for a in axes)
        rest = [a for a in range(x.ndim) if a not in axes]
        count = math.prod(x.shape[a] for a in rest)
        return x.transpose(*rest, *axes).reshape(count, -1)

    def spread(self, values: Array, shape: Shape) -> Array:
        """Return one number for each set with the axes of the tensor, to be broadcast."""
        if self.split is None:
            return values.reshape([1 if a in self.axes else n for a, n in enumerate(shape)])
        rest = [self.groups if a == self.split else 1 if a in self.axes else n for a, n in enumerate(shape)]
        table, inside = values.reshape(rest), shape[self.split] // self.groups
        if self.interleaved:
            return np.tile(table, [inside if a == self.split else 1 for a in range(len(shape))])
        return np.repeat(table, inside, axis=self.split)

    def signature(self, shape: Shape) -> tuple[object, ...]:
        """Return a key that is equal for partitions into the same sets: axes of length 1 do not count."""
        axes = tuple(a for a in self.axes if shape[a] > 1)
        cut = self.split
        if cut is None or self.groups == 1:
            return (axes, None, 1, False)
        if self.groups == shape[cut]:
            return (tuple(a for a in axes if a != cut), None, 1, False)
        return (axes, cut, self.groups, self.interleaved)


def channel_axes(rank: int, layout: str | None) -> list[int]:
    """Return the axes that can be the channel's: the layout's, or the second and the last."""
    if layout is not None:
        return [layout.index("C")]
    return [1] if rank < 3 else [1, rank - 1]


def layout_name(rank: int, channel: int) -> str:
    """Return the layout of a rank with its channels on an axis.

    >>> layout_name(4, 3), layout_name(3, 2), layout_name(3, 1)
    ('NHWC', 'NLC', 'NCL')
    """
    return next(name for name in LAYOUTS if len(name) == rank and name.index("C") == channel)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number between 1 and itself."""
    return [d for d in range(2, number) if number % d == 0]


def usual_partitions(shape: Shape, channels: list[int]) -> Iterator[Partition]:
    """Yield the partitions of the named normalizers, each set of elements once."""
    rank = len(shape)
    every = tuple(range(rank))
    yield Partition(every)
    for first in range(1, rank):
        yield Partition(every[first:])  # the last axes
    if rank > 2:
        yield Partition((1,))
    for channel in channels if rank > 1 else []:
        space = tuple(a for a in every if a not in (0, channel))
        rest = tuple(a for a in every if a != channel)
        yield Partition(rest, channel=channel)
        if space:
            yield Partition(space, channel=channel)
        for groups in divisors(shape[channel]):
            for interleaved in (False, True):
                yield Partition(tuple(sorted((*space, channel))), channel, groups, interleaved, channel)
        for groups in divisors(shape[0]):
            for interleaved in (False, True):
                yield Partition(rest, 0, groups, interleaved, channel)


def other_partitions(shape: Shape) -> Iterator[Partition]:
    """Yield all sets of axes, most of which no named normalizer reduces."""
    rank = len(shape)
    for bits in range(1, 2**rank):
        yield Partition(tuple(a for a in range(rank) if bits >> a & 1))
