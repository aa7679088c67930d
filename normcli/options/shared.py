"""Options of runs that several commands share: inputs, decoding, values, workers, failures."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

from normcli.options.field import (
    ENGINES,
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
    follow_symlinks: bool = option("Follow symbolic links to folders; each folder is visited once.", False)
    max_file_size: int | str | None = option(
        "Fail files larger than SIZE, such as 500MB, before reading them (default: no limit).",
        metavar="SIZE",
        parse=partial(parse_size, "max_file_size"),
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
    """Conversion of bytes to pixels; recorded in statistics files, and equal wherever two are merged."""

    panel = "Decoding"

    color: Color = option(
        "Convert images to a color mode. auto: keep the channels of each file, with palettes expanded, and count gray "
        "as R = G = B where there are RGB images; rgb: gray and RGB as three channels, fail others; gray: one channel "
        "(ITU-R 601-2); native: as auto, but fail a mix of gray and RGB.",
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
        "none: no value; V[,V...]: these values (nan is one), whatever the tag.",
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
    scale_offset: Literal["tag", "none"] = option(
        "Use the scale and offset of GDAL tags. tag: print values in the units that they define, while stored values "
        "are counted; none: ignore the tags.",
        "tag",
    )
    strict: bool = option("Fail damaged images that still decode instead of using and counting them.", False)
    max_pixels: int = option(
        "Fail images with more than N pixels, before decoding them.", MAX_PIXELS, metavar="N", minimum=1
    )
    resize: int | None = option(
        "Resize the shorter side to N pixels (bilinear, antialiased, as torchvision does).", metavar="N", minimum=1
    )
    center_crop: int | None = option("Crop N x N pixels from the center, after --resize.", metavar="N", minimum=1)


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
