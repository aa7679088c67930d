"""A folder of image files, local or remote, walked in sorted order; or one file; which names are taken, or unsafe.

100,000 names took `os.scandir` 0.09 s where `Path.rglob` took 1.7 s and 70 MB. Only the names of one folder
are in memory at a time.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from normcli import storage
from normcli.errors import InputError, UsageError, shortened
from normcli.options.field import Options, as_tuple, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.containers import SkipEmpty, skip_empty_option
from normcli.sources.item import ArrayLayout, Item, Skipped, failed_item
from normcli.sources.listing import compile_patterns, container, path_below
from normcli.storage.atomic import PARTIAL
from normcli.storage.files import FileBytes

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".heic", ".heif"),
        *(".jp2", ".j2k", ".jpx", ".j2c", ".jpf"),
        *(".dcm", ".dicom"),
    }
)
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
_MAC = "macos-metadata", "metadata that macOS adds, not an image"
_TABLE = (
    "unused-table",
    "a table: its labels are not joined (as SOURCE it lists images and labels; extract an archive first)",
)
ARRAY = "not-an-image-name", "an array (--include '*.npy' reads each as one image)"
NOT_INCLUDED, EXCLUDED = ("not-included", "matches no --include"), ("excluded", "matches --exclude")
_HIDDEN = "hidden", "a hidden file (--include with its name reads it)"
_LONGEST_NAME = 4096  # of a member, which no file system exceeds; a zip has room for 2,000 names of 60 KB in 0.1 MB


class PathFilter:
    """Selects paths of a source: by suffix or `include`, and not by `exclude`."""

    def __init__(self, listing: InputOptions, source: str) -> None:
        self._source = source
        self._include = compile_patterns(as_tuple(listing.include))
        self._exclude = compile_patterns(as_tuple(listing.exclude))
        # hidden files are passed over unless a pattern names them
        self._with_hidden = any("/." in f"/{glob}" for glob in as_tuple(listing.include))

    def folder_reason(self, name: str) -> tuple[str, str] | None:
        """Return reason and message for a folder that is not walked: hidden, or of the system; None for others."""
        if name in SYSTEM_FOLDERS:
            return _MAC if name == "__MACOSX" else ("system-folder", "a folder of the system, not of the dataset")
        if name.startswith(".") and not self._with_hidden:
            return "hidden", "a hidden folder (--include with its name, such as '.hidden/*', reads it)"
        return None

    def excluded(self, path: str) -> bool:
        """Return True if `exclude` matches a path."""
        return self._exclude is not None and self._exclude(path_below(self._source, path)) is not None

    def named_reason(self, path: str) -> tuple[str, str] | None:
        """Return reason and message for a file that is named itself, with any suffix; None for one that is selected."""
        if self._include is not None and self._include(path_below(self._source, path)) is None:
            return NOT_INCLUDED
        return EXCLUDED if self.excluded(path) else None

    def reject_reason(self, path: str, name: str) -> tuple[str, str] | None:
        """Return reason and message for a path that is not selected; None for one that is."""
        if name.startswith("."):
            if name.startswith("._"):
                return _MAC
            if not self._with_hidden:
                return _HIDDEN
        if self._include is None:
            if name[name.rfind(".") :].lower() not in SUFFIXES:
                if name.lower().endswith(".npy"):
                    return ARRAY
                if name.lower().endswith((".csv", ".tsv")):
                    return _TABLE
                return "not-an-image-name", "not an image extension (use --include to read it)"
        elif self._include(path_below(self._source, path)) is None:
            return NOT_INCLUDED
        if self._exclude is not None and self.excluded(path):
            return EXCLUDED
        return None

    def member(self, archive: str, name: str) -> Item | Skipped | str:
        """Return the key of an archive's member that is selected, else the failed or skipped input to report."""
        if len(name) > _LONGEST_NAME:
            what = f"a name of {len(name):,} characters, more than {_LONGEST_NAME:,}"
            return failed_item(f"{archive}/{shortened(name)}", "unsafe-name", what)
        if is_unsafe(name):
            return failed_item(f"{archive}/{name}", "unsafe-name", "its name leads out of the archive")
        while name.startswith("./"):
            name = name[2:]
        key = f"{archive}/{name}"
        if "__MACOSX" in name or "/." in f"/{name}" or "@" in name or "$" in name:
            for folder in name.split("/")[:-1]:
                if (rejected := self.folder_reason(folder)) is not None:
                    return Skipped(key, *rejected)
        rejected = self.reject_reason(key, name[name.rfind("/") + 1 :])
        return key if rejected is None else Skipped(key, *rejected)


def is_unsafe(name: str) -> bool:
    r"""Return True if a member's name is absolute, leads out of its archive, or is empty.

    >>> [is_unsafe(n) for n in ("a/b.jpg", "./a..b/c.jpg", "/etc/passwd", "a/../../b.png", "C:\\x.png", "a\0.png", "")]
    [False, False, True, True, True, True, True]
    """
    if name[:1] not in ("", "/") and ".." not in name and not ("\\" in name or ":" in name or "\0" in name):
        return False  # nearly every name
    parts = re.split(r"[/\\]", name)
    return not name or parts[0] == "" or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:[/\\]", name) is not None


def folder_of(name: str) -> str | None:
    """Return the folder of a member, which is its class; None at the top.

    >>> folder_of("./train/cat/1.jpg"), folder_of("1.jpg")
    ('train/cat', None)
    """
    while name.startswith("./"):
        name = name[2:]
    return name.rpartition("/")[0] or None


_DEEPEST, _MOST_FOLDERS = 64, 100_000  # of folders on a server, which can make up new ones for ever


class FolderOptions(Options):
    """Open options of folders."""

    layout: ArrayLayout = option(
        "Axes of the .npy files that --include asks for, one image each; auto: recognized by the sizes.", "auto"
    )
    frames: str | None = option(
        "Frames of TIFF, DICOM, GIF, APNG, WebP, AVIF and MPO: first; all; or numbers, as for videos (default: first; "
        "all with axes or series)."
    )
    series: str | None = option("Series of a TIFF, such as the images of OME-TIFF: its number from 0, or all.")
    axes: str | None = option(
        "A letter for each axis of a TIFF: Y rows, X columns, C channels, others number the images (default: those of "
        "OME-TIFF and ImageJ)."
    )
    skip_empty: SkipEmpty = skip_empty_option()

    def _check(self) -> None:
        super()._check()
        if self.has_frames:
            from normcli.sources import frames

            frames.check(self)

    @property
    def has_frames(self) -> bool:
        """Return True if files may have several images."""
        return self.frames is not None or self.series is not None or self.axes is not None


OPEN_OPTIONS = FolderOptions


def read(
    source: str, listing: InputOptions, options: FolderOptions, *, group_by: str | None = None
) -> Iterator[Item | Skipped]:
    """Yield a file itself, or the images in and below a folder; `group_by` may be an axis of TIFF.

    A file that is named itself needs no known suffix. Hidden files and folders are passed over unless `include` names
    them; an .npy that it names is one image.
    """
    paths = PathFilter(listing, source)
    limit = parse_size("max_file_size", listing.max_file_size)
    if storage.is_remote(source):
        yield from _read_remote(source, paths, limit, options, group_by)
        return
    if not os.path.isdir(source):  # noqa: PTH112
        if (unused := paths.named_reason(source)) is not None:
            yield Skipped(source, *unused)
        else:
            label = os.path.basename(os.path.dirname(source)) or None  # noqa: PTH119, PTH120
            yield from _items(source, FileBytes(source, limit), label, options, group_by)
        return
    root = os.path.normpath(source)
    name = os.path.basename(os.path.abspath(root))  # noqa: PTH100, PTH119
    seen: set[tuple[int, int]] = set()
    has_others = options.has_frames or bool(as_tuple(listing.include))  # frames, or arrays that `include` names
    stack = [(source, name)]
    while stack:
        folder, label = stack.pop()
        if listing.follow_symlinks:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                yield Skipped(folder, "link-loop", "the same folder was reached before")
                continue
            seen.add((status.st_dev, status.st_ino))
        try:
            files, folders, others = _names(folder, listing.follow_symlinks)
        except OSError as error:
            yield failed_item(folder, "unreadable", f"cannot list the folder: {(error.strerror or str(error)).lower()}")
            continue
        above = os.path.join(folder, "")  # noqa: PTH118
        for file in files:
            path = above + file
            rejected = paths.reject_reason(path, file)
            if rejected:
                yield Skipped(path, *_or_container(rejected, path, file))
            elif has_others:
                yield from _items(path, FileBytes(path, limit), label, options, group_by)
            else:
                yield Item(path, FileBytes(path, limit), label)
        for other, reason, message in others:
            path = os.path.join(folder, other)  # noqa: PTH118
            if reason == "folder-link":
                yield Skipped(path, reason, message)
            elif rejected := paths.reject_reason(path, other):
                yield Skipped(path, *rejected)
            else:
                yield failed_item(path, reason, message)
        for inner in folders:
            if rejected := paths.folder_reason(inner):
                yield Skipped(os.path.join(folder, inner), *rejected)  # noqa: PTH118
        for inner in reversed(folders):
            if paths.folder_reason(inner):
                continue
            below = inner if folder == source else f"{label}/{inner}"
            stack.append((os.path.join(folder, inner), below))  # noqa: PTH118


def _names(folder: str, follow: bool) -> tuple[list[str], list[str], list[tuple[str, str, str]]]:
    """Return sorted names of files, of folders to walk, and of everything else."""
    files, folders, others = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(PARTIAL):
                continue  # an unfinished output of normcli, or left by a run that was killed
            kind = _kind(entry, follow)
            if kind is None:
                files.append(name)
            elif kind == ("folder", ""):
                folders.append(name)
            else:
                others.append((name, *kind))
    return sorted(files), sorted(folders), sorted(others)


_CONTAINERS = ("tar", "zip", "parquet", "arrow", "npy", "video", "nifti", "hdf5")
_KINDS = {"video": "a video", "nifti": "a volume", "hdf5": "an HDF5 file"}


def _or_container(rejected: tuple[str, str], path: str, name: str) -> tuple[str, str]:
    """Return reason and message for a path that is not selected; a container has its own."""
    if rejected[0] == "not-an-image-name" and container(name) in _CONTAINERS:
        if name.lower().endswith(".npy"):
            return rejected
        kind = _KINDS.get(container(name) or "", "an archive or table")
        return "container", f"{kind} in a folder is not read: to read all of them, use {_files_like(path)} as SOURCE"
    return rejected


def _items(
    path: str, load: FileBytes, label: str | None, options: FolderOptions, group_by: str | None
) -> Iterator[Item]:
    """Yield a file, or its frames; an .npy is one image."""
    if path[-4:].lower() == ".npy":
        from normcli.sources import npy  # 5 ms that photographs do not need

        if options.axes is not None:
            raise UsageError("`open_options` axes: an .npy in a folder is one image (-O layout=hwc, chw or hw)")
        yield Item(path, npy.ArrayMember(load, path, options.layout), label)
    elif options.has_frames:
        from normcli.sources import frames

        yield from frames.read_frames(path, load, label, options, group_by)
    else:
        yield Item(path, load, label)


def _files_like(path: str) -> str:
    """Return the glob of the files in a folder with the suffix of one of them, quoted for the shell."""
    import shlex

    folder, name = os.path.split(path)
    suffix = name[name.find(".") :]
    return shlex.quote(os.path.join(folder, f"*{suffix}"))  # noqa: PTH118


def _kind(entry: os.DirEntry[str], follow: bool) -> tuple[str, str] | None:
    """Return None for a file, "folder" for a folder to walk, else reason and message."""
    try:
        if entry.is_file():
            return None
        if entry.is_dir(follow_symlinks=follow):
            return "folder", ""
        if entry.is_dir():
            return "folder-link", "a link to a folder (--follow-symlinks walks it)"
        if entry.is_symlink():
            return "missing", "a link that leads nowhere, or to no regular file"
        return "not-a-file", f"{storage.file_kind(entry.stat(follow_symlinks=False).st_mode)}, not a regular file"
    except OSError as error:  # a link to itself
        return "unreadable", (error.strerror or str(error)).lower()


def _read_remote(
    source: str, paths: PathFilter, limit: int | None, options: FolderOptions, group_by: str | None
) -> Iterator[Item | Skipped]:
    """Yield the items of a folder on a server, whose names are in memory while it is walked."""
    from normcli.storage import remote

    if not remote.is_folder(source):
        if (unused := paths.named_reason(source)) is not None:
            yield Skipped(source, *unused)
        else:
            label = source.rsplit("/", 2)[-2] or None
            yield from _items(source, FileBytes(source, limit), label, options, group_by)
        return
    root = source.rstrip("/")
    stack = [_RemoteFolder(source, root.rpartition("/")[2])]
    walked = 0
    while stack:
        folder = stack.pop()
        walked += 1
        inner = []
        try:
            if walked > _MOST_FOLDERS or folder.depth > _DEEPEST:
                raise InputError(
                    "link-loop", f"too many folders: more than {_DEEPEST} levels, or {_MOST_FOLDERS} folders"
                )
            names = []
            for entry in remote.entries(folder.path):
                name = entry.path.rstrip("/").rpartition("/")[2]
                names.append(name)
                if entry.folder and (rejected := paths.folder_reason(name)):
                    yield Skipped(entry.path, *rejected)
                elif entry.folder:
                    label = name if folder.path == source else f"{folder.label}/{name}"
                    inner.append(_RemoteFolder(entry.path, label, folder.depth + 1))
                elif rejected := paths.reject_reason(entry.path, name):
                    yield Skipped(entry.path, *_or_container(rejected, entry.path, name))
                else:
                    load = FileBytes(entry.path, limit, entry.fingerprint)
                    yield from _items(entry.path, load, folder.label, options, group_by)
            if inner and folder.above[-2:] == (names, names):
                raise InputError(
                    "link-loop", "lists the same names as the two folders above it, so it probably links to itself"
                )
            stack += (below._replace(above=(*folder.above[-1:], names)) for below in reversed(inner))
        except InputError as error:
            yield failed_item(folder.path, error.reason, error.message)
            if walked > _MOST_FOLDERS:
                return


class _RemoteFolder(NamedTuple):
    """A folder to walk: its address, its label, its depth, and the names in the two folders above it."""

    path: str
    label: str
    depth: int = 0
    above: tuple[list[str], ...] = ()


def size(source: str) -> int | None:
    """Return the number of files in and below a folder, of any kind; None for anything but a local folder.

    100,000 names take 0.1 s.
    """
    if not os.path.isdir(source):  # noqa: PTH112
        return None
    return sum(len(files) for _, _, files in os.walk(source))
