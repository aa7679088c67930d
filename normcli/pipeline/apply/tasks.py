"""The inputs on their way to the workers: what earlier runs know of each, in batches that take equally long."""

import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from normcli import engine as engines
from normcli.formats import Skip
from normcli.pipeline.apply import manifest, outputs
from normcli.pipeline.apply.manifest import Journal, Record, named
from normcli.pipeline.apply.naming import Plan
from normcli.pipeline.apply.worker import Done, Task, Work, map_batch

_BATCH_SECONDS = 0.05  # long enough that handing a batch over costs nothing, short enough to stop soon
_LARGEST_BATCH = 64
_WRITERS = 2  # threads per worker beyond the first: while some wait for the disk, others decode


def gated(work: Work, engine: str, workers: int) -> Work:
    """Let as many threads decode as there are workers, though more run: the rest wait for the disk."""
    if engine != "threads":
        return work
    return replace(work, gate=threading.Semaphore(workers or engines.usable_cpus()))


def tasks(listed: Plan, journal: Journal | None, work: Work, skip_existing: bool) -> Iterator[Task]:
    """Every input, with what earlier runs know of it."""
    row = -1
    suffix = outputs.KINDS[work.to].suffix
    settings = {"layout": work.transform.layout}
    for planned in listed():
        if isinstance(planned, Skip):
            yield Task(planned)
            continue
        row += 1
        known = None if journal is None else journal.done(planned.name)
        path = os.path.join(work.out, planned.name) + suffix  # noqa: PTH118
        if known is not None and work.stack is not None:
            same = known["row"] == row and manifest.written_shape(known, settings) == work.stack.shape
            known = known if same else None
        elif known is not None and not _stands(path, known, planned.item.key):
            known = None
        elif known is None and skip_existing and work.stack is None and os.path.exists(path):  # noqa: PTH110
            known = {**named("name", planned.name), **named("source", planned.item.key), "found": True}
        yield Task(planned, row, known)


def _stands(path: str, record: Record, source: str) -> bool:
    """Whether an output is there, of its size, and its source has not changed since."""
    try:
        written = os.stat(path)  # noqa: PTH116
        if written.st_size != record.get("bytes"):
            return bool(record.get("found"))
        return os.stat(source).st_mtime_ns <= written.st_mtime_ns  # noqa: PTH116
    except FileNotFoundError:
        return os.path.exists(path)  # noqa: PTH110
    except OSError:
        return False


def run_batches(work: Work, tasks: Iterator[Task], engine: str, workers: int) -> Iterator[Done]:
    """Map in batches that take about as long as each other, whatever the images' size."""
    size = 2

    def batches() -> Iterator[list[Task]]:
        while batch := list(islice(tasks, size)):
            yield batch

    count = workers or engines.usable_cpus()
    if work.gate is not None and workers >= 0:
        count *= 1 + _WRITERS
    with warnings.catch_warnings():  # once for all threads: Pillow warns of damage that is counted anyway
        warnings.simplefilter("ignore")
        for done in engines.run(
            partial(map_batch, work), batches(), engine=engine, workers=workers if workers < 0 else count
        ):
            if done.seconds > 0:
                size = max(1, min(int(done.inputs * _BATCH_SECONDS / done.seconds), 2 * size, _LARGEST_BATCH))
            yield done
