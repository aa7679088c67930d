"""The table of containers, and the open option that several of them have."""

from typing import Any, Literal, NamedTuple

from normcli.options.field import option

SkipEmpty = Literal["no", "yes"]


def skip_empty_option() -> Any:
    """Return the open option of containers that may have planes without content."""
    return option("yes: leave out images whose samples are all 0, and count them as skipped.", "no")


class Container(NamedTuple):
    """One kind of file that holds many images.

    Attributes:
        pattern: regular expression that the names of its files match.
        suffixes: of its files, for people.
        help: a sentence.
        extra: the extra that it needs, as in `pip install "normcli[EXTRA]"`; "" for none.
        extra_for: the files that need it.
        names_only: `read` takes `names_only=True`, and then reads no pixels: one open and a header.
        groups: `read` takes `group_by`, which may be the column that has the groups.
        axes: `read` takes `group_by`, which may be an axis.
    """

    pattern: str
    suffixes: tuple[str, ...]
    help: str
    extra: str = ""
    extra_for: str = ""
    names_only: bool = False
    groups: bool = False
    axes: bool = False


# one module each: `read(source, listing)`, and its open options as a third argument where it has OPEN_OPTIONS
CONTAINERS = {
    "tar": Container(
        r"\.(tar|tar\.(gz|zst|bz2|xz)|tgz|tzst|tbz2?|txz)$",
        (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz", ".tar.xz", ".txz"),
        "Tar archives and WebDataset shards; labels from .cls and .json members, else from folders.",
        "zst",
        ".tar.zst",
    ),
    "zip": Container(r"(?<!\.zarr)\.zip$", (".zip",), "Zip archives; labels from folders."),
    "parquet": Container(
        r"\.(parquet|pq)$",
        (".parquet", ".pq"),
        "Tables with a column of encoded images or of paths, or columns of numbers (-O columns=action).",
        "parquet",
        "all",
        names_only=True,
        groups=True,
    ),
    "arrow": Container(
        r"\.(arrows?|feather|ipc)$",
        (".arrow", ".arrows", ".feather", ".ipc"),
        "Arrow files and streams, as the datasets library saves them to disk: like parquet.",
        "parquet",
        "all",
        groups=True,
    ),
    "huggingface": Container(
        r"(?!)",
        ("a folder",),
        "A folder of the datasets library: data/train-00000-of-00005.parquet, save_to_disk, metadata.csv.",
        "parquet",
        "tables",
        names_only=True,
        groups=True,
    ),
    "lerobot": Container(
        r"(?!)",
        ("a folder",),
        "A folder of LeRobot, v2.x or v3: vectors by feature, or the pictures of one camera.",
        "parquet",
        "all",
        names_only=True,
        groups=True,
    ),
    "npy": Container(
        r"\.np[yz]$",
        (".npy", ".npz"),
        "One array of images, or one image; .npz holds several arrays; -O layout=nc reads rows of numbers.",
        names_only=True,
        axes=True,
    ),
    "idx": Container(
        r"([.-]idx\d?(-ubyte)?)(\.gz)?$",
        (".idx", "-idx3-ubyte", "-idx3-ubyte.gz"),
        "The array format of MNIST.",
        names_only=True,
    ),
    "video": Container(
        r"\.(mp4|m4v|mov|mkv|webm|avi)$",
        (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
        "Videos: every frame, every N-th or some, converted to RGB; labels are the names of the files.",
        "video",
        "all",
    ),
    "hdf5": Container(
        r"\.(h5|hdf5|he5|nc|nc4)$",
        (".h5", ".hdf5", ".he5", ".nc", ".nc4"),
        "HDF5 and NetCDF4: the planes of one dataset, with the fill values, scale and offset of CF.",
        "hdf5",
        "all",
        axes=True,
    ),
    "zarr": Container(
        r"\.zarr(\.zip)?$|\.ozx$",
        (".zarr", ".zarr.zip", ".ozx"),
        "Zarr 2 and 3, folders and zips: the planes of one array, or level 0 of the images of OME-Zarr.",
        "zarr",
        "all",
        axes=True,
    ),
    "nifti": Container(
        r"\.(nii|hdr|img)(\.gz)?$",
        (".nii", ".nii.gz", ".hdr", ".img"),
        "Volumes of NIfTI and Analyze: each plane of the first two axes is an image; labels are names of files.",
        "medical",
        "all",
        names_only=True,
        axes=True,
    ),
    "python": Container(
        r"(?!)",
        ("python:MODULE:NAME",),
        "A dataset, an iterable or what returns one, by its import string; the module's code is run.",
    ),
    "file_list": Container(
        r"\.(csv|tsv|jsonl)$",
        (".csv", ".tsv", ".jsonl"),
        "Tables with a column of image paths and one of labels, or columns of numbers (-O columns=x,y).",
        groups=True,
    ),
}
