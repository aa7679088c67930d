"""Shards of one dataset (`stats --shard I/N`): the ones that a sum contains."""

from collections.abc import Iterable, Mapping
from typing import Any

from normcli.errors import UsageError

Shards = Mapping[str, Any] | None  # {"of": N, "parts": [I, …]}; None is the complete dataset


def merge_shards(added: Iterable[Shards], subtracted: Iterable[Shards] = ()) -> dict[str, Any] | None:
    """Return the shards that a sum contains; None if these are all.

    >>> merge_shards([{"of": 3, "parts": [1]}, {"of": 3, "parts": [3]}])
    {'of': 3, 'parts': [1, 3]}
    >>> merge_shards([{"of": 2, "parts": [1]}, {"of": 2, "parts": [2]}]) is None
    True

    Raises:
        UsageError: a shard that comes twice, whose images would count double; shards of different splits.
    """
    added, subtracted = list(added), list(subtracted)
    splits = {shards["of"] for shards in [*added, *subtracted] if shards}
    if not splits:
        return None
    if len(splits) > 1:
        raise UsageError(f"cannot merge shards of different numbers of parts: {' and '.join(map(str, sorted(splits)))}")
    (of,) = splits
    parts: set[int] = set()
    for shards in added:
        if shards is None and len(added) > 1:
            raise UsageError(f"cannot merge a shard of {of} with statistics of a complete dataset (`force` adds them)")
        for number in range(1, of + 1) if shards is None else shards["parts"]:
            if number in parts:
                raise UsageError(f"part {number} of {of} comes twice: its images would count double (`force` adds it)")
            parts.add(number)
    for shards in subtracted:
        parts -= set(shards["parts"] if shards else ())
    return None if len(parts) == of else {"of": of, "parts": sorted(parts)}


def describe_shards(shards: Mapping[str, Any]) -> str:
    """Return which shards these are.

    >>> describe_shards({"of": 4, "parts": [1]}), describe_shards({"of": 4, "parts": [1, 3]})
    ('part 1 of 4', 'parts 1, 3 of 4')
    """
    parts = shards["parts"]
    return f"part{'s' * (len(parts) != 1)} {', '.join(map(str, parts))} of {shards['of']}"


def missing_shards(shards: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the shards that are missing.

    >>> missing_shards({"of": 4, "parts": [1, 3]})
    [2, 4]
    """
    return sorted({*range(1, shards["of"] + 1)} - {*shards["parts"]})
