"""The path of a tensor: file -> normalizer -> file, running statistics carried along."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from normcli.errors import NormcliError, TensorError, UsageError
from normcli.tensor import files as files
from normcli.tensor.files import Array
from normcli.tensor.normalizers import Normalized, Normalizer, find, resources
from normcli.tensor.normalizers.moments import Moments, channel_moments
from normcli.tensor.normalizers.registry import State
from normcli.tensor.normalizers.running import COUNTER, LABELS, require_two_values
from normcli.tensor.normalizers.views import channels
from normcli.tensor.raw import StoredTensor

log = logging.getLogger("normcli.tensors")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of `normcli tensor`.

    Attributes:
        normalizer: its name.
        inputs: names of tensors, a sequence of batches in training.
        output: a file, a folder, `-`, or None to write only a state.
        settings: what was said of the normalizer's settings, numbers and words.
        parameters: setting or second tensor -> file.
        preset: a framework, for the settings that were not said.
        state: running statistics to start from.
        save_state: where the statistics go after the last batch.
        recompute_state: exact statistics over all batches in place of the moving ones.
        grad: cotangents, one for each input; the output is then the gradients.
        memory_limit: most bytes to hold.
        threads: how many compute.
        force: overwrite outputs.
        stdin: what `-` reads.
        stdout: what `-` writes.
    """

    normalizer: str
    inputs: Sequence[str]
    output: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    preset: str | None = None
    state: str | None = None
    save_state: str | None = None
    recompute_state: bool = False
    grad: Sequence[str] = ()
    memory_limit: int | None = None
    threads: int | None = None
    force: bool = False
    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None


def run(job: Job) -> list[str]:
    """Do a job; give one line for each file written.

    Raises:
        UsageError: settings or files that contradict each other.
        TensorError: a tensor, state or parameter that does not fit.
        OutputError: an output that cannot be written.
    """
    one = find(job.normalizer)
    _check(job, one)
    state, settings, preset = _settled(job, one)
    outputs = [] if job.output is None else files.output_paths(list(job.inputs), job.output, job.force)
    if job.save_state is not None:
        files.output_paths([job.inputs[0]], job.save_state, job.force)
        if files.suffix(job.save_state) == ".npy":
            raise UsageError(f"{job.save_state}: a state has several tensors: give .npz, .safetensors or .pt")
    arguments = {key: files.read_one(name) for key, name in job.parameters.items()}
    settings |= {key: arguments.pop(key) for key in list(arguments) if key in one.settings}
    others = [arguments[name] for name in one.tensors[1:] if name in arguments]
    with resources(threads=job.threads, memory=job.memory_limit), ExitStack() as written:
        exact = _exact_state(job, one, settings) if job.recompute_state else None
        if exact is not None and settings.get("mode") == "eval":
            state = exact
        for i, given in enumerate(job.inputs):
            target = _target(written, outputs[i] if outputs else None, job, given)
            if job.grad:
                _gradients(job, one, given, job.grad[i], others, settings, state, target)
            else:
                state = _forward(job, one, given, others, settings, state, target)
    lines = [f"wrote {path}" for path in outputs if path != "-"]
    if job.save_state is not None:
        labels = {"normalizer": one.name} | ({"preset": preset} if preset else {})
        final = state if exact is None else exact
        assert final is not None
        files.write_state(Path(job.save_state), {k: v for k, v in final.items() if k not in LABELS}, labels)
        lines.append(f"wrote {job.save_state} ({int(final[COUNTER])} batches)")
    return lines


def _check(job: Job, one: Normalizer) -> None:
    """Refuse what contradicts itself, before anything is read."""
    eval_mode = job.settings.get("mode") == "eval"
    reads = [*job.inputs, *job.parameters.values(), *job.grad, *([job.state] if job.state else [])]
    if reads.count("-") > 1 or "-" in [*job.parameters.values(), *job.grad, job.state]:
        raise UsageError("- (stdin) stands for one tensor only, and for an input")
    if job.output is None and job.save_state is None:
        raise UsageError("nothing to write: give -o OUT, or --save-state FILE")
    for said, option in ((job.state, "--state"), (job.save_state, "--save-state")):
        if said and not one.state:
            raise UsageError(f"{option}: {one.name} keeps no running statistics")
    if job.save_state and (eval_mode or job.grad) and not job.recompute_state:
        raise UsageError(f"--save-state: {'a gradient' if job.grad else 'eval mode'} changes no state")
    if job.save_state == "-":
        raise UsageError("--save-state needs a file, not stdout")
    if job.grad and one.vjp is None:
        raise UsageError(f"--grad: no gradient of {one.name} is known")
    if job.grad and len(job.grad) != len(job.inputs):
        raise UsageError(f"--grad: {len(job.grad)} for {len(job.inputs)} inputs: give one for each")
    if job.recompute_state:
        if one.exact is None:
            raise UsageError(f"--recompute-state: {one.name} has no statistics that can be recomputed")
        if job.grad or "-" in job.inputs:
            raise UsageError(f"--recompute-state does not go with {'--grad' if job.grad else 'stdin'}")
        if not (eval_mode or job.save_state):
            raise UsageError("--recompute-state has no effect here: give --save-state, or --mode eval")
        if eval_mode and job.state:
            raise UsageError("--recompute-state in eval mode takes the place of --state: give one of them")
    missing = [name for name in one.tensors[1:] if name not in job.parameters]
    if missing:
        raise UsageError(f"{one.name} needs --{missing[0].replace('_', '-')} FILE")


def _settled(job: Job, one: Normalizer) -> tuple[State | None, dict[str, Any], str | None]:
    """Join preset and settings; the state may name the preset it was made with."""
    state = None if job.state is None else files.read_state(job.state)
    made_with = str(state["preset"]) if state and "preset" in state else None
    if made_with and job.preset and job.preset != made_with:
        raise UsageError(f"{job.state} was made with --preset {made_with}, not {job.preset}")
    # whose defaults they are: a preset that changes nothing, torch's in most
    unchanged = next((name for name, values in one.presets.items() if not values), None)
    preset = job.preset or made_with or unchanged
    settings = (one.preset(preset) if preset else {}) | dict(job.settings)
    absent = [
        n for n, p in one.settings.items() if p.default is p.empty and n not in settings and n not in job.parameters
    ]
    if absent:
        raise UsageError(f"{one.name} needs --{absent[0].replace('_', '-')}")
    return state, settings, preset


@contextmanager
def _reading(job: Job, given: str) -> Iterator[dict[str, Any]]:
    """Open the tensors of an input, and close their files."""
    found = files.open_tensors(given, stdin=job.stdin, limit=job.memory_limit)
    try:
        yield found
    finally:
        for tensor in found.values():
            if isinstance(tensor, StoredTensor):
                tensor.close()


def _target(written: ExitStack, path: str | None, job: Job, given: str) -> Any:
    if path is None:
        return None
    if path == "-":
        assert job.stdout is not None
        return files.StdoutOutput(job.stdout)
    Path(path).parent.mkdir(exist_ok=True)
    return written.enter_context(files.open_output(Path(path)))


def _call(one: Normalizer, function: Any, tensors: Sequence[Any], settings: Mapping[str, Any], where: str) -> Any:
    """Call a normalizer with the settings it has; its complaints name the file."""
    rank = len(tensors[0].shape)
    settings = {
        key: rank - 1 if isinstance(value, str) and value == "last" else value for key, value in settings.items()
    }
    try:
        return function(*tensors, **settings)
    except NormcliError as error:
        if isinstance(error, TensorError):
            raise TensorError(f"{where}: {error}") from None
        raise


def _forward(
    job: Job,
    one: Normalizer,
    given: str,
    others: Sequence[Array],
    settings: Mapping[str, Any],
    state: State | None,
    target: Any,
) -> State | None:
    """Normalize all tensors of one input; give the state after them."""
    results: dict[str, Any] = {}
    with _reading(job, given) as found:
        if not found:
            raise TensorError(f"{given}: holds no tensors")
        if target is not None:
            target.expect(found)
        for key, tensor in found.items():
            where = f"{given}:{key}" if key and not given.endswith(f":{key}") else given
            started = time.perf_counter()
            allocate = _bounded(target.allocate if target else np.empty, job.memory_limit)
            with resources(threads=job.threads, memory=job.memory_limit, allocate=allocate):
                carried = {"state": state} if one.state else {}
                made = _call(one, one.function, [tensor, *others], {**settings, **carried}, where)
            if isinstance(made, Normalized):
                results[key], state = made.y, made.state or None
            else:
                results[key] = made
            elapsed = time.perf_counter() - started
            log.info("%s: %s %s in %.3f s", where, tuple(tensor.shape), tensor.dtype, elapsed)
        if target is not None:
            target.finish(results)
    if job.save_state and state is None:
        raise UsageError(f"--save-state: {one.name} with these settings keeps no running statistics")
    return state


def _bounded(allocate: Any, limit: int | None) -> Any:
    """Refuse results that are held in memory beyond the limit."""

    def make(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        made = allocate(shape, dtype)  # np.empty takes no memory before it is written
        if isinstance(made, np.ndarray) and limit is not None and made.nbytes > limit:
            raise TensorError(
                f"this output holds its result in memory, {made.nbytes} bytes: raise --memory-limit, or write .npy"
            )
        return made

    return make


def _gradients(
    job: Job,
    one: Normalizer,
    given: str,
    cotangent: str,
    others: Sequence[Array],
    settings: Mapping[str, Any],
    state: State | None,
    target: Any,
) -> None:
    """Write the vjp of one input."""
    assert one.vjp is not None
    accepted = Normalizer(one.name, one.vjp).settings
    foreign = [key for key in job.settings if key not in accepted]
    if foreign:
        raise UsageError(f"--grad does not use --{foreign[0].replace('_', '-')}: no gradient of {one.name} needs it")
    used = {key: value for key, value in settings.items() if key in accepted}
    if "state" in accepted:
        used["state"] = state
    elif state is not None:
        raise UsageError(f"--grad does not use --state: no gradient of {one.name} needs it")
    with _reading(job, given) as found:
        if len(found) != 1:
            raise TensorError(f"{given}: --grad takes one tensor, here are {', '.join(found)}: name one, {given}:KEY")
        dy = files.read_one(cotangent)
        made = _call(one, one.vjp, [next(iter(found.values())), *others, dy], used, given)
    target.expect(made)
    target.finish(made)


def _exact_state(job: Job, one: Normalizer, settings: Mapping[str, Any]) -> dict[str, Array]:
    """Take the statistics of all batches together, as if they were one."""
    assert one.exact is not None
    total: Moments | None = None
    batches = 0
    for given in job.inputs:
        with _reading(job, given) as found:
            for tensor in found.values():
                view = channels(one.name, tensor, settings.get("layout"))
                moments = channel_moments(view).over(0)
                if total is not None and moments.mean.size != total.mean.size:
                    raise TensorError(f"{given}: C = {moments.mean.size}, the batches before have {total.mean.size}")
                if moments.count:
                    total = moments if total is None else total + moments
                batches += 1
    require_two_values(one.name, total.count if total else 0)
    assert total is not None
    known = {key: value for key, value in settings.items() if key in ("running_var", "eps", "groups")}
    return {**one.exact(total, **known), COUNTER: np.array(batches, np.int64)}
