"""Brushes: pictures are float arrays, (height, width) or (height, width, channels), 0 black and 1 white."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]
Rng = np.random.Generator
OVERSAMPLING = 3


def color(code: str) -> Array:
    """Return an RGB color from six hexadecimal digits."""
    return np.array(list(bytes.fromhex(code))) / 255


def step(low: float, high: float, x: Array) -> Array:
    """Return 0 below `low`, 1 above `high`, smooth between; with `low` > `high` the reverse."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blend(under: Array, over: Array, cover: Array) -> Array:
    """Paint `over` on `under` where `cover` is 1."""
    return under + (over - under) * cover[..., None]


def grid(size: tuple[int, int]) -> tuple[Array, Array]:
    """Return coordinates of the fine pixels: y from 0 (top) to 1 (bottom), x from 0 to width / height."""
    width, height = (OVERSAMPLING * n for n in size)
    y, x = np.mgrid[0:height, 0:width]
    return (y + 0.5) / height, (x + 0.5) / height


def shrink(picture: Array) -> Array:
    """Average the fine pixels of each stored pixel."""
    n = OVERSAMPLING
    height, width, *rest = picture.shape
    return picture.reshape(height // n, n, width // n, n, *rest).mean(axis=(1, 3))


def clouds(rng: Rng, shape: tuple[int, ...], cells: tuple[int, int], octaves: int = 5) -> Array:
    """Return fractal noise around 0, about -1..1; the coarsest octave has `cells` (down, across) bumps."""
    total = np.zeros(shape[:2])
    for octave in range(octaves):
        rough = rng.uniform(-1, 1, [n * 2**octave + 1 for n in cells]).astype(np.float32)
        smooth = Image.fromarray(rough).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) / 2**octave
    return total


def grain(rng: Rng, picture: Array, strength: float = 0.008) -> Array:
    """Add film grain, which is nearly equal in all channels."""
    rough = rng.normal(0, strength, picture.shape[:2])
    return picture + rough[..., None] + rng.normal(0, strength / 3, picture.shape)
