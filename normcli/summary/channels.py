"""Names of channels, the channels that gray images contribute to a set with color images, and white levels."""

from collections.abc import Sequence

_NAMES: dict[int, tuple[str, ...]] = {1: ("L",), 2: ("L", "A"), 3: ("R", "G", "B"), 4: ("R", "G", "B", "A")}


def channel_names(count: int) -> tuple[str, ...]:
    """Return the names of `count` channels of color or gray; numbers where no color model has so many.

    >>> channel_names(3), channel_names(6)
    (('R', 'G', 'B'), ('0', '1', '2', '3', '4', '5'))
    """
    return _NAMES.get(count) or band_names(count)


def band_names(count: int) -> tuple[str, ...]:
    """Return the names of bands that are not colors: their numbers from 0.

    >>> band_names(2)
    ('0', '1')
    """
    return tuple(map(str, range(count)))


def channel_order(names: Sequence[str]) -> str:
    """Return the order of channels as one string.

    >>> channel_order(["R", "G", "B"]), channel_order(["0", "1"])
    ('RGB', '2 bands')
    """
    return "".join(names) if tuple(names) in _ORDERS else f"{len(names)} bands"


_ORDERS = {*_NAMES.values(), ("B", "G", "R"), ("B", "G", "R", "A")}


def rgb_channels(count: int) -> tuple[int, int, int]:
    """Return the channels of an image to show as red, green and blue: the first three, or gray three times.

    >>> rgb_channels(4), rgb_channels(2)
    ((0, 1, 2), (0, 0, 0))
    """
    return (0, 1, 2) if count >= 3 else (0, 0, 0)


def source_channels(count: int, wanted: int) -> tuple[int, ...]:
    """Return, for each channel of a result, the channel of an image with `count` that it is taken from.

    Where color is wanted, gray stands for red, green and blue, and alpha stays alpha; else an image keeps its channels.

    >>> source_channels(1, 3), source_channels(2, 4), source_channels(3, 3)
    ((0, 0, 0), (0, 0, 0, 1), (0, 1, 2))
    """
    if (count, wanted) in ((1, 3), (2, 4)):
        return (0, 0, 0, 1)[:wanted]
    return tuple(range(count))


def white_level(dtype: str, setting: int | None) -> int | None:
    """Return the stored value that maps to 1.0: 255, 65535 or the setting; None for raw units."""
    if dtype == "uint8":
        return 255
    return setting if setting is not None else {"uint16": 65535}.get(dtype)
