"""Table of the odd samples: every format, mode and depth that core normcli reads, in 44 small files."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from .cells import counted, fluorescence, stained
from .digits import handwriting, paper
from .landscape import SCENERIES, landscape
from .packing import (
    cmyk,
    film,
    gray,
    gray_palette,
    hollow_palette,
    layered,
    orientation,
    palette,
    rgb,
    sideways,
    words16,
)
from .still_life import still_life
from .street import street

WIDE, TALL, TABLE = (240, 160), (160, 240), (200, 150)
DISH, SMALL_DISH, STAMP, LABEL = (160, 160), (128, 128), (64, 64), (160, 64)
DAY, DUSK = ("6fa5d8", "f3e6d0"), ("2a2f57", "e08a6a")
PHOTO: dict[str, Any] = {"quality": 91}
CAMERA = {**PHOTO, "exif": orientation(6)}
DIFFERENCES: dict[str, Any] = {"compression": "tiff_lzw", "tiffinfo": {317: 2}}
DEFLATE: dict[str, Any] = {"compression": "tiff_adobe_deflate"}


def millimetres(name: str, size: tuple[int, int]) -> Image.Image:
    """Return the distances as a depth camera stores them: 16 bits, at most 14,000 mm."""
    return Image.fromarray(np.rint(still_life(name, size)[2] * 1000).astype(np.uint16))


def share(name: str, size: tuple[int, int]) -> Image.Image:
    """Return the distances as float32, 1 at the back of the room."""
    return Image.fromarray((still_life(name, size)[2] / 14).astype(np.float32))


ODD: dict[str, tuple[Callable[[], Image.Image | list[Image.Image]], dict[str, Any]]] = {
    "landscape/dawn.jpg": (lambda: rgb(landscape(0, WIDE, SCENERIES["dawn"])), PHOTO),
    "landscape/noon.jpg": (lambda: rgb(landscape(1, WIDE, SCENERIES["noon"])), {**PHOTO, "progressive": True}),
    "landscape/desert.jpg": (lambda: rgb(landscape(2, WIDE, SCENERIES["desert"])), {**PHOTO, "subsampling": "4:4:4"}),
    "landscape/winter.jpg": (lambda: rgb(gray(landscape(3, WIDE, SCENERIES["winter"]))), PHOTO),
    "landscape/sunset.jpg": (lambda: cmyk(landscape(5, WIDE, SCENERIES["sunset"])), PHOTO),
    "landscape/fjord.jpg": (lambda: sideways(landscape(6, TALL, SCENERIES["fjord"])), CAMERA),
    "landscape/mist.webp": (lambda: rgb(landscape(7, WIDE, SCENERIES["mist"])), PHOTO),
    "landscape/moon.png": (lambda: rgb(landscape(4, WIDE, SCENERIES["moon"])), {}),
    "landscape/moonrise.png": (lambda: rgb(gray(landscape(14, WIDE, SCENERIES["moon"])) * 1.3).convert("1"), {}),
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
"""Of each file below `odd/`: the function that draws it, and the options of Pillow's save()."""
