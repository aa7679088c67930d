"""Layers of a checkpoint by the prefix of their tensors: FILE:layer1.0.bn1. is a state with its weight and bias."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.tensor import files
from normcli.tensor.checkpoint import open_checkpoint
from normcli.tensor.files import Array
from normcli.tensor.normalizers import Normalizer
from normcli.tensor.normalizers.running import COUNTER

# names of a tensor of the layer: its own, torch's old hooks and torch's parametrizations
_SPELLINGS = ("{}", "weight_{}", "parametrizations.weight.0._{}", "_{}")
_PARAMETRIZED = "parametrizations.weight.original"
_KERNELS = ("weight_orig", f"{_PARAMETRIZED}1", _PARAMETRIZED, "weight_v", "weight")
_LENGTHS = ("weight_g", f"{_PARAMETRIZED}0")


@dataclass(frozen=True)
class Layer:
    """The tensors of a layer that a normalizer takes.

    Attributes:
        file: the checkpoint.
        state: the running statistics.
        names: key of the state -> name of the tensor.
        parameters: weight and bias, as FILE:KEY.
    """

    file: str
    state: dict[str, Array]
    names: dict[str, str]
    parameters: dict[str, str]


def is_prefix(name: str) -> bool:
    """Return True for FILE:PREFIX, whose key ends with a dot."""
    _, key = files.split_key(name)
    return key is not None and key.endswith(".")


def read_layer(name: str, one: Normalizer) -> Layer:
    """Read the state of a layer.

    Raises:
        TensorError: no tensor has the prefix, or a statistic is missing among those that have it.
    """
    file, prefix = files.split_key(name)
    assert prefix is not None
    with open_checkpoint(file) as checkpoint:
        members = checkpoint.below(prefix)
        names = {key: found for key in (*one.state, COUNTER) if (found := _spelled(key, members)) is not None}
        missing = [key for key in one.state if key not in names]
        if missing:
            present = ", ".join(list(members)[:8])
            raise TensorError(f"{name}: no {missing[0]}, which {one.name} needs; the prefix has {present}")
        state = {key: files.read_array(checkpoint.named(found)) for key, found in names.items()}
    wanted = [key for key in ("weight", "bias") if key in one.settings and key in members]
    return Layer(file, state, names, {key: f"{file}:{members[key]}" for key in wanted})


def _spelled(key: str, members: Mapping[str, str]) -> str | None:
    return next((members[name] for form in _SPELLINGS if (name := form.format(key)) in members), None)


def save_layer(layer: Layer, state: Mapping[str, Array], path: str) -> None:
    """Write a copy of the checkpoint with a new state of the layer, in the types of the old one.

    Raises:
        TensorError: a statistic has another shape than its tensor.
    """
    changes: dict[str, Any] = {}
    with open_checkpoint(layer.file) as checkpoint:
        for key, name in layer.names.items():
            stored, value = layer.state[key], np.asarray(state[key])
            if stored.shape != value.shape:
                raise TensorError(f"{layer.file}:{name}: has shape {stored.shape}, the new state {value.shape}")
            changes[name] = value.astype(stored.dtype)
        checkpoint.save_copy(path, changes)


def resolve_weight(name: str, one: Normalizer) -> tuple[str, dict[str, str]]:
    """Return the weight of a layer as FILE:KEY, and the parameters that belong to it.

    Raises:
        TensorError: the prefix has no weight.
    """
    file, prefix = files.split_key(name)
    assert prefix is not None
    with open_checkpoint(file) as checkpoint:
        members = checkpoint.below(prefix)
    kernel = next((members[key] for key in _KERNELS if key in members), None)
    if kernel is None:
        raise TensorError(f"{name}: no weight; the prefix has {', '.join(list(members)[:8])}")
    length = next((members[key] for key in _LENGTHS if key in members), None)
    parameters = {"g": f"{file}:{length}"} if length is not None and "g" in one.settings else {}
    return f"{file}:{kernel}", parameters


def resolve_prefixes(job: Any, one: Normalizer) -> Any:
    """Return a job whose inputs by prefix are weights by name.

    Raises:
        UsageError: a prefix for a normalizer of activations, or several layers with lengths of their own.
    """
    inputs, parameters = list(job.inputs), dict(job.parameters)
    for i, name in enumerate(inputs):
        if not is_prefix(name):
            continue
        if one.family != "weight":
            raise UsageError(f"{name}: a prefix names a layer: {one.name} takes a tensor (or use --state {name})")
        inputs[i], lengths = resolve_weight(name, one)
        if lengths and len(inputs) > 1:
            raise UsageError(f"{name}: each layer has its own g: run one layer at a time")
        parameters = {**lengths, **parameters}
    return replace(job, inputs=inputs, parameters=parameters)
