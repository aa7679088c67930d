"""Names of outputs: a tree that mirrors the sources; no name twice, none outside OUT, OUT not in a source.

The survey lists all inputs before the first output, for colliding names, their number and their classes. Listing a
compressed tar reads all of it. So where a run computes statistics first, it surveys the list of that pass; else the
survey lists names alone, which costs one header where a container has one (parquet, npz, idx). What is left is a
compressed or remote tar whose mean and std are given: its names are known only when it was read once, and no output
may be written before they are. Such a tar is read twice, and never more often.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple, Protocol, Self

from normcli import sources as formats
from normcli import storage
from normcli.errors import InputError, RemoteError, UsageError
from normcli.options.shared import InputOptions
from normcli.sources import FailingSource, Item, Skipped, expand, is_stream
from normcli.sources.folder import SUFFIXES
from normcli.storage import is_remote

WORK = ".normcli-partial"  # the folder in OUT for what is not finished
MANIFEST, STATISTICS = "normcli.json", "stats.json"


class NamedItem(NamedTuple):
    """One input and the name of its output below OUT, without the suffix of the output's format."""

    item: Item
    name: str


class InputLister(Protocol):
    """A function that lists every input with the name of its output; each call lists them anew."""

    def __call__(self, *, names_only: bool = False) -> Iterator[NamedItem | Skipped]:
        """Yield the inputs; with `names_only`, they are not to be loaded, and may cost less to list."""


_LONGEST = 255  # bytes of a name in a folder, on every usual file system
_LONGEST_PATH = 3500  # of 4096, for the output folder is part of it


def make_lister(
    sources: Sequence[str], files: list[str] | None, listing: InputOptions, no_suffix: bool, suffix: str | None = None
) -> InputLister:
    """Return a function that lists every input with the name of its output; each call lists the sources anew.

    The tree in a folder or an archive is mirrored, below its own name where there are several sources; a row of a
    table or an array goes by its number; a file goes by its bare name; paths in a table of files start at the
    table's folder; a path from `files` keeps its folders, as in tar.

    Args:
        sources: folders and files.
        files: further paths.
        listing: selection of inputs from them.
        no_suffix: drop the suffix of the input (a.jpg -> a.npy instead of a.jpg.npy).
        suffix: of the file that each image becomes; None where they become no files.

    Raises:
        UsageError: see `names`; while listing, a name that leads out of OUT.
    """
    formats.check_exist(sources)
    if imported := next(filter(formats.is_import, sources), None):
        raise UsageError(f"{imported}: samples of Python objects are not files to apply to (use normcli.transform)")
    formats.check_distinct(sources, listing, files or ())
    paths = [path for source in sources for path in formats.expand(source)]
    if video := next((path for path in paths if formats.kind_of(path) == "video"), None):
        raise UsageError(f"{video}: frames of videos are not written (use normcli.transform in the program itself)")
    if listing.open_options:
        kinds = ("folder", *formats.CONTAINERS) if files else map(formats.kind_of, paths)
        formats.check_open_options(listing.open_options, kinds)
    several = len(paths) + (files is not None) > 1
    patterns = formats.PatternUse(listing)

    def listed(*, names_only: bool = False) -> Iterator[NamedItem | Skipped]:
        for source in paths:
            root = "" if not several else os.path.basename(os.path.abspath(source))  # noqa: PTH100, PTH119
            for item in patterns.watch(source, formats.read_one(source, listing, names_only=names_only)):
                if isinstance(item, Skipped):
                    yield item
                    continue
                if hasattr(item.load, "inputs"):
                    raise UsageError(f"{source}: apply writes images, not vectors (`stats` counts them)")
                inner = formats.name_below(source, item.key)
                if not inner:
                    inner = os.path.basename(item.key.rstrip("/"))  # noqa: PTH119
                elif root:
                    inner = f"{root}/{inner}"
                yield _inside(inner, item, no_suffix, suffix)
        for item in formats.read(files or (), listing, patterns=patterns):
            yield item if isinstance(item, Skipped) else _inside(item.key, item, no_suffix, suffix)

    return listed


def _inside(name: str, item: Item, no_suffix: bool, suffix: str | None) -> NamedItem:
    if isinstance(item.load, FailingSource):  # fails, and is never written
        return NamedItem(item, name)
    key = item.key
    name = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", name)
    parts = [part for part in name.replace(os.sep, "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"{key}: its output would be outside OUT (use its folder as SOURCE, or `exclude` it)")
    if not parts:
        raise UsageError(f"{key}: its output would have an empty name")
    if parts[0] == WORK:
        raise UsageError(f"{key}: {WORK} is the name of normcli's own folder; --exclude it")
    if suffix is not None and parts[0] in (MANIFEST, STATISTICS) and len(parts) > 1:
        raise UsageError(f"{key}: {parts[0]} is a name that normcli uses in OUT; --exclude it")
    if no_suffix and "." in parts[-1].lstrip("."):
        parts[-1] = parts[-1].rpartition(".")[0]
    name = "/".join(parts)
    try:
        if suffix is not None:
            check_name_length(name + suffix)
    except InputError as error:
        item = item._replace(load=FailingSource(error.reason, f"{error.message}: --to tar or parquet takes it"))
    return NamedItem(item, name)


def check_name_length(name: str) -> None:
    """Check that a name is short enough for a file.

    Raises:
        InputError: "name-too-long".
    """
    if max(len(os.fsencode(part)) for part in name.split("/")) > _LONGEST:
        raise InputError("name-too-long", f"its name is too long for a file (more than {_LONGEST} bytes)")
    if len(os.fsencode(name)) > _LONGEST_PATH:
        raise InputError("name-too-long", f"its path is too long for a file (more than {_LONGEST_PATH} bytes)")


def check_overlap(out: str, sources: Iterable[str]) -> None:
    """Check that the output folder is local, and neither in a source nor around one.

    Raises:
        UsageError: they overlap.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", out):  # a Path makes one slash of two
        raise UsageError(f"{out} is on a server: the output must be a local folder (copy it to the server afterwards)")
    place = os.path.realpath(out) + os.sep
    for source in chain.from_iterable(map(formats.expand, sources)):
        if is_remote(source) or not os.path.exists(source):  # noqa: PTH110
            continue
        folder = os.path.realpath(source) + os.sep
        if place.startswith(folder) and os.path.isdir(source):  # noqa: PTH112
            raise UsageError(
                f"the output folder {out} is inside the source {source}: the next run would read it; "
                "choose another --output"
            )
        if folder.startswith(place):
            raise UsageError(f"the source {source} is inside the output folder {out}: choose another --output")


log = logging.getLogger("normcli.apply")

SAME_FORMAT = {".png": (".png",), ".tif": (".tif", ".tiff")}


class SuffixCollisions:
    """The names that would be equal without their image suffixes, as hashes.

    Names are compared without all of their image suffixes, so that a name that keeps its own (a.jpg + .png) is
    never that of another (a.jpg.jpg without one, + .png).
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._colliding: set[int] = set()
        self._folders: set[str] = set()
        self._example = ""

    def add(self, name: str) -> None:
        """Take a name, and its folders, of which a file cannot have the name."""
        folder = name.rpartition("/")[0]
        while folder and folder not in self._folders:
            self._folders.add(folder)
            if image_suffix(folder):
                self._count(folder)
            folder = folder.rpartition("/")[0]
        self._count(name)

    def _count(self, name: str) -> None:
        key = hash(_bare(name))
        if key in self._seen:
            self._colliding.add(key)
            self._example = self._example or name
        self._seen.add(key)

    def report(self) -> None:
        """Log the number of names that keep their suffixes."""
        if count := len(self._colliding):
            names = "name is" if count == 1 else "names are"
            log.warning(
                "%d %s shared by several images: they keep the suffix of the source (%s)", count, names, self._example
            )

    def shorten(self, name: str) -> str:
        """Return a name without its image suffix, or as it is where that would collide."""
        return name if hash(_bare(name)) in self._colliding else name.removesuffix(image_suffix(name))

    def restore(self, name: str, source: str, suffix: str) -> str:
        """Return the name of the file to restore: that of the source where the format is the same."""
        if hash(_bare(name)) in self._colliding:
            return name + suffix
        own = image_suffix(name)
        original = own or image_suffix(source)
        return name.removesuffix(own) + (original if original.lower() in SAME_FORMAT[suffix] else suffix)

    def shortened(self, listed: InputLister) -> InputLister:
        """Return a lister whose names are short; all names have been added."""

        def short(*, names_only: bool = False) -> Iterator[NamedItem | Skipped]:
            for entry in listed(names_only=names_only):
                yield entry._replace(name=self.shorten(entry.name)) if isinstance(entry, NamedItem) else entry

        return short


def image_suffix(name: str) -> str:
    """Return the suffix of an image's name; "" for any other.

    >>> image_suffix("a/b.JPG"), image_suffix("a.png/b"), image_suffix(".png")
    ('.JPG', '', '')
    """
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:] if dot > 0 and base[dot:].lower() in SUFFIXES else ""


def _bare(name: str) -> str:
    while suffix := image_suffix(name):
        name = name.removesuffix(suffix)
    return name


class Survey:
    """The survey before a run: counts the inputs to map, and rejects names that collide.

    Args:
        listed: lists the inputs.
        out: the output folder; no input may be in it.
        written: returns the output's name for a name.
        files: every name becomes a file, and its folders folders.
        with_labels: collect the classes.
        keep_names: keep names and keys in a temporary file, for `names`.
        collisions: takes the names, whose suffixes are dropped later.

    Attributes:
        count: inputs so far.
        labels: their classes; None where they are not collected.
    """

    def __init__(
        self,
        listed: InputLister,
        *,
        out: str | None = None,
        written: Callable[[str], str] = str,
        files: bool = True,
        with_labels: bool = False,
        keep_names: bool = False,
        collisions: SuffixCollisions | None = None,
    ) -> None:
        self._listed, self._out = listed, out
        self._collisions = collisions
        self._names = _NameHashes(listed, written, files)
        self._folders: set[str] = set()
        self._inside = None if out is None else os.path.realpath(out) + os.sep
        self.count = 0
        self.labels: set[str] | None = set() if with_labels else None
        self._kept: IO[str] | None = None
        if keep_names:
            import tempfile  # 1 ms, which outputs other than shards do without

            self._kept = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._kept is not None:
            self._kept.close()

    def run(self) -> None:
        """List all inputs, for the survey alone.

        Raises:
            UsageError: two inputs have one output, or an input is inside the output folder.
            RemoteError: a source cannot be listed, because its server does not answer.
        """
        for named_item in self._listed(names_only=self.labels is None):
            if isinstance(named_item, NamedItem):
                self._add(named_item)

    def watch(self) -> Iterator[Item | Skipped]:
        """Yield all inputs for another pass, and survey them on the way.

        Raises:
            UsageError, RemoteError: as `run`.
        """
        for named_item in self._listed():
            if isinstance(named_item, NamedItem):
                self._add(named_item)
                yield named_item.item
            else:
                yield named_item

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield the output's name and the key of every input, without listing the sources again."""
        assert self._kept is not None
        self._kept.seek(0)
        for line in self._kept:
            name, key = json.loads(line)
            yield name, key

    def _add(self, named_item: NamedItem) -> None:
        self.count += 1
        item = named_item.item
        if self._kept is not None:
            self._kept.write(json.dumps((named_item.name, item.key)) + "\n")
        if isinstance(item.load, FailingSource):
            if item.load.reason == "remote":  # its names are not known: places would be others next time
                raise RemoteError(f"{item.key}: {item.load.message}")
            return
        if self.labels is not None and item.label is not None:
            self.labels.add(item.label)
        self._names.add(named_item)
        if self._collisions is not None:
            self._collisions.add(named_item.name)
        folder = os.path.dirname(item.key)  # noqa: PTH120
        if self._inside is None or folder in self._folders:
            return
        self._folders.add(folder)
        if (os.path.realpath(folder) + os.sep).startswith(self._inside) and os.path.isdir(folder or "."):  # noqa: PTH112
            raise UsageError(f"{item.key} is inside the output folder {self._out}: choose another --output")


def any_stream(sources: Iterable[str]) -> bool:
    """Return True if listing one of the sources reads all of it."""
    return any(map(is_stream, chain.from_iterable(map(expand, sources))))


class _NameHashes:
    """The names of outputs as hashes: 65 MB for a million of them; the names take 150."""

    def __init__(self, listed: InputLister, written: Callable[[str], str], files: bool) -> None:
        self._listed, self._written, self._files = listed, written, files
        self._names: set[int] = set()
        self._folders: set[int] = set()

    def add(self, named_item: NamedItem) -> None:
        """Take a name.

        Raises:
            UsageError: it is taken, or would be a file where others need a folder.
        """
        name = self._written(named_item.name)
        if hash(name) in self._names:
            self._raise_for_same_name(named_item)
        self._names.add(hash(name))
        if not self._files:
            return
        if hash(name) in self._folders:
            self._raise_for_folder(name)
        folder = name.rpartition("/")[0]
        while folder and hash(folder) not in self._folders:
            self._folders.add(hash(folder))
            if hash(folder) in self._names:
                self._raise_for_folder(folder)
            folder = folder.rpartition("/")[0]

    def _others(self) -> Iterator[NamedItem]:
        for named_item in self._listed(names_only=True):
            if isinstance(named_item, NamedItem) and not isinstance(named_item.item.load, FailingSource):
                yield named_item

    def _raise_for_same_name(self, second: NamedItem) -> None:
        name = self._written(second.name)
        for first in self._others():
            if self._written(first.name) != name:
                continue
            if first.item.key == second.item.key:
                raise UsageError(f"{second.item.key} is named twice: its output would be written twice")
            raise UsageError(
                f"{first.item.key} and {second.item.key} would both be written as {name} "
                "(without --no-suffix they keep their suffixes; folders named as several SOURCEs keep their names)"
            )
        # two names with one hash: not a collision

    def _raise_for_folder(self, name: str) -> None:
        file = next((one.item.key for one in self._others() if self._written(one.name) == name), None)
        below = next((one.item.key for one in self._others() if self._written(one.name).startswith(name + "/")), None)
        if file is not None and below is not None:
            raise UsageError(f"{file} would be written as the file {name}, but {below} requires a folder of that name")


def find_content(out: str) -> str | None:
    """Describe the content of an output folder; None if it is empty or missing.

    Raises:
        UsageError: it is no folder.
    """
    try:
        names = sorted(path.name for path in Path(out).iterdir())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UsageError(f"{out} is a file: --output names a folder (for one image: -o - > {out})") from None
    except OSError as error:
        storage.raise_output_error(out, error)
    if not names:
        return None
    if WORK in names:
        return "an unfinished run"
    return "a finished run" if MANIFEST in names else f"{names[0]}{' and more' if len(names) > 1 else ''}"


def refuse_occupied(folder: str, allowed: bool) -> None:
    """Reject an output folder that is not empty.

    Raises:
        UsageError: it is not empty, and no option allows that.
    """
    content = find_content(folder)
    if content is None or allowed:
        return
    if content == "an unfinished run":
        raise UsageError(f"{folder}: contains an unfinished run (`resume` completes it, `force` starts anew)")
    raise UsageError(
        f"{folder}: is not empty: {content} (`resume` or `skip_existing` write what is missing, `force` overwrites)"
    )
