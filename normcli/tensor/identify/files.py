"""Identification of tensors in files."""

import math

from normcli.errors import TensorError
from normcli.tensor import files
from normcli.tensor.identify.results import Identification
from normcli.tensor.identify.search import identify, needed_bytes


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
        state: file of running statistics.
        memory_limit: most bytes of tensors in memory.

    Raises:
        TensorError: the tensors do not belong together, or do not fit into the memory allowed.
    """
    with files.open_one(x, limit=memory_limit) as first, files.open_one(y, limit=memory_limit) as second:
        need = needed_bytes(math.prod(first.shape))
        if memory_limit is not None and need > memory_limit:
            raise TensorError(
                f"{x}: identify needs {need:,} bytes, the limit is {memory_limit:,}: raise --memory-limit, or use "
                "fewer samples"
            )
        try:
            return identify(
                files.read_array(first),
                files.read_array(second),
                weight=None if weight is None else files.read_one(weight, memory_limit),
                bias=None if bias is None else files.read_one(bias, memory_limit),
                layout=layout,
                state=None if state is None else files.read_state(state),
            )
        except TensorError as error:
            raise type(error)(f"{x}, {y}: {error}") from None
