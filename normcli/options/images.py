"""Options for finding and decoding images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from normcli.errors import UsageError
from normcli.options.field import Options, option, python_only
from normcli.options.parse import as_tuple, parse_level, parse_pairs, parse_size, parse_texts

Color = Literal["auto", "rgb", "gray", "native"]
MAX_PIXELS = 178_956_970  # Pillow's own limit: 2 GiB / 4 bytes / 3 channels


@dataclass(frozen=True, kw_only=True)
class InputOptions(Options):
    """Selection of inputs from the sources."""

    panel = "Input"

    include: str | Iterable[str] = option(
        "Read only files that match GLOB instead of those with a known image extension. Repeatable.",
        (),
        metavar="GLOB",
    )
    exclude: str | Iterable[str] = option("Skip paths that match GLOB. Repeatable.", (), metavar="GLOB")
    follow_symlinks: bool = option("Follow symbolic links to folders; each folder is visited once.", False)
    max_file_size: int | str | None = option(
        "Fail files larger than SIZE, such as 500MB, before reading them (default: no limit).", metavar="SIZE"
    )
    open_options: Mapping[str, str] | Iterable[str] = option(
        "Set an option that only one container knows, such as column=image (parquet, CSV, npz) or layout=nchw (npy). "
        "Repeatable; `normcli list formats` prints them.",
        (),
        metavar="KEY=VALUE",
        flags=("-O", "--open-option"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("include", parse_texts("include", self.include))
        self._set("exclude", parse_texts("exclude", self.exclude))
        self._set("max_file_size", parse_size("max_file_size", self.max_file_size))
        self._set("open_options", parse_pairs(self.open_options))

    @property
    def file_limit(self) -> int | None:
        """`max_file_size` in bytes."""
        return parse_size("max_file_size", self.max_file_size)

    @property
    def include_patterns(self) -> tuple[str, ...]:
        """`include` as a tuple."""
        return as_tuple(self.include)

    @property
    def exclude_patterns(self) -> tuple[str, ...]:
        """`exclude` as a tuple."""
        return as_tuple(self.exclude)


@dataclass(frozen=True, kw_only=True)
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
        "pixels by their alpha; keep: use it as one more channel.",
        "drop",
        metavar="drop|composite:COLOR|weight|keep",
        complete=("drop", "composite:", "weight", "keep"),
    )
    strict: bool = option("Fail damaged images that still decode instead of using and counting them.", False)
    max_pixels: int = option("Fail images with more than N pixels, before decoding them.", MAX_PIXELS, metavar="N")
    resize: int | None = option(
        "Resize the shorter side to N pixels (bilinear, antialiased, as torchvision does).", metavar="N"
    )
    center_crop: int | None = option("Crop N x N pixels from the center, after --resize.", metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least_one("max_pixels", "resize", "center_crop")
        if self.alpha.startswith("composite:"):
            self.background()
        elif self.alpha not in ("drop", "weight", "keep"):
            raise UsageError(f"`alpha`: must be one of drop, composite:COLOR, weight, keep, not {self.alpha!r}")

    def background(self) -> tuple[int, int, int]:
        """Return the color of `alpha="composite:COLOR"` as 8-bit RGB.

        Raises:
            UsageError: not a color that Pillow knows, such as white, #fff or rgb(255,255,255).
        """
        from PIL import ImageColor

        try:
            red, green, blue = ImageColor.getrgb(self.alpha.removeprefix("composite:"))[:3]
        except ValueError:
            raise UsageError(f"`alpha`: {self.alpha!r} names no color (white, #fff, rgb(255,255,255))") from None
        return red, green, blue


@dataclass(frozen=True, kw_only=True)
class ValueOptions(Options):
    """Meaning of sample values."""

    panel = "Decoding"

    max_value: int | Literal["auto"] | None = option(
        "Value that maps to 1.0 in 16-bit and float images, such as 4095 for 12-bit data (default: 65535 for 16-bit "
        "images; float images keep their values).",
        metavar="N",
    )
    nan: Literal["error", "skip"] = option(
        "Treat images with NaN or infinite values. error: fail them; skip: ignore those pixels.", "error"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("max_value", parse_level(self.max_value))

    @property
    def white_level(self) -> int | None:
        """`max_value` as a number; None where the dtype decides."""
        return parse_level(self.max_value)


@dataclass(frozen=True, kw_only=True)
class PathOptions(Options):
    """Further inputs, named one by one."""

    files: Iterable[str] | None = python_only(
        "Further paths, read lazily and taken literally (no brace ranges); their folders are part of the names."
    )
