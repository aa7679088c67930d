"""Where each output goes: a tree that mirrors the sources; no name twice, none outside OUT, OUT not in a source."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from normcli import sources as formats
from normcli.errors import InputError, RemoteError, UsageError
from normcli.options.images import InputOptions
from normcli.sources import FailingSource, Item, Skipped
from normcli.storage import is_remote

WORK = ".normcli-partial"  # the folder in OUT for what is not finished
MANIFEST, STATISTICS = "normcli.json", "stats.json"


class NamedItem(NamedTuple):
    """One input and the name of its output below OUT, without the suffix of the output's format."""

    item: Item
    name: str


InputLister = Callable[[], Iterator[NamedItem | Skipped]]
_LONGEST = 255  # bytes of a name in a folder, on every usual file system
_LONGEST_PATH = 3500  # of 4096, for the output folder is part of it


def make_lister(
    sources: Sequence[str], files: list[str] | None, listing: InputOptions, no_suffix: bool, suffix: str | None = None
) -> InputLister:
    """Make what lists every input with the name of its output, as often as it is called.

    The tree in a folder or an archive is mirrored, below its own name where there are several sources; a row of a
    table or an array goes by its number; a file goes by its bare name; paths in a table of files start at the
    table's folder; a path from `files` keeps its folders, as in tar.

    Args:
        sources: folders and files.
        files: further paths.
        listing: what is taken of them.
        no_suffix: drop the suffix of the input (a.jpg -> a.npy instead of a.jpg.npy).
        suffix: of the file that each image becomes; None where they become no files.

    Raises:
        UsageError: see `names`; while listing, a name that leads out of OUT.
    """
    named = [path for source in sources for path in formats.expand(source)]
    formats.check_open_options(listing.open_options, formats.CONTAINERS if files else map(formats.kind_of, named))
    several = len(named) + (files is not None) > 1

    def listed() -> Iterator[NamedItem | Skipped]:
        for source in named:
            root = "" if not several else os.path.basename(os.path.abspath(source))  # noqa: PTH100, PTH119
            for found in formats.read_one(source, listing):
                if isinstance(found, Skipped):
                    yield found
                    continue
                inner = _below(source, found.key)
                if not inner:
                    inner = os.path.basename(found.key.rstrip("/"))  # noqa: PTH119
                elif root:
                    inner = f"{root}/{inner}"
                yield _inside(inner, found, no_suffix, suffix)
        for found in formats.read(files or (), listing):
            yield found if isinstance(found, Skipped) else _inside(found.key, found, no_suffix, suffix)

    return listed


def _below(source: str, key: str) -> str:
    """The name of an item below its source; "" for the source itself."""
    if key == source or key.startswith(source.rstrip("/") + "/"):
        return key[len(source) :].lstrip("/")
    home = source.rpartition("/")[0]  # a table of files: the same names wherever it lies
    return key[len(home) + 1 :] if home and key.startswith(home + "/") else key


def _inside(name: str, item: Item, no_suffix: bool, suffix: str | None) -> NamedItem:
    if isinstance(item.load, FailingSource):  # fails, and is never written
        return NamedItem(item, name)
    key = item.key
    name = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", name)
    parts = [part for part in name.replace(os.sep, "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"{key}: its output would lie outside OUT: give its folder as SOURCE, or --exclude it")
    if not parts:
        raise UsageError(f"{key}: no name is left for its output")
    if parts[0] == WORK:
        raise UsageError(f"{key}: {WORK} is the name of normcli's own folder; --exclude it")
    if suffix is not None and parts[0] in (MANIFEST, STATISTICS) and len(parts) > 1:
        raise UsageError(f"{key}: {parts[0]} is the name of normcli's own file in OUT; --exclude it")
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
    """Refuse a name that no folder can hold.

    Raises:
        InputError: "name-too-long".
    """
    if max(len(os.fsencode(part)) for part in name.split("/")) > _LONGEST:
        raise InputError("name-too-long", f"its name is too long for a file (more than {_LONGEST} bytes)")
    if len(os.fsencode(name)) > _LONGEST_PATH:
        raise InputError("name-too-long", f"its path is too long for a file (more than {_LONGEST_PATH} bytes)")


def check_collisions(
    listed: InputLister,
    *,
    out: str | None = None,
    written: Callable[[str], str] = str,
    files: bool = True,
    labels: set[str] | None = None,
) -> int:
    """Count the inputs that are to be mapped, and refuse names that collide.

    Args:
        listed: from `make_lister`.
        out: the output folder; no input may lie in it.
        written: what becomes of a name in the output.
        files: every name becomes a file, and its folders folders.
        labels: gathers the classes.

    Raises:
        UsageError: two inputs with one output, or an input inside OUT.
        RemoteError: a source cannot be listed, because its server does not answer.
    """
    taken = _Taken(listed, written, files)
    count = 0
    checked: set[str] = set()
    inside = None if out is None else os.path.realpath(out) + os.sep
    for named_item in listed():
        if isinstance(named_item, Skipped):
            continue
        count += 1
        load = named_item.item.load
        if isinstance(load, FailingSource):
            if load.reason == "remote":  # what it holds is not known: names and places would be others next time
                raise RemoteError(f"{named_item.item.key}: {load.message}")
            continue
        if labels is not None and named_item.item.label is not None:
            labels.add(named_item.item.label)
        taken.add(named_item)
        folder = os.path.dirname(named_item.item.key)  # noqa: PTH120
        if inside is not None and folder not in checked:
            checked.add(folder)
            if (os.path.realpath(folder) + os.sep).startswith(inside) and os.path.isdir(folder or "."):  # noqa: PTH112
                raise UsageError(f"{named_item.item.key} lies inside the output folder {out}: choose another --output")
    return count


class _Taken:
    """The names that are taken, as hashes: 65 MB for a million of them, where the names take 150."""

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
            self._tell_of_collision(named_item)
        self._names.add(hash(name))
        if not self._files:
            return
        if hash(name) in self._folders:
            self._tell_of_folder(name)
        folder = name.rpartition("/")[0]
        while folder and hash(folder) not in self._folders:
            self._folders.add(hash(folder))
            if hash(folder) in self._names:
                self._tell_of_folder(folder)
            folder = folder.rpartition("/")[0]

    def _others(self) -> Iterator[NamedItem]:
        for named_item in self._listed():
            if isinstance(named_item, NamedItem) and not isinstance(named_item.item.load, FailingSource):
                yield named_item

    def _tell_of_collision(self, second: NamedItem) -> None:
        name = self._written(second.name)
        for first in self._others():
            if self._written(first.name) != name:
                continue
            if first.item.key == second.item.key:
                raise UsageError(f"{second.item.key} is given twice: its output would be written twice")
            raise UsageError(
                f"{first.item.key} and {second.item.key} would both be written as {name} "
                "(without --no-suffix, suffixes are kept; several folders keep their names)"
            )
        # two names with one hash: not a collision

    def _tell_of_folder(self, name: str) -> None:
        file = next((one.item.key for one in self._others() if self._written(one.name) == name), None)
        below = next((one.item.key for one in self._others() if self._written(one.name).startswith(name + "/")), None)
        if file is not None and below is not None:
            raise UsageError(f"{file} would be written as the file {name}, and {below} needs a folder of that name")


def check_overlap(out: str, sources: Iterable[str]) -> None:
    """Refuse an output folder inside a source, a source inside the output folder, or one on a server.

    Raises:
        UsageError: they overlap.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", out):  # a Path makes one slash of two
        raise UsageError(f"{out} is on a server, and the output is a local folder: write it, then copy it there")
    place = os.path.realpath(out) + os.sep
    for source in chain.from_iterable(map(formats.expand, sources)):
        if is_remote(source) or not os.path.exists(source):  # noqa: PTH110
            continue
        folder = os.path.realpath(source) + os.sep
        if place.startswith(folder) and os.path.isdir(source):  # noqa: PTH112
            raise UsageError(
                f"the output folder {out} lies inside the source {source}: the next run would read it; "
                "choose another --output"
            )
        if folder.startswith(place):
            raise UsageError(f"the source {source} lies inside the output folder {out}: choose another --output")
