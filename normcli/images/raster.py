"""Tags of GDAL and OME on the samples of a TIFF: nodata, masks, names of bands, scale and offset, statistics.

A directory of a TIFF is a frame, a mask of the image before it, or a copy of it at a reduced resolution.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.images.convert import Decoded

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

Array = np.ndarray[Any, Any]

_BITS, _PHOTOMETRIC, DESCRIPTION, _FORMAT, METADATA = TAGS = 258, 262, 270, 339, 42112
_SUBFILE_TYPE = 254
_COLORS: dict[int, Literal["white-zero", "gray", "palette"]] = {0: "white-zero", 1: "gray", 3: "palette"}
_REDUCED, _MASK = 1, 4  # bits of the subfile type
_MOST_DIRECTORIES = 1 << 16
_LONGEST_XML = 1 << 24
_LONGEST_NAME = 64
_STATISTICS = {"STATISTICS_MEAN": "mean", "STATISTICS_STDDEV": "std", "STATISTICS_MINIMUM": "min"}
_STATISTICS |= {"STATISTICS_MAXIMUM": "max"}


class BandTags(NamedTuple):
    """Properties of the bands of a raster by its tags.

    Attributes:
        names: of each band, "" where it has none; () without any.
        scales: (scale, offset) of each band; () where all are (1, 0).
        statistics: of each band, "mean", "std", "min" and "max" as GDAL stored them; () without any.
        approximate: GDAL computed the statistics from a part of the pixels.
    """

    names: tuple[str, ...] = ()
    scales: tuple[tuple[float, float], ...] = ()
    statistics: tuple[Mapping[str, float], ...] = ()
    approximate: bool = False


def subfile_types(data: bytes) -> list[int]:
    """Return the subfile type of every directory of a TIFF or BigTIFF, up to the first damaged one."""
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:4] in (b"+\0", b"\0+")
    count, entry, link = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    size, width = struct.calcsize(order + entry), struct.calcsize(order + count)
    types: list[int] = []
    visited = {0}
    try:
        (at,) = struct.unpack_from(order + link, data, 8 if big else 4)
        while at not in visited and len(types) < _MOST_DIRECTORIES:
            visited.add(at)
            (entries,) = struct.unpack_from(order + count, data, at)
            kind = 0
            for place in range(at + width, at + width + min(entries, 4) * size, size):  # tags rise: it comes first
                tag, letter, number = struct.unpack_from(order + entry[:3], data, place)
                if tag == _SUBFILE_TYPE and number == 1:
                    value = "H" if letter == 3 else "I"
                    (kind,) = struct.unpack_from(order + value, data, place + size - (8 if big else 4))
            types.append(kind)
            (at,) = struct.unpack_from(order + link, data, at + width + entries * size)
    except struct.error:
        pass
    return types


def frames(types: list[int]) -> int:
    """Return the number of images among directories, which masks and reduced resolutions are not.

    >>> frames([0, 4, 1, 5]), frames([0, 0])
    (1, 2)
    """
    return sum(not kind & (_REDUCED | _MASK) for kind in types)


def has_planes_without_directories(description: object) -> bool:
    r"""Return True for a description of several planes after one directory, as ImageJ writes more than 4 GB.

    >>> has_planes_without_directories("ImageJ=1.54f\nimages=6\nslices=6\n"), has_planes_without_directories("6")
    (True, False)
    """
    text = str(description)[:200]
    match = re.match(r"ImageJ=[^\n]*\nimages=(\d+)", text)
    return '"truncated": true' in text or (match is not None and int(match[1]) > 1)


def missing_planes(description: object, pages: int, samples: int) -> list[str]:
    r"""Return the note on a TIFF whose OME-XML claims more planes than there are; [] for all others.

    Args:
        description: of its first directory.
        pages: number of directories that are images.
        samples: number of samples of a pixel.

    >>> missing_planes('<OME><Image><Pixels SizeC="3" SizeZ="4" SizeT="1"/></Image></OME>', 1, 3)
    ['missing-planes']
    """
    text = str(description)
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*", text) if "<OME" in text[:2048] else None
    sizes = re.findall(r"""\bSize[CZT]\s*=\s*["'](\d{1,9})["']""", pixels[0]) if pixels is not None else []
    if math.prod(map(int, sizes)) <= pages * samples:
        return []
    files = set(re.findall(r"""\bFileName\s*=\s*["']([^"']*)""", text))
    return ["missing-planes"] if len(files) <= 1 else []


def mask_page(types: list[int]) -> int | None:
    """Return the number of the directory that is the mask of the first image; None without one.

    >>> mask_page([0, 4, 1, 5]), mask_page([0, 1]), mask_page([0, 0, 4])
    (1, None, None)
    """
    for page, kind in enumerate(types[1:], 1):
        if kind & _MASK and not kind & _REDUCED:
            return page
        if not kind & (_MASK | _REDUCED):  # the next image
            return None
    return None


def read_tags(tags: Mapping[int, Any], bands: int, *, scaled: bool) -> BandTags:
    """Parse the tags of a raster.

    Args:
        tags: values by tag, of the tags above.
        bands: number of bands.
        scaled: read scales and offsets, of GDAL or else of ImageJ.

    Raises:
        InputError: a scale or offset that is no finite number, a scale of 0, or a calibration of another kind.
    """
    metadata, description = _parse(_text(tags.get(METADATA)), "<GDALMetadata"), _text(tags.get(DESCRIPTION))
    if metadata is None:
        ome = _parse(description, "<OME")
        calibration = _calibration(_description_in(ome) or description, tags, bands) if scaled else ()
        return BandTags(names=_ome_names(ome, bands), scales=calibration)
    names, scales = [""] * bands, [[1.0, 0.0] for _ in range(bands)]
    statistics: list[dict[str, float]] = [{} for _ in range(bands)]
    approximate = False
    for band, item in _items(metadata, bands):
        name, role, text = item.get("name", ""), item.get("role", "").lower(), item.text or ""
        if role == "description":
            names[band] = _name(text)
        elif role in ("scale", "offset") and scaled:
            scales[band][role == "offset"] = _number(text, role, band)
        elif name in _STATISTICS:
            statistics[band] |= _statistic(_STATISTICS[name], text)
        approximate |= name == "STATISTICS_APPROXIMATE" and text.strip().upper() == "YES"
    pairs = tuple((scale, offset) for scale, offset in scales)
    return BandTags(
        names=tuple(names) if any(names) else _ome_names(_parse(description, "<OME"), bands),
        scales=() if set(pairs) == {(1.0, 0.0)} else pairs,
        statistics=tuple(statistics) if any(statistics) else (),
        approximate=approximate,
    )


def pam_statistics(text: str, bands: int) -> BandTags:
    """Return the statistics of a .aux.xml file, which GDAL writes next to rasters.

    >>> xml = '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">44.5</MDI></Metadata>'
    >>> pam_statistics(xml + "</PAMRasterBand></PAMDataset>", 1).statistics
    ({'mean': 44.5},)
    """
    root = _parse(text, "<PAMDataset")
    statistics: list[dict[str, float]] = [{} for _ in range(bands)]
    approximate = False
    for element in root.iter("PAMRasterBand") if root is not None else ():
        number = element.get("band", "")
        if not number.isdecimal() or not 1 <= int(number) <= bands:
            continue
        for item in element.iter("MDI"):
            key, value = item.get("key", ""), item.text or ""
            if key in _STATISTICS:
                statistics[int(number) - 1] |= _statistic(_STATISTICS[key], value)
            approximate |= key == "STATISTICS_APPROXIMATE" and value.strip().upper() == "YES"
    return BandTags(statistics=tuple(statistics) if any(statistics) else (), approximate=approximate)


def annotate(image: Decoded, tags: BandTags, mask: Array | None) -> None:
    """Add to an image its mask, and the names and scales of its bands; a mask counts instead of nodata, as in GDAL.

    Args:
        image: the decoded image.
        tags: properties of its bands.
        mask: (H,W), True where a pixel counts; None without one.
    """
    channels = image.colors.shape[2]
    if mask is not None:
        image.notes.append("mask-page")
        image.no_data = None
        image.valid = None if mask.all() else np.repeat(mask[:, :, None], channels, axis=2)
    if len(tags.names) >= channels:
        image.names = tags.names
    if len(tags.scales) >= channels:
        image.scales = tags.scales


def _text(value: Any) -> str | None:
    """Return the text of a tag as it was written: UTF-8, which libraries decode as Latin-1."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")
        except UnicodeEncodeError:
            return str(value).strip("\0 \r\n")
    if not isinstance(value, bytes):
        return str(value)
    text: bytes = value
    try:
        return str(text, "utf-8").strip("\0 \r\n")
    except UnicodeDecodeError:
        return str(text, "latin-1").strip("\0 \r\n")


def _parse(text: str | None, start: str) -> "Element | None":
    """Parse XML that contains `start`; None for other texts, damaged ones, and those that define entities."""
    if text is None or start not in text[:4096] or len(text) > _LONGEST_XML or "<!" in text.replace("<!--", ""):
        return None
    from xml.etree.ElementTree import ParseError, fromstring

    try:
        return fromstring(text)
    except (ParseError, ValueError):
        return None


def _items(metadata: "Element", bands: int) -> "Iterator[tuple[int, Element]]":
    for item in metadata.iter("Item"):
        sample = item.get("sample", "")
        if sample.isdecimal() and int(sample) < bands:
            yield int(sample), item


def _number(text: str, role: str, band: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (role == "scale" and value == 0):
        raise InputError(
            "scale", f"its {role} of band {band + 1} is {_name(text) or 'empty'!r} (--scale-offset none ignores it)"
        )
    return value


def _statistic(name: str, text: str) -> dict[str, float]:
    try:
        return {name: float(text)}
    except ValueError:
        return {}


def _name(text: str) -> str:
    """Return a name in the characters that code and shells take as they are.

    >>> _name("NIR (842 nm)"), _name("B8A"), _name("近红外")
    ('NIR_842_nm', 'B8A', '')
    """
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", text).strip("_")[:_LONGEST_NAME]


def _calibration(description: str | None, tags: Mapping[int, Any], bands: int) -> tuple[tuple[float, float], ...]:
    """Return the scale and offset of ImageJ for each band; () where samples are values.

    Raises:
        InputError: a calibration that is not read.
    """
    if description is None or not description.startswith("ImageJ="):
        return ()
    from normcli.storage.imagej import Samples, linear_calibration

    bits, kind, photometric = (_first(tags.get(tag), 1) for tag in (_BITS, _FORMAT, _PHOTOMETRIC))
    if kind not in (1, 2):
        return ()
    samples = Samples(bits, kind == 2, _COLORS.get(photometric, "color"))
    scale = linear_calibration(description, samples)
    return () if scale is None else (scale,) * bands


def _first(value: Any, default: int) -> int:
    """Return the first of the numbers of a tag."""
    first = next(iter(value), default) if isinstance(value, tuple) else value
    return default if first is None else int(first)


def _description_in(ome: "Element | None") -> str | None:
    """Return the calibration that normcli wrote into the OME-XML of a plane; None for other OME-XML."""
    return None if ome is None else ome.findtext("{*}Image/{*}Description[@normcli]")


def _ome_names(root: "Element | None", bands: int) -> tuple[str, ...]:
    """Return the names of the channels of the first image of OME-XML; () where they are not those of the bands."""
    if root is None:
        return ()
    pixels = next(root.iter("{*}Pixels" if "}" not in root.tag else root.tag.split("}")[0] + "}Pixels"), None)
    if pixels is None:
        return ()
    channels = [element for element in pixels if element.tag.rsplit("}", 1)[-1] == "Channel"]
    names = tuple(_name(element.get("Name", "")) for element in channels)
    return names if len(names) == bands and any(names) else ()
