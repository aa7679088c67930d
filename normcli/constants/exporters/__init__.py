"""The same numbers in other tools' words; `reading` understands those words again.

A exporter is a function from `DatasetConstants` to text and a row in `EXPORTERS`. Each says the numbers in its tool's
own range, channel order and name, to the last bit of float64, with a comment on the convention where the
tool's format has comments.
"""

from collections.abc import Callable

from normcli.constants.exporters import frameworks, plain
from normcli.constants.exporters.values import DEFAULT, DatasetConstants
from normcli.errors import unknown
from normcli.summary import Summary

__all__ = ["DEFAULT", "EXPORTERS", "FORMAT_CHOICES", "DatasetConstants", "export", "format_note"]

Exporter = Callable[[DatasetConstants], str]

EXPORTERS: dict[str, Exporter] = {
    "csv": plain.csv,
    "yaml": plain.yaml,
    "toml": plain.toml,
    "env": plain.env,
    "torchvision": frameworks.torchvision,
    "albumentations": frameworks.albumentations,
    "kornia": frameworks.kornia,
    "timm": frameworks.timm,
    "fastai": frameworks.fastai,
    "keras": frameworks.keras,
    "keras-rescaling": frameworks.keras_rescaling,
    "huggingface": frameworks.huggingface,
    "opencv": frameworks.opencv,
    "mmcv": frameworks.mmcv,
    "dali": frameworks.dali,
    "onnx": frameworks.onnx,
    "kaldi": plain.kaldi,
}

# what --format takes: the command line draws the table and prints the statistics file itself
FORMAT_CHOICES = ["table", "json", *EXPORTERS]

# formats without comments: what a reader must know, said beside them
NOTES = {
    "kaldi": "kaldi: sums and counts for apply-cmvn --norm-vars=true; features are {order} in {range}: {description}",
}


def export(summary: Summary, exporter: str, convention: str = DEFAULT) -> str:
    """Say the mean and std of a summary in another tool's words.

    Args:
        summary: the statistics.
        exporter: one of `EXPORTERS`.
        convention: which of the conventions is said.

    Raises:
        UsageError: unknown exporter or convention; a constant channel, by which a tool would divide.
    """
    return _find(exporter)(DatasetConstants.of(summary, convention))


def format_note(summary: Summary, exporter: str, convention: str = DEFAULT) -> str | None:
    """The comment of a format that cannot hold one."""
    if exporter not in NOTES:
        return None
    constants = DatasetConstants.of(summary, convention)
    return NOTES[exporter].format(
        order=constants.channel_order, range=constants.range, description=constants.description
    )


def _find(name: str) -> Exporter:
    if name not in EXPORTERS:
        raise unknown("format", name, FORMAT_CHOICES)
    return EXPORTERS[name]
