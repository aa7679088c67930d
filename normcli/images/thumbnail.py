"""Thumbnails of decoded images, for the report."""

import io
from typing import Any

import numpy as np
from PIL import Image

SIDE = 240  # twice what a page shows, for dense screens
_TINY = 64  # up to here pixels are shown as squares, and PNG is smaller than JPEG

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def thumbnail(unit: np.ndarray[Any, Any], orientation: int = 1) -> tuple[bytes, str, int, int]:
    """Draw a thumbnail.

    Args:
        unit: (H,W,C) floats; 0 is black, 1 white, values outside are clipped. Bands after the third are left out.
        orientation: the EXIF orientation, 1 to 8.

    Returns:
        The file, its media type, width and height.
    """
    bands = unit[:, :, :3] if unit.shape[2] >= 3 else unit[:, :, :1]
    levels = np.clip(np.rint(bands * 255), 0, 255).astype(np.uint8)
    image = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    tiny = max(image.size) <= _TINY
    if not tiny:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if tiny:
        image.save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=82, optimize=True)
    return file.getvalue(), "image/png" if tiny else "image/jpeg", *image.size
