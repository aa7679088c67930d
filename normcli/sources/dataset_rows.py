"""Rows of numbers in named arrays, HDF5 and Zarr: vectors, such as the actions of an episode."""

import fnmatch
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError, UsageError
from normcli.sources.item import Item, Items, Vectors
from normcli.sources.tagged import UNSCALED
from normcli.sources.vectors import as_floats, component_names, rows_in_block

Region = tuple[tuple[int, ...], tuple[int, ...]]
_WORK = 4  # times the memory of the numbers, which it takes to count them
_MOST_COLUMNS = 32  # of floats that may be vectors rather than one image


class DatasetRows(NamedTuple):
    """The loader of a block of rows; `samples` loads them as an array with tags, (N) or (N,C)."""

    samples: Any
    path: str
    names: tuple[str, ...]
    first: int
    rows: int

    def __call__(self) -> Vectors:
        array = self.samples()
        (factor, offset), hidden, _ = array.tags
        rows = as_floats(np.asarray(array)).reshape(self.rows, len(self.names))
        if (factor, offset) != UNSCALED:
            rows = rows * np.float64(factor) + np.float64(offset)
        if hidden is not None:
            rows = np.where(hidden.reshape(rows.shape), np.nan, rows)
        return Vectors(rows, self.names, self.path, self.first)

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the rows take, and their counting."""
        return _WORK * 8 * self.rows * len(self.names)

    @property
    def inputs(self) -> int:
        """Return the number of rows."""
        return self.rows

    def fingerprint(self) -> str:
        """Return a text that changes with the rows."""
        return f"{self.samples.fingerprint()}:{self.first}:{self.rows}"


def is_rows(axes: str | None) -> bool:
    """Return True for the axes of vectors, with neither rows nor columns of images.

    >>> is_rows("NC"), is_rows("t"), is_rows("NYX"), is_rows(""), is_rows(None)
    (True, True, False, False, False)
    """
    return axes is not None and 1 <= len(axes) <= 2 and not set(axes.upper()) & set("YXHW")


def rows_of(name: str, shape: tuple[int, ...], axes: str, label: str | None, load: Callable[[Region], Any]) -> Items:
    """Yield the rows of an array in blocks.

    Args:
        name: of the array; its last part names the components.
        shape: (N) or (N,C).
        axes: a letter for each axis, C for the components.
        label: group of the rows.
        load: returns the loader of a region.

    Raises:
        InputError: no rows, or too many components.
        UsageError: axes that do not fit.
    """
    letters = axes.upper()
    if len(letters) != len(shape) or letters[0] == "C" or letters[1:] not in ("", "C"):
        raise UsageError(f"`open_options` axes={axes}: {name} of shape {shape} has no rows of vectors (-O axes=NC)")
    if not shape[0]:
        raise InputError("empty", f"an array of shape {shape} has no rows")
    width = shape[1] if len(shape) == 2 else None
    names, step = component_names(name.rpartition("/")[2], width), rows_in_block(1 if width is None else width)
    for first in range(0, shape[0], step):
        count = min(step, shape[0] - first)
        region = (first, *(0 for _ in shape[1:])), (first + count, *shape[1:])
        yield Item(f"{name}/{first}", DatasetRows(load(region), name, names, first, count), label)


def check_image(source: str, shape: tuple[int, ...], kind: str) -> None:
    """Check that two axes without names and without -O axes are not rows of vectors.

    Raises:
        UsageError: they may be.
    """
    if kind == "f" and len(shape) == 2 and shape[1] <= min(_MOST_COLUMNS, shape[0] - 1):
        raise UsageError(f"{source}: shape {shape} may be rows of vectors or an image (-O axes=NC or YX)")


def has_wildcard(variable: str) -> bool:
    """Return True for a path with wildcards.

    >>> has_wildcard("/data/demo_*/actions"), has_wildcard("/action")
    (True, False)
    """
    return any(character in variable for character in "*?[")


def group_of(variable: str, path: str) -> str | None:
    """Return the parts of a path that wildcards matched; None if a part does not match.

    >>> group_of("/data/demo_*/actions", "/data/demo_7/actions"), group_of("data/*/obs", "data/demo_7/actions")
    ('demo_7', None)
    """
    patterns, parts = variable.strip("/").split("/"), path.strip("/").split("/")
    if len(patterns) != len(parts) or not all(map(fnmatch.fnmatchcase, parts, patterns)):
        return None
    return "/".join(part for part, pattern in zip(parts, patterns, strict=True) if has_wildcard(pattern))
