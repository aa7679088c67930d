"""The exporters by name, and the two functions that run them."""

from collections.abc import Callable

from normcli.constants.exporters import biomedical, frameworks, geo, plain, robotics
from normcli.constants.exporters.geometry import NAME, with_function
from normcli.constants.exporters.values import DatasetConstants
from normcli.errors import UsageError, unknown
from normcli.summary import Summary

Exporter = Callable[[DatasetConstants], str]

_FIRST = f"before: {NAME}(image) of a Pillow image; the pixels that were counted"

EXPORTERS: dict[str, Exporter] = {
    "csv": plain.csv,
    "yaml": plain.yaml,
    "toml": plain.toml,
    "env": plain.env,
    "torchvision": frameworks.torchvision,
    "albumentations": with_function(frameworks.albumentations, "of a Pillow image; OpenCV does not antialias"),
    "kornia": with_function(frameworks.kornia, _FIRST),
    "timm": frameworks.timm,
    "fastai": with_function(frameworks.fastai, _FIRST),
    "keras": with_function(frameworks.keras, _FIRST),
    "keras-rescaling": with_function(frameworks.keras_rescaling, _FIRST),
    "huggingface": frameworks.huggingface,
    "opencv": with_function(
        frameworks.opencv, f"before: np.asarray({NAME}(Image.fromarray(image))) of an array BGR", reverse=True
    ),
    "mmcv": frameworks.mmcv,
    "dali": frameworks.dali,
    "onnx": frameworks.onnx,
    "kaldi": plain.kaldi,
    "lerobot": robotics.lerobot,
    "openpi": robotics.openpi,
    "nnunet": biomedical.nnunet,
    "omero": biomedical.omero,
    "bioimageio": biomedical.bioimageio,
    "terratorch": geo.terratorch,
    "torchgeo": geo.torchgeo,
    "stac": geo.stac,
    "gdal": geo.gdal,
    "markdown": plain.markdown,
}

# what --format takes: the command line draws the table and prints the statistics file itself
FORMAT_CHOICES = ["table", "json", *EXPORTERS]

# what programs read rather than people
_ALL_DIGITS = {
    *("csv", "yaml", "toml", "env", "kaldi"),
    *("lerobot", "openpi", "nnunet", "omero", "bioimageio", "stac", "gdal"),
}

# numbers without a claim about the pixels of a tool
_OF_ANY_COLOR = {"csv", "yaml", "toml", "env", "markdown"}

# of tools whose readers apply scale and offset, such as SimpleITK's
_IN_UNITS = {"nnunet"}

# formats without comments: what a reader must know, printed as a note
NOTES = {
    "kaldi": "kaldi: sums and counts for apply-cmvn --norm-vars=true; features are {order} in {range}: {description}",
    "lerobot": "lerobot: rename observation.image to the key of the camera; {order} in {range}: {description}",
    "openpi": "openpi: rename image to the key of the input; {order} in {range}: {description}",
}
_NOTES_OF_VECTORS = {
    name: f"{name}: entries of {file} by feature; {{order}} in {{range}}, quantiles {{quantiles}}: {{description}}"
    for name, file in {"lerobot": "meta/stats.json", "openpi": "norm_stats.json"}.items()
}


# names of frameworks and tools that users type in place of the exporter's
_OTHER_NAMES = {
    "pytorch": "torchvision",
    "tensorflow": "keras",
    "transformers": "huggingface",
    "cv2": "opencv",
    "mmdet": "mmcv",
    "mmseg": "mmcv",
    "md": "markdown",
    "yml": "yaml",
}


def unknown_format(name: str) -> UsageError:
    """Make the error for an unknown exporter.

    >>> str(unknown_format("pytorch"))
    "unknown format 'pytorch': did you mean 'torchvision'?"
    """
    if name in FORMAT_CHOICES:  # which only the commands write
        return UsageError(f"format {name!r} is none of code or config (`to_json` returns all values, `repr` one line)")
    if (other := _OTHER_NAMES.get(name.lower())) is not None:
        return UsageError(f"unknown format {name!r}: did you mean {other!r}?")
    return unknown("format", name, FORMAT_CHOICES)


def export(
    summary: Summary,
    exporter: str,
    convention: str | None = None,
    *,
    group: str | None = None,
    digits: int | None = None,
) -> str:
    """Return the mean and std of a summary as code or config for another tool.

    Args:
        summary: the statistics.
        exporter: one of `EXPORTERS`.
        convention: one of the conventions; that of the file by default.
        group: export the statistics of this group.
        digits: significant digits; all by default.

    Raises:
        UsageError: unknown exporter, convention or group; a constant channel, by which a tool would divide.
    """
    if exporter not in EXPORTERS:
        raise unknown_format(exporter)
    if summary.settings.get("color") in ("lab", "lab-tissue") and exporter not in _OF_ANY_COLOR:
        raise UsageError(f"{exporter}: its images are RGB, and these statistics are in L*a*b*")
    in_units = exporter in _IN_UNITS
    constants = DatasetConstants.of(summary, convention, group=group, digits=digits, in_units=in_units)
    return EXPORTERS[exporter](constants)


def digits_of(exporter: str, digits: int | None = None) -> int | None:
    """Return the significant digits that an exporter writes; None is all of them.

    Args:
        exporter: a name.
        digits: as `--digits`: 0 is all; None is 4 in code for people, and all in data that programs read.

    >>> digits_of("torchvision"), digits_of("csv"), digits_of("csv", 3), digits_of("timm", 0)
    (4, None, 3, None)
    """
    if digits is not None:
        return digits or None
    return None if exporter in _ALL_DIGITS else 4


def format_note(
    summary: Summary, exporter: str, convention: str | None = None, *, group: str | None = None
) -> str | None:
    """Return the comment of a format that cannot contain one; None for every other format."""
    if exporter not in NOTES:
        return None
    constants = DatasetConstants.of(summary, convention, group=group)
    notes = _NOTES_OF_VECTORS if constants.is_vector and exporter in _NOTES_OF_VECTORS else NOTES
    details = (summary if group is None else summary.group(group)).percentile_details or {}
    return notes[exporter].format(
        order=constants.channel_order,
        range=constants.range,
        description=constants.description,
        quantiles="exact" if details.get("exact") else "to 8 significant bits (count with --exact-percentiles)",
    )
