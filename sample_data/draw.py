"""Draw the sample images: ``python sample_data/draw.py [FOLDER]`` (about two minutes).

Every picture is computed from shapes, shading and seeded noise, drawn three times larger than it is stored, and written
in a format that normcli reads (`bands` with tifffile). Equal versions of NumPy and Pillow on one kind of processor
write equal bytes.
"""

import sys
from pathlib import Path
from typing import Any

import tifffile
from drawing.bands import BANDS, satellite
from drawing.odd import ODD
from drawing.scenes import SCENES

JPEG: dict[str, Any] = {"quality": 88, "optimize": True}


def draw_scenes(folder: Path) -> None:
    """Draw the photograph-like scenes, JPEG in train and val, into `folder`."""
    for name, draw in SCENES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw().save(path, **JPEG)


def draw_odd(folder: Path) -> None:
    """Draw one image of each odd kind into `folder`."""
    for name, (draw, options) in ODD.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = draw()
        first, *others = drawn if isinstance(drawn, list) else [drawn]
        animation: dict[str, Any] = {"save_all": True, "append_images": others, "loop": 0} if others else {}
        first.save(path, **options, **animation)


def draw_bands(folder: Path) -> None:
    """Draw two satellite images of six 16-bit bands into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("delta", "valley"), 1):
        pixels = satellite(seed, (72, 64))
        extra = ["unspecified"] * (len(BANDS) - 1)
        tifffile.imwrite(
            folder / f"{name}.tif", pixels, photometric="minisblack", extrasamples=extra, metadata=None, software=False
        )


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    draw_scenes(root / "scenes")
    draw_odd(root / "odd")
    draw_bands(root / "bands")
