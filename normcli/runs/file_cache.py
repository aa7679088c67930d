"""The ledger beside a statistics file: what every file added to it, so that an incremental run reads only what changed.

What is kept. For every file its name, its version and its own exact counts: of an image the histogram (see
`tally.single`), from which the sums follow, with its digest, notes and group; of float images also the sums and
extremes. That is 1.3 KB for a photograph of 8 bits, and for 16-bit and float images up to a fifth of the file.
Keeping the counts of several files together would be smaller, but when one of them goes, the others would have to be
read again: with one file in a hundred changed and 32 together, a quarter of the dataset. A container (tar, zip,
parquet, npy, npz, IDX) is kept as a whole, because it is rescanned as a whole. The version is size, time of content
and time of inode of a local file (`storage.version`, which has none for a file too young to tell), of a remote one
what the server calls its version; with it the class label and the version of the mask.

What happens. The listing is walked as always. What stands in the ledger with the same version is not read: its line
goes into the new ledger, its failures are told again. Everything else is counted. At the end, whatever was not kept
is taken from the old sum and the new counts are added: integers, so the state is that of a fresh run, bit for bit.
One thing cannot be subtracted: of float images the old sum knows 1,024 extremes. Where there were more images, what
was kept is added up anew from the ledger instead, still without reading an image. Failures are kept only where they
follow from the file's own bytes; what a permission, a server or a missing library did is tried again.

The file is written in the order of the listing and holds no time of its own: the same for the same files. Its last
line ties it to the statistics by a digest of settings and state.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from normcli import sources as formats
from normcli import storage
from normcli.errors import UsageError
from normcli.options.images import InputOptions
from normcli.runs.file_cache_format import KEPT, REPLACED, CacheEntry, CacheReader, CacheWriter, deflated
from normcli.runs.masks import PixelMask
from normcli.runs.partial_result import Barrier, Failure, PartialResult
from normcli.sources import Item, Skipped
from normcli.storage.byte_sources import FileBytes
from normcli.summary import Summary
from normcli.tally import Tally

_TOGETHER = 256  # kept records behind one mark
_WHOLE = ("tar", "zip", "parquet", "npy", "idx")  # read as one: their members have no versions of their own
_LIBRARIES = ("tifffile", "imagecodecs", "pillow-heif", "zstandard", "pyarrow")  # what they refuse or give may change
# what another try cannot mend, as long as bytes and settings are the same
_OF_THE_BYTES = frozenset(
    {
        *(
            "truncated",
            "damaged",
            "empty",
            "bomb",
            "too-large",
            "too-small",
            "not-finite",
            "not-an-image",
            "unsupported",
        ),
        *("transparent", "masked", "cmyk", "mode", "no-range", "channels", "overflow", "link", "unsafe-name"),
        *("trailing-data", "not-an-archive", "not-an-array", "no-image-column"),
    }
)


class Changes(NamedTuple):
    """How many files and containers an update found.

    Attributes:
        kept: not read.
        new: not in the ledger.
        changed: in the ledger with another version.
        gone: in the ledger, and not among the sources.
        again: unchanged for all that is known, but too young to tell, or failed for a reason that may have passed.
    """

    kept: int
    new: int
    changed: int
    gone: int
    again: int


class FileCache:
    """Writes a ledger, reads that of an earlier run, or both; use as a context manager.

    Args:
        path: where to write one, or None.
        update: statistics file of the earlier run, or None.
        settings: everything that the counts depend on.
        listing: what is taken from the sources.
        masking: which pixels are left out.

    Raises:
        StatisticsFileError, UsageError: see `CacheReader`.
        OutputError, NormcliError: see `CacheWriter`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        update: str | os.PathLike[str] | None,
        settings: Mapping[str, Any],
        listing: InputOptions,
        mask: PixelMask | None,
    ) -> None:
        depends = {**settings, **{name: _version_of(name) for name in _LIBRARIES}}
        self._listing, self._masking = listing, mask
        self._old = None if update is None else CacheReader(os.fsdecode(update), depends)
        self._writer = None if path is None else CacheWriter(Path(os.fsdecode(path)), depends)
        self._units: deque[CacheEntry | None] = deque()  # of the items listed and not yet under way
        self._marked: deque[list[bytes] | CacheEntry | None] = deque()  # of the marks
        self._under_way: deque[list[CacheEntry | None] | list[bytes] | CacheEntry | None] = deque()
        self._new = self._changed = self._again = 0

    def __enter__(self) -> "FileCache":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.abandon()
        if self._old is not None:
            self._old.close()

    def items(self, sources: Iterable[str]) -> Iterator[Item | Skipped | Barrier]:
        """Walk the sources; what the ledger has unchanged becomes a mark.

        Raises:
            UsageError: a server that tells no versions.
        """
        kept: list[bytes] = []
        for source in sources:
            if formats.kind_of(source) in _WHOLE:
                unit = CacheEntry(source, self._version_of_container(source))
                if self._keep(unit, kept):
                    continue
                yield from self._marks(kept)
                self._marked.append(unit)
                yield Barrier("begin")
                for found in formats.read_one(source, self._listing):
                    self._units.append(None)
                    if isinstance(found, Item) and isinstance(found.load, FileBytes):
                        unit = unit._replace(version=None)  # a table that names files: it does not change with them
                    yield found
                self._marked.append(unit)
                yield Barrier("end")
                continue
            for found in formats.read_one(source, self._listing):
                listed = None
                if isinstance(found, Item):
                    listed = CacheEntry(found.key, self._version_of_file(found))
                    if self._keep(listed, kept):
                        if len(kept) >= _TOGETHER:
                            yield from self._marks(kept)
                        continue
                yield from self._marks(kept)
                self._units.append(listed)
                yield found
        yield from self._marks(kept)

    def _marks(self, kept: list[bytes]) -> Iterator[Barrier]:
        if kept:
            self._marked.append(kept.copy())
            kept.clear()
            yield Barrier("kept")

    def _keep(self, unit: CacheEntry, kept: list[bytes]) -> bool:
        """Say whether the ledger has it unchanged; then its line is put to what was kept."""
        if self._old is None:
            return False
        number, same = -1, False
        for number, record in self._old.find(unit.key):
            if record.version is not None and record.version == unit.version:
                self._old.states[number] = KEPT
                kept.append(self._old.line(number))
                return True
            same = None in (record.version, unit.version)
        if number < 0:
            self._new += 1
        else:
            self._old.states[number] = REPLACED
            self._again += same
            self._changed += not same
        return False

    def _version_of_file(self, item: Item) -> list[Any] | None:
        if not isinstance(item.load, FileBytes):  # refused in listing
            return None
        version = _version(item.load.path, item.load.version)
        mask = "none" if self._masking is None else self._masking.version(item.key)
        return [version, mask, item.label] if version and mask else None

    def _version_of_container(self, source: str) -> list[Any] | None:
        if self._masking is not None and self._masking.folder is not None:
            return None  # which masks belong to it, only its members say
        paths = [source]
        if formats.kind_of(source) == "idx":
            from normcli.sources import idx

            paths.append(idx.labels_beside(source) or source)
        versions = [_version(path, None) for path in paths]
        taken = self._listing
        if not all(versions):
            return None
        options = sorted(map(list, formats.effective_options(source, taken.open_options).items()))
        return [*versions, list(taken.include), list(taken.exclude), options]

    def starts(self, batch: "list[Item | Skipped] | Any") -> None:
        """Note that a batch is under way; results come in the same order."""
        if isinstance(batch, Barrier):
            self._under_way.append(self._marked.popleft())
        else:
            self._under_way.append([self._units.popleft() for _ in batch])

    def keep(self, results: Iterator[PartialResult]) -> Iterator[PartialResult]:
        """Pass results on, writing down what each file gave."""
        whole: PartialResult | None = None
        for done in results:
            what = self._under_way.popleft()
            if isinstance(what, CacheEntry):
                if whole is None:
                    whole = PartialResult()  # of a container that begins
                else:
                    self._write(_of_container(what, whole))
                    whole = None
            elif what and isinstance(what[0], bytes):
                for line in what:
                    assert isinstance(line, bytes)
                    done.add(CacheEntry.of(line).replay())
                    if self._writer is not None:
                        self._writer.add(line)
            elif whole is not None:
                whole.tally.add(done.tally)
                whole.failures += done.failures
                whole.inputs += done.inputs
                whole.kinds = {**done.kinds, **whole.kinds}
            elif self._writer is not None:
                for unit, entry in zip(what or [], done.entries, strict=True):
                    if isinstance(unit, CacheEntry):
                        # a file that is in the sum and not in the ledger would be counted twice by an update
                        assert entry is not None, unit.key
                        self._write(_of_file(unit, entry))
            done.entries = []
            yield done

    def _write(self, record: CacheEntry) -> None:
        if self._writer is not None:
            self._writer.add(record.line())

    def complete(self, total: Tally) -> None:
        """Add to the new counts what was kept.

        Raises:
            StatisticsFileError: the ledger does not fit its statistics.
        """
        if self._old is not None:
            total.add(self._old.subtract_stale())

    def changes(self) -> Changes | None:
        """Say what an update found."""
        if self._old is None:
            return None
        states = self._old.states
        return Changes(states.count(KEPT), self._new, self._changed, states.count(0), self._again)

    def seal(self, summary: Summary) -> None:
        """Finish the ledger that is written.

        Raises:
            OutputError: it cannot be written.
        """
        if self._writer is not None:
            self._writer.seal(summary)


def _of_file(unit: CacheEntry, entry: tuple[int, bytes] | Failure) -> CacheEntry:
    if isinstance(entry, Failure):
        version = unit.version if entry.reason in _OF_THE_BYTES else None
        return unit._replace(version=version, failures=[entry])
    return unit._replace(channels=entry[0], counts=entry[1])


def _of_container(unit: CacheEntry, whole: PartialResult) -> CacheEntry:
    lasting = all(failure.stage == "skip" or failure.reason in _OF_THE_BYTES for failure in whole.failures)
    return unit._replace(
        version=unit.version if lasting else None,
        counts=deflated(whole.tally),
        inputs=whole.inputs,
        failures=whole.failures,
        kinds=whole.kinds,
    )


def _version(path: str, known: str | None) -> str:
    """What changes with a file; "" where that cannot be told, or it is not there.

    Raises:
        UsageError: a server that tells no versions.
    """
    if not storage.is_remote(path):
        return storage.version(path)
    found = known if known and not known.endswith(":") else storage.fingerprint(path)
    if found.endswith(":"):
        raise UsageError(f"{path}: its server sends no version (ETag, Last-Modified), which --incremental requires")
    return found


def _version_of(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
