"""Tar archives and WebDataset shards, plain or compressed by gzip, zstd, bzip2 or xz.

A member of a plain local tar is a span that the worker reads; a compressed or remote tar is read once, in order,
by one reader.
"""

import json
import logging
import re

from normcli.errors import InputError, UsageError
from normcli.options.field import Options, as_tuple, option, parse_size
from normcli.options.shared import InputOptions
from normcli.sources.folder import PathFilter, folder_of
from normcli.sources.item import ArrayLayout, FailingSource, Item, Items, Skipped, failed_item
from normcli.sources.tar_headers import Blocks, TarMember, Windows, walk_members
from normcli.storage import is_remote
from normcli.storage.files import ByteRange, InMemory
from normcli.storage.reader import Reader, Stream

log = logging.getLogger("normcli.sources")

_LARGEST_MEMBER = 1 << 30  # of a stream, whose members are held; --max-file-size sets another
_LARGEST_LABEL = 1 << 20
_ALWAYS_OF_A_SAMPLE, _MOST_OF_A_SAMPLE = 64, 4096  # members that wait for its label
_MOST_BYTES_OF_A_SAMPLE = 64 << 20  # of them in a stream
_LABELS = (".cls", ".json")
_APART = "unused-label", "a label that is not next to its image (sort the members by name: tar --sort=name)"
_LATE = "unused-label", "a label behind so many images of its sample that they were read before (store it first)"
_NO_TEXT = "unused-label", "a label that is empty, or not UTF-8"
_NO_IMAGE = ("not-an-image-name", "not-included")  # --exclude leaves labels out as well
_KEYS = ("label", "class", "cls", "class_name", "class_id", "target")
_KINDS = {b"2": "a symbolic link", b"3": "a character device", b"4": "a block device", b"6": "a FIFO"}


class TarOptions(Options):
    """Open options of tar archives."""

    layout: ArrayLayout = option(
        "Axes of the .npy members that --include asks for, one image each; auto: recognized by the sizes.", "auto"
    )


OPEN_OPTIONS = TarOptions


def read(source: str, listing: InputOptions, options: TarOptions) -> Items:
    """Yield the images in a tar; members of one WebDataset sample share its label.

    Raises:
        InputError: the archive cannot be read, is no tar, or is cut short: after what came before.
    """
    with Reader(source) as reader:
        streamed = is_remote(source) or reader.compression() is not None
        blocks = Stream(reader) if streamed else Windows(reader)
        yield from _samples(source, blocks, None if streamed else reader, listing, options.layout)


def _samples(source: str, blocks: Blocks, reader: Reader | None, listing: InputOptions, layout: ArrayLayout) -> Items:
    """Yield the items, those of a sample after its label is known: `dir/0007.jpg`, `dir/0007.cls`."""
    paths = PathFilter(listing, source)
    limit = parse_size("max_file_size", listing.max_file_size)
    key_of_sample, items, labels, label = "", list[Item](), list[tuple[Skipped, str | None]](), None
    waiting, is_partial = 0, False  # bytes of the items; True where images of the sample were yielded before its end

    warned: list[str] = []

    def sample() -> Items:
        if len(items) > 1 and not as_tuple(listing.include):
            note = _check_one_image(source, items)
            if note and not warned:
                warned.append(note)
                log.warning("%s", note)
        for item in items:
            yield item if label is None else item._replace(label=label)
        if not items and not is_partial:  # no image that they describe
            yield from (
                entry if text is None else entry._replace(reason=_APART[0], message=_APART[1]) for entry, text in labels
            )

    try:
        for member in walk_members(blocks):
            folder, slash, name = member.name.rpartition("/")
            key = folder + slash + name.partition(".")[0]
            if key != key_of_sample:
                yield from sample()
                key_of_sample, items, labels, label, waiting, is_partial = key, [], [], None, 0, False
            elif _is_full(len(items) + len(labels), waiting):  # its label is that of the images that follow, too
                yield from sample()
                items, labels, waiting, is_partial = [], [], 0, is_partial or bool(items)
            entry = _item(source, member, blocks, reader, paths, limit)
            if isinstance(entry, Item):
                if name.endswith(".npy") and not isinstance(entry.load, FailingSource):  # asked for by --include
                    from normcli.sources import npy  # 5 ms that photographs do not need

                    entry = entry._replace(load=npy.ArrayMember(entry.load, entry.key, layout))
                items.append(entry)
                waiting += getattr(entry.load, "memory_bytes", 0)
            elif isinstance(entry, Skipped):
                suffix = name[name.rfind(".") :] if "." in name else ""
                if suffix in _LABELS and entry.reason in _NO_IMAGE and member.size <= _LARGEST_LABEL:
                    text = _label(blocks.at(member.offset, member.size), suffix)
                    if text is None and suffix == ".cls":
                        yield Skipped(entry.key, *_NO_TEXT)
                    elif text and text != label and is_partial:
                        yield Skipped(entry.key, *_LATE)
                    else:
                        labels.append((entry, text))
                    label = text or label
                else:
                    yield entry
    except InputError:  # what was complete before the damage counts
        yield from sample()
        raise
    yield from sample()


def _is_full(count: int, size: int) -> bool:
    """Return True for so many members of a sample, and bytes that they hold, that no more wait for its label."""
    return count >= _ALWAYS_OF_A_SAMPLE and (count >= _MOST_OF_A_SAMPLE or size >= _MOST_BYTES_OF_A_SAMPLE)


def _check_one_image(source: str, items: list[Item]) -> str | None:
    """Check that the images of a sample are of one kind, such as views 0 and 1, not a photograph and its depth.

    Returns:
        A warning where only their formats differ, as in an archive of `a.jpg` and `a.png`; None for one kind.

    Raises:
        UsageError: they are of several, such as rgb.png and depth.png.
    """
    suffixes = [item.key.rpartition("/")[2].partition(".")[2] for item in items]
    kinds = {re.sub(r"\d+", "", suffix.lower()) for suffix in suffixes}
    if len(kinds) < 2:
        return None
    name = items[0].key.rpartition("/")[2].partition(".")[0]
    hints = " or ".join(f"--include '*.{suffix}'" for suffix in suffixes[:3])
    what = f"{source}: sample {name} holds images {', '.join(suffixes[:6])}"
    if any("." in kind for kind in kinds):
        raise UsageError(f"{what}: choose one ({hints})")
    return f"{what}: all are read ({hints} takes one)"


def _item(
    source: str,
    member: TarMember,
    blocks: Blocks,
    reader: Reader | None,
    paths: PathFilter,
    limit: int | None,
) -> Item | Skipped | None:
    name, kind, offset, size = member
    if kind == b"5":
        return None
    key = paths.member(source, name)
    if not isinstance(key, str):
        return key
    if kind not in (b"0", b"\0", b"7"):
        if kind in (b"1", b"2"):
            what = "a link to another member or file: archives are read without following them"
            return failed_item(key, "link", what)
        what = _KINDS.get(kind, "a sparse file or of an unknown type")
        return failed_item(key, "not-a-file", f"{what}, not a regular file")
    label = folder_of(name)
    if limit is not None and size > limit:
        return failed_item(key, "too-large", f"{size} bytes, more than the limit of {limit} (--max-file-size)")
    if reader is not None:
        if offset + size > reader.size:
            return failed_item(key, "truncated", f"the archive ends {offset + size - reader.size} bytes early")
        return Item(key, ByteRange(source, offset, size, reader.stamp), label)
    if limit is None and size > _LARGEST_MEMBER:
        return failed_item(key, "too-large", f"{size} bytes in a stream, more than 1 GiB (--max-file-size)")
    if size == 0:
        return failed_item(key, "empty", "empty file")
    try:
        data = blocks.at(offset, size)
    except InputError as error:
        if error.reason == "truncated":
            return failed_item(key, "truncated", "the archive ends inside it")
        raise
    if len(data) < size:
        return failed_item(key, "truncated", f"the archive ends {size - len(data)} bytes early")
    return Item(key, InMemory(data), label)


def _label(data: bytes, suffix: str) -> str | None:
    """Parse the class in a .cls or .json member."""
    try:
        text = data.decode()
        if suffix == ".cls":
            return text.strip() or None
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict):
        document = next((document[key] for key in _KEYS if document.get(key) is not None), None)
    return str(document) if isinstance(document, str | int) else None
