"""The conversion of every decoder's result: limits, color, alpha, geometry."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import numpy as np

from normcli import late_imports
from normcli.errors import InputError, MissingExtraError, library_text, shortened
from normcli.options.field import parse_color
from normcli.options.shared import DecodeOptions

T = TypeVar("T")
_EXACT = 1 << 53  # float64 represents every integer up to here


_AT_ONCE = 1 << 18  # values that are computed in wider types


class Decoded:
    """One decoded image. Defaults that most images keep are attributes of the class: 0.5 us less an image.

    Attributes:
        pixels: (H,W,C), C-contiguous; uint8, uint16, float32 or float64.
        format: "JPEG", "PNG", …
        mode: as stored: "RGB", "P", "I;16", "CMYK", …
        depth: bits per sample as stored.
        alpha: (H,W) of the pixels' dtype, until `shape` has dealt with it.
        has_alpha: the last channel of the pixels is alpha, until `shape` has dealt with it.
        is_owned: nobody else uses the memory of the pixels: a conversion may write into it.
        is_plain: of 8 bits, gray or RGB, intact, without alpha and tags, as stored: default options keep it so.
        weights: (H,W) of the pixels' dtype, or None when every pixel counts the same.
        valid: bool (H,W,C), True where a sample counts in its band; None when all do.
        notes: names that the composition counts: "alpha", "exif", "icc", "multi-frame", "damaged", "cmyk", …
        orientation: the EXIF orientation, 1 to 8; 1 where a geometry has turned the pixels upright.
        full_scale: the stored value that is white where it is not the dtype's largest, as in 12-bit images; its
            pixels have a scale only where the user sets one.
        no_data: the value of the file's GDAL tag; `shape` makes the samples that have it invalid.
        stored_bits: bits of stored integers that decoding scaled to 8, or 0.
        white_is_zero: decoding turned the stored levels upside down.
        names: of the bands as the file has them, alpha last; () where it has none.
        scales: (scale, offset) of each of these bands; () where samples are values.
        hidden: number of pixels that are fully transparent.
        stored_size: width and height as stored, before the geometry of the options, which turns them with the pixels.
        turned: the EXIF orientation that a geometry has applied, 1 to 8.
        integers: int16 (H,W,C), the samples of an image of integers; None after the first reading of `pixels`.
    """

    alpha: np.ndarray[Any, Any] | None = None
    has_alpha: bool = False
    is_owned: bool = False
    is_plain: bool = False
    weights: np.ndarray[Any, Any] | None = None
    valid: np.ndarray[Any, Any] | None = None
    orientation: int = 1
    full_scale: int | None = None
    no_data: float | None = None
    stored_bits: int = 0
    white_is_zero: bool = False
    names: tuple[str, ...] = ()
    scales: tuple[tuple[float, float], ...] = ()
    hidden: int = 0
    stored_size: tuple[int, int] = (0, 0)
    turned: int = 1
    integers: np.ndarray[Any, Any] | None = None

    def __init__(
        self,
        pixels: np.ndarray[Any, Any],
        format: str,
        mode: str,
        depth: int,
        *,
        notes: list[str] | None = None,
        orientation: int = 1,
        has_alpha: bool = False,
        is_owned: bool = False,
        valid: np.ndarray[Any, Any] | None = None,
        full_scale: int | None = None,
        white_is_zero: bool = False,
    ) -> None:
        self.pixels = pixels
        self.format = format
        self.mode = mode
        self.depth = depth
        self.notes = [] if notes is None else notes
        if orientation != 1:
            self.orientation = orientation
        if has_alpha:
            self.has_alpha = True
        if is_owned:
            self.is_owned = True
        if valid is not None:
            self.valid = valid
        if full_scale is not None:
            self.full_scale = full_scale
        if white_is_zero:
            self.white_is_zero = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of the pixels."""
        height, width, channels = self.pixels.shape
        return height, width, channels

    @property
    def colors(self) -> np.ndarray[Any, Any]:
        """Return the pixels without alpha."""
        return self.pixels[:, :, :-1] if self.has_alpha else self.pixels

    @property
    def samples(self) -> np.ndarray[Any, Any]:
        """Return the argument of a tally: `integers`, or else the pixels."""
        return self.pixels if self.integers is None else self.integers


class DecodedIntegers(Decoded):
    """A decoded image of int16. Counting needs no floats, so its first reading of `pixels` makes them.

    An assignment replaces both.
    """

    @property
    def pixels(self) -> np.ndarray[Any, Any]:
        """Return the pixels as float64 (H,W,C)."""
        if self.integers is not None:
            self.pixels = to_supported_dtype(self.integers)
        return self._pixels

    @pixels.setter
    def pixels(self, pixels: np.ndarray[Any, Any]) -> None:
        self.integers = pixels if pixels.dtype == np.int16 else None
        self._pixels = pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of the pixels."""
        height, width, channels = self._pixels.shape
        return height, width, channels


def from_levels(levels: np.ndarray[Any, Any], white: int) -> tuple[np.ndarray[Any, Any], int | None]:
    """Return levels of 0 to `white` as pixels, and their full scale if that is not the dtype's.

    A white that divides 255 is scaled to 8 bits without rounding; all others stay as stored, in 16 bits.

    >>> from_levels(np.array([1, 3], np.uint8), 3)[0].tolist(), from_levels(np.array([100], np.uint8), 100)
    ([85, 255], (array([100], dtype=uint16), 100))
    """
    if 255 % white == 0:
        levels = levels.astype(np.uint8, copy=False)
        return np.ascontiguousarray(levels if white == 255 else levels * np.uint8(255 // white)), None
    return np.ascontiguousarray(levels, dtype=np.uint16), None if white == 65535 else white


def check_full_scale(image: Decoded, max_value: int | None) -> None:
    """Reject an image whose white level is neither 255, 65535 nor given.

    Raises:
        InputError: naming the option and the value.
    """
    if image.full_scale is not None and max_value is None:
        raise InputError(
            "max-value",
            f"samples from 0 to {image.full_scale}, neither 8 nor 16 bits: --max-value {image.full_scale} maps "
            "them to 0-1",
        )


def check_size(width: int, height: int, reading: DecodeOptions) -> None:
    """Reject an image by its header.

    Raises:
        InputError: no pixels, or more than `reading.max_pixels`.
    """
    if width < 1 or height < 1:
        raise InputError("damaged", f"claims {width} x {height} pixels")
    if width * height > reading.max_pixels:
        raise InputError(
            "bomb",
            f"{width} x {height} is {width * height} pixels, over the limit of {reading.max_pixels} (--max-pixels)",
        )


def to_supported_dtype(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert an array to one of the dtypes that are counted, without changing a value.

    uint8, uint16, float32, float64 stay; float16 becomes float32; other integers become float64 in raw units.

    Raises:
        InputError: 64-bit integers beyond 2^53, complex numbers, other types.
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "u" and size <= 2:
        dtype = np.dtype(f"u{size}")
    elif kind == "f" and size <= 8:
        dtype = np.dtype("f4" if size <= 4 else "f8")
    elif kind in "iu":
        dtype = np.dtype("f8")
        if size == 8 and array.size and max(-int(array.min()), int(array.max())) > _EXACT:
            raise InputError(
                "unsupported",
                f"{array.dtype} values beyond 2^53, which float64 cannot represent (save them as int32 or float64)",
            )
    else:
        raise InputError(
            "unsupported", f"samples of type {array.dtype} (convert them to uint8, uint16, int32, float32 or float64)"
        )
    return np.ascontiguousarray(array, dtype=dtype)


def from_samples(array: np.ndarray[Any, Any], format: str, mode: str, depth: int, **attributes: Any) -> Decoded:
    """Return samples (H,W,C) as a decoded image: int16 as integers, other dtypes by `to_supported_dtype`.

    Raises:
        InputError: as `to_supported_dtype`.
    """
    if array.dtype.kind == "i" and array.dtype.itemsize <= 2:
        return DecodedIntegers(np.ascontiguousarray(array, np.int16), format, mode, depth, **attributes)
    return Decoded(to_supported_dtype(array), format, mode, depth, **attributes)


def from_array(array: np.ndarray[Any, Any], reading: DecodeOptions) -> Decoded:
    """Return an array (H,W) or (H,W,C) from a container, which may have `notes`, as a decoded image.

    Raises:
        InputError: of another shape or type, or too large.
    """
    notes, tags = [*getattr(array, "notes", ())], getattr(array, "tags", None)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise InputError("not-an-image", f"an array of shape {array.shape}, not (H,W) or (H,W,C)")
    check_size(array.shape[1], array.shape[0], reading)
    is_bool = array.dtype == np.bool_
    if is_bool:
        array = array.astype(np.uint8) * np.uint8(255)
    mode = _mode(array.shape[2], array.dtype)
    orientation = getattr(array, "orientation", 1)
    if tags is not None and tags[1] is not None and array.dtype.str[1:] in ("i8", "u8") and reading.nodata == "tag":
        beyond = (array > _EXACT) | (array < -_EXACT)  # as the fill values of NetCDF are
        array = np.where(tags[1].reshape(array.shape) & beyond, 0, array)
    image = from_samples(array, "array", mode, array.itemsize * 8, notes=notes, orientation=orientation)
    if tags is not None:
        from normcli.images.tags import apply_tags  # of arrays of volumes and the like

        scale, hidden, image.names = tags
        if is_bool:
            scale = scale_of_bool(scale, reading)
        apply_tags(image, scale, hidden, reading)
    return image


def scale_of_bool(scale: tuple[float, float], reading: DecodeOptions) -> tuple[float, float]:
    """Return the scale of 0 and 255, the levels of False and True, from that of 0 and 1; no scale remains no scale.

    Args:
        scale: factor and offset of 0 and 1.
        reading: the options; `scale_offset` "values" has values of 0 and 1 where there is no scale.
    """
    factor, offset = scale
    return (factor / 255, offset) if scale != (1.0, 0.0) or reading.scale_offset == "values" else scale


def stored_bytes(data: bytes | np.ndarray[Any, Any]) -> bytes | memoryview:
    """Return the bytes that the digest of an image is of: encoded ones, those of an array, or an array's `identity`."""
    if isinstance(data, bytes):
        return data
    identity: bytes | None = getattr(data, "identity", None)
    return np.ascontiguousarray(data).data.cast("B") if identity is None else identity


@cache
def _mode(channels: int, dtype: np.dtype[Any]) -> str:
    return f"{channels}x{dtype}"  # NumPy takes 8 us for the name


def is_no_memory(error: Exception) -> bool:
    """Return True if an error means that there is no memory: Pillow raises OSError, a library's loader ImportError."""
    return any(words in str(error).lower() for words in ("out of memory", "failed to map", "allocate memory"))


def is_early_end(error: Exception) -> bool:
    """Return True if a decoder's error means that the file is cut short."""
    text = str(error).lower()
    return isinstance(error, EOFError) or any(word in text for word in ("truncated", "not enough", "unexpected end"))


def guarded(decode_one: Callable[[], T]) -> T:
    """Call a decoder and return its result; raise InputError in place of its own errors."""
    try:
        return decode_one()
    except InputError:
        raise
    except Exception as error:
        reason = late_imports.reason_of(error) or error  # not repeated: a generator that raised is at its end
        raise input_error(reason) from reason


def input_error(error: Exception, stage: str = "decode") -> InputError:
    """Return the InputError for any exception that was raised while an image was decoded, or at another stage."""
    if isinstance(error, MissingExtraError):
        return InputError("unsupported", str(error))
    is_import = isinstance(error, ImportError)
    if isinstance(error, MemoryError) or is_no_memory(error) or (is_import and not str(error)):
        return InputError("memory", f"not enough memory to {stage} it")
    if "too many open files" in str(error).lower():  # in an import, as memory
        return InputError("unreadable", "too many open files (ulimit -n)")
    if is_import:  # not of the image: a disk or an installation that is damaged
        text = shortened(" ".join(str(error).split()), 200)
        return InputError("unreadable", f"what is needed to {stage} it cannot be loaded: {text}")
    reason = "truncated" if is_early_end(error) else "damaged"
    return InputError(reason, f"cannot be decoded: {library_text(error)}")


NEUTRAL = frozenset(("strict", "max_pixels"))  # options that change no plain image


def shape(image: Decoded, reading: DecodeOptions, *, turn: bool = True) -> Decoded:
    """Apply the options to a decoded image: damage, alpha, color, geometry.

    Args:
        image: as a decoder returns it.
        reading: the options.
        turn: apply the EXIF orientation before a geometry, which then sees the picture as the model does; without a
            geometry the pixels stay as stored.
    """
    height, width, _ = image.shape
    image.stored_size = (width, height)
    if image.is_plain and reading.changed <= NEUTRAL:
        return image
    image.is_plain = False
    shape_block(image, reading, turn=turn)
    if image.hidden:
        image.notes += transparency_notes(image.hidden, width * height)
    if image.valid is not None and not image.valid.any():
        if reading.color == "lab-tissue":
            raise InputError("no-tissue", "no valid pixel has an L* below 80 (--color lab counts all)")
        raise InputError("nodata", "no sample is valid: all are nodata or transparent (--nodata none counts nodata)")
    if image.weights is not None and not image.weights.any():
        raise all_transparent()
    return image


def transparency_notes(hidden: int, pixels: int) -> list[str]:
    """Return the note of an image with more than 0.1% of pixels that are fully transparent; [] for all others."""
    return ["transparent"] if hidden * 1000 > pixels else []


def all_transparent() -> InputError:
    """Return the error for an image without a pixel that has a weight."""
    return InputError("transparent", "every pixel is fully transparent, so --alpha weight leaves none")


def shape_block(image: Decoded, reading: DecodeOptions, *, turn: bool = True) -> Decoded:
    """Apply the options to an image or a block of one; the caller makes the checks that need the complete image."""
    if reading.strict and "damaged" in image.notes:
        raise InputError("damaged", "damaged, although it decodes (without --strict it is used)")
    if image.no_data is not None or reading.nodata not in ("tag", "none"):
        from normcli.images.nodata import mark_no_data  # few images have it

        mark_no_data(image, reading)
    if reading.bands is not None:
        from normcli.images.bands import select_bands

        if image.has_alpha:
            image.alpha, image.pixels = image.pixels[:, :, -1].copy(), np.ascontiguousarray(image.colors)
            image.has_alpha = False
        select_bands(image, str(reading.bands))
    count, has_alpha = image.shape[2], image.alpha is not None or image.has_alpha
    is_bands = image.mode[:5] == "bands" or reading.bands is not None
    if has_alpha:
        _apply_alpha(image, reading)
    elif reading.alpha == "keep" and count in (1, 3) and not is_bands:  # as gray and RGB with alpha
        largest = np.iinfo(image.pixels.dtype).max if image.pixels.dtype.kind == "u" else 1
        opaque = image.full_scale or largest
        alpha = np.full((*image.pixels.shape[:2], 1), opaque, image.pixels.dtype)
        image.pixels = np.concatenate([image.pixels, alpha], axis=2)
        if image.valid is not None:
            image.valid = np.concatenate([image.valid, np.ones(alpha.shape, bool)], axis=2)
    channels = image.shape[2]
    if is_bands:
        colors = channels - (has_alpha and reading.alpha == "keep")
        if reading.color == "gray" or (reading.color == "rgb" and colors != 3):
            as_rgb = "; --color rgb takes three bands as RGB" if colors == 3 else ""
            raise InputError("unsupported", f"{colors} bands are neither gray nor RGB (--color native{as_rgb})")
        if reading.color != "rgb":
            image.notes.append("bands")
    if reading.color == "gray" and channels >= 3:
        _make_gray(image)
        if image.valid is not None:  # luma is of all three
            parts = np.split(image.valid, [3], axis=2)
            image.valid = np.concatenate([parts[0].all(axis=2, keepdims=True), parts[1]], axis=2)
    elif reading.color == "rgb" and channels - (reading.alpha == "keep") not in (1, 3):
        raise InputError("unsupported", f"{channels} channels, neither gray nor RGB (--color native)")
    if reading.resize is not None or reading.center_crop is not None:
        from normcli.images import geometry

        geometry.apply(image, reading, turn=turn)
    if reading.color[:3] == "lab":
        from normcli.images.lab import make_lab

        make_lab(image, reading)
    if image.names or image.scales:
        from normcli.images.bands import align_bands

        align_bands(image, reading)
    return image


def _apply_alpha(image: Decoded, reading: DecodeOptions) -> None:
    pixels, alpha = image.colors, image.pixels[:, :, -1] if image.has_alpha else image.alpha
    assert alpha is not None
    image.notes.append("alpha")
    image.hidden = sum(int(np.count_nonzero(alpha[rows] == 0)) for rows in row_slices(alpha))
    if reading.alpha == "keep":
        image.pixels = image.pixels if image.has_alpha else np.concatenate([pixels, alpha[:, :, None]], axis=2)
        if image.valid is not None:
            image.valid = np.concatenate([image.valid, np.ones((*alpha.shape, 1), bool)], axis=2)
    elif reading.alpha.startswith("composite:"):
        _check_alpha_scale(image)
        _composite(image, pixels, alpha, parse_color(reading.alpha.removeprefix("composite:")))
        if image.valid is not None:  # a gray image over a color has three channels
            image.valid = np.broadcast_to(image.valid, image.pixels.shape)
    else:
        if reading.alpha == "weight":
            if alpha.dtype.kind != "u":
                raise InputError("unsupported", "an alpha channel of floats cannot weigh pixels exactly")
            _check_alpha_scale(image)
            image.weights = np.ascontiguousarray(alpha)
        elif reading.alpha == "mask" and image.hidden:
            visible = (alpha != 0)[:, :, None]
            image.valid = visible & (np.ones(pixels.shape, bool) if image.valid is None else image.valid)
        if image.has_alpha:
            _convert(image, pixels.shape[2], lambda colors: colors, pixels)
    image.alpha, image.has_alpha = None, False


def _check_alpha_scale(image: Decoded) -> None:
    if image.full_scale is not None:
        raise InputError(
            "unsupported",
            f"alpha values from 0 to {image.full_scale} cannot weigh or composite pixels (--alpha drop or keep)",
        )


def row_slices(array: np.ndarray[Any, Any]) -> Iterator[slice]:
    """Yield slices of the first axis, of about 260,000 values each: a bound for computations in wider types.

    >>> [len(range(600)[rows]) for rows in row_slices(np.empty((600, 1 << 10)))]
    [256, 256, 88]
    """
    rows = max(1, _AT_ONCE * len(array) // max(1, array.size))
    return (slice(top, top + rows) for top in range(0, len(array), rows))


def _convert(image: Decoded, channels: int, compute: Callable[..., Any], *planes: np.ndarray[Any, Any]) -> None:
    """Replace the pixels of an image by `compute` of a few rows at a time: int64 takes eight bytes a sample.

    The rows go into the memory of the image itself if it may be overwritten: they end where the next ones begin.
    """
    old = image.pixels
    height, width = old.shape[:2]
    if image.is_owned and channels <= old.shape[2] and old.flags.c_contiguous and old.flags.writeable:
        out = old.reshape(-1)[: height * width * channels].reshape(height, width, channels)
    else:
        out = np.empty((height, width, channels), old.dtype)
    for rows in row_slices(old):
        out[rows] = compute(*(plane[rows] for plane in planes))
    image.pixels, image.is_owned = out, True


def _composite(
    image: Decoded, pixels: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any], color: tuple[int, int, int]
) -> None:
    """Blend over a color: (v*a + b*(white-a)) / white, rounded to nearest for integers."""
    channels = pixels.shape[2]
    if channels == 1:
        if len(set(color)) > 1:
            channels = 3  # the gray is that of each
        else:
            color = color[:1]  # type: ignore[assignment]
    dtype = pixels.dtype
    if dtype.kind == "f":

        def blend(v: np.ndarray[Any, Any], a: np.ndarray[Any, Any]) -> Any:
            return v * a[:, :, None] + np.array(color, dtype) / 255 * (1 - a[:, :, None])

    else:
        white = np.int64(np.iinfo(dtype).max)
        background = np.array(color, np.int64) * (white // 255)

        def blend(v: np.ndarray[Any, Any], a: np.ndarray[Any, Any]) -> Any:
            wide = a[:, :, None].astype(np.int64)
            return (v * wide + background * (white - wide) + white // 2) // white

    _convert(image, channels, blend, pixels, alpha)


def _make_gray(image: Decoded) -> None:
    with_alpha = image.pixels.shape[2] == 4

    def mix(rows: np.ndarray[Any, Any]) -> Any:
        red, green, blue = (rows[:, :, c] for c in range(3))
        if rows.dtype.kind == "f":
            luma: Any = (0.299 * red.astype(np.float64) + 0.587 * green + 0.114 * blue).astype(rows.dtype)
        else:
            weighted = 19595 * red.astype(np.int64) + 38470 * green.astype(np.int64) + 7471 * blue.astype(np.int64)
            luma = ((weighted + 32768) >> 16).astype(rows.dtype)
        return np.dstack([luma, rows[:, :, 3]]) if with_alpha else luma[:, :, None]

    _convert(image, 1 + with_alpha, mix, image.pixels)
