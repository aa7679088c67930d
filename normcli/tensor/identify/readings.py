"""Readings of the affine: which weight and bias were used, and where the result was rounded."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from normcli.tensor.identify.partition import Shape
from normcli.tensor.identify.precision import bounds_before_rounding, is_half, round_to, ulps, unit_roundoff
from normcli.tensor.normalizers.views import Array

ONCE = "once"
BEFORE = "before the affine"
EACH = "after every step"
_CLIPPED_SHARE = 0.05


class Pair(NamedTuple):
    """A tensor and its image, with the types that they had.

    Attributes:
        x: float64.
        y: float64.
        dtype: of y, before.
        layout: as given, None where it was not.
    """

    x: Array
    y: Array
    dtype: np.dtype[Any]
    layout: str | None

    @property
    def unit(self) -> float:
        """Return the unit roundoff of the arithmetic behind y."""
        return unit_roundoff(self.dtype)


_Placed = tuple[Array | None, tuple[int, ...] | None]


class Reading(NamedTuple):
    """One reading of the affine and of the rounding.

    Attributes:
        label: none, weight, 1 + weight, or not used.
        weight: float64, broadcastable to x; None is 1.
        bias: None is 0.
        axes: those of the weight, None without one.
        rounding: ONCE, BEFORE or EACH.
        clipped: negative results were replaced by 0.
    """

    label: str
    weight: Array | None
    bias: Array | None
    axes: tuple[int, ...] | None = None
    rounding: str = ONCE
    clipped: bool = False

    def bounds(self, pair: Pair, units: float) -> tuple[Array, Array]:
        """Return the range of every normalized number, before weight and bias.

        Args:
            pair: the tensors.
            units: unit roundoffs that the arithmetic may be off.
        """
        y, dtype = pair.y, pair.dtype
        half = 0.5 * ulps(y, dtype)
        low, high = y - half, y + half
        if self.clipped:
            low = np.where(y == 0, -np.inf, low)
        weight = 1.0 if self.weight is None else self.weight
        bias = 0.0 if self.bias is None else self.bias
        with np.errstate(all="ignore"):
            slack = units * pair.unit * (np.abs(np.where(np.isfinite(y), y, 0.0)) + np.abs(bias))
            low, high = low - bias - slack, high - bias + slack
            if self.rounding == EACH:  # the product was rounded too
                low, high = bounds_before_rounding(low, high, dtype)
            ends = low / weight, high / weight
            low, high = np.minimum(*ends), np.maximum(*ends)
            if self.rounding != ONCE:
                low, high = bounds_before_rounding(low, high, dtype)
        unknown = ~np.isfinite(y) | (np.asarray(weight) == 0)
        return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)

    def apply(self, normal: Array, dtype: np.dtype[Any]) -> Array:
        """Return the image of normalized numbers, rounded to the type of y, as float64."""
        y = normal if self.rounding == ONCE else round_to(normal, dtype)
        y = y if self.weight is None else y * self.weight
        y = round_to(y, dtype) if self.rounding == EACH else y
        y = y if self.bias is None else y + self.bias
        return round_to(np.maximum(y, 0.0) if self.clipped else y, dtype)


def is_clipped(y: Array) -> bool:
    """Return True if negative numbers seem to have been replaced by 0."""
    return bool(y.size and y.min() == 0 and np.count_nonzero(y == 0) > _CLIPPED_SHARE * y.size)


def placements(parameter: Array, shape: Shape, layout: str | None) -> Sequence[_Placed]:
    """Return every way to lay a parameter along axes of a tensor, and those axes; the channel's first.

    >>> [axes for _, axes in placements(np.ones(4), (2, 4, 4), None)]
    [(1,), (2,)]
    """
    rank, options = len(shape), list[_Placed]()
    parameter = parameter.astype(np.float64)
    channel = 1 if layout is None else layout.index("C")
    if parameter.size == 1:
        return [(parameter.reshape((1,) * rank), ())]
    if parameter.ndim == 1:
        order = sorted(range(rank), key=lambda a: (a != channel, a == 0, a))
        axes_of = [(a,) for a in order if shape[a] == parameter.size]
        if len(axes_of) > 1:
            axes_of = [axes for axes in axes_of if axes != (0,)] or axes_of
        options = [
            (parameter.reshape([n if a == axes[0] else 1 for a, n in enumerate(shape)]), axes) for axes in axes_of
        ]
    elif rank > 2 and parameter.shape == (shape[0], shape[channel]):
        options.append((parameter.reshape([n if a in (0, channel) else 1 for a, n in enumerate(shape)]), (0, channel)))
    if not options and parameter.ndim <= rank:
        full = (1,) * (rank - parameter.ndim) + parameter.shape
        if all(n in (1, have) for n, have in zip(full, shape, strict=True)):
            options.append((parameter.reshape(full), tuple(a for a, n in enumerate(full) if n > 1)))
    return options


def known_readings(pair: Pair, weight: Array | None, bias: Array | None) -> Iterator[Reading]:
    """Yield the readings of a weight and bias that were given, or of none."""
    shape = pair.x.shape
    clipped = is_clipped(pair.y)
    rounds = [ONCE, BEFORE, EACH] if is_half(pair.dtype) and (weight is not None or bias is not None) else [ONCE]
    if bias is None or weight is None:
        rounds = [one for one in rounds if one != EACH]  # with one step it is BEFORE
    nothing: list[_Placed] = [(None, None)]
    weights = nothing if weight is None else placements(weight, shape, pair.layout)
    for w, axes in weights:
        biases = nothing if bias is None else placements(bias, shape, pair.layout)
        biases = [(b, at) for b, at in biases if at == axes] or biases
        forms = [("none", None)] if w is None else [("weight", w), ("1 + weight", 1.0 + w)]
        for b, at in biases:
            for label, form in forms:
                for rounding in rounds:
                    yield Reading(label, form, b, at if axes is None else axes, rounding, clipped)


def partial_readings(pair: Pair, weight: Array | None, bias: Array | None) -> Iterator[Reading]:
    """Yield the readings in which a weight or bias that was given was not used."""
    clipped = is_clipped(pair.y)
    if weight is None and bias is None:
        return
    yield Reading("not used", None, None, None, ONCE, clipped)
    if weight is not None and bias is not None:
        for w, axes in placements(weight, pair.x.shape, pair.layout):
            yield Reading("weight, bias not used", w, None, axes, ONCE, clipped)
        for b, axes in placements(bias, pair.x.shape, pair.layout):
            yield Reading("not used, bias used", None, b, axes, ONCE, clipped)
