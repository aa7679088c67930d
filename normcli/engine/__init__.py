"""Engines: one function over many batches, by threads, processes, or one after the other.

Every engine has one signature and yields results in the order of the batches, whatever order they end in, with
a bounded number of batches in flight. So the same bits come from each.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

from normcli.cpus import usable_cpus
from normcli.engine import local
from normcli.errors import UsageError, unknown

Batch = TypeVar("Batch", bound=Sized)
Result = TypeVar("Result")

ENGINES: dict[str, local.Engine] = {
    "auto": local.run_auto,
    "serial": local.run_serial,
    "threads": local.run_threads,
    "processes": local.run_processes,
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
        merge: adds up consecutive results; "dask" does that on its workers and yields what comes of it.
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
