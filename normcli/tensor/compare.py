"""Several normalizers applied to the same activations, one row of statistics for each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor import files
from normcli.tensor.files import Array
from normcli.tensor.job import NO_COUNTS, ValueCounts, count_values
from normcli.tensor.normalizers import Normalized, Normalizer, find, resources
from normcli.tensor.normalizers.registry import LABELS, naming_errors
from normcli.tensor.normalizers.views import channel_axis, result_dtype

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
        nonfinite: number of elements that are NaN or infinite.
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
    nonfinite: int = 0
    counts: ValueCounts = NO_COUNTS
    size: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, with None for NaN and infinity, which JSON lacks."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("counts", "size")}
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
    """
    x = _read_input(name, memory_limit, 2 if state else 1, _PROFILED if on_tensor is not None else 0)
    observe = on_tensor or _ignore
    layout = None if layout is None else layout.upper()
    statistics = None if state is None else files.read_state(state)
    if requests is None:
        requests = [request for request in COMMON if request != "instance_norm" or x.ndim > 2]
    try:
        result_dtype(x)
        observe(x)
        rows = [_row("input", x)]
        with resources(threads=threads, memory=memory_limit):
            for request in requests:
                rows += _rows(request, x, layout, statistics, observe)
    except TensorError as error:
        raise type(error)(f"{name}: {error}") from None
    return rows


def _read_input(name: str, limit: int | None, results: int, extra: int) -> Array:
    """Read the tensor that all normalizers get.

    Raises:
        TensorError: it, its results and their statistics do not fit into the memory allowed.
    """
    with files.open_one(name, limit=limit) as tensor:
        size = math.prod(tensor.shape)
        copies = (1 + results) * tensor.dtype.itemsize + 24 * results + 2  # 24: float64 copies of each result
        need = size * (copies + extra)
        if limit is not None and need > limit:
            raise TensorError(f"{name}: compare needs {need:,} bytes, the limit is {limit:,}: raise --memory-limit")
        return files.read_array(tensor)


def _rows(
    request: str, x: Array, layout: str | None, state: Mapping[str, Array] | None, observe: Observer
) -> list[ComparisonRow]:
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
        return [_row(label + requested, y)]
    train = _apply(one, x, {**settings, "state": converted})
    evaluated = _apply(one, x, {**settings, "state": converted, "mode": "eval"})
    observe(train)
    observe(evaluated)
    with np.errstate(all="ignore"):
        difference = train.astype(np.float64) - evaluated
        largest = float(max(difference.max(), -difference.min())) if difference.size else 0.0
        gap = (float(np.sqrt(np.mean(np.square(difference, out=difference)))) if difference.size else 0.0, largest)
    del difference
    return [_row(f"{label} train{requested}", train), _row(f"{label} eval{requested}", evaluated, gap)]


def _parse_request(text: str) -> tuple[Normalizer, dict[str, Any]]:
    name, *pairs = text.split(":")
    one = find(name)
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.replace("-", "_")
        parameter = one.settings.get(key)
        if not equals or parameter is None:
            raise UsageError(f"compare: {pair!r} is not a setting of {one.name}: use {one.name}:NAME=VALUE")
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


def _default_settings(one: Normalizer, settings: Mapping[str, Any], x: Array, layout: str | None) -> dict[str, Any]:
    """Choose settings that have no default, so that a bare name works."""
    added: dict[str, Any] = {}
    with naming_errors(one.name):
        channels = x.shape[channel_axis(x, layout)]
    if one.name in ("layer_norm", "rms_norm") and layout not in (None, "NC", "NTC"):
        added["axes"] = "image" if one.name == "layer_norm" else "token"
    if one.name == "group_norm" or (one.name == "evo_norm" and settings.get("variant", "S0") == "S0"):
        lonely = x.ndim == 2  # then a group of one channel has one value
        added["groups"] = _largest_divisor(channels, min(32, max(channels // 2, 1)) if lonely else 32)
    if one.name == "ghost_batch_norm":
        added["batch"] = _largest_divisor(len(x), max(len(x) // 2, 1))
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


def _apply(one: Normalizer, x: Array, settings: Mapping[str, Any]) -> Array:
    result = one.function(x, **settings)
    return np.asarray(result.y if isinstance(result, Normalized) else result)


def _row(name: str, y: Array, gap: tuple[float, float] | None = None) -> ComparisonRow:
    finite = y.astype(np.float64, copy=False).ravel()
    counts = count_values(y)
    last = (gap, counts.nonfinite, counts, y.size)
    if counts.nonfinite:
        finite = finite[np.isfinite(finite)]
    if not finite.size:
        return ComparisonRow(name, np.nan, np.nan, np.nan, np.nan, [0] * BINS, *last)
    low, high = float(finite.min()), float(finite.max())
    with np.errstate(all="ignore"):
        mean, std = float(finite.mean()), float(finite.std())
        width = high - low
        scale = 1.0 if np.isfinite(width) else 0.25  # NumPy rejects a range whose width overflows
        bounds = (low * scale, high * scale) if high > low else (low - 0.5, low + 0.5)
        if not bounds[1] > bounds[0]:  # next to 1e16 and beyond, 0.5 is nothing
            bounds = (low - abs(low) * 1e-9, low + abs(low) * 1e-9)
        histogram = np.histogram(finite if scale == 1.0 else finite * scale, BINS, bounds)[0]
    return ComparisonRow(name, mean, std, low, high, histogram.tolist(), *last)
