"""`Summary`: the statistics of a set of images, for Python and as the content of a statistics file."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Union, dataclass_transform

from normcli import storage
from normcli.errors import StatisticsFileError, UsageError, naming_parameters, unknown
from normcli.summary.file import SCHEMA, parse_document, read_document

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from normcli.tally import Tally

SummarySource: TypeAlias = Union["Summary", str, "os.PathLike[str]"]


_ABSENT = object()
_NO_DETAILS = ("percentile_details", None)  # absent from files in which nobody asked for percentiles


class _Factory:
    """Maker of an attribute's default."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def _field(*, default_factory: Callable[[], Any]) -> Any:
    return _Factory(default_factory)


@dataclass_transform(kw_only_default=True, field_specifiers=(_field,))
class _Values:
    """Attributes by keyword, equality and text by them.

    To type checkers a subclass is a dataclass. It is none at run time, because a dataclass compiles its methods anew
    in every process: 3 ms of the 60 ms of `show`.
    """

    def __init__(self, **values: Any) -> None:
        for name in type(self).__annotations__:
            value = values.pop(name, _ABSENT)
            if value is _ABSENT:
                value = getattr(type(self), name, _ABSENT)
            if value is _ABSENT:
                raise TypeError(f"{type(self).__name__}() requires {name!r}")
            vars(self)[name] = value.make() if isinstance(value, _Factory) else value
        if values:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {next(iter(values))!r}")

    def replace(self, **values: Any) -> Self:
        """Return the same with other values."""
        return type(self)(**{**self._values(), **values})

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).__annotations__}

    __replace__ = replace  # for copy.replace
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._values().items())})"


class GroupSummary(_Values):
    """Statistics of one group of images, in the units of the summary.

    Attributes:
        images: number of images.
        pixels: number of valid pixels, or the sum of their weights; a list per channel where it differs.
        mean, std: pooled, per channel.
        percentiles: by percentage, per channel; of 16-bit and float images to 8 significant bits.
        conventions: mean and std per channel in every convention.
        percentile_details: as in `Summary`.
    """

    images: int
    pixels: int | float | list[int | float]
    mean: list[float]
    std: list[float]
    percentiles: dict[str, list[float]]
    conventions: dict[str, dict[str, list[float] | None]]
    percentile_details: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, in the order of the file."""
        return {key: _from_nan(value) for key, value in self._values().items() if (key, value) != _NO_DETAILS}

    @property
    def pixels_text(self) -> str:
        """Return the number of pixels as text."""
        return pixels_text(self.pixels)

    def __repr__(self) -> str:
        from normcli.summary import views

        return views.group_line(self)


class Summary(_Values):
    """Statistics of a set of images; the attributes are the keys of the statistics file.

    Numbers per channel are lists in the order of `channels`, in 0-1 or, where `range` is "raw", in raw units.

    Attributes:
        complete: no input failed, no shard is missing and no merge was forced.
        images: images counted; `failed` and `skipped` count the other inputs.
        pixels: valid pixels, or the sum of their weights; a list per channel where it differs.
        invalid: per channel, the pixels that do not count in it: nodata, masked, transparent, NaN; [] where all do.
        channels: ["R", "G", "B"], ["L"], …
        max_value: the stored value that maps to 1.0: 255, 65535 or the setting; None for raw units.
        convention: the convention of `mean` and `std`: "pooled_population", or with other weights
            "equal_image_weights", "equal_group_weights" or "equal_samples_per_case".
        range: "0-1", or "raw" for float images without a max_value.
        channel_order: "RGB", "L", "6 bands", …
        mean, std, min, max: per channel; min and max are None where subtraction made them unknown. A channel without
            a valid pixel has NaN for mean, std and percentiles (null in the file), and None for min and max.
        percentiles: by percentage, per channel; of float images to 8 significant bits.
        percentile_details: where percentiles were asked for, their method, the names that were asked for, whether all
            are exact, and if not, the bound of each error, |percentile - exact percentile|; else None.
        conventions: mean and std per channel in every convention.
        composition: number of images by format, mode and depth; with alpha, EXIF, damage, …
        failures, skips: number of inputs by reason.
        shards: {"of": N, "parts": [I, …]} where only some shards of a dataset were counted, else None.
        forced: conflicts that a merge was forced over: "settings.NAME", "shards", "images".
        settings: every setting that changes the numbers.
        provenance: versions, decoders and the digest of the images.
        groups: statistics by group.
        sample: of an estimate: images read, of how many, and the intervals of mean and std; else None.
        inputs: exact counts of inputs by kind and reason, and the digest of their bytes, as JSON values.
        state: exact counts of pixel values, as JSON values: the same for every container of the same pixels.

    >>> import numpy as np
    >>> from normcli.tally import Tally
    >>> tally = Tally()
    >>> _ = tally.count(np.array([[[0], [255]]], np.uint8), group="a")
    >>> summary = Summary.of(tally, {"color": "auto", "alpha": "drop", "max_value": None}, {"normcli": "0.1.0"})
    >>> summary
    <Summary 1 image, L, mean .500, std .500>
    >>> summary.group("a").std, summary.histogram("L", bins=2)[0].tolist()
    ([0.5], [1.0, 1.0])
    >>> print(summary.format("env", digits=4))
    # pooled population over 1 image; range 0-1, L
    DATASET_MEAN='0.5'
    DATASET_STD='0.5'
    DATASET_CHANNELS='L'
    """

    complete: bool
    images: int
    failed: int
    skipped: int
    pixels: int | float | list[int | float]
    invalid: list[int | float] = _field(default_factory=list)
    channels: list[str]
    max_value: int | None
    convention: str
    range: str
    channel_order: str
    mean: list[float]
    std: list[float]
    min: list[float | None]
    max: list[float | None]
    percentiles: dict[str, list[float]]
    conventions: dict[str, dict[str, list[float] | None]]
    composition: dict[str, Any]
    failures: dict[str, int]
    skips: dict[str, int]
    shards: dict[str, Any] | None = None
    forced: list[str] = _field(default_factory=list)
    settings: dict[str, Any]
    provenance: dict[str, Any]
    groups: dict[str, GroupSummary] = _field(default_factory=dict)
    sample: dict[str, Any] | None = None
    percentile_details: dict[str, Any] | None = None
    inputs: dict[str, Any]
    state: dict[str, Any]

    @classmethod
    def of(
        cls,
        tally: "Tally",
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        shards: dict[str, Any] | None = None,
        forced: Iterable[str] = (),
    ) -> "Summary":
        """Compute the statistics of a tally.

        Args:
            tally: the counts.
            settings: color, alpha, max_value and all others that change the numbers; a "shard" among them is the
                shard counted, if `shards` is None.
            provenance: versions.
            shards: the shards counted, where these are not all.
            forced: conflicts that a merge was forced over.

        Raises:
            NoInputError: no image was counted.
            UsageError: the images have no channels in common.
        """
        from normcli.summary.conventions import build_summary

        return build_summary(tally, settings, provenance, shards, list(forced))

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Summary":
        """Read a statistics file, a pipe, or stdin as "-".

        Raises:
            StatisticsFileError: missing, not a statistics file, damaged, or of another schema.
        """
        return cls._from_document(read_document(os.fspath(path)))

    @classmethod
    def from_json(cls, text: str | bytes, name: str = "statistics") -> "Summary":
        """Parse the text of a statistics file; `name` is for the errors.

        Raises:
            StatisticsFileError: not a statistics file, damaged, or of another schema.
        """
        return cls._from_document(parse_document(text, name))

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> "Summary":
        keys = GroupSummary.__annotations__
        document = {**document, **{key: _to_nan(document[key]) for key in _WITH_NAN}}
        groups = {
            name: GroupSummary(**{key: value for key, value in group.items() if key in keys})
            for name, group in document["groups"].items()
        }
        own = cls.__annotations__
        return cls(**{**{key: value for key, value in document.items() if key in own}, "groups": groups})

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write the statistics file, completely or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        storage.write_file(Path(path), self.to_json().encode())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, in the order of the file."""
        document: dict[str, Any] = {"schema": SCHEMA}
        document.update(entry for entry in self._values().items() if entry != _NO_DETAILS)
        document["groups"] = {name: group.to_dict() for name, group in self.groups.items()}
        if not self.invalid:
            del document["invalid"]
            return document
        return {**document, **{key: _from_nan(document[key]) for key in _WITH_NAN}}

    @property
    def pixels_of(self) -> list[int | float]:
        """Return `pixels` per channel."""
        return self.pixels if isinstance(self.pixels, list) else [self.pixels] * len(self.channels)

    @property
    def pixels_text(self) -> str:
        """Return the number of pixels as text."""
        return pixels_text(self.pixels)

    @property
    def unit(self) -> str:
        """Return the unit that `images` counts: "image", or "vector" where all are rows of numbers."""
        formats = self.composition.get("format")
        return "vector" if formats and set(formats) == {"vectors"} else "image"

    def count_text(self, count: int) -> str:
        """Return a number of images or vectors as text: "2 images"."""
        return f"{count:,} {self.unit}{'s' * (count != 1)}"

    def to_json(self) -> str:
        """Return the text of the statistics file: one line per key, byte-identical for the same data."""
        return _to_text(self.to_dict())

    @property
    def tally(self) -> "Tally":
        """Return the exact counts.

        Raises:
            StatisticsFileError: the state is damaged.
            UsageError: a mixture, which has no counts.
        """
        from normcli.tally import Tally

        if "mixture" in self.settings:
            raise UsageError("these statistics are a mixture, which has no counts: use the statistics that it is of")
        try:
            return Tally.from_state({**self.state, **self.inputs})
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise StatisticsFileError(f"the state of these statistics is damaged: {error}") from None

    @property
    def convention_text(self) -> str:
        """Return convention, range and channel order as text: "pooled population, range 0-1, RGB"."""
        estimate = ""
        if self.sample is not None and self.sample["read"] != self.sample["of"]:
            estimate = f"estimate from {self.sample['read']} of {self.sample['of']} images; "
        elif self.sample is None and self.settings.get("sample"):
            estimate = "estimate from samples; "
        if "mixture" in self.settings:
            from normcli.summary.mixture import describe_mixture

            estimate = f"{describe_mixture(self.settings)}; {estimate}"
        order = self.channel_order if self.unit == "image" else f"{len(self.channels)} components"
        return f"{estimate}{self.convention.replace('_', ' ')}, {self.units_text}, {order}"

    @property
    def units_text(self) -> str:
        """Return the units of mean and std as text: "range 0-1", "raw units" or "units of the scale tags"."""
        if "scale" in self.composition:
            return "units of the scale tags" + ("" if self.max_value is None else f" / {self.max_value}")
        return "raw units" if self.range == "raw" else f"range {self.range}"

    def group(self, name: str) -> GroupSummary:
        """Return the statistics of one group.

        Raises:
            UsageError: no such group, or no groups were counted.
        """
        if not self.groups:
            raise UsageError("these statistics have no groups (count the images again with `group_by`)")
        if name not in self.groups:
            raise unknown("group", name, self.groups)
        return self.groups[name]

    def histogram(self, channel: str | int = 0, bins: int = 256) -> "tuple[NDArray[Any], NDArray[Any]]":
        """Compute the histogram of one channel.

        Integer images have equal bins from 0 to just above 1, so that each of 256 bins is one 8-bit level; raw units
        have equal bins from the smallest to the largest value, known to 8 significant bits.

        Args:
            channel: a name of `channels`, or its position.
            bins: number of bins.

        Returns:
            Pixels per bin (bins,), and the edges of the bins (bins + 1,) in the units of `mean`; as
            `numpy.histogram` returns them.

        Raises:
            UsageError: no such channel, or no bin.
            StatisticsFileError: the state is damaged.
        """
        from normcli.summary import views

        return views.histogram(self, channel, bins)

    @naming_parameters
    def with_percentiles(
        self, percentiles: "str | float | Iterable[str | float]", *, method: str = "linear"
    ) -> "Summary":
        """Return these statistics with more percentiles, in `percentiles` and in those of the groups.

        Percentiles are exact where the histogram knows every value: of 8- and 16-bit images. Those of float images,
        and of groups of 16-bit images, have an error, whose bound is in `percentile_details`; those that
        `stats(exact_percentiles=True)` made exact stay so, by the same method.

        Args:
            percentiles: from 0 to 100, such as 0.5 or "99.5"; "iqr" is the range between the quartiles.
            method: one of the methods of `numpy.percentile`; the percentiles of every file follow it too.

        Raises:
            UsageError: no percentile or method, or pixels with weights for which the method is not defined.
            StatisticsFileError: the state is damaged.
        """
        from normcli.summary.percentiles import with_percentiles

        return with_percentiles(self, percentiles, method)

    @naming_parameters
    def format(
        self, exporter: str, *, convention: str | None = None, group: str | None = None, digits: int | None = None
    ) -> str:
        """Return mean and std as code or config for another tool.

        Args:
            exporter: "torchvision", "timm", "yaml", …: the names that `normcli show --format` takes.
            convention: the convention of mean and std; that of the file by default.
            group: export the statistics of this group.
            digits: significant digits, and two more in the range of stored pixels; 0 is all of a float64. By default 4
                in code, and all in csv, yaml, toml, env and kaldi, as on the command line.

        Raises:
            UsageError: an unknown name, a convention or group that is not in the statistics, or a channel with
                std 0, by which the tool would divide.
        """
        from normcli.summary import views

        return views.export(self, exporter, convention, group, digits)

    @naming_parameters
    def report(self, path: "str | os.PathLike[str]", *, title: str = "") -> None:
        """Write a self-contained HTML page, completely or not at all.

        Args:
            path: the file to write.
            title: heading of the page, such as the name of the dataset.

        Raises:
            MissingExtraError: jinja2 is not installed.
            OutputError: the page cannot be written.
        """
        from normcli.summary import views

        views.report(self, path, title)

    def plot(self, ax: Any = None) -> Any:
        """Draw the histograms of all channels with Matplotlib.

        Args:
            ax: Matplotlib axes to draw on; a new figure by default.

        Returns:
            The axes.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from normcli.summary import views

        return views.plot(self, ax)

    def __repr__(self) -> str:
        from normcli.summary import views

        return views.one_line(self)

    def _repr_html_(self) -> str:
        from normcli.summary import views

        return views.html_table(self)

    def __add__(self, other: "Summary") -> "Summary":
        from normcli.summary.sums import merge

        return merge(self, other) if isinstance(other, Summary) else NotImplemented

    def __radd__(self, other: int) -> "Summary":
        return self if other == 0 else NotImplemented  # sum([a, b]) starts at 0

    def __sub__(self, other: "Summary") -> "Summary":
        from normcli.summary.sums import merge

        return merge(self, minus=[other]) if isinstance(other, Summary) else NotImplemented


def load(path: "str | os.PathLike[str]") -> Summary:
    """Read a statistics file, a pipe, or stdin as "-".

    Returns:
        The summary.

    Raises:
        StatisticsFileError: missing, not a statistics file, damaged, or of another schema.

    >>> load("nowhere.json")
    Traceback (most recent call last):
    normcli.errors.StatisticsFileError: nowhere.json: no such file
    """
    return Summary.load(path)


def as_summary(source: SummarySource) -> Summary:
    """Return a summary unchanged; load one from a path.

    Raises:
        StatisticsFileError: as `load`.
        UsageError: neither a summary nor a path.
    """
    if isinstance(source, Summary):
        return source
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"statistics must be a Summary or the path of a statistics file, not {source!r:.60}")
    return Summary.load(source)


def pixels_text(pixels: int | float | Sequence[int | float]) -> str:
    """Return a number of pixels, or their range over the channels, as text.

    >>> pixels_text(1200), pixels_text(1), pixels_text([1200, 0, 7])
    ('1,200 pixels', '1 pixel', '0 to 1,200 valid pixels')
    """
    if isinstance(pixels, Sequence):
        return f"{min(pixels):,} to {max(pixels):,} valid pixels"
    return f"{pixels:,} pixel{'s' * (pixels != 1)}"


_WITH_NAN = ("mean", "std", "percentiles", "conventions", "groups")  # NaN in a channel without a valid pixel


def _to_nan(value: Any) -> Any:
    """Return JSON values with NaN for every null in a list."""
    if isinstance(value, dict):
        return {key: _to_nan(entry) for key, entry in value.items()}
    return [math.nan if entry is None else entry for entry in value] if isinstance(value, list) else value


def _from_nan(value: Any) -> Any:
    """Undo `_to_nan`."""
    if isinstance(value, dict):
        return {key: _from_nan(entry) for key, entry in value.items()}
    return [None if entry != entry else entry for entry in value] if isinstance(value, list) else value


def _to_text(document: Mapping[str, Any]) -> str:
    """Return a statistics file's text: one JSON object, one line per key, byte-identical for the same data."""
    lines = (f"{json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in document.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


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


_ORDERS = {*_NAMES.values(), ("B", "G", "R"), ("B", "G", "R", "A"), ("L", "a", "b")}


def rgb_channels(count: int) -> tuple[int, int, int]:
    """Return the channels of an image to show as red, green and blue: the first three, or gray three times.

    >>> rgb_channels(4), rgb_channels(2)
    ((0, 1, 2), (0, 0, 0))
    """
    return (0, 1, 2) if count >= 3 else (0, 0, 0)


def source_channels(count: int, wanted: int) -> tuple[int, ...]:
    """Return, for each channel of a result, the channel of an image with `count` that it is taken from.

    Where color is wanted, gray is used as red, green and blue, and alpha stays alpha; else an image keeps its channels.

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
