"""The search: known weight and bias first, then computed normalizers, then parameters that have to be solved for."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.identify import advice
from normcli.tensor.identify.evaluated import composed_fits, evaluated_fits
from normcli.tensor.identify.half import half_fits
from normcli.tensor.identify.known import known_fits
from normcli.tensor.identify.nearest import nearest
from normcli.tensor.identify.partition import Partition, channel_axes, other_partitions, usual_partitions
from normcli.tensor.identify.precision import is_half
from normcli.tensor.identify.readings import Pair, Reading, known_readings, partial_readings
from normcli.tensor.identify.results import Fit, Identification
from normcli.tensor.identify.solved import fixed_fits, modulated_fits, solved_fits, state_fits
from normcli.tensor.normalizers.views import Array, channel_axis, result_dtype

# unit roundoffs that the arithmetic of Y may be off: float64 with one rounding, float32, careless float32
_UNITS = (0.05, 1.0, 4.0, 32.0)
_SMALL = 64  # elements; fewer could agree by chance with a tolerance of 0.05 units
_COPIES = 12  # float64 arrays of the size of X in memory


def identify(
    x: Array,
    y: Array,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    layout: str | None = None,
    state: Mapping[str, Array] | None = None,
) -> Identification:
    """Identify the normalizer that maps x to y.

    Args:
        x: input.
        y: output, of the same shape.
        weight: of the affine; without it none is tried first, and then solved for.
        bias: of the affine.
        layout: of the axes; without it every axis that may be the channel's is tried.
        state: running statistics, for eval mode.

    Raises:
        TensorError: shapes that differ, numbers that are not real, or a parameter that fits no axis.
    """
    pair = _pair(x, y, layout)
    remarks = advice.remarks_on_input(pair)
    if advice.is_constant(pair):
        return Identification(fits=(), open=(), nearest=(), remarks=(*remarks, advice.CONSTANT))
    if np.array_equal(pair.x, pair.y, equal_nan=True):
        return Identification(fits=(), open=(), nearest=(), remarks=(*remarks, advice.UNCHANGED))
    _check_parameters(pair, weight, bias)
    fits = _first_fits(pair, weight, bias, state)
    if not fits:
        return Identification(fits=(), open=(), nearest=tuple(nearest(pair, weight, bias)), remarks=remarks)
    fits = _merged(fits, pair.layout)
    if any(fit.weight == "solved" for fit in fits) and (weight is not None or bias is not None):
        remarks = (*remarks, "the weight and bias given do not fit: they were solved for")
    return Identification(fits=tuple(fits), open=tuple(advice.open_settings(pair, fits)), nearest=(), remarks=remarks)


def needed_bytes(count: int) -> int:
    """Return the memory that an identification of so many elements takes."""
    return count * 8 * _COPIES


def _pair(x: Array, y: Array, layout: str | None) -> Pair:
    if x.shape != y.shape:
        raise TensorError(f"x and y must have the same shape, got {x.shape} and {y.shape}")
    if y.dtype.kind in "iub" or x.dtype.kind == "b":
        raise TensorError(f"y must be real numbers of a float type, got {y.dtype}")
    if not x.size or not x.ndim:
        raise TensorError(f"nothing can be identified from shape {x.shape}")
    result_dtype(x)
    dtype = result_dtype(y)
    layout = None if layout is None else layout.upper()
    if layout is not None:
        channel_axis(x, layout)
    with np.errstate(all="ignore"):
        return Pair(x.astype(np.float64), y.astype(np.float64), dtype, layout)


def _check_parameters(pair: Pair, weight: Array | None, bias: Array | None) -> None:
    if not list(known_readings(pair, weight, bias)):
        shapes = [f"{what} of shape {v.shape}" for what, v in (("weight", weight), ("bias", bias)) if v is not None]
        raise TensorError(f"{' or '.join(shapes)} fits no axes of x, {pair.x.shape}")


def _first_fits(pair: Pair, weight: Array | None, bias: Array | None, state: Mapping[str, Array] | None) -> list[Fit]:
    """Return the fits of the first kind that has any: fewer unknown numbers come first."""
    shape = pair.x.shape
    usual = list(usual_partitions(shape, channel_axes(len(shape), pair.layout)))
    wider = usual if pair.layout is None else list(usual_partitions(shape, channel_axes(len(shape), None)))
    known = list(known_readings(pair, weight, bias))
    partial = list(partial_readings(pair, weight, bias))
    has_affine = weight is not None or bias is not None
    ladder = _UNITS if pair.x.size >= _SMALL else _UNITS[2:]
    free = pair._replace(layout=None)

    def known_of(partitions: list[Partition], readings: list[Reading]) -> Callable[[float], Iterable[Fit]]:
        return lambda units: known_fits(pair, partitions, readings, units)

    searches: list[Callable[[float], Iterable[Fit]]] = [known_of(usual, known)]
    if state is not None:
        searches.append(lambda units: state_fits(pair, state, iter(known), units))
    if pair.layout is not None:
        searches.append(known_of(wider, known))
    searches += [
        known_of(wider, partial),
        lambda units: known_fits(pair, [*wider, *other_partitions(shape)], known, units, usual=False),
        lambda units: composed_fits(free, known + partial, units) if units == 4.0 else [],
        lambda units: half_fits(pair, wider, known + partial) if is_half(pair.dtype) and units == 1.0 else [],
        lambda units: fixed_fits(pair, known[0] if has_affine else None, units) if units >= 1.0 else [],
        lambda units: solved_fits(free, iter(wider), units) if units >= 4.0 else [],
        lambda units: evaluated_fits(free, known + partial, units) if units == 4.0 else [],
        lambda units: modulated_fits(pair, units) if units >= 1.0 else [],
    ]
    for search in searches:
        for units in ladder:
            if fits := list(search(units)):
                return fits
    return []


def _merged(fits: list[Fit], layout: str | None) -> list[Fit]:
    """Return fits with those left out that another one names too, and with fewer names among the same function."""
    merged: dict[object, Fit] = {}
    for fit in _ordered(fits, layout):
        key = (fit.title, fit.eps, fit.variance, fit.weight, fit.rounding, fit.arithmetic)
        if key not in merged and not any(_names(other, fit) for other in merged.values()):
            merged[key] = fit
    return list(merged.values())


def _names(other: Fit, fit: Fit) -> bool:
    """Return True if another fit has this one's name among its own, and is otherwise equal."""
    alike = (other.variance, other.weight, other.rounding) == (fit.variance, fit.weight, fit.rounding)
    solved = fit.weight == "solved" and other.signature == fit.signature  # the ranges of epsilon differ a little
    same = other.eps == fit.eps or (solved and _place(other) == _place(fit))
    return alike and same and fit.names[0] in other.names


def _place(fit: Fit) -> str | None:
    return None if fit.eps is None else fit.eps.place


def _ordered(fits: list[Fit], layout: str | None) -> Iterator[Fit]:
    """Yield fits with the likeliest first: a round epsilon inside the root, a biased variance."""
    places = ("inside", None, "outside", "floor", "floor of the square")
    return iter(
        sorted(
            fits,
            key=lambda fit: (
                fit.weight not in ("none", "weight"),
                fit.variance == "unbiased",
                layout is None and fit.settings.get("layout") == "NCL",  # the last axis of three is rather C
                "layout" not in fit.settings,
                0 if fit.eps is None else places.index(fit.eps.place),
            ),
        )
    )
