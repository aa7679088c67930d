"""The running statistics of a job: of all batches together (--recompute-state), and their file (--save-state)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normcli.errors import TensorError, UnsupportedTensorError
from normcli.storage.npy import UnreadableTensor
from normcli.tensor import files
from normcli.tensor.job import Job, NormalizerCall, call_normalizer
from normcli.tensor.normalizers import resources
from normcli.tensor.normalizers.moments import Moments, channel_moments
from normcli.tensor.normalizers.registry import ELEMENTS, LABELS, State, naming_errors
from normcli.tensor.normalizers.running import COUNTER, require_two_values
from normcli.tensor.normalizers.views import Array, channels, result_dtype

if TYPE_CHECKING:
    from normcli.tensor.layers import Layer


def exact_state(job: Job, call: NormalizerCall) -> dict[str, Array]:
    """Return the statistics of all batches together, as if they were one."""
    one = call.one
    if one.exact is None:
        return _mean_state(job, call)
    total: Moments | None = None
    batches = 0
    for name in job.inputs:
        with files.open_tensors(name, limit=job.memory_limit) as tensors:
            for tensor in tensors.values():
                if len(tensors) > 1 and _is_unsupported(tensor):
                    continue  # it is left out of the results, too
                with naming_errors(one.name):
                    moments = channel_moments(channels(tensor, call.settings.get("layout"))).over(0)
                if total is not None and moments.mean.size != total.mean.size:
                    raise TensorError(f"{name}: C = {moments.mean.size}, the batches before have {total.mean.size}")
                if moments.count:
                    total = moments if total is None else total + moments
                batches += 1
    settings = {key: value for key, value in call.settings.items() if key in ("running_var", "eps", "groups")}
    with naming_errors(one.name):
        require_two_values(total.count if total else 0)
        assert total is not None
        labels = {ELEMENTS: np.array(str(total.count))}
        return {**one.exact(total, **settings), COUNTER: np.array(batches, np.int64), **labels}


def _mean_state(job: Job, call: NormalizerCall) -> dict[str, Array]:
    """Return the plain mean of the statistics of every batch, where no formula merges them."""
    one = call.one
    settings = {**call.settings, "update_rate": 1.0, "state": None}
    if "mode" in one.settings:
        settings["mode"] = "train"
    total: dict[str, Array] = {}
    batches = 0
    allocate = files.NoOutput().allocate
    with resources(threads=job.threads, memory_limit=job.memory_limit, allocate=allocate):
        for name in job.inputs:
            with files.open_tensors(name, limit=job.memory_limit) as tensors:
                for tensor in tensors.values():
                    if len(tensors) > 1 and _is_unsupported(tensor):
                        continue
                    batch = call_normalizer(one.function, [tensor, *call.others], settings, name).state
                    total = {key: batch[key] + total.get(key, 0.0) for key in one.state}
                    batches += 1
    return {**{key: value / batches for key, value in total.items()}, COUNTER: np.array(batches, np.int64)}


def _is_unsupported(tensor: Any) -> bool:
    if isinstance(tensor, UnreadableTensor):
        return True
    try:
        result_dtype(tensor)
    except UnsupportedTensorError:
        return True
    return False


def save_state(path: str, call: NormalizerCall, state: State | None, layer: "Layer | None") -> str:
    """Write the statistics after the last batch; return the line that reports it."""
    assert state is not None
    batches = int(state[COUNTER])
    count = f"{batches:,} batch{'es' * (batches != 1)}"
    if layer is not None:
        from normcli.tensor.layers import save_layer

        save_layer(layer, state, path)
        return f"wrote {path}: {count}; {', '.join(layer.names.values())}"
    labels = {"normalizer": call.one.name} | ({"preset": call.preset} if call.preset else {})
    if ELEMENTS in state:
        labels[ELEMENTS] = str(state[ELEMENTS])
    files.write_state(Path(path), {key: value for key, value in state.items() if key not in LABELS}, labels)
    return f"wrote {path}: {count}"
