"""Axes of arrays with more than rows and columns: letters for each, and the planes that are images."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from normcli.errors import InputError, UsageError
from normcli.options.field import Options, option
from normcli.sources.containers import SkipEmpty, skip_empty_option
from normcli.sources.item import ColumnLabel
from normcli.sources.listing import axis_of

log = logging.getLogger("normcli.sources")

Coordinates = Callable[[int, int], list[str] | None]
MOST_PLANES = 100_000_000
_FEW = (1, 2, 3, 4)  # channels
_MOST_BANDS = 32
_SAME = {"H": "Y", "W": "X"}
# names of dimensions in CF and xarray files
_NAMES = {
    "Y": ("y", "lat", "latitude", "rlat", "nav_lat", "south_north", "row", "rows", "height", "yc"),
    "X": ("x", "lon", "longitude", "rlon", "nav_lon", "west_east", "col", "cols", "column", "columns", "width", "xc"),
    "T": ("t", "time", "valid_time", "forecast_time", "step", "frame"),
    "Z": ("z", "lev", "level", "plev", "pressure_level", "isobaric", "depth", "altitude", "hybrid"),
    "C": ("c", "channel", "channels", "band", "bands"),
}


class DatasetOptions(Options):
    """Open options of files that hold arrays by name: HDF5, NetCDF4 and Zarr."""

    variable: str | None = option(
        "Path of the array of images. Wildcards select several arrays, and the text that they match is the label: "
        "/data/demo_*/actions (default: the only one of 2 or more axes, or OME-Zarr images)."
    )
    axes: str | None = option(
        "A letter for each axis: Y rows, X columns, C channels, others number the images; NC: rows of numbers, "
        "counted as vectors (default: by names of dimensions, else by the sizes)."
    )
    skip_empty: SkipEmpty = skip_empty_option()


class Planes(NamedTuple):
    """The images of an array: index and name of each one, and the order of its axes.

    Attributes:
        shape: of the array.
        axes: a letter for each axis.
        names: of the dimensions as the file has them; () where it has none.
    """

    shape: tuple[int, ...]
    axes: str
    names: tuple[str, ...] = ()

    @property
    def outer(self) -> tuple[int, ...]:
        """Return the positions of the axes that number the images."""
        return tuple(i for i, letter in enumerate(self.axes) if letter not in "YXC")

    @property
    def order(self) -> tuple[int, ...]:
        """Return the axes of one image, without the outer ones, as rows, columns and channels."""
        inner = [letter for letter in self.axes if letter in "YXC"]
        return tuple(inner.index(letter) for letter in "YXC" if letter in inner)

    @property
    def values(self) -> int:
        """Return the number of samples of one image."""
        count = 1
        for length, letter in zip(self.shape, self.axes, strict=True):
            count *= length if letter in "YXC" else 1
        return count

    def each(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield name and index of every image; the name is "" where the array is one image.

        Raises:
            InputError: an axis without length, or too many images.
        """
        count = 1
        for i in self.outer:
            count *= self.shape[i]
        if 0 in self.shape:
            raise InputError("empty", f"an array of shape {self.shape} has no samples")
        if count > MOST_PLANES:
            raise InputError("bomb", f"an array of shape {self.shape} has {count:,} planes")
        for numbers in product(*(range(self.shape[i]) for i in self.outer)):
            index: list[Any] = [slice(None)] * len(self.shape)
            for i, number in zip(self.outer, numbers, strict=True):
                index[i] = number
            yield "/".join(map(self._numbered, self.outer, numbers)), tuple(index)

    def _numbered(self, axis: int, number: int) -> str:
        return f"{number:0{len(str(self.shape[axis] - 1))}d}"

    def groups(self, source: str, group_by: str | None, coordinates: Coordinates | None = None) -> "AxisGroups | None":
        """Return the groups of the images along the axis that `group_by` names; None if it names none.

        Args:
            source: for messages.
            group_by: "axis:" and a letter, or a name of a dimension.
            coordinates: of an axis, by its position and its length; without any, groups are numbers.

        Raises:
            UsageError: no such axis numbers the images.
        """
        name = axis_of(group_by)
        if name is None:
            return None
        for i in self.outer:
            if name.upper() == self.axes[i] or name in self.names[i : i + 1]:
                values = None if coordinates is None else coordinates(i, self.shape[i])
                return AxisGroups(i, values or [self._numbered(i, number) for number in range(self.shape[i])])
        each = (self.names[i] if self.names and self.names[i] else self.axes[i] for i in self.outer)
        what = f"they are numbered by {', '.join(each)}" if self.outer else "it is one image"
        raise UsageError(f"`group_by` {group_by}: no such axis numbers the images of {source}: {what}")


class AxisGroups(NamedTuple):
    """Groups of images by their place on one axis.

    Attributes:
        axis: its position.
        labels: of every place.
    """

    axis: int
    labels: list[str]

    def label(self, index: tuple[Any, ...]) -> ColumnLabel:
        """Return the group of the image at an index."""
        return ColumnLabel(self.labels[index[self.axis]])


def planes_of(source: str, shape: tuple[int, ...], axes: str | None, names: Sequence[str] = ()) -> Planes:
    """Return the images of an array.

    Args:
        source: for messages.
        shape: of the array.
        axes: letters of the user; None recognizes them.
        names: of the dimensions as the file has them, "" where it has none.

    Raises:
        InputError: fewer than two axes.
        UsageError: letters that do not fit, or axes that are not clear.
    """
    if len(shape) < 2:
        raise InputError("not-an-image", f"an array of shape {shape}; images need 2 axes or more")
    if axes is not None:
        letters = "".join(_SAME.get(letter, letter) for letter in axes.upper())
        if len(letters) != len(shape):
            raise UsageError(f"{source}: an array of shape {shape} has {len(shape)} axes, not those of -O axes={axes}")
        if not letters.isalpha() or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
            raise UsageError(f"`open_options` axes={axes}: must be one letter for each axis, Y and X among them")
        return Planes(shape, letters, tuple(names))
    return Planes(shape, letters_by_names(names) or _by_lengths(source, shape), tuple(names))


def coordinate_texts(values: Any, length: int) -> list[str] | None:
    """Return the values of a coordinate as names of groups; None if they are not one number for each place."""
    import numpy as np

    array = np.asarray(values)
    if array.shape != (length,) or array.dtype.kind not in "uif":
        return None
    texts = [f"{value:.10g}" for value in array.tolist()]
    return texts if len(set(texts)) == length else None


def letters_by_names(names: Sequence[str]) -> str | None:
    """Return letters by the names of dimensions; None if rows or columns are not among them.

    >>> letters_by_names(["time", "level", "latitude", "longitude"]), letters_by_names(["n", "x", "y"])
    ('TZYX', 'NXY')
    >>> letters_by_names(["phony_dim_0", "phony_dim_1"])
    """
    letters = ""
    for name in names:
        known = next((letter for letter, texts in _NAMES.items() if name.lower() in texts), "")
        free = next((letter for letter in "NABDEFGIJKLMOPQRSUVW" if letter not in letters), "")
        letters += known if known and known not in letters else free
    return letters if {"Y", "X"} <= set(letters) and len(letters) == len(names) else None


def _by_lengths(source: str, shape: tuple[int, ...]) -> str:
    remedy = "-O axes=NYX"
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        bands = shape[0] <= _MOST_BANDS or (shape[2] <= _MOST_BANDS and shape[2] != shape[1])
        if not bands:
            log.warning(
                "%s: read as %d gray images of %d x %d (`open_options` axes=CYX or YXC reads bands)", source, *shape
            )
            return "NYX"
        raise UsageError(f"{source}: shape {shape} may be NYX, YXC or CYX (choose one: {remedy})")
    if len(shape) == 4 and (shape[3] in _FEW) != (shape[1] in _FEW):
        return "NYXC" if shape[3] in _FEW else "NCYX"
    raise UsageError(f"{source}: the axes of shape {shape} are not clear (one letter for each: -O axes=TZYX)"[:400])
