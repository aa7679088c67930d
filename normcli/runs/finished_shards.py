"""The outputs that a resumed run keeps of an earlier one: a number of shards, or a complete stack."""

import os
from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest

from normcli.runs import manifest
from normcli.runs.apply_checkpoint import ApplyCheckpoint, changed_since, is_up_to_date
from normcli.runs.count import LASTING, Failure
from normcli.runs.map_batch import BatchResult, MapJob
from normcli.runs.names import WORK, NamedItem
from normcli.sinks.shards import shard_name
from normcli.sinks.sink import Record, decode_name
from normcli.sinks.stack import FINAL, INDEX, stack_shape
from normcli.sources import Skipped


def count_finished_shards(names: Iterable[tuple[str, str]], checkpoint: ApplyCheckpoint, job: MapJob) -> int:
    """Return the number of shards, from the first, that equal those of this run.

    Args:
        names: the output's name and the key of every input, in order.
        checkpoint: the results of earlier runs.
        job: the outputs, and their place.
    """
    number = position = 0
    last_place: tuple[int, ...] = (-1,)
    for name, key in names:
        shard, known = checkpoint.shards.get(number), checkpoint.done(name)
        if shard is None or known is None or known.get("shard") != number:
            break
        path = os.path.join(job.out, shard_name(job.to, number))  # noqa: PTH118
        if not is_up_to_date(path, shard.size, key):
            break
        if "error" in known and known["error"] not in LASTING:
            break  # another try may read it
        if "error" not in known:
            place = tuple(known[field] for field in ("offset", "group", "row") if field in known)
            if place <= last_place:
                break
            last_place = place
        position += 1
        if position == shard.records:
            number, position, last_place = number + 1, 0, (-1,)
    else:
        return number
    # the last shard of an earlier run had room, and there is more to come
    return number - 1 if number and checkpoint.shards[number - 1].last else number


def finished_stack(listed: Iterable[NamedItem | Skipped], head: Record, folder: str) -> BatchResult | None:
    """Return the result of a finished run if the same run would write the same stack; else None.

    Args:
        listed: the inputs.
        head: settings of this run.
        folder: output folder.

    Raises:
        UsageError: the earlier run had other settings, or its manifest is damaged.
    """
    name = FINAL[head["settings"]["to"]]
    path = os.path.join(folder, name)  # noqa: PTH118
    finished = (os.path.join(folder, name) for name in (manifest.NAME, INDEX, name))  # noqa: PTH118
    if os.path.exists(os.path.join(folder, WORK)) or not all(map(os.path.exists, finished)):  # noqa: PTH110, PTH118
        return None
    earlier, records = manifest.read(folder)
    manifest.check_same_settings(folder, earlier, head)
    result = BatchResult([], [], Counter(), 0)
    modified = os.stat(path).st_mtime_ns  # noqa: PTH116
    inputs = (item for item in listed if not _skips(result, item))
    for item, record in zip_longest(inputs, records):
        if item is None or record is None or not isinstance(item, NamedItem):
            return None
        if decode_name(record, "name") != item.name or changed_since(item.item.key, modified):
            return None
        result.inputs += 1
        result.records.append(record)
        if "error" in record:
            failure = Failure(item.item.key, str(record.get("stage")), record["error"], str(record.get("message")))
            if not failure.is_lasting:
                return None
            result.failures.append(failure)
    result.reused = sum("error" not in record for record in result.records)
    shape = stack_shape(path, head["settings"]["to"])
    if shape is None:
        return None
    return result if shape[0] == result.reused and shape == earlier.get("stack") else None


def _skips(result: BatchResult, item: NamedItem | Skipped) -> bool:
    """Return True for an input that is skipped, and note it."""
    if isinstance(item, NamedItem):
        return False
    result.inputs += 1
    result.skipped[item.reason] += 1
    result.failures.append(Failure(item.key, "skip", item.reason, item.message))
    return True
