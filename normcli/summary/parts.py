"""Parts of one dataset: which of them a sum holds."""

from collections.abc import Iterable, Mapping
from typing import Any

from normcli.errors import UsageError

Part = Mapping[str, Any] | None  # {"of": N, "parts": [I, …]}; None is all of it


def merge_parts(added: Iterable[Part], taken: Iterable[Part] = ()) -> dict[str, Any] | None:
    """Say which parts a sum holds, None where it is all of them.

    >>> merge_parts([{"of": 3, "parts": [1]}, {"of": 3, "parts": [3]}])
    {'of': 3, 'parts': [1, 3]}
    >>> merge_parts([{"of": 2, "parts": [1]}, {"of": 2, "parts": [2]}]) is None
    True

    Raises:
        UsageError: a part that comes twice: its images would count double; parts of different splits.
    """
    added, taken = list(added), list(taken)
    splits = {part["of"] for part in [*added, *taken] if part}
    if not splits:
        return None
    if len(splits) > 1:
        raise UsageError(f"parts of different splits, in {' and in '.join(map(str, sorted(splits)))}")
    (of,) = splits
    held: set[int] = set()
    for part in added:
        if part is None and len(added) > 1:
            raise UsageError(f"one part of {of} (--shard), and statistics that are none (--force adds them)")
        for number in range(1, of + 1) if part is None else part["parts"]:
            if number in held:
                raise UsageError(f"part {number} of {of} comes twice: its images would count double (--force)")
            held.add(number)
    for part in taken:
        held -= set(part["parts"] if part else ())
    return None if len(held) == of else {"of": of, "parts": sorted(held)}
