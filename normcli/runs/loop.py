"""The run loop: items go through a worker function on an engine, and results come back in order.

    steps ─► prefetch ─► batches ─► engine(worker) ─► consume
      └────────────── replays ───────────────────────►┘

`stats`, `apply`, `restore` and `verify` are this loop with another worker and another consumer. Reads from servers
overlap with decoding (`read_remote`). Batches take about as long as each other, for images of any size.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from normcli import engine as engines
from normcli.errors import NormcliError, listed
from normcli.options.field import parse_limit
from normcli.options.shared import EngineOptions, FailureOptions
from normcli.runs.count import Failure
from normcli.sources import Item
from normcli.sources.folder import ARRAY
from normcli.storage import is_remote
from normcli.storage.files import FileBytes

T = TypeVar("T")
R = TypeVar("R", bound="Result")
Output = TypeVar("Output", contravariant=True)


class Prefetched(NamedTuple):
    """A loader that has been called: its bytes are in memory until they are used."""

    loader: Any
    data: Any

    def __call__(self) -> Any:
        return self.data

    @property
    def memory_bytes(self) -> int:
        """Return the number of bytes that the loader holds."""
        return int(getattr(self.data, "nbytes", 0)) or len(self.data)

    @property
    def inputs(self) -> int:
        """Return the number of inputs that the loader has: rows of vectors, or one image."""
        return int(getattr(self.loader, "inputs", 1))

    def fingerprint(self) -> str:
        """Return the fingerprint of the loader: the version on the server, not a digest of the bytes."""
        return str(self.loader.fingerprint())


def prefetch(steps: Iterator[Any]) -> Iterator[Any]:
    """Yield steps in order; from the first file on a server on, files on servers are read ahead.

    Args:
        steps: items, named tuples with a loader as `load`; anything else is passed on.
    """
    for step in steps:
        path = getattr(getattr(step, "load", None), "path", "")
        if "://" in path and is_remote(path):
            from normcli.runs.read_remote import read_ahead

            yield from read_ahead(chain([step], steps))
            return
        yield step
        step = None  # or its bytes stay until the next one is there


_FIRST_SIZE = 2
_MOST_OF_BLOCK = 8  # images of one block that stay together, however long each takes
_LARGEST_HELD = 16 << 20  # bytes that came by in a stream: three batches a worker are in flight


class Replay(NamedTuple, Generic[R]):
    """A batch whose result is known from an earlier run; it never enters the engine.

    Attributes:
        load: returns the result.
    """

    load: Callable[[], R]


class Items(list[T]):
    """A batch. Complete files, the usual case, go to a process by column: 0.4 us each instead of 1.5."""

    def __reduce__(self) -> tuple[Any, ...]:
        files = [item for item in self if isinstance(item, Item) and type(item.load) is FileBytes]
        if not self or len(files) < len(self):
            return Items, (list(self),)
        keys, loads, labels = zip(*files, strict=True)
        return _of_files, (keys, labels, *zip(*loads, strict=True))


def _of_files(keys: Sequence[str], labels: Sequence[str | None], *columns: Sequence[Any]) -> Items[Item]:
    return Items(map(_new_item, zip(keys, map(_new_file, zip(*columns, strict=True)), labels, strict=True)))


# without the functions of Python that named tuples are made by, an item takes half the time
_new_item, _new_file = partial(tuple.__new__, Item), partial(tuple.__new__, FileBytes)


def memory_of(batch: list[Any]) -> int:
    """Return the number of bytes that the loaders of a batch hold."""
    return sum(map(_memory_of_item, batch))


def _memory_of_item(item: Any) -> int:
    return getattr(getattr(item, "load", None), "memory_bytes", 0)


def _block_of(item: Any) -> object:
    """Return the key of an item's block; None without a block."""
    return getattr(getattr(item, "load", None), "block", None)


class Batching(NamedTuple):
    """Limits of the size of batches.

    Attributes:
        seconds: time that a batch should take.
        most_items: upper bound of its size.
        most_result_bytes: upper bound of the memory of a batch's result; None where results are small.
        ends: numbers of items after which a batch of any size ends.
        group_of: called with every item, once and in order; a batch holds items of one group only; None for no group.
        complete_groups: a group of any size is one batch; items of the group None are in batches as usual.
    """

    seconds: float
    most_items: int
    most_result_bytes: int | None = None
    ends: Callable[[], Iterator[int]] = lambda: iter(())
    group_of: Callable[[Any], object] | None = None
    complete_groups: bool = False


class Batcher(Generic[T, R]):
    """An iterator of batches and replays; `learn` adapts the size of the next batches.

    Args:
        steps: items, and replays in their places among them.
        batching: limits of the batches.
    """

    def __init__(self, steps: Iterable[T | Replay[R]], batching: Batching) -> None:
        self._steps = iter(steps)
        self._batching = batching
        self._ends = batching.ends()
        self._end = next(self._ends, None)
        self._count = 0
        self._size = _FIRST_SIZE
        self._next: tuple[T, object] | Replay[R] | None = None

    def __iter__(self) -> Iterator[Items[T] | Replay[R]]:
        return self

    def __next__(self) -> Items[T] | Replay[R]:
        step = self._take()
        if step is None:
            raise StopIteration
        if isinstance(step, Replay):
            return step
        item, group = step
        batch = Items[T]([item])
        if self._batching.group_of is None:
            self._fill(batch)
        else:
            self._fill_with_group(batch, group)
        self._count += len(batch)
        if self._count == self._end:
            self._end = next(self._ends, None)
        return batch

    def _most(self) -> float:
        """Return the number of items up to the next of the numbers after which a batch ends."""
        return math.inf if self._end is None or self._end <= self._count else self._end - self._count

    def _fill(self, batch: Items[T]) -> None:
        """Add items to a batch of one until it is full: the usual case, in few steps."""
        most = min(self._size, self._most())
        held = _memory_of_item(batch[0])
        while len(batch) < most and held < _LARGEST_HELD:
            item = next(self._steps, None)
            if item is None:
                return
            if isinstance(item, Replay):
                self._next = item
                return
            batch.append(item)
            held += _memory_of_item(item)
        has_small_results = self._batching.most_result_bytes is None
        if has_small_results and (block := _block_of(batch[-1])) is not None:
            self._complete_block(batch, block)

    def _complete_block(self, batch: Items[T], block: object) -> None:
        """Add the rest of the last image's block to a batch: another worker would decode the block again.

        A large block is divided, so that all workers have images.
        """
        while len(batch) < min(max(_MOST_OF_BLOCK, 2 * self._size), self._batching.most_items, self._most()):
            step = self._take()
            if step is None:
                return
            if isinstance(step, Replay) or _block_of(step[0]) != block:
                self._next = step
                return
            batch.append(step[0])

    def _fill_with_group(self, batch: Items[T], group: object) -> None:
        """Add items to a batch of one, as long as they are of its group, until it is full."""
        most, held = self._most(), _memory_of_item(batch[0])
        is_limited = group is None or not self._batching.complete_groups
        while len(batch) < most and not (is_limited and (len(batch) >= self._size or held >= _LARGEST_HELD)):
            step = self._take()
            if step is None:
                return
            if isinstance(step, Replay) or step[1] != group:
                self._next = step
                return
            batch.append(step[0])
            held += _memory_of_item(step[0])

    def _take(self) -> tuple[T, object] | Replay[R] | None:
        """Return the next item and its group, or the next replay; None at the end."""
        if self._next is not None:
            step, self._next = self._next, None
            return step
        item = next(self._steps, None)
        if item is None or isinstance(item, Replay):
            return item
        group_of = self._batching.group_of
        return item, None if group_of is None else group_of(item)

    def learn(self, inputs: int, seconds: float, result_bytes: int = 0) -> None:
        """Adapt the size of the next batches to the time that one took.

        Args:
            inputs: its number of items.
            seconds: time it took.
            result_bytes: bytes that its result holds.
        """
        most = self._batching.most_result_bytes
        if seconds > 0 and inputs:
            fitting = int(inputs * self._batching.seconds / seconds)
            self._size = max(1, min(fitting, 2 * self._size, self._batching.most_items))
        if most is not None and result_bytes:
            self._size = max(1, min(self._size, most * inputs // result_bytes))


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
        """Record the result of a batch; None as token marks a replay."""

    def flush(self) -> None:
        """Make recorded results durable; called when the run ends or is interrupted."""


class FailurePolicy:
    """The rule for inputs that fail: each is reported, and too many end the run.

    Args:
        options: of the run.

    Attributes:
        failed: number of inputs that failed; those skipped are not among them.
        inputs: number of inputs so far.
        replayed: number of those that an earlier run had read.
        first: the first failure.
        first_unused: the first input that was not used and explains most: a failure or a container, then an array, then
            any other that was skipped.
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
            if self.first_unused is None or _explains(failure) > _explains(self.first_unused):
                self.first_unused = failure
            if failure.stage == "skip":
                continue
            self.failed += 1
            self.first = self.first or failure
            if failure.reason == "remote":
                self.first_remote = self.first_remote or failure
            if self._limit == 0 and not self._is_share:
                raise NormcliError(f"{failure.key}: {failure.message}")

    def describe_unused(self, sources: Sequence[str] = ()) -> str:
        """Return the end of an error: why the first input was not used, or that the sources have none."""
        if (first := self.first_unused) is not None:
            return f": {first.key}: {first.message}"
        if self.inputs:
            return ""
        return f": nothing to read in {listed(sources, 3)}" if sources else ": no input"

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


def _explains(failure: Failure) -> int:
    """Return how much an input explains of a run without images: a README next to tables of images, nothing."""
    if failure.stage != "skip" or failure.reason == "container":
        return 2
    return int((failure.reason, failure.message) == ARRAY)  # its message names the option that reads it


class Loop(NamedTuple, Generic[T, R]):
    """The run loop over items.

    Attributes:
        worker: picklable; computes the result of a batch.
        consume: called with the results, in order; True ends the run early.
        engine: runs the worker.
        batching: limits of batches.
        failures: the policy on failures; None where results have none.
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
            NormcliError: too many failures, or an error of `consume` or the checkpoint.
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
    """The order of results: batches in flight, and the replays behind each."""

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
                batch = Items()  # or its bytes stay until the next one is there
            elif not self._under_way:
                self._replay(batch)
            else:
                self._under_way.append(batch)
                replays += 1
                if replays >= _MOST_REPLAYS:  # an empty batch counts as in flight, so that a result has to come
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
