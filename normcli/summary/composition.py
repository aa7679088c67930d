"""The composition of a set of images: counted notes as nested counts."""

from collections.abc import Iterable, Mapping
from typing import Any

_ALWAYS = ("alpha", "transparent", "exif", "rotated", "icc", "multi-frame", "damaged", "depth-reduced", "cmyk")
_SOMETIMES = ("ignored-pixels", "lossy-mask", "turned-mask", "bands")


def composition_of(notes: Mapping[str, int], buckets: Iterable[Any]) -> dict[str, Any]:
    """Return the composition: a note such as "mode:RGB" becomes composition["mode"]["RGB"].

    Args:
        notes: number of images by note.
        buckets: the tally's buckets, for the number of gray and color images.
    """
    nested: dict[str, Any] = {"mode": {}, "depth": {}, "format": {}}
    for note in _ALWAYS:
        nested[note.replace("-", "_")] = notes.get(note, 0)
    for note, count in sorted(notes.items()):
        kind, colon, value = note.partition(":")
        if colon:
            nested.setdefault(kind, {})[value] = count
    buckets = list(buckets)
    nested["gray"] = sum(b.per_image.images for b in buckets if b.channels < 3)
    nested["color"] = sum(b.per_image.images for b in buckets if b.channels >= 3)
    for note in _SOMETIMES:
        if notes.get(note):
            nested[note.replace("-", "_")] = notes[note]
    nested["not_finite_pixels"] = sum(getattr(b, "not_finite", 0) for b in buckets)
    return nested
