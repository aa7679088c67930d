"""Invalid pixels by a mask image per image."""

import io
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from normcli import images, storage
from normcli.errors import InputError, UsageError
from normcli.images import Decoded
from normcli.images.orientation import as_stored, upright
from normcli.options.shared import DecodeOptions

_LOSSY = ("JPEG", "WEBP", "AVIF")
_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
_IN_VOLUME = re.compile(r"\.(nii|img|hdr)(\.gz)?(/|$)", re.IGNORECASE)  # keys of planes of volumes
_READING = DecodeOptions(color="native")


class PixelMask(NamedTuple):
    """The masks of a run; picklable.

    Attributes:
        folder: of masks, laid out as the images are.
        roots: folders that were named as sources; a mask's path starts where they end.
        labels: values of a mask that make a pixel valid: ">N", or a list; None is everything but 0.
        counting: planes of volumes without a label are left out, since nothing of them counts.
    """

    folder: str
    roots: tuple[str, ...] = ()
    labels: str | None = None
    counting: bool = False

    @classmethod
    def of(cls, folder: Any, labels: Any, sources: Iterable[str], *, counting: bool = False) -> "PixelMask":
        """Return the masks of the options.

        Raises:
            UsageError: the folder does not exist.
        """
        path = os.fsdecode(folder)
        if not os.path.isdir(path):  # noqa: PTH112
            raise UsageError(f"`mask_dir`: {path} does not exist")
        roots = sorted((os.path.normpath(s) for s in sources if os.path.isdir(s)), key=len, reverse=True)  # noqa: PTH112
        return cls(path, tuple(roots), labels, counting)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the statistics file records, without the folder of the masks."""
        return {"mask": True, **({} if self.labels is None else {"labels": self.labels})}

    def apply(self, key: str, image: Decoded, reading: DecodeOptions) -> None:
        """Make the pixels of an image that its mask leaves out invalid in every channel.

        Args:
            key: of the image.
            image: decoded by the options; changed in place.
            reading: the options: their geometry applies to the mask, too.

        Raises:
            InputError: no mask, or of another size; `label_volumes.UNLABELED` for a plane to leave out.
        """
        plane = self._mask_of_volume(key, image) if _IN_VOLUME.search(key) else self._mask(key, image)
        if reading.has_geometry:
            from normcli.images.geometry import apply_to_mask

            plane = apply_to_mask(plane, image.turned, reading)
        of_all = np.broadcast_to(plane[:, :, None], image.shape)
        image.valid = of_all if image.valid is None else image.valid & of_all

    def version(self, key: str) -> str:
        """Return the version of an image's mask; "" if there is none, or it has no version yet."""
        try:
            path = self._path(key)
        except InputError:
            return ""
        version = storage.version(path)
        return f"{path}:{version}" if version else ""

    def _mask_of_volume(self, key: str, image: Decoded) -> np.ndarray[Any, Any]:
        """Return the pixels (H,W) of a plane of a volume that its labels make valid."""
        from normcli.runs import label_volumes

        place = label_volumes.split_key(key)
        if place is None:
            return self._mask(key, image)
        plane = label_volumes.mask_of_plane(*place, self._path(key), self.labels)
        if self.counting and not plane.any():
            raise InputError(label_volumes.UNLABELED, "no voxel of this plane has a label to count")
        return plane

    def _mask(self, key: str, image: Decoded) -> np.ndarray[Any, Any]:
        """Return the pixels (H,W) of the stored image that its mask makes valid; note assumptions in the image."""
        path = self._path(key)
        try:
            data = storage.read(path)
            mask = images.decode(data, _READING)
        except InputError as error:
            raise InputError("mask", f"its mask {path}: {error}") from None
        plane = _valid(mask, path, image.notes) if self.labels is None else _labeled(mask, data, path, self.labels)
        plane = plane[:, :, None]
        width, height = image.stored_size if image.turned < 5 else image.stored_size[::-1]
        orientation = image.orientation if image.turned == 1 else image.turned
        if orientation != mask.orientation:  # drawn on the picture as it is seen, as far as the sizes allow
            turned = as_stored(upright(plane, mask.orientation), orientation)
            if turned.shape[:2] == (height, width):
                image.notes.append("turned-mask")
                plane = turned
        if plane.shape[:2] != (height, width):
            raise InputError("mask", f"its mask {path} is {plane.shape[1]} x {plane.shape[0]}, not {width} x {height}")
        return np.asarray(plane[:, :, 0])

    def _path(self, key: str) -> str:
        """Return the path of an image's mask: the same path in the mask folder, with any usual suffix.

        Raises:
            InputError: there is none.
        """
        volume = None
        if _IN_VOLUME.search(key):
            from normcli.runs import label_volumes

            volume = label_volumes.split_key(key)
        name = os.path.normpath(key if volume is None else volume[0])
        root = next((root for root in self.roots if name.startswith(root + os.sep)), None)
        inside = name[len(root) + 1 :] if root is not None else os.path.basename(name)  # noqa: PTH119
        if volume is not None:
            return label_volumes.find_labels(self.folder, inside)
        stem = os.path.join(self.folder, os.path.splitext(inside)[0])  # noqa: PTH118, PTH122
        own = os.path.splitext(inside)[1]  # noqa: PTH122
        for suffix in (*_SUFFIXES, own):
            if os.path.isfile(stem + suffix):  # noqa: PTH113
                return stem + suffix
        raise InputError("mask", f"no mask {stem}.png")


def _labeled(mask: Decoded, data: bytes, path: str, labels: str) -> np.ndarray[Any, Any]:
    """Return True (H,W) where a mask has one of the labels: its stored values, of a palette the indices.

    Raises:
        InputError: a lossy format, several channels, or a palette that Pillow reads no indices of.
    """
    if mask.format in _LOSSY:
        raise InputError("mask", f"its mask {path} is a {mask.format}, which has no exact labels: save masks as PNG")
    levels = mask.pixels
    if mask.mode == "P":
        from PIL import Image  # 6 ms, which runs without masks do without

        with Image.open(io.BytesIO(data)) as opened:
            levels = np.asarray(opened)[:, :, None]
    elif levels.dtype.kind == "u":
        from normcli.images.nodata import stored_levels

        white, scale = stored_levels(mask)
        levels = levels // levels.dtype.type(scale)
        levels = white - levels if mask.white_is_zero else levels
    if levels.shape[2] != 1 or levels.shape[:2] != mask.pixels.shape[:2]:
        raise InputError("mask", f"its mask {path} has {levels.shape[2]} channels, and labels require one")
    if labels.startswith(">"):
        return np.asarray(levels[:, :, 0] > int(labels[1:]))
    return np.isin(levels[:, :, 0], [int(label) for label in labels.split(",")])


def _valid(mask: Decoded, path: str, notes: list[str]) -> np.ndarray[Any, Any]:
    """Return True (H,W) where a mask is not zero; in a format whose compression changes values, where it is half white.

    Raises:
        InputError: a lossy mask without a bright pixel.
    """
    pixels = mask.pixels
    if mask.format not in _LOSSY or not ((pixels > 0) & (pixels < 255)).any():
        return np.asarray(pixels.any(axis=2))
    notes.append("lossy-mask")
    bright = np.asarray((pixels >= 128).any(axis=2))
    if not bright.any():
        raise InputError(
            "mask", f"its mask {path} is a {mask.format} of values up to {int(pixels.max())}: save masks as PNG"
        )
    return bright
