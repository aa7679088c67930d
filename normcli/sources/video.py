"""Frames of a video, by PyAV: decoded in order, converted to RGB by libswscale in the worker."""

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from normcli import late_imports
from normcli.errors import InputError
from normcli.options.field import Options, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.frames import FrameChoice
from normcli.sources.item import Item, Items, failed_item
from normcli.storage import is_remote, read_error

log = logging.getLogger("normcli.sources")

# AVColorSpace of a frame -> name, and the name of libswscale's coefficients in PyAV
_MATRICES = {1: ("bt709", "ITU709"), 5: ("bt601", "ITU601"), 6: ("bt601", "ITU601"), 9: ("bt2020", "BT2020")}
_CHOICES = dict(_MATRICES.values())
_OTHERS = {4: ("fcc", "FCC"), 7: ("smpte240m", "SMPTE240M")}


class VideoOptions(Options):
    """Open options of videos."""

    frames: str = option(
        "Frames to read: all; every N-th as ::N; a range as A:B or A:B:N; or numbers from 0 between commas.", "all"
    )
    matrix: Literal["file", "bt601", "bt709", "bt2020"] = option(
        "Matrix of the conversion from YUV to RGB; file: that of the file, or bt601 where it names none.", "file"
    )
    pixels: Literal["auto", "rgb24", "rgb48", "gray", "gray16"] = option(
        "Pixel format to convert to; auto: rgb24, rgb48 for more than 8 bits, gray or gray16 for gray video.", "auto"
    )


OPEN_OPTIONS = VideoOptions
_FORMATS = {"rgb24": "rgb24", "rgb48": "rgb48le", "gray": "gray", "gray16": "gray16le"}


_thread = threading.local()


class FramePixels(np.ndarray[Any, Any]):
    """The pixels of a frame, with a note on their conversion for the composition.

    Attributes:
        identity: digest of the file, number and conversion, for the digest of the image: SHA-256 of the pixels takes
            0.45 ms of the 2.7 of a frame of 640 x 480.
        orientation: as EXIF has it, 1 to 8.
    """

    notes: tuple[str, ...] = ()
    identity: bytes | None = None
    orientation: int = 1

    def described(self, note: str, identity: bytes, orientation: int) -> "FramePixels":
        """Set all of them; return the pixels."""
        self.notes = (note,) if orientation == 1 else (note, "rotated")
        self.identity, self.orientation = identity, orientation
        return self


class Conversion(NamedTuple):
    """The conversion of a frame's pixels by libswscale.

    Attributes:
        pixels: pixel format, as FFmpeg names it.
        coefficients: name of the coefficients from YUV, as PyAV names it; "" for RGB and gray.
        note: of the composition.
    """

    pixels: str
    coefficients: str
    note: str

    def apply(self, frame: Any) -> FramePixels:
        """Return the pixels of a frame: (H,W,3), or (H,W) of a gray one; uint8 or uint16."""
        if not hasattr(_thread, "reformatter"):
            from av.video.reformatter import VideoReformatter

            _thread.reformatter = VideoReformatter()  # a frame's own one is set up anew: 0.25 ms instead of 0.11
        matrix = {"src_colorspace": self.coefficients} if self.coefficients else {}
        converted = _thread.reformatter.reformat(frame, format=self.pixels, **matrix)
        return converted.to_ndarray().view(FramePixels)  # type: ignore[no-any-return]


class ConvertedFrame(NamedTuple):
    """The loader of a frame that went to another process."""

    pixels: np.ndarray[Any, Any]
    note: str
    identity: bytes
    orientation: int

    def __call__(self) -> FramePixels:
        return self.pixels.view(FramePixels).described(self.note, self.identity, self.orientation)


class DecodedFrame(NamedTuple):
    """The loader of a frame, which converts its pixels."""

    frame: Any
    conversion: Conversion
    identity: bytes

    def __call__(self) -> FramePixels:
        try:
            pixels = self.conversion.apply(self.frame)
            return pixels.described(self.conversion.note, self.identity, orientation_of(self.frame))
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            raise InputError(
                "unsupported", f"cannot be converted to {self.conversion.pixels}: {_line(error)}"
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return ConvertedFrame, (np.asarray(self()), self.conversion.note, self.identity, orientation_of(self.frame))

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of memory that the loader itself takes."""
        return int(self.frame.width * self.frame.height * 3)

    def fingerprint(self) -> str:
        """Return a text that changes with the image: its identity."""
        return self.identity.hex()


_ORIENTATIONS = {90: 8, 180: 3, 270: 6}  # of degrees counterclockwise


def orientation_of(frame: Any) -> int:
    """Return the orientation that the display matrix of a frame means, as EXIF has it; 1 for angles between."""
    return _ORIENTATIONS.get(round(getattr(frame, "rotation", 0)) % 360, 1)


def read(source: str, listing: InputOptions, options: VideoOptions) -> Items:
    """Yield the frames of the first video stream, in the order of display; their label is the name of the file.

    A frame that the decoder could not decode, or decoded with errors, fails; so does the end of a video that is cut
    short.

    Raises:
        MissingExtraError: PyAV is not installed.
        InputError: not a video, damaged, too large, or on a server.
        UsageError: frames that are not named rightly.
    """
    choice = FrameChoice.parse(options.frames)
    av = late_imports.required("av", "a video", "video", "PyAV")
    if is_remote(source):
        raise InputError("unsupported", "a video on a server is not read: copy it first")
    try:
        size = os.stat(source).st_size  # noqa: PTH116
        limit = parse_size("max_file_size", listing.max_file_size)
        if limit is not None and size > limit:
            raise InputError("too-large", f"{size} bytes, more than the limit of {limit} (--max-file-size)")
        container = av.open(source)
    except av.FFmpegError as error:
        raise InputError(_reason(source, "damaged"), f"cannot be opened as a video: {_line(error)}") from None
    except OSError as error:
        raise read_error(source, error) from None
    with container:
        if not container.streams.video:
            raise InputError(_reason(source, "not-an-image"), "no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield from _frames(source, _Decoding(av, container, stream), choice, options)


class _Decoding:
    """The decoding of a stream.

    Attributes:
        packets: number of packets so far.
        problem: why it ended; "" for the end of the file.
    """

    def __init__(self, av: Any, container: Any, stream: Any) -> None:
        self._av, self._container, self.stream = av, container, stream
        self.packets = 0
        self.problem = ""

    def frames(self) -> Iterator[Any]:
        """Yield the frames; the error in place of those of a packet that cannot be decoded."""
        packets = iter(self._container.demux(self.stream))
        while True:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:
                self.problem = f": {_line(error)}"
                return
            if packet is None:
                return
            self.packets += packet.size > 0
            try:
                yield from packet.decode()
            except self._av.FFmpegError as error:
                yield error


def _frames(source: str, decoding: _Decoding, choice: FrameChoice, options: VideoOptions) -> Iterator[Item]:
    label, number, selected, failed = os.path.basename(source), 0, 0, 0  # noqa: PTH119
    conversions: dict[tuple[Any, ...], Conversion] = {}
    with open(source, "rb") as file:  # noqa: PTH123
        content = hashlib.file_digest(file, "sha256").digest()
    for frame in decoding.frames():
        if choice.stop is not None and number >= choice.stop:
            return
        key, number = f"{source}/{number:06d}", number + 1
        if number - 1 not in choice:
            continue
        selected += 1
        if isinstance(frame, Exception) or frame.is_corrupt:
            reason = _line(frame) if isinstance(frame, Exception) else "the decoder met errors in it"
            failed += 1
            yield failed_item(key, "damaged", f"cannot be decoded: {reason}")._replace(label=label)
            continue
        kind = frame.format.name, int(frame.colorspace)
        if kind not in conversions:
            conversions[kind] = conversion = conversion_of(frame, options)
            log.info("%s: %d x %d, %s", source, frame.width, frame.height, conversion.note.removeprefix("video:"))
        conversion = conversions[kind]
        identity = content + number.to_bytes(8, "big") + conversion.note.encode()
        yield Item(key, DecodedFrame(frame, conversion, identity), label)
    expected = int(decoding.stream.frames)  # 0 where the container does not record it
    if decoding.problem or decoding.packets < expected or (not expected and _is_cut(source)):
        of = f"of {expected} " if expected else ""
        counted = f"{number} frames {of}came, {selected - failed} were counted{decoding.problem}"
        yield failed_item(source, "truncated", f"the video ends early: {counted}")
    elif not selected or (choice.numbers is not None and selected < len(choice.numbers)):
        yield failed_item(source, "missing", f"no frame of {options.frames}: it has {number} frames (-O frames=...)")


def conversion_of(frame: Any, options: VideoOptions) -> Conversion:
    """Return the conversion of a frame by its pixel format and the options."""
    stored = frame.format
    deep = any(component.bits > 8 for component in stored.components)
    is_gray = stored.name.startswith("gray")
    pixels = options.pixels
    if pixels == "auto":
        pixels = ("gray16" if deep else "gray") if is_gray else ("rgb48" if deep else "rgb24")
    name = coefficients = ""
    if not (stored.is_rgb or is_gray or stored.name.startswith(("pal", "mono"))):
        if options.matrix != "file":
            name, coefficients = options.matrix, _CHOICES[options.matrix]
        else:
            found = {**_MATRICES, **_OTHERS}.get(int(frame.colorspace))
            name, coefficients = found or ("bt601 (assumed)", "ITU601")
    note = f"{stored.name} to {_FORMATS[pixels]} by libswscale" + (f", {name}" if name else "")
    return Conversion(_FORMATS[pixels], coefficients, f"video:{note}")


def _reason(source: str, otherwise: str) -> str:
    return "truncated" if _is_cut(source) else otherwise


def _is_cut(path: str) -> bool:
    """Return True if a Matroska or MP4 file is shorter than its outermost parts claim."""
    with open(path, "rb") as file:  # noqa: PTH123
        size = os.fstat(file.fileno()).st_size
        start = file.read(64)
        if start[:4] == b"\x1a\x45\xdf\xa3":
            return _is_cut_matroska(start, size)
        at = 0
        while start[4:8] in (b"ftyp", b"wide", b"moov", b"free", b"skip") and at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:16], "big") if length == 1 else length
            if length < 8:
                return False  # 0: to the end of the file
            at += length
        return at > size


def _is_cut_matroska(start: bytes, size: int) -> bool:
    header, at = _vint(start, 4)
    at += header or 0
    if start[at : at + 4] != b"\x18\x53\x80\x67":
        return False
    segment, at = _vint(start, at + 4)
    return segment is not None and at + segment > size


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    r"""Return an integer of Matroska and the offset behind it; None for an unknown size, which is all ones.

    >>> _vint(b"\x81", 0), _vint(b"\x40\x02", 0), _vint(b"\xff", 0)
    ((1, 1), (2, 2), (None, 1))
    """
    width = 9 - data[at].bit_length() if at < len(data) else 1
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), at + width


def _line(error: Any) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
