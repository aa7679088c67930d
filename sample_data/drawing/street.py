"""Rows of gabled houses, by day and by night."""

import numpy as np

from .brushes import Array, Rng, blend, clouds, color, grain, grid, shrink, step

WALLS = ("d9825b", "e6c67a", "8fb0a9", "c9b8a8", "b5545a", "7f95c1", "efe3cf")


def street(seed: int, size: tuple[int, int], air: tuple[str, str], lit: float, moment: int = 0) -> Array:
    """Draw a row of gabled houses; `lit` is the share of lighted windows, `moment` the seed that selects them."""
    rng = np.random.default_rng(seed)
    y, x = grid(size)
    lamps = np.random.default_rng(moment)
    dark = 1 - 0.62 * lit
    picture = blend(color(air[0]) + 0 * x[..., None], color(air[1]), step(0, 0.75, y))
    picture = blend(picture, color(air[1]) + 0.12, 0.5 * step(0.2, 1.1, clouds(rng, x.shape, (4, 2))))
    left = -0.04
    while left < x.max():
        width, tall = rng.uniform(0.24, 0.34), rng.uniform(0.36, 0.56)
        wall = color(WALLS[rng.integers(len(WALLS))]) * dark
        rough = clouds(rng, x.shape, (20, 30), 3)
        picture = house(picture, x - left, y, (width, tall), wall * (1 + 0.05 * rough[..., None]), lamps, lit)
        left += width
    road = color("6d6a6c") * dark * (1 + 0.10 * clouds(rng, x.shape, (30, 12), 3))[..., None]
    row = np.clip((2 * 0.86 - y) * len(y), 0, len(y) - 1).astype(int)
    mirrored = np.take_along_axis(picture, row[..., None], 0)
    picture = blend(picture, road * 0.7 + mirrored * 0.3, (y > 0.86).astype(float))
    picture = blend(picture, color("b9b3aa") * dark, ((y > 0.86) & (y < 0.885)).astype(float))
    return grain(rng, shrink(picture))


def house(picture: Array, x: Array, y: Array, size: tuple[float, float], wall: Array, lamps: Rng, lit: float) -> Array:
    """Draw one house with its left wall at x = 0 on a pavement at y = 0.86."""
    width, tall = size
    eaves = 0.86 - tall
    inside = (x > 0) & (x < width)
    lower = 1.05 - 0.25 * step(0.3, 0.9, y)[..., None]
    picture = blend(picture, wall * lower, (inside & (y > eaves) & (y < 0.86)).astype(float))
    rise = np.abs(x - width / 2) * 0.9
    tiles = 0.9 + 0.1 * np.sign(np.sin(y * 260)) * np.sign(np.sin(x * 200 + np.floor(y * 82) * 3))
    roof = (rise < 0.47 * width) & (y > eaves - 0.45 * width + rise) & (y < eaves + 0.008)
    chimney = (np.abs(x - 0.72 * width) < 0.02) & (np.abs(y - eaves + 0.36 * width) < 0.07)
    picture = blend(picture, wall * 0.5, (chimney & ~roof).astype(float))
    picture = blend(picture, (wall * 0.35 + color("7a3b2e") * 0.4) * tiles[..., None], roof.astype(float))
    floors, panes = max(2, round(tall / 0.17)), 3 if width > 0.28 else 2
    for floor in range(floors):
        for pane in range(panes):
            center = ((pane + 0.5) * width / panes, eaves + (floor + 0.55) * tall / floors)
            if floor == floors - 1 and pane == panes // 2:
                picture = box(picture, x - center[0], y - 0.795, (0.028, 0.065), wall * 0.35, wall * 0.9)
                continue
            glow = color("ffd985") if lamps.random() < lit else color("51657d") * (1.25 - 0.6 * lit)
            picture = box(picture, x - center[0], y - center[1], (0.026, 0.042), glow, wall * 0.6 + 0.3)
    return picture


def box(picture: Array, x: Array, y: Array, half: tuple[float, float], fill: Array, frame: Array) -> Array:
    """Draw a framed, crossed pane around (0, 0)."""
    outer = (np.abs(x) < half[0] + 0.006) & (np.abs(y) < half[1] + 0.006)
    inner = (np.abs(x) < half[0]) & (np.abs(y) < half[1]) & (np.abs(x) > 0.003) & (np.abs(y + 0.01) > 0.003)
    shine = fill * (1 + 0.25 * step(0.05, -0.05, x + y))[..., None]
    return blend(blend(picture, frame, outer.astype(float)), shine, inner.astype(float))
