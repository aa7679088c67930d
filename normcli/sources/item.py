"""Items: the name of one image and a loader of its bytes, which is called in the worker."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

from normcli.errors import InputError

ArrayLayout = Literal["auto", "nhwc", "nchw", "nhw", "hwc", "chw", "hw"]


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
