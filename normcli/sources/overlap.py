"""Sources that contain one another: a folder and a file or folder in it, however they are spelled."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from normcli.errors import UsageError
from normcli.options.shared import InputOptions
from normcli.sources import folder as folders
from normcli.sources.item import Item
from normcli.sources.listing import container, effective_options, expand, kind_of, read_one
from normcli.storage import is_remote


def check(sources: Iterable[str], listing: InputOptions) -> "Places":
    """Check that no image comes from two sources; see `listing.check_distinct`."""
    places = Places(listing)
    for source in sources:
        for path in expand(source):
            places.add(path)
    places.check_nested()
    return places


Identity: TypeAlias = "str | tuple[int, int]"


class Places:
    """Sources of a run, by their real paths."""

    def __init__(self, listing: InputOptions) -> None:
        self._listing = listing
        self._of: dict[tuple[Identity, str], str] = {}  # file and own options -> source
        self._folders: dict[Identity, str] = {}
        self._real_parents: dict[str, str] = {}
        self._identities: dict[str, Identity] = {}  # of folders

    def add(self, source: str) -> None:
        """Add a source.

        Raises:
            UsageError: it is there already, by any path.
        """
        place = source if source == "-" else _identity(source)
        if container(source) == "nifti":
            from normcli.sources import nifti

            place = nifti.pair_of(str(place))[0]  # a header and its samples are one volume
        own = repr(sorted(effective_options(source, {}).items()))  # two columns of one file are two sources
        if (first := self._of.get((place, own))) is not None:
            names = source if first == source else f"{first} and {source}"
            raise UsageError(f"{names}: the same SOURCE twice, its images would count double (name it once)")
        self._of[place, own] = source
        if (is_remote(source) and container(source) is None) or os.path.isdir(source):  # noqa: PTH112
            self._folders[place] = source

    def check_nested(self) -> None:
        """Check every source against the folders that it may be in.

        Raises:
            UsageError: one is in another, which reads it.
        """
        if len(self._of) > 1 and self._folders:
            if self._listing.follow_symlinks:
                self._folders |= dict(self._linked())
            for source in self._of.values():
                self._check(source)

    def watch(self, files: Iterable[str]) -> Iterator[str]:
        """Yield further files, each checked against the folders.

        Raises:
            UsageError: one is in a folder that reads it.
        """
        for file in files:
            if self._folders:
                self._check(file)
            yield file

    def _check(self, source: str) -> None:
        """Check one source, or the files that a table names, against the folders above."""
        self._check_above(source, source)
        if kind_of(source) == "file_list":
            for item in read_one(source, self._listing, names_only=True):
                if isinstance(item, Item):
                    self._check_above(item.key, source)

    def _check_above(self, file: str, source: str) -> None:
        path = above = self._location(file)
        while True:
            outer = self._folders.get(self._identity_of_folder(above))
            if outer is not None and outer != source and self._reads(above, outer, path, file):
                what = "is part of" if file == source else f"names {file}, which is part of"
                raise UsageError(f"{source}: {what} {outer}: its images would count double (name one of them)")
            parent = os.path.dirname(above)  # noqa: PTH120
            if parent == above:
                return
            above = parent

    def _reads(self, root: str, outer: str, path: str, inner: str) -> bool:
        """Return True if the folder `outer`, at `root`, reads an image of the source `inner`, at `path`."""
        if not is_remote(outer) and kind_of(outer) == "huggingface":
            return self._reads_table(outer, path)
        paths = folders.PathFilter(self._listing, root)
        if is_remote(inner) or not os.path.isdir(inner):  # noqa: PTH112
            return _is_read(paths, root, path)
        prefix = len(inner.rstrip("/" + os.sep))
        items = (item for item in read_one(inner, self._listing, names_only=True) if isinstance(item, Item))
        return any(_is_read(paths, root, path + item.key[prefix:]) for item in items)

    def _reads_table(self, outer: str, path: str) -> bool:
        """Return True if a table of a dataset, or an image that its table names, is a path or below it."""
        from normcli.sources import huggingface

        files: Iterable[str] = huggingface.tables(outer)
        if not files:
            files = (item.key for item in read_one(outer, self._listing, names_only=True) if isinstance(item, Item))
        real = map(self._location, files)
        return any(file == path or file.startswith(path + os.sep) for file in real)

    def _linked(self) -> Iterator[tuple[Identity, str]]:
        """Yield the folders that links in the sources lead to, with their source."""
        stack = [(os.path.realpath(source), source) for source in self._folders.values() if not is_remote(source)]
        seen = {root for root, _ in stack}
        while stack:
            root, source = stack.pop()
            for above, names, _ in os.walk(root):
                for name in names:
                    path = os.path.join(above, name)  # noqa: PTH118
                    if not os.path.islink(path):  # noqa: PTH114
                        continue
                    real = os.path.realpath(path)
                    yield _identity(real), source
                    if real not in seen:
                        seen.add(real)
                        stack.append((real, source))

    def _identity_of_folder(self, path: str) -> Identity:
        if path not in self._identities:
            self._identities[path] = _identity(path)
        return self._identities[path]

    def _location(self, source: str) -> str:
        """Return a real path; of a link to a file, that of the link."""
        if is_remote(source):
            return str(source).rstrip("/")
        if os.path.isdir(source):  # noqa: PTH112
            return os.path.realpath(source)
        parent, name = os.path.split(source)
        if parent not in self._real_parents:
            self._real_parents[parent] = os.path.realpath(parent)
        return os.path.join(self._real_parents[parent], name)  # noqa: PTH118


def _identity(path: str) -> Identity:
    """Return device and inode of a folder, whose name may have other letters; the real path of a file.

    Files with one inode are images of their own: tools that save space link equal ones.
    """
    if is_remote(path):
        return str(path).rstrip("/")
    if not os.path.lexists(path):
        return str(path)
    status = os.stat(path) if os.path.isdir(path) else None  # noqa: PTH112, PTH116
    return (status.st_dev, status.st_ino) if status is not None and status.st_ino else os.path.realpath(path)


def _is_read(paths: folders.PathFilter, root: str, path: str) -> bool:
    """Return True if a folder reads a file below it: no folder between is hidden, and its name is selected."""
    *between, name = path[len(root) :].replace(os.sep, "/").strip("/").split("/")
    if any(paths.folder_reason(part) is not None for part in between):
        return False
    return paths.reject_reason(path, name) is None
