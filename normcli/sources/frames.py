"""Frames of image files that have several: pages of TIFF, frames of DICOM, pictures of GIF, APNG, WebP, AVIF and MPO.

Each frame is an item whose loader returns an encoded image: a page as a TIFF of its own, a picture of an MPO as its
JPEG, one of an animation as its PNG.
"""

import io
import os
import re
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from normcli.errors import InputError, NormcliError, UsageError, library_text
from normcli.sources.item import ColumnLabel, Item, failed_item
from normcli.sources.listing import axis_of
from normcli.storage.files import FileBytes, read_start

_HEAD = 1 << 16
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_MPO_ENTRIES = 0xB002


class FrameChoice(NamedTuple):
    """The frames that are read: a range with a step, or single numbers."""

    start: int = 0
    stop: int | None = None
    step: int = 1
    numbers: frozenset[int] | None = None

    @classmethod
    def parse(cls, text: str) -> "FrameChoice":
        """Return the frames that a text names; "first" is number 0.

        >>> FrameChoice.parse("::10"), 20 in FrameChoice.parse("5:30:5"), 7 in FrameChoice.parse("0,7")
        (FrameChoice(start=0, stop=None, step=10, numbers=None), True, True)

        Raises:
            UsageError: neither a range nor numbers.
        """
        if text == "all":
            return cls()
        if text == "first":
            return cls(0, 1)
        if match := re.fullmatch(r"(\d{0,9}):(\d{0,9})(?::(\d{0,9}))?", text):
            start, stop, step = (int(part) if part else None for part in match.groups())
            if step != 0 and (stop is None or stop > (start or 0)):
                return cls(start or 0, stop, step or 1)
        elif re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
            numbers = frozenset(map(int, text.split(",")))
            return cls(min(numbers), max(numbers) + 1, 1, numbers)
        raise UsageError(
            f"`open_options` frames={text}: must be first, all, ::N, A:B, A:B:N or numbers such as 0,10,20"
        )

    def __contains__(self, number: object) -> bool:
        assert isinstance(number, int)
        if self.numbers is not None:
            return number in self.numbers
        inside = self.start <= number and (self.stop is None or number < self.stop)
        return inside and (number - self.start) % self.step == 0


class FrameOptions(Protocol):
    """Open options of folders that choose frames."""

    @property
    def frames(self) -> str | None:
        """Return the frames to read."""

    @property
    def series(self) -> str | None:
        """Return the series of a TIFF."""

    @property
    def axes(self) -> str | None:
        """Return the letters of the axes of a TIFF."""


def check(options: FrameOptions) -> None:
    """Validate the choice of frames, series and axes.

    Raises:
        UsageError: not one that is known.
    """
    if options.frames is not None:
        FrameChoice.parse(options.frames)
    if options.series is not None and options.series != "all" and not re.fullmatch(r"\d{1,9}", options.series):
        raise UsageError(f"`open_options` series={options.series}: must be all, or a number from 0")


def read_frames(
    path: str, load: FileBytes, label: str | None, options: FrameOptions, group_by: str | None
) -> Iterator[Item]:
    """Yield the frames of an image file; a file of one image, or of another kind, is itself.

    Args:
        path: for names.
        load: of the complete file.
        label: of the file.
        options: selection of frames; by default the first, or all where axes or series are chosen.
        group_by: an axis, or anything else.

    Raises:
        UsageError: axes that do not fit, or no such series.
        MissingExtraError: a library that the file needs is not installed.
    """
    by_axes = options.axes is not None or options.series is not None
    choice = FrameChoice.parse(options.frames or ("all" if by_axes else "first"))
    count = 0
    try:
        head = read_start(load, _HEAD)
        is_dicom = head[128:132] == b"DICM"  # whose preamble may be that of a TIFF, as of GE's CT
        if head[:4] in _TIFF and not is_dicom:
            from normcli.sources.tiff_frames import tiff_frames

            frames = tiff_frames(path, load, label, options, group_by)
        elif by_axes:
            raise InputError("unsupported", "-O axes and -O series require a TIFF")
        elif is_dicom:
            from normcli.sources.dicom_frames import dicom_frames

            frames = dicom_frames(path, load, label, group_by)
        else:
            frames = _pictures(path, load, label, group_by, head)
        for count, item in enumerate(frames, 1):
            if choice.stop is not None and count > choice.stop:
                return
            if count - 1 in choice:
                yield item
    except InputError as error:
        if error.reason == "unsupported" and options.frames == "first" and not by_axes:
            yield Item(path, load, label)  # is read without a list of its frames
        else:
            yield failed_item(path, error.reason, error.message)._replace(label=label)
        return
    except (NormcliError, ImportError, MemoryError):
        raise
    except Exception as error:  # damaged files raise anything
        yield failed_item(path, "damaged", f"its frames cannot be listed: {library_text(error)}")
        return
    least = max(choice.numbers) if choice.numbers is not None else choice.start
    if least >= count:
        yield failed_item(path, "missing", f"no frame {least}: it has {count:,} (-O frames={options.frames})")


class FramePicture(NamedTuple):
    """The loader of one picture of an animation: its PNG."""

    load: FileBytes
    number: int

    def __call__(self) -> bytes:
        image, first = _open_image(self.load)
        try:
            image.seek(self.number)
            return _encoded(image, None if self.number else first)
        except (InputError, ImportError, MemoryError):
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            reason = "truncated" if isinstance(error, EOFError) or "truncated" in text else "damaged"
            raise InputError(reason, f"picture {self.number} cannot be decoded: {text}") from None

    def fingerprint(self) -> str:
        """Return a text that changes with the file, and the number."""
        return f"{self.load.fingerprint()}:{self.number}"


class MpoPicture(NamedTuple):
    """The loader of one picture of an MPO: a JPEG, without the table of the others."""

    load: FileBytes
    start: int
    size: int

    def __call__(self) -> bytes:
        data, at = self.load()[self.start : self.start + self.size], 2
        if len(data) < self.size:
            raise InputError("truncated", f"a picture of {self.size} bytes, of which {len(data)} are in the file")
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            after = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] == 0xE2 and data[at + 4 : at + 8] == b"MPF\0":
                return data[:at] + data[after:]
            at = after
        return data

    def fingerprint(self) -> str:
        """Return a text that changes with the file, and the place."""
        return f"{self.load.fingerprint()}:{self.start}"


def _pictures(path: str, load: FileBytes, label: str | None, group_by: str | None, head: bytes) -> Iterator[Item]:
    """Yield the pictures of an animation or an MPO; all other files are one item."""
    name = _format(head)
    data = load() if name else b""
    with _image(data, name) if name else io.BytesIO() as image:
        count = getattr(image, "n_frames", 1)
        if count == 1:
            yield Item(path, load, label)
            return
        _check(image, name, head)
        width = len(str(count - 1))
        places = _mpo_places(image, data.index(b"MPF\0") + 4) if name == "MPO" else []
    for number in range(count):
        own = ColumnLabel(f"{number:0{width}d}") if axis_of(group_by) in ("T", "t") else label
        frame = MpoPicture(load, *places[number]) if places else FramePicture(load, number)
        yield Item(f"{path}/{number:0{width}d}", frame, own)


def _format(head: bytes) -> str:
    """Return Pillow's name of a format that may have several pictures; "" for all others."""
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:8] == _PNG:
        return "PNG" if b"acTL" in head else ""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return "WEBP" if head[20] & 2 else ""
    if head[4:12] == b"ftypavis":
        return "AVIF"
    return "MPO" if head[:3] == b"\xff\xd8\xff" and b"MPF\0" in head else ""


def _image(data: bytes, name: str) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data), formats=["JPEG" if name == "MPO" else name])
    except Image.DecompressionBombError as error:
        raise InputError("bomb", str(error)) from None


def _check(image: Any, name: str, head: bytes) -> None:
    """Check that Pillow returns the samples as they are stored.

    Raises:
        InputError: of more than 8 bits.
    """
    deep = name == "PNG" and head[24] == 16 and head[25] in (2, 4, 6)
    at = head.find(b"av1C") if name == "AVIF" else -1
    if deep or (0 <= at < len(head) - 6 and head[at + 6] & 0x40):
        raise InputError(
            "unsupported", f"an animated {name} of more than 8 bits (-O frames=first reads its first frame)"
        )


def _mpo_places(image: Any, base: int) -> list[tuple[int, int]]:
    """Return offset and size of every picture of an MPO, whose table counts from `base`."""
    entries = image.mpinfo[_MPO_ENTRIES]
    return [(base + int(one["DataOffset"]) if i else 0, int(one["Size"])) for i, one in enumerate(entries)]


_local = threading.local()


def _open_image(load: FileBytes) -> tuple[Any, tuple[int, int, int, int] | None]:
    """Return the open image of this thread, and the part of a GIF that its first picture fills.

    The next picture is decoded from the one before.
    """
    key = os.getpid(), load.path, load.fingerprint()
    if getattr(_local, "key", None) != key:
        data = load()
        image = _image(data, _format(data[:_HEAD]))
        box = image.tile[0][1] if image.format == "GIF" and image.tile else None
        _local.image, _local.box, _local.key = image, box, key
    return _local.image, _local.box


def _encoded(image: Any, box: tuple[int, int, int, int] | None) -> bytes:
    """Return the PNG of the current picture, transparent outside of a box; None for no box."""
    from PIL import Image

    image.load()
    picture = image
    if box is not None and box != (0, 0, *image.size):
        picture, inside = image.convert("RGBA"), Image.new("L", image.size, 0)
        inside.paste(picture.getchannel("A").crop(box), box[:2])
        picture.putalpha(inside)
    out = io.BytesIO()
    exif = image.info.get("exif")
    extra = {"exif": exif} if exif else {}
    picture.save(out, "PNG", compress_level=0, icc_profile=image.info.get("icc_profile"), **extra)
    return out.getvalue()
