"""The tensors of a file: names, shapes, types, and statistics of their finite elements, read piece by piece."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.storage.npy import StoredTensor, UnreadableTensor
from normcli.tensor import files
from normcli.tensor.checkpoint import TensorFile, open_checkpoint
from normcli.tensor.files import Array

_PIECE = 1 << 18  # elements that are read at once: 2 MB as float64 stay in the cache


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor of a file.

    Attributes:
        name: its key; empty for the only tensor of a file without keys.
        shape: lengths of its axes.
        dtype: type of its elements, as NumPy or, where it cannot be read, as the file spells it.
        nbytes: size of its elements; None where it is unknown.
        mean, std: of the finite elements (population); None without one, or without reading.
        nan, inf: numbers of elements; None without reading.
        in_state_dict: False for a tensor outside of the state dict, such as an optimizer's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int | None = None
    mean: float | None = None
    std: float | None = None
    nan: int | None = None
    inf: int | None = None
    in_state_dict: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {**asdict(self), "shape": list(self.shape)}


def list_tensors(name: str, *, statistics: bool = True, memory_limit: int | None = None) -> list[TensorRow]:
    """Return the tensors of a file in its order, those outside of the state dict at the end.

    Args:
        name: FILE, FILE:KEY, FILE:PREFIX. or a pattern such as FILE:*.weight.
        statistics: read the elements; otherwise the header alone.
        memory_limit: most bytes of elements in memory.

    Raises:
        TensorError: missing, damaged, or nothing in it has such a name.
    """
    file, key = files.split_key(name)
    with open_checkpoint(file) as source:
        names = _names(source, key)
        limit = memory_limit if memory_limit is not None else 1 << 62
        return [_row(source, name, limit, statistics) for name in names]


def _names(source: TensorFile, key: str | None) -> list[str]:
    if key is None:
        return [*source.tensors, *source.others]
    if key.endswith("."):
        return list(source.below(key).values())
    if files.is_pattern(key):
        return source.select(key)
    source.named(key)
    return [key]


def _row(source: TensorFile, name: str, limit: int, statistics: bool) -> TensorRow:
    tensor, inside = source.named(name), name in source.tensors
    if isinstance(tensor, UnreadableTensor):
        size = getattr(tensor, "nbytes", None)
        return TensorRow(
            name=name, shape=tensor.shape, dtype=tensor.kind or "unknown", nbytes=size, in_state_dict=inside
        )
    dtype, size = tensor.dtype, math.prod(tensor.shape) * tensor.dtype.itemsize
    counts: dict[str, Any] = {}
    if statistics and (dtype.kind in "fiub" or dtype.name == "bfloat16"):
        counts = _statistics(_pieces(source, name, tensor, limit))
    return TensorRow(
        name=name, shape=tuple(tensor.shape), dtype=dtype.name, nbytes=size, in_state_dict=inside, **counts
    )


def _pieces(source: TensorFile, name: str, tensor: Any, limit: int) -> Iterator[Array]:
    """Yield the elements in pieces that fit into the limit.

    Raises:
        TensorError: a tensor that is not stored in order, and larger than the limit.
    """
    step = max(1, min(_PIECE, limit // 64))
    if type(tensor) is StoredTensor:
        with StoredTensor(tensor.path, tensor.offset, (math.prod(tensor.shape),), tensor.dtype, tensor.stamp) as flat:
            for start in range(0, flat.shape[0], step):
                yield flat[start : start + step]
        return
    if isinstance(tensor, StoredTensor) and tensor.nbytes * 2 > limit:
        raise TensorError(
            f"{source.path}:{name}: {tensor.nbytes} bytes that are not in C order exceed the memory limit of {limit}"
        )
    flat_array = files.read_array(tensor).reshape(-1)
    for start in range(0, flat_array.size, step):
        yield flat_array[start : start + step]


def _statistics(pieces: Iterator[Array]) -> dict[str, Any]:
    """Return mean, std and counts; the mean of all pieces is merged as Chan does."""
    count, mean, squares, nan, inf = 0, 0.0, 0.0, 0, 0
    with np.errstate(all="ignore"):
        for piece in pieces:
            x = piece.astype(np.float64)
            total = x.sum()
            if not np.isfinite(total):  # one number for all takes a third of the time of looking at every value
                nan += int(np.isnan(x).sum())
                inf += int(np.isinf(x).sum())
                x = x[np.isfinite(x)]
            if not x.size:
                continue
            own = float(x.mean())
            x -= own
            distance = own - mean
            mean += distance * (x.size / (count + x.size))
            squares += float(np.dot(x, x)) + distance * distance * (count / (count + x.size)) * x.size
            count += x.size
    known = count > 0 and math.isfinite(mean) and math.isfinite(squares)
    return {
        "mean": mean if known else None,
        "std": math.sqrt(squares / count) if known else None,
        "nan": nan,
        "inf": inf,
    }
