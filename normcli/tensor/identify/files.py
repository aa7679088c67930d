"""Identification of tensors in files."""

import math
from collections.abc import Mapping

from normcli.errors import TensorError
from normcli.tensor import files
from normcli.tensor.identify.results import Identification
from normcli.tensor.identify.search import identify, needed_bytes
from normcli.tensor.layers import is_prefix, read_layer
from normcli.tensor.normalizers import find
from normcli.tensor.normalizers.views import Array


def identify_files(
    x: str,
    y: str,
    *,
    weight: str | None = None,
    bias: str | None = None,
    layout: str | None = None,
    state: str | None = None,
    memory_limit: int | None = None,
) -> Identification:
    """Identify the normalizer that maps one tensor to another.

    Args:
        x: input, FILE or FILE:KEY.
        y: output.
        weight: file of the affine's scale.
        bias: file of its shift.
        layout: of the axes.
        state: file of running statistics; FILE:PREFIX is a layer of a checkpoint, with its weight and bias.
        memory_limit: most bytes of tensors in memory.

    Raises:
        TensorError: the tensors do not belong together, or do not fit into the memory allowed.
    """
    statistics, parameters = _read_state(state)
    weight, bias = weight or parameters.get("weight"), bias or parameters.get("bias")
    with files.open_one(x, limit=memory_limit) as first, files.open_one(y, limit=memory_limit) as second:
        need = needed_bytes(math.prod(first.shape))
        if memory_limit is not None and need > memory_limit:
            raise TensorError(
                f"{x}: identify needs {need:,} bytes, the limit is {memory_limit:,}: raise `memory_limit`, or use "
                "fewer samples"
            )
        try:
            return identify(
                files.read_array(first),
                files.read_array(second),
                weight=None if weight is None else files.read_one(weight, memory_limit),
                bias=None if bias is None else files.read_one(bias, memory_limit),
                layout=layout,
                state=statistics,
            )
        except TensorError as error:
            raise type(error)(f"{x}, {y}: {error}") from None


def _read_state(state: str | None) -> tuple[Mapping[str, Array] | None, Mapping[str, str]]:
    """Read running statistics; of a layer of a checkpoint with the names of its weight and bias."""
    if state is None:
        return None, {}
    if not is_prefix(state):
        return files.read_state(state), {}
    layer = read_layer(state, find("batch_norm"))
    return layer.state, layer.parameters
