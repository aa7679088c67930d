"""The pictures of a report: the most extreme images of a set, known in bounded memory and drawn at the end."""

import heapq
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from normcli import images
from normcli.errors import InputError
from normcli.images.thumbnail import SIDE, thumbnail
from normcli.options.shared import DecodeOptions
from normcli.report.axis import value_axis, within_unit
from normcli.report.pictures import Gallery, MappedPicture, Picture
from normcli.runs.image_table import ImageRow, ImageTable
from normcli.sources import Item
from normcli.summary import Summary
from normcli.summary.summary import rgb_channels, white_level
from normcli.tally import bucket_dtype

SHOWN = 6
# Distance from the dataset mean is known only at the end. A pool of 64 by the mean so far, ranked again as it
# moves, holds the nearest image unless 64 others were nearer at some time and farther at the end.
_POOL = 64


class SeenImage(NamedTuple):
    """The item and the moments of one image, to rank it and to read it again.

    Attributes:
        item: its name and recipe.
        pixels: their number.
        mean, std: per channel of the image, in 0-1 or raw units.
        row: its name, size and digest.
    """

    item: Item
    pixels: int
    mean: list[float]
    std: list[float]
    row: ImageRow


class GalleryCollector:
    """Darkest, brightest, flattest and most tinted images so far, with the table of all; memory stays bounded."""

    def __init__(self) -> None:
        self._extremes: dict[str, list[SeenImage]] = {name: [] for name in _ORDERS}
        self._near: list[SeenImage] = []
        self._weight = 0
        self._images = 0
        self._sums = [0.0, 0.0, 0.0]
        self._squares = [0.0, 0.0, 0.0]
        self._table = ImageTable()

    def add(self, batch: Iterable[SeenImage]) -> None:
        """Take the images of one batch."""
        batch = list(batch)
        self._images += len(batch)
        self._table.add(image.row for image in batch)
        for image in batch:
            self._weight += image.pixels
            for c, (mean, std) in enumerate(zip(_three(image.mean), _three(image.std), strict=True)):
                self._sums[c] += image.pixels * mean
                self._squares[c] += image.pixels * (std * std + mean * mean)
            self._near.append(image)
            if len(self._near) > 8 * _POOL:  # counted in images: the batches depend on the machine's speed
                self._rank()
        for name, key in _ORDERS.items():
            candidates = batch if name != _TINT else [image for image in batch if _is_tinted(image)]
            self._extremes[name] = heapq.nsmallest(SHOWN, [*self._extremes[name], *candidates], key=key)

    def _rank(self) -> None:
        center = [s / self._weight for s in self._sums]
        pairs = zip(self._squares, center, strict=True)
        spread = [math.sqrt(max(q / self._weight - m * m, 0)) or 1.0 for q, m in pairs]

        def distance(image: SeenImage) -> float:
            rows = zip(_three(image.mean), center, spread, strict=True)
            return math.sqrt(sum(((m - c) / s) ** 2 for m, c, s in rows) / 3)

        self._near = heapq.nsmallest(_POOL, self._near, key=lambda s: (distance(s), s.item.key))

    def close(self) -> None:
        """Remove the table of a run that failed."""
        self._table.close()

    def gallery(self, summary: Summary, reading: DecodeOptions) -> Gallery:
        """Read the extremes again and draw them, and sum up the table.

        Args:
            summary: of all the images.
            reading: as they were read.
        """
        facts = self._table.facts()
        self._table.close()
        if not self._weight:
            return Gallery()
        self._rank()
        low, high = _shown_range(summary)

        def draw(image: SeenImage, caption: str) -> Picture:
            pixels, orientation = _pixels(image.item, reading, summary)
            if pixels is None:
                return Picture(key=image.item.key, caption=caption)
            return _picture(image.item.key, (pixels - low) / (high - low), orientation, caption)

        selection = self._extremes
        if self._images <= SHOWN:
            selection = {"from dark to bright": self._extremes["darkest"]}
        extremes = {
            name: [draw(image, _caption(name, image)) for image in images]
            for name, images in selection.items()
            if images
        }
        strip = _strip(self._near[0].item, reading, summary)
        return Gallery(extremes=extremes, **strip, scale=_describe_scale(summary, low, high), facts=facts)


def _lightness(image: SeenImage) -> float:
    return _average(image.mean)


def _flatness(image: SeenImage) -> float:
    return _average(image.std)


def _average(values: list[float]) -> float:
    """Return the mean over the channels that are seen: alpha is none, and of many bands every one counts."""
    colors = _three(values) if len(values) <= 4 else values
    return sum(colors) / len(colors)


def _tint(image: SeenImage) -> float:
    """Return the distance of the means of red, green and blue."""
    return max(_three(image.mean)) - min(_three(image.mean))


def _is_tinted(image: SeenImage) -> bool:
    return len(image.mean) in (3, 4) and _tint(image) > 0


_TINT = "strongest color cast"
# sorting keys, each with the name at the end so that ties do not depend on the order of files
_ORDERS: dict[str, Callable[[SeenImage], Any]] = {
    "darkest": lambda image: (_lightness(image), image.item.key),
    "brightest": lambda image: (-_lightness(image), image.item.key),
    "flattest": lambda image: (_flatness(image), image.item.key),
    _TINT: lambda image: (-_tint(image), image.item.key),
}


def _three(values: list[float]) -> list[float]:
    """Return the values to compare images of gray and color by: three channels."""
    return [values[c] for c in rgb_channels(len(values))]


def _caption(name: str, image: SeenImage) -> str:
    if name == "flattest":
        return f"std {_significant(_flatness(image))}"
    if name == _TINT:
        means = dict(zip("RGB", _three(image.mean), strict=True))
        high, low = max(means, key=lambda c: means[c]), min(means, key=lambda c: means[c])
        return f"{high} − {low} = {_significant(_tint(image))}"
    return f"mean {_significant(_lightness(image))}"


def _significant(value: float) -> str:
    """Return a value with three decimals, or three digits where these would hide it."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 10 else f"{value:.3g}"


def _shown_range(summary: Summary) -> tuple[float, float]:
    """Return the values drawn as black and white: the ends of the histograms, so that no picture is all black."""
    axis = value_axis([summary])
    return axis.low, 1.0 if _is_unit(summary) else axis.high


def _is_unit(summary: Summary) -> bool:
    axis = value_axis([summary])
    return within_unit(summary) and not any(axis.is_open) and axis.low == 0.0


def _describe_scale(summary: Summary, low: float, high: float) -> str:
    sentences = []
    if not _is_unit(summary):
        sentences.append(f"Drawn from {low:.4g} (black) to {high:.4g} (white).")
    if len(summary.channels) > 4:
        sentences.append("Bands 0, 1 and 2 are drawn as red, green and blue.")
    return " ".join(sentences)


def _pixels(item: Item, reading: DecodeOptions, summary: Summary) -> tuple[np.ndarray[Any, Any] | None, int]:
    """Read an image again, in the range of the summary; None if it cannot be read any more."""
    try:
        image = images.decode(item.load(), reading)
    except InputError:
        return None, 1
    full = white_level(bucket_dtype(image.pixels), summary.settings.get("max_value")) or 1
    # every k-th pixel before it becomes float: 178 megapixels would take 2 GB
    k = max(1, max(image.pixels.shape[:2]) // (4 * SIDE))
    shown = image.pixels[::k, ::k].astype(np.float32)
    if image.scales:
        full = summary.max_value or 1
        scale, offset = np.array(image.scales, np.float32).T
        shown = shown * scale + offset
    return shown / np.float32(full), image.orientation


def _picture(key: str, unit: np.ndarray[Any, Any], orientation: int, caption: str = "") -> Picture:
    return Picture(key, *thumbnail(unit, orientation), caption)


def _strip(item: Item, reading: DecodeOptions, summary: Summary) -> dict[str, Any]:
    """Return the most typical image as stored, and after unit, signed and contrast on one common scale."""
    pixels, orientation = _pixels(item, reading, summary)
    if pixels is None or not _is_unit(summary) or not all(summary.std) or pixels.shape[2] > len(summary.mean):
        return {}
    if pixels.shape[2] < len(summary.mean):
        pixels = np.repeat(pixels[:, :, :1], len(summary.mean), axis=2)
    ones = [1.0] * len(summary.mean)
    contrast = [1 / s for s in summary.std], [-m / s for m, s in zip(summary.mean, summary.std, strict=True)]
    schemes = {
        "unit": (ones, [0.0] * len(ones)),
        "signed": ([2.0] * len(ones), [-1.0] * len(ones)),
        "contrast": contrast,
    }
    ends = [abs(k * v + b) for k, b in zip(*contrast, strict=True) for v in (0.0, 1.0)]
    limit = max(ends)
    strip = [
        MappedPicture(
            scheme="as stored", picture=_picture(item.key, pixels, orientation), scale=ones, shift=[0.0] * len(ones)
        )
    ]
    for name, (factor, shift) in schemes.items():
        mapped = pixels * np.array(factor, np.float32) + np.array(shift, np.float32)
        picture = _picture(item.key, (mapped + limit) / (2 * limit), orientation)
        strip.append(MappedPicture(scheme=name, picture=picture, scale=factor, shift=shift))
    return {"strip": strip, "limit": limit}
