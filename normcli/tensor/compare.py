"""Several normalizers applied to the same activations, one row of statistics for each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from normcli import platforms
from normcli.errors import TensorError, UsageError
from normcli.options.field import nearest
from normcli.storage.npy import ReservedTensor
from normcli.tensor import files
from normcli.tensor.channel_rows import ChannelRow, channel_rows
from normcli.tensor.files import Array
from normcli.tensor.job import NO_COUNTS, ValueCounts, count_values
from normcli.tensor.normalizers import Normalized, Normalizer, find, resources
from normcli.tensor.normalizers.registry import LABELS, naming_errors
from normcli.tensor.normalizers.units import PairwiseSum
from normcli.tensor.normalizers.views import Tensor, allocate_aligned, block_samples, channel_axis, result_dtype

BINS = 16
COMMON = ("batch_norm", "layer_norm", "instance_norm", "group_norm", "rms_norm")
Observer = Callable[[Array], None]
_PROFILED = 32  # bytes of working memory per element while a tensor is profiled


def _ignore(_: Array) -> None:
    """Take no notice of a tensor."""


@dataclass(frozen=True)
class ComparisonRow:
    """Statistics of one tensor; `gap` compares train and eval mode where a running state allows both.

    Attributes:
        name: normalizer, its mode and settings; or `input`.
        mean: over all finite elements.
        std: population.
        min: smallest.
        max: largest.
        histogram: counts in equal bins from min to max.
        gap: root mean square of train minus eval, and the largest difference.
        nan: number of elements that are NaN.
        inf: number of elements that are infinite.
        channels: statistics of each channel, where they were asked for.
        counts: of the elements that a result cannot be right for.
        size: number of elements.
    """

    name: str
    mean: float
    std: float
    min: float
    max: float
    histogram: list[int]
    gap: tuple[float, float] | None = None
    nan: int = 0
    inf: int = 0
    channels: tuple[ChannelRow, ...] = ()
    counts: ValueCounts = NO_COUNTS
    size: int = 0

    @property
    def nonfinite(self) -> int:
        """Return the number of elements that are NaN or infinite."""
        return self.nan + self.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, with None for NaN and infinity, which JSON lacks."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("counts", "size", "channels")}
        plain["nonfinite"] = self.nonfinite
        if self.channels:
            plain["channels"] = [channel.to_dict() for channel in self.channels]
        if self.gap is not None:
            plain["gap"] = [value if math.isfinite(value) else None for value in self.gap]
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in plain.items()
        }


def compare(
    name: str,
    requests: Sequence[str] | None,
    *,
    layout: str | None,
    state: str | None,
    memory_limit: int | None = None,
    threads: int | None = None,
    on_tensor: Observer | None = None,
    per_channel: bool = False,
) -> list[ComparisonRow]:
    """Apply several normalizers to one tensor; the first row is the input.

    Args:
        name: of the tensor, FILE or FILE:KEY.
        requests: `NAME` or `NAME:setting=value:…`; None is `COMMON`, without instance_norm where nothing is spatial.
        layout: of the tensor.
        state: file of a batch_norm or batch_renorm state; both then appear in train and eval mode.
        memory_limit: most bytes of tensors in memory.
        threads: number of threads; None is one for each usable processor.
        on_tensor: called with the tensor of every row, in their order.
        per_channel: add the statistics of each channel.

    Raises:
        UsageError: no layout, which channels need from rank 3 on.
    """
    observe = on_tensor or _ignore
    layout = None if layout is None else layout.upper()
    statistics = None if state is None else files.read_state(state)
    extra = _PROFILED if on_tensor is not None else 0
    with files.open_one(name, limit=memory_limit) as stored, TemporaryDirectory(prefix="normcli-") as folder:
        x = _input(name, stored, memory_limit, 2 if state else 1, extra)
        if requests is None:
            requests = [request for request in COMMON if request != "instance_norm" or len(x.shape) > 2]
        allocate = allocate_aligned if isinstance(x, np.ndarray) else _Scratch(Path(folder)).allocate
        try:
            result_dtype(x)
            observe(x)
            axis = channel_axis(x, layout) if per_channel else None
            rows = [_row("input", x, axis)]
            with resources(threads=threads, memory_limit=memory_limit, allocate=allocate):
                for request in requests:
                    rows += _rows(request, x, _Context(layout, statistics, observe, axis))
        except TensorError as error:
            raise type(error)(f"{name}: {error}") from None
    return rows


def _input(name: str, stored: Any, limit: int | None, results: int, extra: int) -> Any:
    """Return the tensor that all normalizers get: in memory where it fits with its results, else read by blocks.

    Raises:
        TensorError: a page draws complete tensors, and they do not fit into the memory allowed.
    """
    copies = (1 + results) * stored.dtype.itemsize + 24 * results + 2  # 24: float64 copies of each result
    need = math.prod(stored.shape) * (copies + extra)
    if limit is None or need <= limit:
        return files.read_array(stored)
    if extra:
        raise TensorError(f"{name}: a page of it needs {need:,} bytes, the limit is {limit:,}: raise `memory_limit`")
    return stored


class _Context(NamedTuple):
    """The settings that all normalizers of a comparison share: layout, state, observer, axis of channels to show."""

    layout: str | None
    state: Mapping[str, Array] | None
    observe: Observer
    axis: int | None


def _rows(request: str, x: Any, context: _Context) -> list[ComparisonRow]:
    layout, state, observe, axis = context
    one, settings = _parse_request(request)
    if len(one.tensors) > 1:
        raise UsageError(f"compare: {one.name} needs a second tensor; run it alone")
    requested = "".join(f" {key}={value}" for key, value in settings.items())
    label = one.name
    if "layout" in one.settings:
        settings["layout"] = layout
        added = _default_settings(one, settings, x, layout)
        settings |= added
        label += "".join(f" {key}={value}" for key, value in added.items())
    if one.name == "batch_renorm" and state is not None and not {"step", "rmax", "dmax"} & set(settings):
        # where the paper's schedule ends; at its start batch_renorm is batch_norm
        settings |= {"rmax": 3.0, "dmax": 5.0}
        label += " rmax=3 dmax=5"
    converted = None if state is None else _convert_state(one, state, settings)
    if converted is None:
        y = _apply(one, x, settings)
        observe(y)
        rows = [_row(label + requested, y, axis)]
        _discard(y)
        return rows
    train = _apply(one, x, {**settings, "state": converted})
    evaluated = _apply(one, x, {**settings, "state": converted, "mode": "eval"})
    observe(train)
    observe(evaluated)
    gap = _gap(train, evaluated)
    rows = [_row(f"{label} train{requested}", train, axis), _row(f"{label} eval{requested}", evaluated, axis, gap)]
    for result in (train, evaluated):
        _discard(result)
    return rows


def _parse_request(text: str) -> tuple[Normalizer, dict[str, Any]]:
    name, *pairs = text.split(":")
    one = find(name)
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.replace("-", "_")
        parameter = one.settings.get(key)
        if not equals or parameter is None:
            near = nearest(key, one.settings)
            raise UsageError(f"compare: {pair!r} is not a setting of {one.name}: use {one.name}:NAME=VALUE{near}")
        settings[key] = value if isinstance(parameter.default, str) or key == "axes" else _parse_value(value)
    return one, settings


def _parse_value(text: str) -> bool | float | str:
    if text.lower() in ("true", "on", "false", "off"):
        return text.lower() in ("true", "on")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _default_settings(one: Normalizer, settings: Mapping[str, Any], x: Any, layout: str | None) -> dict[str, Any]:
    """Choose settings that have no default, so that a bare name works."""
    added: dict[str, Any] = {}
    with naming_errors(one.name):
        channels = x.shape[channel_axis(x, layout)]
    if one.name in ("layer_norm", "rms_norm") and layout not in (None, "NC", "NTC"):
        added["axes"] = "image" if one.name == "layer_norm" else "token"
    if one.name == "group_norm" or (one.name == "evo_norm" and settings.get("variant", "S0") == "S0"):
        lonely = len(x.shape) == 2  # then a group of one channel has one value
        added["groups"] = _largest_divisor(channels, min(32, max(channels // 2, 1)) if lonely else 32)
    if one.name == "ghost_batch_norm":
        added["batch"] = _largest_divisor(x.shape[0], max(x.shape[0] // 2, 1))
    if "seed" in one.settings:
        added["seed"] = 0
    return {key: value for key, value in added.items() if key not in settings}


def _largest_divisor(number: int, limit: int) -> int:
    return max((d for d in range(1, min(number, limit) + 1) if number % d == 0), default=1)


def _convert_state(one: Normalizer, state: Mapping[str, Array], settings: Mapping[str, Any]) -> dict[str, Array] | None:
    """Convert a batch_norm or batch_renorm state for either of the two; return None for other normalizers."""
    if one.name not in ("batch_norm", "batch_renorm"):
        return None
    converted = {key: value for key, value in state.items() if key not in LABELS}
    eps = settings.get("eps", one.settings["eps"].default)
    if one.name == "batch_renorm" and "running_var" in converted:
        converted["running_std"] = np.sqrt(converted.pop("running_var") + eps)
    elif one.name == "batch_norm" and "running_std" in converted:
        converted["running_var"] = np.maximum(converted.pop("running_std") ** 2 - eps, 0.0)
    return converted


def _apply(one: Normalizer, x: Any, settings: Mapping[str, Any]) -> Any:
    result = one.function(x, **settings)
    y = result.y if isinstance(result, Normalized) else result
    return y if isinstance(y, ScratchTensor) else np.asarray(y)


def _discard(result: Any) -> None:
    if isinstance(result, ScratchTensor):
        result.close()


def _row(name: str, y: Tensor, axis: int | None, gap: tuple[float, float] | None = None) -> ComparisonRow:
    """Return the statistics of a tensor, read by blocks: the bits of NumPy's over all finite elements in one array."""
    size = math.prod(y.shape)
    counts, nan, finite, low, high = NO_COUNTS, 0, 0, math.inf, -math.inf
    for block in _blocks(y):
        part = count_values(block)
        counts, nan = counts.plus(part), nan + (int(np.isnan(block.astype(np.float64)).sum()) if part.nonfinite else 0)
        values = _finite(block)
        finite += values.size
        low, high = min(low, float(values.min(initial=math.inf))), max(high, float(values.max(initial=-math.inf)))
    channels = () if axis is None else tuple(channel_rows(_blocks(y), axis, y.shape[axis]))
    last = (gap, nan, counts.nonfinite - nan, channels, counts, size)
    if not finite:
        return ComparisonRow(name, np.nan, np.nan, np.nan, np.nan, [0] * BINS, *last)
    with np.errstate(all="ignore"):
        mean = _sum((_finite(block) for block in _blocks(y)), finite) / finite
        width = high - low
        scale = 1.0 if np.isfinite(width) else 0.25  # NumPy rejects a range whose width overflows
        bounds = (low * scale, high * scale) if high > low else (low - 0.5, low + 0.5)
        if not bounds[1] > bounds[0]:  # next to 1e16 and beyond, 0.5 is nothing
            bounds = (low - abs(low) * 1e-9, low + abs(low) * 1e-9)
        histogram = np.zeros(BINS, np.int64)

        def squares() -> Iterator[Array]:
            for block in _blocks(y):
                values = _finite(block)
                histogram[:] += np.histogram(values if scale == 1.0 else values * scale, BINS, bounds)[0]
                yield np.square(values - mean)

        std = float(np.sqrt(_sum(squares(), finite) / finite))
    return ComparisonRow(name, float(mean), std, low, high, histogram.tolist(), *last)


def _blocks(y: Tensor) -> Iterator[Array]:
    if not y.shape:
        yield np.asarray(y).reshape(1)
        return
    step = block_samples(math.prod(y.shape[1:]) * 8)
    for start in range(0, y.shape[0], step):
        yield np.asarray(y[start : start + step])


def _finite(block: Array) -> Array:
    values = block.astype(np.float64, copy=False).ravel()
    finite = np.isfinite(values)
    return values if finite.all() else values[finite]


def _sum(parts: Iterator[Array], count: int) -> Any:
    total = PairwiseSum(count)
    for part in parts:
        total.add(part)
    return total.result()


def _gap(train: Tensor, evaluated: Tensor) -> tuple[float, float]:
    """Return the root mean square of the difference of two tensors, and its largest value."""
    size, top, bottom = math.prod(train.shape), -math.inf, math.inf

    def squares() -> Iterator[Array]:
        nonlocal top, bottom
        for a, b in zip(_blocks(train), _blocks(evaluated), strict=True):
            difference = (a.astype(np.float64) - b).ravel()
            top, bottom = float(np.maximum(top, difference.max())), float(np.minimum(bottom, difference.min()))
            yield np.square(difference)

    with np.errstate(all="ignore"):
        return (float(np.sqrt(_sum(squares(), size) / size)), max(top, -bottom)) if size else (0.0, 0.0)


class _Scratch:
    """Results in temporary files, one after the other in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make the file that takes a result."""
        if not math.prod(shape):
            return np.empty(shape, dtype)
        self._number += 1
        return ScratchTensor(self._folder / str(self._number), b"", shape, dtype)


class ScratchTensor(ReservedTensor):
    """A tensor in a temporary file that can be read again."""

    def __getitem__(self, samples: slice, /) -> Array:
        start, stop, _ = samples.indices(self.shape[0])
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = platforms.pread(self._file.fileno(), (stop - start) * row, start * row)
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])

    def close(self) -> None:
        """Close and remove the file."""
        super().close()
        self._path.unlink(missing_ok=True)
