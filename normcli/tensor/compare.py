"""What each normalizer does to the same activations: one row of numbers for each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from normcli.errors import UsageError
from normcli.tensor import files as files
from normcli.tensor.files import Array
from normcli.tensor.normalizers import Normalized, Normalizer, find, resources
from normcli.tensor.normalizers.views import channel_axis

BINS = 16


@dataclass(frozen=True)
class Row:
    """Numbers of one tensor; `gap` compares train and eval mode where a running state allows both.

    Attributes:
        name: normalizer, its mode and settings; or `input`.
        mean: over all finite elements.
        std: population.
        min: smallest.
        max: largest.
        histogram: counts in equal bins from min to max.
        gap: root mean square of train minus eval, and the largest difference.
    """

    name: str
    mean: float
    std: float
    min: float
    max: float
    histogram: list[int]
    gap: tuple[float, float] | None = None

    def record(self) -> dict[str, Any]:
        """Give the row as plain data."""
        return asdict(self)


def compare(
    given: str,
    requests: Sequence[str],
    *,
    layout: str | None,
    state: str | None,
    memory_limit: int | None = None,
    threads: int | None = None,
) -> list[Row]:
    """Apply several normalizers to one tensor; the first row is the input.

    Args:
        given: name of the tensor.
        requests: `NAME` or `NAME:setting=value:…`.
        layout: of the tensor.
        state: file of a batch_norm or batch_renorm state; both then appear in train and eval mode.
        memory_limit: most bytes to hold.
        threads: how many compute.
    """
    found = files.open_tensors(given, limit=memory_limit)
    if len(found) != 1:
        raise UsageError(f"{given}: holds {len(found)} tensors ({', '.join(found)}): name one, {given}:KEY")
    x = files.load(next(iter(found.values())))
    statistics = None if state is None else files.read_state(state)
    rows = [_row("input", x)]
    with resources(threads=threads, memory=memory_limit):
        for request in requests:
            rows += _rows(request, x, layout, statistics)
    return rows


def _rows(request: str, x: Array, layout: str | None, state: Mapping[str, Array] | None) -> list[Row]:
    one, settings = _request(request)
    if len(one.tensors) > 1:
        raise UsageError(f"compare: {one.name} needs a second tensor; run it alone")
    said = "".join(f" {key}={value}" for key, value in settings.items())
    label = one.name
    if "layout" in one.settings:
        settings["layout"] = layout
        label += _complete(one, settings, x, layout)
    if one.name == "batch_renorm" and state is not None and not {"step", "rmax", "dmax"} & set(settings):
        # where the paper's schedule ends; at its start batch_renorm is batch_norm
        settings |= {"rmax": 3.0, "dmax": 5.0}
        label += " rmax=3 dmax=5"
    fitting = None if state is None else _fitting(one, state, settings)
    if fitting is None:
        return [_row(label + said, _apply(one, x, settings))]
    train = _apply(one, x, {**settings, "state": fitting})
    evaluated = _apply(one, x, {**settings, "state": fitting, "mode": "eval"})
    apart = train.astype(np.float64) - evaluated.astype(np.float64)
    gap = (float(np.sqrt(np.mean(apart * apart))), float(np.abs(apart).max())) if apart.size else (0.0, 0.0)
    return [_row(f"{label} train{said}", train), _row(f"{label} eval{said}", evaluated, gap)]


def _request(text: str) -> tuple[Normalizer, dict[str, Any]]:
    name, *pairs = text.split(":")
    one = find(name)
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.replace("-", "_")
        parameter = one.settings.get(key)
        if not equals or parameter is None:
            raise UsageError(f"compare: {pair!r} is not a setting of {one.name}: give {one.name}:NAME=VALUE")
        settings[key] = value if isinstance(parameter.default, str) or key == "axes" else _number(key, value)
    return one, settings


def _number(key: str, text: str) -> Any:
    if text.lower() in ("true", "on", "false", "off"):
        return text.lower() in ("true", "on")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _complete(one: Normalizer, settings: dict[str, Any], x: Array, layout: str | None) -> str:
    """Choose what has no default, so that a bare name works; give it as text for the row."""
    added = ""
    channels = x.shape[channel_axis(one.name, x, layout)]
    if one.name in ("layer_norm", "rms_norm") and "axes" not in settings and layout not in (None, "NC", "NTC"):
        settings["axes"] = "image" if one.name == "layer_norm" else "token"
        added += f" axes={settings['axes']}"
    needs_groups = one.name == "group_norm" or (one.name == "evo_norm" and settings.get("variant", "S0") == "S0")
    if needs_groups and "groups" not in settings:
        settings["groups"] = max(g for g in range(1, min(channels, 32) + 1) if channels % g == 0) if channels else 1
        added += f" groups={settings['groups']}"
    if one.name == "ghost_batch_norm" and "batch" not in settings:
        settings["batch"] = max(b for b in range(1, max(len(x) // 2, 1) + 1) if len(x) % b == 0) if len(x) else 1
        added += f" batch={settings['batch']}"
    if "seed" in one.settings and "seed" not in settings:
        settings["seed"] = 0
        added += " seed=0"
    return added


def _fitting(one: Normalizer, state: Mapping[str, Array], settings: Mapping[str, Any]) -> dict[str, Array] | None:
    """Say a batch_norm or batch_renorm state in the words of the other, or give None."""
    keys = {key: value for key, value in state.items() if key not in ("normalizer", "preset")}
    if one.name == "batch_renorm" and "running_var" in keys:
        eps = settings.get("eps", one.settings["eps"].default)
        keys["running_std"] = np.sqrt(keys.pop("running_var") + eps)
    elif one.name == "batch_norm" and "running_std" in keys:
        eps = settings.get("eps", one.settings["eps"].default)
        keys["running_var"] = np.maximum(keys.pop("running_std") ** 2 - eps, 0.0)
    return keys if one.name in ("batch_norm", "batch_renorm") else None


def _apply(one: Normalizer, x: Array, settings: Mapping[str, Any]) -> Array:
    made = one.function(x, **settings)
    return np.asarray(made.y if isinstance(made, Normalized) else made)


def _row(name: str, y: Array, gap: tuple[float, float] | None = None) -> Row:
    values = y.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Row(name, np.nan, np.nan, np.nan, np.nan, [0] * BINS, gap)
    low, high = float(finite.min()), float(finite.max())
    counts = np.histogram(finite, BINS, (low, high) if high > low else (low - 0.5, low + 0.5))[0]
    return Row(name, float(finite.mean()), float(finite.std()), low, high, counts.tolist(), gap)
