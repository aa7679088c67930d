"""One image mapped to the bytes of one file: for stdin and stdout."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from normcli import images, storage
from normcli.errors import InputError, NormcliError, UsageError
from normcli.images import Reading
from normcli.images.orientation import upright
from normcli.runs import build_transform
from normcli.runs import map_constants as numbers
from normcli.runs import stats as counting
from normcli.sinks import open_writer, output_kind, resolve_output
from normcli.summary import Summary
from normcli.tally import Tally


def apply_one(
    source: str,
    data: bytes | None = None,
    *,
    to: str = "npy",
    dtype: str | None = None,
    layout: str | None = None,
    order: str | None = None,
    orientation: str = "apply",
    scheme: str = "contrast",
    stats: Any = None,
    mean: Any = None,
    std: Any = None,
    preset: str | None = None,
    convention: str = "pooled_population",
    zero_std: str = "error",
    clip: tuple[float, float] | None = None,
    range: int | None = None,
    nan: str = "error",
    **reading_settings: Any,
) -> Sequence[Any]:
    """Map one image and give the content of the file, as buffers.

    Args:
        source: a path, or what to call `data`.
        data: the encoded image, where it does not come from a file.
        to: as in `apply`, like all that follows.
        dtype: float32 by default.
        layout: "chw" or "hwc".
        order: "rgb" or "bgr".
        orientation: "apply" or "ignore".
        scheme: name, or name:settings.
        stats: statistics file or `Summary`; where contrast is given no numbers, the dataset is this image.
        mean: with `std`.
        std: with `mean`.
        preset: name of published constants.
        convention: which of the statistics' conventions.
        zero_std: what a constant channel does.
        clip: bounds for the result.
        range: level of full intensity.
        nan: "error" or "skip".
        reading_settings: attributes of `Reading`.

    Raises:
        UsageError: settings that cannot be.
        NormcliError: the image cannot be read or mapped.
    """
    if to == "stack" or output_kind(to).shard:
        raise UsageError(f"{'a stack' if to == 'stack' else f'--to {to}'} holds many images: give -o DIR, or --to npy")
    reading = Reading(**reading_settings)
    dtype, layout, order = resolve_output(to, dtype, layout, order)
    made = build_transform.build_transform(
        scheme,
        zero_std=zero_std,
        clip=clip,
        dtype="uint8" if dtype == "uint16" else dtype,
        layout=layout,
        order=order,
        color=reading.color,
        range=range,
        nan=nan,
    )
    constants = build_transform.resolve_constants(
        made, stats=stats, mean=mean, std=std, preset=preset, convention=convention, reading=reading
    )
    try:
        if data is None:
            if os.path.isdir(source):  # noqa: PTH112
                raise UsageError(f"{source} is a folder, and -o - writes one image: give -o DIR")
            data = storage.read(source, limit=reading.max_file_bytes)
        image = images.decode(data, reading)
        pixels = upright(image.pixels, image.orientation if orientation == "apply" else 1)
        if constants is None and build_transform.needs_statistics(made):  # the dataset is this image
            tally = Tally()
            tally.count(pixels, image.weights, nan=nan, data=data)
            summary = Summary.of(tally, {**asdict(reading), "max_value": range, "nan": nan}, counting.provenance())
            constants = numbers.of_summary(
                summary, convention, origin="computed", percents=build_transform.percents_of(made)
            )
        mapped = replace(made, dtype=dtype, constants=constants).map(pixels)
        return open_writer(to, alpha=reading.alpha).encode(mapped, source)
    except InputError as error:
        name = "stdin" if source == "-" else source
        raise NormcliError(f"{name}: {error.message}") from None


def save(path: str | Path, parts: Sequence[Any]) -> None:
    """Write buffers as one whole file.

    Raises:
        OutputError: it cannot be written.
    """
    with storage.atomic_write(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)


__all__ = ["apply_one", "save"]
