"""Table of the scenes: photograph-like pictures of four classes, for train and val, in the light of different hours."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from .brushes import Array, Rng, clouds, grain
from .landscape import SCENERIES, Scenery, landscape
from .packing import rgb
from .still_life import Paint, StillLife, cloth, fruit, plain, planks, trace
from .street import street

SIZES = ((176, 132), (132, 176), (180, 120), (144, 144), (168, 126))
"""Width and height of the pictures: several aspect ratios, as cameras have."""

HOURS = {
    "day": (("3f83cf", "cfe6f5"), ("8fb3b8", "4c7a2f"), "ffffff", 0.85),
    "overcast": (("8f9baa", "dfe5ea"), ("a9b4ae", "3e4f38"), "ffffff", 0.6),
    "autumn": (("6f9cc8", "f1e3c4"), ("b59a72", "8a4a1f"), "fff2d0", 0.7),
    "evening": (("46507f", "ff9a5a"), ("a0665d", "33242a"), "ffe08a", 0.45),
    "desert": (("5d8fc9", "fbe0b4"), ("d9a066", "8c4b2f"), "fff4d0", 0.4),
    "night": (("070b1f", "2b3f6b"), ("2a3a5c", "0a1020"), "eef0e0", 0.15),
}
"""Of each hour: colors of the sky (top, horizon), colors of the land (far, near), light, cloud cover."""

DAYS = ("day", "overcast", "autumn", "evening", "day", "desert", "day", "autumn", "night")
"""Hours of the landscapes, in the order of their numbers."""

FRUITS = ("apple", "green", "orange", "lemon", "plum", "melon", "cherry")
WOODS = ("a8764a", "8a5a36", "c09468", "5b3a26")
CLOTHS = (("f3efe6", "4f7fb5"), ("f3efe6", "a83a3a"), ("efe6d0", "5f7f4f"))
WALLS = ("8fa3a8", "c9d6cf", "d8c7a8", "5d7478", "6d5a4a", "3c4248")
AIRS = (("6fa5d8", "f3e6d0"), ("8f9baa", "dfe5ea"), ("4f86c9", "dcebf5"), ("2a2f57", "e08a6a"))


def camera(rng: Rng, picture: Array) -> Array:
    """Photograph a picture: surface texture, vignette, exposure, white balance, tone curve and grain."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    texture = 0.06 * clouds(rng, picture.shape, (12, 16), 4)
    vignette = 1 - 0.16 * (x * x + y * y)
    light = picture.clip(0) ** 2.2 * ((1 + texture) * vignette)[..., None]
    light *= 2 ** rng.normal(-0.4, 0.3) * np.array([1 + rng.normal(0.03, 0.06), 1, 1 - rng.normal(0.05, 0.08)])
    developed = light ** (1 / 2.2)
    contrast = rng.uniform(1.45, 1.75)
    return grain(rng, 0.47 + (developed - 0.47) * contrast, 0.012)


def scenery(rng: Rng, hour: str, lake: bool) -> Scenery:
    """Return a landscape with or without a lake."""
    sky, land, light, cloud = HOURS[hour]
    base = SCENERIES["moon"] if hour == "night" else SCENERIES["noon"]
    horizon = rng.uniform(0.5, 0.7)
    low = hour in ("evening", "night")
    return replace(
        base,
        sky=sky,
        land=land,
        light=light,
        sun=(rng.uniform(0.1, 1.2), horizon * (0.75 if low else 0.3) * rng.uniform(0.7, 1), rng.uniform(0.03, 0.06)),
        shore=horizon + 0.12 if lake else 1.0,
        horizon=horizon,
        rugged=rng.uniform(0.06, 0.14) if lake else rng.uniform(0.15, 0.32),
        ridges=2 if lake else int(rng.integers(3, 6)),
        trees=0.0 if hour == "desert" else rng.uniform(0.04, 0.13),
        cloud=cloud,
    )


def lake(seed: int, size: tuple[int, int], number: int) -> Array:
    """Draw a lake below hills."""
    return landscape(seed, size, scenery(np.random.default_rng(seed), DAYS[number % len(DAYS)], lake=True))


def mountain(seed: int, size: tuple[int, int], number: int) -> Array:
    """Draw ridges without water."""
    return landscape(seed, size, scenery(np.random.default_rng(seed), DAYS[(number + 4) % len(DAYS)], lake=False))


def town(seed: int, size: tuple[int, int], number: int) -> Array:
    """Draw a street at noon, under clouds or at dusk."""
    air = AIRS[number % len(AIRS)]
    return street(seed, size, air, 0.6 if air == AIRS[-1] else 0.0, seed)


def table(seed: int, size: tuple[int, int], number: int) -> Array:
    """Draw three to six fruits that do not overlap, on wood or cloth."""
    rng = np.random.default_rng(seed)
    solids, taken = [], list[tuple[float, float, float]]()
    for kind in rng.choice(FRUITS, rng.integers(3, 7)):
        radius = {"cherry": 0.22, "melon": 0.85, "plum": 0.45}.get(str(kind), 0.55) * rng.uniform(0.9, 1.15)
        for across, back in rng.uniform((-1.7, -1.0), (1.9, 1.0), (60, 2)):
            if all(np.hypot(across - a, back - b) > 1.25 * (radius + r) for a, b, r in taken):
                taken.append((across, back, radius))
                solids += fruit(str(kind), across, back, radius, rng.uniform(-1, 1))
                break
    surface: Paint
    if rng.random() < 0.6:
        surface = planks(WOODS[rng.integers(len(WOODS))])
    else:
        surface = cloth(*CLOTHS[rng.integers(len(CLOTHS))]) if rng.random() < 0.7 else plain("e8e2d6")
    wall = WALLS[number % len(WALLS)]
    return trace(StillLife(solids, surface, wall), size, seed)[0]


CLASSES: dict[str, Callable[[int, tuple[int, int], int], Array]] = {
    "fruit": table,
    "lake": lake,
    "mountain": mountain,
    "street": town,
}
SPLITS = {"train": 9, "val": 3}
"""Number of pictures in each class of each split."""


def scene(split: str, label: str, number: int) -> Image.Image:
    """Draw picture `number` of a class; the seed is a function of the three arguments alone."""
    seed = 1000 * list(SPLITS).index(split) + 100 * list(CLASSES).index(label) + number
    size = SIZES[(seed * 7 + seed // 100) % len(SIZES)]
    return rgb(camera(np.random.default_rng(seed + 10_000), CLASSES[label](seed, size, number)))


SCENES: dict[str, Callable[[], Image.Image]] = {
    f"{split}/{label}/{number:02d}.jpg": partial(scene, split, label, number)
    for split, count in SPLITS.items()
    for label in CLASSES
    for number in range(1, count + 1)
}
"""Of each file below `scenes/`: the function that draws it."""
