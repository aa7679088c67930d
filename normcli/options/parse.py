"""Parsers of option values that are written as text: sizes, shares, parts, levels."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from normcli.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(name: str, value: str | int | None) -> int | None:
    """Return a number of bytes; None for None.

    Args:
        name: of the option, for the error.
        value: bytes, or text with a decimal (K, M, G, T) or binary (Ki, Mi, Gi, Ti) unit.

    >>> parse_size("max_file_size", "1.5GB"), parse_size("max_file_size", "512"), parse_size("max_file_size", "2KiB")
    (1500000000, 512, 2048)

    Raises:
        UsageError: not a size of at least one byte.
    """
    if value is None:
        return None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([KMGT]I?)?B?\s*", str(value), re.IGNORECASE)
    size = 0.0 if match is None else float(match[1]) * _UNITS[(match[2] or "").upper()]
    if not 1 <= size < 2**63:
        raise UsageError(f"`{name}`: must be a number of bytes such as 500MB or 2GiB, not {value!r}")
    return int(size)


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
MAX_SHARDS = 1_000_000


def is_plain_line(text: object) -> bool:
    r"""Return True for a string without line breaks, control characters, changes of direction and lone surrogates.

    >>> is_plain_line("composite:white"), is_plain_line("224\ntouch x"), is_plain_line(224)
    (True, False, False)
    """
    return isinstance(text, str) and _CONTROL.search(text) is None


def parse_shard(value: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (I, N) of "I/N".

    >>> parse_shard("2/8")
    (2, 8)

    Raises:
        UsageError: not I/N with I from 1 to N, or more than a million parts.
    """
    if value is None:
        return None
    part, slash, count = value.partition("/") if isinstance(value, str) else ("", "", "")
    if isinstance(value, tuple | list) and len(value) == 2:
        part, slash, count = str(value[0]), "/", str(value[1])
    if slash and part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count) <= MAX_SHARDS:
        return int(part), int(count)
    raise UsageError(f"`shard`: must be I/N with I from 1 to N <= {MAX_SHARDS:,}, such as 1/8, not {value!r}")


def parse_limit(value: str | int | None) -> str | None:
    """Return a limit of failures in one spelling: "N" or "N%".

    >>> parse_limit(3), parse_limit("0.5%")
    ('3', '0.5%')

    Raises:
        UsageError: neither a number nor a share.
    """
    if value is None:
        return None
    text = str(value).strip()
    try:
        number = float(text[:-1]) if text.endswith("%") else int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= (100 if text.endswith("%") else math.inf):
        raise UsageError(f"`max_failures`: must be a number, or a share such as 1%, not {value!r}")
    return text


def parse_level(value: int | str | None) -> int | None:
    """Return the value that maps to 1.0; None for "auto".

    Raises:
        UsageError: neither "auto" nor a positive whole number.
    """
    if value is None or value == "auto":
        return None
    try:
        level = int(value)
    except ValueError:
        level = 0
    if level < 1 or (isinstance(value, float) and value != level):
        raise UsageError(f"`max_value`: must be auto or a positive whole number such as 4095 or 65535, not {value!r}")
    return level


def parse_pairs(values: Mapping[str, str] | Iterable[Any]) -> tuple[tuple[str, str], ...]:
    """Return open options as sorted (key, value) pairs from "KEY=VALUE" texts, pairs or a mapping.

    >>> parse_pairs(["layout=nchw", "column=image"])
    (('column', 'image'), ('layout', 'nchw'))

    Raises:
        UsageError: a text without "=", or a key given twice.
    """
    items: Iterable[Any] = values.items() if isinstance(values, Mapping) else values
    items = (items,) if isinstance(items, str) else items
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=") if isinstance(item, str) else (item[0], "=", str(item[1]))
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"`open_options`: must be KEY=VALUE such as layout=nchw, not {item!r}")
        if key in pairs:
            raise UsageError(f"`open_options`: {key} is given twice")
        pairs[key] = value
    return tuple(sorted(pairs.items()))


def as_tuple(values: str | Iterable[str]) -> tuple[str, ...]:
    """Return one text as a tuple of one value, not of its letters.

    >>> as_tuple("*.png"), as_tuple(["*.png", "*.jpg"])
    (('*.png',), ('*.png', '*.jpg'))
    """
    return (values,) if isinstance(values, str) else tuple(values)


def parse_texts(name: str, values: str | Iterable[str]) -> tuple[str, ...]:
    """Return one text or several as a tuple.

    Args:
        name: of the option, for the error.
        values: one text, or an iterable of them.

    Raises:
        UsageError: something that is no text.
    """
    texts = as_tuple(values) if isinstance(values, Iterable) else (values,)
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"`{name}`: must be text, not {text!r}")
    return texts


def parse_numbers(name: str, values: Any, count: int | None = None) -> tuple[float, ...] | None:
    """Return numbers as a tuple: of one number, a sequence of them or an array of one axis; None for None.

    >>> parse_numbers("mean", 0.5), parse_numbers("clip", [0, 1], 2)
    ((0.5,), (0.0, 1.0))

    Args:
        name: of the option, for the error.
        values: the numbers.
        count: how many they must be; None for any number.

    Raises:
        UsageError: something else, or another count.
    """
    if values is None:
        return None
    try:
        if isinstance(values, str):
            raise TypeError
        numbers = tuple(map(float, values)) if isinstance(values, Iterable) else (float(values),)
    except (TypeError, ValueError):
        raise UsageError(f"`{name}`: must be numbers, such as [0.485, 0.456, 0.406], not {values!r}") from None
    if count is not None and len(numbers) != count:
        raise UsageError(f"`{name}`: must be {count} numbers, not {len(numbers)}")
    return numbers
