"""JPEG files of a batch, in few steps between one and the next: decoding takes the interpreter's data from the caches.

The files are read before the first one is decoded, and their digests are computed behind the last.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from normcli.images import jpeg
from normcli.images.convert import NEUTRAL
from normcli.runs.count import PartialResult, WorkerOptions, kind_notes
from normcli.runs.read_small import local_file, read_alone
from normcli.sources import Item, Skipped

_AHEAD = 8 << 20  # bytes of a batch; a batch takes 20 ms, in which 2 MB are decoded


def count_photographs(
    options: WorkerOptions, result: PartialResult, batch: list[Item | Skipped]
) -> Iterator[Item | Skipped]:
    """Count plain JPEG files; yield the other items in their places, to be counted.

    Args:
        options: of the worker; they ask for nothing of a single image.
        result: to add to.
        batch: items, in order.
    """
    if not options.reading.changed <= NEUTRAL:
        yield from batch
        return
    counted = []
    for item, photograph in zip(batch, _read_ahead(options, batch), strict=True):
        if photograph is None or not _count(result, photograph, item.key):
            yield item
        else:
            counted.append(photograph.data)
    result.bytes += sum(map(len, counted))
    result.tally.add_digests(counted)


class _Photograph(NamedTuple):
    data: bytes
    shape: tuple[int, int, int]
    notes: tuple[str, ...]


def _read_ahead(options: WorkerOptions, batch: list[Item | Skipped]) -> list[_Photograph | None]:
    """Read local files up to the first that is no plain JPEG, or that is one too many; the others are None."""
    photographs: list[_Photograph | None] = [None] * len(batch)
    left = _AHEAD
    for i, item in enumerate(batch):
        load = local_file(item)
        data = None if load is None else read_alone(load, left)
        markers = None if data is None or data[:3] != jpeg.SIGNATURE else jpeg.header(data)
        if data is None or markers is None or not jpeg.is_plain(markers):
            break
        left -= len(data)
        shape = markers.height, markers.width, markers.components
        if 0 < shape[0] * shape[1] <= options.reading.max_pixels:
            photographs[i] = _Photograph(data, shape, _notes(markers))
    return photographs


def _count(result: PartialResult, photograph: _Photograph, key: str) -> bool:
    """Count a photograph, but not its digest; return False, and count nothing, where it is damaged."""
    data, shape, notes = photograph
    try:
        pixels = jpeg.decode_strictly(data, shape)
    except Exception:  # the usual way names what is wrong, or decodes it nevertheless
        return False
    result.tally.count_plain(pixels, notes, None)
    result.note_kind(shape[2], "", key)
    return True


@lru_cache(maxsize=256)
def _notes(markers: jpeg.Header) -> tuple[str, ...]:
    return (*kind_notes("JPEG", "L" if markers.components == 1 else "RGB", 8), *markers.notes)
