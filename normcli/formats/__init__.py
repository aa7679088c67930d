"""How bytes are packed: one file per container, each a `read()` that yields items.

An item is a name and a recipe for its bytes, run in the worker: items are picklable and cheap.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, NoReturn

from normcli.errors import InputError


class Item(NamedTuple):
    """One image of a source.

    Attributes:
        key: its name: a path, or container and member.
        load: gives its encoded bytes, or an array; picklable; raises InputError.
        label: its class: the folder it lies in, or what the container says; None where there is none.
    """

    key: str
    load: Callable[[], Any]
    label: str | None = None


class Skip(NamedTuple):
    """An input that is no image and was not asked for by name: counted, with a reason, and passed over."""

    key: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is taken from the sources.

    Attributes:
        include: glob patterns; where given, they decide instead of the usual image suffixes.
        exclude: glob patterns, applied last.
        follow_symlinks: walk into linked folders, each real folder once.
        max_file_bytes: larger files are refused before they are read.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False
    max_file_bytes: int | None = None


def unusable(key: str, reason: str, message: str) -> Item:
    """An item that fails when it is loaded: for what is found wrong while listing."""
    return Item(key, partial(_fail, reason, message))


def _fail(reason: str, message: str) -> NoReturn:
    raise InputError(reason, message)


def read(sources: Iterable[str], listing: Listing) -> Iterator[Item | Skip]:
    """Yield the items of every source, in the order of the sources, each folder sorted by name."""
    from normcli.formats import folder

    for source in sources:
        yield from folder.read(source, listing)
