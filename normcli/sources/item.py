"""Items: the name of one image and a loader of its bytes, which is called in the worker."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

from normcli.errors import InputError

ArrayLayout = Literal["auto", "nhwc", "nchw", "nhw", "hwc", "chw", "hw", "nc"]


class Load(Protocol):
    """A loader of one image: picklable, cheap to hold.

    It may have `memory_bytes`, the bytes that it holds, and `block`, an equal key for images that are decoded together.
    """

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


class ColumnLabel(str):
    """A label of the column or axis that `group_by` names, which no pattern of paths replaces."""

    __slots__ = ()


class Vectors(NamedTuple):
    """Rows of numbers, which count as images of one pixel with a channel for every component.

    Attributes:
        rows: (N,C) of float32 or float64.
        names: of the components; () for numbers from 0.
        path: of the source, for the names of rows.
        first: number of the first row in the source.
        groups: names of groups, and the position (N) of each row's group among them; None without a column of groups.
    """

    rows: Any
    names: tuple[str, ...] = ()
    path: str = ""
    first: int = 0
    groups: tuple[list[str], Any] | None = None

    @property
    def nbytes(self) -> int:
        """Return the number of bytes of the values."""
        return int(self.rows.nbytes)


class Skipped(NamedTuple):
    """An input that is not an image and was not asked for by name: counted, with a reason, and passed over."""

    key: str
    reason: str
    message: str


class NonEmpty(NamedTuple):
    """The loader of an image that is left out where all of its samples are 0."""

    loader: Any

    def __call__(self) -> Any:
        return self.loader()

    @property
    def skips_empty(self) -> bool:
        """Return True."""
        return True

    @property
    def block(self) -> object:
        """Return the key of the block; None without a block."""
        return getattr(self.loader, "block", None)

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the loader itself takes."""
        return int(getattr(self.loader, "memory_bytes", 0))

    def fingerprint(self) -> str:
        """Return a text that changes with the image, and with this option."""
        return f"{self.loader.fingerprint()}:skip_empty"


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
