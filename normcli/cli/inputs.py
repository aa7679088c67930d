"""Checks of commands before they work: lists of paths, and files that would be overwritten."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from normcli.errors import UsageError
from normcli.options.printing import ListOptions

if TYPE_CHECKING:
    from normcli.summary import Summary


def paths_from(options: ListOptions) -> Iterator[str] | None:
    """Return the paths that `--files-from` lists, relative to the current folder; None without it.

    Raises:
        UsageError: the file cannot be read.
    """
    source = options.files_from
    if source is None:
        return None
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"`files_from`: cannot read {source}: {(error.strerror or '').lower()}") from None
    if options.null:
        return (os.fsdecode(path) for path in data.split(b"\0") if path)
    return (os.fsdecode(line) for line in (raw.rstrip(b"\r") for raw in data.split(b"\n")) if line.strip())


def check_outputs(*paths: Path | None, force: bool, besides: Path | None = None) -> None:
    """Check files before the work: none is overwritten without `force`, each can be written, and all differ.

    Args:
        paths: files to write; None and "-" are passed over.
        force: overwrite what exists.
        besides: an output that is checked elsewhere, and must differ from the others.

    Raises:
        UsageError: a file exists, its folder does not, or two outputs are one file.
        OutputError: a file cannot be written.
    """
    if all(path is None or str(path) == "-" for path in paths):
        return  # nothing to check: `show` does not load NumPy, which costs 60 ms, for that
    from normcli.runs.commit import check_output

    paths_so_far = set() if besides is None or str(besides) == "-" else {besides.resolve()}
    for path in paths:
        if path is None or str(path) == "-":
            continue
        if path.resolve() in paths_so_far:
            raise UsageError(f"{path}: two outputs cannot be one file")
        check_output(path, overwrite=force)
        if not path.exists() or path.is_file():
            paths_so_far.add(path.resolve())


def statistics_of(path: Path, *, quiet: bool = False) -> "Summary":
    """Load a statistics file; count the images of a folder or container with the default options.

    Raises:
        StatisticsFileError: not a statistics file, or damaged.
        NoInputError: no image in the folder or container.
    """
    from normcli.sources.containers import container
    from normcli.summary import Summary

    if not path.is_dir() and container(str(path)) is None:
        return Summary.load(path)
    from normcli.cli.messages import say, warn_failures
    from normcli.options.stats import StatsOptions
    from normcli.runs.stats import stats

    summary = stats([str(path)], StatsOptions())
    if not quiet:
        say(f"counted {path} with the default options: {summary.images:,} image{'s' * (summary.images != 1)}")
    warn_failures(summary)
    return summary
