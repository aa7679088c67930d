"""Frames of DICOM: each as a file of its own with the elements of all, read by its range of the file.

Elements of single frames, such as the rescale slope of an enhanced CT, are those of the frame.
"""

import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from normcli import late_imports
from normcli.errors import InputError, library_text
from normcli.sources.axes import Planes
from normcli.sources.item import Item
from normcli.storage.files import FileBytes, too_large
from normcli.storage.reader import Reader

_ITEM = b"\xfe\xff\x00\xe0"
_MOST_ITEMS = 100_000  # of sequences: each takes 1 KB as an object, and 8 bytes in the file
_MOST_FRAMES = 1_000_000
_PART = 4 << 20
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_OFFSETS = {0x7FE00001, 0x7FE00002}  # extended offset table and its lengths, of all frames
_FRAMES, _OF_FRAMES = 0x00280008, 0x52009230  # NumberOfFrames, PerFrameFunctionalGroupsSequence


class DicomFrame(NamedTuple):
    """The loader of one frame: a DICOM file of it."""

    load: FileBytes
    number: int

    def __call__(self) -> bytes:
        try:
            file = _open_file(self.load)
            return file.frame(self.number)
        except (InputError, ImportError, MemoryError):
            raise
        except Exception as error:
            raise InputError("damaged", f"frame {self.number} cannot be read: {library_text(error)}") from None

    @property
    def path(self) -> str:
        """Return the path of the file."""
        return self.load.path

    def fingerprint(self) -> str:
        """Return a text that changes with the file, and the number."""
        return f"{self.load.fingerprint()}:{self.number}"


def dicom_frames(path: str, load: FileBytes, label: str | None, group_by: str | None) -> Iterator[Item]:
    """Yield the frames of a DICOM file; one of a single frame is itself.

    Raises:
        InputError: too many frames, or a bomb of sequences.
        MissingExtraError: pydicom is not installed.
        Exception: any of pydicom, on damaged files.
    """
    file = _File(load)
    try:
        kind = file.dataset.get("SOPClassUID")
        count, syntax = int(file.dataset.get("NumberOfFrames") or 1), str(file.dataset.file_meta.TransferSyntaxUID)
    finally:
        file.reader.close()
    if count > 1 and kind == _SEGMENTATION and file.dataset.get("BitsAllocated") == 1:
        what = "a DICOM Segmentation, whose frames of 1 bit are labels and are not read one by one"
        raise InputError("unsupported", f"{what}: convert it to NIfTI for --mask-dir")
    if count > 1 and (syntax == _DEFLATED or file.dataset.get("BitsAllocated") == 1):
        what = "frames of a deflated file, or of 1 bit, are not read one by one"
        raise InputError("unsupported", f"{what} (-O frames=first reads its first frame)")
    if count <= 1 or file.tag not in _PIXELS:
        yield Item(path, load, label)
        return
    if count > _MOST_FRAMES:
        raise InputError("bomb", f"a file that claims {count:,} frames, more than {_MOST_FRAMES:,}")
    planes = Planes((count, 1, 1), "IYX")
    groups = planes.groups(path, group_by)
    for i, (number, index) in enumerate(planes.each()):
        yield Item(f"{path}/{number}", DicomFrame(load, i), label if groups is None else groups.label(index))


class _File:
    """A DICOM file that is open.

    Attributes:
        reader: of the file.
        dataset: its elements before the pixels.
        tag: of the pixels; of anything else in a file without.
    """

    def __init__(self, load: FileBytes) -> None:
        pydicom = late_imports.required("pydicom", "frames of DICOM", "medical")
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")  # on values that break the standard
        self.reader = Reader(load.path)
        try:
            if load.limit is not None and self.reader.size > load.limit:
                raise too_large(self.reader.size, load.limit)
            items = sum(self.reader.at(at, _PART).count(_ITEM) for at in range(0, self.reader.size, _PART))
            if items > _MOST_ITEMS:
                raise InputError("bomb", f"more than {_MOST_ITEMS:,} items of sequences")
            stream = self.reader.file()
            self.dataset = pydicom.dcmread(stream, stop_before_pixels=True)
            if "TransferSyntaxUID" not in self.dataset.file_meta:
                raise InputError("damaged", "its header has no TransferSyntaxUID")
            self._find_pixels(stream.tell())
        except BaseException:
            self.reader.close()
            raise

    def _find_pixels(self, at: int) -> None:
        """Parse the head of the element of the pixels (PS3.5, section 7.1)."""
        syntax = self.dataset.file_meta.TransferSyntaxUID
        order = "<" if syntax.is_little_endian else ">"
        head = self.reader.at(at, 12).ljust(12, b"\0")
        group, element = struct.unpack_from(order + "HH", head)
        self.tag = group << 16 | element
        self._vr = "OW" if syntax.is_implicit_VR else head[4:6].decode("latin-1")
        self._start = at + (8 if syntax.is_implicit_VR else 12)
        (self._size,) = struct.unpack_from(order + "I", head, 4 if syntax.is_implicit_VR else 8)

    def frame(self, number: int) -> bytes:
        """Return a file of one frame.

        Raises:
            InputError: cut short, or of a kind whose frames are not read one by one.
        """
        from pydicom import Dataset

        dataset = self.dataset
        syntax = dataset.file_meta.TransferSyntaxUID
        one = Dataset()
        one.file_meta, one.preamble = dataset.file_meta, bytes(128)
        for tag in set(dataset.keys()) - _OFFSETS:
            one[tag] = dataset.get_item(tag)
        if _OF_FRAMES in dataset:
            one.add_new(_OF_FRAMES, "SQ", dataset[_OF_FRAMES].value[number : number + 1])
        one.add_new(_FRAMES, "IS", 1)
        content = self._encapsulated(number) if syntax.is_encapsulated else self._native(number)
        one.add_new(self.tag, "OB" if syntax.is_encapsulated else self._vr, content)
        one[self.tag].is_undefined_length = bool(syntax.is_encapsulated)
        out = io.BytesIO()
        one.save_as(out, enforce_file_format=False)
        return out.getvalue()

    def _native(self, number: int) -> bytes:
        dataset = self.dataset
        values = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
        if str(dataset.PhotometricInterpretation) == "YBR_FULL_422":
            values = values // 3 * 2
        size = values * (int(dataset.BitsAllocated) // 8)
        data = self.reader.at(self._start + number * size, size)
        if (number + 1) * size > self._size or len(data) < size:
            raise InputError("truncated", "the pixels are cut short")
        return data

    def _encapsulated(self, number: int) -> bytes:
        from pydicom.encaps import encapsulate, get_frame

        file = self.reader.file()
        file.seek(self._start)
        count = int(self.dataset.NumberOfFrames)
        return bytes(encapsulate([get_frame(file, number, number_of_frames=count)]))


_local = threading.local()


def _open_file(load: FileBytes) -> _File:
    """Return the open file of this thread.

    Raises:
        InputError: it changed since it was opened.
    """
    key = os.getpid(), load.path, load.fingerprint()
    if getattr(_local, "key", None) != key:
        if getattr(_local, "file", None) is not None:
            _local.file.reader.close()
        _local.key = _local.file = None
        _local.file = _File(load)
        _local.key = key
    file: _File = _local.file
    if file.reader.changed():
        raise InputError("changed", "it changed while it was read")
    return file
