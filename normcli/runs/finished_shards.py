"""Number of shards of earlier runs that a resumed run can keep."""

import os
from collections.abc import Iterable

from normcli.runs.apply_checkpoint import ApplyCheckpoint, is_up_to_date
from normcli.runs.map_batch import MapJob
from normcli.sinks.shards import shard_name


def count_finished_shards(names: Iterable[tuple[str, str]], checkpoint: ApplyCheckpoint, job: MapJob) -> int:
    """Return how many shards, from the first, are as this run would make them.

    Args:
        names: the output's name and the key of every input, in order.
        checkpoint: what earlier runs have finished.
        job: what is written, and where.
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
