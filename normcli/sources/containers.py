"""The table of containers, and which one a path is."""

import os
import re
from typing import NamedTuple

from normcli.storage import is_remote


class Container(NamedTuple):
    """One kind of file that holds many images.

    Attributes:
        pattern: regular expression that the names of its files match.
        suffixes: of its files, for people.
        help: a sentence.
        extra: what must be installed, as in `pip install "normcli[EXTRA]"`; "" for nothing.
        extra_for: the files that need it.
        names_only: `read` takes `names_only=True`, and then reads no pixels: one open and a header.
    """

    pattern: str
    suffixes: tuple[str, ...]
    help: str
    extra: str = ""
    extra_for: str = ""
    names_only: bool = False


# one module each: `read(source, listing)`, and its open options as a third argument where it has OPEN_OPTIONS
CONTAINERS = {
    "tar": Container(
        r"\.(tar|tar\.(gz|zst|bz2|xz)|tgz|tzst|tbz2?|txz)$",
        (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz", ".tar.xz", ".txz"),
        "Tar archives and WebDataset shards; labels from .cls and .json members, else from folders.",
        "zst",
        ".tar.zst",
    ),
    "zip": Container(r"\.zip$", (".zip",), "Zip archives; labels from folders."),
    "parquet": Container(
        r"\.(parquet|pq)$",
        (".parquet", ".pq"),
        "Tables with a column of encoded images or of paths.",
        "parquet",
        "all",
        True,
    ),
    "arrow": Container(
        r"\.arrow$", (".arrow",), "Tables as the datasets library saves them to disk, like parquet.", "parquet", "all"
    ),
    "huggingface": Container(
        r"(?!)",
        ("a folder",),
        "A folder of the datasets library: data/train-00000-of-00005.parquet, save_to_disk, metadata.csv.",
        "parquet",
        "tables",
        True,
    ),
    "npy": Container(
        r"\.np[yz]$",
        (".npy", ".npz"),
        "One array of images, or one image; .npz holds several arrays.",
        names_only=True,
    ),
    "idx": Container(
        r"([.-]idx\d?(-ubyte)?)(\.gz)?$",
        (".idx", "-idx3-ubyte", "-idx3-ubyte.gz"),
        "The array format of MNIST.",
        names_only=True,
    ),
    "file_list": Container(
        r"\.(csv|tsv|jsonl)$", (".csv", ".tsv", ".jsonl"), "Tables with a column of image paths and one of labels."
    ),
}


def container(path: str) -> str | None:
    """Return the container that a path's name stands for; None for a folder or an image.

    >>> container("s3://bucket/train-000.tar.gz"), container("photos"), container("t10k-images-idx3-ubyte.gz")
    ('tar', None, 'idx')
    """
    name = path.rsplit("/", 1)[-1].lower()
    return next((kind for kind, entry in CONTAINERS.items() if re.search(entry.pattern, name)), None)


def kind_of(source: str) -> str:
    """Return the name of the module that reads a source: a container, or "folder", which a single file is as well."""
    kind = container(source)
    if not is_remote(source) and os.path.isdir(source):  # noqa: PTH112
        from normcli.sources import huggingface

        return "huggingface" if huggingface.is_dataset(source) else "folder"
    return "folder" if kind is None else kind


def is_stream(source: str) -> bool:
    """Return whether listing a source reads all of it: its members come by in a compressed or remote stream.

    >>> [is_stream(name) for name in ("a.tar", "a.tar.gz", "s3://bucket/a.tar", "a.parquet", "a.npz", "photos")]
    [False, True, True, True, True, False]
    """
    kind = kind_of(source)
    if kind == "tar" and is_remote(source):
        return True
    plain = source.lower().endswith((".tar", ".npy", ".idx", "-ubyte"))
    return kind in ("parquet", "arrow", "huggingface") or (kind in ("tar", "npy", "idx") and not plain)
