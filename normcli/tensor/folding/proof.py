"""Proof on data that two layers are adjacent: the outputs of all layers of one run, each under its name."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normcli.errors import TensorError
from normcli.tensor import files
from normcli.tensor.files import Array
from normcli.tensor.folding.arithmetic import Linear, NormMap
from normcli.tensor.folding.network import Network

# differences, as a share of the largest output, that the type of the outputs explains
_TOLERANCE = {"float64": 1e-7, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


class Outputs:
    """The outputs of layers, by name."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors

    def get(self, name: str) -> Array | None:
        """Return the output of a layer; None if it is not known."""
        tensor = self._tensors.get(name)
        return None if tensor is None else files.read_array(tensor)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of an output; None if it is not known."""
        tensor = self._tensors.get(name)
        return None if tensor is None else tuple(tensor.shape)


def departure(outputs: Outputs, first: str, second: str, layer: Linear | NormMap) -> float | None:
    """Return how far the second layer's output is from that of the first put through it, in units of the tolerance.

    Values up to 1 prove that the layers are adjacent. None where the outputs do not allow the comparison.
    """
    x, y = outputs.get(first), outputs.get(second)
    if x is None or y is None or x.ndim < 2:
        return None
    tolerance = _TOLERANCE.get(x.dtype.name, 1e-4)
    x = x.astype(np.float64)
    if isinstance(layer, NormMap):
        if not layer.running or x.shape != y.shape or x.shape[1] != layer.channels:
            return None
        shape = (1, -1, *(1,) * (x.ndim - 2))
        made = x * layer.scale.reshape(shape) + layer.shift.reshape(shape)
    else:
        if layer.weight.ndim != 2:
            return None  # a convolution's stride and padding are not known
        weight = layer.weight if layer.transposed else layer.weight.T
        if x.shape[-1] != weight.shape[0] or y.shape != (*x.shape[:-1], weight.shape[1]):
            return None
        made = x @ weight + (0.0 if layer.bias is None else layer.bias)
    top = float(np.abs(y).max(initial=0.0)) or 1.0
    difference = float(np.abs(made - y.astype(np.float64)).max(initial=0.0))
    return difference / top / tolerance if np.isfinite(difference) else float("inf")


def find_pairs(network: Network, outputs: Outputs) -> list[str]:
    """Return the pairs that the outputs prove: a batch norm behind a layer, and any other norm before linear layers.

    Raises:
        TensorError: none.
    """
    norms = [name for name in network.order if name and network.is_norm(name)]
    linear = [name for name in network.order if name and name not in norms and _is_linear(network, name)]
    pairs: list[str] = []
    for name in norms:
        norm = network.norm(name)
        if norm.running:
            source = next((one for one in _nearest(network, name, linear) if _follows(outputs, one, norm)), None)
            if source is not None:
                pairs.append(f"{source}:{name}")
            continue
        readers = [one for one in linear if _reads(network, outputs, name, one)]
        if readers:
            pairs.append(f"{name}:{','.join(readers)}")
    if not pairs:
        raise TensorError(
            f"{network.source.path}: the outputs prove no pair (they must be those of the modules, by their names in "
            "the file, of one run in eval mode)"
        )
    return pairs


def _is_linear(network: Network, name: str) -> bool:
    members = network.members(name)
    return "weight" in members and len(network.source.named(members["weight"]).shape) >= 2


def _nearest(network: Network, name: str, linear: list[str]) -> list[str]:
    place = network.order.index(name)
    return sorted(linear, key=lambda one: abs(place - network.order.index(one)))


def _follows(outputs: Outputs, layer: str, norm: NormMap) -> bool:
    shape = outputs.shape(layer)
    if shape is None or shape != outputs.shape(norm.name):
        return False
    share = departure(outputs, layer, norm.name, norm)
    return share is not None and share <= 1


def _reads(network: Network, outputs: Outputs, norm: str, layer: str) -> bool:
    shape = outputs.shape(norm)
    if shape is None or outputs.shape(layer) is None:
        return False
    share = departure(outputs, norm, layer, network.layer(layer, network.norm(norm)))
    return share is not None and share <= 1
