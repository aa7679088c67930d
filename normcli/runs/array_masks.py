"""Masks and weights of pixels that Python code passes to a Counter, in place of mask images."""

from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.images import Decoded
from normcli.options.shared import DecodeOptions

Array = np.ndarray[Any, Any]


class ArrayMask(NamedTuple):
    """Mask and weights of one image.

    Attributes:
        mask: (H,W), (H,W,C) or (C,H,W) of bool or integers: a sample counts where it is not 0; None where all do.
        weight: (H,W) of the image's unsigned type: 0 is none, its largest value is full; None for equal weights.
    """

    mask: Array | None
    weight: Array | None

    def apply(self, key: str, image: Decoded, reading: DecodeOptions) -> None:
        """Make samples of an image invalid, and weigh its pixels; with the arguments of `PixelMask.apply`.

        Raises:
            InputError: of another size or type than the image.
        """
        height, width, channels = shape = image.shape
        if self.mask is not None:
            mask = self.mask
            if mask.dtype.kind not in "bui":
                raise InputError("mask", f"its mask is of {mask.dtype}, not of bool or integers")
            if mask.shape == (height, width):
                mask = mask[:, :, None]
            elif mask.shape != shape and mask.shape == (channels, height, width):
                mask = mask.transpose(1, 2, 0)
            if mask.shape not in ((height, width, 1), shape):
                raise InputError("mask", f"its mask is of shape {self.mask.shape}, the image {shape}")
            valid = np.broadcast_to(mask != 0, shape)
            image.valid = valid if image.valid is None else image.valid & valid
        if self.weight is not None:
            if image.weights is not None:
                raise InputError("weight", "its pixels have the weights of its alpha channel already")
            if self.weight.dtype != image.pixels.dtype or self.weight.dtype.kind != "u":
                raise InputError("weight", f"its weights are of {self.weight.dtype}, its pixels {image.pixels.dtype}")
            if self.weight.shape != (height, width):
                raise InputError("weight", f"its weights are of shape {self.weight.shape}, not {(height, width)}")
            if not self.weight.any():
                raise InputError("weight", "no pixel has a weight")
            image.weights = np.ascontiguousarray(self.weight)


def split(value: Any, count: int, is_batch: bool) -> list[Array | None]:
    """Return the mask or the weights of each image of a batch, or of one image; None for each without any.

    Raises:
        InputError: another number of them than images.
    """
    if value is None:
        return [None] * count
    array = np.asarray(value)
    if not is_batch:
        return [array]
    if array.shape[:1] != (count,):
        raise InputError("mask", f"masks or weights of shape {array.shape} for a batch of {count} images")
    return list(array)
