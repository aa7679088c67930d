"""Differences of two tensors, element by element, read in blocks of samples."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normcli.errors import TensorError, UnsupportedTensorError, UsageError
from normcli.storage.npy import UnreadableTensor
from normcli.tensor import files
from normcli.tensor.identify.precision import is_half, ulps
from normcli.tensor.normalizers.views import Array, Tensor, block_samples, channel_axis, result_dtype

_WORKING_BYTES = 64  # per element of a block: both as float64, and their differences


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The largest difference that is accepted, as in `numpy.allclose`: |a - b| <= atol + rtol * |b|.

    Attributes:
        rtol: relative to b.
        atol: absolute.
        equal_nan: NaN equals NaN.
    """

    rtol: float = 1e-5
    atol: float = 1e-8
    equal_nan: bool = False

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 <= value < math.inf:
                raise UsageError(f"--{name}: must be 0 or more, not {value}")


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The difference of elements: of two tensors, or of one channel of them.

    Attributes:
        count: number of elements.
        unequal: number of values that differ at all; NaN differs from all but NaN.
        beyond: number of values that differ beyond the tolerance.
        max_abs: largest absolute difference of two numbers; 0 without any.
        rms: root mean square of the differences of two finite numbers.
        max_ulp: largest difference in units in the last place of the coarser type; NaN for integers.
        cosine: of the angle between both, over elements that are finite in both; NaN where one is zero.
        nan: number of NaN in each.
        inf: number of infinities in each.
    """

    count: int
    unequal: int
    beyond: int
    max_abs: float
    rms: float
    max_ulp: float
    cosine: float
    nan: tuple[int, int]
    inf: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain data, with None for NaN and infinity."""
        values = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """The difference of two tensors.

    Attributes:
        name: key in the files, "" for a file of one tensor.
        shapes: of both.
        dtypes: of both.
        total: of all elements; None where the shapes differ.
        channels: of each channel, where the layout is known.
        first: index of the first element that is not equal, with both values; None where all are equal.
        first_beyond: the same for the first beyond the tolerance.
        worst: the same for the largest difference.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    total: Gap | None
    channels: tuple[Gap, ...] = ()
    first: "ElementPair | None" = None
    first_beyond: "ElementPair | None" = None
    worst: "ElementPair | None" = None

    @property
    def close(self) -> bool:
        """Return True if the shapes are equal and no element is beyond the tolerance."""
        return self.total is not None and self.total.beyond == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain data."""
        places = {key: getattr(self, key) for key in ("first", "first_beyond", "worst")}
        return {
            "name": self.name,
            "shapes": [list(shape) for shape in self.shapes],
            "dtypes": list(self.dtypes),
            "close": self.close,
            "total": None if self.total is None else self.total.to_dict(),
            **{key: None if place is None else place.to_dict() for key, place in places.items()},
            "channels": [channel.to_dict() for channel in self.channels],
        }


@dataclass(frozen=True, kw_only=True)
class ElementPair:
    """An element: its index, and its values."""

    index: tuple[int, ...]
    a: int | float
    b: int | float

    def to_dict(self) -> dict[str, Any]:
        """Return the element as plain data; NaN and infinity as text."""
        a, b = (v if math.isfinite(v) else str(v) for v in (self.a, self.b))
        return {"index": list(self.index), "a": a, "b": b}


@dataclass(frozen=True, kw_only=True)
class FileDifference:
    """The differences of two files.

    Attributes:
        tensors: those in both, in natural order.
        missing: names of tensors that are only in B, and only in A.
    """

    tensors: tuple[TensorDifference, ...]
    missing: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def close(self) -> bool:
        """Return True if both have the same tensors, and none is beyond the tolerance."""
        return not any(self.missing) and all(tensor.close for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return the differences as plain data."""
        only = {"only_in_b": list(self.missing[0]), "only_in_a": list(self.missing[1])}
        return {"close": self.close, "tensors": [tensor.to_dict() for tensor in self.tensors], **only}


def diff_files(
    a: str, b: str, *, layout: str | None = None, tolerance: Tolerance | None = None, memory_limit: int | None = None
) -> FileDifference:
    """Compare the tensors of two files: those of the same name; a single tensor with a single one.

    Args:
        a: FILE or FILE:KEY.
        b: FILE or FILE:KEY to compare with it.
        layout: of the axes, for the differences of each channel.
        tolerance: the largest difference that is accepted.
        memory_limit: most bytes of tensors in memory.

    Raises:
        TensorError: a file cannot be read, or a sample does not fit into the memory allowed.
    """
    with files.open_tensors(a, limit=memory_limit) as first, files.open_tensors(b, limit=memory_limit) as second:
        pairs, missing = _paired(first, second)
        tensors = []
        for name, x, y in pairs:
            try:
                tensors.append(diff(x, y, layout=layout, tolerance=tolerance, memory_limit=memory_limit, name=name))
            except TensorError as error:
                raise type(error)(f"{a}, {b}: {name + ': ' if name else ''}{error}") from None
        return FileDifference(tensors=tuple(tensors), missing=missing)


def _paired(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> tuple[list[tuple[str, Any, Any]], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the tensors to compare by name, and the names that only the second, and only the first, has."""
    for tensor in (*first.values(), *second.values()):
        if isinstance(tensor, UnreadableTensor):
            raise tensor.error
    if len(first) == len(second) == 1:
        (name, x), y = next(iter(first.items())), next(iter(second.values()))
        return [(name, x, y)], ((), ())
    pairs = [(name, first[name], second[name]) for name in first if name in second]
    return pairs, (tuple(n for n in second if n not in first), tuple(n for n in first if n not in second))


def diff(
    a: Tensor,
    b: Tensor,
    *,
    layout: str | None = None,
    tolerance: Tolerance | None = None,
    memory_limit: int | None = None,
    name: str = "",
) -> TensorDifference:
    """Compare two tensors element by element.

    Args:
        a: a tensor.
        b: a tensor to compare with it.
        layout: of the axes, for the differences of each channel; rank 2 is NC.
        tolerance: the largest difference that is accepted; by default that of `numpy.allclose`.
        memory_limit: most bytes of tensors in memory.
        name: for the result.

    Raises:
        TensorError: elements that are not real numbers, or a sample that does not fit into the memory allowed.

    >>> import numpy as np
    >>> gap = diff(np.array([1.0, 2.0]), np.array([1.0, 2.5])).total
    >>> gap.max_abs, gap.beyond, round(gap.cosine, 4)
    (0.5, 1, 0.9965)
    """
    for tensor in (a, b):
        _float_type(tensor)
    shapes, dtypes = (tuple(a.shape), tuple(b.shape)), (a.dtype.name, b.dtype.name)
    if shapes[0] != shapes[1]:
        return TensorDifference(name=name, shapes=shapes, dtypes=dtypes, total=None)
    channel = None if layout is None and len(a.shape) != 2 else channel_axis(a, layout and layout.upper())
    sums = _Sums(a, b, channel, tolerance or Tolerance())
    for start, x, y in _blocks(a, b, memory_limit):
        sums.add(start, x, y)
    return sums.result(name)


def _float_type(x: Tensor) -> np.dtype[Any]:
    """Return the type whose ulps measure the elements of a tensor: float32 for integers and bool.

    Raises:
        UnsupportedTensorError: elements that are not real numbers.
    """
    if x.dtype.kind == "b":
        return np.dtype(np.float32)
    if x.dtype.kind not in "fiuV" or (x.dtype.kind == "f" and x.dtype.itemsize > 8):
        raise UnsupportedTensorError(f"dtype {x.dtype} cannot be compared (real numbers of up to 64 bits can)")
    return result_dtype(x)


def _numbers(block: Array) -> Array:
    return block.view(np.uint8) if block.dtype.kind == "b" else block


def _blocks(a: Tensor, b: Tensor, limit: int | None) -> Iterator[tuple[int, Array, Array]]:
    """Yield blocks of samples of both; a number is one block.

    Raises:
        TensorError: one sample does not fit into the memory allowed.
    """
    if not a.shape:
        yield 0, _numbers(np.asarray(a).reshape(1)), _numbers(np.asarray(b).reshape(1))
        return
    elements = math.prod(a.shape[1:])
    step = block_samples(8 * elements)
    if limit is not None:
        if elements * _WORKING_BYTES > limit:
            raise TensorError(
                f"one sample needs {elements * _WORKING_BYTES:,} bytes, the limit is {limit:,}: raise `memory_limit`"
            )
        step = max(1, min(step, limit // max(elements * _WORKING_BYTES, 1)))
    for start in range(0, a.shape[0] if elements else 0, step):
        stop = min(start + step, a.shape[0])
        yield start, _numbers(np.asarray(a[start:stop])), _numbers(np.asarray(b[start:stop]))


class _Sums:
    """Sums over the blocks read so far, one of each kind for every channel."""

    def __init__(self, a: Tensor, b: Tensor, channel: int | None, tolerance: Tolerance) -> None:
        self.a, self.b, self.channel, self.tolerance = a, b, channel, tolerance
        rows = 1 if channel is None else a.shape[channel]
        self.counts = np.zeros((7, rows), np.int64)  # elements, unequal, beyond, NaN and infinities of a and of b
        self.squares = np.zeros((4, rows))  # of the difference, of a, of b, and the product
        self.finite = np.zeros(rows, np.int64)
        self.largest = np.zeros((2, rows))  # difference, in ulps
        self.first: ElementPair | None = None
        self.first_beyond: ElementPair | None = None
        self.worst: tuple[float, ElementPair] | None = None

    def add(self, start: int, x: Array, y: Array) -> None:
        """Add a block of samples."""
        equal = (x == y) | (_is_nan(x) & _is_nan(y))
        a, b = x.astype(np.float64), y.astype(np.float64)
        with np.errstate(all="ignore"):
            gap = np.where(equal, 0.0, _distance(x, y, a, b))
            tolerance = self.tolerance
            close = (x == y) | (gap <= tolerance.atol + tolerance.rtol * np.abs(b)) & np.isfinite(b)
            close |= np.isnan(a) & np.isnan(b) & tolerance.equal_nan
            steps = np.where(equal, 0.0, gap / ulps(np.fmax(np.abs(a), np.abs(b)), self._coarser()))
        self._sum(a, b, gap, steps, equal, close)
        self._places(start, x, y, gap, equal, close)

    def _coarser(self) -> np.dtype[Any]:
        """Return the type with fewer digits."""
        kinds = [_float_type(t) for t in (self.a, self.b)]
        order = ("bfloat16", "float16", "float32", "float64")
        return min(kinds, key=lambda kind: order.index(kind.name))

    def _sum(self, a: Array, b: Array, gap: Array, steps: Array, equal: Array, close: Array) -> None:
        def rows(values: Array) -> Array:
            by_channel = values if self.channel is None else np.moveaxis(values, self.channel, 0)
            return by_channel.reshape(self.counts.shape[1], -1)

        finite = np.isfinite(a) & np.isfinite(b)
        flags = (np.ones_like(equal), ~equal, ~close, np.isnan(a), np.isnan(b), np.isinf(a), np.isinf(b))
        self.counts += [np.count_nonzero(rows(flag), axis=1) for flag in flags]
        self.finite += np.count_nonzero(rows(finite), axis=1)
        with np.errstate(all="ignore"):
            x, y, d = (np.where(finite, v, 0.0) for v in (a, b, gap))
            self.squares += [rows(v).sum(axis=1) for v in (d * d, x * x, y * y, x * y)]
            for i, values in enumerate((gap, steps)):
                self.largest[i] = np.fmax(self.largest[i], np.fmax.reduce(rows(values), axis=1, initial=0.0))

    def _places(self, start: int, a: Array, b: Array, gap: Array, equal: Array, close: Array) -> None:
        def place(flat: int) -> ElementPair:
            index = tuple(int(i) for i in np.unravel_index(flat, a.shape))
            position = (index[0] + start, *index[1:]) if self.a.shape else ()
            return ElementPair(index=position, a=_as_number(a[index]), b=_as_number(b[index]))

        if self.first is None and not equal.all():
            self.first = place(int(equal.argmin()))
        if self.first_beyond is None and not close.all():
            self.first_beyond = place(int(close.argmin()))
        known = np.nan_to_num(gap, nan=-1.0, posinf=np.inf)
        largest = float(known.max(initial=0.0))
        if largest > (0.0 if self.worst is None else self.worst[0]):
            self.worst = largest, place(int(known.argmax()))

    def result(self, name: str) -> TensorDifference:
        """Return the difference of the blocks added."""
        channels = () if self.channel is None else tuple(self._gap([c]) for c in range(self.counts.shape[1]))
        return TensorDifference(
            name=name,
            shapes=(tuple(self.a.shape), tuple(self.b.shape)),
            dtypes=(self.a.dtype.name, self.b.dtype.name),
            total=self._gap(list(range(self.counts.shape[1]))),
            channels=channels,
            first=self.first,
            first_beyond=self.first_beyond,
            worst=None if self.worst is None else self.worst[1],
        )

    def _gap(self, rows: list[int]) -> Gap:
        count, unequal, beyond, nan_a, nan_b, inf_a, inf_b = (int(v) for v in self.counts[:, rows].sum(axis=1))
        gap, a, b, product = (math.fsum(v) for v in self.squares[:, rows])
        floats = any(t.dtype.kind == "f" or is_half(t.dtype) for t in (self.a, self.b))
        size = math.sqrt(a) * math.sqrt(b)
        return Gap(
            count=count,
            unequal=unequal,
            beyond=beyond,
            max_abs=float(self.largest[0, rows].max(initial=0.0)),
            rms=math.sqrt(gap / max(int(self.finite[rows].sum()), 1)),
            max_ulp=float(self.largest[1, rows].max(initial=0.0)) if floats else math.nan,
            cosine=max(-1.0, min(1.0, product / size)) if size > 0 else math.nan,
            nan=(nan_a, nan_b),
            inf=(inf_a, inf_b),
        )


def _distance(x: Array, y: Array, a: Array, b: Array) -> Array:
    """Return the distances of two blocks, whose float64 values round large integers: those of one type are exact."""
    if x.dtype == y.dtype and x.dtype.kind in "iu" and x.dtype.itemsize == 8:
        return np.asarray((np.maximum(x, y).view(np.uint64) - np.minimum(x, y).view(np.uint64)).astype(np.float64))
    return np.asarray(np.abs(a - b))


def _as_number(value: Any) -> int | float:
    return int(value) if value.dtype.kind in "iu" else float(value)


def _is_nan(x: Array) -> Array:
    return np.zeros(x.shape, bool) if x.dtype.kind in "iu" else np.asarray(np.isnan(x))
