"""The survey of the inputs before the first output: colliding names, the number of inputs, their classes.

Listing a compressed tar reads all of it. So where a run computes statistics first, it surveys what that pass lists;
else the survey lists names alone, which costs one header where a container has one (parquet, npz, idx). What is left
is a compressed or remote tar whose mean and std are given: its names are known only when it was read once, and no
output may be written before they are. Such a tar is read twice, and never more often.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Self

from normcli.errors import RemoteError, UsageError
from normcli.runs.names import InputLister, NamedItem
from normcli.runs.suffixes import SuffixCollisions
from normcli.sources import FailingSource, Item, Skipped, expand, is_stream


class Survey:
    """Counts the inputs that are to be mapped, and rejects names that collide.

    Args:
        listed: lists the inputs.
        out: the output folder; no input may be in it.
        written: returns what becomes of a name in the output.
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
        self._kept = tempfile.TemporaryFile("w+", encoding="ascii") if keep_names else None  # noqa: SIM115

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
            raise UsageError(f"{item.key} lies inside the output folder {self._out}: choose another --output")


def any_stream(sources: Iterable[str]) -> bool:
    """Return whether listing one of the sources reads all of it."""
    return any(map(is_stream, chain.from_iterable(map(expand, sources))))


class _NameHashes:
    """The names of outputs as hashes: 65 MB for a million of them, where the names take 150."""

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
                raise UsageError(f"{second.item.key} is given twice: its output would be written twice")
            raise UsageError(
                f"{first.item.key} and {second.item.key} would both be written as {name} "
                "(without --no-suffix, suffixes are kept; several folders keep their names)"
            )
        # two names with one hash: not a collision

    def _raise_for_folder(self, name: str) -> None:
        file = next((one.item.key for one in self._others() if self._written(one.name) == name), None)
        below = next((one.item.key for one in self._others() if self._written(one.name).startswith(name + "/")), None)
        if file is not None and below is not None:
            raise UsageError(f"{file} would be written as the file {name}, and {below} needs a folder of that name")
