"""The file cache of incremental runs: counts per file, so that only changed files are read.

Content. For every file its name, its version and its own exact counts: of an image the histogram (see
`tally.serialize`), from which the sums follow, with its digest, notes and group; of float images also the sums and
extremes. That is 1.3 KB for a photograph of 8 bits, and for 16-bit and float images up to a fifth of the file.
Counts of several files together would be smaller, but when one of them goes, the others would have to be read again:
with one file in a hundred changed and 32 together, a quarter of the dataset. A container (tar, zip, parquet, npy,
npz, IDX) is one entry, because it is rescanned completely. The version is size, time of content and time of inode of
a local file (`storage.version`, which has none for a file that is too young), of a remote one the server's version;
with it the class label and the version of the mask.

Procedure. The listing is walked as always. Files that are in the cache with the same version are not read: their
failures are reported again. Everything else is counted. At the end, files that were not found again are subtracted
from the sum of the run before and the new counts are added: integers, so the state is that of a run over everything,
bit for bit. One thing cannot be subtracted: of float images the sum knows 1,024 extremes. Where there were more
images, the entries are added up anew instead, still without reading an image. Failures are kept only where they
follow from the file's own bytes; failures of permissions, servers or missing libraries are tried again.

The cache holds the sum itself and needs no other file: the statistics file is written first, the cache is then
committed, and a kill between the two costs nothing.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from normcli import sources as containers
from normcli.options.shared import InputOptions
from normcli.runs.cache_database import CacheDatabase
from normcli.runs.cache_entry import CacheEntry, StoredEntry, deflate
from normcli.runs.count import Failure, PartialResult, inputs_of
from normcli.runs.file_versions import version_of_container, version_of_item, versions_of_libraries
from normcli.runs.loop import Replay
from normcli.sources import Item, Skipped
from normcli.storage.files import FileBytes
from normcli.tally import Floats, Tally

if TYPE_CHECKING:
    from normcli.runs.masks import PixelMask

_KEPT, _REPLACED = 1, 2  # states of an entry; 0 until something of the listing has its name
_MOST_REPLAYED = 256  # entries in one replay
# their members have no versions of their own
_READ_AS_ONE = ("tar", "zip", "parquet", "arrow", "npy", "idx", "video", "lerobot", "nifti", "hdf5", "zarr")
_LIBRARIES = (
    "tifffile",
    "imagecodecs",
    "pillow-heif",
    "zstandard",
    "pyarrow",
    "av",
    "nibabel",
    "pydicom",
    "zarr",
    "h5py",
)  # what they decode or reject may change


def _is_read_as_one(source: str) -> bool:
    """Return True if the items of a source are members of it, without versions of their own."""
    kind = containers.kind_of(source)
    if kind == "huggingface":
        from normcli.sources import huggingface

        return bool(huggingface.tables(source))
    return kind in _READ_AS_ONE


class Changes(NamedTuple):
    """Numbers of files and containers of an incremental run.

    Attributes:
        reused: not read.
        new: not in the cache.
        changed: in the cache with another version.
        removed: in the cache, and not among the sources.
        reread: apparently unchanged, but too young to be certain, or failed for a reason that may have passed.
    """

    reused: int
    new: int
    changed: int
    removed: int
    reread: int


@dataclass(eq=False)
class _Container:
    """A container that is being counted.

    Attributes:
        entry: its entry, without counts.
        result: of its inputs so far.
        inputs: their number; None until it is listed to its end.
    """

    entry: CacheEntry
    result: PartialResult = field(default_factory=PartialResult)
    inputs: int | None = None


Unit = CacheEntry | _Container | None  # what an item belongs to; None for what is in no cache


class FileCache:
    """Replays the counts of earlier runs and stores those of this one.

    Args:
        path: of the cache; made where it is missing.
        settings: everything that the counts depend on.
        listing: selection of inputs from the sources.
        mask: marks pixels that are left out.
        start_over: forget its content.

    Raises:
        StatisticsFileError, UsageError, OutputError, NormcliError: see `CacheDatabase`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, Any],
        listing: InputOptions,
        mask: "PixelMask | None",
        *,
        start_over: bool = False,
    ) -> None:
        depends = {**settings, **versions_of_libraries(_LIBRARIES)}
        self._listing, self._mask = listing, mask
        self._database = CacheDatabase(os.fsdecode(path), depends, start_over=start_over)
        self._states = bytearray(self._database.last + 1)
        self._groups: deque[Unit] = deque()  # of the items listed and not yet in a batch
        self._units: deque[Unit] = deque()  # of the items listed and not yet in a batch
        self._new = self._changed = self._reread = self._removed = 0
        self._dropped: list[int] = []
        self._total: Tally | None = None

    def close(self) -> None:
        """Close the cache; counts so far stay in it."""
        self._database.close()

    def skip_unchanged(
        self, sources: Iterable[str], patterns: containers.PatternUse
    ) -> Iterator[Item | Skipped | Replay[PartialResult]]:
        """Yield the items of the sources, with replays for files that are unchanged.

        Args:
            sources: folders, files and containers.
            patterns: of the run.

        Raises:
            UsageError: a server without versions.
        """
        kept: list[StoredEntry] = []
        for source in sources:
            if not _is_read_as_one(source):
                yield from self._files(source, kept, patterns)
                continue
            entry = CacheEntry(source, version_of_container(source, self._listing, self._mask))
            if self._is_kept(entry.key, entry.version, kept):
                patterns.complete = False
                continue
            yield from self._replays(kept)
            yield from self._members(source, _Container(entry), patterns)
        yield from self._replays(kept)
        patterns.report()

    def _files(
        self, source: str, kept: list[StoredEntry], patterns: containers.PatternUse
    ) -> Iterator[Item | Skipped | Replay[PartialResult]]:
        for item in patterns.watch(source, containers.read_one(source, self._listing, group_by=patterns.group_by)):
            entry = None
            if isinstance(item, Item):
                version = version_of_item(item, self._mask)
                if self._is_kept(item.key, version, kept):
                    if len(kept) >= _MOST_REPLAYED:
                        yield from self._replays(kept)
                    continue
                entry = CacheEntry(item.key, version)
            yield from self._replays(kept)
            self._groups.append(None)
            self._units.append(entry)
            yield item

    def _members(self, source: str, container: _Container, patterns: containers.PatternUse) -> Iterator[Item | Skipped]:
        count = 0
        for item in patterns.watch(source, containers.read_one(source, self._listing, group_by=patterns.group_by)):
            count += inputs_of(item)
            if isinstance(item, Item) and isinstance(item.load, FileBytes):  # a table that names files
                container.entry = container.entry._replace(version=None)  # it does not change with them
            self._groups.append(container)
            self._units.append(container)
            yield item
        container.inputs = count
        self._store_complete(container)

    def _replays(self, kept: list[StoredEntry]) -> Iterator[Replay[PartialResult]]:
        if kept:
            yield Replay(partial(self._replay, kept.copy()))
            kept.clear()

    def _replay(self, kept: list[StoredEntry]) -> PartialResult:
        result = PartialResult()
        run, plain = self._database.run, None
        for stored in kept:
            facts = stored.facts
            if facts is plain:
                result.inputs += 1
            elif facts.failures or facts.inputs is not None:
                result.add(stored.entry.replay())
            else:  # of an image, in few steps: a result of its own takes 5 us
                plain = facts
                result.inputs += 1
                result.kinds.setdefault(facts.channels, stored.key)
            if stored.run > run and stored.is_counted:  # of a run that was killed: in no sum yet
                tally = self._database.tally(stored)
                tally.failed.clear()  # in the replay already
                tally.skipped.clear()
                result.tally.add(tally)
        return result

    def _is_kept(self, key: str, version: str | None, kept: list[StoredEntry]) -> bool:
        """Return True if a file is unchanged; its entry is then appended to `kept`."""
        number, is_same = 0, False
        for stored in self._database.find(key):
            if self._states[stored.number]:
                continue
            number = stored.number
            if version is not None and version == stored.version:
                self._states[number] = _KEPT
                kept.append(stored)
                return True
            is_same = None in (version, stored.version)
        if number == 0:
            self._new += 1
        else:
            self._states[number] = _REPLACED
            self._reread += is_same
            self._changed += not is_same
        return False

    def group_of(self, item: Item | Skipped) -> object:
        """Return the container that the next item belongs to, for `Batching.group_of`; None for a file."""
        return self._groups.popleft()

    def on_submit(self, batch: list[Item | Skipped]) -> list[Unit]:
        """Return the entries, or the container, of the items of a batch."""
        return [self._units.popleft() for _ in batch]

    def record(self, token: list[Unit] | None, result: PartialResult) -> None:
        """Store the result of a batch: per file, and per container once it is complete."""
        file_results, result.file_results = result.file_results, []
        if not token:
            return
        if isinstance(container := token[0], _Container):
            container.result.tally.add(result.tally)
            container.result.failures += result.failures
            container.result.inputs += result.inputs
            container.result.kinds = {**result.kinds, **container.result.kinds}
            self._store_complete(container)
            return
        for unit, file_result in zip(token, file_results, strict=True):
            if isinstance(unit, CacheEntry):
                # a file that is in the sum and not in the cache would be counted twice by the next run
                assert file_result is not None, unit.key
                self._database.add(_entry_of_file(unit, file_result))

    def _store_complete(self, container: _Container) -> None:
        if container.inputs == container.result.inputs:
            self._database.add(_entry_of_container(container.entry, container.result))

    def flush(self) -> None:
        """Commit the entries so far."""
        self._database.commit()

    def complete(self, total: Tally) -> None:
        """Add the counts of unchanged files to those of this run.

        Raises:
            StatisticsFileError: the entries do not fit their sum.
        """
        stale: list[int] = []
        if not self._database.is_sum_of(self._states.count(_KEPT)):
            for number, is_summed in self._database.rows():
                if self._states[number] != _KEPT:
                    self._dropped.append(number)
                    self._removed += self._states[number] == 0
                    if is_summed:
                        stale.append(number)
        total.add(self._subtract_stale(stale))
        self._total = total

    def _subtract_stale(self, stale: list[int]) -> Tally:
        """Return the sum of the run before without the entries that were replaced or are gone."""
        database = self._database
        total = database.total()
        try:
            if not stale or not _is_bounded(total):
                for number in stale:
                    total.add(database.tally(database.row(number)), -1)
            else:  # beyond a bound nothing is known of the extremes: they are put together anew
                total = Tally()
                for number, is_summed in database.rows():
                    if is_summed and self._states[number] == _KEPT:
                        total.add(database.tally(database.row(number)))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            raise database.damaged() from None
        total.failed.clear()  # reported again by what was kept, tried or listed
        total.skipped.clear()
        if not total.is_valid():
            raise database.damaged()
        return total

    def changes(self) -> Changes:
        """Return the numbers of files that were reused, new, changed and removed."""
        return Changes(self._states.count(_KEPT), self._new, self._changed, self._removed, self._reread)

    def commit(self) -> None:
        """Make the entries of this run, and those kept, the cache of the next.

        Raises:
            OutputError: it cannot be written.
        """
        assert self._total is not None
        self._database.finish(self._total, self._dropped)


def _entry_of_file(unit: CacheEntry, result: tuple[int, bytes] | Failure) -> CacheEntry:
    if isinstance(result, Failure):
        version = unit.version if result.is_lasting else None
        return unit._replace(version=version, failures=[result])
    return unit._replace(channels=result[0], counts=result[1])


def _entry_of_container(unit: CacheEntry, result: PartialResult) -> CacheEntry:
    lasting = all(failure.is_lasting for failure in result.failures)
    return unit._replace(
        version=unit.version if lasting else None,
        counts=deflate(result.tally),
        inputs=result.inputs,
        failures=result.failures,
        kinds=result.kinds,
    )


def _is_bounded(tally: Tally) -> bool:
    """Return True if more extremes were seen than a tally keeps."""
    floats = [bucket for bucket in tally.buckets.values() if isinstance(bucket, Floats)]
    return any(kept.bound is not None for bucket in floats for kept in (*bucket.lowest, *bucket.highest))
