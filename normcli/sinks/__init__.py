"""Writing mapped images: one file each, rows of a stack, or shards."""

from normcli.sinks.sink import (
    DTYPES,
    OUTPUT_KINDS,
    ImageEncoder,
    ImagePacker,
    OutputKind,
    Record,
    Sink,
    holds_volumes,
    open_sink,
    open_writer,
    output_kind,
    read_array,
    resolve_output,
)

__all__ = [
    "DTYPES",
    "OUTPUT_KINDS",
    "ImageEncoder",
    "ImagePacker",
    "OutputKind",
    "Record",
    "Sink",
    "holds_volumes",
    "open_sink",
    "open_writer",
    "output_kind",
    "read_array",
    "resolve_output",
]
