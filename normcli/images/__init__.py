"""Decoding: an encoded image in, an array and notes about it out.

`decode` is the only entry: a JPEG goes to simplejpeg, PNG and kinds that Pillow would damage (16-bit color, multi-band,
float color) to tifffile and imagecodecs, PNM to our own decoder, DICOM to pydicom, all others to Pillow.
"""

from typing import Any

import numpy as np
import PIL

from normcli import __version__, late_imports
from normcli.errors import InputError
from normcli.images import convert, high_bit_depth, jpeg, png
from normcli.images.convert import Decoded, check_full_scale, row_slices, stored_bytes
from normcli.images.tiff import SIGNATURES
from normcli.options.shared import DecodeOptions

__all__ = ["SIGNATURES", "Decoded", "check_full_scale", "decode", "row_slices", "stored_bytes", "versions"]


def decode(data: bytes | np.ndarray[Any, Any], reading: DecodeOptions, *, turn: bool = True) -> Decoded:
    """Decode one image and convert it by the options.

    Args:
        data: an encoded image, or an array (H,W) or (H,W,C) from a container.
        reading: color, alpha, geometry, limits.
        turn: apply the EXIF orientation before a geometry; without a geometry the pixels stay as stored.

    Returns:
        Pixels (H,W,C): uint8 or uint16 as stored, else float32 or float64 in raw units; in a buffer that this
        thread's next call may overwrite.

    Raises:
        InputError: the image cannot be decoded; no other exception is raised.
    """
    try:
        return _decode(data, reading, turn)
    except InputError:
        raise
    except Exception as error:  # damaged files raise OSError, TypeError, SyntaxError, struct.error, …
        reason = late_imports.reason_of(error)
        if reason is None:  # another thread's import had failed, and succeeds now
            return decode(data, reading, turn=turn)
        raise convert.input_error(reason) from reason


def _decode(data: bytes | np.ndarray[Any, Any], reading: DecodeOptions, turn: bool) -> Decoded:
    if isinstance(data, np.ndarray):
        return convert.shape(convert.from_array(data, reading), reading, turn=turn)
    if data[:3] == jpeg.SIGNATURE and (decoded := jpeg.decode(data, reading)) is not None:
        return convert.shape(decoded, reading, turn=turn)
    if data[:8] == png.SIGNATURE and (decoded := png.decode(data, reading)) is not None:
        return convert.shape(decoded, reading, turn=turn)
    if data[:1] == b"P":
        from normcli.images import pnm  # 6 ms, for formats that few use

        if pnm.is_pnm(data):
            return convert.shape(pnm.decode(data, reading), reading, turn=turn)
    if data[128:132] == b"DICM":
        from normcli.images import dicom

        return convert.shape(dicom.decode(data, reading), reading, turn=turn)
    need = high_bit_depth.needed(data)
    from normcli.images import pillow  # 9 ms, which JPEG does without

    decoded = pillow.decode(data, reading) if need is None else high_bit_depth.decode(data, need, reading)
    if data[:8] == png.SIGNATURE and not png.is_intact(data):
        decoded.notes.append("damaged")  # neither Pillow nor libpng checks all of it
    return convert.shape(decoded, reading, turn=turn)


def versions() -> dict[str, str]:
    """Return the versions of normcli and of the decoders, on which results depend."""
    return {"normcli": __version__, "pillow": PIL.__version__, "simplejpeg": jpeg.version()}
