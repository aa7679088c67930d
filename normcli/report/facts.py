"""Facts about the image files of a run: sizes, classes and copies; filled by `runs`."""

from dataclasses import dataclass, field

STEPS = 8  # bins per octave of widths, heights, aspect ratios, pixels and bytes


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Images with the same bytes.

    Attributes:
        images: their number.
        keys: the names of the first of them.
        labels: their classes, without repetition; more than one means that one image has several labels.
    """

    images: int
    keys: list[str]
    labels: list[str]


@dataclass(frozen=True, kw_only=True)
class CopyFacts:
    """All sets of images with the same bytes.

    Attributes:
        largest: the first of them: those of several classes, then the largest.
        sets: number of sets.
        repeated: number of images that repeat an earlier one.
        conflicts: number of sets whose images have different classes.
    """

    largest: list[Copies] = field(default_factory=list)
    sets: int = 0
    repeated: int = 0
    conflicts: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Sizes, classes and copies of the images that were counted; bounded, however many the images are.

    Bins are numbers of eighths of an octave: bin b holds values around 2^(b / 8).

    Attributes:
        images: number of images.
        sizes: the most frequent sizes: width, height, number of images.
        distinct_sizes: number of different sizes.
        widths, heights: smallest, median and largest, in pixels.
        grid: images by the bins of width and height.
        aspects: images by the bin of width / height.
        areas: images by the bin of width x height.
        file_sizes: images by the bin of their encoded bytes.
        bytes: encoded bytes of all images.
        labels: the largest classes and their number of images.
        distinct_labels: number of classes; 0 where the images have none.
        copies: images with the same bytes.
    """

    images: int
    sizes: list[tuple[int, int, int]]
    distinct_sizes: int
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    grid: dict[tuple[int, int], int]
    aspects: dict[int, int]
    areas: dict[int, int]
    file_sizes: dict[int, int]
    bytes: int
    labels: list[tuple[str, int]] = field(default_factory=list)
    distinct_labels: int = 0
    copies: CopyFacts = field(default_factory=CopyFacts)
