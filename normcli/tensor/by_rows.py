"""Weights larger than memory: normalizers whose output units are independent, by blocks of units."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.normalizers import Normalizer
from normcli.tensor.normalizers.views import result_dtype

# normalizers of one output unit at a time -> the setting that is a number for each unit
_INDEPENDENT = {"weight_norm": "g", "centred_weight_norm": "g", "weight_standardization": "gain"}
_COPIES = 8  # of a block in float64, while it is computed


def normalize_weight(
    one: Normalizer, tensor: Any, settings: Mapping[str, Any], limit: int, allocate: Callable[..., Any]
) -> Any:
    """Normalize a weight within a limit of memory; the bits are those of one call.

    Raises:
        TensorError: a weight, or one output unit of it, that needs more.
    """
    shape = tuple(tensor.shape)
    unit = math.prod(shape[1:]) * 8 * _COPIES
    if shape and shape[0] * unit <= limit:
        return one.function(tensor, **settings)
    key = _INDEPENDENT.get(one.name)
    if key is None or settings.get("dim", 0) != 0 or len(shape) < 2 or unit > limit:
        need = math.prod(shape) * 8 * _COPIES
        raise TensorError(f"{one.name} needs {need:,} bytes for a weight of shape {shape}: raise --memory-limit")
    room = allocate(shape, result_dtype(tensor, settings.get("dtype")))
    step = limit // unit
    for start in range(0, shape[0], step):
        block = slice(start, min(start + step, shape[0]))
        own = dict(settings)
        factor = np.asarray(own.get(key, 1.0))
        if factor.ndim:
            own[key] = factor[block]
        room[block] = one.function(tensor[block], **own)
    return room
