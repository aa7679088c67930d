"""Listing of sources: their items in order, the part of one job, brace ranges spelled out."""

import glob
import importlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator

from normcli.errors import InputError, UsageError
from normcli.options.images import InputOptions
from normcli.sources.containers import CONTAINERS, container, kind_of
from normcli.sources.item import Items, failed_item
from normcli.sources.open_options import Source, check_open_options, effective_options, open_options
from normcli.sources.patterns import PatternUse, reporting
from normcli.storage import is_remote

_LARGEST_RANGE = 1_000_000
_GLOB = re.compile(r"[{*?\[]")


def read(
    sources: Iterable[str],
    listing: InputOptions,
    files: Iterable[str] = (),
    *,
    shard: tuple[int, int] | None = None,
    patterns: PatternUse | None = None,
) -> Items:
    """Return the items of every source, in the order of the sources, each folder sorted by name.

    Args:
        sources: folders, files, containers; a brace range is one container after the other.
        listing: what is taken from them.
        files: further paths, taken as given, one at a time.
        shard: (I, N) takes the I-th of N parts, I from 1.
        patterns: reports after the last item which patterns matched nothing; None for no report.

    Raises:
        UsageError: a brace range of too many paths, or an open option that no source has.
    """
    named = [path for source in sources for path in expand(source)]
    later = not isinstance(files, tuple | list) or bool(files)
    check_open_options(listing.open_options, CONTAINERS if later or not named else map(kind_of, named))
    watched = PatternUse(InputOptions()) if patterns is None else patterns
    return reporting(watched, _read(named, listing, files, shard, watched))


def _read(
    named: list[str],
    listing: InputOptions,
    files: Iterable[str],
    shard: tuple[int, int] | None,
    patterns: PatternUse,
) -> Items:
    if shard is None:
        for source in itertools.chain(named, files):
            yield from patterns.watch(source, read_one(source, listing))
        return
    part, of = shard[0] - 1, shard[1]
    shards = [source for source in named if container(source)]
    # enough containers for all: each is read by one job only. Otherwise every job lists them all
    owner = {source: i % of for i, source in enumerate(dict.fromkeys(shards))} if len(shards) >= of else {}
    patterns.complete = not owner
    turn = itertools.cycle(range(of))
    for source in itertools.chain(named, files):
        if owner.get(source, part) != part:
            continue
        items = patterns.watch(source, read_one(source, listing))
        yield from items if source in owner else (item for item in items if next(turn) == part)


def check_exist(sources: Iterable[str]) -> None:
    """Check that every source exists, where one of them does; a lone one fails as an input.

    Raises:
        UsageError: some do not, or are of a scheme that is not supported.
    """
    given = list(sources)
    for source in filter(is_remote, given):
        from normcli.storage import remote

        try:
            remote.check_scheme(source)
        except InputError as error:
            raise UsageError(f"{source}: {error}") from None
    missing = [s for s in given if not is_remote(s) and not os.path.lexists(s) and next(expand(s)) == s]
    if missing and len(missing) < len(given):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UsageError(f"{missing[0]}: no such file or folder{more}")


def check_distinct(sources: Iterable[str]) -> None:
    """Check that no source is named twice, by whatever path: its images would count double.

    Raises:
        UsageError: one is.
    """
    seen: dict[tuple[str, str], str] = {}
    for source in sources:
        path = str(source) if is_remote(source) or source == "-" else _real_path(source)
        place = path, repr(sorted(effective_options(source, {}).items()))  # two columns of one file are two sources
        if place in seen:
            names = source if seen[place] == source else f"{seen[place]} and {source}"
            raise UsageError(f"{names}: the same SOURCE twice, its images would count double (name it once)")
        seen[place] = source


def _real_path(source: str) -> str:
    return os.path.realpath(source) if os.path.lexists(source) else str(source)


def each(sources: Iterable[str], files: Iterable[str] = ()) -> Iterator[str]:
    """Yield the sources one by one: brace ranges spelled out, then what was given as files."""
    named = [path for source in sources for path in expand(source)]
    yield from itertools.chain(named, files)


def read_one(source: str, listing: InputOptions, *, names_only: bool = False) -> Items:
    """Yield the items of one source; what makes all of it unusable is an item that fails.

    Args:
        source: folder, file or container.
        listing: options of reading.
        names_only: the items are not to be loaded: containers with a header read nothing else. Rows that would fail
            are then items like all others, without a label.
    """
    kind = kind_of(source)
    try:
        module = importlib.import_module(f"normcli.sources.{kind}")
        if hasattr(module, "OPEN_OPTIONS"):
            options = open_options(kind, effective_options(source, listing.open_options))
            extra = {"names_only": True} if names_only and kind in CONTAINERS and CONTAINERS[kind].names_only else {}
            yield from module.read(str(source), listing, options, **extra)
        else:
            yield from module.read(str(source), listing)
    except InputError as error:
        yield failed_item(source, error.reason, error.message)


def expand(source: str) -> Iterator[str]:
    """Give the paths that a brace range or a glob stands for, as the shell would; any other path is itself.

    A glob stands for files that exist, sorted; one that matches none is itself.

    >>> list(expand("train-{008..010}.tar")), list(expand("{a,b}/{1..2}.zip"))
    (['train-008.tar', 'train-009.tar', 'train-010.tar'], ['a/1.zip', 'a/2.zip', 'b/1.zip', 'b/2.zip'])

    Raises:
        UsageError: a range of more than a million.
    """
    if _GLOB.search(source) is None or (not is_remote(source) and os.path.lexists(source)):
        yield source
        return
    if isinstance(source, Source):
        yield from (source.with_path(path) for path in expand(str(source)))
        return
    parts = re.split(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}", source)
    choices: list[list[str]] = []
    total = 1
    for i, part in enumerate(parts):
        options = [part] if i % 2 == 0 else _range(part) if ".." in part and "," not in part else part.split(",")
        total *= len(options)
        choices.append(options)
        if total > _LARGEST_RANGE:
            raise UsageError(f"{source}: more than {_LARGEST_RANGE} paths")
    for choice in itertools.product(*choices):
        yield from _matching("".join(choice))


def _matching(path: str) -> list[str]:
    if is_remote(path) or not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]  # noqa: PTH207


def _range(text: str) -> list[str]:
    first, last = text.split("..")
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(first) <= int(last) else -1
    if abs(int(last) - int(first)) >= _LARGEST_RANGE:
        raise UsageError(f"{{{text}}}: more than {_LARGEST_RANGE} paths")
    return [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
