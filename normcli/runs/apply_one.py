"""One image mapped to the bytes of one file: for stdin and stdout."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normcli import images, storage
from normcli.errors import InputError, NormcliError, UsageError
from normcli.images.orientation import upright
from normcli.options.apply import ApplyOptions
from normcli.options.field import parse_level, parse_size
from normcli.options.shared import DecodeOptions
from normcli.runs import build_transform
from normcli.runs.masks import PixelMask
from normcli.runs.stats import decode_settings
from normcli.schemes import CURVES
from normcli.sinks import open_writer, output_kind
from normcli.summary import Summary
from normcli.tally import Tally


def apply_one(source: str, data: bytes | None, options: ApplyOptions) -> Sequence[Any]:
    """Map one image and return the content of its file, as buffers.

    Args:
        source: a path, or the name of `data` in errors.
        data: the encoded image, where it does not come from a file.
        options: as for `apply`; without constants, contrast takes those of this image.

    Raises:
        UsageError: options that contradict each other.
        NormcliError: the image cannot be read or mapped.
    """
    options = build_transform.with_geometry(options)
    if options.to == "stack" or output_kind(options.to).shard or output_kind(options.to).volume:
        raise UsageError(f"`to` {options.to} holds many images and requires a folder as `output`")
    if options.mask_dir is not None and source == "-":
        raise UsageError("`mask_dir` requires a path: its masks are named as the images are")
    mask = None if options.mask_dir is None else PixelMask.of(options.mask_dir, options.labels, [source])
    reading = options.part(DecodeOptions)
    built = build_transform.transform_for(options)
    constants = build_transform.resolve_constants(built, options, reading)
    try:
        if data is None:
            if os.path.isdir(source):  # noqa: PTH112
                raise UsageError(f"{source}: is a folder, and `output` - writes one image (use a folder as `output`)")
            data = storage.read(source, limit=parse_size("max_file_size", options.max_file_size))
        image = images.decode(data, reading, turn=options.orientation == "apply")
        images.check_full_scale(image, parse_level(options.max_value))
        if mask is not None:
            mask.apply(source, image, reading)
        turn = image.orientation if options.orientation == "apply" else 1
        pixels, valid = upright(image.pixels, turn), None if image.valid is None else upright(image.valid, turn)
        if constants is None and built.scheme in CURVES:
            raise UsageError(f"`scheme` {built.scheme} of one image requires `stats`")
        if constants is None and build_transform.needs_statistics(built):  # the dataset is this image
            from normcli.images.bands import band_notes

            tally = Tally()
            notes = tuple(band_notes(image))
            tally.count(image.pixels, image.weights, image.valid, nan=options.nan, data=data, notes=notes)
            settings = {**decode_settings(reading), "max_value": parse_level(options.max_value), "nan": options.nan}
            summary = Summary.of(tally, settings, images.versions())
            constants = build_transform.of_summary(
                summary, options.convention, origin="computed", percents=build_transform.percents_of(built)
            )
        mapped = replace(built, constants=constants).map(pixels, scales=image.scales, valid=valid)
        return open_writer(options.to, alpha=reading.alpha).encode(mapped, source)
    except InputError as error:
        name = "stdin" if source == "-" else source
        raise NormcliError(f"{name}: {error.message}") from None


def save(path: str | Path, parts: Sequence[Any]) -> None:
    """Write buffers as one file, completely or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with storage.atomic_write(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)


__all__ = ["apply_one", "save"]
