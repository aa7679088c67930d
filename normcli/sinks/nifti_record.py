"""The header of a NIfTI file as text in a manifest, so that `restore` writes it again."""

import base64
import zlib

from normcli.errors import InputError
from normcli.sinks.nifti import header_of

_LARGEST = 1 << 20  # of a header with its extensions


def header_record(source: str) -> str:
    """Return header and extensions of a file, compressed, as text; "" where they are too large for a manifest."""
    data = header_of(source)
    return base64.b64encode(zlib.compress(data, 9)).decode() if len(data) <= _LARGEST else ""


def header_bytes(text: str) -> bytes:
    """Return the header that `header_record` encoded.

    Raises:
        InputError: damaged, or too large.
    """
    try:
        decoder = zlib.decompressobj()
        data = decoder.decompress(base64.b64decode(text, validate=True), _LARGEST)
    except (ValueError, zlib.error):
        data = b""
    if not data:
        raise InputError("damaged", "the manifest has no header of this volume")
    return data
