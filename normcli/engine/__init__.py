"""Who runs it: one function over many batches, by threads, processes, or one after the other.

Every engine has one signature and gives results in the order of the batches, whatever order they end in, with
a bounded number of batches under way. So the same bits come from each.
"""

import gc
import logging
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from normcli.cpus import usable_cpus
from normcli.errors import NormcliError, UsageError, unknown

log = logging.getLogger("normcli.engine")

Batch = TypeVar("Batch", bound=Sized)
Result = TypeVar("Result")


def run(
    function: Callable[[Batch], Result],
    batches: Iterable[Batch],
    *,
    engine: str = "auto",
    workers: int = 0,
    scheduler: str | None = None,
    merge: Callable[[list[Result]], Result] | None = None,
    weigh: Callable[[Batch], int] | None = None,
) -> Iterator[Result]:
    """Yield `function(batch)` for every batch, in order.

    Args:
        function: picklable for "processes".
        batches: taken lazily, at most three per worker ahead.
        engine: "auto" (measures, then chooses), "serial", "threads", "processes" or "dask".
        workers: number of workers; 0 is one per usable processor.
        scheduler: address of a running Dask cluster; only for "dask", which otherwise starts one here.
        merge: adds up consecutive results; "dask" does that on its workers and yields what comes of it.
        weigh: bytes that a batch holds before it is worked on; fewer heavy ones are taken ahead.

    Raises:
        UsageError: no such engine, or a negative number of workers.
        NormcliError: a worker process died twice over the same batches.
        RemoteError: no cluster answers.
    """
    if engine not in NAMES:
        raise unknown("engine", engine, NAMES)
    if scheduler is not None and engine != "dask":
        raise UsageError(f"a scheduler goes with --engine dask, not {engine}")
    if workers < 0:
        raise UsageError(f"workers must be 0 (one per processor) or more, not {workers}")
    if engine == "dask":
        from normcli.engine import cluster

        return cluster.run(function, batches, workers or usable_cpus(), scheduler, merge)
    return ENGINES[engine](function, batches, workers or usable_cpus(), weigh or _weightless)


Weigh = Callable[[Any], int]
_ROOM = 64 << 20  # bytes held by batches under way; one that is heavier goes alone


def _weightless(batch: Any) -> int:
    return 0


def _serial(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    yield from map(function, batches)


def _threads(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    with _abandoned_on_error(ThreadPoolExecutor(workers, "normcli")) as executor:
        waiting: deque[tuple[Future[Any], int]] = deque()
        held = 0
        for batch in batches:
            waiting.append((executor.submit(function, batch), weigh(batch)))
            held += waiting[-1][1]
            batch = None  # or its bytes stay until the next one is there
            while waiting and (len(waiting) >= 3 * workers or held > _ROOM):
                done, weight = waiting.popleft()
                held -= weight
                yield done.result()
        while waiting:
            yield waiting.popleft()[0].result()


def _processes(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    """As threads; a batch whose worker was killed is run once more, in a new pool."""
    source = iter(batches)
    held: deque[Any] = deque()  # batches taken from the source, until their result is there
    exhausted = False
    deaths = 0
    while True:
        with _abandoned_on_error(_process_pool(workers)) as executor:
            try:
                waiting = deque(executor.submit(function, batch) for batch in held)
                while held or not exhausted:
                    while not exhausted and len(held) < 3 * workers and sum(map(weigh, held)) <= _ROOM:
                        try:
                            held.append(next(source))
                        except StopIteration:
                            exhausted = True
                            break
                        waiting.append(executor.submit(function, held[-1]))  # raises where a worker just died
                    if held:
                        result = waiting[0].result()
                        waiting.popleft()
                        held.popleft()
                        deaths = 0
                        yield result
                return
            except BrokenExecutor:
                deaths += 1
                log.warning("a worker process died; its images are done again")
                if deaths == 2:
                    raise NormcliError(
                        "a worker process died twice over the same images (out of memory?); "
                        "try fewer --workers or --engine threads"
                    ) from None


def _process_pool(workers: int) -> Executor:
    """Processes that end with this one.

    Forking takes 10 ms where spawning takes 250, but a fork copies locks that other threads hold: it is done
    only while there are none.
    """
    import multiprocessing  # with the pool, 10 ms that most runs do not need
    from concurrent.futures import ProcessPoolExecutor

    alone = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if alone else "spawn")
    return ProcessPoolExecutor(workers, context, initializer=_follow_the_parent)


def _follow_the_parent() -> None:
    import multiprocessing

    gc.freeze()  # what was forked is not looked through again, which would copy its pages
    warnings.simplefilter("ignore")  # damage is counted; Pillow's words on it are not ours
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker whose parent was killed would wait for work for ever
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)


def _auto(function: Callable[[Any], Any], batches: Iterable[Any], workers: int, weigh: Weigh) -> Iterator[Any]:
    """Begin here, and go on with processes where an item takes so little that threads would only queue.

    With 32x32 JPEGs (60 us each) two threads took 1.7 s over 10,000, twice as long as one: the interpreter
    lock changes hands five times an image. Photographs (1.5 ms) release it for most of their time.
    """
    source = iter(batches)
    for batch in islice(source, 1):  # pays for first uses: not measured
        yield function(batch)
    started, items = time.perf_counter(), 0
    for batch in source:
        yield function(batch)
        items += len(batch)
        spent = time.perf_counter() - started
        if spent > _TRIAL or spent > _DEAR * items:
            break
    else:
        return
    chosen = "processes" if spent < _DEAR * items and workers > 1 else "threads"
    log.info("engine: %d %s (%.0f us an item in a trial of %d)", workers, chosen, 1e6 * spent / items, items)
    yield from ENGINES[chosen](function, source, workers, weigh)


_TRIAL = 0.015  # seconds in which one processor stands idle; forking pays back after about as many
_DEAR = 5e-4  # seconds an item from which threads do well


@contextmanager
def _abandoned_on_error(executor: Executor) -> Iterator[Executor]:
    """Wait for the workers at the end of a run, but leave at once when it is broken off."""
    try:
        yield executor
    except BaseException:
        processes = list((getattr(executor, "_processes", None) or {}).values())  # shutdown forgets them
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        raise
    executor.shutdown()


ENGINES: dict[str, Callable[[Callable[[Any], Any], Iterable[Any], int, Weigh], Iterator[Any]]] = {
    "auto": _auto,
    "serial": _serial,
    "threads": _threads,
    "processes": _processes,
}
NAMES = (*ENGINES, "dask")
