"""Pictures of a page; filled by `runs`, which can decode images."""

from dataclasses import dataclass, field

from normcli.report.facts import ImageFacts


@dataclass(frozen=True)
class Picture:
    """One image of the set, small.

    Attributes:
        key: its path, or container and member.
        data: a PNG or JPEG file, or None if the image could not be read again.
        kind: "image/png" or "image/jpeg".
        width, height: of the thumbnail.
        caption: the value that makes it extreme, as text.
    """

    key: str
    data: bytes | None = None
    kind: str = "image/png"
    width: int = 0
    height: int = 0
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class MappedPicture:
    """The typical image after one scheme, drawn on a scale common to all schemes.

    Attributes:
        scheme: "stored", "unit", "signed" or "contrast".
        picture: drawn so that -limit is black and +limit white.
        scale, shift: per channel, on pixels in 0-1.
    """

    scheme: str
    picture: Picture
    scale: list[float]
    shift: list[float]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures for a page.

    Attributes:
        extremes: title -> pictures, most extreme first.
        strip: the typical image as stored and after each scheme.
        limit: the value that is drawn white in the strip.
        scale: a sentence about how values become gray levels and bands colors; "" where pictures look as stored.
        facts: sizes, classes and copies, if every image was seen.
    """

    extremes: dict[str, list[Picture]] = field(default_factory=dict)
    strip: list[MappedPicture] = field(default_factory=list)
    limit: float = 1.0
    scale: str = ""
    facts: ImageFacts | None = None
