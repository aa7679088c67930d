"""Running statistics of several runs: pooled by their numbers of elements, or mixed by a share."""

import fnmatch
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor import files
from normcli.tensor.checkpoint import TensorFile, open_checkpoint
from normcli.tensor.files import Array
from normcli.tensor.normalizers.registry import ELEMENTS
from normcli.tensor.normalizers.running import COUNTER

_BIASED = ("keras", "flax", "onnx")  # presets whose running variance is divided by the number of elements
_DESCRIPTIONS = ("normalizer", "preset", ELEMENTS)


def merge_states(
    names: Sequence[str], output: str, *, elements: Sequence[int] | None = None, running_var: str | None = None
) -> int:
    """Pool the batch-norm statistics of shards of the data, as if they had been computed of all at once.

    Args:
        names: states, or checkpoints with the same layers.
        output: file to write: the first one with pooled statistics.
        elements: number of elements per channel behind each; by default as the states record it.
        running_var: `unbiased` or `biased`; by default that of the preset that the states record, or unbiased.

    Returns:
        The number of layers.

    Raises:
        TensorError: states of different layers, or without a mean and variance.
        UsageError: no number of elements.
    """
    with ExitStack() as stack:
        sources = [stack.enter_context(open_checkpoint(name)) for name in names]
        labels = [_labels(source) for source in sources]
        counts = _counts(names, labels, elements)
        convention = running_var or ("biased" if labels[0].get("preset") in _BIASED else "unbiased")
        if convention not in ("biased", "unbiased"):
            raise UsageError(f"`running_var`: must be unbiased or biased, not {convention!r}")
        freed = 1 if convention == "unbiased" else 0
        if min(counts) <= freed:
            raise UsageError(f"`elements`: must be {freed + 1} or more for each state, got {min(counts)}")
        total = sum(counts)
        changes: dict[str, Any] = {}
        layers = [name.removesuffix("running_mean") for name in sources[0].tensors if name.endswith("running_mean")]
        for layer in layers:
            mean, var = ([_read(s, layer + key) for s in sources] for key in ("running_mean", "running_var"))
            pooled = sum(n / total * m for n, m in zip(counts, mean, strict=True))
            squares = sum(v * (n - freed) + n * (m - pooled) ** 2 for n, m, v in zip(counts, mean, var, strict=True))
            changes |= _stored(
                sources[0], {f"{layer}running_mean": pooled, f"{layer}running_var": squares / (total - freed)}
            )
            if layer + COUNTER in sources[0].tensors:
                batches = sum(int(_read(source, layer + COUNTER)) for source in sources)
                changes[layer + COUNTER] = np.array(batches, np.int64)
        if not layers:
            raise TensorError(f"{names[0]}: no running_mean in it: nothing to merge")
        _save(sources[0], output, changes, {ELEMENTS: str(total)} if ELEMENTS in labels[0] else {})
    return len(layers)


def mix_states(source: str, target: str, output: str, *, alpha: Sequence[str] = ("1",)) -> dict[str, float]:
    """Mix running statistics of a source and a target domain: alpha * target + (1 - alpha) * source.

    Alpha 1 is AdaBN (Li et al. 2016, arXiv 1603.04779), a number between alpha-BN (You et al. 2021, arXiv 2110.04065).

    Args:
        source: a state, or a checkpoint.
        target: a state, or a checkpoint with the same layers.
        output: file to write: the source with mixed statistics.
        alpha: shares of the target, X for all layers or PATTERN=X for some; the last that matches a layer counts.

    Returns:
        The share of each layer.

    Raises:
        TensorError: states of different layers.
        UsageError: a share outside of 0 to 1, or a pattern that matches no layer.
    """
    shares = [_parse_alpha(text) for text in alpha]
    with ExitStack() as stack:
        first, second = (stack.enter_context(open_checkpoint(name)) for name in (source, target))
        statistics = [n for n in first.tensors if n.rpartition(".")[2].startswith("running_")]
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in statistics))
        if not layers:
            raise TensorError(f"{source}: no running statistics in it: nothing to mix")
        for pattern, _ in shares:
            if not any(fnmatch.fnmatchcase(layer, pattern) for layer in layers):
                raise UsageError(f"`alpha`: {pattern} matches no layer of {source} ({', '.join(layers[:6])})")
        chosen: dict[str, float] = {}
        for pattern, number in shares:
            chosen |= {layer: number for layer in layers if fnmatch.fnmatchcase(layer, pattern)}
        changes: dict[str, Any] = {}
        for name in statistics:
            share = chosen.get(name.rpartition(".")[0])
            if share is not None:
                mixed = share * _read(second, name) + (1 - share) * _read(first, name)
                changes |= _stored(first, {name: mixed})
        _save(first, output, changes, {})
    return chosen


def _parse_alpha(text: str) -> tuple[str, float]:
    pattern, equals, number = text.rpartition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"`alpha`: must be a number of 0 to 1, or PATTERN=X, not {text!r}")
    return (pattern if equals else "*"), share


def _labels(source: TensorFile) -> dict[str, str]:
    """Return the description that a state has of itself."""
    stored = {key: str(files.read_array(source.tensors[key])) for key in _DESCRIPTIONS if key in source.tensors}
    return {**{key: source.metadata[key] for key in _DESCRIPTIONS if key in source.metadata}, **stored}


def _counts(names: Sequence[str], labels: Sequence[Mapping[str, str]], elements: Sequence[int] | None) -> list[int]:
    if elements is not None:
        if len(elements) != len(names):
            raise UsageError(f"`elements`: {len(elements)} for {len(names)} states: one is required for each")
        return [int(number) for number in elements]
    counts = []
    for name, label in zip(names, labels, strict=True):
        if ELEMENTS not in label:
            raise UsageError(
                f"{name}: does not record how many elements are behind it (--elements N,N, or a state of "
                "--recompute-state in .npz or .safetensors)"
            )
        counts.append(int(label[ELEMENTS]))
    return counts


def _read(source: TensorFile, name: str) -> Array:
    return files.read_array(source.named(name)).astype(np.float64)


def _stored(source: TensorFile, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return statistics in the types of their tensors.

    Raises:
        TensorError: another shape.
    """
    changes = {}
    for name, value in values.items():
        tensor = source.named(name)
        if tuple(tensor.shape) != np.shape(value):
            raise TensorError(f"{source.path}:{name}: has shape {tuple(tensor.shape)}, the others {np.shape(value)}")
        changes[name] = np.asarray(value).astype(tensor.dtype)
    return changes


def _save(source: TensorFile, output: str, changes: dict[str, Any], labels: Mapping[str, str]) -> None:
    for key, text in labels.items():
        if key in source.tensors:
            changes[key] = np.array(text)
        else:
            source.metadata[key] = text
    source.save_copy(str(Path(output)), changes)
