"""Fruit, dice and blocks on a table, ray traced, with their distances."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from .brushes import Array, blend, color, grain, grid, shrink, step

Paint = Callable[[Array], Array]
"""Function that returns the colors at points of a surface, given in its own coordinates."""


@dataclass(frozen=True)
class Solid:
    """Ellipsoid or block on the table: half sizes, and rotation about the vertical in radians."""

    kind: str
    center: tuple[float, float, float]
    half: tuple[float, float, float]
    paint: Paint
    turn: float = 0.0
    gloss: float = 0.35

    def inward(self, v: Array) -> Array:
        """Return a direction in the axes of the solid."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        return np.stack([c * v[..., 0] - s * v[..., 2], v[..., 1], s * v[..., 0] + c * v[..., 2]], -1)

    def hit(self, eye: Array, ray: Array) -> Array:
        """Return the distance along each ray to the solid; infinity where a ray misses it."""
        o, d = self.inward(eye - np.array(self.center)) / self.half, self.inward(ray) / self.half
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.kind == "block":
                t1, t2 = (-1 - o) / d, (1 - o) / d
                enter, leave = np.minimum(t1, t2).max(-1), np.maximum(t1, t2).min(-1)
                return np.where((enter < leave) & (enter > 1e-6), enter, np.inf)
            a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
            t = (-b - np.sqrt(b * b - a * c)) / a
            return np.where(np.isfinite(t) & (t > 1e-6), t, np.inf)

    def surface(self, point: Array) -> tuple[Array, Array]:
        """Return the outward unit normals and the colors at points of the surface."""
        p = self.inward(point - np.array(self.center)) / self.half
        if self.kind == "block":
            own = np.where(np.abs(p) >= np.abs(p).max(-1, keepdims=True), np.sign(p), 0)
        else:
            own = p / self.half
        c, s = np.cos(self.turn), np.sin(self.turn)
        n = np.stack([c * own[..., 0] + s * own[..., 2], own[..., 1], c * own[..., 2] - s * own[..., 0]], -1)
        return n / np.linalg.norm(n, axis=-1, keepdims=True), self.paint(p)


@dataclass(frozen=True)
class StillLife:
    """Solids on a table in front of a wall of one color."""

    solids: list[Solid]
    table: Paint
    wall: str


@cache
def still_life(name: str, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return picture, alpha and distance of a still life of the table `STILL_LIVES`."""
    return trace(STILL_LIVES[name], size)


def trace(scene: StillLife, size: tuple[int, int], seed: int = 5) -> tuple[Array, Array, Array]:
    """Trace rays to solids on a table under a soft lamp; return picture, alpha of solids and shadows, distance."""
    solids = scene.solids
    rng = np.random.default_rng(seed)
    y, x = grid(size)
    eye = np.array([0.2, 2.0, 5.2])
    ray = np.stack([x - x.max() / 2, 0.5 - y - 0.30, np.full_like(x, -1.25)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        nearest = np.where(ray[..., 1] < 0, -eye[1] / ray[..., 1], np.inf)
    far = np.minimum(nearest, 14.0)
    point = eye + ray * far[..., None]
    normal = np.broadcast_to([0.0, 1.0, 0.0], point.shape).copy()
    paint, solid, gloss = scene.table(point), np.zeros(x.shape), np.full(x.shape, 0.05)
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
    backdrop = color(scene.wall) * (1.05 - 0.35 * np.hypot(x - 0.4, y)[..., None])
    picture = blend(picture, backdrop, (1 - solid) * step(7.5, 10.5, far))
    alpha = np.maximum(solid, 0.55 * step(0.62, 0.2, light) * (far < 8))
    return grain(rng, shrink(picture), 0.01), shrink(alpha), shrink(far)


def plain(code: str) -> Paint:
    """Return a paint of one color."""
    return lambda p: np.broadcast_to(color(code), p.shape).copy()


def peel(code: str, blush: str, rough: float, stripes: float = 0.0) -> Paint:
    """Return the paint of a skin: two colors mixed in lobes and streaks, dimpled by `rough`, darker at the poles."""

    def paint(p: Array) -> Array:
        angle = np.arctan2(p[..., 2], p[..., 0])
        lobes = np.sin(1.7 * p[..., 0] + 2.3 * p[..., 1] + 0.8) + 0.5 * np.sin(3.1 * p[..., 2] - p[..., 0])
        streak = stripes * np.sin(23 * angle + 3 * np.sin(5 * p[..., 1]) + 2 * np.sin(7 * angle))
        mixed = blend(np.broadcast_to(color(code), p.shape), color(blush), step(-0.9, 1.3, lobes + streak))
        dimple = np.sin(41 * p[..., 0]) * np.sin(43 * p[..., 1] + 1) * np.sin(37 * p[..., 2] + 2)
        pole = 1 - 0.45 * step(0.965, 1.0, np.abs(p[..., 1]))
        return mixed * ((1 + rough * dimple) * pole)[..., None]

    return paint


def pips(body: str, dot: str) -> Paint:
    """Return the paint of the six faces of a die."""
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
        return blend(color(body) * edge[..., None], color(dot), ink)

    return paint


def planks(code: str, wide: float = 0.7) -> Paint:
    """Return the paint of a wooden table."""

    def paint(p: Array) -> Array:
        x, z = p[..., 0], p[..., 2]
        board = np.floor(z / wide)
        rings = np.sin(9 * z + 2.2 * np.sin(1.3 * x + 5 * board) + 0.7 * np.sin(3.7 * x))
        fibres = np.sin(47 * z + 3 * np.sin(0.9 * x + board))
        gap = np.abs(z / wide - board - 0.5) > 0.485
        tone = 1 + 0.07 * rings + 0.035 * fibres + 0.08 * np.sin(12.9 * board) - 0.35 * gap
        return color(code) * tone[..., None]

    return paint


def cloth(code: str, check: str, wide: float = 0.42) -> Paint:
    """Return the paint of a checked tablecloth."""

    def paint(p: Array) -> Array:
        bands = [0.5 + 0.5 * np.tanh(9 * np.sin(np.pi * p[..., k] / wide)) for k in (0, 2)]
        return blend(np.broadcast_to(color(code), p.shape), color(check), (bands[0] + bands[1]) / 2)

    return paint


def fruit(kind: str, x: float, z: float, radius: float = 0.55, turn: float = 0.0) -> list[Solid]:
    """Return one fruit on the table, with its stem or tip."""
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
    """Return a cube with its lower face at height y."""
    return Solid("block", (x, y + side / 2, z), (side / 2,) * 3, paint, turn, 0.08)


STILL_LIVES = {
    "apples": StillLife(
        [*fruit("apple", -0.95, 0.2), *fruit("green", 0.35, -0.35, 0.58), *fruit("apple", 1.25, 0.55, 0.50)],
        planks("a8764a"), "8fa3a8",
    ),
    "citrus": StillLife(
        [*fruit("orange", -1.0, -0.2, 0.62), *fruit("orange", 0.3, -0.7, 0.60),
         *fruit("lemon", 0.35, 0.7, 0.42, 0.5), *fruit("lemon", 1.5, 0, 0.42, -0.7)],
        cloth("f3efe6", "4f7fb5"), "c9d6cf",
    ),
    "plums": StillLife(
        [*fruit("plum", -1.2, 0.1, 0.45), *fruit("plum", -0.25, 0.45, 0.43), *fruit("plum", -0.4, -0.6, 0.46),
         *fruit("plum", 0.8, -0.1, 0.45), *fruit("green", 1.75, -0.6, 0.6)],
        planks("8a5a36"), "d8c7a8",
    ),
    "market": StillLife(
        [*fruit("melon", -0.75, -0.9, 0.95), *fruit("orange", 0.75, -0.3), *fruit("apple", 1.65, 0.3, 0.5),
         *fruit("lemon", 0.35, 0.8, 0.36, 0.2), *fruit("cherry", -0.55, 0.95, 0.2),
         *fruit("cherry", -0.95, 0.75, 0.2)],
        planks("c09468"), "5d7478",
    ),
    "cherries": StillLife(
        [solid for i in range(5) for solid in fruit("cherry", -1.1 + 0.65 * i, 0.45 * (-1) ** i, 0.36)],
        plain("e8e2d6"), "b8c4c0",
    ),
    "apple": StillLife(fruit("apple", 0.2, 0.6, 0.95), plain("e8e2d6"), "d8dcd8"),
    "lemon": StillLife(fruit("lemon", 0.2, 0.6, 0.85, 0.4), plain("e8e2d6"), "d8dcd8"),
    "dice": StillLife(
        [block(-0.8, 0.2, 0.95, pips("f4efe4", "1d1d22"), 0.5),
         block(0.75, -0.5, 0.95, pips("b3262e", "f8f2e6"), 0.15),
         block(1.15, 0.85, 0.6, pips("2f5fa8", "f8f2e6"), 0.9),
         block(-1.75, -0.9, 0.8, pips("e0b23c", "1d1d22"), 0.25)],
        plain("3f7a55"), "6d5a4a",
    ),
    "towers": StillLife(
        [block(-1.2, -0.3, 0.9, plain("c9483b"), 0.3), block(-1.2, -0.3, 0.65, plain("e5b93f"), 0.7, 0.9),
         block(0.3, -1.2, 1.1, plain("3f72b5"), 0.5), block(0.3, -1.2, 0.7, plain("5fa35a"), 0.1, 1.1),
         block(1.6, 0.2, 0.8, plain("e08b3a"), 0.9),
         Solid("ball", (0.35, 0.42, 0.7), (0.42,) * 3, plain("d9d4c8")),
         Solid("ball", (-0.5, 0.26, 1.1), (0.26,) * 3, plain("b05aa0"))],
        planks("caa578"), "a9bccb",
    ),
}  # fmt: skip
"""Still lifes of the odd samples."""
