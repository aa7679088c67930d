"""Listing of sources: the kind of each, items in order, the part of one job, patterns that match nothing."""

import importlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from normcli.errors import InputError, UsageError
from normcli.options.field import as_tuple, parse_pairs
from normcli.options.shared import InputOptions
from normcli.sources.containers import CONTAINERS
from normcli.sources.item import ColumnLabel, FailingSource, Item, Items, NonEmpty, Skipped, failed_item
from normcli.storage import is_remote

if TYPE_CHECKING:
    from normcli.sources.repeats import Repeats


log = logging.getLogger("normcli.sources")

NO_MATCH = "(no match)"  # the group of images that the regex does not match
PYTHON = "python:"
_OF_FILES = ("folder", "tar", "zip", "file_list")  # sources that select their files by patterns themselves
_WITH_FRAMES = (".tif", ".tiff", ".gif", ".png", ".apng", ".webp", ".avif", ".mpo", ".jpg", ".jpeg")
_VOLUMES = tuple(name + suffix for name in (".nii", ".hdr", ".img") for suffix in ("", ".gz"))
_VOLUMES += (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4", ".zarr", ".zarr.zip", ".ozx")
_NO_CONTAINER = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")


class Source(str):
    """A path with open options of its own, which are used instead of those of the run.

    >>> from normcli import source
    >>> source("x.npz", column="images").open_options
    {'column': 'images'}
    """

    open_options: Mapping[str, str]

    def with_path(self, path: str) -> Self:
        """Return another path with the same options."""
        other = type(self)(path)
        other.open_options = self.open_options
        return other

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.open_options.items())
        return f"source({str(self)!r}{options})"


def effective_options(source: str, pairs: Mapping[str, str] | Iterable[Any]) -> dict[str, str]:
    """Return the open options of one source: the run's, overridden by its own."""
    own = source.open_options if isinstance(source, Source) else {}
    return {**dict(parse_pairs(pairs)), **own}


class ListedPath(str):
    """A path that a list of files names: always a file, never an import string."""

    __slots__ = ()


def _listed(path: str) -> str:
    return path if isinstance(path, Source) else ListedPath(path)


def is_import(source: str) -> bool:
    """Return True for an import string, `python:MODULE:NAME`.

    >>> is_import("python:data:train"), is_import("./python:data"), is_import(ListedPath("python:data:train"))
    (True, False, False)
    """
    return source.startswith(PYTHON) and not isinstance(source, ListedPath)


def container(path: str) -> str | None:
    """Return the container that a path's name means; None for a folder or an image.

    >>> container("s3://bucket/train-000.tar.gz"), container("photos"), container("t10k-images-idx3-ubyte.gz")
    ('tar', None, 'idx')
    """
    if is_import(path):
        return "python"
    name = path.rsplit("/", 1)[-1].lower()
    if name.endswith(_NO_CONTAINER) or not ("." in name or "-" in name):
        return None  # most sources: the patterns take 3 ms to compile
    return next((kind for kind, entry in CONTAINERS.items() if re.search(entry.pattern, name)), None)


def kind_of(source: str) -> str:
    """Return the name of the module that reads a source: a container, or "folder" for folders and single files."""
    kind = container(source)
    if kind == "python":
        return kind
    if not is_remote(source) and os.path.isdir(source):  # noqa: PTH112
        if not _may_be_dataset(source):
            return "folder"
        if os.path.isfile(os.path.join(source, "meta", "info.json")):  # noqa: PTH113, PTH118
            from normcli.sources import lerobot

            if lerobot.is_dataset(source):
                return "lerobot"
        if any(os.path.isfile(os.path.join(source, name)) for name in ZARR_MARKERS):  # noqa: PTH113, PTH118
            return "zarr"
        from normcli.sources import huggingface

        return "huggingface" if huggingface.is_dataset(source) else "folder"
    return "folder" if kind is None else kind


ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray")  # here: the modules that read Zarr take 10 ms
_DATASET_NAME = r".*\.(parquet|arrow|csv|json|jsonl)|data|train|test|val|valid|validation|\.zgroup|\.zarray"
_FIRST_NAMES = 512


def _may_be_dataset(folder: str) -> bool:
    """Return False for a folder that is no dataset of tables by its few names: `huggingface` need not be loaded."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _FIRST_NAMES)]
    except OSError:
        return False
    return len(names) == _FIRST_NAMES or any(map(re.compile(_DATASET_NAME).fullmatch, names))


def is_stream(source: str) -> bool:
    """Return True if listing a source reads all of it: its members come by in a compressed or remote stream.

    >>> [is_stream(name) for name in ("a.tar", "a.tar.gz", "s3://bucket/a.tar", "a.parquet", "a.npz", "photos")]
    [False, True, True, True, True, False]
    """
    kind = kind_of(source)
    if kind == "tar" and is_remote(source):
        return True
    plain = source.lower().endswith((".tar", ".npy", ".idx", "-ubyte", ".nii", ".hdr", ".img"))
    tables = ("parquet", "arrow", "huggingface", "lerobot")
    return kind in tables or (kind in ("tar", "npy", "idx", "nifti") and not plain)


def compile_patterns(patterns: Sequence[str]) -> Callable[[str], re.Match[str] | None] | None:
    """Return the matcher of paths below a source that any of the patterns selects; None without patterns."""
    if not patterns:
        return None
    from normcli.sources.globs import translate

    return re.compile("|".join(map(translate, patterns)), re.DOTALL).fullmatch


def path_below(source: str, key: str) -> str:
    """Return the path of an input below its source, as patterns see it; for a source itself, its path.

    >>> path_below("ds/", "ds/train/1.png"), path_below("/a.tar", "/a.tar/1.png"), path_below("t/l.csv", "t/x/1.png")
    ('train/1.png', '1.png', 'x/1.png')
    """
    if os.sep != "/":
        source, key = source.replace(os.sep, "/"), key.replace(os.sep, "/")
    return name_below(source, key) or key.lstrip("/")


def pattern_path(source: str) -> Callable[[str], str]:
    """Return the function that returns the path of an input of a source, as patterns see it."""
    if source.lower().rstrip("/").endswith((*_WITH_FRAMES, *_VOLUMES)):  # frames and planes have its name
        return lambda key: key.lstrip("/")
    return lambda key: path_below(source, key)


def own_name(source: str) -> str:
    """Return the name of a source without its folder."""
    return source.rstrip("/").rpartition("/")[2]


def name_below(source: str, key: str) -> str:
    """Return the name of an item below its source; "" for the source itself."""
    if key == source or key.startswith(source.rstrip("/") + "/"):
        return key[len(source) :].lstrip("/")
    home = source.rpartition("/")[0]  # a table of files: the same names wherever it is
    return key[len(home) + 1 :] if home and key.startswith(home + "/") else key


def axis_of(group_by: str | None) -> str | None:
    """Return the axis that `group_by` names.

    >>> axis_of("axis:Z"), axis_of("folder"), axis_of(None)
    ('Z', None, None)
    """
    return group_by.removeprefix("axis:") if group_by is not None and group_by.startswith("axis:") else None


class PatternUse:
    """Patterns of a run, which remembers those that matched nothing.

    Args:
        listing: has the globs.
        group_by: a regex becomes the label of the items that pass; "folder", "label" and None leave them as they are.

    Attributes:
        complete: every input was seen.
        group_by: as passed; a table of vectors may have a column of this name.
    """

    def __init__(self, listing: InputOptions, group_by: str | None = None) -> None:
        globs = [("`include`", glob) for glob in as_tuple(listing.include)]
        globs += [("`exclude`", glob) for glob in as_tuple(listing.exclude)]
        self._unused = {named: compile_patterns([named[1]]) for named in dict.fromkeys(globs)}
        self.group_by = group_by
        self._axis = axis_of(group_by)
        plain = group_by in (None, "folder", "label") or self._axis is not None
        self._group = None if plain else re.compile(str(group_by))
        self.complete = True
        self._names: Repeats | None = None

    def watch_files(self, files: Iterable[str]) -> Iterable[str]:
        """Yield the paths of a list, and remember those that come again."""
        return files if files == () else self._repeats().watch(files)

    def watch(self, source: str, items: Items) -> Items:
        """Yield the items of a source."""
        if container(source) == "file_list":
            items = self._repeats().watch(items)
        plain = not self._unused and self._group is None and self._axis is None
        return items if plain else self._watch(source, items)

    def _watch(self, source: str, items: Items) -> Items:
        path_of = pattern_path(source)
        if self._unused and kind_of(source) not in _OF_FILES:  # an `include` of its own name reads it completely
            self._use(own_name(source), "`include`")
        for item in items:
            path = path_of(item.key)
            if self._unused and not hasattr(getattr(item, "load", None), "inputs"):  # rows of vectors have no names
                self._use(path)
            if isinstance(item, Skipped) or isinstance(item.label, ColumnLabel):
                yield item
            elif self._group is not None:
                yield item._replace(label=_group(self._group, path))
            elif self._axis is None or isinstance(item.load, FailingSource):
                yield item
            else:
                raise UsageError(
                    f"`group_by` {self.group_by}: {item.key} has no axes (-O axes=TZYX, or -O frames=all for TIFF)"
                )

    def _use(self, path: str, option: str = "") -> None:
        """Note the patterns that match a path, all or those of one option, as used."""
        used = [named for named, matches in self._unused.items() if matches is not None and matches(path)]
        for named in used:
            if option in ("", named[0]):
                del self._unused[named]

    def report(self) -> None:
        """Log every pattern that matched nothing, and the number of names that came again, once."""
        if self.complete:
            for option, glob in self._unused:
                log.warning("%s '%s' matched nothing", option, glob)
            self._unused.clear()
        if self._names is not None:
            self._names.report()

    def _repeats(self) -> "Repeats":
        if self._names is None:
            from normcli.sources.repeats import Repeats

            self._names = Repeats()
        return self._names


def _group(pattern: re.Pattern[str], path: str) -> str:
    """Return the group of a path: the named groups of the match, else the first one, else all of it."""
    match = pattern.search(path)
    if match is None:
        return NO_MATCH
    if pattern.groupindex:
        return "/".join(match[name] or "" for name in pattern.groupindex)
    return (match[1] or "") if pattern.groups else match[0]


def reporting(patterns: PatternUse, items: Items) -> Items:
    """Yield all items of a run, then report the patterns that matched nothing."""
    yield from items
    patterns.report()


_WILDCARDS = "{*?["


def has_wildcard(source: str) -> bool:
    """Return True for a path that may be a glob or a range in braces."""
    return any(character in source for character in _WILDCARDS)


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
        listing: selection of inputs from them.
        files: further paths, taken literally, one at a time.
        shard: (I, N) takes the I-th of N parts, I from 1.
        patterns: reports after the last item which patterns matched nothing; None for no report.

    Raises:
        UsageError: a brace range of too many paths, or an open option that no source has.
    """
    named = [path for source in sources for path in expand(source)]
    later = not isinstance(files, tuple | list) or bool(files)
    if listing.open_options:
        from normcli.sources.open_options import check_open_options

        every = later or not named
        check_open_options(listing.open_options, ("folder", *CONTAINERS) if every else map(kind_of, named))
    watched = PatternUse(InputOptions()) if patterns is None else patterns
    if patterns is not None:
        files = patterns.watch_files(files)
    return reporting(watched, _read(named, listing, files, shard, watched))


def _read(
    named: list[str],
    listing: InputOptions,
    files: Iterable[str],
    shard: tuple[int, int] | None,
    patterns: PatternUse,
) -> Items:
    if shard is None:
        for source in itertools.chain(named, map(_listed, files)):
            yield from patterns.watch(source, read_one(source, listing, group_by=patterns.group_by))
        return
    part, of = shard[0] - 1, shard[1]
    shards = [source for source in named if container(source)]
    # enough containers for all: each is read by one job only. Otherwise every job lists them all
    owner = {source: i % of for i, source in enumerate(dict.fromkeys(shards))} if len(shards) >= of else {}
    patterns.complete = not owner
    turn = itertools.cycle(range(of))
    for source in itertools.chain(named, map(_listed, files)):
        if owner.get(source, part) != part:
            continue
        items = patterns.watch(source, read_one(source, listing, group_by=patterns.group_by))
        yield from items if source in owner else (item for item in items if next(turn) == part)


def check_exist(sources: Iterable[str]) -> None:
    """Check that every source exists, if one of them does; a lone one fails later, as an input, save import strings.

    Raises:
        UsageError: some do not, or are of a scheme that is not supported.
    """
    paths = list(sources)
    for source in filter(is_remote, paths):
        from normcli.storage import remote

        try:
            remote.check_scheme(source)
        except InputError as error:
            raise UsageError(f"{source}: {error}") from None
    if "-" in paths and not os.path.lexists("-"):
        raise UsageError("-: images are not read from stdin (--files-from - reads a list of paths)")
    paths = [source for source in paths if not is_import(source)]
    missing = [s for s in paths if not is_remote(s) and not os.path.lexists(s) and next(expand(s)) == s]
    if missing and (len(missing) < len(paths) or import_hint(missing[0])):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UsageError(f"{missing[0]}: no such file or folder{more}{import_hint(missing[0])}")


def import_hint(path: str) -> str:
    """Return the end of an error for a path that does not exist and reads like an import string; "" for others.

    >>> import_hint("data:make"), import_hint("data/a.png"), import_hint("C:photos")
    (' (an import string requires its prefix: python:data:make)', '', '')
    """
    looks_so = re.fullmatch(r"[A-Za-z_]\w+(\.\w+)*:[A-Za-z_][\w.]*", path)
    return f" (an import string requires its prefix: {PYTHON}{path})" if looks_so else ""


def check_distinct(sources: Sequence[str], listing: InputOptions, files: Iterable[str] = ()) -> Iterable[str]:
    """Check that no image comes from two sources: its pixels would count double.

    Args:
        sources: as the user names them; globs and ranges are expanded.
        listing: selection of inputs from them; an input that one source leaves out may be another source.
        files: further paths.

    Returns:
        The files, which are checked when they are read.

    Raises:
        UsageError: a source is named twice, by any paths, or is part of another one.
    """
    more = not isinstance(files, tuple | list) or bool(files)
    if not sources or (len(sources) == 1 and not more and not has_wildcard(sources[0])):
        return files
    from normcli.sources import overlap

    watched = overlap.check(sources, listing).watch(files)
    return list(watched) if isinstance(files, tuple | list) else watched


def each(sources: Iterable[str], files: Iterable[str] = ()) -> Iterator[str]:
    """Yield the sources one by one: brace ranges spelled out, then the files."""
    named = [path for source in sources for path in expand(source)]
    yield from itertools.chain(named, map(_listed, files))


def read_one(source: str, listing: InputOptions, *, names_only: bool = False, group_by: str | None = None) -> Items:
    """Yield the items of one source; a source that cannot be used is one item that fails.

    Args:
        source: folder, file or container.
        listing: options of reading.
        names_only: the items are not to be loaded: containers with a header read nothing else. Rows that would fail
            are then items like all others, without a label.
        group_by: column that has the groups of vectors, where the source has vectors and this column.
    """
    kind = kind_of(source)
    try:
        module = importlib.import_module(f"normcli.sources.{kind}")
        options: Any = None
        if hasattr(module, "OPEN_OPTIONS"):
            options = module.OPEN_OPTIONS()
            if values := effective_options(source, listing.open_options):
                from normcli.sources.open_options import open_options

                options = open_options(kind, values)
            entry = CONTAINERS.get(kind)
            extra: dict[str, Any] = {"names_only": True} if names_only and entry and entry.names_only else {}
            by_axis = axis_of(group_by) is not None
            takes = by_axis if entry is None else entry.axes if by_axis else entry.groups
            if group_by is not None and takes:
                extra["group_by"] = group_by
            items = module.read(str(source), listing, options, **extra)
            items = items if getattr(options, "skip_empty", "no") == "no" else map(_non_empty, items)
        else:
            items = module.read(str(source), listing)
        if (listing.include or listing.exclude) and (kind not in _OF_FILES or getattr(options, "has_frames", False)):
            from normcli.sources.selection import select

            items = select(str(source), listing, items)
        yield from items
    except InputError as error:
        yield failed_item(source, error.reason, error.message)


def _non_empty(item: Item | Skipped) -> Item | Skipped:
    """Return an item that is left out where all of its samples are 0; blocks of vectors are not images."""
    if isinstance(item, Skipped) or isinstance(item.load, FailingSource) or hasattr(item.load, "inputs"):
        return item
    return item._replace(load=NonEmpty(item.load))


def expand(source: str) -> Iterator[str]:
    """Yield the paths of a brace range or a glob, as a shell does; any other path is itself.

    A glob yields files that exist, sorted; one that matches none is itself.

    >>> list(expand("train-{008..010}.tar")), list(expand("{a,b}/{1..2}.zip"))
    (['train-008.tar', 'train-009.tar', 'train-010.tar'], ['a/1.zip', 'a/2.zip', 'b/1.zip', 'b/2.zip'])

    Raises:
        UsageError: a range of more than a million.
    """
    if not has_wildcard(source) or (not is_remote(source) and os.path.lexists(source)):
        yield source
        return
    if isinstance(source, Source):
        yield from (source.with_path(path) for path in expand(str(source)))
        return
    from normcli.sources.globs import expand_pattern

    yield from expand_pattern(source)
