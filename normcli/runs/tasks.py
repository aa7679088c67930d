"""The inputs on their way to the workers: what earlier runs know of each, in batches that take equally long."""

import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from normcli import engine as engines
from normcli.cpus import usable_cpus
from normcli.runs.apply_checkpoint import ApplyCheckpoint, is_up_to_date
from normcli.runs.map_batch import BatchResult, MapJob, Task, map_batch
from normcli.runs.names import InputLister
from normcli.runs.prefetch import prefetch
from normcli.sinks import OUTPUT_KINDS
from normcli.sinks.record import name_fields, output_shape
from normcli.sinks.sink import Record
from normcli.sinks.stack import Stack
from normcli.sources import Load, Skipped

_BATCH_SECONDS = 0.05  # long enough that handing a batch over costs nothing, short enough to stop soon
_LARGEST_BATCH = 64
_WRITERS = 2  # threads per worker beyond the first: while some wait for the disk, others decode
_LARGEST_HELD = 16 << 20  # bytes of a batch that came by in a stream
_LARGEST_PACKED = 4 << 20  # bytes of a batch that is to be packed: three batches a worker may wait for that


def gated(work: MapJob, engine: str, workers: int) -> MapJob:
    """Let as many threads decode as there are workers, though more run: the rest wait for the disk."""
    if engine != "threads" or work.writer.packs:
        return work
    return replace(work, gate=threading.Semaphore(workers or usable_cpus()))


def tasks(
    listed: InputLister, journal: ApplyCheckpoint | None, work: MapJob, *, skip_existing: bool = False, kept: int = 0
) -> Iterator[Task]:
    """Every input, with what earlier runs know of it.

    Args:
        listed: the inputs.
        journal: what earlier runs have done; None where it does not matter.
        work: what is written, and where.
        skip_existing: outputs of unknown origin count as done.
        kept: so many shards stand.
    """
    row = -1
    for named_item in listed():
        if isinstance(named_item, Skipped):
            yield Task(named_item)
            continue
        row += 1
        known = None if journal is None else journal.done(named_item.name)
        path = os.path.join(work.out, named_item.name) + OUTPUT_KINDS[work.to].suffix  # noqa: PTH118
        if work.writer.packs:
            known = known if known is not None and known["shard"] < kept else None
        elif known is not None and not _holds(known, row, path, named_item.item.key, work):
            known = None
        elif known is None and skip_existing and not isinstance(work.writer, Stack) and os.path.exists(path):  # noqa: PTH110
            known = {
                **name_fields("name", named_item.name),
                **name_fields("source", named_item.item.key),
                "found": True,
            }
        yield Task(named_item, row, known)


def _holds(known: Record, row: int, path: str, source: str, work: MapJob) -> bool:
    """Whether what an earlier run wrote of an image is there, and is what this run would write."""
    if isinstance(work.writer, Stack):
        same_shape = output_shape(known, work.transform.output_layout) == work.writer.shape
        return known["row"] == row and same_shape
    if known.get("found"):
        return os.path.exists(path)  # noqa: PTH110
    return is_up_to_date(path, known["bytes"], source)


def run_batches(work: MapJob, waiting: Iterator[Task], *, engine: str, workers: int) -> Iterator[BatchResult]:
    """Map in batches that take about as long as each other, whatever the images' size."""
    sharded = bool(work.writer.packs)
    size = 2
    if not engine.startswith("dask"):  # the workers of a cluster read for themselves
        waiting = prefetch(waiting, _unread, _read)

    def batches() -> Iterator[list[Task]]:
        batch: list[Task] = []
        held = 0
        for task in waiting:
            batch.append(task)
            held += 0 if isinstance(task.named_item, Skipped) else getattr(task.named_item.item.load, "memory_bytes", 0)
            if len(batch) >= size or held >= _LARGEST_HELD:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    count = workers or usable_cpus()
    if work.gate is not None and workers >= 0:
        count *= 1 + _WRITERS
    with warnings.catch_warnings():  # once for all threads: Pillow warns of damage that is counted anyway
        warnings.simplefilter("ignore")
        results = engines.run(
            partial(map_batch, work),
            batches(),
            engine=engine,
            workers=workers if workers < 0 else count,
        )
        for done in results:
            if done.seconds > 0:
                size = max(1, min(int(done.inputs * _BATCH_SECONDS / done.seconds), 2 * size, _LARGEST_BATCH))
            written = sum(record.get("bytes", 0) for record in done.records) if sharded else 0
            if written:
                size = max(1, min(size, _LARGEST_PACKED * done.inputs // written))
            yield done


def _unread(task: Task) -> Load | None:
    return None if isinstance(task.named_item, Skipped) or task.known is not None else task.named_item.item.load


def _read(task: Task, load: Load) -> Task:
    assert not isinstance(task.named_item, Skipped)
    return task._replace(named_item=task.named_item._replace(item=task.named_item.item._replace(load=load)))
