"""Pillow images of every mode from drawn pictures."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .brushes import Array


def bytes8(picture: Array) -> NDArray[np.uint8]:
    """Convert 0..1 to 0..255."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def words16(picture: Array) -> NDArray[np.uint16]:
    """Convert 0..1 to 0..65,535."""
    return np.rint(np.clip(picture, 0, 1) * 65535).astype(np.uint16)


def gray(picture: Array) -> Array:
    """Return the luma of a color picture."""
    return picture @ np.array([0.299, 0.587, 0.114])


def rgb(picture: Array) -> Image.Image:
    """Return an image of 8 bits per channel."""
    return Image.fromarray(bytes8(picture))


def cmyk(picture: Array) -> Image.Image:
    """Return an image of printing inks, with most of the common gray moved to black."""
    inks = 1 - np.clip(picture, 0, 1)
    black = 0.8 * inks.min(-1, keepdims=True)
    plates = bytes8(np.concatenate([(inks - black) / (1 - black), black], -1))
    return Image.frombytes("CMYK", picture.shape[1::-1], plates.tobytes())


def layered(picture: Array, alpha: Array) -> Image.Image:
    """Return gray or color with an alpha channel; transparent pixels keep their color."""
    colors = picture[..., None] if picture.ndim == 2 else picture
    return Image.fromarray(bytes8(np.concatenate([colors, alpha[..., None]], -1)))


def gray_palette(picture: Array, shades: int = 16) -> Image.Image:
    """Return an image whose palette runs from light to dark; a reader that ignores it sees the negative."""
    image = Image.fromarray(np.rint((1 - np.clip(picture, 0, 1)) * (shades - 1)).astype(np.uint8), "P")
    image.putpalette([255 - 255 * i // (shades - 1) for i in range(shades) for _ in range(3)])
    return image


def palette(picture: Array, colors: int = 64) -> Image.Image:
    """Return an image of the best few colors, dithered."""
    image = rgb(picture)
    return image.quantize(palette=image.quantize(colors, Image.Quantize.MEDIANCUT))


def hollow_palette(picture: Array, alpha: Array, colors: int = 63) -> Image.Image:
    """Return a palette image with one more entry: transparent, and magenta for readers that ignore transparency."""
    hollow = alpha < 0.5
    image = palette(np.where(hollow[..., None], picture[~hollow].mean(0), picture), colors)
    entries = np.zeros((colors + 1, 3), np.uint8)
    used = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[:colors]
    entries[: len(used)], entries[colors] = used, (255, 0, 255)
    cut = Image.fromarray(np.where(hollow, colors, np.asarray(image)).astype(np.uint8), "P")
    cut.putpalette(entries.tobytes())
    return cut


def film(*pictures: Array) -> list[Image.Image]:
    """Return frames in the colors of the first."""
    first = palette(pictures[0], 96)
    return [first, *(rgb(each).quantize(palette=first) for each in pictures[1:])]


def sideways(picture: Array) -> Image.Image:
    """Return the image as an upright camera stores it; EXIF orientation 6 rotates it back."""
    return rgb(picture).transpose(Image.Transpose.ROTATE_90)


def orientation(value: int) -> Image.Exif:
    """Return EXIF data of the orientation alone."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif
