"""Items: the name of one image and a loader of its bytes, which is called in the worker."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

from normcli.errors import InputError, UsageError

LAYOUTS = ("auto", "nhwc", "nchw", "nhw", "hwc", "chw", "hw")


class Load(Protocol):
    """A loader of one image: picklable, cheap to hold."""

    def __call__(self) -> Any:
        """Return an encoded image's bytes, or an array; raise InputError."""


class Item(NamedTuple):
    """One image of a source.

    Attributes:
        key: its name: a path, or container and member.
        load: returns its encoded bytes, or an array; picklable; raises InputError.
        label: its class: the folder it is in, or the one its container records; None where there is none.
    """

    key: str
    load: Load
    label: str | None = None


class Skipped(NamedTuple):
    """An input that is not an image and was not asked for by name: counted, with a reason, and passed over."""

    key: str
    reason: str
    message: str


class FailingSource(NamedTuple):
    """The loader of an item that was found unusable while its source was listed."""

    reason: str
    message: str

    def __call__(self) -> NoReturn:
        raise InputError(self.reason, self.message)


Items = Iterator[Item | Skipped]


def failed_item(key: str, reason: str, message: str) -> Item:
    """Return an item that fails when it is loaded, for a problem that is found while listing."""
    return Item(key, FailingSource(reason, message))


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Options of reading sources.

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
