"""Engines: one function over many batches, serially, in threads or in processes, or by measuring which is faster."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from normcli.engine import worker_processes
from normcli.errors import NormcliError, UsageError, unknown
from normcli.platforms import usable_cpus

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

log = logging.getLogger("normcli.engine")

Weigh = Callable[[Any], int]
Engine = Callable[[Callable[[Any], Any], Iterable[Any], int, Weigh], Iterator[Any]]

_AHEAD = 3  # batches a worker
_MEMORY = 64 << 20  # bytes held by batches in flight; a heavier batch goes alone
_TRIAL = 0.015  # seconds in which one processor is idle; forking pays back after about as many
_DEAR = 5e-4  # seconds an item from which threads do well


def run_serial(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    """Yield results one after the other."""
    yield from map(function, batches)  # holds no batch while the next one is read


def run_threads(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    """Yield results of a pool of threads."""
    from concurrent.futures import ThreadPoolExecutor  # 1.3 ms, which one image does without

    with _stopped_on_error(ThreadPoolExecutor(workers, "normcli")) as executor:
        waiting: deque[tuple[Future[Any], int]] = deque()
        memory = 0
        for batch in batches:
            waiting.append((executor.submit(function, batch), weigh(batch)))
            memory += waiting[-1][1]
            batch = None  # or its bytes stay until the next one is there
            while waiting and (len(waiting) >= _AHEAD * workers or memory > _MEMORY):
                future, weight = waiting.popleft()
                memory -= weight
                yield future.result()
        while waiting:
            yield waiting.popleft()[0].result()


def run_processes(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    """Yield results of a pool of processes; a batch whose worker was killed is run once more, in a new pool."""
    from concurrent.futures import BrokenExecutor

    source = iter(batches)
    unfinished: deque[tuple[Any, int]] = deque()  # batches, and their weights, until their result is there
    waiting: deque[Future[Any]] = deque()  # their results
    memory = deaths = 0

    def first() -> Any:
        nonlocal deaths, memory
        worker_processes.wait_for(waiting[0], executor)
        result = waiting[0].result()
        waiting.popleft()
        memory -= unfinished.popleft()[1]
        deaths = 0
        return result

    while True:
        with _stopped_on_error(worker_processes.pool(workers)) as executor:
            try:
                waiting = deque(executor.submit(function, batch) for batch, _ in unfinished)
                for batch in source:
                    unfinished.append((batch, weigh(batch)))  # once: at every turn it took the parent 1.2 us an item
                    memory += unfinished[-1][1]
                    waiting.append(executor.submit(function, batch))  # raises where a worker just died
                    while len(unfinished) >= _AHEAD * workers or memory > _MEMORY:
                        yield first()
                while unfinished:
                    yield first()
                return
            except BrokenExecutor:
                deaths += 1
                log.warning("worker process died; retrying its batch")
                if deaths == 2:
                    guard = ' (a script requires `if __name__ == "__main__":`)'
                    raise NormcliError(
                        "a worker process died twice over the same images (out of memory?); "
                        "try fewer --workers or --engine threads" + guard * worker_processes.runs_caller_again()
                    ) from None


def run_auto(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    """Yield results of this thread at first, then of processes where items are so small that threads would queue.

    With 32x32 JPEGs (60 us each) two threads took 1.7 s over 10,000, twice as long as one: the interpreter
    lock changes hands five times an image. Photographs (1.5 ms) release it for most of their time. Where processes
    would run the caller's script again (another thread is alive, so none can be forked), it stays with threads.
    """
    source = iter(batches)
    yield from map(function, islice(source, 1))  # pays for first uses: not measured
    started, items = time.perf_counter(), 0
    for batch in source:
        items += len(batch)
        result = function(batch)
        batch = None  # or its bytes stay until the next one is there
        yield result
        spent = time.perf_counter() - started
        if spent > _TRIAL or spent > _DEAR * items:
            break
    else:
        return
    use_processes = spent < _DEAR * items and workers > 1 and not worker_processes.runs_caller_again()
    choice = "processes" if use_processes else "threads"
    log.info("engine: %d %s (%.0f us an item in a trial of %d)", workers, choice, 1e6 * spent / items, items)
    yield from (run_processes if use_processes else run_threads)(function, source, workers, weigh)


@contextmanager
def _stopped_on_error(executor: "Executor") -> "Iterator[Executor]":
    """Wait for the workers at the end of a run, but leave at once when it ends by an error or a signal."""
    try:
        yield executor
    except BaseException as error:
        if isinstance(error, GeneratorExit) and not hasattr(executor, "_processes"):
            executor.shutdown(cancel_futures=True)  # a run that had enough: its last threads would forbid a fork
            raise
        worker_processes.end(executor)  # before the shutdown, which forgets them
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


Batch = TypeVar("Batch", bound=Sized)
Result = TypeVar("Result")

ENGINES: dict[str, Engine] = {
    "auto": run_auto,
    "serial": run_serial,
    "threads": run_threads,
    "processes": run_processes,
}
NAMES = (*ENGINES, "dask")


def run(
    function: Callable[[Batch], Result],
    batches: Iterable[Batch],
    *,
    engine: str = "auto",
    workers: int = 0,
    merge: Callable[[list[Result]], Result] | None = None,
    weigh: Callable[[Batch], int] | None = None,
) -> Iterator[Result]:
    """Yield `function(batch)` for every batch, in order.

    Args:
        function: picklable for "processes" and "dask".
        batches: taken lazily, at most three per worker ahead.
        engine: "auto" (measures, then chooses), "serial", "threads", "processes", "dask" (starts a cluster here) or
            "dask:ADDRESS" of a running cluster.
        workers: number of workers; 0 is one per usable processor.
        merge: adds up consecutive results; "dask" does that on its workers and yields the sums.
        weigh: bytes that a batch holds before it is worked on; fewer heavy ones are taken ahead.

    Raises:
        UsageError: no such engine, an address for another one than "dask", or a negative number of workers.
        NormcliError: a worker process died twice over the same batches.
        RemoteError: no cluster answers.
    """
    name, colon, address = engine.partition(":")
    if name not in NAMES:
        raise unknown("engine", name, NAMES)
    if colon and (name != "dask" or not address):
        raise UsageError(f"`engine`: {engine} is not an engine (an address requires dask:ADDRESS)")
    if workers < 0:
        raise UsageError(f"`workers`: must be 0 (one per CPU) or more, not {workers}")
    workers = workers or usable_cpus()
    if name == "dask":
        from normcli.engine import dask

        return dask.run(function, batches, workers, address or None, merge)
    return ENGINES[name](function, batches, workers, weigh or _weightless)


def _weightless(batch: Any) -> int:
    return 0
