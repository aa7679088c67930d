"""Statistics of saved activations, per tensor, channel or token: moments in one pass, the median in three more."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.storage.npy import UnreadableTensor
from normcli.tensor import files
from normcli.tensor.files import Array
from normcli.tensor.normalizers.views import channel_axis, result_dtype

Per = Literal["tensor", "channel", "token"]

_PIECE = 1 << 21  # elements that are read at once
_COPIES = 8  # of a piece in float64 while it is counted
_DIGITS = ((21, 11), (10, 11), (0, 10))  # shift and bits of each pass over the bits of a float32

Blocks = Callable[[], Iterator[Array]]


@dataclass(frozen=True, kw_only=True)
class ActivationRow:
    """Statistics of one tensor, channel or token, over its finite elements.

    Attributes:
        name: of the tensor, or the number of the channel or token.
        count: number of finite elements.
        mean: mean.
        rms: root of the mean square.
        std: population standard deviation.
        kurtosis: fourth central moment over the squared variance; 3 for a normal distribution.
        zeros: share of elements that are 0.
        max_over_median: largest magnitude over the median magnitude; None where the median is 0 or beyond float32.
        nan, inf: numbers of elements.
    """

    name: str
    count: int
    mean: float | None
    rms: float | None
    std: float | None
    kurtosis: float | None
    zeros: float | None
    max_over_median: float | None
    nan: int
    inf: int

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


def activation_stats(
    names: Sequence[str], *, per: Per = "tensor", layout: str | None = None, memory_limit: int | None = None
) -> list[ActivationRow]:
    """Return statistics of saved activations.

    Args:
        names: files, patterns and folders, in natural order; FILE:KEY for one tensor of several.
        per: one row for each tensor, or for each channel or token of all tensors together.
        layout: order of the axes, for channels and tokens.
        memory_limit: most bytes of tensors in memory.

    Raises:
        TensorError: a tensor that is missing, damaged, of another shape or too large for the limit.
        UsageError: a layout without the axis.
    """
    every = files.expand_patterns(names)
    layout = None if layout is None else layout.upper()
    if per == "tensor":
        rows = []
        for name in every:
            with files.open_tensors(name, limit=memory_limit) as tensors:
                for key, tensor in tensors.items():
                    label = f"{name}:{key}" if key and not name.endswith(f":{key}") else name
                    _require_numbers(label, tensor)
                    rows += _rows([label], _blocks_of(label, tensor, None, memory_limit))
        return rows
    slots = _slots(every, per, layout, memory_limit)

    def blocks() -> Iterator[Array]:
        for name in every:
            with files.open_tensors(name, limit=memory_limit) as tensors:
                for key, tensor in tensors.items():
                    _require_numbers(f"{name}:{key}" if key else name, tensor)
                    yield from _blocks_of(name, tensor, _axis(tensor, per, layout), memory_limit)()

    return _rows([str(number) for number in range(slots)], blocks)


def _require_numbers(label: str, tensor: Any) -> None:
    if isinstance(tensor, UnreadableTensor):
        raise tensor.error
    try:
        result_dtype(tensor)
    except TensorError as error:
        raise type(error)(f"{label}: {error}") from None


def _axis(tensor: Any, per: Per, layout: str | None) -> int:
    """Return the axis of the channels or tokens.

    Raises:
        UsageError: the layout has no such axis, or is unknown and needed.
    """
    if per == "channel":
        return int(channel_axis(tensor, layout))
    if layout is None or "T" not in layout or len(layout) != len(tensor.shape):
        raise UsageError(
            f"--per token requires a --layout with T for a tensor of rank {len(tensor.shape)}, such as NTC"
        )
    return layout.index("T")


def _slots(names: Sequence[str], per: Per, layout: str | None, limit: int | None) -> int:
    """Return the number of channels or tokens, the same in all tensors.

    Raises:
        TensorError: they differ.
    """
    slots: int | None = None
    for name in names:
        with files.open_tensors(name, limit=limit) as tensors:
            for key, tensor in tensors.items():
                if isinstance(tensor, UnreadableTensor):
                    raise tensor.error
                own = int(tensor.shape[_axis(tensor, per, layout)])
                if slots is not None and own != slots:
                    raise TensorError(f"{name}{key and f':{key}'}: has {own} {per}s, the tensors before {slots}")
                slots = own
    return slots or 0


def _blocks_of(label: str, tensor: Any, axis: int | None, limit: int | None) -> Blocks:
    """Return a function that yields a tensor as blocks (slots, elements).

    Raises:
        TensorError: one sample is larger than the limit allows.
    """
    shape = tuple(tensor.shape)
    sample = math.prod(shape[1:]) if shape else 1
    if limit is not None and sample * 8 * _COPIES > limit:
        raise TensorError(
            f"{label}: a sample of shape {shape[1:]} needs {sample * 8 * _COPIES:,} bytes to be counted, the limit is "
            f"{limit:,}: raise `memory_limit`"
        )
    most = _PIECE if limit is None else min(_PIECE, limit // (8 * _COPIES))
    step = max(1, most // max(sample, 1))

    def blocks() -> Iterator[Array]:
        if not shape:
            yield np.asarray(files.read_array(tensor)).reshape(1, 1)
            return
        for start in range(0, shape[0], step):
            block = np.asarray(tensor[start : start + step])
            yield block.reshape(1, -1) if axis is None else np.moveaxis(block, axis, 0).reshape(shape[axis], -1)

    if axis == 0:
        raise UsageError("channels and tokens must be behind the axis of the samples")
    return blocks


class MomentSums:
    """Counts and central moments of each slot, merged block by block (Pebay 2008, SAND2008-6212)."""

    def __init__(self, slots: int) -> None:
        self.count, self.zeros, self.nan, self.inf = np.zeros((4, slots), np.int64)
        self.mean, self.m2, self.m3, self.m4, self.largest = np.zeros((5, slots))

    def add(self, block: Array) -> None:
        """Add a block (slots, elements)."""
        x = block.astype(np.float64)
        finite = np.isfinite(x)
        nan = np.isnan(x).sum(axis=1)
        self.nan += nan
        self.inf += x.shape[1] - finite.sum(axis=1) - nan
        x[~finite] = 0.0
        count = finite.sum(axis=1)
        self.zeros += count - np.count_nonzero(x, axis=1)
        self.largest = np.maximum(self.largest, np.abs(x).max(axis=1, initial=0.0))
        with np.errstate(all="ignore"):
            mean = np.where(count > 0, x.sum(axis=1) / count, 0.0)
            x -= mean[:, None]
            x[~finite] = 0.0
            square = x * x
            m2, m3, m4 = square.sum(axis=1), (square * x).sum(axis=1), (square * square).sum(axis=1)
            total = self.count + count
            share = np.where(total > 0, count / total, 0.0)
            a, b, d = self.count.astype(np.float64), count.astype(np.float64), mean - self.mean
            ab = a * share  # a b / n
            n = np.maximum(total, 1)
            self.m4 += m4 + d**4 * ab * (a * a - a * b + b * b) / n**2
            self.m4 += 6 * d * d * (a * a * m2 + b * b * self.m2) / n**2 + 4 * d * (a * m3 - b * self.m3) / n
            self.m3 += m3 + d**3 * ab * (a - b) / n + 3 * d * (a * m2 - b * self.m2) / n
            self.m2 += m2 + d * d * ab
            self.mean += d * share
        self.count = total


def _rows(names: Sequence[str], blocks: Blocks) -> list[ActivationRow]:
    sums = MomentSums(len(names))
    for block in blocks():
        sums.add(block)
    medians = _medians(blocks, sums.count)
    rows = []
    for i, name in enumerate(names):
        count = int(sums.count[i])
        known = count > 0
        with np.errstate(all="ignore"):
            variance = float(sums.m2[i]) / count if known else 0.0
            kurtosis = float(sums.m4[i]) / count / variance**2 if variance > 0 else None
        mean = float(sums.mean[i])
        rows.append(
            ActivationRow(
                name=name,
                count=count,
                mean=_number(mean) if known else None,
                rms=_number(math.hypot(math.sqrt(variance), mean)) if known else None,
                std=_number(math.sqrt(variance)) if known else None,
                kurtosis=_number(kurtosis),
                zeros=int(sums.zeros[i]) / count if known else None,
                max_over_median=_number(float(sums.largest[i]) / medians[i]) if 0 < medians[i] < math.inf else None,
                nan=int(sums.nan[i]),
                inf=int(sums.inf[i]),
            )
        )
    return rows


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _medians(blocks: Blocks, counts: Array) -> list[float]:
    """Return the median magnitude of each slot, exact in float32: the bits of magnitudes sort as their values do."""
    lower = _select(blocks, (counts - 1) // 2)
    upper = _select(blocks, counts // 2) if (counts % 2 == 0).any() else lower
    pair = np.where(counts % 2 == 0, (lower + upper) / 2, lower)
    return [float(value) if count else 0.0 for value, count in zip(pair, counts, strict=True)]


def _select(blocks: Blocks, ranks: Array) -> Array:
    """Return the magnitude of each slot at a rank, counted from 0."""
    slots = len(ranks)
    prefix, rank = np.zeros(slots, np.uint32), np.maximum(ranks, 0).copy()
    numbers = np.arange(slots)[:, None]
    for shift, bits in _DIGITS:
        table = np.zeros(slots << bits, np.int64)
        for block in blocks():
            with np.errstate(over="ignore"):
                magnitude = np.abs(block.astype(np.float32))  # of integers, that of the least one would stay negative
            key = magnitude.view(np.uint32)
            inside = np.isfinite(block.astype(np.float64))
            if shift + bits < 32:
                inside &= (key >> (shift + bits)) == (prefix >> (shift + bits))[:, None]
            digit = (key >> shift) & ((1 << bits) - 1)
            index = (numbers << bits) + digit
            table += np.bincount(index[inside], minlength=slots << bits)
        rows = table.reshape(slots, -1).cumsum(axis=1)
        digit = np.minimum((rows <= rank[:, None]).sum(axis=1), (1 << bits) - 1)
        below = np.where(digit > 0, rows[np.arange(slots), np.maximum(digit - 1, 0)], 0)
        rank -= below
        prefix |= (digit.astype(np.uint32)) << np.uint32(shift)
    return prefix.view(np.float32).astype(np.float64)
