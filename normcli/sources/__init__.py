"""How bytes are packed: one file per container, each a `read()` that yields items.

An item is a name and a recipe for its bytes, run in the worker: items are picklable and cheap. A container is
never extracted: its members are read where they lie, or as they come by in a stream.
"""

import importlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

from normcli.errors import InputError, UsageError
from normcli.storage import is_remote

# container -> the names of its files; one module each, with a `read(source, listing)`
CONTAINERS = {
    "tar": r"\.(tar|tar\.(gz|zst|bz2|xz)|tgz|tzst|tbz2?|txz)$",
    "zip": r"\.zip$",
    "parquet": r"\.(parquet|pq)$",
    "npy": r"\.np[yz]$",
    "idx": r"([.-]idx\d?(-ubyte)?)(\.gz)?$",
    "file_list": r"\.(csv|tsv|jsonl)$",
}
LAYOUTS = ("auto", "nhwc", "nchw", "nhw", "hwc", "chw", "hw")
_LARGEST_RANGE = 1_000_000


class Load(Protocol):
    """A recipe for bytes: picklable, cheap to hold."""

    def __call__(self) -> Any:
        """Give an encoded image's bytes, or an array; raises InputError."""


class Item(NamedTuple):
    """One image of a source.

    Attributes:
        key: its name: a path, or container and member.
        load: gives its encoded bytes, or an array; picklable; raises InputError.
        label: its class: the folder it lies in, or what the container says; None where there is none.
    """

    key: str
    load: Load
    label: str | None = None


class Skip(NamedTuple):
    """An input that is no image and was not asked for by name: counted, with a reason, and passed over."""

    key: str
    reason: str
    message: str


class Refused(NamedTuple):
    """The load of an item that was found to be unusable while listing."""

    reason: str
    message: str

    def __call__(self) -> NoReturn:
        raise InputError(self.reason, self.message)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is taken from the sources.

    Attributes:
        include: glob patterns; where given, they decide instead of the usual image suffixes.
        exclude: glob patterns, applied last.
        follow_symlinks: walk into linked folders, each real folder once.
        max_file_bytes: larger files and members are refused before they are read.
        column: parquet column, manifest column or npz array that holds the images; None finds it.
        layout: axes of the arrays in npy and npz files.
        shard: (I, N) takes the I-th of N parts, I from 1.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False
    max_file_bytes: int | None = None
    column: str | None = None
    layout: str = "auto"
    shard: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout {self.layout!r}: choose from {', '.join(LAYOUTS)}")


def unusable(key: str, reason: str, message: str) -> Item:
    """An item that fails when it is loaded: for what is found wrong while listing."""
    return Item(key, Refused(reason, message))


def container(path: str) -> str | None:
    """Name the container that a path says it is; None for a folder or an image.

    >>> container("s3://bucket/train-000.tar.gz"), container("photos"), container("t10k-images-idx3-ubyte.gz")
    ('tar', None, 'idx')
    """
    name = path.rsplit("/", 1)[-1].lower()
    return next((kind for kind, pattern in CONTAINERS.items() if re.search(pattern, name)), None)


def read(sources: Iterable[str], listing: Listing, files: Iterable[str] = ()) -> Iterator[Item | Skip]:
    """Yield the items of every source, in the order of the sources, each folder sorted by name.

    Args:
        sources: folders, files, containers; a brace range is one container after the other.
        listing: what is taken from them.
        files: further paths, taken as given, one at a time.
    """
    if listing.shard is None:
        for source in each(sources, files):
            yield from read_one(source, listing)
        return
    named = [path for source in sources for path in expand(source)]
    mine, of = listing.shard[0] - 1, listing.shard[1]
    shards = [source for source in named if container(source)]
    # enough containers for all: each is read by one job only. Otherwise every job lists them all
    owner = {source: i % of for i, source in enumerate(dict.fromkeys(shards))} if len(shards) >= of else {}
    turn = itertools.cycle(range(of))
    for source in itertools.chain(named, files):
        if source in owner:
            if owner[source] == mine:
                yield from read_one(source, listing)
        else:
            yield from (found for found in read_one(source, listing) if next(turn) == mine)


def each(sources: Iterable[str], files: Iterable[str] = ()) -> Iterator[str]:
    """Yield the sources one by one: brace ranges spelled out, then what was given as files."""
    named = [path for source in sources for path in expand(source)]
    yield from itertools.chain(named, files)


def kind_of(source: str) -> str:
    """Name what a source is read as: a container, or "folder", which a single file is as well."""
    kind = container(source)
    return "folder" if kind is None or (not is_remote(source) and os.path.isdir(source)) else kind  # noqa: PTH112


def read_one(source: str, listing: Listing) -> Iterator[Item | Skip]:
    """Yield the items of one source; what makes all of it unusable is an item that fails."""
    kind = kind_of(source)
    try:
        yield from importlib.import_module(f"normcli.sources.{kind}").read(source, listing)
    except InputError as error:
        yield unusable(source, error.reason, error.message)


def expand(source: str) -> Iterator[str]:
    """Give the paths that a brace range stands for, as the shell would; a path without one is itself.

    >>> list(expand("train-{008..010}.tar")), list(expand("{a,b}/{1..2}.zip"))
    (['train-008.tar', 'train-009.tar', 'train-010.tar'], ['a/1.zip', 'a/2.zip', 'b/1.zip', 'b/2.zip'])

    Raises:
        UsageError: a range of more than a million.
    """
    if "{" not in source or (not is_remote(source) and os.path.lexists(source)):
        yield source
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
    yield from ("".join(choice) for choice in itertools.product(*choices))


def _range(text: str) -> list[str]:
    first, last = text.split("..")
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(first) <= int(last) else -1
    if abs(int(last) - int(first)) >= _LARGEST_RANGE:
        raise UsageError(f"{{{text}}}: more than {_LARGEST_RANGE} paths")
    return [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
