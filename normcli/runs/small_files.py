"""Small plain images of a folder, an archive or a table, counted without an object for each, which costs more."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from normcli.images import small
from normcli.runs.count import PartialResult, WorkerOptions, kind_notes
from normcli.runs.read_small import read_small_files
from normcli.sources import Item, Skipped
from normcli.tally.integers import MOST_SMALL

_MOST_BYTES = 2 * MOST_SMALL  # of a file
_TOGETHER = 1 << 18  # bytes of samples, which stay in the cache
_PATIENCE = 16  # files that are read twice, of a batch of others


def count_small_files(
    options: WorkerOptions, result: PartialResult, batch: list[Item | Skipped]
) -> Iterator[Item | Skipped]:
    """Count small plain images as a `count.FileCounter`, many of a kind together."""
    if not small.takes(options.reading, MOST_SMALL):
        yield from batch
        return
    waiting: defaultdict[small.Kind, tuple[list[bytes], list[bytes]]] = defaultdict(lambda: ([], []))
    unfilters = small.can_unfilter()
    others = 0
    for at, (item, data) in enumerate(zip(batch, read_small_files(batch, _MOST_BYTES), strict=True)):
        decoded = None
        if data is not None:
            try:
                decoded = small.decode(data, MOST_SMALL, unfilters=unfilters)
            except Exception:  # the usual way names what is wrong
                decoded = None
        if data is None or decoded is None:
            others += 1
            yield item
            if others > _PATIENCE:
                yield from batch[at + 1 :]
                break
            continue
        kind, samples = decoded
        files, images = waiting[kind]
        if not files:
            result.note_kind(kind.shape[2], "", item.key)
        files.append(data)
        images.append(samples)
        if len(images) * len(samples) >= _TOGETHER:
            _count(result, kind, *waiting.pop(kind))
    for kind, (files, images) in waiting.items():
        _count(result, kind, files, images)


def _count(result: PartialResult, kind: small.Kind, files: list[bytes], images: list[bytes]) -> None:
    height, width, channels = kind.shape
    notes = (*kind_notes(kind.format, "L" if channels == 1 else "RGB", 8), *kind.notes)
    result.bytes += sum(map(len, files))
    samples = small.samples(kind, images)
    result.tally.count_small(samples, (height * width, channels), np.dtype(np.uint8), notes, files)
