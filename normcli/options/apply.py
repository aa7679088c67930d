"""Options of `apply`, `transform`, `restore` and `verify`."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, Protocol

from normcli.errors import UsageError
from normcli.options.field import (
    Color,
    Options,
    option,
    parse_fill,
    parse_labels,
    parse_name,
    parse_no_data,
    parse_numbers,
    python_only,
)
from normcli.options.shared import (
    GEOMETRY,
    DecodeOptions,
    EngineOptions,
    FailureOptions,
    InputOptions,
    PathOptions,
    ValueOptions,
)

StrPath = str | os.PathLike[str]
Numbers = tuple[float, ...] | list[float]


class SummaryLike(Protocol):
    """The part of `normcli.Summary` that options need; the class itself is on a higher floor."""

    def to_json(self) -> str:
        """Return the statistics file."""


class ConstantsOptions(Options):
    """Source and use of mean and std."""

    panel = "Normalization"

    stats: StrPath | SummaryLike | None = option(
        "Take mean and std from a statistics file (default: compute them first).", metavar="FILE"
    )
    mean: Numbers | None = option(
        "Mean per channel, on the 0-1 scale; requires --std.", metavar="N...", parse=partial(parse_numbers, "mean")
    )
    std: Numbers | None = option(
        "Standard deviation per channel, on the 0-1 scale; requires --mean.",
        metavar="N...",
        parse=partial(parse_numbers, "std"),
    )
    preset: str | None = option(
        "Take published mean and std, such as imagenet; `normcli list presets` prints them.",
        metavar="NAME",
        complete="presets",
    )
    convention: str | None = option(
        "Convention of mean and std in the statistics file (default: that which stats --weight set).",
        metavar="NAME",
        complete="conventions",
        parse=parse_name,
        hidden=True,
    )
    zero_std: str = option(
        "Divide a channel whose std is 0 by nothing and fail (error), by 1 (one), or by X (eps:X).",
        "error",
        metavar="error|one|eps:X",
        complete=("error", "one", "eps:"),
        hidden=True,
    )
    clip: tuple[float, float] | None = option(
        "Clip output values to [LO, HI] and report how many were clipped.",
        metavar="LO,HI",
        parse=partial(parse_numbers, "clip", count=2),
    )

    def _check(self) -> None:
        super()._check()
        if (self.mean is None) != (self.std is None):
            raise UsageError("`mean` requires `std`, and `std` requires `mean`")
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise UsageError(f"`clip`: must be LO,HI with LO < HI, not {self.clip[0]:g},{self.clip[1]:g}")


class TransformOptions(ConstantsOptions, ValueOptions):
    """All options of `transform`."""

    dtype: Literal["float32", "float16", "float64", "uint8"] = option(
        "Data type of the result; uint8 quantizes the mapped range to 0-255.", "float32"
    )
    output_layout: Literal["chw", "hwc"] = option("Axis order of the result.", "chw")
    channel_order: Literal["rgb", "bgr"] | None = option(
        "Channel order of the result (default: rgb; bgr for scheme caffe)."
    )
    color: Color = option(
        "Color mode. rgb: repeat gray into three channels; gray: convert color to gray; lab: CIE L*a*b*; "
        "lab-tissue: the same, of pixels with an L* below 80; auto, native: as given.",
        "auto",
    )
    nodata: str | float | Iterable[float] = option(
        "Values of invalid samples, each in its own channel; tag, none: no value.", "tag", parse=parse_no_data
    )
    fill: str | float = option(
        "Value of invalid samples (`nodata`, `nan` skip) in the result, nan, or keep: map them like all others.",
        "keep",
        parse=parse_fill,
    )

    def _check(self) -> None:
        super()._check()
        if self.nan == "skip" and self.dtype == "uint8" and self.fill in ("keep", "nan"):
            raise UsageError("`nan` skip requires a float `dtype`, or a number as `fill`: uint8 cannot hold NaN")


class SinkOptions(Options):
    """Format of the output."""

    panel = "Output files"

    to: Literal[
        "npy", "npz", "stack", "safetensors", "tar", "parquet", "png", "png16", "tiff", "nifti", "hdf5", "zarr"
    ] = option(
        "Write one array file per image (npy, npz, safetensors), one array of all images (stack), shards of arrays "
        "(tar, parquet), image files (png, png16: quantized; tiff: floats), volumes with their metadata (nifti, "
        "hdf5, zarr), or one array of all images in a container (hdf5, zarr).",
        "npy",
    )
    shard_size: str | int | None = option(
        "Maximum size of a tar or parquet shard, in images (1000) or bytes (1GB, the default).", metavar="N|SIZE"
    )
    dtype: Literal["float32", "float16", "float64", "uint8", "uint16"] | None = option(
        "Data type of arrays (default: float32); uint8 quantizes the mapped range to 0-255."
    )
    output_layout: Literal["chw", "hwc"] | None = option("Axis order of arrays (default: chw; image files are hwc).")
    channel_order: Literal["rgb", "bgr"] | None = option(
        "Channel order of arrays (default: rgb; bgr for --scheme caffe)."
    )
    fill: str | float = option(
        "Write invalid samples (--nodata, --alpha mask, --nan skip) as V, in the values of the output, or as nan; keep "
        "maps them like all others. A mask of --mask-dir makes samples invalid as well.",
        "keep",
        metavar="V|nan|keep",
        complete=("keep", "nan", "0"),
        parse=parse_fill,
    )
    no_suffix: bool = option("Name outputs a.npy instead of a.jpg.npy.", False, hidden=True)
    no_sync: bool = option(
        "Do not wait until the disk holds each file: a power failure can then lose files that the manifest lists.",
        False,
        hidden=True,
    )


class ApplyOptions(
    InputOptions,
    DecodeOptions,
    ValueOptions,
    ConstantsOptions,
    SinkOptions,
    EngineOptions,
    FailureOptions,
    PathOptions,
):
    """All options of `apply`."""

    scheme: str = option(
        "Normalization scheme. contrast (alias standardize): by dataset mean and std; unit: [0,1]; signed: [-1,1]; "
        "`normcli list schemes` prints all with their settings.",
        "contrast",
        metavar="NAME[:SETTINGS]",
        complete="schemes",
        flags=("-s", "--scheme"),
        panel="Normalization",
    )
    orientation: Literal["apply", "ignore"] = option(
        "Apply the EXIF orientation, or ignore it and keep pixels as stored.", "apply", panel="Decoding", hidden=True
    )
    mask_dir: str | os.PathLike[str] | None = option(
        "Make pixels invalid where a mask is 0, as `stats --mask-dir` does.", metavar="DIR", hidden=True
    )
    labels: str | int | Iterable[int] | None = option(
        "Values of the masks that make a pixel valid, as `stats --labels`; requires --mask-dir.",
        metavar="'>N'|N[,N...]",
        parse=parse_labels,
        hidden=True,
    )
    resume: bool = option("Resume an interrupted run.", False, panel="Output")
    skip_existing: bool = option("Write only outputs that do not exist yet.", False, panel="Output")
    force: bool = option("Overwrite existing output files.", False, flags=("-f", "--force"), panel="Output")
    dry_run: bool = option(
        "Map all images but write nothing; print their number and bytes.",
        False,
        flags=("-n", "--dry-run"),
        panel="Output",
    )
    on_statistics: Callable[[Any], None] | None = python_only(
        "Called with the `Summary` of the sources, where mean and std are computed first."
    )

    def _check(self) -> None:
        super()._check()
        if self.any_set(*GEOMETRY):
            self.check_geometry()
        if self.color.startswith("lab"):
            self.check_lab()
        modes = [name for name in ("resume", "skip_existing", "force") if getattr(self, name)]
        if len(modes) > 1:
            raise UsageError(f"`{modes[0]}` cannot be combined with `{modes[1]}`")
        if self.dry_run and modes and modes != ["force"]:
            raise UsageError(f"`dry_run` cannot be combined with `{modes[0]}`")
        if self.no_sync and self.to not in ("npy", "npz", "safetensors", "png", "png16", "tiff"):
            raise UsageError(f"`no_sync` requires one file per image, not `to` {self.to}")
        if self.labels is not None and self.mask_dir is None:
            raise UsageError("`labels` requires `mask_dir`")
        if self.mask_dir is not None and modes not in ([], ["force"]):
            why = "no output shows which version of its mask it is of"
            raise UsageError(f"`mask_dir` cannot be combined with `{modes[0]}`: {why}")
        if self.mask_dir is not None and "mask=nonzero" in self.scheme:
            raise UsageError("`mask_dir` cannot be combined with `scheme` zscore:mask=nonzero: both are masks")
        if self.nan == "skip" and self.dtype in ("uint8", "uint16") and self.fill in ("keep", "nan"):
            raise UsageError(
                f"`nan` skip requires a float `dtype`, or a number as `fill`: {self.dtype} cannot hold NaN"
            )


class RestoreOptions(EngineOptions):
    """All options of `restore`."""

    to: Literal["png", "tiff"] | None = option(
        "Format of the restored images (default: png, and tiff for what PNG cannot hold).", panel="Output"
    )
    force: bool = option("Write into a folder that is not empty.", False, flags=("-f", "--force"), panel="Output")
    on_failure: Callable[[Any], None] | None = python_only(
        "Called with a `Failure` for every file that cannot be restored, in order."
    )


class VerifyOptions(EngineOptions):
    """All options of `verify`."""


class VerifyStatisticsOptions(InputOptions, EngineOptions):
    """All options of `verify_statistics`."""
