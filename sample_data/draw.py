"""Draw the sample images: ``python sample_data/draw.py [FOLDER]`` (about a minute).

Every picture is computed from shapes, shading and seeded noise, then written in one of the formats that
normcli has to read. A picture is an array of floats, (height, width) or (height, width, channels), 0 black
and 1 white, drawn three times larger than it is stored. The table ``SAMPLES`` at the end names every file,
what is on it and how it is packed. The same NumPy and Pillow on the same kind of processor write the same
bytes.

One file, because what lies beside the images is listed by normcli as skipped, compiled modules too.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]
Rng = np.random.Generator
Paint = Callable[[Array], Array]
"""The colours at points of a surface, given in its own coordinates."""
OVERSAMPLING = 3

# ---------------------------------------------------------------------------------------------- brushes


def colour(code: str) -> Array:
    """An RGB colour from six hexadecimal digits."""
    return np.array(list(bytes.fromhex(code))) / 255


def step(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, smooth between; `low` > `high` turns it round."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blend(under: Array, over: Array, cover: Array) -> Array:
    """`over` painted on `under` where `cover` is 1."""
    return under + (over - under) * cover[..., None]


def grid(size: tuple[int, int]) -> tuple[Array, Array]:
    """Coordinates of the fine pixels: y from 0 (top) to 1 (bottom), x from 0 to width / height."""
    width, height = (OVERSAMPLING * n for n in size)
    y, x = np.mgrid[0:height, 0:width]
    return (y + 0.5) / height, (x + 0.5) / height


def shrink(picture: Array) -> Array:
    """Average the fine pixels of each stored pixel."""
    n = OVERSAMPLING
    height, width, *rest = picture.shape
    return picture.reshape(height // n, n, width // n, n, *rest).mean(axis=(1, 3))


def clouds(rng: Rng, shape: tuple[int, ...], cells: tuple[int, int], octaves: int = 5) -> Array:
    """Fractal noise around 0, about -1..1; the coarsest octave has `cells` (down, across) bumps."""
    total = np.zeros(shape[:2])
    for octave in range(octaves):
        rough = rng.uniform(-1, 1, [n * 2**octave + 1 for n in cells]).astype(np.float32)
        smooth = Image.fromarray(rough).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) / 2**octave
    return total


def grain(rng: Rng, picture: Array, strength: float = 0.008) -> Array:
    """Film grain, the same in every channel but for a little."""
    rough = rng.normal(0, strength, picture.shape[:2])
    return picture + rough[..., None] + rng.normal(0, strength / 3, picture.shape)


# ---------------------------------------------------------------------------------------------- landscape


@dataclass(frozen=True)
class Scenery:
    """The colours and the lie of a landscape."""

    sky: tuple[str, str]
    land: tuple[str, str]
    light: str = "fff2c8"
    sun: tuple[float, float, float] = (0.4, 0.3, 0.04)
    """Across, down, radius."""
    shore: float = 1.0
    """Where the lake begins; 1 for no lake."""
    horizon: float = 0.62
    rugged: float = 0.17
    ridges: int = 4
    trees: float = 0.0
    cloud: float = 0.5
    night: bool = False


def landscape(seed: int, size: tuple[int, int], name: str) -> Array:
    """Hills behind hills under a sky, perhaps with a lake that mirrors them."""
    rng, scenery = np.random.default_rng(seed), SCENERIES[name]
    y, x = grid(size)
    picture = sky(rng, x, y, scenery)
    for number in range(scenery.ridges):
        picture = ridge(rng, picture, x, y, number / max(scenery.ridges - 1, 1), scenery)
    if scenery.shore < 1:
        picture = lake(rng, picture, x, y, scenery)
    return grain(rng, shrink(picture))


def sky(rng: Rng, x: Array, y: Array, scenery: Scenery) -> Array:
    """A gradient with a sun or moon, its glow, clouds that it lights, and stars at night."""
    top, low = (colour(code) for code in scenery.sky)
    light = colour(scenery.light)
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
    """One line of hills; `near` runs from 0 (far, hazy, rugged) to 1 (in front, dark, gentle)."""
    haze = colour(scenery.sky[1])
    body = colour(scenery.land[0]) * (1 - near) + colour(scenery.land[1]) * near
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
    """How far a row of conifers rises above its ridge at each x."""
    top = np.zeros_like(x)
    stems = np.arange(x.min(), x.max(), 0.02)
    for stem in stems + rng.uniform(-0.008, 0.008, len(stems)):
        tall = height * rng.uniform(0.45, 1)
        fir = 1 - np.abs(x - stem) / (0.28 * tall)
        top = np.maximum(top, tall * (fir + 0.12 * np.sign(np.sin(40 * fir)) * (fir > 0)).clip(0))
    return top


def lake(rng: Rng, picture: Array, x: Array, y: Array, scenery: Scenery) -> Array:
    """Mirror what stands above the shore in rippling water."""
    height, width = x.shape
    ripple = clouds(rng, x.shape, (60, 5), 3)
    down = step(scenery.shore, 1.0, y)
    row = 2 * scenery.shore - y + ripple * (0.01 + 0.06 * down)
    column = np.broadcast_to(np.arange(width), x.shape)
    mirrored = picture[np.clip(row * height, 0, scenery.shore * height - 1).astype(int), column]
    water = mirrored * (0.86 + 0.10 * ripple[..., None] * down[..., None]) + 0.03 * colour(scenery.sky[0])
    reach = np.exp(-(((x - scenery.sun[0]) / (0.03 + 0.10 * down)) ** 2))
    water = blend(water, colour(scenery.light), 0.75 * reach * step(0.1, 0.7, ripple))
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

# ---------------------------------------------------------------------------------------------- street


WALLS = ("d9825b", "e6c67a", "8fb0a9", "c9b8a8", "b5545a", "7f95c1", "efe3cf")


def street(seed: int, size: tuple[int, int], air: tuple[str, str], lit: float, moment: int = 0) -> Array:
    """A row of gabled houses; `lit` is the share of lighted windows, another `moment` lights other ones."""
    rng = np.random.default_rng(seed)
    y, x = grid(size)
    lamps = np.random.default_rng(moment)
    dark = 1 - 0.62 * lit
    picture = blend(colour(air[0]) + 0 * x[..., None], colour(air[1]), step(0, 0.75, y))
    picture = blend(picture, colour(air[1]) + 0.12, 0.5 * step(0.2, 1.1, clouds(rng, x.shape, (4, 2))))
    left = -0.04
    while left < x.max():
        width, tall = rng.uniform(0.24, 0.34), rng.uniform(0.36, 0.56)
        wall = colour(WALLS[rng.integers(len(WALLS))]) * dark
        rough = clouds(rng, x.shape, (20, 30), 3)
        picture = house(picture, x - left, y, (width, tall), wall * (1 + 0.05 * rough[..., None]), lamps, lit)
        left += width
    road = colour("6d6a6c") * dark * (1 + 0.10 * clouds(rng, x.shape, (30, 12), 3))[..., None]
    row = np.clip((2 * 0.86 - y) * len(y), 0, len(y) - 1).astype(int)
    mirrored = np.take_along_axis(picture, row[..., None], 0)
    picture = blend(picture, road * 0.7 + mirrored * 0.3, (y > 0.86).astype(float))
    picture = blend(picture, colour("b9b3aa") * dark, ((y > 0.86) & (y < 0.885)).astype(float))
    return grain(rng, shrink(picture))


def house(picture: Array, x: Array, y: Array, size: tuple[float, float], wall: Array, lamps: Rng, lit: float) -> Array:
    """Paint one house whose left wall is at x = 0, on a pavement at y = 0.86."""
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
    picture = blend(picture, (wall * 0.35 + colour("7a3b2e") * 0.4) * tiles[..., None], roof.astype(float))
    floors, panes = max(2, round(tall / 0.17)), 3 if width > 0.28 else 2
    for floor in range(floors):
        for pane in range(panes):
            centre = ((pane + 0.5) * width / panes, eaves + (floor + 0.55) * tall / floors)
            if floor == floors - 1 and pane == panes // 2:
                picture = box(picture, x - centre[0], y - 0.795, (0.028, 0.065), wall * 0.35, wall * 0.9)
                continue
            glow = colour("ffd985") if lamps.random() < lit else colour("51657d") * (1.25 - 0.6 * lit)
            picture = box(picture, x - centre[0], y - centre[1], (0.026, 0.042), glow, wall * 0.6 + 0.3)
    return picture


def box(picture: Array, x: Array, y: Array, half: tuple[float, float], fill: Array, frame: Array) -> Array:
    """A framed, crossed pane around (0, 0)."""
    outer = (np.abs(x) < half[0] + 0.006) & (np.abs(y) < half[1] + 0.006)
    inner = (np.abs(x) < half[0]) & (np.abs(y) < half[1]) & (np.abs(x) > 0.003) & (np.abs(y + 0.01) > 0.003)
    shine = fill * (1 + 0.25 * step(0.05, -0.05, x + y))[..., None]
    return blend(blend(picture, frame, outer.astype(float)), shine, inner.astype(float))


# ---------------------------------------------------------------------------------------------- still lifes


@dataclass(frozen=True)
class Solid:
    """An ellipsoid or a block on the table: half sizes, and a turn about the vertical."""

    kind: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    paint: Paint
    turn: float = 0.0
    gloss: float = 0.35

    def inward(self, v: Array) -> Array:
        """A direction in the solid's own axes."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        return np.stack([c * v[..., 0] - s * v[..., 2], v[..., 1], s * v[..., 0] + c * v[..., 2]], -1)

    def hit(self, eye: Array, ray: Array) -> Array:
        """How far along each ray the solid is met; infinite where it is not."""
        o, d = self.inward(eye - np.array(self.centre)) / self.half, self.inward(ray) / self.half
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "block":
                t1, t2 = (-1 - o) / d, (1 - o) / d
                enter, leave = np.minimum(t1, t2).max(-1), np.maximum(t1, t2).min(-1)
                return np.where((enter < leave) & (enter > 1e-6), enter, np.inf)
            a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
            t = (-b - np.sqrt(b * b - a * c)) / a
            return np.where(np.isfinite(t) & (t > 1e-6), t, np.inf)

    def surface(self, point: Array) -> tuple[Array, Array]:
        """The outward unit normals and the paint at points of the surface."""
        p = self.inward(point - np.array(self.centre)) / self.half
        if self.kind == "block":
            own = np.where(np.abs(p) >= np.abs(p).max(-1, keepdims=True), np.sign(p), 0)
        else:
            own = p / self.half
        c, s = np.cos(self.turn), np.sin(self.turn)
        n = np.stack([c * own[..., 0] + s * own[..., 2], own[..., 1], c * own[..., 2] - s * own[..., 0]], -1)
        return n / np.linalg.norm(n, axis=-1, keepdims=True), self.paint(p)


@cache
def still_life(name: str, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Trace solids on a table under a soft lamp: picture, alpha of solids and shadows, distance."""
    solids, table, wall = STILL_LIVES[name]
    rng = np.random.default_rng(5)
    y, x = grid(size)
    eye = np.array([0.2, 2.0, 5.2])
    ray = np.stack([x - x.max() / 2, 0.5 - y - 0.30, np.full_like(x, -1.25)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        nearest = np.where(ray[..., 1] < 0, -eye[1] / ray[..., 1], np.inf)
    far = np.minimum(nearest, 14.0)
    point = eye + ray * far[..., None]
    normal = np.broadcast_to([0.0, 1.0, 0.0], point.shape).copy()
    paint, solid, gloss = table(point), np.zeros(x.shape), np.full(x.shape, 0.05)
    for each in solids:
        t = each.hit(eye, ray)
        here = t < far
        far, solid, gloss = np.where(here, t, far), np.maximum(solid, here), np.where(here, each.gloss, gloss)
        point[here] = eye + ray[here] * t[here][:, None]
        normal[here], paint[here] = each.surface(point[here])
    lamp = np.array([-3.0, 5.5, 3.5])
    light = np.zeros(x.shape)
    for shift in rng.uniform(-0.9, 0.9, (12, 3)):
        toward = lamp + shift - point
        toward /= np.linalg.norm(toward, axis=-1, keepdims=True)
        shadow = np.zeros(x.shape, bool)
        for each in solids:
            shadow |= np.isfinite(each.hit(point + 1e-3 * normal, toward))
        light += np.clip((normal * toward).sum(-1), 0, 1) * ~shadow / 12
    halfway = toward - ray
    halfway /= np.linalg.norm(halfway, axis=-1, keepdims=True)
    bounce = 0.30 + 0.10 * normal[..., 1] + 0.12 * np.clip(point[..., 1], 0, 1)
    shine = gloss * np.clip((normal * halfway).sum(-1), 0, 1) ** 40 * (light > 0.05)
    picture = np.clip(paint * (bounce + 0.80 * light)[..., None] + shine[..., None], 0, 1) ** 0.92
    backdrop = colour(wall) * (1.05 - 0.35 * np.hypot(x - 0.4, y)[..., None])
    picture = blend(picture, backdrop, (1 - solid) * step(7.5, 10.5, far))
    alpha = np.maximum(solid, 0.55 * step(0.62, 0.2, light) * (far < 8))
    return grain(rng, shrink(picture), 0.01), shrink(alpha), shrink(far)


def plain(code: str) -> Paint:
    """One colour all over."""
    return lambda p: np.broadcast_to(colour(code), p.shape).copy()


def peel(code: str, blush: str, rough: float, stripes: float = 0.0) -> Paint:
    """A fruit's skin: two colours mingled by lobes and streaks, dimpled by `rough`, darker at the poles."""

    def paint(p: Array) -> Array:
        angle = np.arctan2(p[..., 2], p[..., 0])
        lobes = np.sin(1.7 * p[..., 0] + 2.3 * p[..., 1] + 0.8) + 0.5 * np.sin(3.1 * p[..., 2] - p[..., 0])
        streak = stripes * np.sin(23 * angle + 3 * np.sin(5 * p[..., 1]) + 2 * np.sin(7 * angle))
        mixed = blend(np.broadcast_to(colour(code), p.shape), colour(blush), step(-0.9, 1.3, lobes + streak))
        dimple = np.sin(41 * p[..., 0]) * np.sin(43 * p[..., 1] + 1) * np.sin(37 * p[..., 2] + 2)
        pole = 1 - 0.45 * step(0.965, 1.0, np.abs(p[..., 1]))
        return mixed * ((1 + rough * dimple) * pole)[..., None]

    return paint


def pips(body: str, dot: str) -> Paint:
    """A die's six faces."""
    spots = {
        1: [(0, 0)], 2: [(-1, -1), (1, 1)], 3: [(-1, -1), (0, 0), (1, 1)],
        4: [(-1, -1), (-1, 1), (1, -1), (1, 1)],
        5: [(-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0)], 6: [(a, b) for a in (-1, 1) for b in (-1, 0, 1)],
    }  # fmt: skip

    def paint(p: Array) -> Array:
        ink = np.zeros(p.shape[:-1])
        for axis in range(3):
            u, v = (p[..., (axis + 1) % 3], p[..., (axis + 2) % 3])
            for sign, face in ((1, 1 + axis), (-1, 6 - axis)):
                on = sign * p[..., axis] >= np.abs(p).max(-1) - 1e-9
                for a, b in spots[face]:
                    ink = np.maximum(ink, on & (np.hypot(u - a / 2, v - b / 2) < 0.17))
        edge = 1 - 0.12 * step(0.9, 1.0, np.sort(np.abs(p), -1)[..., 1])
        return blend(colour(body) * edge[..., None], colour(dot), ink)

    return paint


def planks(code: str, wide: float = 0.7) -> Paint:
    """A wooden table."""

    def paint(p: Array) -> Array:
        x, z = p[..., 0], p[..., 2]
        board = np.floor(z / wide)
        rings = np.sin(9 * z + 2.2 * np.sin(1.3 * x + 5 * board) + 0.7 * np.sin(3.7 * x))
        fibres = np.sin(47 * z + 3 * np.sin(0.9 * x + board))
        gap = np.abs(z / wide - board - 0.5) > 0.485
        tone = 1 + 0.07 * rings + 0.035 * fibres + 0.08 * np.sin(12.9 * board) - 0.35 * gap
        return colour(code) * tone[..., None]

    return paint


def cloth(code: str, check: str, wide: float = 0.42) -> Paint:
    """A checked table cloth."""

    def paint(p: Array) -> Array:
        bands = [0.5 + 0.5 * np.tanh(9 * np.sin(np.pi * p[..., k] / wide)) for k in (0, 2)]
        return blend(np.broadcast_to(colour(code), p.shape), colour(check), (bands[0] + bands[1]) / 2)

    return paint


def fruit(kind: str, x: float, z: float, radius: float = 0.55, turn: float = 0.0) -> list[Solid]:
    """One fruit on the table, with its stem or tip."""
    skin, (wide, tall, deep), gloss = {
        "apple": (peel("b3202a", "dd8f3c", 0.03, 0.35), (1, 0.90, 1), 0.45),
        "green": (peel("86a82f", "c3cc58", 0.03, 0.15), (1, 0.90, 1), 0.45),
        "orange": (peel("f08a1c", "f6a02e", 0.10), (1, 0.97, 1), 0.22),
        "lemon": (peel("f2cf1f", "f7e05a", 0.08), (1.25, 0.85, 0.85), 0.22),
        "plum": (peel("3e2350", "6d3a63", 0.04), (0.95, 1, 0.95), 0.28),
        "melon": (peel("24592a", "9dbf5c", 0.03, 1.4), (1.15, 1, 1), 0.20),
        "cherry": (peel("8e0f1f", "b81f2b", 0.02), (1, 0.95, 1), 0.60),
    }[kind]
    half = (wide * radius, tall * radius, deep * radius)
    solids = [Solid("ball", (x, half[1], z), half, skin, turn, gloss)]
    if kind == "lemon":
        c, s = np.cos(turn), np.sin(turn)
        tip = (x + c * half[0] * 0.98, half[1], z - s * half[0] * 0.98)
        return [*solids, Solid("ball", tip, (0.22 * radius, 0.17 * radius, 0.17 * radius), skin, turn, gloss)]
    if kind not in ("orange", "melon"):
        stem = (0.05 * radius, 0.30 * radius, 0.05 * radius)
        solids.append(Solid("ball", (x, 2 * half[1] + 0.1 * radius, z), stem, plain("4a3420"), gloss=0.05))
    return solids


def block(x: float, z: float, side: float, paint: Paint, turn: float = 0.0, y: float = 0.0) -> Solid:
    """A cube standing at height y."""
    return Solid("block", (x, y + side / 2, z), (side / 2,) * 3, paint, turn, 0.08)


STILL_LIVES = {
    "apples": (
        [*fruit("apple", -0.95, 0.2), *fruit("green", 0.35, -0.35, 0.58), *fruit("apple", 1.25, 0.55, 0.50)],
        planks("a8764a"), "8fa3a8",
    ),
    "citrus": (
        [*fruit("orange", -1.0, -0.2, 0.62), *fruit("orange", 0.3, -0.7, 0.60),
         *fruit("lemon", 0.35, 0.7, 0.42, 0.5), *fruit("lemon", 1.5, 0, 0.42, -0.7)],
        cloth("f3efe6", "4f7fb5"), "c9d6cf",
    ),
    "plums": (
        [*fruit("plum", -1.2, 0.1, 0.45), *fruit("plum", -0.25, 0.45, 0.43), *fruit("plum", -0.4, -0.6, 0.46),
         *fruit("plum", 0.8, -0.1, 0.45), *fruit("green", 1.75, -0.6, 0.6)],
        planks("8a5a36"), "d8c7a8",
    ),
    "market": (
        [*fruit("melon", -0.75, -0.9, 0.95), *fruit("orange", 0.75, -0.3), *fruit("apple", 1.65, 0.3, 0.5),
         *fruit("lemon", 0.35, 0.8, 0.36, 0.2), *fruit("cherry", -0.55, 0.95, 0.2),
         *fruit("cherry", -0.95, 0.75, 0.2)],
        planks("c09468"), "5d7478",
    ),
    "cherries": (
        [solid for i in range(5) for solid in fruit("cherry", -1.1 + 0.65 * i, 0.45 * (-1) ** i, 0.36)],
        plain("e8e2d6"), "b8c4c0",
    ),
    "apple": (fruit("apple", 0.2, 0.6, 0.95), plain("e8e2d6"), "d8dcd8"),
    "lemon": (fruit("lemon", 0.2, 0.6, 0.85, 0.4), plain("e8e2d6"), "d8dcd8"),
    "dice": (
        [block(-0.8, 0.2, 0.95, pips("f4efe4", "1d1d22"), 0.5),
         block(0.75, -0.5, 0.95, pips("b3262e", "f8f2e6"), 0.15),
         block(1.15, 0.85, 0.6, pips("2f5fa8", "f8f2e6"), 0.9),
         block(-1.75, -0.9, 0.8, pips("e0b23c", "1d1d22"), 0.25)],
        plain("3f7a55"), "6d5a4a",
    ),
    "towers": (
        [block(-1.2, -0.3, 0.9, plain("c9483b"), 0.3), block(-1.2, -0.3, 0.65, plain("e5b93f"), 0.7, 0.9),
         block(0.3, -1.2, 1.1, plain("3f72b5"), 0.5), block(0.3, -1.2, 0.7, plain("5fa35a"), 0.1, 1.1),
         block(1.6, 0.2, 0.8, plain("e08b3a"), 0.9),
         Solid("ball", (0.35, 0.42, 0.7), (0.42,) * 3, plain("d9d4c8")),
         Solid("ball", (-0.5, 0.26, 1.1), (0.26,) * 3, plain("b05aa0"))],
        planks("caa578"), "a9bccb",
    ),
}  # fmt: skip
"""Of each: the solids, the table's paint, the wall's colour."""

# ---------------------------------------------------------------------------------------------- cells


def cells(rng: Rng, size: tuple[int, int], count: int, radius: float, moment: float = 0.0) -> list[Array]:
    """Cells in a dish: body, rim, nucleus, speckles, each 0..1. As `moment` grows to 1 the first divides."""
    y, x = grid(size)
    layers = [np.zeros(x.shape) for _ in range(3)]
    warp = [0.02 * clouds(rng, x.shape, (6, 6), 3) for _ in range(2)]
    centres: list[Array] = [np.array([x.max() / 2, 0.5])]
    for candidate in rng.uniform(0, 1, (4000, 2)) * [x.max(), 1]:
        if len(centres) < count and min(np.hypot(*(candidate - c)) for c in centres) > 1.75 * radius:
            centres.append(candidate)
    looks = rng.uniform((0.75 * radius, 0, 0.6), (1.05 * radius, 6.3, 1), (len(centres), 3))
    shapes = [(at, *look) for at, look in zip(centres, looks, strict=True)]
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
    """Blue nuclei in green bodies on black."""
    rng = np.random.default_rng(seed)
    body, rim, nucleus, speckle = (shrink(layer) for layer in cells(rng, size, count, radius, moment))
    red = 0.03 + 0.55 * speckle * body * (1 - nucleus) + 0.10 * rim
    green = 0.03 + 0.34 * body + 0.38 * rim + 0.22 * speckle * body
    blue = 0.05 + 0.80 * nucleus + 0.10 * body
    return grain(rng, np.stack([red, green * (1 - 0.75 * nucleus), blue], -1), 0.010)


def stained(seed: int, size: tuple[int, int], count: int, radius: float) -> Array:
    """Pink tissue with violet nuclei, in transmitted light."""
    rng = np.random.default_rng(seed)
    body, rim, nucleus, speckle = (shrink(layer) for layer in cells(rng, size, count, radius))
    picture = np.broadcast_to(colour("f6e9ef"), (*body.shape, 3))
    picture = blend(picture, colour("e79ab8"), 0.75 * body * (0.8 + 0.3 * speckle))
    picture = blend(picture, colour("b8487f"), 0.7 * rim)
    return grain(rng, blend(picture, colour("4d2a78"), 0.9 * nucleus * (0.85 + 0.2 * speckle)))


def counted(seed: int, size: tuple[int, int], count: int, radius: float) -> Array:
    """One channel of a 12-bit camera in a 16-bit file: dim, an offset, photon noise; 1 is 65,535."""
    rng = np.random.default_rng(seed)
    body, rim, nucleus, speckle = (shrink(layer) for layer in cells(rng, size, count, radius))
    photons = 60 + 900 * body + 700 * rim + 1500 * nucleus + 500 * speckle * body
    return np.clip(100 + rng.poisson(photons), 0, 4095) / 65535


# ---------------------------------------------------------------------------------------------- digits

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
    """Digits written with a round pen by an unsteady hand: 1 is ink."""
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
    """A smooth, dense path through a bent one: Chaikin's corner cutting, ends kept."""
    for _ in range(4):
        a, b = points[:-1], points[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


def paper(seed: int, ink: Array, sheet: str, pen: str) -> Array:
    """Ink on uneven paper."""
    rng = np.random.default_rng(seed)
    fibre = 1 + 0.02 * clouds(rng, ink.shape, (12, 12), 3)
    return grain(rng, blend(colour(sheet) * fibre[..., None], colour(pen), ink))


# ---------------------------------------------------------------------------------------------- packing


def bytes8(picture: Array) -> NDArray[np.uint8]:
    """0..1 to 0..255."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def words16(picture: Array) -> NDArray[np.uint16]:
    """0..1 to 0..65,535."""
    return np.rint(np.clip(picture, 0, 1) * 65535).astype(np.uint16)


def gray(picture: Array) -> Array:
    """Luma of a colour picture."""
    return picture @ np.array([0.299, 0.587, 0.114])


def rgb(picture: Array) -> Image.Image:
    """8 bits per channel."""
    return Image.fromarray(bytes8(picture))


def cmyk(picture: Array) -> Image.Image:
    """Printing inks, most of the common gray moved to black."""
    inks = 1 - np.clip(picture, 0, 1)
    black = 0.8 * inks.min(-1, keepdims=True)
    plates = bytes8(np.concatenate([(inks - black) / (1 - black), black], -1))
    return Image.frombytes("CMYK", picture.shape[1::-1], plates.tobytes())


def layered(picture: Array, alpha: Array) -> Image.Image:
    """Gray or colour with an alpha channel; what is under transparent pixels stays in the file."""
    colours = picture[..., None] if picture.ndim == 2 else picture
    return Image.fromarray(bytes8(np.concatenate([colours, alpha[..., None]], -1)))


def gray_palette(picture: Array, shades: int = 16) -> Image.Image:
    """A palette from light to dark: whoever takes its indices for grays sees the negative."""
    image = Image.fromarray(np.rint((1 - np.clip(picture, 0, 1)) * (shades - 1)).astype(np.uint8), "P")
    image.putpalette([255 - 255 * i // (shades - 1) for i in range(shades) for _ in range(3)])
    return image


def palette(picture: Array, colours: int = 64) -> Image.Image:
    """The best few colours, dithered."""
    image = rgb(picture)
    return image.quantize(palette=image.quantize(colours, Image.Quantize.MEDIANCUT))


def hollow_palette(picture: Array, alpha: Array, colours: int = 63) -> Image.Image:
    """A palette whose entry after the last colour is transparent, and magenta for who overlooks that."""
    hollow = alpha < 0.5
    image = palette(np.where(hollow[..., None], picture[~hollow].mean(0), picture), colours)
    entries = np.zeros((colours + 1, 3), np.uint8)
    used = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[:colours]
    entries[: len(used)], entries[colours] = used, (255, 0, 255)
    cut = Image.fromarray(np.where(hollow, colours, np.asarray(image)).astype(np.uint8), "P")
    cut.putpalette(entries.tobytes())
    return cut


def film(*pictures: Array) -> list[Image.Image]:
    """Frames in the first one's colours."""
    first = palette(pictures[0], 96)
    return [first, *(rgb(each).quantize(palette=first) for each in pictures[1:])]


def sideways(picture: Array) -> Image.Image:
    """Stored as a camera held upright stores it; EXIF orientation 6 turns it back."""
    return rgb(picture).transpose(Image.Transpose.ROTATE_90)


def orientation(value: int) -> Image.Exif:
    """EXIF data that hold nothing but the orientation."""
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


WIDE, TALL, TABLE = (240, 160), (160, 240), (200, 150)
DISH, SMALL_DISH, STAMP, LABEL = (160, 160), (128, 128), (64, 64), (160, 64)
DAY, DUSK = ("6fa5d8", "f3e6d0"), ("2a2f57", "e08a6a")
PHOTO: dict[str, Any] = {"quality": 91}
CAMERA = {**PHOTO, "exif": orientation(6)}
DIFFERENCES: dict[str, Any] = {"compression": "tiff_lzw", "tiffinfo": {317: 2}}
DEFLATE: dict[str, Any] = {"compression": "tiff_adobe_deflate"}


def millimetres(name: str, size: tuple[int, int]) -> Image.Image:
    """A depth camera's picture: 16 bits, of which it uses 14,000 levels."""
    return Image.fromarray(np.rint(still_life(name, size)[2] * 1000).astype(np.uint16))


def share(name: str, size: tuple[int, int]) -> Image.Image:
    """Distance as float32, 1 at the back of the room."""
    return Image.fromarray((still_life(name, size)[2] / 14).astype(np.float32))


SAMPLES: dict[str, tuple[Callable[[], Image.Image | list[Image.Image]], dict[str, Any]]] = {
    "landscape/dawn.jpg": (lambda: rgb(landscape(0, WIDE, "dawn")), PHOTO),
    "landscape/noon.jpg": (lambda: rgb(landscape(1, WIDE, "noon")), {**PHOTO, "progressive": True}),
    "landscape/desert.jpg": (lambda: rgb(landscape(2, WIDE, "desert")), {**PHOTO, "subsampling": "4:4:4"}),
    "landscape/winter.jpg": (lambda: rgb(gray(landscape(3, WIDE, "winter"))), PHOTO),
    "landscape/sunset.jpg": (lambda: cmyk(landscape(5, WIDE, "sunset")), PHOTO),
    "landscape/fjord.jpg": (lambda: sideways(landscape(6, TALL, "fjord")), CAMERA),
    "landscape/mist.webp": (lambda: rgb(landscape(7, WIDE, "mist")), PHOTO),
    "landscape/moon.png": (lambda: rgb(landscape(4, WIDE, "moon")), {}),
    "landscape/moonrise.png": (lambda: rgb(gray(landscape(14, WIDE, "moon")) * 1.3).convert("1"), {}),
    "street/morning.png": (lambda: palette(street(1, WIDE, DAY, 0.0)), {}),
    "street/noon.ppm": (lambda: rgb(street(11, (120, 80), DAY, 0.0)), {}),
    "street/dusk.jpg": (lambda: rgb(street(2, WIDE, DUSK, 0.6)), PHOTO),
    "street/evening.gif": (
        lambda: film(*(street(8, (160, 112), DUSK, 0.6, hour) for hour in (1, 2))),
        {"duration": 800},
    ),
    "fruit/apples.jpg": (lambda: rgb(still_life("apples", TABLE)[0]), PHOTO),
    "fruit/market.jpg": (lambda: rgb(still_life("market", WIDE)[0]), {"quality": 92, "progressive": True}),
    "fruit/citrus.webp": (lambda: rgb(still_life("citrus", TABLE)[0]), {"lossless": True}),
    "fruit/plums.tif": (lambda: rgb(still_life("plums", TABLE)[0]), DIFFERENCES),
    "fruit/cherries.bmp": (lambda: rgb(still_life("cherries", (140, 96))[0]), {}),
    "fruit/apple.png": (lambda: layered(*still_life("apple", (96, 96))[:2]), {}),
    "fruit/lemon.png": (lambda: hollow_palette(*still_life("lemon", (120, 96))[:2]), {"transparency": 63}),
    "cells/nuclei.png": (lambda: rgb(fluorescence(4, DISH, 40, 0.075)), {}),
    "cells/stained.jpg": (lambda: rgb(stained(5, DISH, 40, 0.08)), PHOTO),
    "cells/tissue.tif": (lambda: rgb(stained(6, SMALL_DISH, 70, 0.055)), {**DEFLATE, "tiffinfo": {317: 2}}),
    "cells/slide.jpg": (lambda: rgb(gray(stained(9, DISH, 24, 0.1))), PHOTO),
    "cells/camera.png": (lambda: Image.fromarray(words16(counted(7, SMALL_DISH, 14, 0.12))), {}),
    "cells/camera.tif": (lambda: Image.fromarray(words16(counted(8, SMALL_DISH, 30, 0.08))), DIFFERENCES),
    "cells/division.gif": (
        lambda: film(*(fluorescence(3, SMALL_DISH, 12, 0.13, t) for t in (0, 0.5, 1))),
        {"duration": 500},
    ),
    **{f"digits/{n}.png": (lambda n=n: rgb(handwriting(n, STAMP, str(n))), {}) for n in (0, 1, 2, 3, 8, 9)},
    "digits/4.png": (lambda: layered(0.15 * handwriting(4, STAMP, "4"), handwriting(4, STAMP, "4")), {}),
    "digits/5.png": (lambda: gray_palette(1 - handwriting(5, STAMP, "5")), {}),
    "digits/6.png": (lambda: rgb(1 - handwriting(6, STAMP, "6")).point(lambda v: 255 * (v > 127), "1"), {}),
    "digits/7.jpg": (lambda: rgb(1 - handwriting(7, STAMP, "7")), {"quality": 90}),
    "digits/3141.png": (
        lambda: palette(paper(78, handwriting(77, LABEL, "3141"), "f3ead2", "2b3f7f"), 24),
        {},
    ),
    "digits/2718.webp": (lambda: rgb(paper(79, handwriting(76, LABEL, "2718"), "e4ecf2", "7f2b36")), PHOTO),
    "depth/towers.jpg": (lambda: rgb(still_life("towers", TABLE)[0]), PHOTO),
    "depth/towers.tif": (lambda: share("towers", TABLE), DEFLATE),
    "depth/dice.jpg": (lambda: rgb(still_life("dice", TABLE)[0]), PHOTO),
    "depth/dice.png": (lambda: millimetres("dice", TABLE), {}),
    "depth/market.tif": (lambda: share("market", WIDE), DEFLATE),
}
"""Of each file: what is on it, and the options it is saved with."""


def main(folder: Path) -> None:
    """Draw every sample into `folder`."""
    for name, (draw, options) in SAMPLES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = draw()
        first, *others = drawn if isinstance(drawn, list) else [drawn]
        moving: dict[str, Any] = {"save_all": True, "append_images": others, "loop": 0} if others else {}
        first.save(path, **options, **moving)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
