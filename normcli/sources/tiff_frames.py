"""Planes of TIFF: pages one by one, or those of a series with axes, such as OME-TIFF and ImageJ hyperstacks.

A plane is read by its ranges of the file and passed on as a TIFF of its own; the channels of one plane are its pages,
with their names as OME-XML. tifffile (the `[tiff]` extra) finds the series and their axes.
"""

import logging
import re
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from normcli import late_imports
from normcli.errors import InputError, UsageError, listed
from normcli.sources.axes import Planes, planes_of
from normcli.sources.frames import FrameOptions
from normcli.sources.item import Item
from normcli.storage.files import FileBytes, FileStamp, read_at, too_large
from normcli.storage.imagej import calibration_lines
from normcli.storage.reader import Reader
from normcli.storage.tiff_pages import (
    DESCRIPTION,
    Format,
    Plane,
    check_claims,
    directories,
    extract,
    parse_start,
    subfile_type,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

log = logging.getLogger("normcli.sources")

_REDUCED, _MASK = 1, 4
_LSM = 34412
_KINDS = ("ome", "imagej", "shaped", "lsm", "mmstack", "uniform", "generic")  # series whose axes are known
_MOST_CHANNELS = 10_000
_LABEL = re.compile(r"^(?:[czt]:\d+/\d+\s*)+(?:-\s*)?", re.IGNORECASE)


class TiffPlane(NamedTuple):
    """The loader of one plane: a TIFF of its pages.

    Attributes:
        load: of the complete file.
        stamp: of the file; None on a server.
        size: of the file.
        layout: its format.
        pages: the channels of the plane, or a page and its mask.
        description: of the first page; b"" for none, None for its own.
    """

    load: FileBytes
    stamp: FileStamp | None
    size: int
    layout: Format
    pages: tuple[Plane, ...]
    description: bytes | None

    def __call__(self) -> bytes:
        return extract(self._read, self.size, self.layout, self.pages, self.description)

    def _read(self, offset: int, size: int) -> bytes:
        size = min(size, self.size - offset)
        return read_at(self.load.path, offset, size, self.stamp) if size > 0 else b""

    @property
    def path(self) -> str:
        """Return the path of the file."""
        return self.load.path

    def fingerprint(self) -> str:
        """Return a text that changes with the plane: stamp or version of the file, and its pages."""
        return f"{self.stamp or self.load.fingerprint()}:{self.pages}:{self.description!r}"


def tiff_frames(
    path: str, load: FileBytes, label: str | None, options: FrameOptions, group_by: str | None
) -> Iterator[Item]:
    """Yield the planes of a TIFF; one of a single page is itself.

    Raises:
        InputError: damaged, or planes that are in other files.
        UsageError: axes that do not fit, or no such series.
        MissingExtraError: series, and tifffile is not installed.
        Exception: any of tifffile, on damaged files.
    """
    with Reader(load.path) as reader:
        if load.limit is not None and reader.size > load.limit:
            raise too_large(reader.size, load.limit)
        layout, first = parse_start(reader.at(0, 16))
        pages = [
            (at, subfile_type(entries, layout), entries.get(DESCRIPTION), _LSM in entries)
            for at, entries in directories(reader.at, layout, first)
        ]
        if not pages:
            raise InputError("damaged", "a TIFF without a directory")
        file = _File(path, load, label, reader, layout)
        text = b"" if pages[0][2] is None else pages[0][2].value.rstrip(b"\0 \r\n")
        has_metadata = text.startswith((b"ImageJ=", b'{"shape"')) or text.endswith(b"OME>") or pages[0][3]
        if len(pages) == 1 and text.startswith(b'{"shape"') and not re.search(rb'"(axes|truncated)"', text):
            has_metadata = False  # of one image
        if has_metadata or options.axes is not None or options.series is not None:
            yield from _series(file, text, options, group_by)
            return
        yield from _pages(file, [page[:2] for page in pages], group_by)


class _Labels(NamedTuple):
    """Names of the channels of a series, and the calibration of ImageJ in its description; () and "" for none."""

    names: tuple[str, ...]
    calibration: str


class _File(NamedTuple):
    path: str
    load: FileBytes
    label: str | None
    reader: Reader
    layout: Format

    def plane(self, pages: tuple[Plane, ...], description: bytes | None) -> TiffPlane:
        return TiffPlane(self.load, self.reader.stamp, self.reader.size, self.layout, pages, description)


def _pages(file: _File, pages: list[tuple[int, int]], group_by: str | None) -> Iterator[Item]:
    """Yield the pages that are images, each with the mask that follows it."""
    frames: list[tuple[Plane, ...]] = []
    for at, kind in pages:
        if not kind & (_REDUCED | _MASK):
            frames.append((Plane(at),))
        elif kind & _MASK and not kind & _REDUCED and frames and len(frames[-1]) == 1:
            frames[-1] += (Plane(at),)
    if len(frames) == 1:
        yield Item(file.path, file.load, file.label)
        return
    planes = Planes((len(frames), 1, 1), "IYX")
    groups = planes.groups(file.path, group_by)
    for (number, index), frame in zip(planes.each(), frames, strict=True):
        label = file.label if groups is None else groups.label(index)
        yield Item(f"{file.path}/{number}", file.plane(frame, None), label)


def _series(file: _File, text: bytes, options: FrameOptions, group_by: str | None) -> Iterator[Item]:
    tifffile = late_imports.required("tifffile", "a TIFF with axes", "tiff")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are reported by this module
    xml = _ome(text)
    with tifffile.TiffFile(file.reader.file(), name=file.load.path.rpartition("/")[2]) as tiff:
        every = list(tiff.series)
        numbers = _chosen(file.path, every, options.series)
        for number in numbers:
            one = every[number]
            labels = _Labels(_channel_names(tiff, xml, every, number), calibration_lines(text.decode("latin-1")))
            several = f"{file.path}/{number}" if len(numbers) > 1 else file.path
            yield from _planes_of_series(file, several, one, options.axes, labels, group_by, xml)


def _chosen(path: str, every: list[Any], series: str | None) -> list[int]:
    """Return the numbers of the series to read.

    Raises:
        InputError: there is none.
        UsageError: no such series.
    """
    if not every:
        raise InputError("damaged", "a TIFF without a series of pages")
    if series == "all":
        return list(range(len(every)))
    number = int(series or 0)
    shapes = [f"{i} {one.axes} {one.shape}" for i, one in enumerate(every)]
    if number >= len(every):
        raise UsageError(f"{path}: no series {number}; it has {listed(shapes)} (-O series=N)")
    if series is None and len(every) > 1:
        log.warning(
            "%s: only the first of %d series is read, %s (`open_options` series=all)", path, len(every), shapes[0]
        )
    return [number]


def _planes_of_series(
    file: _File,
    name: str,
    series: Any,
    axes: str | None,
    labels: _Labels,
    group_by: str | None,
    xml: "Element | None",
) -> Iterator[Item]:
    pages, shape, keyframe = list(series.pages), tuple(int(n) for n in series.shape), series.keyframe
    if series.kind not in _KINDS and axes is None:
        raise InputError("unsupported", f"a series of {series.kind}, whose axes are not known (-O axes=ZYX)")
    try:
        planes = planes_of(name, shape, axes or _letters(series.axes))
    except UsageError as error:
        if axes is not None:
            raise
        raise InputError("unsupported", f"its axes are not clear: {error}") from None
    inner = len(keyframe.shape)
    outer = len(shape) - inner
    part = {"YX": "YX", "YXS": "YXC", "SYX": "YX"}.get(keyframe.axes)
    if part is None or not planes.axes.endswith(part) or shape[outer:] != keyframe.shape:
        has_both = axes is None and {"C", "S"} <= set(series.axes) and "N" not in series.axes
        remedy = f" (-O axes={_letters(series.axes.replace('C', 'N'))} counts each channel C as an image)"
        what = f"pages have the axes {keyframe.axes}, not Y and X of the axes {planes.axes}"
        raise InputError("unsupported", what + remedy * has_both)
    split = keyframe.axes == "SYX"
    groups = planes.groups(name, group_by)
    lead = shape[: outer + split]
    channels = range(shape[planes.axes.index("C")]) if "C" in planes.axes[: len(lead)] else range(1)
    if len(channels) > _MOST_CHANNELS:
        raise InputError("bomb", f"{len(channels):,} channels, more than {_MOST_CHANNELS:,}")
    description = _description(labels, keyframe, len(channels))
    is_set = _names_files(xml)
    expected = prod(shape[:outer])
    count = sum(page is not None for page in pages)
    if count < expected and not is_set and not (len(pages) == 1 and series.dataoffset is not None):
        raise InputError(
            "truncated", f"{count:,} of {expected:,} pages of the axes {series.axes} {shape} are in the file"
        )
    for number, index in planes.each():
        addresses = []
        for channel in channels:
            place = tuple(channel if isinstance(at, slice) else at for at in index[: len(lead)])
            addresses.append(_address(series, pages, keyframe, lead, place, split))
        places = tuple(address for address in addresses if address is not None)
        if 0 < len(places) < len(addresses):
            remedy = f"-O axes={planes.axes.replace('C', 'N')} counts each channel as an image"
            raise InputError("unsupported", f"the channels of one plane are in several files ({remedy})")
        if places:
            label = file.label if groups is None else groups.label(index)
            yield Item(f"{name}/{number}" if number else name, file.plane(places, description), label)


def _address(
    series: Any, pages: list[Any], keyframe: Any, lead: tuple[int, ...], place: tuple[int, ...], split: bool
) -> Plane | None:
    """Return the place of a page, or of one sample of a page, in the file; None if it is in another file."""
    sample = place[-1] if split else None
    page = 0
    for length, at in zip(lead[: len(lead) - split], place, strict=False):
        page = page * length + at
    if len(pages) == 1 and page and series.dataoffset is not None:  # one directory for all
        return Plane(keyframe.offset, sample, int(series.dataoffset) + page * int(keyframe.nbytes))
    if page >= len(pages) or pages[page] is None:
        return None
    return Plane(int(pages[page].offset), sample)


def _letters(axes: str) -> str:
    """Return the axes of tifffile with a letter for each: samples are channels where no other axis is.

    >>> _letters("ZYXS"), _letters("QQYX"), _letters("ZCYX")
    ('ZYXC', 'QAYX', 'ZCYX')
    """
    out = ""
    for letter in axes.replace("S", "C") if "C" not in axes else axes:
        out += letter if letter not in out else next(free for free in "ABDEFGIJK" if free not in out + axes)
    return out


def _ome(text: bytes) -> "Element | None":
    """Parse OME-XML; None for other descriptions.

    Raises:
        InputError: damaged, with entities, of too many planes, or only a reference to another file.
    """
    if not text.endswith(b"OME>"):
        return None
    from xml.etree.ElementTree import ParseError, fromstring

    check_claims(text)
    if b"<!" in text.replace(b"<!--", b""):
        raise InputError("damaged", "OME-XML with entities, which is not parsed")
    try:
        root = fromstring(text)
    except (ParseError, ValueError) as error:
        raise InputError("damaged", f"OME-XML that cannot be parsed: {error}") from None
    if next(_each(root, "BinaryOnly"), None) is not None:
        raise InputError("unsupported", "its OME-XML is in another file: read the file with the metadata")
    return root


def _each(element: "Element", name: str) -> "Iterator[Element]":
    """Yield the elements of a name, of any schema."""
    return (one for one in element.iter() if one.tag.rpartition("}")[2] == name)


def _names_files(xml: "Element | None") -> bool:
    """Return True if OME-XML names several files."""
    return xml is not None and len({uuid.get("FileName") for uuid in _each(xml, "UUID")}) > 1


def _channel_names(tiff: Any, xml: "Element | None", every: list[Any], number: int) -> tuple[str, ...]:
    """Return the names of the channels of a series; () where there are none."""
    if xml is not None:
        pixels = list(_each(xml, "Pixels"))
        if len(pixels) != len(every):  # an image without data is no series
            return ()
        names = tuple(channel.get("Name", "") for channel in _each(pixels[number], "Channel"))
        return names if any(names) else ()
    series = every[number]
    labels = (tiff.imagej_metadata or {}).get("Labels") if series.kind == "imagej" else None
    if not isinstance(labels, list) or "C" not in series.axes:
        return ()
    place = series.axes.index("C")
    count, step = series.shape[place], prod(series.shape[place + 1 : -2])
    texts = [_LABEL.sub("", str(label)).strip() for label in labels]
    of_channels = [{text for i, text in enumerate(texts) if i // step % count == c} for c in range(count)]
    distinct = [names.copy().pop() for names in of_channels if len(names) == 1]
    return tuple(distinct) if len(set(distinct)) == count else ()


def _description(labels: _Labels, keyframe: Any, channels: int) -> bytes:
    """Return the description of one plane: OME-XML, from which its pages are read as channels, with the calibration.

    Of one channel without a name, and of samples that are channels, it is the calibration alone, or b"".
    """
    names, calibration = labels
    if keyframe.axes == "YXS" or (channels == 1 and len(names) != 1):
        return calibration.encode("latin-1")
    if len(names) != channels:
        names = ("",) * channels
    sizes = f'SizeX="{keyframe.imagewidth}" SizeY="{keyframe.imagelength}" SizeC="{channels}" SizeZ="1" SizeT="1"'
    each = "".join(
        f'<Channel ID="Channel:0:{i}" SamplesPerPixel="1"{f" Name={quoteattr(one)}" if one else ""}/>'
        for i, one in enumerate(names)
    )
    planes = f'<TiffData IFD="0" PlaneCount="{channels}"/>'
    pixels = f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{keyframe.dtype}" {sizes}>{each}{planes}</Pixels>'
    values = f'<Description normcli="calibration">{escape(calibration)}</Description>' if calibration else ""
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return f'<OME xmlns="{space}"><Image ID="Image:0">{values}{pixels}</Image></OME>'.encode(
        "ascii", "xmlcharrefreplace"
    )
