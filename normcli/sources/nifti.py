"""Volumes of NIfTI and Analyze: every plane of the first two axes is an image, in the order of the file.

A plane is a span of the file, read in the worker; compressed files are read once, from start to end.
"""

import re
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from normcli import late_imports
from normcli.errors import InputError
from normcli.options.field import Options, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.axes import Planes
from normcli.sources.containers import SkipEmpty, skip_empty_option
from normcli.sources.item import Item, Items, failed_item
from normcli.sources.npy import LARGEST_HELD, ArraySlice
from normcli.sources.tagged import UNSCALED, ArrayTags, TaggedLoad
from normcli.storage.files import FileStamp
from normcli.storage.reader import Reader, Stream

_HEADER = 540  # of NIfTI-2; of the others 348
_SPARSE = 1 << 32  # bytes: labels of a few organs shrink 1,000 times; memory is that of a plane
_COLORS = {("R", "G", "B"): 3, ("R", "G", "B", "A"): 4}


class NiftiOptions(Options):
    """Open options of NIfTI and Analyze."""

    skip_empty: SkipEmpty = skip_empty_option()


OPEN_OPTIONS = NiftiOptions


class Volume(NamedTuple):
    """The planes of one file.

    Attributes:
        start: of the first plane, in bytes.
        dtype: of a sample.
        shape: of a plane: rows (the second axis of the file), columns (the first), colors where samples have them.
        axes: lengths of the other axes, the first one fastest.
        tags: scale and offset.
    """

    start: int
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    tags: ArrayTags

    @property
    def plane_bytes(self) -> int:
        """Return the bytes of one plane."""
        import numpy as np

        return prod(self.shape) * np.dtype(self.dtype).itemsize


def read(
    source: str,
    listing: InputOptions,
    options: NiftiOptions,
    *,
    names_only: bool = False,
    group_by: str | None = None,
) -> Items:
    """Yield the planes of a volume, named by the numbers of their axes, slowest first.

    The label is the file's name, or the place on the axis that `group_by` names: Z, T and, above, U, V and W.

    Raises:
        InputError: damaged, cut short, or samples that are not numbers.
        MissingExtraError: nibabel is not installed.
    """
    header_path, image_path = pair_of(source)
    limit = parse_size("max_file_size", listing.max_file_size)
    with _header_of(header_path, source) as reader:
        stream = Stream(reader, _SPARSE) if reader.compression() else None
        head = (stream or reader).at(0, _HEADER)
        volume, is_single = parse_header(head)
        if is_single:
            file = _Bytes(header_path, reader, stream, head)
            yield from _planes(source, file, volume, limit, names_only, group_by)
            return
    with Reader(image_path) as reader:
        stream = Stream(reader, _SPARSE) if reader.compression() else None
        yield from _planes(source, _Bytes(image_path, reader, stream), volume, limit, names_only, group_by)


def _header_of(path: str, source: str) -> Reader:
    """Open the header of a source, which for .img is another file.

    Raises:
        InputError: unreadable; of .img, its header is missing.
    """
    try:
        return Reader(path)
    except InputError as error:
        if error.reason != "missing" or path == source:
            raise
        suffixes = re.findall(r"\.(?:hdr|img)(?:\.gz)?$", path + "\n" + source, re.IGNORECASE | re.MULTILINE)
        message = "{1} is read as NIfTI or Analyze, and its {0} is missing (images of other formats: rename them)"
        raise InputError("missing", message.format(*suffixes)) from None


def pair_of(path: str) -> tuple[str, str]:
    """Return the paths of a file's header and of its samples; of .nii they are the same.

    >>> pair_of("a/t1.img.gz"), pair_of("t1.nii")
    (('a/t1.hdr.gz', 'a/t1.img.gz'), ('t1.nii', 't1.nii'))
    """
    match = re.search(r"\.(hdr|img)((\.gz)?)$", path, re.IGNORECASE)
    if match is None:
        return path, path
    upper = match[1].isupper()
    header, image = (path[: match.start() + 1] + (name.upper() if upper else name) for name in ("hdr", "img"))
    return header + match[2], image + match[2]


def case_of(path: str) -> str:
    """Return the name of a file without its suffixes.

    >>> case_of("imagesTr/case_01.nii.gz")
    'case_01'
    """
    return re.sub(r"\.(nii|hdr|img)(\.gz)?$", "", path.rpartition("/")[2], flags=re.IGNORECASE)


def parse_header(data: bytes) -> tuple[Volume, bool]:
    """Parse a header; also return True if the samples are in the same file.

    Raises:
        InputError: none, damaged, or of samples that are not numbers.
        MissingExtraError: nibabel is not installed.
    """
    if data.startswith(b"#?"):
        raise InputError("unsupported", "in the format Radiance HDR, which is not read: convert it to TIFF")
    if not _may_be_header(data):  # before nibabel is asked for
        raise InputError("not-an-image", "neither NIfTI nor Analyze")
    kinds, errors = _header_classes()
    kind = next((one for one in kinds if one.may_contain_header(data)), None)
    if kind is None:
        raise InputError("not-an-image", "neither NIfTI nor Analyze")
    try:
        header = kind(data[: kind.template_dtype.itemsize], check=False)
        is_single = "magic" in header and header["magic"].item().startswith(b"n+")
        start = int(header["vox_offset"])
        dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
        scale = header.get_slope_inter() if hasattr(header, "get_slope_inter") else (None, None)
    except KeyError as error:
        raise InputError("unsupported", f"samples of the unknown type {error}") from None
    except errors as error:
        raise InputError("damaged", f"its header is damaged: {' '.join(str(error).split())}") from None
    least = kind.template_dtype.itemsize if is_single else 0
    if len(shape) < 2 or min(shape) < 1 or len(shape) > 7:
        raise InputError("not-an-image", f"a volume of shape {shape}; planes need 2 axes or more, none of length 0")
    if start < least and (start or not is_single):
        raise InputError("damaged", f"its header claims that samples start at byte {start}")
    start = start or (0 if not is_single else least + 4)
    factor, offset = ((value if value is not None else usual) for value, usual in zip(scale, UNSCALED, strict=True))
    tags = ArrayTags((float(factor), float(offset))).checked()
    colors: tuple[int, ...] = ()
    if dtype.names is not None and dtype.names in _COLORS:
        colors, dtype = (_COLORS[dtype.names],), dtype[0]
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise InputError("unsupported", f"samples of type {dtype.name}, not integers or floats of up to 64 bits")
    return Volume(start, dtype.str, (shape[1], shape[0], *colors), shape[2:], tags), is_single


def _may_be_header(data: bytes) -> bool:
    """Return True for the size of a header in its first bytes, in either byte order, or the magic of NIfTI-1."""
    sizes = {size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")}
    return data[:4] in sizes or data[344:347] in (b"ni1", b"n+1")


def affine_of(data: bytes) -> Any:
    """Return the affine (4,4) of a header that `parse_header` accepts: from indices of voxels to millimeters."""
    kind = next(one for one in _header_classes()[0] if one.may_contain_header(data))
    return kind(data[: kind.template_dtype.itemsize], check=False).get_best_affine()


def _header_classes() -> tuple[list[Any], tuple[type[Exception], ...]]:
    """Return the classes of headers in nibabel's order of trial, and the errors that they raise.

    Raises:
        MissingExtraError: nibabel is not installed.
    """
    late_imports.required("nibabel", ".nii", "medical")
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1PairHeader
    from nibabel.nifti2 import Nifti2PairHeader
    from nibabel.spatialimages import HeaderDataError
    from nibabel.spm2analyze import Spm2AnalyzeHeader
    from nibabel.wrapstruct import WrapStructError

    return [Nifti1PairHeader, Nifti2PairHeader, Spm2AnalyzeHeader, AnalyzeHeader], (
        HeaderDataError,
        WrapStructError,
        ValueError,
        OverflowError,
    )


class _Bytes(NamedTuple):
    """The file of the samples: `head` are the bytes that were read of a stream."""

    path: str
    reader: Reader
    stream: Stream | None
    head: bytes = b""

    def planes(self, names_only: bool) -> Callable[[int, int], bytes | None]:
        def take(offset: int, size: int) -> bytes | None:
            if self.stream is None or names_only:
                return None
            early = self.head[offset : offset + size]
            rest = size - len(early)
            data = early + self.stream.at(offset + len(early), rest) if rest else early
            if len(data) < size:
                raise InputError("truncated", "the volume is cut short")
            return data

        return take

    @property
    def stamp(self) -> FileStamp | None:
        return self.reader.stamp


def _planes(
    source: str, file: _Bytes, volume: Volume, limit: int | None, names_only: bool, group_by: str | None
) -> Items:
    count, size = prod(volume.axes), volume.plane_bytes
    if file.stream is None and volume.start + count * size > file.reader.size:
        held = max(0, file.reader.size - volume.start)
        raise InputError("truncated", f"{held} of {count * size} bytes: the volume is cut short")
    largest = limit or (LARGEST_HELD if file.stream else None)
    if largest is not None and size > largest:
        what = f"planes of {size} bytes, more than the limit of {largest} (--max-file-size)"
        yield failed_item(source, "too-large", what)
        return
    take, case = file.planes(names_only), case_of(source)
    letters = "WVUTZ"[5 - len(volume.axes) :]
    planes = Planes((*reversed(volume.axes), *volume.shape[:2]), f"{letters}YX")
    groups = planes.groups(source, group_by)
    for i, (number, index) in enumerate(planes.each()):
        offset = volume.start + i * size
        load = ArraySlice(file.path, offset, volume.dtype, volume.shape, False, file.stamp, take(offset, size))
        label = case if groups is None else groups.label(index)
        yield Item(f"{source}/{number}" if number else source, TaggedLoad(load, volume.tags), label)
