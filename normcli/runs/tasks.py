"""Inputs of `apply` as tasks for the workers, or as replays of earlier runs."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from normcli.cpus import usable_cpus
from normcli.options.running import EngineOptions
from normcli.runs.apply_checkpoint import ApplyCheckpoint, is_up_to_date
from normcli.runs.batches import Batching, Replay
from normcli.runs.loop import FailurePolicy, Loop
from normcli.runs.map_batch import BatchResult, MapJob, Task, map_batch
from normcli.runs.names import InputLister, NamedItem
from normcli.runs.partial_result import Failure
from normcli.sinks import OUTPUT_KINDS, ImagePacker
from normcli.sinks.record import name_fields, output_shape
from normcli.sinks.sink import Record
from normcli.sinks.stack import Stack
from normcli.sources import Skipped

_WRITERS = 2  # threads per worker beyond the first: while some wait for the disk, others decode
_MOST_REPLAYED = 64  # records in one replay
_MOST_PACKED = 4 << 20  # bytes of a batch that is to be packed: three batches a worker may wait for that
# a batch is long enough that handing it over costs nothing, and short enough to stop soon
BATCHING = Batching(seconds=0.05, most_items=64)


def with_gate(job: MapJob, engine: EngineOptions) -> MapJob:
    """Let as many threads decode as there are workers, though more run: the rest wait for the disk."""
    if engine.engine != "threads" or isinstance(job.writer, ImagePacker):
        return job
    return replace(job, gate=threading.Semaphore(engine.workers or usable_cpus()))


def map_loop(
    job: MapJob, engine: EngineOptions, failures: FailurePolicy, consume: Callable[[BatchResult], None]
) -> Loop[Task | Skipped, BatchResult]:
    """Return the loop that maps inputs and writes them."""
    packs = isinstance(job.writer, ImagePacker)
    threads = (engine.workers or usable_cpus()) * (1 if job.gate is None else 1 + _WRITERS)
    return Loop(
        worker=partial(map_batch, job),
        consume=consume,
        engine=engine,
        batching=replace(BATCHING, most_result_bytes=_MOST_PACKED) if packs else BATCHING,
        failures=failures,
        result_bytes=lambda result: sum(record.get("bytes", 0) for record in result.records) if packs else 0,
        max_threads=threads,
    )


def tasks(
    listed: InputLister,
    checkpoint: ApplyCheckpoint | None,
    job: MapJob,
    *,
    skip_existing: bool = False,
    shards: int = 0,
) -> Iterator[Task | Skipped | Replay[BatchResult]]:
    """Yield every input as a task, or a replay of earlier runs' records.

    Args:
        listed: the inputs.
        checkpoint: what earlier runs have done; None where it does not matter.
        job: what is written, and where.
        skip_existing: outputs of unknown origin count as finished.
        shards: number of shards that are kept.
    """
    row = -1
    finished: list[tuple[str, Record]] = []
    for item in listed():
        known = None
        if isinstance(item, NamedItem):
            row += 1
            known = None if checkpoint is None else _find_record(checkpoint, job, item, row, skip_existing, shards)
        if known is not None and isinstance(item, NamedItem):
            finished.append((item.item.key, known))
        if finished and (known is None or len(finished) == _MOST_REPLAYED):
            yield Replay(partial(_replay, finished))
            finished = []
        if known is None:
            yield item if isinstance(item, Skipped) else Task(*item.item, item.name, row)
    if finished:
        yield Replay(partial(_replay, finished))


def _find_record(
    checkpoint: ApplyCheckpoint, job: MapJob, item: NamedItem, row: int, skip_existing: bool, shards: int
) -> Record | None:
    """Return an earlier run's record of an input if its output is up to date; else None."""
    known = checkpoint.done(item.name)
    if isinstance(job.writer, ImagePacker):
        return known if known is not None and known["shard"] < shards else None
    path = os.path.join(job.out, item.name) + OUTPUT_KINDS[job.to].suffix  # noqa: PTH118
    if known is not None:
        return known if _is_written(known, row, path, item.item.key, job) else None
    if skip_existing and not isinstance(job.writer, Stack) and os.path.exists(path):  # noqa: PTH110
        return {**name_fields("name", item.name), **name_fields("source", item.item.key), "found": True}
    return None


def _is_written(known: Record, row: int, path: str, source: str, job: MapJob) -> bool:
    if isinstance(job.writer, Stack):
        same_shape = output_shape(known, job.transform.output_layout) == job.writer.shape
        return known["row"] == row and same_shape
    if known.get("found"):
        return os.path.exists(path)  # noqa: PTH110
    return is_up_to_date(path, known["bytes"], source)


def _replay(finished: list[tuple[str, Record]]) -> BatchResult:
    """Return the records of earlier runs as a result; failures too, which have a place among a shard's images."""
    result = BatchResult([], [], Counter(), len(finished))
    for key, record in finished:
        result.records.append(record)
        if "error" in record:
            result.failures.append(Failure(key, record["stage"], record["error"], record["message"]))
        else:
            result.reused += not record.get("found")
    return result
