"""The same numbers in other tools' words; `reading` understands those words again.

A dialect is a function from `Constants` to text and a row in `DIALECTS`. Each says the numbers in its tool's
own range, channel order and name, to the last bit of float64, with a comment on the convention where the
tool's format has comments.
"""

from collections.abc import Callable

from normcli.constants.exporters import frameworks, plain
from normcli.constants.exporters.values import DEFAULT, Constants
from normcli.errors import unknown
from normcli.summary import Summary

__all__ = ["DEFAULT", "DIALECTS", "FORMATS", "Constants", "note", "say"]

Dialect = Callable[[Constants], str]

DIALECTS: dict[str, Dialect] = {
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
FORMATS = ["table", "json", *DIALECTS]

# formats without comments: what a reader must know, said beside them
NOTES = {
    "kaldi": "kaldi: sums and counts for apply-cmvn --norm-vars=true; features are {order} in {range}: {words}",
}


def say(summary: Summary, dialect: str, convention: str = DEFAULT) -> str:
    """Say the mean and std of a summary in another tool's words.

    Args:
        summary: the statistics.
        dialect: one of `DIALECTS`.
        convention: which of the conventions is said.

    Raises:
        UsageError: unknown dialect or convention; a constant channel, by which a tool would divide.
    """
    return _known(dialect)(Constants.of(summary, convention))


def note(summary: Summary, dialect: str, convention: str = DEFAULT) -> str | None:
    """The comment of a format that cannot hold one."""
    if dialect not in NOTES:
        return None
    constants = Constants.of(summary, convention)
    return NOTES[dialect].format(order=constants.order, range=constants.range, words=constants.words)


def _known(dialect: str) -> Dialect:
    if dialect not in DIALECTS:
        raise unknown("format", dialect, FORMATS)
    return DIALECTS[dialect]
