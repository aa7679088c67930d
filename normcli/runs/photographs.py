"""JPEGs of a batch, in few steps between one and the next: decoding displaces the interpreter's data from the caches.

They are read before the first one is decoded, and their digests are computed after the last.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from normcli.images import jpeg
from normcli.images.convert import NEUTRAL
from normcli.runs.count import PartialResult, WorkerOptions, kind_notes
from normcli.runs.loop import Prefetched
from normcli.sources import Item, Skipped
from normcli.storage.files import read_early

_AHEAD = 8 << 20  # bytes of a batch; a batch takes 20 ms, in which 2 MB are decoded


def count_photographs(
    options: WorkerOptions, result: PartialResult, batch: list[Item | Skipped]
) -> Iterator[Item | Skipped]:
    """Count plain JPEG files as a `count.FileCounter`."""
    if not options.reading.changed <= NEUTRAL:
        yield from batch
        return
    counted = []
    for item, file in zip(batch, _read_ahead(options, batch), strict=True):
        if file is None:
            yield item
        elif _count(result, file, item.key):
            counted.append(file.data)
        else:
            yield item._replace(load=Prefetched(item.load, file.data))  # type: ignore[union-attr, call-arg]  # it has been read
    result.bytes += sum(map(len, counted))
    result.tally.add_digests(counted)


class _File(NamedTuple):
    """A file that was read; shape and notes where it is a plain JPEG."""

    data: bytes
    shape: tuple[int, int, int] | None
    notes: tuple[str, ...] = ()


def _read_ahead(options: WorkerOptions, batch: list[Item | Skipped]) -> list[_File | None]:
    """Read files and members up to the first that is no plain JPEG, or that is too much; the others are None."""
    files: list[_File | None] = [None] * len(batch)
    left = _AHEAD
    for i, item in enumerate(batch):
        data = read_early(getattr(item, "load", None), left)
        if data is None:
            break
        left -= len(data)
        files[i] = file = _opened(data, options.reading.max_pixels)
        if file is None or not file.notes:
            break
    return files


def _opened(data: bytes, max_pixels: int) -> _File | None:
    """Return a file with its header's shape and notes; without notes if it is no plain JPEG, None without memory."""
    try:
        markers = jpeg.header(data) if data[:3] == jpeg.SIGNATURE else None
        if markers is None or not jpeg.is_plain(markers):
            return _File(data, None)
        shape = markers.height, markers.width, markers.components
        return _File(data, shape if 0 < shape[0] * shape[1] <= max_pixels else None, _notes(markers))
    except Exception:  # the usual way names what is wrong
        return None


def _count(result: PartialResult, file: _File, key: str) -> bool:
    """Count a plain JPEG, but not its digest; return False, and count nothing, for others and where it is damaged."""
    data, shape, notes = file
    if shape is None:
        return False
    try:
        result.tally.count_plain(jpeg.decode_strictly(data, shape), notes, None)
    except Exception:  # the usual way names what is wrong, or decodes it nevertheless
        return False
    result.note_kind(shape[2], "", key)
    return True


@lru_cache(maxsize=256)
def _notes(markers: jpeg.Header) -> tuple[str, ...]:
    return (*kind_notes("JPEG", "L" if markers.components == 1 else "RGB", 8), *markers.notes)
