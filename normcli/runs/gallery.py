"""The most extreme images of a set, kept in bounded memory while it is counted and drawn at the end."""

import heapq
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from normcli import images
from normcli.errors import InputError
from normcli.images.thumbnail import SIDE, thumbnail
from normcli.options.images import DecodeOptions
from normcli.report.figures import within_unit
from normcli.report.pictures import Gallery, MappedPicture, Picture
from normcli.sources import Item
from normcli.summary import Summary
from normcli.summary.channels import rgb_channels, white_level
from normcli.tally import bucket_dtype

SHOWN = 6
# Distance from the dataset mean is known only at the end. A pool of 64 by the mean so far, ranked again as it
# moves, holds the final 6 unless 58 others were farther at some time and nearer at the end.
_POOL = 64


class SeenImage(NamedTuple):
    """The item and the moments of one image, to rank it and to read it again.

    Attributes:
        item: its name and recipe.
        pixels: how many it has.
        mean, std: per channel of the image, in 0-1 or raw units.
    """

    item: Item
    pixels: int
    mean: list[float]
    std: list[float]


class ExtremeImages:
    """Darkest, brightest, flattest and farthest images so far; memory does not grow with the set."""

    def __init__(self) -> None:
        self._kept: dict[str, list[SeenImage]] = {"darkest": [], "brightest": [], "flattest": []}
        self._far: list[SeenImage] = []
        self._near: list[SeenImage] = []
        self._weight = 0
        self._sums = [0.0, 0.0, 0.0]
        self._squares = [0.0, 0.0, 0.0]

    def add(self, batch: Iterable[SeenImage]) -> None:
        """Take the images of one batch."""
        batch = list(batch)
        for image in batch:
            self._weight += image.pixels
            for c, (mean, std) in enumerate(zip(_three(image.mean), _three(image.std), strict=True)):
                self._sums[c] += image.pixels * mean
                self._squares[c] += image.pixels * (std * std + mean * mean)
            self._far.append(image)
            self._near.append(image)
            if len(self._far) > 8 * _POOL:  # counted in images: the batches depend on the machine's speed
                self._rank()
        for name, key in _ORDERS.items():
            self._kept[name] = heapq.nsmallest(SHOWN, [*self._kept[name], *batch], key=key)

    def _rank(self) -> None:
        center = [s / self._weight for s in self._sums]
        pairs = zip(self._squares, center, strict=True)
        spread = [math.sqrt(max(q / self._weight - m * m, 0)) or 1.0 for q, m in pairs]

        def distance(image: SeenImage) -> float:
            rows = zip(_three(image.mean), center, spread, strict=True)
            return math.sqrt(sum(((m - c) / s) ** 2 for m, c, s in rows) / 3)

        self._far = heapq.nsmallest(_POOL, self._far, key=lambda s: (-distance(s), s.item.key))
        self._near = heapq.nsmallest(_POOL, self._near, key=lambda s: (distance(s), s.item.key))

    def gallery(self, summary: Summary, reading: DecodeOptions) -> Gallery:
        """Read the extremes again and draw them.

        Args:
            summary: of all the images.
            reading: as they were read.
        """
        if not self._weight:
            return Gallery()
        self._rank()
        low, high = _shown_range(summary)

        def draw(image: SeenImage, caption: str) -> Picture:
            pixels, orientation = _pixels(image.item, reading, summary)
            if pixels is None:
                return Picture(key=image.item.key, caption=caption)
            return _picture(image.item.key, (pixels - low) / (high - low), orientation, caption)

        extremes = {
            name: [draw(image, _caption(name, image, summary)) for image in images]
            for name, images in self._kept.items()
        }
        extremes["farthest from the mean"] = [
            draw(image, _caption("farthest", image, summary)) for image in self._far[:SHOWN]
        ]
        return Gallery(extremes=extremes, **_strip(self._near[0].item, reading, summary))


def _lightness(image: SeenImage) -> float:
    return sum(_three(image.mean)) / 3


def _flatness(image: SeenImage) -> float:
    return sum(_three(image.std)) / 3


# sorting keys, each with the name at the end so that ties do not depend on the order of files
_ORDERS: dict[str, Callable[[SeenImage], Any]] = {
    "darkest": lambda image: (_lightness(image), image.item.key),
    "brightest": lambda image: (-_lightness(image), image.item.key),
    "flattest": lambda image: (_flatness(image), image.item.key),
}


def _three(values: list[float]) -> list[float]:
    """Return the values to compare images of gray and color by: three channels."""
    return [values[c] for c in rgb_channels(len(values))]


def _caption(name: str, image: SeenImage, summary: Summary) -> str:
    if name == "flattest":
        return f"std {_flatness(image):.3f}"
    if name == "farthest":
        rows = zip(_three(image.mean), _three(summary.mean), _three(summary.std), strict=True)
        return f"{math.sqrt(sum(((m - c) / s) ** 2 if s else 0.0 for m, c, s in rows) / 3):.2f} std away"
    return f"mean {_lightness(image):.3f}"


def _shown_range(summary: Summary) -> tuple[float, float]:
    """Return the values drawn as black and white: 0 and 1, or the range of a dataset that exceeds them."""
    if within_unit(summary):
        return 0.0, 1.0
    low = min((v for v in summary.min if v is not None), default=0.0)
    high = max((v for v in summary.max if v is not None), default=1.0)
    return low, high if high > low else low + 1


def _pixels(item: Item, reading: DecodeOptions, summary: Summary) -> tuple[np.ndarray[Any, Any] | None, int]:
    """Read an image again, in the range of the summary; None if it cannot be read any more."""
    try:
        image = images.decode(item.load(), reading)
    except InputError:
        return None, 1
    full = white_level(bucket_dtype(image.pixels), summary.settings.get("max_value")) or 1
    # every k-th pixel before it becomes float: 178 megapixels would take 2 GB
    k = max(1, max(image.pixels.shape[:2]) // (4 * SIDE))
    return image.pixels[::k, ::k].astype(np.float32) / np.float32(full), image.orientation


def _picture(key: str, unit: np.ndarray[Any, Any], orientation: int, caption: str = "") -> Picture:
    return Picture(key, *thumbnail(unit, orientation), caption)


def _strip(item: Item, reading: DecodeOptions, summary: Summary) -> dict[str, Any]:
    """The most typical image as stored, and after unit, signed and contrast on one common scale."""
    pixels, orientation = _pixels(item, reading, summary)
    if pixels is None or not within_unit(summary) or not all(summary.std) or pixels.shape[2] > len(summary.mean):
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
