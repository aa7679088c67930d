"""Small images made by arithmetic, as arrays and as files."""

import io
from typing import Any

import numpy as np
from PIL import Image


def encoded(array: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    """Return an array (H,W) or (H,W,C) as an image file's bytes."""
    buffer = io.BytesIO()
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def photograph(height: int = 48, width: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return a smooth uint8 picture with some grain, which compresses like a photograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (5 + c + seed % 7) + y / (9 - c)) for c in range(channels)]
    picture = np.stack(waves, axis=2) + rng.normal(0, 12, (height, width, channels))
    return np.clip(picture, 0, 255).astype(np.uint8)
