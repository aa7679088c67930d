"""One run of a normalizer over files: tensors in, results out, running statistics carried from one to the next.

Values that a result cannot be right for, such as NaN, are counted while tensors are read, and noted.
"""

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normcli import storage
from normcli.errors import TensorError, UnsupportedTensorError, UsageError
from normcli.storage.npy import UnreadableTensor
from normcli.tensor import files
from normcli.tensor.files import TensorOutput
from normcli.tensor.normalizers import Normalized, Normalizer, find, resources
from normcli.tensor.normalizers.registry import LABELS, State
from normcli.tensor.normalizers.views import Array, Tensor, result_dtype

if TYPE_CHECKING:
    from normcli.tensor.checkpoint import TensorFile
    from normcli.tensor.layers import Layer

_PART_BYTES = 1 << 24
_LARGEST_INTEGER = 1 << 53  # up to it float64 has every integer
_LARGEST_ROOT = 2.0**511  # its square is below float64's largest number, 2^1024
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}  # all bits of the exponent: of NaN and infinity alone


class ValueCounts(NamedTuple):
    """Counts of values that a result cannot be right for.

    Attributes:
        nonfinite: NaN or infinity.
        rounded: integers beyond 2^53.
        overflowing: finite numbers whose squares are not.
    """

    nonfinite: int = 0
    rounded: int = 0
    overflowing: int = 0

    def plus(self, other: "ValueCounts") -> "ValueCounts":
        """Return the sums."""
        return ValueCounts(*(a + b for a, b in zip(self, other, strict=True)))


NO_COUNTS = ValueCounts()


def count_values(x: Array) -> ValueCounts:
    """Count the values that a result cannot be right for.

    >>> count_values(np.array([1.0, np.nan, -np.inf, 1e200]))
    ValueCounts(nonfinite=2, rounded=0, overflowing=1)
    >>> count_values(np.array([0, 2**53, 2**53 + 1])).rounded, count_values(np.array(2**60)).rounded
    (1, 1)
    """
    x = np.atleast_1d(x)
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8 and x.size:
        large = max(int(x.max()), -int(x.min())) > _LARGEST_INTEGER  # comparing every value costs twice as much
        outside = (x > _LARGEST_INTEGER) | (x < -_LARGEST_INTEGER if x.dtype.kind == "i" else False) if large else x[:0]
        return ValueCounts(rounded=int(np.count_nonzero(outside)))
    if not x.size or (x.dtype.kind not in "fc" and x.dtype.name != "bfloat16"):
        return NO_COUNTS  # what is no number is rejected by name
    total = NO_COUNTS
    step = max(1, _PART_BYTES * len(x) // max(x.nbytes, 1))
    for start in range(0, len(x), step):
        total = total.plus(_count_part(x[start : start + step]))
    return total


def _count_part(x: Array) -> ValueCounts:
    with np.errstate(all="ignore"):
        if _is_ordinary(x):
            return NO_COUNTS
        finite = np.isfinite(x)
        large = finite & (np.abs(x) > _LARGEST_ROOT) if x.dtype.kind == "f" and x.dtype.itemsize == 8 else finite[:0]
    return ValueCounts(int(x.size - np.count_nonzero(finite)), 0, int(np.count_nonzero(large)))


def _is_ordinary(x: Array) -> bool:
    """Return True if one number shows that all are finite, and so are the squares of float64.

    It takes a third of the time of looking at every value; of 16 bits, a sum takes 20 and 100 times as long as this.
    """
    if (exponent := _EXPONENTS.get(x.dtype.name)) is not None:
        bits = x.view(f"{x.dtype.byteorder}u2")
        return bool((bits & 0x7FFF).max(initial=0) < exponent)
    if x.dtype == np.float64:
        flat = x.ravel(order="K")
        return bool(np.isfinite(np.dot(flat, flat)))
    return x.dtype.kind == "f" and bool(np.isfinite(x.sum()))


def describe_values(name: str, counts: ValueCounts, size: int) -> list[str]:
    """Return a line for each kind of such values in a tensor.

    >>> describe_values("x.npy", ValueCounts(nonfinite=1), 4800)
    ['x.npy: 1 of 4,800 values is not finite (NaN or infinity)']
    """
    texts = []
    for count, noun, problem in zip(
        counts,
        ("value", "integer", "value"),
        (
            "not finite (NaN or infinity)",
            "beyond 2^53 and rounded to float64",
            "beyond 6.7e153: a statistic of squares overflows",
        ),
        strict=True,
    ):
        if count:
            texts.append(f"{name}: {count:,} of {size:,} {noun}s {'is' if count == 1 else 'are'} {problem}")
    return texts


def describe_results(results: Mapping[str, Any]) -> str:
    """Return dtype and shape of the results of one output; of more than four, their number.

    >>> describe_results({"": np.zeros((2, 3), np.float32)})
    'float32 (2, 3)'
    >>> describe_results({"dx": np.zeros((2, 3)), "dweight": np.zeros(3)})
    'dx float64 (2, 3), dweight float64 (3,)'
    """
    if len(results) > 4:
        return f"{len(results):,} tensors"
    alone = len(results) == 1
    return ", ".join(f"{'' if alone else f'{key} '}{y.dtype} {tuple(y.shape)}" for key, y in results.items())


class CountedTensor:
    """A tensor in a file whose values are counted when they are read for the first time.

    Attributes:
        counts: of the values read so far.
    """

    def __init__(self, x: Tensor) -> None:
        self.shape, self.dtype, self.counts = x.shape, x.dtype, NO_COUNTS
        self._x, self._seen, self._lock = x, set[tuple[int, int]](), threading.Lock()

    def __getitem__(self, samples: slice, /) -> Array:
        block = self._x[samples]
        span = (samples.start, samples.stop)  # every pass reads the same: the size of a block follows from the shape
        with self._lock:
            new = span not in self._seen
            self._seen.add(span)
        if new:
            counts = count_values(block)
            with self._lock:
                self.counts = self.counts.plus(counts)
        return block


def counted(x: Any) -> Any:
    """Return a tensor whose values are counted when it is read: an array is counted at the end."""
    return x if isinstance(x, np.ndarray) else CountedTensor(x)


def counts_of(x: Any) -> ValueCounts:
    """Return the counts of a tensor, of the values that were read."""
    return x.counts if isinstance(x, CountedTensor) else count_values(np.asarray(x))


class ResultCounts(NamedTuple):
    """Counts of the elements of a result that are no number of its type.

    Attributes:
        infinite: those beyond the largest number.
        undefined: NaN.
    """

    infinite: int = 0
    undefined: int = 0


def count_results(y: Array) -> ResultCounts:
    """Count the elements of a result that are infinite or NaN.

    >>> count_results(np.array([1.0, np.inf, -np.inf, np.nan], np.float16))
    ResultCounts(infinite=2, undefined=1)
    """
    with np.errstate(all="ignore"):
        if not y.size or _is_ordinary(y):
            return ResultCounts()
        infinite, undefined = np.count_nonzero(np.isinf(y)), np.count_nonzero(np.isnan(y))
    return ResultCounts(int(infinite), int(undefined))


def describe_results_of_finite(name: str, counts: ResultCounts, y: Any, *, has_dtype: bool) -> list[str]:
    """Return a line for results that are infinite, and one for those that are NaN, where all values read are finite.

    Args:
        name: of the result.
        counts: of its elements.
        y: the result, for its type and shape.
        has_dtype: True if the option of that name sets its type.

    >>> describe_results_of_finite("y.npy", ResultCounts(infinite=2), np.zeros(3, np.float16), has_dtype=True)
    ['y.npy: 2 of 3 results are infinite: beyond the range of float16 (--dtype float32)']
    """
    wider = {"float16": " (--dtype float32)", "bfloat16": " (--dtype float64)", "float32": " (--dtype float64)"}
    remedy = wider.get(y.dtype.name, "") if has_dtype else ""
    problems = (f"infinite: beyond the range of {y.dtype}{remedy}", "NaN, though all values read are finite")
    size = f"{math.prod(y.shape):,} results"
    return [
        f"{name}: {count:,} of {size} {'is' if count == 1 else 'are'} {problem}"
        for count, problem in zip(counts, problems, strict=True)
        if count
    ]


class CountedResult:
    """A result in a file whose elements are counted when they are written.

    Attributes:
        room: the file.
    """

    def __init__(self, room: Any) -> None:
        self.room, self.shape, self.dtype = room, room.shape, room.dtype
        self._counts, self._lock = dict[tuple[int, int], ResultCounts](), threading.Lock()

    def __setitem__(self, samples: slice, block: Array) -> None:
        block = np.asarray(block, self.dtype)
        self.room[samples] = block
        counts = count_results(block)
        with self._lock:
            self._counts[samples.start, samples.stop] = counts

    @property
    def counts(self) -> ResultCounts:
        """Return the counts of all elements that were written."""
        return ResultCounts(*map(sum, zip(*self._counts.values(), strict=True))) if self._counts else ResultCounts()


log = logging.getLogger("normcli.tensors")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of `normcli tensor`.

    Attributes:
        normalizer: its name.
        inputs: names of tensors, a sequence of batches in training.
        output: a file, a folder, `-`, or None to write only a state.
        settings: the normalizer's settings that were set, numbers and text.
        parameters: setting or second tensor -> file.
        preset: a framework, for the settings that were not set.
        state: running statistics to start from: a file, or FILE:PREFIX of a layer in a checkpoint.
        save_state: file for the statistics after the last batch; of a layer, a copy of its checkpoint.
        save_statistics: file for the statistics that the one input is normalized by.
        recompute_state: exact statistics over all batches in place of the moving ones.
        grad: cotangents, one for each input; the output is then the gradients.
        min_rank: fewest axes of the tensors of a file that are normalized; the others pass through.
        memory_limit: most bytes of tensors in memory.
        threads: number of threads; None is one for each usable processor.
        force: overwrite outputs.
        stdin: stream that `-` reads.
        stdout: stream that `-` writes.
    """

    normalizer: str
    inputs: Sequence[str]
    output: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    preset: str | None = None
    state: str | None = None
    save_state: str | None = None
    save_statistics: str | None = None
    recompute_state: bool = False
    grad: Sequence[str] = ()
    min_rank: int | None = None
    memory_limit: int | None = None
    threads: int | None = None
    force: bool = False
    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None


@dataclass(frozen=True)
class NormalizerCall:
    """A normalizer with its settings: the user's, over those of a preset.

    Attributes:
        one: the normalizer.
        settings: numbers, text and arrays.
        others: further tensors that it takes by position.
        preset: the framework whose defaults it has.
    """

    one: Normalizer
    settings: dict[str, Any]
    others: list[Array]
    preset: str | None


class JobReport(NamedTuple):
    """Results of a run.

    Attributes:
        lines: notes on values and tensors, and the files written.
        complete: no tensor was left out.
    """

    lines: list[str]
    complete: bool


@dataclass
class _Remarks:
    """Notes of a run, and a flag for tensors that were left out of its result."""

    lines: list[str] = field(default_factory=list)
    complete: bool = True
    results: list[str] = field(default_factory=list)  # a description of those of each output
    explained: bool = False  # results that are not finite, by parameters or a state that are not

    def note(self, text: str) -> None:
        self.lines.append(f"note: {text}")

    def values(self, name: str, tensor: Any) -> bool:
        """Record the values of a tensor that are not finite, or that float64 does not represent.

        Returns:
            True if results that are not finite may come from them.
        """
        counts = counts_of(tensor)
        self.lines += [f"note: {line}" for line in describe_values(name, counts, math.prod(tensor.shape))]
        return counts.nonfinite > 0 or counts.overflowing > 0

    def result(self, name: str | None, y: Any, *, has_dtype: bool) -> None:
        """Record the elements of a result that are infinite or NaN; its name is None where it is dropped."""
        if name is not None:
            counts = y.counts if isinstance(y, CountedResult) else count_results(np.asarray(y))
            lines = describe_results_of_finite(name, counts, y, has_dtype=has_dtype)
            self.lines += [f"note: {line}" for line in lines]

    def left_out(self, error: UnsupportedTensorError, consequence: str) -> None:
        self.lines.append(f"warning: {error}: {consequence}")
        self.complete = False


def run_job(job: Job) -> JobReport:
    """Run a job.

    Raises:
        UsageError: settings or files that contradict each other.
        TensorError: a tensor, state or parameter that does not fit.
        OutputError: an output that cannot be written.
    """
    one = find(job.normalizer)
    remarks = _Remarks()
    job = _order_inputs(job, one, remarks)
    _validate(job, one)
    if job.recompute_state or job.save_state is not None:
        from normcli.tensor import job_state
    job, layer = _read_layers(job, one)
    state: State | None = layer.state if layer else None if job.state is None else files.read_state(job.state)
    preset, settings = _resolve_settings(job, one, state)
    paths = [] if job.output is None else files.output_paths(list(job.inputs), job.output, job.force)
    if job.save_state is not None:
        files.output_paths([job.inputs[0]], job.save_state, job.force)
        files.check_state_path(job.save_state)
    if job.save_statistics is not None:
        files.output_paths([job.inputs[0]], job.save_statistics, job.force)
    arrays = {name: _read_parameter(file, name in one.settings) for name, file in job.parameters.items()}
    for name, array in arrays.items():
        if array.shape:
            remarks.explained |= remarks.values(job.parameters[name], array)
    for key, array in (state or {}).items():
        if key not in LABELS:
            remarks.explained |= remarks.values(f"{job.state}:{key}", array)
    settings |= {name: array for name, array in arrays.items() if name in one.settings}
    call = NormalizerCall(one, settings, [arrays[name] for name in one.tensors[1:]], preset)
    with resources(threads=job.threads, memory_limit=job.memory_limit), ExitStack() as outputs:
        exact = job_state.exact_state(job, call) if job.recompute_state else None
        if exact is not None and settings.get("mode") == "eval":
            state = exact
        for i, name in enumerate(job.inputs):
            output = _open_output(outputs, paths[i] if paths else None, job)
            if job.grad:
                _write_gradients(job, call, (name, job.grad[i]), state, output, remarks)
            else:
                state = _normalize_input(job, call, name, state, output, remarks)
        if job.save_statistics is not None:
            _write_statistics(job, call, remarks)
            paths = [*paths, job.save_statistics]
    described = remarks.results[len(remarks.results) - len(paths) :]  # results without a path come first
    written = zip(paths, described, strict=True)
    lines = remarks.lines + [f"wrote {path}: {text}" for path, text in written if path != "-"]
    if job.save_state is not None:
        lines.append(job_state.save_state(job.save_state, call, state if exact is None else exact, layer))
    return JobReport(lines, remarks.complete)


def _read_layers(job: Job, one: Normalizer) -> "tuple[Job, Layer | None]":
    """Resolve prefixes of layers; return the layer of the state, with whose weight and bias the job is completed."""
    state = job.state is not None and ":" in job.state
    if not state and not any(name.endswith(".") for name in job.inputs):
        return job, None
    from normcli.tensor import layers

    job = layers.resolve_prefixes(job, one)
    if job.state is None or not layers.is_prefix(job.state):
        return job, None
    layer = layers.read_layer(job.state, one)
    given = {name for name in layer.parameters if name in job.settings}
    parameters = {name: file for name, file in layer.parameters.items() if name not in given}
    return replace(job, parameters={**parameters, **job.parameters}), layer


def _order_inputs(job: Job, one: Normalizer, remarks: _Remarks) -> Job:
    """Expand quoted patterns, and undo the order in which a shell expands one: b0, b1, b10, b2.

    Only where batches move a state: the names then come sorted as text, which no one types by hand on purpose.
    """
    inputs = files.expand_patterns(job.inputs)
    natural = sorted(inputs, key=files.natural_key)
    moves = one.state and not job.grad and job.settings.get("mode") != "eval"
    if moves and inputs == list(job.inputs) == sorted(inputs) and inputs != natural:
        shown = natural if len(natural) <= 4 else [*natural[:3], f"... {natural[-1]}"]
        remarks.note(f"the batches run in natural order: {', '.join(shown)}")
        inputs = natural
    return replace(job, inputs=inputs)


def _read_parameter(text: str, number: bool) -> Array:
    """Read a parameter from its file, or take it as one number for all where it may be one."""
    if number and not Path(text).exists():
        with suppress(ValueError):
            return np.array(float(text))
    return files.read_one(text)


def _validate(job: Job, one: Normalizer) -> None:
    """Reject contradictions, before anything is read."""
    eval_mode = job.settings.get("mode") == "eval"
    reads = [*job.inputs, *job.parameters.values(), *job.grad, *([job.state] if job.state else [])]
    if reads.count("-") > 1 or "-" in [*job.parameters.values(), *job.grad, job.state]:
        raise UsageError("- (stdin) can be used once, and only as an input")
    if job.output is None and job.save_state is None and job.save_statistics is None:
        raise UsageError("nothing to write (use -o OUT, or --save-state FILE)")
    for value, option in ((job.state, "--state"), (job.save_state, "--save-state")):
        if value and not one.state:
            raise UsageError(f"{option}: {one.name} has no running statistics")
    if job.save_state and (eval_mode or job.grad) and not job.recompute_state:
        raise UsageError(f"--save-state: {'a gradient' if job.grad else 'eval mode'} changes no state")
    if job.save_statistics is not None:
        _validate_statistics(job, one)
    if job.save_state == "-":
        raise UsageError("--save-state requires a file, not stdout")
    if job.grad and one.vjp is None:
        raise UsageError(f"--grad: no gradient of {one.name} is known")
    if job.grad and len(job.grad) != len(job.inputs):
        raise UsageError(f"--grad: {len(job.grad)} for {len(job.inputs)} inputs: one is required for each")
    if job.recompute_state:
        _validate_recompute(job, one, eval_mode)
    missing = [name for name in one.tensors[1:] if name not in job.parameters]
    if missing:
        raise UsageError(f"{one.name} requires --{missing[0].replace('_', '-')} FILE")


def _validate_statistics(job: Job, one: Normalizer) -> None:
    if one.statistics is None:
        raise UsageError(f"--save-statistics: {one.name} has no statistics that can be saved")
    if job.save_statistics == "-" or job.inputs == ["-"]:
        raise UsageError("--save-statistics cannot be combined with stdin, and requires a file, not stdout")
    if len(job.inputs) > 1 or job.grad:
        raise UsageError(f"--save-statistics requires one IN{' and no --grad' if job.grad else ''}")


def _validate_recompute(job: Job, one: Normalizer, eval_mode: bool) -> None:
    if one.exact is None and "update_rate" not in one.settings:
        raise UsageError(f"--recompute-state: {one.name} has no statistics that can be recomputed")
    if job.grad or "-" in job.inputs:
        raise UsageError(f"--recompute-state cannot be combined with {'--grad' if job.grad else 'stdin'}")
    if not (eval_mode or job.save_state):
        raise UsageError("--recompute-state has no effect here (add --save-state, or --mode eval)")
    if eval_mode and job.state:
        raise UsageError("--recompute-state cannot be combined with --state in eval mode: it replaces the state")


def _resolve_settings(job: Job, one: Normalizer, state: State | None) -> tuple[str | None, dict[str, Any]]:
    """Return the preset, and its settings under the user's; a state may name the preset it was made with."""
    owner = str(state["normalizer"]) if state and "normalizer" in state else one.name
    if owner != one.name:
        raise TensorError(f"{job.state}: the state belongs to {owner}, not to {one.name}")
    made_with = str(state["preset"]) if state and "preset" in state else None
    if made_with and job.preset and job.preset != made_with:
        raise UsageError(f"{job.state} was made with --preset {made_with}, not {job.preset}")
    # the framework whose defaults the function has: a preset that changes nothing, torch's in most
    unchanged = next((name for name, values in one.presets.items() if not values), None)
    preset = job.preset or made_with or unchanged
    settings = (one.preset(preset) if preset else {}) | dict(job.settings)
    if isinstance(settings.get("layout"), str):
        settings["layout"] = settings["layout"].upper()
    required = (name for name, parameter in one.settings.items() if parameter.default is parameter.empty)
    absent = next((name for name in required if name not in settings and name not in job.parameters), None)
    if absent:
        raise UsageError(f"{one.name} requires --{absent.replace('_', '-')}")
    return preset, settings


def _open_output(outputs: ExitStack, path: str | None, job: Job) -> TensorOutput:
    if path is None:
        return files.NoOutput()
    if path == "-":
        assert job.stdout is not None
        return files.StdoutOutput(job.stdout)
    folder = Path(path).parent
    if not folder.exists():
        try:
            folder.mkdir()
        except OSError as error:
            storage.raise_output_error(folder, error)
        outputs.push(functools.partial(_remove_after_error, folder))
    return outputs.enter_context(files.open_output(Path(path), job.memory_limit))


def _remove_after_error(folder: Path, error: type[BaseException] | None, *_: object) -> None:
    """Remove the output folder that a failed run has made."""
    if error is not None:
        with suppress(OSError):  # not empty: others use it as well
            folder.rmdir()


def _normalize_input(
    job: Job, call: NormalizerCall, name: str, state: State | None, output: TensorOutput, remarks: _Remarks
) -> State | None:
    """Normalize all tensors of one input; return the state after them.

    Raises:
        UnsupportedTensorError: the input has one tensor, or all of them are of types that cannot be normalized.
    """
    results: dict[str, Any] = {}
    unsupported: list[UnsupportedTensorError] = []
    allocate = functools.partial(_allocate, output, job.memory_limit)
    with (
        _open_input(job, call.one, name, remarks) as (tensors, source),
        resources(threads=job.threads, memory_limit=job.memory_limit, allocate=allocate),
    ):
        output.expect(tensors, source)
        for key, stored in tensors.items():
            where = f"{name}:{key}" if key and not name.endswith(f":{key}") else name
            if source is not None:
                where = f"{source.path}:{key}"
            started = time.perf_counter()
            settings = call.settings | ({"state": state} if call.one.state else {})
            try:
                if isinstance(stored, UnreadableTensor):
                    raise stored.error
                tensor = counted(stored)
                result = call_normalizer(call.one.function, [tensor, *call.others], settings, where)
            except UnsupportedTensorError as error:
                if len(tensors) == 1:
                    raise
                unsupported.append(error)
                continue
            if isinstance(result, Normalized):
                result, state = result.y, result.state or None
            result = result if source is None else _in_file(result, allocate)
            if not remarks.values(where, tensor) and not remarks.explained:
                name_of_result = output.name if len(tensors) == 1 else output.name and f"{output.name}:{key}"
                remarks.result(name_of_result, result, has_dtype="dtype" in call.one.settings)
            results[key] = _uncounted(result)
            log.info("%s: %s %s in %.3f s", where, tuple(tensor.shape), tensor.dtype, time.perf_counter() - started)
        if len(unsupported) == len(tensors):
            raise unsupported[0]
        remarks.results.append(describe_results(results))
        output.finish(results)
    for problem in unsupported:
        remarks.left_out(problem, "passed through unchanged" if source is not None else "left out of the result")
    if job.save_state and state is None:
        raise UsageError(f"--save-state: {call.one.name} with these settings has no running statistics")
    return state


@contextmanager
def _open_input(
    job: Job, one: Normalizer, name: str, remarks: _Remarks
) -> "Iterator[tuple[Mapping[str, Any], TensorFile | None]]":
    """Open the tensors of an input that are normalized, and the file that the others pass through from, if any.

    Raises:
        TensorError: no tensor is selected.
    """
    file, key = files.split_key(name)
    is_complete = key is None and (job.min_rank is not None or one.family == "weight")
    if name == "-" or not (is_complete or files.is_pattern(key)) or files.file_format(file) == ".npy":
        with files.open_tensors(name, stdin=job.stdin, limit=job.memory_limit) as tensors:
            yield tensors, None
        return
    from normcli.tensor.checkpoint import open_checkpoint

    with open_checkpoint(file) as checkpoint:
        if list(checkpoint.tensors) == [""]:  # one tensor, without a name
            yield checkpoint.tensors, None
            return
        least = job.min_rank if job.min_rank is not None else 2 if one.family == "weight" else 0
        names = sorted(checkpoint.select(key or "*", least), key=files.natural_key)
        unchanged = [name for name in checkpoint.tensors if name not in names]
        if unchanged:
            more = f", ... ({len(unchanged)} tensors)" if len(unchanged) > 8 else ""
            reason = "left as they are, having no rows" if key is None and least == 2 else "passed through unchanged"
            remarks.note(f"{name}: {reason}: {', '.join(unchanged[:8])}{more}")
        yield {name: checkpoint.tensors[name] for name in names}, checkpoint


def _in_file(result: Any, allocate: Callable[..., Any]) -> Any:
    """Return a result in the file that waits for it where memory is limited: those of a checkpoint are many."""
    if not isinstance(result, np.ndarray) or not result.shape:  # it has a file already, or needs none
        return result
    room = allocate(result.shape, result.dtype)
    if isinstance(room, np.ndarray):
        return result
    room[0 : len(result)] = result
    return room


def _uncounted(result: Any) -> Any:
    """Return a result without its counts: the array, or the file that it is in."""
    return result.room if isinstance(result, CountedResult) else result


def _allocate(output: TensorOutput, limit: int | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Make room for a result, in its file or in memory up to the limit."""
    room = output.allocate(shape, dtype)  # np.empty takes no memory before it is written
    if isinstance(room, np.ndarray) and limit is not None and room.nbytes > limit:
        raise TensorError(
            f"this output keeps its result in memory, {room.nbytes} bytes: raise `memory_limit`, or write .safetensors"
        )
    return room if isinstance(room, np.ndarray) or output.name is None else CountedResult(room)


def call_normalizer(
    function: Callable[..., Any], tensors: Sequence[Any], settings: Mapping[str, Any], where: str
) -> Any:
    """Call a normalizer; errors about its tensors name the file."""
    last = len(tensors[0].shape) - 1
    numbered = {key: last if isinstance(value, str) and value == "last" else value for key, value in settings.items()}
    try:
        result_dtype(tensors[0])  # before its rank, which is of no interest then
        return function(*tensors, **numbered)
    except TensorError as error:
        raise type(error)(f"{where}: {error}") from None


def _write_gradients(
    job: Job, call: NormalizerCall, names: tuple[str, str], state: State | None, output: TensorOutput, remarks: _Remarks
) -> None:
    """Write the vjp of one input and its cotangent."""
    (name, cotangent), one = names, call.one
    assert one.vjp is not None
    accepted = Normalizer(one.name, one.vjp).settings
    foreign = [key for key in job.settings if key not in accepted] + (
        ["state"] if state is not None and "state" not in accepted else []
    )
    if foreign:
        raise UsageError(f"--grad does not use --{foreign[0].replace('_', '-')}: no gradient of {one.name} needs it")
    settings = {key: value for key, value in call.settings.items() if key in accepted}
    if "state" in accepted:
        settings["state"] = state
    output.expect(one.gradients)
    allocate = functools.partial(_allocate, output, job.memory_limit)
    with (
        files.open_one(name, stdin=job.stdin, limit=job.memory_limit) as stored,
        files.open_one(cotangent, limit=job.memory_limit) as stored_dy,
        resources(threads=job.threads, memory_limit=job.memory_limit, allocate=allocate),
    ):
        x, dy = counted(stored), counted(stored_dy)
        gradients = call_normalizer(one.vjp, [x, *call.others, dy], settings, name)
        if not remarks.values(name, x) | remarks.values(cotangent, dy) | remarks.explained:
            for key, gradient in gradients.items():
                remarks.result(f"{output.name}:{key}", gradient, has_dtype=False)
        remarks.results.append(describe_results(gradients))
        output.finish({key: _uncounted(result) for key, result in gradients.items()})


def _write_statistics(job: Job, call: NormalizerCall, remarks: _Remarks) -> None:
    """Write the statistics that the input is normalized by."""
    one = call.one
    assert one.statistics is not None and job.save_statistics is not None
    accepted = Normalizer(one.name, one.statistics).settings
    settings = {key: value for key, value in call.settings.items() if key in accepted}
    with ExitStack() as outputs:
        output = _open_output(outputs, job.save_statistics, job)
        output.expect(one.statistic_names)
        with files.open_one(job.inputs[0], limit=job.memory_limit) as stored:
            statistics = call_normalizer(one.statistics, [stored], settings, job.inputs[0])
            remarks.results.append(describe_results(statistics))
            output.finish(statistics)
