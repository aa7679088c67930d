"""Mean and std as code or config for other tools; `parse_config` reads these again.

An exporter is a function from `DatasetConstants` to text and a row in `EXPORTERS`. Each writes the numbers in its
tool's own range, channel order and names, to the last bit of float64, with a comment on the convention where the
tool's format has comments.
"""

from normcli.constants.exporters.registry import (
    EXPORTERS,
    FORMAT_CHOICES,
    digits_of,
    export,
    format_note,
    unknown_format,
)
from normcli.constants.exporters.values import DatasetConstants, mean_and_std

__all__ = [
    "EXPORTERS",
    "FORMAT_CHOICES",
    "DatasetConstants",
    "digits_of",
    "export",
    "format_note",
    "mean_and_std",
    "unknown_format",
]
