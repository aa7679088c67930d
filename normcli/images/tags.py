"""Tags of arrays from containers: a scale and an offset, invalid samples."""

from typing import Any

import numpy as np

from normcli.images.convert import Decoded
from normcli.images.nodata import hide
from normcli.options.shared import DecodeOptions

Array = np.ndarray[Any, Any]


def apply_tags(image: Decoded, scale: tuple[float, float], hidden: Array | None, reading: DecodeOptions) -> None:
    """Add to an image the scale of its samples, and make samples invalid where the options follow the file.

    Args:
        image: of an array.
        scale: factor and offset.
        hidden: bool (H,W) or (H,W,C), True where the file marks a sample as invalid; None where all count.
        reading: the options; `nodata` "none" counts the samples that the file marks, and a note counts the image.
    """
    if reading.scale_offset == "values" or (scale != (1.0, 0.0) and reading.scale_offset == "tag"):
        image.scales = (scale,) * image.shape[2]
    if hidden is None:
        return
    if reading.nodata == "tag":
        hide(image, hidden.reshape(image.shape))
    elif reading.nodata == "none":
        marks = np.unique(image.pixels[hidden.reshape(image.pixels.shape)])
        image.notes.append(f"nodata:{marks[0]:.10g}")
