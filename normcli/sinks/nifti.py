"""NIfTI-1 and NIfTI-2: the header and its extensions as they were, samples of another type, one file.

Kept: dimensions, voxel sizes, units, qform, sform, intent and extensions. The slope is 1; the range of display, which
is of the old samples, is 0; the description has the name of the scheme added where it has room.
"""

import gzip
import os
from contextlib import suppress
from typing import IO, Any

import numpy as np

from normcli.errors import InputError
from normcli.sinks.volume import Array, ArrayPlan
from normcli.sources.nifti import pair_of
from normcli.sources.volume import Place
from normcli.storage.reader import Reader, Stream

_LARGEST_EXTENSIONS = 64 << 20
_LEVEL = 1  # of gzip, as nibabel has it: floats do not compress


def create(path: str, plans: list[ArrayPlan], *, header: bytes | None = None, note: str = "") -> "NiftiWriter":
    """Begin a file; see `volume.open_output`.

    Args:
        path: of the unfinished file.
        plans: the array.
        header: to write; None makes that of the source.
        note: for the description.

    Raises:
        InputError: an array that was not read from NIfTI, or has colors.
    """
    (plan,) = plans
    if header is None:
        if plan.volume.channel is not None:
            raise InputError("unsupported", "NIfTI has no type for colors as floats (--to zarr or hdf5)")
        header = mapped_header(header_of(plan.volume.source), plan.dtype, note)
    return NiftiWriter(path, plan, header)


def header_of(source: str) -> bytes:
    """Return the bytes before the samples: the header of a NIfTI file, and its extensions.

    Raises:
        InputError: it is not NIfTI, or its extensions are larger than a limit.
    """
    with Reader(pair_of(source)[0]) as reader:
        stream = Stream(reader) if reader.compression() else None
        head = (stream or reader).at(0, 544)
        header = parse(head)
        size = header.template_dtype.itemsize
        end = size + 4
        if header["magic"].item().startswith(b"n+"):
            end = int(header["vox_offset"]) or end
            header["vox_offset"] = end
            head = bytes(header.binaryblock) + head[size:]
        if not size <= end <= _LARGEST_EXTENSIONS:
            raise InputError("damaged", f"its samples start at byte {end}")
        rest = max(0, end - len(head))
        return (head[:end] + (stream or reader).at(len(head), rest)).ljust(end, b"\0")


def parse(head: bytes) -> Any:
    """Return the header of nibabel for the first bytes of a file.

    Raises:
        InputError: Analyze, or damaged.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    for kind in (Nifti1Header, Nifti2Header):
        size = kind.template_dtype.itemsize
        if int.from_bytes(head[:4], "little") == size or int.from_bytes(head[:4], "big") == size:
            header = kind(head[:size], check=False)
            if header["magic"].item()[:2] in (b"n+", b"ni"):
                return header
    raise InputError("unsupported", "Analyze has no affine to keep (convert it to NIfTI)")


def mapped_header(data: bytes, dtype: str, note: str) -> bytes:
    """Return a header for samples of another type, with the extensions of this one.

    Args:
        data: header and extensions.
        dtype: of the samples.
        note: for the description.
    """
    data = single_file(data)
    header = parse(data)
    size = header.template_dtype.itemsize
    header.set_data_dtype(np.dtype(dtype))
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"] = header["cal_max"] = 0
    description = header["descrip"].item()
    with_note = description + (b"; " if description else b"") + note.encode("ascii", "replace")
    if note and len(with_note) < header["descrip"].dtype.itemsize:
        header["descrip"] = with_note
    return bytes(header.binaryblock) + data[size:]


def single_file(data: bytes) -> bytes:
    """Return header and extensions of a pair of files for one file, where the samples start later."""
    header = parse(data)
    if not header["magic"].item().startswith(b"ni"):
        return data
    header["magic"] = header["magic"].item().replace(b"ni", b"n+")
    header["vox_offset"] = len(data)
    return bytes(header.binaryblock) + data[header.template_dtype.itemsize :]


def affine_of(source: str) -> list[list[float]]:
    """Return the affine (4,4) from voxels (i,j,k) to millimeters, as nibabel takes it from sform, qform or sizes."""
    return [[float(value) for value in row] for row in parse(header_of(source)).get_best_affine()]


class NiftiWriter:
    """A file that is being written, plain or gzip, by the suffix of its path.

    Args:
        path: of the unfinished file.
        plan: the array.
        header: and extensions; padded to the start of the samples.
    """

    def __init__(self, path: str, plan: ArrayPlan, header: bytes) -> None:
        fields = parse(header)
        self._dtype = np.dtype(plan.dtype).newbyteorder(fields.endianness)
        self._raw: IO[bytes] = open(path, "wb")  # noqa: PTH123, SIM115
        self._file: Any = self._raw
        if path.endswith(".gz"):  # neither a name nor a time: the same bytes each time
            self._file = gzip.GzipFile("", "wb", _LEVEL, self._raw, mtime=0)
        try:
            self._file.write(header)
        except BaseException:
            self.abandon()
            raise

    def write(self, number: int, place: Place, values: Array) -> None:
        """Write the planes that come next."""
        self._file.write(np.ascontiguousarray(values, self._dtype).data.cast("B"))

    def finish(self) -> None:
        """Complete the file, durably."""
        if self._file is not self._raw:
            self._file.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()

    def abandon(self) -> None:
        """Close the file after an error."""
        for file in (self._file, self._raw):
            with suppress(OSError, ValueError):
                file.close()
