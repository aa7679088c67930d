"""How many shards of earlier runs a run that resumes can keep."""

import os

from normcli.runs.apply_checkpoint import ApplyCheckpoint, is_up_to_date
from normcli.runs.map_batch import MapJob
from normcli.runs.names import InputLister
from normcli.sinks.shards import shard_name
from normcli.sources import Skipped


def count_finished_shards(listed: InputLister, journal: ApplyCheckpoint, work: MapJob) -> int:
    """Return how many shards, from the first, are as this run would make them."""
    number = seen = 0
    last_place: tuple[int, ...] = (-1,)
    for named_item in listed():
        if isinstance(named_item, Skipped):
            continue
        shard, known = journal.shards.get(number), journal.done(named_item.name)
        if shard is None or known is None or known.get("shard") != number:
            break
        path = os.path.join(work.out, shard_name(work.to, number))  # noqa: PTH118
        if not is_up_to_date(path, shard.size, named_item.item.key):
            break
        if "error" not in known:
            place = tuple(known[key] for key in ("offset", "group", "row") if key in known)
            if place <= last_place:
                break
            last_place = place
        seen += 1
        if seen == shard.records:
            number, seen, last_place = number + 1, 0, (-1,)
    else:
        return number
    # the last shard of an earlier run had room, and there is more to come
    return number - 1 if number and journal.shards[number - 1].last else number
