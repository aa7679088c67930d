"""Ignored pixels: by a mask image per image, or by a value that means "no data"."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from normcli import images, storage
from normcli.errors import InputError, UsageError
from normcli.images import Decoded
from normcli.images.orientation import as_stored, upright
from normcli.options.shared import DecodeOptions

_LOSSY = ("JPEG", "WEBP", "AVIF")
_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
_READING = DecodeOptions(color="native")


@dataclass(frozen=True)
class PixelMask:
    """The pixels to ignore; picklable.

    Attributes:
        folder: of masks, laid out as the images are; a mask's zero leaves its pixel out.
        roots: folders that were named as sources; a mask's path starts where they end.
        value: pixels with this value in every channel are left out.
    """

    folder: str | None = None
    roots: tuple[str, ...] = ()
    value: float | None = None

    @classmethod
    def of(cls, folder: Any, value: float | None, sources: Iterable[str]) -> "PixelMask":
        """Return the mask of the options, at least one of which is given.

        Raises:
            UsageError: the folder does not exist.
        """
        path = None if folder is None else os.fsdecode(folder)
        if path is not None and not os.path.isdir(path):  # noqa: PTH112
            raise UsageError(f"`mask_dir`: {path} does not exist")
        roots = sorted((os.path.normpath(s) for s in sources if os.path.isdir(s)), key=len, reverse=True)  # noqa: PTH112
        return cls(path, tuple(roots), value)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the statistics file records, without the folder of the masks."""
        settings: dict[str, Any] = {}
        if self.folder is not None:
            settings["mask"] = True
        if self.value is not None:
            settings["ignore_value"] = self.value
        return settings

    def apply(self, key: str, image: Decoded) -> None:
        """Make the ignored pixels of an image invalid in every channel.

        Raises:
            InputError: no mask, or of another size.
        """
        valid: np.ndarray[Any, Any] = np.ones(image.pixels.shape[:2], bool)
        if self.folder is not None:
            valid = valid & self._mask(key, image)
        if self.value is not None:
            valid = valid & (image.pixels != self.value).any(axis=2)
        of_all = np.broadcast_to(valid[:, :, None], image.pixels.shape)
        image.valid = of_all if image.valid is None else image.valid & of_all

    def version(self, key: str) -> str:
        """Return the version of an image's mask; "" if there is none, or it has no version yet."""
        if self.folder is None:
            return "none"
        try:
            path = self._path(key)
        except InputError:
            return ""
        version = storage.version(path)
        return f"{path}:{version}" if version else ""

    def _mask(self, key: str, image: Decoded) -> np.ndarray[Any, Any]:
        """Return the pixels (H,W) of an image that its mask keeps; notes what was assumed of the mask."""
        path = self._path(key)
        try:
            mask = images.decode(storage.read(path), _READING)
        except InputError as error:
            raise InputError("mask", f"its mask {path}: {error}") from None
        plane = _valid(mask, path, image.notes)[:, :, None]
        height, width = image.pixels.shape[:2]
        if image.orientation != mask.orientation:  # drawn on the picture as it is seen, as far as the sizes allow
            turned = as_stored(upright(plane, mask.orientation), image.orientation)
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
        assert self.folder is not None
        name = os.path.normpath(key)
        root = next((root for root in self.roots if name.startswith(root + os.sep)), None)
        inside = name[len(root) + 1 :] if root is not None else os.path.basename(name)  # noqa: PTH119
        stem = os.path.join(self.folder, os.path.splitext(inside)[0])  # noqa: PTH118, PTH122
        own = os.path.splitext(inside)[1]  # noqa: PTH122
        for suffix in (*_SUFFIXES, own):
            if os.path.isfile(stem + suffix):  # noqa: PTH113
                return stem + suffix
        raise InputError("mask", f"no mask {stem}.png")


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
