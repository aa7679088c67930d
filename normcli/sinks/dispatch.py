"""The sink of each kind of output: `open_writer` makes the half that workers call, `open_sink` the half that stays."""

import os
from typing import TYPE_CHECKING

from normcli.sinks.sink import OUTPUT_KINDS, Array, ImageEncoder, ImagePacker, Record, Sink, output_kind

if TYPE_CHECKING:
    from normcli.sinks.shards import ShardSize


def open_writer(to: str, *, out: str = "", partial: str = "", alpha: str = "drop") -> ImageEncoder:
    """Return the writer of a kind of output; that of a stack has no shape yet (`Stack.of_shape`).

    Args:
        to: kind of output.
        out: output folder.
        partial: folder for files that are being written, on the same file system.
        alpha: "keep" makes alpha a channel of image files.
    """
    if to == "stack":
        from normcli.sinks.stack import ARRAY, Stack

        return Stack(f"{partial}/{ARRAY}", 0, (), "float32")
    if output_kind(to).shard:
        from normcli.sinks.shards import ShardEncoder

        return ShardEncoder(to=to)
    from normcli.sinks.files import FileWriter

    return FileWriter(to=to, out=out, partial=partial, alpha=alpha)


def open_sink(
    writer: ImageEncoder, *, out: str, partial: str, dtype: str = "float32", size: "ShardSize | None" = None
) -> Sink:
    """Return the sink that a writer belongs to.

    Args:
        writer: from `open_writer`.
        out: output folder.
        partial: folder for files that are being written, on the same file system.
        dtype: of the arrays in shards.
        size: of shards; required for tar and parquet.
    """
    if isinstance(writer, ImagePacker):
        from normcli.sinks.shards import ShardEncoder, ShardSink

        assert isinstance(writer, ShardEncoder) and size is not None
        return ShardSink(writer, out, partial, dtype=dtype, size=size)
    from normcli.sinks.files import FileSink, FileWriter
    from normcli.sinks.stack import Stack, StackSink

    if isinstance(writer, Stack):
        return StackSink(writer, out, partial)
    assert isinstance(writer, FileWriter)
    return FileSink(writer)


def read_array(to: str, out: str, record: Record, alpha: str) -> Array:
    """Read one array back as it was written.

    Args:
        to: kind of output.
        out: output folder.
        record: of the image.
        alpha: "keep" where alpha was made a channel.

    Raises:
        InputError: missing or damaged.
    """
    if to == "stack":
        from normcli.sinks import stack

        return stack.read_row(out, record["row"])
    if OUTPUT_KINDS[to].shard:
        from normcli.sinks import shards

        return shards.read_array(os.path.join(out, shards.shard_name(to, record["shard"])), to, record)  # noqa: PTH118
    from normcli.sinks import files
    from normcli.sinks.record import decode_name

    path = os.path.join(out, decode_name(record, "name")) + OUTPUT_KINDS[to].suffix  # noqa: PTH118
    return files.read_file(to, path, alpha)
