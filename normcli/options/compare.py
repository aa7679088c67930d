"""Options of `check` and `diff`, which count sources on the way."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from normcli.errors import UsageError
from normcli.options.field import option, python_only
from normcli.options.shared import DecodeOptions, EngineOptions, InputOptions, ValueOptions

StrPath = str | os.PathLike[str]


class CountedOptions(InputOptions, DecodeOptions, ValueOptions, EngineOptions):
    """Options for sources that are counted; a statistics file takes none of them."""

    on_statistics: Callable[[Any], None] | None = python_only(
        "Called with the `Summary` of every source that was counted."
    )
    on_gallery: Callable[[Any], None] | None = python_only(
        "Called with the pictures, sizes, classes and copies of every source, before its `Summary`."
    )


class DiffOptions(CountedOptions):
    """All options of `diff`."""


class CheckOptions(CountedOptions):
    """All options of `check`."""

    panel = "Constants"

    mean: str | Iterable[Any] | None = option("Mean per channel; requires --std where there is one.", metavar="N...")
    std: str | Iterable[Any] | None = option("Standard deviation per channel; requires --mean.", metavar="N...")
    preset: str | None = option(
        "Check published constants, such as imagenet; `normcli list presets` prints them.",
        metavar="NAME",
        complete="presets",
    )
    config: StrPath | None = option(
        "Read the constants from a config: preprocessor_config.json, an mm* config, a .py file with Normalize(...), "
        "YAML. It is parsed, never executed.",
        metavar="FILE",
    )
    tolerance: float = option(
        "Largest distance that still counts as close, in standard deviations; 0 compares all digits.",
        0.1,
        metavar="X",
        minimum=0,
    )

    def _check(self) -> None:
        super()._check()
        given = [name for name in ("mean", "std", "preset", "config") if getattr(self, name) is not None]
        if not given:
            raise UsageError("the constants to check are required: `mean` with `std`, `preset` or `config`")
        if len(given) > 1 and given != ["mean", "std"]:
            raise UsageError(f"`{given[0]}` cannot be combined with `{given[-1]}`: constants come from one of them")
        if self.mean is None and self.std is not None:
            raise UsageError("`std` requires `mean`")
