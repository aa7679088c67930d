"""Arrays with their container's description of the samples: scales, nodata values, a reversed gray scale.

Stored values are counted, so that integers stay integers; the scale applies to the numbers that are printed.
"""

import math
import sys
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError

Array = np.ndarray[Any, Any]
UNSCALED = 1.0, 0.0


class ArrayTags(NamedTuple):
    """Properties of the samples of an array.

    Attributes:
        scale: factor and offset.
        no_data: values of samples that are invalid.
        hidden: lowest and highest value of a range of samples that are invalid; None for no range.
        valid: lowest and highest value of samples that are valid; None for no limits.
        names: of the channels; () where there are none.
        reversed_by: number of which samples are subtracted, because 0 is white; None where it is black.
    """

    scale: tuple[float, float] = UNSCALED
    no_data: tuple[float | int, ...] = ()
    hidden: tuple[float, float] | None = None
    valid: tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    reversed_by: int | None = None

    def checked(self) -> "ArrayTags":
        """Return the tags.

        Raises:
            InputError: a scale that is 0, or not finite.
        """
        factor, offset = self.scale
        if not (math.isfinite(factor) and math.isfinite(offset)) or factor == 0:
            raise InputError(
                "scale", f"its scale is {factor:g}, its offset {offset:g} (--scale-offset none ignores both)"
            )
        return self


class TaggedArray(np.ndarray[Any, Any]):
    """An array (H,W) or (H,W,C) with tags that decoding applies; views of it have none.

    Attributes:
        tags: scale and offset; bool (H,W) or (H,W,C), True where a sample is invalid, or None; names.
        notes: for the composition.
    """

    tags: tuple[tuple[float, float], Array | None, tuple[str, ...]]
    notes: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_tags, (np.asarray(self), self.tags, self.notes)


class TaggedLoad(NamedTuple):
    """The loader of an array with tags; `values` loads its samples as they are stored."""

    values: Any
    tags: ArrayTags

    def __call__(self) -> TaggedArray:
        return tagged(self.values(), self.tags)

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the loader itself takes."""
        return int(getattr(self.values, "memory_bytes", 0))

    def fingerprint(self) -> str:
        """Return a text that changes with the image or its tags."""
        return f"{self.values.fingerprint()}:{self.tags}"


def _with_tags(array: Array, tags: tuple[Any, ...], notes: tuple[str, ...] = ()) -> TaggedArray:
    result = np.ascontiguousarray(array).view(TaggedArray)
    result.tags, result.notes = tags, notes
    return result


def is_masked(value: Any) -> bool:
    """Return True for a masked array of NumPy with masked samples; one that is never imported has none."""
    return "numpy.ma" in sys.modules and isinstance(value, np.ma.MaskedArray) and bool(np.ma.is_masked(value))


def masked(array: "np.ma.MaskedArray[Any, Any]") -> TaggedArray:
    """Return a masked array of NumPy, whose masked samples are invalid."""
    return _with_tags(np.ma.getdata(array), (UNSCALED, np.ma.getmaskarray(array), ()))


def tagged(stored: Array, tags: ArrayTags) -> TaggedArray:
    """Return stored samples with their tags, in the byte order of the machine."""
    array = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    hidden, notes = invalid_samples(array, tags)
    if tags.reversed_by is not None:
        array = (np.asarray(tags.reversed_by, np.int64) - array).astype(array.dtype)
    return _with_tags(array, (tags.scale, hidden, tags.names), notes)


def invalid_samples(array: Array, tags: ArrayTags) -> tuple[Array | None, tuple[str, ...]]:
    """Return True where samples are invalid, or None where none is; and notes on values that no sample can have."""
    hidden: Array | None = None
    notes: list[str] = []
    for value in dict.fromkeys(tags.no_data):
        if not holds(array.dtype, value):
            notes.append(f"unusable_nodata:{value:.10g}")
            continue
        same = np.isnan(array) if math.isnan(value) else np.equal(array, np.asarray(value).astype(array.dtype))
        hidden = same if hidden is None else hidden | same
    if tags.hidden is not None:
        low, high = tags.hidden
        between = (array >= low) & (array <= high)
        hidden = between if hidden is None else hidden | between
    if tags.valid is not None:
        outside = (array < tags.valid[0]) | (array > tags.valid[1])
        hidden = outside if hidden is None else hidden | outside
    return (hidden if hidden is not None and hidden.any() else None), tuple(notes)


def holds(dtype: "np.dtype[Any]", value: float) -> bool:
    """Return True if a sample of this type can have a value, which floats round.

    >>> holds(np.dtype("i2"), -2000), holds(np.dtype("u1"), -1), holds(np.dtype("i2"), float("nan"))
    (True, False, False)
    """
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        return math.isfinite(value) and limits.min <= value <= limits.max and value == int(value)
    return dtype.kind == "f"
