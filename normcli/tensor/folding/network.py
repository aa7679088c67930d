"""The layers of a checkpoint: norms and linear layers by name, in float64, with the changes that folds make."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.tensor import files
from normcli.tensor.checkpoint import TensorFile
from normcli.tensor.files import Array
from normcli.tensor.folding.arithmetic import Linear, NormMap

_KEPT_BYTES = 24  # of each element of the layers: before and after the folds, and rounded
_WORKING_BYTES = 48  # of each element of one layer while its output is compared

INPUT = "input"  # the name of the dataset's own normalization in a pair


class Network:
    """The layers of a checkpoint.

    Attributes:
        source: the file.
        layers: linear layers by name, as they are after the folds.
        originals: the same before the folds.
        norms: norms by name, as they were read.
    """

    def __init__(
        self,
        source: TensorFile,
        transposed: Sequence[str] = (),
        eps: float = 1e-5,
        weight_offset: float = 0.0,
        memory_limit: int | None = None,
    ) -> None:
        self._memory_limit, self._counts = memory_limit, dict[str, int]()
        self.source, self._transposed, self._eps, self._offset = source, transposed, eps, weight_offset
        self.layers: dict[str, Linear] = {}
        self.originals: dict[str, Linear] = {}
        self.norms: dict[str, NormMap] = {}
        self.order = list(dict.fromkeys(name.rpartition(".")[0] for name in source.tensors))
        for name in transposed:
            self.members(name)

    def members(self, name: str) -> dict[str, str]:
        """Return the tensors of a layer: their own names -> their names in the file.

        Raises:
            TensorError: no such layer; the nearest is named.
        """
        return self.source.below(f"{name}.")

    def is_norm(self, name: str) -> bool:
        """Return True for a norm: it has running statistics, or a weight with one axis."""
        if name == INPUT and INPUT in self.norms:
            return True
        members = self.members(name)
        if "running_var" in members:
            return True
        return "weight" in members and len(self.source.named(members["weight"]).shape) == 1

    def norm(self, name: str) -> NormMap:
        """Read a norm.

        Raises:
            TensorError: it is none, or its variance is not positive.
        """
        if name in self.norms:
            return self.norms[name]
        values = {key: self._read(full) for key, full in self.members(name).items() if "." not in key}
        weight, shift = values.get("weight"), values.get("bias")
        if "running_var" in values:
            variance = values["running_var"] + self._eps
            if not (variance > 0).all():
                raise TensorError(f"{name}: a running variance plus eps of {variance.min():g} has no root (set --eps)")
            scale = (1.0 if weight is None else weight) / np.sqrt(variance)
            mean = values.get("running_mean", np.zeros_like(variance))
            shift = (0.0 if shift is None else shift) - mean * scale
        else:
            assert weight is not None
            scale = weight + self._offset
            shift = np.zeros_like(scale) if shift is None else shift
        norm = NormMap(name, np.atleast_1d(scale), np.broadcast_to(shift, scale.shape), "running_var" in values)
        if not (np.isfinite(norm.scale).all() and np.isfinite(norm.shift).all()):
            raise TensorError(f"{name}: its scale and shift are not all finite")
        self.norms[name] = norm
        return norm

    def layer(self, name: str, norm: NormMap | None = None, *, after: bool = False) -> Linear:
        """Read a linear layer.

        Args:
            name: of the layer.
            norm: the norm next to it, whose channels may decide the reading of the weight.
            after: the norm follows the layer.

        Raises:
            TensorError: it has no weight of two or more axes, or does not fit into the memory allowed.
        """
        if name in self.layers:
            return self.layers[name]
        members = self.members(name)
        if any(key.startswith("parametrizations.") or key in ("weight_g", "weight_orig") for key in members):
            raise TensorError(
                f"{name}: its weight is computed by a parametrization (remove it first, with "
                "torch.nn.utils.parametrize.remove_parametrizations)"
            )
        if "weight" in members:
            self._reserve(name, math.prod(self.source.named(members["weight"]).shape))
        weight = self._read(members["weight"]) if "weight" in members else np.zeros(0)
        if weight.ndim < 2:
            raise TensorError(f"{name}: no linear layer: it has {', '.join(list(members)[:6])}")
        bias = self._read(members["bias"]) if "bias" in members else None
        if not np.isfinite(weight).all():
            raise TensorError(f"{name}: its weight is not all finite")
        layer = Linear(name, weight, bias, name in self._transposed)
        if norm is not None and not layer.transposed and _only_transposed(layer, norm, after):
            layer = Linear(name, weight, bias, True)
        self.layers[name] = self.originals[name] = layer
        return layer

    def _reserve(self, name: str, count: int) -> None:
        """Reject a weight with which the layers no longer fit into the memory allowed."""
        self._counts[name] = count
        need = sum(self._counts.values()) * _KEPT_BYTES + max(self._counts.values()) * _WORKING_BYTES
        if self._memory_limit is not None and need > self._memory_limit:
            raise TensorError(
                f"{name}: the layers to fold need {need:,} bytes with it, the limit is {self._memory_limit:,}: raise "
                "`memory_limit`, or fold some pairs, and the others from the result"
            )

    def _read(self, name: str) -> Array:
        tensor = files.read_array(self.source.named(name))
        if tensor.dtype.kind not in "fiu" and tensor.dtype.name != "bfloat16":
            raise TensorError(f"{self.source.path}:{name}: a tensor of {tensor.dtype} cannot be folded")
        return tensor.astype(np.float64)

    def between(self, first: str, second: str) -> list[str]:
        """Return the layers between two in the file; a number that is left out is a layer without tensors."""
        if first not in self.order or second not in self.order:
            return []
        start, end = self.order.index(first), self.order.index(second)
        if end < start:
            return [f"{second} comes before {first} in the file"]
        named = self.order[start + 1 : end]
        return named or numbers_left_out(first, second)


def _only_transposed(layer: Linear, norm: NormMap, after: bool) -> bool:
    """Return True if a weight pairs with a norm only if its input channels are the first axis."""
    turned = Linear(layer.name, layer.weight, layer.bias, True)
    if after:
        plain = layer.weight.shape[0] == norm.channels
        groups = turned.groups(outputs=norm.channels)
        return not plain and groups > 0 and turned.outputs(groups) == norm.channels
    return not layer.groups(inputs=norm.channels) and layer.weight.shape[0] == norm.channels


def is_next(first: str, second: str) -> bool:
    """Return True for neighbors in a sequence, such as features.0 and features.1."""
    (parent, _, one), (other, _, two) = first.rpartition("."), second.rpartition(".")
    return parent == other and one.isdecimal() and two.isdecimal() and int(two) == int(one) + 1


def numbers_left_out(first: str, second: str) -> list[str]:
    """Return the numbers between two members of a sequence, such as features.1 between features.0 and features.2."""
    (parent, _, one), (other, _, two) = first.rpartition("."), second.rpartition(".")
    if parent != other or not (re.fullmatch(r"\d+", one) and re.fullmatch(r"\d+", two)):
        return []
    dot = "." if parent else ""
    return [f"{parent}{dot}{number}" for number in range(int(one) + 1, int(two))]


def identity_of(network: Network, name: str, drop: bool, eps: float, offset: float) -> dict[str, Any]:
    """Return the changes that remove a norm, or make it the identity."""
    changes: dict[str, Any] = {}
    for key, full in network.members(name).items():
        if drop:
            changes[full] = None
            continue
        stored = network.source.named(full)
        values: Mapping[str, float] = {
            "weight": 1.0 if network.norms[name].running else 1.0 - offset,
            "bias": 0.0,
            "running_mean": 0.0,
            "running_var": 1.0 - eps,
        }
        if key in values:
            changes[full] = np.full(stored.shape, values[key]).astype(stored.dtype)
    return changes
