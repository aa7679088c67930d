"""Satellite images of six bands: surface reflectance x 10,000 in 16 bits, as Sentinel-2 products store it."""

import numpy as np
from numpy.typing import NDArray

from .brushes import clouds

BANDS = ("blue", "green", "red", "near infrared", "shortwave infrared 1", "shortwave infrared 2")
SPECTRA = {
    "water": (0.06, 0.05, 0.03, 0.02, 0.01, 0.01),
    "soil": (0.08, 0.12, 0.18, 0.25, 0.34, 0.30),
    "crop": (0.03, 0.07, 0.04, 0.45, 0.22, 0.11),
    "forest": (0.02, 0.04, 0.03, 0.32, 0.14, 0.06),
    "town": (0.14, 0.16, 0.18, 0.22, 0.25, 0.24),
}
"""Typical reflectance of each kind of land in each of `BANDS`."""


def satellite(seed: int, size: tuple[int, int]) -> NDArray[np.uint16]:
    """Draw fields, forest and a town along a river: (height, width, 6)."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / height
    seeds = rng.uniform(0, 1, (40, 2)) * [1, width / height]
    kinds = rng.choice([1, 2, 2, 3, 4], len(seeds))
    nearest = np.argmin([np.abs(y - down) + np.abs(x - across) for down, across in seeds], axis=0)
    land = kinds[nearest]
    river = np.abs(y - 0.5 - 0.2 * np.sin(3 * x + seed)) < 0.03
    spectrum = np.array(list(SPECTRA.values()))[np.where(river, 0, land)]
    tone = 1 + rng.normal(0, 0.12, len(seeds))[nearest] + 0.10 * clouds(rng, (height, width), (8, 8))
    noise = rng.normal(0, 0.002, spectrum.shape)
    return np.rint(np.clip(spectrum * tone[..., None] + noise, 0, 1) * 10_000).astype(np.uint16)
