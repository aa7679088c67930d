"""Cells under a microscope: fluorescence, stained tissue and a 12-bit camera."""

import numpy as np

from .brushes import Array, Rng, blend, clouds, color, grain, grid, shrink, step


def cells(rng: Rng, size: tuple[int, int], count: int, radius: float, moment: float = 0.0) -> list[Array]:
    """Draw cells in a dish: body, rim, nucleus and speckles, each 0..1; `moment` 0 to 1 divides the first cell."""
    y, x = grid(size)
    layers = [np.zeros(x.shape) for _ in range(3)]
    warp = [0.02 * clouds(rng, x.shape, (6, 6), 3) for _ in range(2)]
    centers: list[Array] = [np.array([x.max() / 2, 0.5])]
    for candidate in rng.uniform(0, 1, (4000, 2)) * [x.max(), 1]:
        if len(centers) < count and min(np.hypot(*(candidate - c)) for c in centers) > 1.75 * radius:
            centers.append(candidate)
    looks = rng.uniform((0.75 * radius, 0, 0.6), (1.05 * radius, 6.3, 1), (len(centers), 3))
    shapes = [(at, *look) for at, look in zip(centers, looks, strict=True)]
    away = np.array([0.62 * radius * moment, 0.25 * radius * moment])
    if moment:
        first = shapes.pop(0)
        shapes += [(first[0] + side * away, radius * (1 - 0.18 * moment), first[2], 1.0) for side in (-1, 1)]
    for (across, down), r, turn, bright in shapes:
        u, v = x - across + warp[0], y - down + warp[1]
        angle = np.arctan2(v, u)
        lobes = 1 + 0.10 * np.sin(2 * angle + turn) + 0.06 * np.sin(3 * angle + 2 * turn)
        reach = np.hypot(u, v) / (r * lobes)
        body = bright * step(1.05, 0.9, reach)
        rim = bright * np.exp(-(((reach - 0.95) / 0.07) ** 2))
        offset = np.hypot(u - 0.12 * r * np.cos(turn), v - 0.12 * r * np.sin(turn)) / r
        nucleus = bright * step(0.46, 0.38, offset) * (1 - 0.4 * np.exp(-((offset / 0.13) ** 2)))
        layers = [np.maximum(a, b) for a, b in zip(layers, (body, rim, nucleus), strict=True)]
    speckle = step(0.35, 1.2, clouds(rng, x.shape, (40, 40), 3))
    return [*layers, speckle]


def fluorescence(seed: int, size: tuple[int, int], count: int, radius: float, moment: float = 0.0) -> Array:
    """Draw blue nuclei in green bodies on black."""
    rng = np.random.default_rng(seed)
    body, rim, nucleus, speckle = (shrink(layer) for layer in cells(rng, size, count, radius, moment))
    red = 0.03 + 0.55 * speckle * body * (1 - nucleus) + 0.10 * rim
    green = 0.03 + 0.34 * body + 0.38 * rim + 0.22 * speckle * body
    blue = 0.05 + 0.80 * nucleus + 0.10 * body
    return grain(rng, np.stack([red, green * (1 - 0.75 * nucleus), blue], -1), 0.010)


def stained(seed: int, size: tuple[int, int], count: int, radius: float) -> Array:
    """Draw pink tissue with violet nuclei in transmitted light."""
    rng = np.random.default_rng(seed)
    body, rim, nucleus, speckle = (shrink(layer) for layer in cells(rng, size, count, radius))
    picture = np.broadcast_to(color("f6e9ef"), (*body.shape, 3))
    picture = blend(picture, color("e79ab8"), 0.75 * body * (0.8 + 0.3 * speckle))
    picture = blend(picture, color("b8487f"), 0.7 * rim)
    return grain(rng, blend(picture, color("4d2a78"), 0.9 * nucleus * (0.85 + 0.2 * speckle)))


def counted(seed: int, size: tuple[int, int], count: int, radius: float) -> Array:
    """Draw the image of a 12-bit camera with offset and photon noise; 1 is 65,535."""
    rng = np.random.default_rng(seed)
    body, rim, nucleus, speckle = (shrink(layer) for layer in cells(rng, size, count, radius))
    photons = 60 + 900 * body + 700 * rim + 1500 * nucleus + 500 * speckle * body
    return np.clip(100 + rng.poisson(photons), 0, 4095) / 65535
