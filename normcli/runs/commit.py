"""The commit protocol of `stats`, for the command and for Python alike.

Next to the statistics file is the checkpoint of an interrupted run, or the file cache of incremental ones. The
statistics file is written first, then the file cache is committed, and the checkpoint is removed last. A kill between
two of them leaves what the next run takes up: the checkpoint spares it the reading, and a cache that lags behind knows
the files that were counted.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli import sources as containers
from normcli.errors import UsageError
from normcli.options.images import InputOptions
from normcli.options.stats import StatsOptions
from normcli.runs.batches import Replay
from normcli.runs.masks import PixelMask
from normcli.runs.partial_result import PartialResult
from normcli.runs.stats_checkpoint import StatsCheckpoint
from normcli.sources import Item, Skipped
from normcli.sources.filter import SUFFIXES
from normcli.storage import is_remote, require_writable
from normcli.summary import Summary

if TYPE_CHECKING:  # SQLite is loaded only for incremental runs
    from normcli.runs.file_cache import FileCache

Steps = Iterator[Item | Skipped | Replay[PartialResult]]


def checkpoint_path(output: str | os.PathLike[str]) -> Path:
    """Return the path of the checkpoint of an output.

    >>> checkpoint_path("a/stats.json").name
    'stats.json.checkpoint'
    """
    return _next_to(output, ".checkpoint")


def cache_path(output: str | os.PathLike[str]) -> Path:
    """Return the path of the file cache of an output.

    >>> cache_path("a/stats.json").name
    'stats.json.cache'
    """
    return _next_to(output, ".cache")


def _next_to(output: str | os.PathLike[str], suffix: str) -> Path:
    path = Path(os.fsdecode(output))
    return path.with_name(path.name + suffix)


class StatsTarget:
    """The files that a run writes; use as a context manager.

    Args:
        options: of the run. With `incremental` the file cache is also the checkpoint, with `resume` or without.

    Raises:
        UsageError: the output exists and is not that of the run which is taken up, or its folder does not exist.
        OutputError: it cannot be written.
    """

    def __init__(self, options: StatsOptions) -> None:
        self._options = options
        self._path: Path | None = None
        self._checkpoint: StatsCheckpoint | None = None
        self._cache: FileCache | None = None
        if options.output is not None and os.fsdecode(options.output) != "-":
            self._path = Path(os.fsdecode(options.output))
            check_output(self._path, overwrite=options.force or self._is_taken_up(self._path))

    def _is_taken_up(self, path: Path) -> bool:
        """Return True if an existing output belongs to the run that is resumed or updated."""
        if self._options.incremental:
            return cache_path(path).exists()
        return self._options.resume and checkpoint_path(path).exists()

    def __enter__(self) -> "StatsTarget":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._checkpoint, self._cache):
            if opened is not None:
                opened.close()

    def open(self, settings: Mapping[str, Any], listing: InputOptions, mask: PixelMask | None) -> None:
        """Open the checkpoint or the cache.

        Args:
            settings: everything that the counts depend on.
            listing: what is taken from the sources.
            mask: which pixels are left out.

        Raises:
            UsageError: it is of a run with other settings.
            StatisticsFileError: the cache is damaged.
            NormcliError: another run is writing it.
        """
        if self._path is None:
            return
        if self._options.incremental:
            try:
                from normcli.runs.file_cache import FileCache
            except ImportError as error:
                raise UsageError(f"`incremental` requires SQLite, which this Python lacks ({error})") from None

            path = cache_path(self._path)
            self._cache = FileCache(path, settings, listing, mask, start_over=self._options.force)
        elif self._options.resume:
            self._checkpoint = StatsCheckpoint(checkpoint_path(self._path), settings)

    @property
    def checkpoint(self) -> "StatsCheckpoint | FileCache | None":
        """The checkpoint that records every batch; None without one."""
        return self._checkpoint or self._cache

    @property
    def cache(self) -> "FileCache | None":
        """The file cache of an incremental run."""
        return self._cache

    def skip_done(
        self,
        items: Iterator[Item | Skipped],
        sources: list[str],
        files: Iterable[str],
        patterns: containers.PatternUse,
    ) -> Steps:
        """Return the items of the sources, with replays for those that earlier runs counted."""
        if self._cache is not None:
            return self._cache.skip_unchanged(containers.each(sources, files), patterns)
        return items if self._checkpoint is None else self._checkpoint.skip_done(items)

    def commit(self, summary: Summary) -> None:
        """Write the statistics file, then commit the cache, then remove the checkpoint.

        Raises:
            OutputError: one of them cannot be written.
        """
        if self._path is None:
            return
        summary.save(self._path)
        if self._cache is not None:
            self._cache.commit()
        if self._checkpoint is not None:
            self._checkpoint.remove()


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be written, before the work.

    Raises:
        UsageError: it exists and must not be overwritten, or its folder does not exist.
        OutputError: it cannot be written.
    """
    if path.is_file() and not overwrite:
        raise UsageError(f"{path}: exists (`force` overwrites it)")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: folder {path.parent} does not exist")
    require_writable(path)


def check_no_image(path: str | os.PathLike[str], sources: Iterable[str]) -> None:
    """Check that an output does not overwrite what is read: a source itself, or an image in one.

    Raises:
        UsageError: it does.
    """
    place = os.path.realpath(os.fsdecode(path))
    if not os.path.isfile(place):  # noqa: PTH113
        return
    for source in chain.from_iterable(map(containers.expand, sources)):
        if is_remote(source):
            continue
        original = os.path.realpath(source)
        inside = place.startswith(original + os.sep) and Path(place).suffix.lower() in SUFFIXES
        if place == original or inside:
            raise UsageError(f"{os.fsdecode(path)}: is an input of this run; choose another `output`")


def stamp() -> dict[str, Any]:
    """Return time, host and command line of this process."""
    import platform
    import shlex
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "host": platform.node(), "command": shlex.join(["normcli", *sys.argv[1:]])}
