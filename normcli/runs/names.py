"""Names of outputs: a tree that mirrors the sources; no name twice, none outside OUT, OUT not in a source."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

from normcli import sources as formats
from normcli.errors import InputError, UsageError
from normcli.options.images import InputOptions
from normcli.sources import FailingSource, Item, Skipped
from normcli.storage import is_remote

WORK = ".normcli-partial"  # the folder in OUT for what is not finished
MANIFEST, STATISTICS = "normcli.json", "stats.json"


class NamedItem(NamedTuple):
    """One input and the name of its output below OUT, without the suffix of the output's format."""

    item: Item
    name: str


class InputLister(Protocol):
    """Lists every input with the name of its output, as often as it is called."""

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
        listing: what is taken of them.
        no_suffix: drop the suffix of the input (a.jpg -> a.npy instead of a.jpg.npy).
        suffix: of the file that each image becomes; None where they become no files.

    Raises:
        UsageError: see `names`; while listing, a name that leads out of OUT.
    """
    formats.check_exist(sources)
    paths = [path for source in sources for path in formats.expand(source)]
    formats.check_open_options(listing.open_options, formats.CONTAINERS if files else map(formats.kind_of, paths))
    several = len(paths) + (files is not None) > 1
    patterns = formats.PatternUse(listing)

    def listed(*, names_only: bool = False) -> Iterator[NamedItem | Skipped]:
        for source in paths:
            root = "" if not several else os.path.basename(os.path.abspath(source))  # noqa: PTH100, PTH119
            for item in patterns.watch(source, formats.read_one(source, listing, names_only=names_only)):
                if isinstance(item, Skipped):
                    yield item
                    continue
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
