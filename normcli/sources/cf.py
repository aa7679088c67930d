"""Attributes of the CF conventions: scale and offset, fill and missing values, valid ranges."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.sources.tagged import UNSCALED, ArrayTags

Number = int | float
# the NetCDF library's value of floats that were never written; those of integers can be data
DEFAULT_FILL = float.fromhex("0x1.ep+122")
_ROUNDING = 0.01  # of a step of packed integers, by which float limits in units of the data may miss it


def cf_tags(attributes: Mapping[str, Any], dtype: Any) -> tuple[Any, ArrayTags]:
    """Return the type of samples and their tags by the CF conventions.

    Args:
        attributes: of the variable.
        dtype: as it is stored; `_Unsigned` changes it.

    Raises:
        InputError: attributes that are not numbers.
    """
    stored, sign = dtype, _text(attributes.get("_Unsigned"))
    if (sign, stored.kind) in (("true", "i"), ("false", "u")):
        dtype = np.dtype(stored.str.replace(stored.kind, "u" if stored.kind == "i" else "i"))

    def numbers(name: str, count: int | None = None) -> list[Number]:
        if name not in attributes:
            return []
        value = np.ravel(attributes[name])
        if value.dtype.kind in "SU":  # such as "NaN", which other readers take for a number
            with contextlib.suppress(ValueError):
                value = np.array([float(part) for part in re.split(r"[\s,]+", _text(value[0]).strip())])
        if value.dtype.kind not in "uif" or len(value) != (count or len(value)):
            what = "a number" if count is None else f"{count} numbers"
            raise InputError("scale", f"its attribute {name} is {_text(attributes[name])[:60]!r}, not {what}")
        return [int(one) if value.dtype.kind in "ui" else float(one) for one in value]

    def levels(name: str, count: int | None = None) -> list[Number]:
        return [_of_sign(one, stored, dtype) for one in numbers(name, count)]

    factor, offset = (numbers("scale_factor") or [1.0])[0], (numbers("add_offset") or [0.0])[0]
    no_data = tuple(levels("_FillValue") + levels("missing_value"))
    tags = ArrayTags((float(factor), float(offset)), no_data).checked()
    low, high = levels("valid_range", 2) or (-math.inf, math.inf)
    low, high = (levels("valid_min") or [low])[0], (levels("valid_max") or [high])[0]
    if dtype.kind in "ui" and tags.scale != UNSCALED and isinstance(low, float) and isinstance(high, float):
        low, high = sorted(_packed(one, factor, offset) for one in (low, high))  # floats are in units of the data (NUG)
    return dtype, tags._replace(valid=None if (low, high) == (-math.inf, math.inf) else (low, high))


def unpacked(values: Any, attributes: Mapping[str, Any]) -> Any:
    """Return the values of a coordinate variable in its units.

    Raises:
        InputError: attributes that are not numbers.
    """
    dtype, tags = cf_tags(attributes, values.dtype)
    factor, offset = tags.scale
    return values.view(dtype) if tags.scale == UNSCALED else values.view(dtype) * factor + offset


def auxiliary_names(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the variables that have the bounds or the coordinates of a variable."""
    for name in ("bounds", "climatology", "coordinates"):
        yield from _text(attributes.get(name)).split()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _of_sign(value: Number, stored: "np.dtype[Any]", dtype: "np.dtype[Any]") -> Number:
    """Return a value of the stored type as one of a type of the other sign.

    >>> _of_sign(-1, np.dtype("i1"), np.dtype("u1")), _of_sign(255, np.dtype("u1"), np.dtype("i1"))
    (255, -1)
    """
    if stored == dtype or not isinstance(value, int):
        return value
    least = int(np.iinfo(dtype).min)
    return (value - least) % (1 << 8 * dtype.itemsize) + least


def _packed(value: Number, factor: Number, offset: Number) -> float:
    """Return the packed value of a value in the data's units: an integer, if it is near one.

    >>> _packed(243.15, 0.01, 273.15), _packed(-math.inf, -0.01, 0)
    (-3000.0, inf)
    """
    packed = (value - offset) / factor
    near = round(packed) if math.isfinite(packed) else packed
    return float(near) if math.isinf(packed) or abs(packed - near) < _ROUNDING else packed
