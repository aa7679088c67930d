"""Handwritten digits."""

import numpy as np

from .brushes import Array, blend, clouds, color, grain, grid, shrink, step

STROKES = {
    0: ["50 8 20 22 16 55 28 86 52 92 78 80 84 45 74 18 50 8"],
    1: ["30 28 52 8 52 92", "32 92 72 92"],
    2: ["20 28 34 9 62 10 74 30 62 52 36 74 18 91 50 88 82 91"],
    3: ["22 16 50 7 74 20 68 40 44 48 70 54 80 74 60 92 30 90 18 78"],
    4: ["62 93 64 8 40 36 16 64 86 64"],
    5: ["76 10 34 10 28 44 56 38 80 56 76 82 48 93 18 82"],
    6: ["70 9 40 28 22 62 30 88 56 93 78 76 70 56 46 52 26 68"],
    7: ["16 12 50 10 82 11 60 48 42 92", "34 52 74 50"],
    8: ["70 20 48 8 28 22 40 42 66 58 78 78 52 93 26 78 38 56 62 40 70 20"],
    9: ["74 32 56 48 30 42 26 20 48 8 72 18 74 34 70 64 60 92"],
}
"""Pen paths on a 100 x 100 square, "x y x y ..."."""


def handwriting(seed: int, size: tuple[int, int], number: str, pen: float = 0.055) -> Array:
    """Draw digits written with a round pen by an unsteady hand; 1 is ink."""
    rng = np.random.default_rng(seed)
    y, x = grid(size)
    ink = np.zeros(x.shape)
    wide = x.max() / len(number)
    for place, digit in enumerate(number):
        lean, tilt, zoom = rng.uniform(-0.25, 0.15), rng.uniform(-0.12, 0.12), rng.uniform(0.66, 0.78)
        for path in STROKES[int(digit)]:
            points = np.array(path.split(), float).reshape(-1, 2) / 100 - 0.5
            points = rounded(points + rng.normal(0, 0.014, points.shape))
            across = zoom * (points[:, 0] - lean * points[:, 1]) * min(1, wide) * 1.05 + (place + 0.5) * wide
            down = zoom * (points[:, 1] + tilt * points[:, 0]) + 0.5
            press = pen * (0.85 + 0.25 * np.sin(np.linspace(0.3, 2.6, len(points))))
            for px, py, radius in zip(across, down, press, strict=True):
                ink = np.maximum(ink, step(1.15 * radius, 0.75 * radius, np.hypot(x - px, y - py)))
    return shrink(ink * (0.92 + 0.08 * clouds(rng, x.shape, (9, 9), 3)))


def rounded(points: Array) -> Array:
    """Return a smooth, dense path: Chaikin's corner cutting with fixed ends."""
    for _ in range(4):
        a, b = points[:-1], points[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


def paper(seed: int, ink: Array, sheet: str, pen: str) -> Array:
    """Draw ink on uneven paper."""
    rng = np.random.default_rng(seed)
    fibre = 1 + 0.02 * clouds(rng, ink.shape, (12, 12), 3)
    return grain(rng, blend(color(sheet) * fibre[..., None], color(pen), ink))
