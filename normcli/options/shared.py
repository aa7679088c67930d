"""Options of runs that several commands share: inputs, decoding, values, workers, failures."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

from normcli.errors import UsageError
from normcli.options.field import (
    ENGINES,
    LIBRARIES,
    Color,
    Options,
    option,
    parse_alpha,
    parse_bands,
    parse_engine,
    parse_level,
    parse_limit,
    parse_no_data,
    parse_pairs,
    parse_size,
    parse_texts,
    python_only,
)

MAX_PIXELS = 178_956_970  # Pillow's own limit: 2 GiB / 4 bytes / 3 channels
GEOMETRY_WHERE_USED = ("interpolation", "pad", "like")  # settings that files contain only where they are set
GEOMETRY = ("resize", "center_crop", *GEOMETRY_WHERE_USED)
_MAX_SIDE = 1 << 24


def describe_geometry(settings: Mapping[str, Any]) -> str:
    """Return the geometry of settings as one line of text; a resize that names no filter is bilinear.

    >>> describe_geometry({"resize": 256, "center_crop": 224, "interpolation": "bicubic"}), describe_geometry({})
    ('resize 256 bicubic, center crop 224', '')
    """
    filter_name = f" {settings['interpolation']}" if settings.get("interpolation") else ""
    names = {"resize": "resize", "center_crop": "center crop", "pad": "pad", "like": "rounded as"}
    steps = [f"{name} {settings[key]}" for key, name in names.items() if settings.get(key) is not None]
    return ", ".join(step + filter_name * step.startswith("resize") for step in steps)


def parse_sides(value: Any) -> tuple[int, int] | None:
    """Return the (height, width) of "HxW"; None for anything else.

    >>> parse_sides("480x640"), parse_sides("480"), parse_sides("0x640")
    ((480, 640), None, None)
    """
    match = re.fullmatch(r"([1-9]\d{0,7})x([1-9]\d{0,7})", value.strip()) if isinstance(value, str) else None
    return None if match is None else (int(match[1]), int(match[2]))


def _parse_side(value: Any) -> int | None:
    """Return a positive number of pixels; None for anything else."""
    if isinstance(value, str):
        value = int(value) if value.strip().isdecimal() else 0
    if isinstance(value, bool) or type(value).__name__ == "bool" or not hasattr(value, "__index__"):
        return None
    side = int(value.__index__())
    return side if 1 <= side <= _MAX_SIDE else None


def parse_resize(value: Any) -> int | str:
    """Return a target of a resize in one spelling: the shorter side, "HxW", "longest:N" or "N,longest:M".

    >>> parse_resize("256"), parse_resize((480, 640)), parse_resize("longest:0640"), parse_resize("800,longest:1333")
    (256, '480x640', 'longest:640', '800,longest:1333')

    Raises:
        UsageError: another text, or a side that is not positive.
    """
    if isinstance(value, tuple | list) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    if (sides := parse_sides(value)) is not None:
        return f"{sides[0]}x{sides[1]}"
    shorter, colon, longer = value.partition("longest:") if isinstance(value, str) else ("", "", "")
    if colon and (most := _parse_side(longer)) is not None:
        least = _parse_side(shorter[:-1]) if shorter.endswith(",") else None
        if not shorter:
            return f"longest:{most}"
        if least is not None and least < most:
            return f"{least},longest:{most}"
    elif not colon and (side := _parse_side(value)) is not None:
        return side
    raise UsageError(f"`resize`: must be N, HxW, longest:N or N,longest:M with positive integers, not {value!r}")


def parse_crop(value: Any) -> int | str:
    """Return a crop in one spelling: N for a square, else "HxW".

    >>> parse_crop("224"), parse_crop("224x224"), parse_crop([192, 256])
    (224, 224, '192x256')

    Raises:
        UsageError: another text, or a side that is not positive.
    """
    if isinstance(value, tuple | list) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    if (sides := parse_sides(value)) is not None:
        return sides[0] if sides[0] == sides[1] else f"{sides[0]}x{sides[1]}"
    if (side := _parse_side(value)) is not None:
        return side
    raise UsageError(f"`center_crop`: must be N or HxW with positive integers, not {value!r}")


def parse_pad(value: Any) -> str:
    """Return a fill in one spelling: a number or one per channel, with ":corner" for an image in the upper left.

    >>> parse_pad(114), parse_pad((124, 116.0, 104)), parse_pad("0:corner"), parse_pad("0:center")
    ('114', '124,116,104', '0:corner', '0')

    Raises:
        UsageError: something else.
    """
    text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    numbers, _, place = text.partition(":")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)) or place not in ("", "center", "corner"):
        raise UsageError(f"`pad`: must be V or V,V,V, with :corner or without, such as 114 or 0:corner, not {value!r}")
    values = values[:1] if len(set(values)) == 1 else values
    plain = ",".join(str(int(v)) if v == int(v) else repr(v) for v in values)
    return plain + (":corner" if place == "corner" else "")


class InputOptions(Options):
    """Selection of inputs from the sources."""

    panel = "Input"

    include: str | Iterable[str] = option(
        "Read only files that match GLOB instead of those with a known image extension. Repeatable.",
        (),
        metavar="GLOB",
        parse=partial(parse_texts, "include"),
    )
    exclude: str | Iterable[str] = option(
        "Skip paths that match GLOB. Repeatable.", (), metavar="GLOB", parse=partial(parse_texts, "exclude")
    )
    follow_symlinks: bool = option("Follow symbolic links to folders; each folder is visited once.", False, hidden=True)
    max_file_size: int | str | None = option(
        "Fail files larger than SIZE, such as 500MB, before reading them (default: no limit).",
        metavar="SIZE",
        parse=partial(parse_size, "max_file_size"),
        hidden=True,
    )
    open_options: Mapping[str, str] | Iterable[str] = option(
        "Set an option that only one container knows, such as column=image (parquet, CSV, npz) or layout=nchw (npy). "
        "Repeatable; `normcli list formats` prints them.",
        (),
        metavar="KEY=VALUE",
        flags=("-O", "--open-option"),
        complete="open_options",
        parse=parse_pairs,
    )


class DecodeOptions(Options):
    """Conversion of bytes to pixels; recorded in statistics files, and equal in all files that are merged."""

    panel = "Decoding"

    color: Color = option(
        "Convert images to a color mode. auto: keep the channels of each file, with palettes expanded, and count gray "
        "as R = G = B where there are RGB images; rgb: gray and RGB as three channels, fail others; gray: one channel "
        "(ITU-R 601-2); native: as auto, but fail a mix of gray and RGB; lab: CIE L*a*b* of sRGB, L* from 0 to 100; "
        "lab-tissue: as lab, and make pixels with an L* of 80 or more invalid.",
        "auto",
    )
    alpha: str = option(
        "Treat an alpha channel. drop: ignore it; composite:COLOR: draw the image over COLOR; weight: weight "
        "pixels by their alpha; mask: make pixels with alpha 0 invalid; keep: use it as one more channel.",
        "drop",
        metavar="drop|composite:COLOR|weight|mask|keep",
        complete=("drop", "composite:white", "composite:black", "weight", "mask", "keep"),
        parse=parse_alpha,
    )
    nodata: str | float | Iterable[float] = option(
        "Make samples of a nodata value invalid, in each band by itself. tag: the value of the file's GDAL_NODATA tag; "
        "none: no value; V[,V...]: these values, which may include nan, in place of the tag.",
        "tag",
        metavar="tag|none|V[,V...]",
        complete=("tag", "none", "0", "nan"),
        parse=parse_no_data,
    )
    bands: str | Iterable[str | int] | None = option(
        "Select bands of every image, in this order: by their names, such as B02,B03, or by their numbers from 1. "
        "Numbers also count bands together whose names differ between files.",
        metavar="NAME,...|N,...",
        parse=parse_bands,
    )
    scale_offset: Literal["tag", "values", "none"] = option(
        "Use the scale and offset in tags of GDAL, NIfTI, DICOM, CF and ImageJ. tag: count stored values, and print "
        "results in the units of the tags; values: scale the values before they are counted, for files whose scales "
        "differ; none: ignore the tags.",
        "tag",
        hidden=True,
    )
    strict: bool = option("Fail damaged images that still decode instead of using and counting them.", False)
    max_pixels: int = option(
        "Fail images with more than N pixels, before decoding them.", MAX_PIXELS, metavar="N", minimum=1, hidden=True
    )
    resize: int | str | tuple[int, int] | None = option(
        "Resize images. N: the shorter side to N pixels; HxW: to H rows and W columns; longest:N: the longer side; "
        "N,longest:M: the shorter side to N, or the longer to M where that is less.",
        metavar="N|HxW|longest:N",
        complete=("224", "256", "224x224", "longest:640"),
        parse=parse_resize,
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = option(
        "Filter of --resize (default: bilinear); all but nearest are antialiased, as in Pillow and torchvision."
    )
    center_crop: int | str | tuple[int, int] | None = option(
        "Crop N x N pixels, or H rows and W columns, from the center, after --resize.",
        metavar="N|HxW",
        complete=("224", "256", "384"),
        parse=parse_crop,
    )
    pad: int | float | str | tuple[float, ...] | None = option(
        "Pad with V, or one value per channel, in levels as stored: an image that is smaller than --center-crop or, "
        "without a crop, one that keeps its proportions in --resize HxW or longest:N (letterbox). V:corner pads at the "
        "right and bottom only.",
        metavar="V[,V,V][:corner]",
        complete=("0", "114", "0:corner"),
        parse=parse_pad,
    )
    like: str | os.PathLike[str] | None = option(
        "Take the geometry (--resize, --interpolation, --center-crop, --pad) from a file: preprocessor_config.json, a "
        "timm config.json, a printed weights.transforms(), an Ultralytics or mm* config, a statistics file; or the "
        "rounding of a LIBRARY: torchvision (default), huggingface, timm, ultralytics or mmcv.",
        metavar="FILE|LIBRARY",
        complete=LIBRARIES,
    )

    def check_lab(self) -> None:
        """Check the options that `color` lab cannot be combined with.

        Raises:
            UsageError: an option for other values.
        """
        if getattr(self, "max_value", None) is not None:
            raise UsageError(f"`color` {self.color} cannot be combined with `max_value`: L*a*b* has its own range")
        if self.alpha in ("weight", "keep"):
            raise UsageError(f"`color` {self.color} cannot be combined with `alpha` {self.alpha}")

    def check_geometry(self) -> None:
        """Check the options of the geometry together, and bring them to one spelling.

        Raises:
            UsageError: an option without the one that it requires.
        """
        if self.like is not None and self.like not in LIBRARIES:
            return  # the file completes them
        if self.interpolation == "bilinear":
            self._set("interpolation", None)
        if self.like == LIBRARIES[0]:
            self._set("like", None)
        if self.interpolation is not None and self.resize is None:
            raise UsageError("`interpolation` requires `resize` or `like`")
        if self.like is not None and not self.has_geometry:
            raise UsageError(f"`like` {self.like} requires `resize` or `center_crop`: it sets their rounding")
        if self.pad is not None and self.center_crop is None and not self._is_boxed:
            raise UsageError("`pad` requires `center_crop`, or `resize` with HxW or longest:N")
        if not (self._is_fitted or (self.like == "huggingface" and self.center_crop is not None)):
            self._set("like", None)  # all libraries compute the same

    @property
    def _is_boxed(self) -> bool:
        """Return True if a resize names both sides that a letterbox has."""
        return isinstance(self.resize, str) and "," not in self.resize

    @property
    def _is_fitted(self) -> bool:
        """Return True if libraries round the sides of a resize differently."""
        return isinstance(self.resize, str) and ("longest" in self.resize or self.pad is not None)

    @property
    def has_geometry(self) -> bool:
        """Return True if images are resized, cropped or padded."""
        return self.resize is not None or self.center_crop is not None

    @property
    def crop_sides(self) -> tuple[int, int] | None:
        """Return the (height, width) of the crop; None without one."""
        crop = self.center_crop
        return (crop, crop) if isinstance(crop, int) else parse_sides(crop)


class ValueOptions(Options):
    """Meaning of sample values."""

    panel = "Decoding"

    max_value: int | Literal["auto"] | None = option(
        "Value that maps to 1.0 in 16-bit and float images, such as 4095 for 12-bit data (default: 65535 for 16-bit "
        "images; float images keep their values).",
        metavar="N",
        parse=parse_level,
    )
    nan: Literal["error", "skip"] = option(
        "Treat images with NaN or infinite values. error: fail them; skip: make those samples invalid, each in "
        "its own band.",
        "error",
    )


class PathOptions(Options):
    """Further inputs, named one by one."""

    files: Iterable[str] | None = python_only(
        "Further paths, read lazily and taken literally (no brace ranges); their folders are part of the names."
    )


class EngineOptions(Options):
    """Workers and engine."""

    panel = "Run"

    workers: int = option(
        "Number of workers; 0 is one per usable CPU.", 0, metavar="N", flags=("-j", "--workers"), minimum=0
    )
    engine: str = option(
        "Run work serially, in threads, in processes, or on a Dask cluster (dask starts one here; dask:ADDRESS uses a "
        "running one); auto measures and chooses. Results are identical for all engines.",
        "auto",
        metavar="auto|serial|threads|processes|dask[:ADDRESS]",
        complete=ENGINES,
        parse=parse_engine,
    )
    on_progress: Callable[[Any], None] | None = python_only(
        "Called after every batch with an object that has `inputs` and `bytes`, the numbers of that batch."
    )


class FailureOptions(Options):
    """Policy for inputs that fail."""

    panel = "Run"

    max_failures: str | int | None = option(
        "Abort when more than N, or N%, of the inputs fail; 0 aborts at the first (default: no limit).",
        metavar="N|N%",
        parse=parse_limit,
    )
    on_failure: Callable[[Any], None] | None = python_only(
        "Called with a `Failure` for every input that is not used, in order."
    )
