"""Label volumes of NIfTI and Analyze as masks: each plane of an image is masked by the same plane of its labels."""

import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from normcli.errors import InputError
from normcli.sources.nifti import Volume, affine_of, pair_of, parse_header
from normcli.storage.reader import Reader, Stream

Array = np.ndarray[Any, Any]
UNLABELED = "unlabeled"  # reason of skipped planes
_HEADER = 540  # of NIfTI-2
_SUFFIXES = (".nii.gz", ".nii", ".img", ".img.gz", ".hdr", ".hdr.gz")
_KEY = re.compile(r"(.*[^/]\.(?:nii|img|hdr)(?:\.gz)?)((?:/\d+)*)", re.IGNORECASE | re.DOTALL)
_LARGEST_DISTANCE = 0.1  # voxels between corners by the affines of an image and of its labels, at most
_mine = threading.local()


def split_key(key: str) -> tuple[str, tuple[int, ...]] | None:
    """Return the path of a volume and the numbers of a plane, slowest axis first; None for the key of another image.

    >>> split_key("ct/case_01.nii.gz/0/17"), split_key("ct/case_01.png")
    (('ct/case_01.nii.gz', (0, 17)), None)
    """
    match = _KEY.fullmatch(key)
    return None if match is None else (match[1], tuple(int(number) for number in match[2].split("/")[1:]))


def find_labels(folder: str, inside: str) -> str:
    """Return the path of the labels of a volume: the same name, or that without nnU-Net's channel (_0000).

    Args:
        folder: of the labels.
        inside: path of the volume below its source.

    Raises:
        InputError: there are none.
    """
    stem = re.sub(r"\.(nii|img|hdr)(\.gz)?$", "", os.path.join(folder, inside), flags=re.IGNORECASE)  # noqa: PTH118
    for name in dict.fromkeys((stem, re.sub(r"_\d{4}$", "", stem))):
        for suffix in _SUFFIXES:
            if os.path.isfile(name + suffix):  # noqa: PTH113
                return name + suffix
    raise InputError("mask", f"no label volume {stem}.nii.gz")


def mask_of_plane(image: str, plane: Sequence[int], labels_path: str, labels: str | None) -> Array:
    """Return True (H,W) where a plane of an image has one of the labels.

    Args:
        image: path of the image's volume.
        plane: its numbers on the axes above the second, slowest first.
        labels_path: path of the label volume.
        labels: ">N", or a list of values; None is everything but 0.

    Raises:
        InputError: labels of another shape or affine, damaged, or not integers.
    """
    try:
        status = os.stat(labels_path)  # noqa: PTH116
        key = image, labels_path, status.st_ino, status.st_size, status.st_mtime_ns
        opened: _OpenLabels | None = getattr(_mine, "labels", None)
        if opened is None or opened.key != key:
            _mine.labels = opened = _OpenLabels(key)
        values = opened.plane(plane)
    except OSError as error:
        raise InputError("mask", f"label volume {labels_path}: {(error.strerror or str(error)).lower()}") from None
    except InputError as error:
        _mine.labels = None
        raise InputError("mask", f"label volume {labels_path}: {error}") from None
    if labels is None:
        return np.asarray(values != 0)
    if labels.startswith(">"):
        return np.asarray(values > int(labels[1:]))
    return np.isin(values, [int(label) for label in labels.split(",")])


class _Header(NamedTuple):
    volume: Volume
    is_single: bool
    affine: Array


class _OpenLabels:
    """An open label volume for one thread: planes are read in order, and any other order reads it anew.

    Args:
        key: paths of the image and of the labels, and inode, size and time of the labels.

    Raises:
        InputError: labels of another shape or affine, or damaged.
    """

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self._reader: Reader | None = None
        image, header = _header(key[0]), _header(key[1])
        self._volume = volume = header.volume
        axes, ours = _without_ones(volume.axes), _without_ones(image.volume.axes)
        if volume.shape != image.volume.shape[:2] or axes != ours[: len(axes)] or (ours and not axes):
            sizes = " and ".join(_shape_text(one.volume) for one in (header, image))
            raise InputError("mask", f"its shape is not that of the image: {sizes}")
        if (apart := _corner_distance(image, header)) > _LARGEST_DISTANCE:
            raise InputError(
                "mask",
                f"its affine is not that of the image: corners are {apart:.3g} voxels apart (resample it)",
            )
        self._reader = Reader(pair_of(key[1])[1])
        self._stream: Stream | None = None
        self._next = 0

    def __del__(self) -> None:
        if self._reader is not None:
            with suppress(OSError, AttributeError):
                self._reader.close()

    def plane(self, numbers: Sequence[int]) -> Array:
        """Return the labels (H,W) of a plane of the image; an axis that only the image has shares them.

        Raises:
            InputError: cut short, or values that are not integers.
        """
        assert self._reader is not None
        volume, index = self._volume, 0
        axes = _without_ones(volume.axes)
        for number, length in zip(numbers[len(numbers) - len(axes) :], reversed(axes), strict=True):
            index = index * length + number
        offset = volume.start + index * volume.plane_bytes
        if self._reader.compression() is None:
            data = self._reader.at(offset, volume.plane_bytes)
        else:
            if self._stream is None or offset < self._next:
                claimed = volume.start + prod(volume.axes) * volume.plane_bytes  # labels are zeros, for the most part
                self._stream = Stream(self._reader, harmless=claimed)
            data, self._next = self._stream.at(offset, volume.plane_bytes), offset + volume.plane_bytes
        if len(data) < volume.plane_bytes:
            raise InputError("truncated", "the file is cut short")
        values = np.frombuffer(data, volume.dtype).reshape(volume.shape)
        factor, shift = volume.tags.scale
        if values.dtype.kind == "f" or (factor, shift) != (1.0, 0.0):
            scaled = values * factor + shift
            values = np.rint(scaled)
            if not (np.abs(scaled - values) < 1e-3).all():
                raise InputError("mask", "its values are not integers")
        return values


def _header(path: str) -> _Header:
    with Reader(pair_of(path)[0]) as reader:
        data = (Stream(reader) if reader.compression() else reader).at(0, _HEADER)
    return _Header(*parse_header(data), affine_of(data))


def _without_ones(axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return lengths of axes without those of 1 at the end: a volume may have a fourth axis of one time."""
    while axes and axes[-1] == 1:
        axes = axes[:-1]
    return axes


def _shape_text(volume: Volume) -> str:
    return " x ".join(map(str, (volume.shape[1], volume.shape[0], *volume.axes)))


def _corner_distance(image: _Header, labels: _Header) -> float:
    """Return the largest distance of a corner of the volume by two affines, in voxels of the image."""
    sides = (image.volume.shape[1], image.volume.shape[0], *(image.volume.axes or (1,)))[:3]
    corners = np.array([[*corner, 1.0] for corner in product(*((0, side - 1) for side in sides))])
    distances = np.linalg.norm((corners @ (image.affine - labels.affine).T)[:, :3], axis=1)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    return float(distances.max() / max(spacing[spacing > 0].min(initial=np.inf), 1e-12)) if spacing.any() else 0.0
