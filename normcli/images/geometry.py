"""Resize, letterbox and center crop, pixel for pixel as the libraries do that preprocess images for models.

Orientation comes first, then the resize, then padding, then the crop. The filters are Pillow's: antialiased, 8-bit
images in its fixed-point arithmetic, 16-bit ones in float32 and rounded, float64 in float64. Alpha is a channel like
any other: colors are not multiplied by it. A sample is valid where all that it is made of are valid; padding is valid,
and has full weight, because the model sees it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from normcli.errors import InputError
from normcli.images.convert import Decoded, check_size, row_slices
from normcli.images.orientation import upright
from normcli.options.shared import DecodeOptions, parse_sides

Array = np.ndarray[Any, Any]
Size = tuple[int, int]  # width, height
_LARGE = 1 << 22  # values of an image that Pillow is given in parts: it copies what it resizes
# first input and weights of every output sample along one axis
Taps = list[tuple[int, Array]]


class Placement(NamedTuple):
    """Sides of an image on its way: resized, then padded, then cropped.

    Attributes:
        scaled: width and height after the resize.
        padding: pixels added on the left, above, on the right and below.
        origin: left and upper end of the crop in the padded image.
        size: width and height at the end.
    """

    scaled: Size
    padding: tuple[int, int, int, int]
    origin: Size
    size: Size


def apply(image: Decoded, reading: DecodeOptions, *, turn: bool) -> None:
    """Apply the geometry of the options to an image, its weights and its mask of valid samples.

    Args:
        image: with pixels (H,W,C); changed in place.
        reading: the options.
        turn: apply the EXIF orientation before.

    Raises:
        InputError: smaller than the crop, larger than --max-pixels, or a fill that its samples cannot have.
    """
    if turn and image.orientation != 1:
        image.pixels = upright(image.pixels, image.orientation)
        if image.weights is not None:
            image.weights = upright(image.weights[:, :, None], image.orientation)[:, :, 0]
        if image.valid is not None:
            image.valid = upright(image.valid, image.orientation)
        if image.orientation >= 5:
            image.stored_size = image.stored_size[::-1]
        image.turned, image.orientation = image.orientation, 1
    height, width = image.pixels.shape[:2]
    placed = place(width, height, reading)
    if placed.scaled != (width, height):
        check_size(*placed.scaled, reading)
    if placed.size != placed.scaled:
        check_size(*placed.size, reading)
    _check_values(image.pixels.shape[2], placed, reading)
    fill = None if not any(placed.padding) else _fill(image, reading)
    filter_name = reading.interpolation or "bilinear"
    pixels = image.pixels
    if fill is not None and len(fill) > pixels.shape[2]:  # gray on a color
        pixels = np.repeat(pixels, len(fill), axis=2)
    image.pixels = _placed(resize(pixels, placed.scaled, filter_name), placed, fill)
    if image.weights is not None:
        weights = resize(image.weights[:, :, None], placed.scaled, filter_name)
        full = np.iinfo(weights.dtype).max  # padding is what the model sees, too
        image.weights = np.ascontiguousarray(_placed(weights, placed, [full])[:, :, 0])
    if image.valid is not None:
        valid = np.broadcast_to(image.valid, (height, width, image.pixels.shape[2]))
        valid = _resize_valid(valid, placed.scaled, filter_name)
        image.valid = _placed(valid, placed, None if fill is None else [1])


def apply_to_mask(plane: Array, turned: int, reading: DecodeOptions) -> Array:
    """Return the mask file of an image after the geometry: (H,W), resized by nearest; padding is valid.

    Args:
        plane: bool (H,W) of the image as it is stored, True where a pixel is valid.
        turned: the orientation that the geometry has applied to the image.
        reading: the options.
    """
    pixels = upright(plane[:, :, None], turned)
    placed = place(pixels.shape[1], pixels.shape[0], reading)
    fill: list[float] | None = [1] if any(placed.padding) else None
    return _placed(resize(pixels, placed.scaled, "nearest"), placed, fill)[:, :, 0]


def _check_values(channels: int, placed: Placement, reading: DecodeOptions) -> None:
    """Check that a geometry makes no more values of an image than one of four channels may have.

    Raises:
        InputError: a narrow image of thousands of bands, which `--resize` makes a large one.
    """
    values = channels * max(math.prod(placed.scaled), math.prod(placed.size))
    if values > 4 * max(reading.max_pixels, 1):
        raise InputError("bomb", f"{values} values in {channels} bands, more than four times --max-pixels")


def place(width: int, height: int, reading: DecodeOptions) -> Placement:
    """Return the sides of an image at every step.

    Raises:
        InputError: smaller than the crop where there is no fill.
    """
    scaled = _scaled(width, height, reading)
    target = _target(reading)
    if target is None:
        return Placement(scaled, (0, 0, 0, 0), (0, 0), scaled)
    missing = [max(want - have, 0) for want, have in zip(target, scaled, strict=True)]
    if any(missing) and reading.pad is None:
        crop = target[0] if target[0] == target[1] else f"{target[1]}x{target[0]}"
        raise InputError(
            "too-small",
            f"{scaled[0]} x {scaled[1]} is smaller than the crop of {crop} (torchvision would pad it with black: "
            "--pad 0; or --resize first)",
        )
    corner = str(reading.pad).endswith(":corner")
    before = [0 if corner else side // 2 for side in missing]
    after = [side - first for side, first in zip(missing, before, strict=True)]
    rest = [have + more - want for have, more, want in zip(scaled, missing, target, strict=True)]
    # torchvision rounds half to even, transformers down
    offsets = [side // 2 if reading.like == "huggingface" else round(side / 2) for side in rest]
    return Placement(scaled, (before[0], before[1], after[0], after[1]), (offsets[0], offsets[1]), target)


def _target(reading: DecodeOptions) -> Size | None:
    """Return the sides of the crop, or of the letterbox where there is no crop; None without either."""
    sides = reading.crop_sides
    if sides is None and reading.pad is not None:
        sides = _box(reading.resize)
    return None if sides is None else sides[::-1]


def _box(resize: Any) -> tuple[int, int]:
    """Return (height, width) of "HxW", or of the square of "longest:N"."""
    longest = int(resize.partition("longest:")[2] or 0)
    return parse_sides(resize) or (longest, longest)


def _scaled(width: int, height: int, reading: DecodeOptions) -> Size:
    """Return the width and height after the resize."""
    resize = reading.resize
    if resize is None:
        return width, height
    if isinstance(resize, int):
        return _by_shorter(width, height, resize)
    shorter, comma, longest = str(resize).partition(",longest:")
    if comma:
        sides = _BOUNDED.get(str(reading.like), _bounded_by_torchvision)(width, height, int(shorter), int(longest))
        return max(sides[0], 1), max(sides[1], 1)
    box_height, box_width = _box(resize)
    if reading.pad is None and parse_sides(resize) is not None:
        return box_width, box_height
    sides = _FITTED.get(str(reading.like), _fitted_by_torchvision)(width, height, box_width, box_height)
    return max(sides[0], 1), max(sides[1], 1)


def _by_shorter(width: int, height: int, shorter: int) -> Size:
    longer = int(shorter * max(width, height) / min(width, height))
    return (shorter, longer) if width <= height else (longer, shorter)


def _bounded_by_torchvision(width: int, height: int, shorter: int, longest: int) -> Size:
    sides = _by_shorter(width, height, shorter)
    if max(sides) <= longest:
        return sides
    less = int(longest * shorter / max(sides))
    return (less, longest) if width <= height else (longest, less)


def _bounded_by_huggingface(width: int, height: int, shorter: int, longest: int) -> Size:
    """Compute sides as `get_size_with_aspect_ratio` of transformers."""
    exact: float = shorter
    least, most = float(min(width, height)), float(max(width, height))
    if most / least * shorter > longest:
        exact = longest * least / most
        shorter = round(exact)
    if min(width, height) == shorter:
        return width, height
    if width < height:
        return shorter, int(exact * height / width)
    return int(exact * width / height), shorter


def _bounded_by_mmcv(width: int, height: int, shorter: int, longest: int) -> Size:
    """Compute sides as `rescale_size` of mmcv."""
    scale = min(longest / max(height, width), shorter / min(height, width))
    return int(width * scale + 0.5), int(height * scale + 0.5)


def _fitted_by_torchvision(width: int, height: int, box_width: int, box_height: int) -> Size:
    """Compute sides as `max_size` of Resize, in a square, and likewise in other boxes."""
    if width * box_height <= height * box_width:
        return int(box_height * width / height), box_height
    return box_width, int(box_width * height / width)


def _fitted_by_huggingface(width: int, height: int, box_width: int, box_height: int) -> Size:
    """Compute sides as SamImageProcessor in a square, and as `get_image_size_for_max_height_width` in other boxes."""
    if box_width == box_height:
        scale = box_width * 1.0 / max(height, width)
        return int(width * scale + 0.5), int(height * scale + 0.5)
    scale = min(box_height / height, box_width / width)
    return int(width * scale), int(height * scale)


def _fitted_by_timm(width: int, height: int, box_width: int, box_height: int) -> Size:
    """Compute sides as `ResizeKeepRatio`."""
    ratio = max(height / box_height, width / box_width)
    return round(width / ratio), round(height / ratio)


def _fitted_by_ultralytics(width: int, height: int, box_width: int, box_height: int) -> Size:
    """Compute sides as `LetterBox`."""
    scale = min(box_height / height, box_width / width)
    return round(width * scale), round(height * scale)


def _fitted_by_mmcv(width: int, height: int, box_width: int, box_height: int) -> Size:
    """Compute sides as `rescale_size` of mmcv in a square, and likewise in other boxes."""
    scale = min(box_height / height, box_width / width)
    return int(width * scale + 0.5), int(height * scale + 0.5)


_BOUNDED = {"huggingface": _bounded_by_huggingface, "mmcv": _bounded_by_mmcv}
_FITTED = {
    "huggingface": _fitted_by_huggingface,
    "timm": _fitted_by_timm,
    "ultralytics": _fitted_by_ultralytics,
    "mmcv": _fitted_by_mmcv,
}


def _fill(image: Decoded, reading: DecodeOptions) -> list[float]:
    """Return the value of padding per channel; three values for a gray image if they differ.

    Raises:
        InputError: values that the samples cannot have, or another number of them than of channels.
    """
    values = [float(v) for v in str(reading.pad).partition(":")[0].split(",")]
    pixels = image.pixels
    alpha = reading.alpha == "keep"
    colors = pixels.shape[2] - alpha
    if len(set(values)) == 1:
        values = values[:1] * colors
    elif colors == 1 and not alpha and len(values) == 3:
        colors = 3
    if len(values) != colors:
        raise InputError("unsupported", f"--pad has {len(values)} values, and the image {colors} channels")
    largest: float = 1
    if pixels.dtype.kind == "u":
        largest = np.iinfo(pixels.dtype).max
        for value in values:
            if not (0 <= value <= largest and value == int(value)):
                raise InputError("unsupported", f"--pad {value:g} is not a level of 0 to {largest:g}")
    return values + [image.full_scale or largest] * alpha


def _placed(pixels: Array, placed: Placement, fill: list[float] | None) -> Array:
    """Return scaled pixels (H,W,C) with padding, and cropped."""
    if fill is not None:
        left, top, right, bottom = placed.padding
        height, width, channels = pixels.shape
        padded = np.empty((top + height + bottom, left + width + right, channels), pixels.dtype)
        padded[:] = np.array(fill).astype(pixels.dtype)
        padded[top : top + height, left : left + width] = pixels
        pixels = padded
    (left, top), (width, height) = placed.origin, placed.size
    if pixels.shape[:2] != (height, width):
        pixels = pixels[top : top + height, left : left + width]
    return np.ascontiguousarray(pixels)


def resize(pixels: Array, size: Size, interpolation: str) -> Array:
    """Resize pixels (H,W,C) of any dtype to (width, height) with a filter of Pillow."""
    height, width, channels = pixels.shape
    if size == (width, height):
        return pixels
    if interpolation == "nearest":
        columns, rows = _nearest(width, size[0]), _nearest(height, size[1])
        return np.ascontiguousarray(pixels[rows][:, columns])
    resample = Image.Resampling[interpolation.upper()]
    if pixels.dtype == np.uint8 and channels in (1, 3):
        plane = pixels[:, :, 0] if channels == 1 else pixels
        resized = _resize_plane(plane, size, resample)
        return np.ascontiguousarray(resized.reshape(size[1], size[0], channels))
    if pixels.dtype == np.float64:
        return _resize_exactly(pixels, size, *FILTERS[interpolation])
    # Pillow resizes no 16-bit color: band by band in float32, which holds 16 bits, rounded at the end
    stacked = np.stack([_resize_plane(pixels[:, :, c], size, resample, np.float32) for c in range(channels)], axis=2)
    if pixels.dtype.kind == "u":
        stacked = np.clip(np.rint(stacked), 0, np.iinfo(pixels.dtype).max)
    return np.ascontiguousarray(stacked, dtype=pixels.dtype)


def _nearest(before: int, after: int) -> Array:
    """Return the index that Pillow takes for every output sample: it adds steps up, and rounds as it goes."""
    indexes = Image.fromarray(np.arange(before, dtype=np.int32)[None])
    return np.ravel(np.asarray(indexes.resize((after, 1), Image.Resampling.NEAREST)))


def _resize_valid(valid: Array, size: Size, interpolation: str) -> Array:
    """Resize a mask (H,W,C): a sample is valid where every sample that it is made of is valid."""
    for axis, after in ((1, size[0]), (0, size[1])):
        before = valid.shape[axis]
        if before == after:
            continue
        if interpolation == "nearest":
            valid = np.take(valid, _nearest(before, after), axis=axis)
            continue
        windows = [(start + np.flatnonzero(weights)) for start, weights in taps(before, after, *FILTERS[interpolation])]
        first, last = [int(window[0]) for window in windows], [int(window[-1]) + 1 for window in windows]
        sums = np.cumsum(~valid, axis=axis, dtype=np.int32)
        sums = np.insert(sums, 0, 0, axis=axis)
        valid = np.take(sums, last, axis=axis) == np.take(sums, first, axis=axis)
    return valid


def _resize_plane(plane: Array, size: Size, resample: Any, dtype: type[np.generic] = np.uint8) -> Array:
    """Resize (H,W) or (H,W,3) by Pillow, which first makes all rows narrower, then fewer: so do some rows at a time."""
    if plane.size <= _LARGE:
        return np.asarray(Image.fromarray(np.ascontiguousarray(plane, dtype)).resize(size, resample))
    narrow = [
        np.asarray(Image.fromarray(part).resize((size[0], len(part)), resample))
        for part in (np.ascontiguousarray(plane[rows], dtype) for rows in row_slices(plane))
    ]
    return np.asarray(Image.fromarray(np.concatenate(narrow)).resize(size, resample))


def _resize_exactly(pixels: Array, size: Size, kernel: Callable[[Array], Array], support: float) -> Array:
    """Resize with the same filter in float64: 32-bit integers and float64, which Pillow would round to float32."""
    across = taps(pixels.shape[1], size[0], kernel, support)
    down = taps(pixels.shape[0], size[1], kernel, support)
    rows = np.stack([np.einsum("k,kwc->wc", weights, pixels[start : start + len(weights)]) for start, weights in down])
    columns = [np.einsum("k,hkc->hc", weights, rows[:, start : start + len(weights)]) for start, weights in across]
    return np.ascontiguousarray(np.stack(columns, axis=1))


def taps(before: int, after: int, kernel: Callable[[Array], Array], support: float) -> Taps:
    """Return first input and normalized weights of every output of a filter, as Pillow takes them."""
    if before == after:
        return [(i, np.ones(1)) for i in range(after)]
    scale = before / after
    stretch = max(scale, 1.0)
    reach = support * stretch
    out = []
    for i in range(after):
        center = (i + 0.5) * scale
        start, end = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), before)
        weights = kernel((np.arange(start, end) - center + 0.5) / stretch)
        out.append((start, weights / weights.sum()))
    return out


def _triangle(x: Array) -> Array:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: Array) -> Array:
    """Compute Keys' cubic with a = -0.5 (Keys, 1981)."""
    a, x = -0.5, np.abs(x)
    near: Array = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far: Array = (((x - 5) * x + 8) * x - 4) * a
    return np.asarray(np.where(x < 1, near, np.where(x < 2, far, 0.0)))


def _lanczos(x: Array) -> Array:
    return np.asarray(np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0))


# filter -> its kernel, and how far it reaches on each side, in samples of the coarser grid
FILTERS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
