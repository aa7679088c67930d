"""Attributes of the CF conventions: scale and offset, fill and missing values, valid ranges."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.sources.tagged import ArrayTags


def cf_tags(attributes: Mapping[str, Any], dtype: Any) -> tuple[Any, ArrayTags]:
    """Return the type of samples and what the CF conventions record of them.

    Args:
        attributes: of the variable.
        dtype: as it is stored; `_Unsigned` changes it.

    Raises:
        InputError: attributes that are not numbers.
    """
    if attributes.get("_Unsigned") in ("true", b"true") and dtype.kind == "i":
        dtype = np.dtype(dtype.str.replace("i", "u"))

    def numbers(name: str) -> list[float]:
        if name not in attributes:
            return []
        value = np.ravel(attributes[name])
        if value.dtype.kind not in "uif":
            raise InputError("scale", f"its attribute {name} is {str(attributes[name])[:60]!r}, not a number")
        if dtype.kind == "u" and value.dtype.kind == "i" and value.dtype.itemsize == dtype.itemsize:
            value = value.astype(dtype)
        return [float(one) for one in value]

    factor, offset = (numbers("scale_factor") or [1.0])[0], (numbers("add_offset") or [0.0])[0]
    low, high = [*numbers("valid_range"), -np.inf, np.inf][:2] if "valid_range" in attributes else (-np.inf, np.inf)
    low, high = (numbers("valid_min") or [low])[0], (numbers("valid_max") or [high])[0]
    valid = None if (low, high) == (-np.inf, np.inf) else (float(low), float(high))
    no_data = tuple(numbers("_FillValue") + numbers("missing_value"))
    return dtype, ArrayTags((factor, offset), no_data, valid=valid).checked()
