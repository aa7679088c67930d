"""The run loop: items go through a worker function on an engine, and results come back in order.

    steps ─► prefetch ─► batches ─► engine(worker) ─► consume
      └────────────── replays ───────────────────────►┘

`stats`, `apply`, `restore` and `verify` are this loop with another worker and another consumer.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from normcli import engine as engines
from normcli.errors import NormcliError
from normcli.options.parse import parse_limit
from normcli.options.running import EngineOptions, FailureOptions
from normcli.runs.batches import Batcher, Batching, Items, Replay, memory_of
from normcli.runs.partial_result import Failure
from normcli.runs.prefetch import prefetch

T = TypeVar("T")
R = TypeVar("R", bound="Result")
Output = TypeVar("Output", contravariant=True)

_MOST_REPLAYS = 32  # replays in memory that wait for a batch before them


class Result(Protocol):
    """The attributes of a batch's result that the loop reads."""

    inputs: int
    bytes: int
    seconds: float
    failures: list[Failure]


class Checkpoint(Protocol[Output]):
    """A store of results for a later run."""

    def on_submit(self, batch: list[Any]) -> Any:
        """Return a token of the batch for `record`, before any of it is read."""

    def record(self, token: Any, result: Output) -> None:
        """Note the result of a batch; None as token says that it is a replay."""

    def flush(self) -> None:
        """Make recorded results durable; called when the run ends or is interrupted."""


class FailurePolicy:
    """Reports inputs that fail, and ends the run when they are too many.

    Args:
        options: of the run.

    Attributes:
        failed: number of inputs that failed; those skipped are not among them.
        inputs: number of inputs so far.
        replayed: how many of them an earlier run had read.
        first: the first failure.
        first_unused: the first input that was not used: a failure, or one that was skipped, containers before others.
        first_remote: the first failure that a server is the reason of.
    """

    def __init__(self, options: FailureOptions) -> None:
        self.failed = self.inputs = self.replayed = 0
        self.first: Failure | None = None
        self.first_unused: Failure | None = None
        self.first_remote: Failure | None = None
        self._on_failure = options.on_failure
        self._setting = parse_limit(options.max_failures)
        self._is_share = self._setting is not None and self._setting.endswith("%")
        self._limit = float("inf") if self._setting is None else float(self._setting.removesuffix("%"))

    def report(self, failures: list[Failure]) -> None:
        """Take the failures of a batch.

        Raises:
            NormcliError: an input failed, and none may.
        """
        for failure in failures:
            if self._on_failure is not None:
                self._on_failure(failure)
            first = self.first_unused
            says_little = first is not None and first.stage == "skip" and first.reason != "container"
            if first is None or (says_little and failure.reason == "container"):
                self.first_unused = failure  # a README beside tables of images explains nothing
            if failure.stage == "skip":
                continue
            self.failed += 1
            self.first = self.first or failure
            if failure.reason == "remote":
                self.first_remote = self.first_remote or failure
            if self._limit == 0 and not self._is_share:
                raise NormcliError(f"{failure.key}: {failure.message}")

    def check(self, *, at_end: bool = False) -> None:
        """Compare the number of failures with the limit; a share is known only at the end.

        Raises:
            NormcliError: too many.
        """
        if self._is_share:
            exceeded = at_end and self.failed * 100 > self._limit * self.inputs
        else:
            exceeded = self.failed > self._limit
        if exceeded:
            raise NormcliError(
                f"{self.failed} of {self.inputs} inputs failed, more than `max_failures` {self._setting}"
            )


@dataclass(frozen=True, kw_only=True)
class Loop(Generic[T, R]):
    """The run loop over items.

    Attributes:
        worker: picklable; computes the result of a batch.
        consume: called with the results, in order; True ends the run early.
        engine: who runs the worker.
        batching: limits of batches.
        failures: what failures do to the run; None where results have none.
        checkpoint: remembers results for a later run.
        merge: adds consecutive results on the workers of a cluster; not with a checkpoint or replays.
        result_bytes: number of bytes that a result holds, for `Batching.most_result_bytes`.
        max_threads: number of workers where it is not that of `engine`.
    """

    worker: Callable[[list[T]], R]
    consume: Callable[[R], bool | None]
    engine: EngineOptions
    batching: Batching
    failures: FailurePolicy | None = None
    checkpoint: Checkpoint[R] | None = None
    merge: Callable[[list[R]], R] | None = None
    result_bytes: Callable[[R], int] = lambda _: 0
    max_threads: int | None = None

    def run(self, steps: Iterator[T | Replay[R]]) -> None:
        """Run all items; replays are consumed in their places among them.

        Raises:
            NormcliError: too many failures, or what `consume` and the checkpoint raise.
        """
        reads_ahead = not self.engine.engine.startswith("dask")  # the workers of a cluster read for themselves
        batcher: Batcher[T, R] = Batcher(prefetch(steps) if reads_ahead else steps, self.batching)
        order = _Order(self)
        results: Any = engines.run(
            self.worker,
            order.submit(batcher),
            engine=self.engine.engine,
            workers=self.engine.workers if self.max_threads is None else self.max_threads,
            merge=self.merge,
            weigh=memory_of,
        )
        with ExitStack() as stack:
            stack.enter_context(closing(results))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # once for all threads: Pillow warns of damage that is counted anyway
            if self.checkpoint is not None:
                stack.callback(self.checkpoint.flush)
            for result in results:
                batcher.learn(result.inputs, result.seconds, self.result_bytes(result))
                order.complete(result)
                if order.stopped:
                    return


class _Order(Generic[T, R]):
    """The order of results: batches under way, and the replays behind each."""

    def __init__(self, loop: Loop[T, R]) -> None:
        self.stopped = False
        self._loop = loop
        self._under_way: deque[Any] = deque()  # tokens of batches, and replays

    def submit(self, batches: Iterator[Items[T] | Replay[R]]) -> Iterator[list[T]]:
        """Yield the batches that have to be run."""
        checkpoint, replays = self._loop.checkpoint, 0
        for batch in batches:
            if not isinstance(batch, Replay):
                replays = 0
                if self._loop.merge is None:
                    self._under_way.append(None if checkpoint is None else checkpoint.on_submit(batch))
                yield batch
            elif not self._under_way:
                self._replay(batch)
            else:
                self._under_way.append(batch)
                replays += 1
                if replays >= _MOST_REPLAYS:  # an empty batch takes a place under way, so that a result has to come
                    replays = 0
                    self._under_way.append(None if checkpoint is None else checkpoint.on_submit([]))
                    yield Items()
            if self.stopped:
                return

    def complete(self, result: R) -> None:
        """Consume a result of the engine, and the replays behind it."""
        if self._loop.merge is None:
            token = self._under_way.popleft()
            if self._loop.checkpoint is not None:
                self._loop.checkpoint.record(token, result)
        self._deliver(result)
        while self._under_way and isinstance(self._under_way[0], Replay) and not self.stopped:
            self._replay(self._under_way.popleft())

    def _replay(self, replay: Replay[R]) -> None:
        result = replay.load()
        if self._loop.failures is not None:
            self._loop.failures.replayed += result.inputs
        if self._loop.checkpoint is not None:
            self._loop.checkpoint.record(None, result)
        self._deliver(result)

    def _deliver(self, result: R) -> None:
        failures = self._loop.failures
        if failures is not None:
            failures.inputs += result.inputs
            failures.report(result.failures)
        self.stopped = bool(self._loop.consume(result)) or self.stopped
        if failures is not None:
            failures.check()
        if self._loop.engine.on_progress is not None:
            self._loop.engine.on_progress(result)
