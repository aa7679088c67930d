"""Hills, lakes, forests and skies."""

from dataclasses import dataclass

import numpy as np

from .brushes import Array, Rng, blend, clouds, color, grain, grid, shrink, step


@dataclass(frozen=True)
class Scenery:
    """Colors and shape of a landscape."""

    sky: tuple[str, str]
    land: tuple[str, str]
    light: str = "fff2c8"
    sun: tuple[float, float, float] = (0.4, 0.3, 0.04)
    """Position across and down, and radius."""
    shore: float = 1.0
    """Height at which the lake begins; 1 for no lake."""
    horizon: float = 0.62
    rugged: float = 0.17
    ridges: int = 4
    trees: float = 0.0
    cloud: float = 0.5
    night: bool = False


def landscape(seed: int, size: tuple[int, int], scenery: Scenery) -> Array:
    """Draw hills behind hills under a sky, and a lake that mirrors them if there is one."""
    rng = np.random.default_rng(seed)
    y, x = grid(size)
    picture = sky(rng, x, y, scenery)
    for number in range(scenery.ridges):
        picture = ridge(rng, picture, x, y, number / max(scenery.ridges - 1, 1), scenery)
    if scenery.shore < 1:
        picture = lake(rng, picture, x, y, scenery)
    return grain(rng, shrink(picture))


def sky(rng: Rng, x: Array, y: Array, scenery: Scenery) -> Array:
    """Draw a gradient with a sun or moon, its glow, clouds, and stars at night."""
    top, low = (color(code) for code in scenery.sky)
    light = color(scenery.light)
    across, down, radius = scenery.sun
    distance = np.hypot(x - across, y - down)
    picture = blend(top + 0 * x[..., None], low, step(0, scenery.horizon, y))
    if scenery.night:
        for star_y, star_x, shine in rng.uniform(0, 1, (90, 3)) * [scenery.horizon, x.max(), 0.8]:
            window = np.hypot(x - star_x, y - star_y)
            picture = blend(picture, light, shine * np.exp(-((window / 0.003) ** 2)))
    picture = blend(picture, light, 0.55 * np.exp(-distance / 0.22))
    disc = step(radius + 0.003, radius - 0.003, distance)
    if scenery.night:
        disc = disc * (1 + 0.16 * np.minimum(0, clouds(rng, x.shape, (14, 20), 3)))
    picture = blend(picture, light * 1.02, disc)
    veil = step(0.15, 1.3, clouds(rng, x.shape, (5, 2)) + 0.35) * step(1.0, 0.3, y / scenery.horizon)
    lit = light * 0.45 + 0.55 * (low + 0.15)
    return blend(picture, np.clip(lit, 0, 1), scenery.cloud * veil)


def ridge(rng: Rng, picture: Array, x: Array, y: Array, near: float, scenery: Scenery) -> Array:
    """Draw one line of hills; `near` runs from 0 (far, hazy, rugged) to 1 (in front, dark, gentle)."""
    haze = color(scenery.sky[1])
    body = color(scenery.land[0]) * (1 - near) + color(scenery.land[1]) * near
    line = clouds(rng, (1, x.shape[1]), (1, 3), 6)[0] * scenery.rugged * (1 - 0.6 * near)
    crest = scenery.horizon - 0.10 + (0.30 * near) - line
    if scenery.trees and near > 0.4:
        crest = crest - forest(rng, x[0], scenery.trees * near)
    depth = y - crest
    slope = np.gradient(line, x[0, 1] - x[0, 0])
    facing = np.tanh(6 * (scenery.sun[0] - x[0])) * slope
    texture = clouds(rng, x.shape, (10, 12), 4)
    shade = 1 + 0.14 * np.tanh(-facing)[None, :] * np.exp(-depth / 0.10) + 0.09 * texture
    ground = body * shade[..., None]
    ground = blend(ground, haze, (0.55 - 0.5 * near) * step(0, 0.3, depth))
    return blend(picture, ground, (depth > 0).astype(float))


def forest(rng: Rng, x: Array, height: float) -> Array:
    """Return the height of a row of conifers above its ridge at each x."""
    top = np.zeros_like(x)
    stems = np.arange(x.min(), x.max(), 0.02)
    for stem in stems + rng.uniform(-0.008, 0.008, len(stems)):
        tall = height * rng.uniform(0.45, 1)
        fir = 1 - np.abs(x - stem) / (0.28 * tall)
        top = np.maximum(top, tall * (fir + 0.12 * np.sign(np.sin(40 * fir)) * (fir > 0)).clip(0))
    return top


def lake(rng: Rng, picture: Array, x: Array, y: Array, scenery: Scenery) -> Array:
    """Mirror everything above the shore in rippling water."""
    height, width = x.shape
    ripple = clouds(rng, x.shape, (60, 5), 3)
    down = step(scenery.shore, 1.0, y)
    row = 2 * scenery.shore - y + ripple * (0.01 + 0.06 * down)
    column = np.broadcast_to(np.arange(width), x.shape)
    mirrored = picture[np.clip(row * height, 0, scenery.shore * height - 1).astype(int), column]
    water = mirrored * (0.86 + 0.10 * ripple[..., None] * down[..., None]) + 0.03 * color(scenery.sky[0])
    reach = np.exp(-(((x - scenery.sun[0]) / (0.03 + 0.10 * down)) ** 2))
    water = blend(water, color(scenery.light), 0.75 * reach * step(0.1, 0.7, ripple))
    return blend(picture, water, (y > scenery.shore).astype(float))


SCENERIES = {
    "dawn": Scenery(
        ("5b7fb5", "f9d3b0"), ("b69bae", "2f3d46"), sun=(0.95, 0.42, 0.045), shore=0.70, trees=0.05
    ),
    "noon": Scenery(
        ("3f83cf", "cfe6f5"), ("8fb3b8", "4c7a2f"), "ffffff", (0.25, 0.16, 0.05), trees=0.10, cloud=0.95
    ),
    "desert": Scenery(
        ("e08a4c", "fbe0a4"), ("d9a066", "7c3b1f"), "fff4d0", (1.02, 0.34, 0.07), rugged=0.11, cloud=0.25
    ),
    "winter": Scenery(
        ("8f9baa", "dfe5ea"), ("c9d0d8", "3c4650"), "ffffff", (0.5, 0.2, 0.04), rugged=0.2, trees=0.09
    ),
    "moon": Scenery(
        ("070b1f", "2b3f6b"), ("2a3a5c", "0a1020"), "eef0e0", (0.95, 0.24, 0.075),
        shore=0.66, horizon=0.70, rugged=0.06, ridges=2, cloud=0.15, night=True,
    ),
    "sunset": Scenery(
        ("46356f", "ff9a5a"), ("a0566d", "2a1a33"), "ffe08a", (0.72, 0.50, 0.06), 0.72, 0.66, rugged=0.1
    ),
    "fjord": Scenery(
        ("5d93c9", "dceaf0"), ("8aa2b4", "27452f"), "fffbe8", (0.46, 0.12, 0.035),
        shore=0.74, horizon=0.55, rugged=0.28, trees=0.045, cloud=0.8,
    ),
    "mist": Scenery(
        ("c9d3d6", "eef0ea"), ("b9c7c6", "2d4a44"), "ffffff", (0.3, 0.2, 0.04),
        ridges=5, trees=0.13, cloud=0.2,
    ),
}  # fmt: skip
