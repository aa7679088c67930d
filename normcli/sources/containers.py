"""The table of containers, and which one a path is."""

import os
import re

from normcli.storage import is_remote

# container -> the names of its files; one module each, with a `read(source, listing)`
CONTAINERS = {
    "tar": r"\.(tar|tar\.(gz|zst|bz2|xz)|tgz|tzst|tbz2?|txz)$",
    "zip": r"\.zip$",
    "parquet": r"\.(parquet|pq)$",
    "npy": r"\.np[yz]$",
    "idx": r"([.-]idx\d?(-ubyte)?)(\.gz)?$",
    "file_list": r"\.(csv|tsv|jsonl)$",
}


def container(path: str) -> str | None:
    """Return the container that a path's name stands for; None for a folder or an image.

    >>> container("s3://bucket/train-000.tar.gz"), container("photos"), container("t10k-images-idx3-ubyte.gz")
    ('tar', None, 'idx')
    """
    name = path.rsplit("/", 1)[-1].lower()
    return next((kind for kind, pattern in CONTAINERS.items() if re.search(pattern, name)), None)


def kind_of(source: str) -> str:
    """Return the name of the module that reads a source: a container, or "folder", which a single file is as well."""
    kind = container(source)
    return "folder" if kind is None or (not is_remote(source) and os.path.isdir(source)) else kind  # noqa: PTH112
